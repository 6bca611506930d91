//! Auto-reaped processes as tracers, and what is left of auto-reaped tracees when their tracer detaches or ends.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::clone3::park;
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::replacing::Replacing;
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::tracer::Tracer;
use clone3_conformance::kit::{Actor, AutokillChild, Held, sigchld, subject, threads, tracer};
use clone3_conformance::procfs::Task;
use clone3_conformance::sandbox;
use clone3_conformance::wait::{self, Event, Status};
use nix::poll::PollTimeout;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

case! {
    /// When an auto-reaped process that traces another with PTRACE_O_EXITKILL ends, its tracee is killed, as it is when an
    /// ordinary tracer ends.
    autoreap_tracer_exitkill: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2), PTRACE_O_EXITKILL; kernel/ptrace.c exit_ptrace()",
}
fn autoreap_tracer_exitkill() -> Result {
    subject::each(|call| {
        let tracee = Held::traceable(&Clone3::fork().with(Flags::PIDFD), 5)?;
        let tracer = Actor::spawn(&call, |pid| tracer::seize(pid, Options::PTRACE_O_EXITKILL))?;
        tracer.ask(tracee.pid())?;
        tracer.dismiss()?;
        let what = format!("tracee with PTRACE_O_EXITKILL of a child of {call}, which has ended");
        tracee.pidfd()?.wait_exited().context(&what)?;
        tracee.into_child().reap_expecting(Status::SIGKILLED).context(&what)
    })
}

case! {
    /// A tracee in a ptrace stop, auto-reaped or not, runs on when its tracer ends without detaching from it.
    autoreap_goes_on_when_tracer_ends: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "ptrace(2) (\"If a tracer dies, all tracees are automatically detached and restarted, unless they were in group-stop\")",
}
fn autoreap_goes_on_when_tracer_ends() -> Result {
    subject::each(|call| {
        let tracee = Held::traceable(&call, 5)?;
        let tracer = Actor::spawn(&Clone3::fork(), |pid| {
            tracer::seize(pid, Options::empty())?;
            tracer::interrupt(pid)
        })?;
        tracer.ask(tracee.pid())?;
        let state = Task::of(tracee.pid()).map(|task| task.state);
        check::equal(format_args!("control: state of a stopped tracee, child of {call}"), state, Some('t'))?;
        tracer.dismiss()?;
        tracee.let_go()?;
        tracee.into_child().ends_with(Status::exited(5)).context("after its tracer has ended")
    })
}

case! {
    /// If a thread of a process has traced a child of the process that is dead now, and ends, then the other threads can wait for the
    /// child, in an auto-reaped process as in an ordinary one.
    autoreap_thread_leaves_traced_zombie: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "wait(2) (\"children of other threads in the same thread group\"); kernel/ptrace.c __ptrace_detach()",
}
fn autoreap_thread_leaves_traced_zombie() -> Result {
    subject::each(|call| {
        let (process, ()) = child_reporting(&call, || {
            let child = Held::exiting_with(&Clone3::fork(), 5)?;
            threads::in_a_thread(|| {
                tracer::seize(child.pid(), Options::empty())?;
                child.let_go()?;
                child.is_a_zombie(5)
            })?;
            child
                .into_child()
                .reap_expecting(Status::exited(5))
                .context("after the end of the thread that traced it")
        })?;
        process.ends_with(Status::exited(0))
    })
}

/// Stops a process and waits until it has stopped.
#[track_caller]
fn stop(child: &Held) -> Result {
    child.kill(Signal::SIGSTOP)?;
    wait::stops(child.pid(), Signal::SIGSTOP).context("control")
}

/// Traces a stopped process, and waits for the stop that is reported then.
#[track_caller]
fn seize_stopped(pid: i32) -> Result {
    tracer::seize(pid, Options::empty())?;
    let stop = Status::ptrace_event(libc::PTRACE_EVENT_STOP, Signal::SIGSTOP);
    wait::reap_expecting(pid, stop).context("told to a tracer that has seized a stopped process")
}

