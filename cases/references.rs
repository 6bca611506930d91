//! What is a reference to clone3's own pidfd: copies of the descriptor, in this process and in others.

use std::os::fd::AsRawFd;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::Result;
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::{Echo, End, Holder};
use clone3_conformance::wait::{self, Status};
use nix::sys::signal::Signal;

const SIGKILLED: Status = Status::killed(Signal::SIGKILL);

/// An auto-kill child that answers pings.
fn echo() -> Result<Echo> {
    Echo::spawn(&Clone3::new(Flags::KILLED_NNP))
}

case! {
    /// A forked process's copy of the pidfd keeps the child alive after the parent has closed its own; its
    /// close, its exit, its death by a signal and its exec (the descriptor is close-on-exec) kill the child.
    autokill_fork_inherited: Must, needs [Autoreap, Nnp, Autokill],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"dup()/fork() share the same struct file\")",
}
fn autokill_fork_inherited() -> Result {
    let closes = |holder: &Holder, fd| holder.close(fd);
    let execs = |holder: &Holder, _| holder.exec();
    for lets_go in [closes, execs] {
        let mut child = echo()?;
        let fd = child.pidfd()?.as_raw_fd();
        let holder = Holder::fork()?;
        child.close_pidfd()?;
        child.is_alive("with a copy of its pidfd in a forked process")?;
        lets_go(&holder, fd)?;
        child.is_dead("after the forked process's close or exec")?;
        holder.end(End::Exit)?;
    }
    for end in End::ALL {
        let mut child = echo()?;
        let holder = Holder::fork()?;
        child.close_pidfd()?;
        child.is_alive("with a copy of its pidfd in a forked process")?;
        holder.end(end)?;
        child.is_dead("after the end of the forked process")?;
        wait::no_child(child.pid())?;
    }
    Ok(())
}
