//! CLONE_PIDFD_AUTOKILL: states and system calls that the child may be in when its last reference goes away.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, Stack};
use clone3_conformance::kit::coredump::Server;
use clone3_conformance::kit::crash::Crash;
use clone3_conformance::kit::seccomp::{self, Supervisor};
use clone3_conformance::kit::tracer::{self, Resume};
use clone3_conformance::kit::{AutokillChild, Channel, Held, errands, sandboxing, threads};
use clone3_conformance::procfs::status_field;
use clone3_conformance::wait::{self, Event, Status, Who};
use nix::errno::Errno;
use nix::sys::ptrace::Options;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::setsid;

fn call() -> Clone3 {
    Clone3::new(Flags::KILLED_NNP)
}

/// Exit code of a child whose system call its supervisor has let through.
const LET_THROUGH: i32 = 7;

/// Creates a child blocked in a system call that a supervisor must decide on, and returns both.
fn asking_child() -> Result<(Child, Supervisor)> {
    seccomp::supervised(&call(), || {
        std::thread::yield_now();
        LET_THROUGH
    })
}

case! {
    /// The last close kills a child whose system call waits for a supervisor's answer (seccomp_unotify(2)), although none has come.
    autokill_waiting_for_supervisor: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; seccomp_unotify(2), on signals that end the wait for an answer",
}
fn autokill_waiting_for_supervisor() -> Result {
    sandboxing::seccomp_filters_exist()?;
    for closes in [false, true] {
        let (mut child, supervisor) = asking_child()?;
        let observer = child.observe()?;
        let asked = supervisor.next()?;
        let asked = asked.ok_or_else(|| Failure::fail("the child ended before it asked its supervisor"))?;
        let status = if closes {
            child.close_pidfd()?;
            Status::SIGKILLED
        } else {
            supervisor.answer(&asked, None)?;
            Status::exited(LET_THROUGH)
        };
        let what = if closes {
            "after the last close of the pidfd of a child that waits for its supervisor's answer"
        } else {
            "control: after the supervisor's answer"
        };
        observer.gone_with(child.pid(), status).context(what)?;
    }
    Ok(())
}

case! {
    /// The last close kills a child that traces another process, which lives on untraced.
    autokill_tracer: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Ptrace, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; ptrace(2), on tracers that end",
}
fn autokill_tracer() -> Result {
    AutokillChild::control()?;
    let tracee = Held::traceable(&Clone3::fork(), 3)?;
    let mut child = AutokillChild::prepared(&call(), || tracer::seize(tracee.pid(), Options::empty()))?;
    let tracer_pid = || status_field(&tracee.pid().to_string(), "TracerPid");
    check::equal("control: TracerPid of the tracee", tracer_pid(), Some(child.pid().to_string()))?;
    child.close()?;
    child.dies("tracing another process, after the last close of its pidfd")?;
    check::equal("TracerPid of the tracee, its tracer dead", tracer_pid(), Some("0".to_owned()))?;
    tracee.let_go()?;
    tracee.into_child().reap_expecting(Status::exited(3)).context("the tracee of the child that was killed")
}

/// Creates a child that waits for every signal, and exits with the number of the first one that it gets.
fn child_awaiting_any_signal() -> Result<Child> {
    let ready = Channel::<()>::new()?;
    let child = call().spawn(|| {
        let all = SigSet::all();
        let _ = all.thread_block().map(|()| ready.send(&()));
        all.wait().map_or(99, |signal| signal as i32)
    })?;
    ready.recv_from(&child)?;
    threads::wait_until_process_sleeps(child.pid())?;
    Ok(child)
}

case! {
    /// A child that waits for all signals with sigwait(3) receives neither SIGSTOP nor SIGKILL there: SIGSTOP stops it, and the
    /// last close kills it, stopped or not.
    autokill_waiting_for_any_signal: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "sigwaitinfo(2), on SIGKILL and SIGSTOP; commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"",
}
fn autokill_waiting_for_any_signal() -> Result {
    let told = child_awaiting_any_signal()?;
    told.kill(Signal::SIGUSR1)?;
    told.is_gone_with(Status::exited(Signal::SIGUSR1 as i32)).context("control: SIGUSR1")?;
    for stops in [false, true] {
        let mut child = child_awaiting_any_signal()?;
        let observer = child.observe()?;
        if stops {
            child.kill(Signal::SIGSTOP)?;
            let seen = wait::waitid(Who::Pid(child.pid()), libc::WSTOPPED | libc::__WALL);
            let stopped = Event::stopped(child.pid(), Signal::SIGSTOP);
            check::equal("a child in sigwait() for all signals, sent SIGSTOP", seen, Ok(Some(stopped)))?;
        }
        child.close_pidfd()?;
        let what = "in sigwait() for all signals, after the last close of its pidfd";
        observer.gone_with(child.pid(), Status::SIGKILLED).context(what)?;
    }
    Ok(())
}