/// Waits until the process is in a job-control stop, or fails if it runs.
#[track_caller]
fn is_stopped(pid: i32) -> Result {
    loop {
        let late = sandbox::time_left() == PollTimeout::ZERO;
        match Task::of(pid) {
            Some(task) if task.state == 'T' => return Ok(()),
            // A process that runs on sleeps at its gate.
            Some(task) if late || matches!(task.state, 'S' | 'Z' | 'X') => {
                return Err(Failure::fail(format!("expected to be stopped (T), but {task}")));
            }
            // Between the two stops the process runs, or, depending on the kernel's locks, waits for one.
            Some(_) => std::thread::yield_now(),
            None => return Err(Failure::fail(format!("process {pid} is gone"))),
        }
    }
}

case! {
    /// An auto-reaped child stopped by SIGSTOP stays stopped when its tracer detaches from it (PTRACE_DETACH) or ends, like an
    /// ordinary one.
    autoreap_stays_stopped_without_tracer: Must, needs [Autoreap, Ptrace, Proc],
    source "ptrace(2), \"Attaching and detaching\" and group-stop; kernel/ptrace.c __ptrace_unlink()",
}
fn autoreap_stays_stopped_without_tracer() -> Result {
    subject::each(|call| {
        for detaches in [true, false] {
            let child = Held::traceable(&call, 5)?;
            stop(&child)?;
            let pid = child.pid();
            in_child(|| {
                seize_stopped(pid)?;
                if detaches { check::succeeds("PTRACE_DETACH", tracer::detach(pid)) } else { Ok(()) }
            })?;
            let how = if detaches { "PTRACE_DETACH" } else { "the end of its tracer" };
            is_stopped(pid).context(format_args!("stopped child of {call}, after {how}"))?;
            child.into_child().clear_away()?;
        }
        Ok(())
    })
}

/// Checks that a child with these flags, which ends while another process traces it, is a zombie to its parent once the
/// tracer lets it go, or is gone if it is auto-reaped.
fn tracer_lets_go(flags: Flags) -> Result {
    sigchld::block()?;
    // Both with exit_signal 0: the only SIGCHLD is the tracer's own.
    for call in [Clone3::new(Flags::PIDFD | flags), Clone3::new(Flags::REAPED | flags)] {
        for waits in [true, false] {
            let child = Held::traceable(&call, 5)?;
            let tracer = Tracer::of(child.pid())?;
            child.let_go()?;
            tracer.find_zombie()?;
            if waits {
                let what = format!("what the wait of a tracer, not its parent, gives of a child of {call}");
                check::equal(what, tracer.reap()?, Status::exited(5))?;
            }
            tracer.dismiss()?;
            let how = if waits { "has waited for it" } else { "has ended" };
            ends_by_its_kind(&call, child.pid(), child.pidfd()?, Status::exited(5))
                .context(format_args!("when its tracer, which is not its parent, {how}"))?;
        }
    }
    Ok(())
}

