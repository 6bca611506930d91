//! Auto-reaped children that their own parent traces with ptrace(2).

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::blocked::wait_until_blocked;
use clone3_conformance::kit::subject::{self, reaped};
use clone3_conformance::kit::{Channel, Gate, Held, Orphan, WaitCall, sigchld, threads, tracer};
use clone3_conformance::wait::{self, Event, Status};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, raise};
use nix::unistd::Pid;

/// Creates a child that the caller has seized and that has exited: a zombie to its tracer.
#[track_caller]
fn traced_zombie(call: &Clone3, code: i32) -> Result<Child> {
    let child = Held::exiting_with(call, code)?;
    tracer::seize(child.pid(), Options::empty())?;
    child.let_go()?;
    child.is_a_zombie(code)?;
    Ok(child.into_child())
}

case! {
    /// An auto-reaped child that exits while its parent traces it stays a zombie until the tracer waits: its
    /// pidfd reports POLLIN without POLLHUP, and it has no exit information yet.
    autoreap_ptrace_parent_zombie: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2); kernel/signal.c do_notify_parent(), which heeds auto-reaping only where nobody traces",
}
fn autoreap_ptrace_parent_zombie() -> Result {
    subject::each_reaped(|call| {
        call.spawn(|| 12)?.is_gone_with(Status::exited(12)).context("control: nobody traces it")?;

        let child = traced_zombie(&call, 12)?;
        let pidfd = child.pidfd()?;
        check::equal("poll on the pidfd", pidfd.poll_now(PollFlags::POLLIN)?, PollFlags::POLLIN)?;
        let info = check::succeeds("PIDFD_GET_INFO(EXIT)", pidfd.info(InfoMask::EXIT))?;
        check::equal("the EXIT bit of a traced zombie", info.given().contains(InfoMask::EXIT), false)?;
        wait::reap_expecting(child.pid(), Status::exited(12))?;
        child.is_gone_with(Status::exited(12))
    })
}

case! {
    /// The wait of a tracing parent, even without `__WALL`, returns the status of an auto-reaped child once; then nothing is left
    /// of the child but its exit information.
    autoreap_ptrace_parent_wait_reaps: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2); kernel/exit.c wait_task_zombie()",
}
fn autoreap_ptrace_parent_wait_reaps() -> Result {
    subject::each_reaped(|call| {
        let child = traced_zombie(&call, 12)?;
        let pid = child.pid();
        check::equal("waitpid(pid, 0)", wait::waitpid(pid, 0), Ok(Some((pid, Status::exited(12)))))?;
        check::refused("waitpid(pid, __WALL) once more", wait::waitpid(pid, libc::__WALL), Errno::ECHILD)?;
        child.is_gone_with(Status::exited(12))
    })
}

case! {
    /// A parent that traces its auto-reaped child gets no SIGCHLD when the child exits, because the exit signal is 0; after the
    /// child's exec it is SIGCHLD, and the tracing parent gets it.
    autoreap_ptrace_parent_no_sigchld: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "kernel/exit.c exit_notify(); fs/exec.c de_thread()",
}
fn autoreap_ptrace_parent_no_sigchld() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let execed = Held::execed(&call, 13)?;
        tracer::seize(execed.pid(), Options::empty())?;
        execed.let_go()?;
        execed.is_a_zombie(13)?;
        sigchld::pending_for(execed.pid(), libc::CLD_EXITED)?;
        wait::reap_expecting(execed.pid(), Status::exited(13))?;

        let child = traced_zombie(&call, 12)?;
        sigchld::none_pending()?;
        wait::reap_expecting(child.pid(), Status::exited(12))?;
        child.is_gone_with(Status::exited(12))?;
        sigchld::none_pending()
    })
}

