//! Auto-reaped processes with two threads, one of which is traced: what the parent is told, and what the end of the tracer does.

use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::pair::{LEADER, OTHER, Pair};
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::threads::is_not_over;
use clone3_conformance::kit::tracer::{self, Tracer};
use clone3_conformance::kit::{Blocked, Channel, Held, WaitCall, sigchld, subject, threads};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Event, Status, Who};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, raise};
use nix::unistd::Pid;

/// Checks that the whole process is over, with the status of the thread that ended last.
#[track_caller]
fn is_over(child: Child, last: i32) -> Result {
    if child.reaps_itself() {
        return child.is_gone_with(Status::exited(last));
    }
    child.pidfd()?.wait_exited()?;
    child.reap_expecting(Status::exited(last))
}

case! {
    /// An auto-reaped process whose traced leader has ended is not over when the tracer ends, as long as another thread lives; it
    /// is over when that thread ends.
    autoreap_ptrace_dead_leader_let_go: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "kernel/ptrace.c __ptrace_detach() (thread_group_empty()); ptrace(2)",
}
fn autoreap_ptrace_dead_leader_let_go() -> Result {
    sigchld::block()?;
    subject::each_silent(|call| {
        let pair = Pair::new(&call)?;
        let tracer = Tracer::of(pair.child.pid())?;
        pair.end_leader()?;
        tracer.dismiss()?;
        is_not_over(&pair.child)?;
        pair.let_other_go()?;
        is_over(pair.child, OTHER)
    })
}

case! {
    /// A parent that traces the leader thread of its child, auto-reaped or not, gets SIGCHLD when that thread ends before the
    /// others, but has nothing to wait for until they have ended as well.
    autoreap_ptrace_dead_leader_reported: Is, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "kernel/exit.c exit_notify(), where each traced thread is announced, and wait_consider_task() (delay_group_leader())",
}
fn autoreap_ptrace_dead_leader_reported() -> Result {
    sigchld::block()?;
    subject::each_silent(|call| {
        let pair = Pair::new(&call)?;
        let pid = pair.child.pid();
        tracer::seize(pid, Options::empty())?;
        pair.end_leader()?;
        check::equal("SIGCHLD at the leader's end", sigchld::next()?, Event::exited(pid, LEADER))?;
        let found = wait::waitid(Who::Pid(pid), libc::WEXITED | libc::WNOHANG | libc::__WALL);
        check::equal("waitid(WEXITED|WNOHANG|__WALL) then", found, Ok(None))?;
        pair.let_other_go()?;
        wait::reap_expecting(pid, Status::exited(OTHER))?;
        pair.child.pidfd()?.gone_with(pid, Status::exited(OTHER))?;
        while sigchld::take().is_some() {}
        Ok(())
    })
}

case! {
    /// A thread of an auto-reaped process that is a zombie of its tracer keeps the process from being over even when all other
    /// threads have ended. The end of the tracer ends both.
    autoreap_ptrace_dead_thread_let_go: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "ptrace(2), the end of a tracer; kernel/ptrace.c __ptrace_detach() (thread_group_leader()); kernel/exit.c release_task()",
}
fn autoreap_ptrace_dead_thread_let_go() -> Result {
    sigchld::block()?;
    subject::each_silent(|call| {
        let pair = Pair::new(&call)?;
        let tracer = Tracer::of(pair.other)?;
        pair.let_other_go()?;
        check::equal("what the tracer finds", tracer.find_zombie()?, Event::exited(pair.other, OTHER))?;
        pair.end_leader()?;
        is_not_over(&pair.child)?;
        tracer.dismiss()?;
        is_over(pair.child, LEADER)
    })
}

