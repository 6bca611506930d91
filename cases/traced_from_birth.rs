//! A child that is traced from birth because its creator is: it is traced in the same way, auto-reaped or not.

use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::{Creator, subject, tracer};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::ptrace::Options;
use nix::sys::signal::Signal;

/// Traces the creator of one child with these options until no tracee is left. Checks that the creator has waited for the
/// child, and returns all statuses that the child reported.
fn told_of_child(creator: &Creator, options: Options) -> Result<Vec<Status>> {
    tracer::seize(creator.pid(), options)?;
    creator.let_go()?;
    let (mut told, mut last) = (Vec::new(), None);
    loop {
        let (pid, status) = match wait::waitpid(-1, libc::__WALL) {
            Ok(Some(news)) => news,
            Ok(None) | Err(Errno::ECHILD) => break,
            Err(errno) => return Err(errno.into()),
        };
        match pid == creator.pid() {
            true => last = Some(status),
            false => told.push(status),
        }
        if let Some((signal, event)) = status.stop() {
            tracer::go_on(pid, (event == 0).then_some(signal))?;
        }
    }
    check::equal("the last status of the creator, which is traced", last, Some(Status::exited(0)))?;
    creator.report_when_gone()?;
    Ok(told)
}

case! {
    /// A child traced through PTRACE_O_TRACECLONE or PTRACE_O_TRACEFORK by a tracer that used PTRACE_SEIZE starts in
    /// PTRACE_EVENT_STOP, not with SIGSTOP, and has its creator's options: with PTRACE_O_TRACEEXIT its own exit is a
    /// PTRACE_EVENT_EXIT. Auto-reaped or not.
    autoreap_ptrace_followed_as_creator: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2), PTRACE_O_TRACECLONE, PTRACE_EVENT_STOP; include/linux/ptrace.h ptrace_init_task()",
}
fn autoreap_ptrace_followed_as_creator() -> Result {
    let event = |number| Status::ptrace_event(number, Signal::SIGTRAP);
    let (begins, exits) = (event(libc::PTRACE_EVENT_STOP), event(libc::PTRACE_EVENT_EXIT));
    let followed = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK;
    let ended = Status::exited(5);
    for (options, expected) in [
        (followed, vec![begins, ended]),
        (followed | Options::PTRACE_O_TRACEEXIT, vec![begins, exits, ended]),
    ] {
        subject::each(|call| {
            let creator = Creator::new(&Clone3::fork(), || call.spawn(|| 5))?;
            let told = told_of_child(&creator, options)?;
            let what =
                format!("told to the tracer of a child of {call}, whose creator it traces with {options:?}");
            check::equal(what, told, expected.clone())?;
            Ok(())
        })?;
    }
    Ok(())
}