case! {
    /// The last close is too late for a child that is already exiting with a status of its own: its tracer's wait and its exit
    /// information give that status, not SIGKILL.
    autokill_while_exiting_keeps_status: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Ptrace],
    source "_exit(2), whose status the parent is given; ptrace(2), PTRACE_EVENT_EXIT; kernel/signal.c prepare_signal()",
}
fn autokill_while_exiting_keeps_status() -> Result {
    let own = Status::exited(9);
    for closes in [false, true] {
        let mut child = Held::exiting_with(&call(), 9)?;
        let observer = child.observe()?;
        tracer::seize(child.pid(), Options::PTRACE_O_TRACEEXIT)?;
        child.let_go()?;
        let exiting = Status::ptrace_event(libc::PTRACE_EVENT_EXIT, Signal::SIGTRAP);
        wait::reap_expecting(child.pid(), exiting).context("control: PTRACE_EVENT_EXIT")?;
        let what = if closes { "closed in PTRACE_EVENT_EXIT" } else { "control: not closed" };
        if closes {
            child.close_pidfd()?;
        }
        match tracer::resume(child.pid(), Resume::Continue, 0) {
            // It may have continued by itself.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        wait::reap_expecting(child.pid(), own).context(what)?;
        observer.gone_with(child.pid(), own).context(what)?;
    }
    Ok(())
}

case! {
    /// A child killed by the last close of its pidfd, or by a signal, clears its CLONE_CHILD_CLEARTID address and wakes the waiter
    /// there, like one that exits: nobody who waits for its memory waits forever.
    autokill_clears_child_tid: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "clone(2), CLONE_CHILD_CLEARTID (\"when the child exits\"); kernel/fork.c mm_release()",
}
fn autokill_clears_child_tid() -> Result {
    let shares = call().with(Flags::CLONE_VM | Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
    for how in ["control: by its own exit", "by SIGTERM", "by the last close"] {
        let (nothing, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let stack = Stack::new()?;
        let mut child = shares.spawn_on(&stack, errands::wait_for_input(&nothing))?;
        let (pid, observer) = (child.pid(), child.observe()?);
        let status = threads::join_ending(&stack, || match how {
            "by SIGTERM" => child.kill(Signal::SIGTERM).map(|()| Status::killed(Signal::SIGTERM)),
            "by the last close" => child.close_pidfd().map(|()| Status::SIGKILLED),
            _ => Ok(rustix::io::write(&end, b"e").map(|_| Status::exited(0))?),
        });
        let status = status.context(how)?;
        observer.gone_with(pid, status).context(how)?;
    }
    Ok(())
}

case! {
    /// The last close kills a child that has dumped core and, because of kernel.core_pipe_limit, waits for the coredump helper.
    autokill_waiting_for_dump_helper: Is, needs [Autoreap, Nnp, Autokill, ExitInfo, CoredumpMask, Root, Proc, GlobalChanges],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; core(5), core_pipe_limit; fs/coredump.c wait_for_dump_helpers()",
}
fn autokill_waiting_for_dump_helper() -> Result {
    let server = Server::start()?;
    let helpers = server.to_lingering_helpers()?;
    for closes in [true, false] {
        // The dump cannot finish before the helper has started.
        let mut child = call().spawn(|| Crash::Unmapped.with_large_core())?;
        let observer = child.observe()?;
        let helper = helpers.take_dump_of(&observer)?;
        if closes {
            child.close_pidfd()?;
            let what =
                "after the last close of the pidfd of a child that waits for the helper of its core dump";
            observer.gone_with(child.pid(), Status::SIGKILLED).context(what)?;
        }
        helper.dismiss()?;
        if !closes {
            observer.gone_with(child.pid(), Crash::Unmapped.dumped()).context("control: not closed")?;
        }
    }
    Ok(())
}

fn enter_own_session() -> Result {
    setsid()?;
    Ok(())
}

/// Makes an auto-kill child in one of the states of [`autokill_in_combined_states`].
type Make = fn() -> Result<Held>;

const STATES: [(&str, Make); 5] = [
    ("that has called exec", || Held::execed(&call(), 0)),
    ("in a session of its own", || Held::prepared(&call(), 0, enter_own_session)),
    ("in a session of its own, after an exec", || Held::execed_after(&call(), 0, 1, enter_own_session)),
    ("without its leader thread", || threads::leaderless(&call(), 0, || 0)),
    ("whose leader thread was replaced by exec", || Held::execed_by_thread(&call(), 0)),
];

case! {
    /// The last close kills a child that has called exec, is in a session of its own, or has lost its leader thread, whether it is
    /// stopped or not.
    autokill_in_combined_states: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; signal(7), SIGKILL",
}
fn autokill_in_combined_states() -> Result {
    for (state, make) in STATES {
        for stopped in [false, true] {
            let mut child = make()?;
            let observer = child.observe()?;
            if stopped {
                child.kill(Signal::SIGSTOP)?;
                wait::stops(child.pid(), Signal::SIGSTOP)?;
            }
            child.close_pidfd()?;
            let what = format!("after the last close of the pidfd of a child {state}, stopped: {stopped}");
            observer.gone_with(child.pid(), Status::SIGKILLED).context(what)?;
        }
    }
    Ok(())
}