case! {
    /// PTRACE_O_EXITKILL on a thread other than the leader kills the whole process when the tracer ends, auto-reaped or not.
    autoreap_ptrace_exitkill_of_a_thread: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2), PTRACE_O_EXITKILL; kernel/ptrace.c exit_ptrace()",
}
fn autoreap_ptrace_exitkill_of_a_thread() -> Result {
    sigchld::block()?;
    subject::each_silent(|call| {
        let pair = Pair::new(&call)?;
        let tracer = Tracer::killing_on_exit(pair.other)?;
        tracer.dismiss()?;
        let killed = Status::SIGKILLED;
        pair.child.pidfd()?.wait_exited().context(format_args!("{call}, a thread traced"))?;
        pair.child.ends_with(killed)
    })
}

case! {
    /// A tracer is a thread: a ptrace request from another thread of its process is ESRCH, whether the tracee is auto-reaped or
    /// not.
    autoreap_ptrace_request_of_other_thread: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2) (\"the thread performing the tracing\"; ESRCH: not being traced by the caller)",
}
fn autoreap_ptrace_request_of_other_thread() -> Result {
    subject::each_silent(|call| {
        let child = Held::exiting_with(&call, 0)?;
        tracer::attach(child.pid())?;
        let by_other = threads::in_a_thread(|| Ok(tracer::detach(child.pid())))?;
        check::refused(
            format_args!("PTRACE_DETACH of a child of {call} by another thread"),
            by_other,
            Errno::ESRCH,
        )?;
        check::succeeds("control: PTRACE_DETACH by the tracer", tracer::detach(child.pid()))?;
        child.into_child().clear_away()
    })
}

case! {
    /// PTRACE_TRACEME by a child, auto-reaped or not, makes its parent the tracer even if the parent's leader thread has ended: the
    /// parent sees the child's stops.
    autoreap_ptrace_traceme_of_leaderless: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "ptrace(2), PTRACE_TRACEME; kernel/ptrace.c ptrace_traceme()",
}
fn autoreap_ptrace_traceme_of_leaderless() -> Result {
    subject::each_silent(|call| {
        let told = Channel::<Result>::new()?;
        let parent = threads::leaderless(&Clone3::fork(), 0, || {
            // The receiver sees a failed send as the end of the stream.
            let _ = told.send(&traces_a_child(&call));
            0
        })?;
        parent.let_go()?;
        told.recv_from(&parent).context(format_args!("the tracer of a child of {call}"))??;
        parent.into_child().reap_expecting(Status::exited(0))
    })
}

/// Creates a child that requests to be traced and sends itself SIGUSR1, and checks that it stops for that.
fn traces_a_child(call: &Clone3) -> Result {
    let child = call.spawn(|| {
        let stopped = ptrace::traceme().and_then(|()| raise(Signal::SIGUSR1));
        i32::from(stopped.is_err())
    })?;
    tracer::stops_with(child.pid(), Signal::SIGUSR1)?;
    child.kill(Signal::SIGKILL)?;
    wait::reap_expecting(child.pid(), Status::SIGKILLED)
}

case! {
    /// The tracer of a thread other than the leader sees the thread's stop when it waits with waitid(P_PIDFD) on its PIDFD_THREAD
    /// pidfd, auto-reaped or not.
    autoreap_ptrace_waitid_by_threads_pidfd: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "waitid(2), P_PIDFD; pidfd_open(2), PIDFD_THREAD; ptrace(2), on waiting for a tracee",
}
fn autoreap_ptrace_waitid_by_threads_pidfd() -> Result {
    subject::each_silent(|call| {
        let pair = Pair::new(&call)?;
        // Traced by a process that ends, after which no process has to wait for the thread.
        let found = in_child(|| {
            tracer::seize(pair.other, Options::empty())?;
            let pidfd = Pidfd::of_thread(pair.other)?;
            check::succeeds("ptrace(INTERRUPT)", ptrace::interrupt(Pid::from_raw(pair.other)))?;
            let found = wait::waitid(Who::pidfd(&pidfd), libc::WSTOPPED | libc::__WALL);
            Ok(found.map(|event| event.map(|event| event.pid)).map_err(|errno| errno as i32))
        })?;
        let what =
            format_args!("whom waitid(P_PIDFD, WSTOPPED) finds by the pidfd of a traced thread of {call}");
        check::equal(what, found.map_err(Errno::from_raw), Ok(Some(pair.other)))?;
        pair.child.clear_away()
    })
}

