//! Children of an auto-reaped process, and the reuse of the pid of one that is gone.

use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::process::child_reporting;
use clone3_conformance::kit::sigchld::Reaction;
use clone3_conformance::kit::{namespace, sigchld, subject};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::signal::SaFlags;

/// Returns what waitpid returns for an ordinary child of the caller that has ended, with this reaction to SIGCHLD: its
/// status, or an errno.
fn waited_for_with(reaction: Reaction, flags: SaFlags) -> Result<std::result::Result<Option<Status>, i32>> {
    sigchld::react(reaction, flags)?;
    let child = Clone3::fork().spawn(|| 3)?;
    let found = wait::waitpid(child.pid(), libc::__WALL);
    Ok(found.map(|found| found.map(|(_, status)| status)).map_err(|errno| errno as i32))
}

case! {
    /// If an auto-reaped process ignores SIGCHLD or sets SA_NOCLDWAIT, its ordinary children leave no zombies, as for any process;
    /// otherwise they do.
    autoreap_process_ignores_sigchld: Must, needs [Autoreap],
    source "sigaction(2), SA_NOCLDWAIT; wait(2) (SIGCHLD set to SIG_IGN); kernel/signal.c do_notify_parent()",
}
fn autoreap_process_ignores_sigchld() -> Result {
    let (zombie, none) = (Ok(Some(Status::exited(3))), Err(Errno::ECHILD));
    let reactions = [
        (Reaction::Default, SaFlags::empty(), zombie),
        (Reaction::Ignore, SaFlags::empty(), none),
        (Reaction::Default, SaFlags::SA_NOCLDWAIT, none),
    ];
    subject::each(|call| {
        for (reaction, flags, expected) in reactions {
            let (child, found) = child_reporting(&call, || waited_for_with(reaction, flags))?;
            let what = format!(
                "waitpid for an ordinary child of a child of {call}, with SIGCHLD {reaction:?}, {flags:?}"
            );
            check::equal(what, found.map_err(Errno::from_raw), expected)?;
            subject::wait_until_gone(&child)?;
        }
        Ok(())
    })
}

/// Number of successive children whose pids are compared.
const CHILDREN: usize = 12;

case! {
    /// The next process does not get the pid of an auto-reaped child that is gone: pids go up, as with ordinary children.
    autoreap_pid_not_reused_at_once: Is, needs [Autoreap, ExitInfo, PidNamespace],
    source "kernel/pid.c alloc_pid() (idr_alloc_cyclic())",
}
fn autoreap_pid_not_reused_at_once() -> Result {
    subject::each(|call| {
        let numbers = namespace::as_init(|| {
            let mut numbers = Vec::new();
            for _ in 0..CHILDREN {
                let child = call.spawn(|| 0)?;
                numbers.push(child.pid());
                subject::wait_until_gone(&child)?;
            }
            Ok(numbers)
        })?;
        let rising = numbers.is_sorted_by(|one, next| one < next);
        check::holds(rising, format_args!("expected rising numbers of children of {call}, got {numbers:?}"))
    })
}
