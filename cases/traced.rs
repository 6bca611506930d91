//! CLONE_PIDFD_AUTOKILL of a child that is being traced.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::{AutokillChild, Held, tracer};
use clone3_conformance::wait::{self, Event, Status};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

case! {
    /// Closing the pidfd of a child that is already dead, and a zombie of its tracer, does not change its status.
    autokill_close_on_traced_zombie: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Ptrace],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; send_signal() drops what comes after exit_group",
}
fn autokill_close_on_traced_zombie() -> Result {
    let mut child = Held::exiting_with(&Clone3::new(Flags::KILLED_NNP), 6)?;
    let observer = child.observe()?;
    tracer::seize(child.pid(), Options::empty())?;
    child.let_go()?;
    let zombie = Event::exited(child.pid(), 6);
    check::equal("the traced child", wait::find_zombie(child.pid())?, zombie)?;
    child.close_pidfd()?;
    wait::reap_expecting(child.pid(), Status::exited(6))?;
    observer.reaped_with(Status::exited(6))
}

case! {
    /// The last close kills a traced child: the tracer sees PTRACE_EVENT_EXIT with SIGKILL, if it asked for it,
    /// and then the death. A child in a ptrace stop dies out of the stop.
    autokill_traced_child: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Ptrace],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; ptrace(2): SIGKILL ends tracees, stopped or not",
}
fn autokill_traced_child() -> Result {
    let mut running = AutokillChild::new()?;
    tracer::seize(running.pid(), Options::PTRACE_O_TRACEEXIT)?;
    running.close()?;
    let event = Status::ptrace_event(libc::PTRACE_EVENT_EXIT, Signal::SIGTRAP);
    wait::reap_expecting(running.pid(), event)?;
    let message = ptrace::getevent(Pid::from_raw(running.pid()))?;
    check::equal("status in PTRACE_EVENT_EXIT", Status(message as i32), Status::SIGKILLED)?;
    tracer::go_on(running.pid(), None)?;
    wait::reap_expecting(running.pid(), Status::SIGKILLED)?;
    running.dies("traced, after the last close of its pidfd")?;

    let mut stopped = AutokillChild::new()?;
    tracer::attach(stopped.pid())?;
    stopped.close()?;
    wait::reap_expecting(stopped.pid(), Status::SIGKILLED)?;
    stopped.dies("in a ptrace stop, after the last close of its pidfd")
}
