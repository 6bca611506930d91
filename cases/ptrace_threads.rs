//! Auto-reaped processes of two threads, one of which is traced by a process that then ends.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::pair::{LEADER, OTHER, Pair};
use clone3_conformance::kit::sigchld;
use clone3_conformance::kit::tracer::{self, Tracer};
use clone3_conformance::wait::{self, Event, Status, Who};
use nix::sys::ptrace::Options;

use super::threads::is_not_over;

/// An ordinary child, for the control, and an auto-reaped one. Neither sends a signal at its end: the tracer's own SIGCHLD is to be
/// the only one.
fn calls() -> [Clone3; 2] {
    [Clone3::new(Flags::PIDFD), Clone3::new(Flags::REAPED)]
}

/// The whole process must be over now, with the status of the thread that was the last to end.
#[track_caller]
fn is_over(child: Child, last: i32) -> Result {
    if child.reaps_itself() {
        return child.is_gone_with(Status::exited(last));
    }
    child.pidfd()?.wait_exited()?;
    child.reap_expecting(Status::exited(last))
}

case! {
    /// An auto-reaped process whose leader was traced and has ended is not over when the tracer ends, as long as it has
    /// another thread, but with the end of that.
    autoreap_ptrace_dead_leader_let_go: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "kernel/ptrace.c __ptrace_detach() (thread_group_empty()); ptrace(2)",
}
fn autoreap_ptrace_dead_leader_let_go() -> Result {
    sigchld::block()?;
    for call in calls() {
        let pair = Pair::new(&call)?;
        let tracer = Tracer::of(pair.child.pid())?;
        pair.end_leader()?;
        tracer.dismiss()?;
        is_not_over(&pair.child)?;
        pair.let_other_go()?;
        is_over(pair.child, OTHER)?;
    }
    Ok(())
}

case! {
    /// A parent that traces the leader thread of its child, auto-reaped or not, is sent SIGCHLD when that thread ends before the
    /// others, and has nothing to wait for until they have ended as well.
    autoreap_ptrace_dead_leader_told: Is, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "kernel/exit.c exit_notify(), where each traced thread is announced, and wait_consider_task() (delay_group_leader())",
}
fn autoreap_ptrace_dead_leader_told() -> Result {
    sigchld::block()?;
    for call in calls() {
        let pair = Pair::new(&call)?;
        let pid = pair.child.pid();
        tracer::seize(pid, Options::empty())?;
        pair.end_leader()?;
        check::equal("SIGCHLD at the leader's end", sigchld::next()?, Event::exited(pid, LEADER))
            .context(&call)?;
        let found = wait::waitid(Who::Pid(pid), libc::WEXITED | libc::WNOHANG | libc::__WALL);
        check::equal("waitid(WEXITED|WNOHANG|__WALL) then", found, Ok(None)).context(&call)?;
        pair.let_other_go()?;
        wait::reap_expecting(pid, Status::exited(OTHER))?;
        pair.child.pidfd()?.gone_with(pid, Status::exited(OTHER))?;
        while sigchld::take().is_some() {}
    }
    Ok(())
}

case! {
    /// A thread of an auto-reaped process that is a zombie to its tracer keeps the process from being over, also when all others
    /// have ended. The end of the tracer ends both.
    autoreap_ptrace_dead_thread_let_go: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "kernel/ptrace.c __ptrace_detach() (thread_group_leader()); kernel/exit.c release_task()",
}
fn autoreap_ptrace_dead_thread_let_go() -> Result {
    sigchld::block()?;
    for call in calls() {
        let pair = Pair::new(&call)?;
        let tracer = Tracer::of(pair.other)?;
        pair.let_other_go()?;
        check::equal("what the tracer finds", tracer.find_zombie()?, Event::exited(pair.other, OTHER))?;
        pair.end_leader()?;
        is_not_over(&pair.child)?;
        tracer.dismiss()?;
        is_over(pair.child, LEADER)?;
    }
    Ok(())
}