case! {
    /// PTRACE_DETACH of a stopped auto-reaped tracee succeeds; of a dead one it is ESRCH.
    autoreap_ptrace_detach_dead_esrch: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2): ESRCH where the tracee is not stopped",
}
fn autoreap_ptrace_detach_dead_esrch() -> Result {
    subject::each_reaped(|call| {
        let stopped = Held::exiting_with(&call, 0)?;
        tracer::attach(stopped.pid())?;
        check::succeeds("PTRACE_DETACH of a stopped tracee", tracer::detach(stopped.pid()))?;
        stopped.let_go()?;
        stopped.is_gone_with(Status::exited(0))?;

        let dead = traced_zombie(&call, 12)?;
        check::refused("PTRACE_DETACH of a dead tracee", tracer::detach(dead.pid()), Errno::ESRCH)?;
        wait::reap_expecting(dead.pid(), Status::exited(12))?;
        dead.is_gone_with(Status::exited(12))
    })
}

case! {
    /// An auto-reaped child that was attached and detached by a tracer is auto-reaped as if it had not been traced: no zombie, no
    /// SIGCHLD.
    autoreap_ptrace_attach_detach_then_exit: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\"; ptrace(2), PTRACE_DETACH",
}
fn autoreap_ptrace_attach_detach_then_exit() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let child = Held::exiting_with(&call, 7)?;
        tracer::attach(child.pid())?;
        check::succeeds("PTRACE_DETACH", tracer::detach(child.pid()))?;
        // Discards the SIGCHLD of the stop.
        sigchld::take();
        child.let_go()?;
        child.is_gone_with(Status::exited(7))?;
        sigchld::none_pending()
    })
}

/// In a child: has its parent trace it, stops, and returns its exit code.
fn ask_to_be_traced() -> i32 {
    let stopped = ptrace::traceme().and_then(|()| raise(Signal::SIGSTOP));
    if stopped.is_ok() { 14 } else { 98 }
}

case! {
    /// An auto-reaped child may ask to be traced (PTRACE_TRACEME): its parent sees it stop, resumes it, and then finds a zombie to
    /// wait for.
    autoreap_ptrace_traceme: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2), PTRACE_TRACEME; kernel/exit.c wait_consider_task()",
}
fn autoreap_ptrace_traceme() -> Result {
    subject::each_reaped(|call| {
        let child = call.spawn(ask_to_be_traced)?;
        // With __WALL, as the child may not be traced yet and has exit signal 0.
        tracer::stops_with(child.pid(), Signal::SIGSTOP)?;
        tracer::go_on(child.pid(), None)?;
        child.is_a_zombie(14)?;
        wait::reap_expecting(child.pid(), Status::exited(14))?;
        child.is_gone_with(Status::exited(14))
    })
}

case! {
    /// An auto-reaped child that has used PTRACE_TRACEME, and that its parent detaches before it ends, leaves no zombie.
    autoreap_ptrace_traceme_detached: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\"; ptrace(2), PTRACE_DETACH",
}
fn autoreap_ptrace_traceme_detached() -> Result {
    subject::each_reaped(|call| {
        let child = call.spawn(ask_to_be_traced)?;
        tracer::stops_with(child.pid(), Signal::SIGSTOP)?;
        ptrace::detach(Pid::from_raw(child.pid()), None)?;
        child.is_gone_with(Status::exited(14))
    })
}

case! {
    /// Any thread of the parent can wait for the zombie of an auto-reaped child that another thread of the parent traces, even
    /// without `__WALL`.
    autoreap_ptrace_sibling_thread_reaps: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "kernel/exit.c wait_consider_task(): traced by its real parent's group",
}
fn autoreap_ptrace_sibling_thread_reaps() -> Result {
    subject::each_reaped(|call| {
        let child = Held::exiting_with(&call, 15)?;
        let (pid, gate) = (child.pid(), Gate::new()?);
        std::thread::scope(|scope| {
            let tracing = scope.spawn(|| {
                let traced = tracer::seize(pid, Options::empty()).and_then(|()| child.let_go());
                match traced {
                    // Keeps tracing while the other thread waits.
                    Ok(()) => gate.wait(),
                    // The other thread waits for the child's end.
                    Err(_) => drop(child.kill(Signal::SIGKILL)),
                }
                traced
            });
            let seen = child.is_a_zombie(15);
            let waited = wait::waitpid(pid, 0);
            gate.open()?;
            threads::join(tracing)?;
            seen?;
            check::equal("waitpid(pid, 0) while a thread traces", waited, Ok(Some((pid, Status::exited(15)))))
        })?;
        child.is_gone_with(Status::exited(15))
    })
}