case! {
    /// An auto-reaped child with no_new_privs that ends while another process traces it is gone when that tracer waits for it or
    /// ends; an ordinary one is then a zombie of its parent.
    nnp_autoreap_gone_when_tracer_lets_go: Must, needs [Autoreap, Nnp, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"without ever becoming a zombie\"); kernel/ptrace.c __ptrace_detach()",
}
fn nnp_autoreap_gone_when_tracer_lets_go() -> Result {
    tracer_lets_go(Flags::NNP)
}

case! {
    /// The auto-reaped init of a pid namespace that ends while a process other than its parent traces it is gone when that tracer
    /// waits for it or ends; an ordinary one is then a zombie of its parent.
    autoreap_pidns_init_gone_when_tracer_lets_go: Must, needs [Autoreap, ExitInfo, Ptrace, PidNamespace],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"without ever becoming a zombie\"); kernel/exit.c wait_task_zombie()",
}
fn autoreap_pidns_init_gone_when_tracer_lets_go() -> Result {
    tracer_lets_go(Flags::CLONE_NEWPID)
}

case! {
    /// A tracer that is not the parent gets SIGCHLD with CLD_CONTINUED when its stopped auto-reaped tracee is continued, as the
    /// tracer of an ordinary one does.
    autoreap_ptrace_continuation_reported_to_tracer: Is, needs [Autoreap, Ptrace],
    source "sigaction(2), CLD_CONTINUED; kernel/signal.c get_signal() (\"notify the ptracer of the group leader too\")",
}
fn autoreap_ptrace_continuation_reported_to_tracer() -> Result {
    subject::each(|call| {
        let child = Held::traceable(&call, 5)?;
        stop(&child)?;
        let pid = child.pid();
        let told = in_child(|| {
            sigchld::block()?;
            seize_stopped(pid)?;
            // It may arrive shortly after the stop can be waited for.
            sigchld::arrives_for(pid, libc::CLD_STOPPED)?;
            tracer::go_on(pid, None)?;
            kill(Pid::from_raw(pid), Signal::SIGCONT)?;
            // The continuation is reported before the stop for the tracer; of several SIGCHLDs, the first is kept.
            wait::waitpid(pid, libc::__WALL)?;
            Ok(sigchld::take())
        })?;
        let what = format!("SIGCHLD of the tracer of a child of {call}, at SIGCONT");
        let continued = Event { pid, code: libc::CLD_CONTINUED, status: libc::SIGCONT };
        check::equal(what, told, Some(continued))?;
        child.into_child().clear_away()
    })
}

case! {
    /// The last close of its pidfd kills an auto-kill child that a process other than its parent traces.
    autokill_traced_by_another: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Ptrace],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; ptrace(2): SIGKILL kills a tracee at once",
}
fn autokill_traced_by_another() -> Result {
    // Created before the child, so that it does not inherit its pidfd.
    let tracer = Actor::spawn(&Clone3::fork(), |pid| tracer::seize(pid, Options::empty()))?;
    let mut child = AutokillChild::prepared(&Clone3::new(Flags::KILLED_NNP), || {
        tracer::let_anyone_trace_me();
        Ok(())
    })?;
    tracer.ask(child.pid())?;
    child.lives("while it is traced")?;
    child.close()?;
    child.observer().wait_exited().context("traced by another process, after the last close of its pidfd")?;
    tracer.dismiss()?;
    child.dies("after the last close of its pidfd, when its tracer has ended")
}

/// Traces a process and its thread `news`. Called again with `None`, waits until one of them has called exec, and returns the
/// message of that event.
fn message_of_exec(pid: i32, news: Option<i32>) -> Result<i64> {
    if let Some(thread) = news {
        tracer::seize(pid, Options::PTRACE_O_TRACEEXEC)?;
        return tracer::seize(thread, Options::PTRACE_O_TRACEEXEC).map(|()| 0);
    }
    loop {
        let Some((tracee, status)) = wait::waitpid(-1, libc::__WALL)? else { continue };
        match status.stop() {
            Some((_, libc::PTRACE_EVENT_EXEC)) => {
                let message = ptrace::getevent(Pid::from_raw(tracee))?;
                tracer::go_on(tracee, None)?;
                return Ok(message);
            }
            Some((signal, 0)) => tracer::go_on(tracee, Some(signal))?,
            Some(_) => tracer::go_on(tracee, None)?,
            None => return Err(Failure::fail(format!("tracee {tracee} {status} without PTRACE_EVENT_EXEC"))),
        }
    }
}

case! {
    /// When a thread other than the leader of an auto-reaped child calls exec, the message of PTRACE_EVENT_EXEC is the thread's
    /// former tid, as for an ordinary child.
    autoreap_ptrace_exec_event_names_thread: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2), PTRACE_O_TRACEEXEC (\"the former thread ID can be retrieved with PTRACE_GETEVENTMSG\")",
}
fn autoreap_ptrace_exec_event_names_thread() -> Result {
    subject::each(|call| {
        let replacing = Replacing::new(&call, 7, park)?;
        let (pid, thread) = (replacing.child.pid(), replacing.other);
        let tracer = Actor::spawn(&Clone3::fork(), |news| message_of_exec(pid, news))?;
        tracer.ask(Some(thread))?;
        tracer.tell(None)?;
        replacing.exec()?;
        let message = tracer.answer()?;
        let what = format!("message of PTRACE_EVENT_EXEC when a thread of a child of {call} calls exec");
        check::equal(what, message, i64::from(thread))?;
        tracer.dismiss()?;
        let child = replacing.into_held();
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        Ok(())
    })
}