case! {
    /// A thread that traces the child of another thread of its process, and waits for it with __WNOTHREAD, is woken by its stop,
    /// auto-reaped or not.
    autoreap_ptrace_wnothread_tracer_woken: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "wait(2), __WNOTHREAD; kernel/exit.c pid_child_should_wake()",
}
fn autoreap_ptrace_wnothread_tracer_woken() -> Result {
    subject::each_silent(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let pid = child.pid();
        let wait = WaitCall::Waitpid(pid, libc::__WALL | libc::__WNOTHREAD);
        let tracer = Blocked::after(move || tracer::seize(pid, Options::empty()), wait)?;
        child.kill(Signal::SIGSTOP)?;
        let whose = format!("a thread that traces a child of {call}");
        let found = tracer.join().context(&whose)?;
        check::equal(format_args!("{whose}: {wait}"), found, Ok(Some(pid)))?;
        child.into_child().clear_away()
    })
}

case! {
    /// The exit information of a thread that ended with a code of its own is that code, even if it is released only after its
    /// process was killed, because a tracer had not waited for it. Auto-reaped process or not.
    autoreap_ptrace_thread_keeps_own_code: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "fs/pidfs.c pidfs_exit(), called by release_task() for each thread; pidfd_open(2), PIDFD_THREAD",
}
fn autoreap_ptrace_thread_keeps_own_code() -> Result {
    sigchld::block()?;
    subject::each_silent(|call| {
        let pair = Pair::new(&call)?;
        let thread = Pidfd::of_thread(pair.other)?;
        let tracer = Tracer::of(pair.other)?;
        pair.let_other_go()?;
        tracer.find_zombie()?;
        pair.child.kill(Signal::SIGKILL)?;
        threads::wait_for_dead_leader(pair.child.pid())?;
        tracer.dismiss()?;
        thread.reaped_with(Status::exited(OTHER)).context(format_args!("a thread of a child of {call}"))?;
        pair.child.ends_with(Status::SIGKILLED)?;
        while sigchld::take().is_some() {}
        Ok(())
    })
}

case! {
    /// If the last thread that keeps a stop of its process, auto-reaped or not, from being complete exits, the stop is complete, and
    /// a parent that is blocked in waitid(WSTOPPED) returns.
    autoreap_stop_completed_by_exit: Is, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "kernel/signal.c exit_signals(), do_notify_parent_cldstop(); ptrace(2), PTRACE_EVENT_EXIT",
}
fn autoreap_stop_completed_by_exit() -> Result {
    subject::each(|call| {
        let pair = Pair::new(&call)?;
        let pid = pair.child.pid();
        // Held here on its way out, the other thread can no longer stop.
        tracer::seize(pair.other, Options::PTRACE_O_TRACEEXIT)?;
        pair.let_other_go()?;
        let exiting = Status::ptrace_event(libc::PTRACE_EVENT_EXIT, Signal::SIGTRAP);
        wait::reap_expecting(pair.other, exiting).context("control: PTRACE_EVENT_EXIT")?;
        pair.child.kill(Signal::SIGSTOP)?;
        threads::wait_until_leader_stops(pid)?;
        let waiter = Blocked::in_call(WaitCall::Pid(pid, libc::WSTOPPED | libc::__WALL))?;
        ptrace::cont(Pid::from_raw(pair.other), None)?;
        let what = format!("the stop of a child of {call}, completed by the exit of a thread");
        check::equal(&what, waiter.join().context(&what)?, Ok(Some(pid)))?;
        wait::reap_expecting(pair.other, Status::exited(OTHER))?;
        pair.child.clear_away()
    })
}