/// Traces the child, lets it go, and waits until it is a zombie. Runs in a thread.
fn traced_to_death(child: &Held, code: i32) -> Result {
    tracer::seize(child.pid(), Options::empty())?;
    child.let_go()?;
    child.is_a_zombie(code)
}

case! {
    /// The zombie of an auto-reaped child that a thread of its parent traced is released when that thread
    /// exits without waiting; that of an ordinary child becomes its parent's.
    autoreap_ptrace_tracer_thread_exits: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\", its change to kernel/ptrace.c __ptrace_detach()",
}
fn autoreap_ptrace_tracer_thread_exits() -> Result {
    subject::each_reaped(|call| {
        let ordinary = Held::exiting_with(&Clone3::new(Flags::PIDFD), 15)?;
        let thread = threads::in_a_thread(|| {
            traced_to_death(&ordinary, 15)?;
            threads::own_pidfd()
        })?;
        thread.wait_reaped()?;
        ordinary.is_a_zombie(15).context("control without CLONE_AUTOREAP")?;
        ordinary.into_child().reap_expecting(Status::exited(15))?;

        let child = Held::exiting_with(&call, 15)?;
        threads::in_a_thread(|| traced_to_death(&child, 15))?;
        child.is_gone_with(Status::exited(15))
    })
}

case! {
    /// The end of an ordinary child that a thread of its parent traces is announced by one SIGCHLD: when that thread then ends
    /// without waiting, there is no second one.
    abi_ptrace_tracer_thread_end_not_reported: Is, needs [ExitInfo, Ptrace],
    source "kernel/ptrace.c __ptrace_detach() (same_thread_group())",
}
fn abi_ptrace_tracer_thread_end_not_reported() -> Result {
    sigchld::block()?;
    let child = Held::exiting_with(&Clone3::fork().with(Flags::PIDFD), 15)?;
    let thread = threads::in_a_thread(|| {
        traced_to_death(&child, 15)?;
        // Consumed, because a second one would be lost while this one is pending.
        sigchld::arrives_for(child.pid(), libc::CLD_EXITED)?;
        threads::own_pidfd()
    })?;
    thread.wait_reaped()?;
    sigchld::none_pending().context("after the end of the thread that traced the zombie")?;
    child.into_child().reap_expecting(Status::exited(15))
}

case! {
    /// The zombie of an auto-reaped child that has called exec, and that a thread of its parent traced, is released when that
    /// thread exits without waiting, although the child's exit signal is then SIGCHLD.
    autoreap_ptrace_tracer_thread_exits_after_exec: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\", its change to kernel/ptrace.c __ptrace_detach()",
}
fn autoreap_ptrace_tracer_thread_exits_after_exec() -> Result {
    subject::each_reaped(|call| {
        let child = Held::execed(&call, 15)?;
        threads::in_a_thread(|| traced_to_death(&child, 15))?;
        child.is_gone_with(Status::exited(15))
    })
}

case! {
    /// A thread that is blocked in a `__WNOTHREAD` wait for an auto-reaped child that it made is woken with ECHILD when another
    /// thread, which traced the child until it died, exits without waiting.
    autoreap_ptrace_tracer_thread_exit_wakes: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "kernel/ptrace.c __ptrace_detach() (\"we must also wake up sub-threads sleeping in do_wait()\")",
}
fn autoreap_ptrace_tracer_thread_exit_wakes() -> Result {
    subject::each_reaped(|call| {
        let child = Held::exiting_with(&call, 15)?;
        let (creator, wait) =
            (threads::own_tid(), WaitCall::Waitpid(child.pid(), libc::__WALL | libc::__WNOTHREAD));
        std::thread::scope(|scope| {
            let tracing = scope.spawn(|| {
                let traced = wait_until_blocked(creator, wait).and_then(|()| traced_to_death(&child, 15));
                // After a failure, kills the child: the creator waits for its end.
                traced.inspect_err(|_| drop(child.kill(Signal::SIGKILL)))
            });
            let waited = wait.make();
            let traced = threads::join(tracing);
            // Checked first: if the call returns too early, the other thread fails as well.
            check::refused(format_args!("the blocked {wait}"), waited, Errno::ECHILD)?;
            traced
        })?;
        child.is_gone_with(Status::exited(15))
    })
}

