//! References to clone3's own pidfd that the supervisor of a seccomp filter injects into another process, or takes from it.

use std::os::fd::AsFd;

use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::seccomp::{self, Call, Supervisor};
use clone3_conformance::kit::{AutokillChild, Gate, sandboxing};
use clone3_conformance::wait::Status;
use rustix::event::{EventfdFlags, eventfd};

/// A process that asks its supervisor twice, and then waits at the gate.
struct Target {
    process: Child,
    supervisor: Supervisor,
    gate: Gate,
}

impl Target {
    fn new() -> Result<Target> {
        let gate = Gate::new()?;
        let (process, supervisor) = seccomp::supervised(&Clone3::fork(), || {
            std::thread::yield_now();
            std::thread::yield_now();
            gate.wait();
            0
        })?;
        Ok(Target { process, supervisor, gate })
    }

    /// Waits for its next question.
    #[track_caller]
    fn asks(&self) -> Result<Call> {
        match self.supervisor.next_in_time()? {
            Some(call) => Ok(call),
            None => Err(Failure::fail("the process ended before it asked its supervisor")),
        }
    }
}

case! {
    /// A pidfd that a seccomp supervisor injects into another process (SECCOMP_IOCTL_NOTIF_ADDFD with SECCOMP_ADDFD_FLAG_SEND) keeps
    /// the child alive; another file put in its place (SECCOMP_ADDFD_FLAG_SETFD) kills the child, as dup2 does.
    autokill_injected_by_supervisor: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "seccomp_unotify(2), SECCOMP_IOCTL_NOTIF_ADDFD; commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_injected_by_supervisor() -> Result {
    sandboxing::seccomp_filters_exist()?;
    let target = Target::new()?;
    let mut child = AutokillChild::new()?;
    let injected = target.supervisor.answer_with_file(&target.asks()?, child.pidfd()?);
    let injected = check::succeeds("SECCOMP_IOCTL_NOTIF_ADDFD(SECCOMP_ADDFD_FLAG_SEND)", injected)?;
    child.close()?;
    child.lives("with its pidfd injected into another process")?;
    let (asked, other) = (target.asks()?, eventfd(0, EventfdFlags::CLOEXEC)?);
    let replaced = target.supervisor.replace_file(&asked, other.as_fd(), injected);
    check::succeeds("SECCOMP_IOCTL_NOTIF_ADDFD(SECCOMP_ADDFD_FLAG_SETFD)", replaced)?;
    // That process drops the reference when its system call is over.
    target.supervisor.answer(&asked, None)?;
    child.dies_in_time("after its pidfd in the other process was replaced by another file")?;
    target.gate.open()?;
    target.process.reap_expecting(Status::exited(0))
}
