//! Children in a pid namespace that is not their creator's: reaped all the same, and told of in the numbers of whoever asks.

use std::collections::BTreeSet;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::{Clone3, park};
use clone3_conformance::kit::tracer::Resume;
use clone3_conformance::kit::{Channel, Held, namespace, subject, tracer};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::{Pid, getpid};

case! {
    /// An auto-reaped child that its creator puts into another pid namespace (unshare(CLONE_NEWPID)), beside the init that lives there,
    /// leaves no zombie. An ordinary one does.
    autoreap_injected_into_pid_namespace: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "commit \"clone: add CLONE_AUTOREAP\"; pid_namespaces(7), on unshare(2)",
}
fn autoreap_injected_into_pid_namespace() -> Result {
    namespace::unshare_pid()?;
    let init = Clone3::fork().with(Flags::PIDFD).spawn(park)?;
    // Each exits with the number that it has in there.
    let own_number = || getpid().as_raw();
    let ordinary = Clone3::fork().with(Flags::PIDFD).spawn(own_number)?;
    let zombie = wait::Event::exited(ordinary.pid(), 2);
    check::equal("control: an ordinary child in there", wait::find_zombie(ordinary.pid())?, zombie)?;
    ordinary.reap_expecting(Status::exited(2))?;
    let child = Clone3::new(Flags::REAPED).spawn(own_number)?;
    child.pidfd()?.gone_with(child.pid(), Status::exited(3))?;
    init.clear_away()
}

case! {
    /// The message of the event by which a tracer learns of a new child of its tracee in a pid namespace below, auto-reaped or not, is
    /// the number that the child has in the tracer's pid namespace, by which it can wait for it.
    autoreap_ptrace_event_number_is_the_tracers: Must, needs [Autoreap, ExitInfo, Ptrace, PidNamespace],
    source "ptrace(2), PTRACE_GETEVENTMSG (\"the PID of the new process\"); include/linux/ptrace.h ptrace_event_pid()",
}
fn autoreap_ptrace_event_number_is_the_tracers() -> Result {
    for call in subject::calls() {
        let made = Channel::<i32>::new()?;
        let creator = Held::running(&namespace::init(), || {
            let child = call.spawn(|| 0);
            i32::from(child.and_then(|child| made.send(&child.pid())).is_err())
        })?;
        tracer::seize(creator.pid(), Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK)?;
        creator.let_go()?;
        let (numbers, others) = told_of(creator.pid())?;
        check::equal("control: the child's number in its creator's pid namespace", made.recv()?, 2)?;
        check::equal("control: how many others the tracer waits for", others.len(), 1)?;
        let what = format!("number in the event of {call}, which the tracer waits for under");
        check::equal(what, numbers, others.into_iter().collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Lets every tracee go on at each of its stops until there is none: the numbers in the events of this one, and those under which others
/// are waited for.
fn told_of(creator: i32) -> Result<(Vec<i32>, BTreeSet<i32>)> {
    let (mut numbers, mut others) = (Vec::new(), BTreeSet::new());
    loop {
        let (pid, status) = match wait::waitpid(-1, libc::__WALL) {
            Ok(Some(news)) => news,
            Ok(None) | Err(Errno::ECHILD) => return Ok((numbers, others)),
            Err(errno) => return Err(errno.into()),
        };
        if pid != creator {
            others.insert(pid);
        }
        let Some((_, event)) = status.stop() else { continue };
        if [libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_CLONE].contains(&event) {
            numbers.push(ptrace::getevent(Pid::from_raw(pid))? as i32);
        }
        // Who is killed meanwhile, as the end of the init does to others, is waited for next.
        let _ = tracer::resume(pid, Resume::Continue, 0);
    }
}