case! {
    /// When a parent that traced its auto-reaped child exits, the child's unwaited zombie is released and its exit information
    /// kept; the zombie of an ordinary child goes to the new parent.
    autoreap_ptrace_parent_tracer_exits: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/ptrace.c exit_ptrace()",
}
fn autoreap_ptrace_parent_tracer_exits() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let ordinary = Orphan::left_by(|| traced_zombie(&Clone3::new(Flags::PIDFD), 23))?;
        let zombie = Event::exited(ordinary.pid, 23);
        check::equal("control: of the new parent", wait::find_zombie(ordinary.pid)?, zombie)?;
        check::equal("control: SIGCHLD about the zombie of an ordinary child", ordinary.announced, true)?;
        wait::reap_expecting(ordinary.pid, Status::exited(23))?;

        let orphan = Orphan::left_by(|| traced_zombie(&call, 23))?;
        orphan.pidfd.gone_with(orphan.pid, Status::exited(23))?;
        check::equal("SIGCHLD about the zombie of an auto-reaped child", orphan.announced, false)?;
        sigchld::none_pending()
    })
}

/// Event that a creator's tracer gets for its child: the ptrace event and the pid in its message.
type Heard = (i32, i64);

case! {
    /// The tracer of an auto-reaped child's creator sees PTRACE_EVENT_CLONE, because the child's exit signal is 0; with CLONE_VFORK
    /// it sees PTRACE_EVENT_VFORK, with CLONE_UNTRACED nothing. The message of the event is the child's pid.
    autoreap_ptrace_clone_event: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2), PTRACE_O_TRACECLONE; kernel/fork.c kernel_clone()",
}
fn autoreap_ptrace_clone_event() -> Result {
    let calls = [
        (Clone3::fork().with(Flags::PIDFD), libc::PTRACE_EVENT_FORK),
        (reaped(), libc::PTRACE_EVENT_CLONE),
        (reaped().with(Flags::CLONE_VFORK), libc::PTRACE_EVENT_VFORK),
        (reaped().with(Flags::CLONE_UNTRACED), 0),
    ];
    for (call, event) in calls {
        let made = Channel::<i32>::new()?;
        let creator = Held::running(&Clone3::fork(), || {
            let child = call.spawn(|| 0).and_then(|child| {
                made.send(&child.pid())?;
                // An ordinary child of a traced creator is reaped by its tracer first.
                if call.flags().contains(Flags::AUTOREAP) {
                    child.pidfd()?.wait_reaped()
                } else {
                    wait::reap(child.pid()).map(drop)
                }
            });
            i32::from(child.is_err())
        })?;
        tracer::seize(
            creator.pid(),
            Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK,
        )?;
        creator.let_go()?;
        let heard = events_until_all_are_gone(creator.pid())?;
        let expected: Vec<Heard> = if event == 0 { vec![] } else { vec![(event, made.recv()?.into())] };
        check::equal(format_args!("ptrace events (event, message) of {call}"), heard, expected)?;
    }
    Ok(())
}

/// Resumes every tracee at each of its stops and waits for its end, until there is none. Returns the events of `creator`.
fn events_until_all_are_gone(creator: i32) -> Result<Vec<Heard>> {
    let mut events = Vec::new();
    loop {
        let (pid, status) = match wait::waitpid(-1, libc::__WALL) {
            Ok(Some(news)) => news,
            Ok(None) | Err(Errno::ECHILD) => return Ok(events),
            Err(errno) => return Err(errno.into()),
        };
        let Some((signal, event)) = status.stop() else {
            if pid == creator {
                check::equal(
                    "end of the traced creator, which saw its child gone",
                    status,
                    Status::exited(0),
                )?;
            }
            continue;
        };
        if pid == creator && event != 0 {
            events.push((event, ptrace::getevent(Pid::from_raw(pid))?));
        }
        tracer::go_on(pid, if event == 0 { Some(signal) } else { None })?;
    }
}
