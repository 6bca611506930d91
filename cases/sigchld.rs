//! The SIGCHLD that an auto-reaped child does not send when it ends, and those that it sends before.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::process::child_reporting;
use clone3_conformance::kit::programs::end_seen_after_parents_exec;
use clone3_conformance::kit::sigchld::{self, Reaction};
use clone3_conformance::kit::subject::{self, reaped};
use clone3_conformance::kit::{Echo, Held, Orphan, threads};
use clone3_conformance::need::rounds;
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Event, Status, Who};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, Signal};

/// Returns the event of a child that SIGSTOP has stopped.
fn stopped(pid: i32) -> Event {
    Event::stopped(pid, Signal::SIGSTOP)
}

/// Stops a child, and returns once its parent could have seen that.
fn stop(child: &Held) -> Result {
    child.kill(Signal::SIGSTOP)?;
    let found = wait::waitid(Who::pidfd(child.pidfd()?), libc::WSTOPPED | libc::WNOWAIT | libc::__WALL);
    check::equal("waitid(P_PIDFD, WSTOPPED|WNOWAIT|__WALL)", found, Ok(Some(stopped(child.pid()))))
}

case! {
    /// A process that handles SIGCHLD, with SA_NOCLDWAIT too, is told of the end of its ordinary child, whether it is auto-reaped itself
    /// or not.
    autoreap_parent_is_told_with_nocldwait: Must, needs [Autoreap, ExitInfo],
    source "sigaction(2), SA_NOCLDWAIT (\"On Linux, a SIGCHLD signal is generated in this case\"); kernel/signal.c do_notify_parent()",
}
fn autoreap_parent_is_told_with_nocldwait() -> Result {
    subject::each(|call| {
        for flags in [SaFlags::empty(), SaFlags::SA_NOCLDWAIT] {
            let (child, handled) = child_reporting(&call, || {
                sigchld::react(Reaction::Count, flags)?;
                let other = Clone3::fork().with(Flags::PIDFD).spawn(|| 0)?;
                other.pidfd()?.wait_exited()?;
                if flags.is_empty() {
                    other.reap_expecting(Status::exited(0))?;
                } else {
                    other.pidfd()?.wait_reaped()?;
                }
                Ok(sigchld::handled())
            })?;
            let what = format!("SIGCHLDs that a child of {call} with {flags:?} gets when its child ends");
            check::equal(what, handled, 1)?;
            child.ends_with(Status::exited(0))?;
        }
        Ok(())
    })
}

/// Checks that nothing is left of an auto-reaped child that was let go or killed, and that there was no SIGCHLD.
fn ends_in_silence(pid: i32, pidfd: &Pidfd, status: Status) -> Result {
    pidfd.reaped_with(status)?;
    // Without __WALL too: after exec or reparenting, such a call treats the child as an ordinary one.
    let plain = wait::waitid(Who::Pid(pid), libc::WEXITED | libc::WNOHANG);
    wait::no_such_child(format_args!("waitid({pid}, WEXITED|WNOHANG)"), plain)?;
    wait::no_child(pid)?;
    sigchld::none_pending()
}

case! {
    /// An auto-reaped child sends no SIGCHLD, whether it exits, is killed, or dies of a signal that may dump
    /// core.
    autoreap_no_sigchld: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"No exit signal is delivered\")",
}
fn autoreap_no_sigchld() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        for end in [None, Some(Signal::SIGKILL), Some(Signal::SIGABRT)] {
            let body = || {
                // Prevents a core file where core dumps go to files.
                let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
                if let Some(signal) = end {
                    let _ = nix::sys::signal::raise(signal);
                }
                0
            };
            wait::reap(Clone3::fork().spawn(body)?.pid())?;
            let sent = sigchld::take().is_some();
            check::holds(sent, format_args!("control: no SIGCHLD from an ordinary child at {end:?}"))?;

            let child = call.spawn(body)?;
            let status = child.pidfd()?.exit_status()?;
            check::equal("the signal it died of", status.term_signal(), end.map(|signal| signal as i32))?;
            sigchld::none_pending()?;
        }
        Ok(())
    })
}

case! {
    /// Reparenting sets a child's exit signal to SIGCHLD; the new parent of an auto-reaped child still gets no SIGCHLD and no
    /// zombie, whether the child exits or is killed.
    autoreap_no_sigchld_after_reparent: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/exit.c reparent_leader()",
}
fn autoreap_no_sigchld_after_reparent() -> Result {
    sigchld::block()?;
    let control = Orphan::exiting_with(&Clone3::new(Flags::PIDFD), 5)?;
    control.let_go()?;
    wait::reap_expecting(control.pid, Status::exited(5))?;
    sigchld::pending_for(control.pid, libc::CLD_EXITED).context("control")?;

    let child = Orphan::exiting_with(&reaped(), 5)?;
    child.let_go()?;
    ends_in_silence(child.pid, &child.pidfd, Status::exited(5))?;
    let child = Orphan::exiting_with(&reaped(), 5)?;
    check::succeeds("pidfd_send_signal(SIGKILL)", child.pidfd.send_signal(Signal::SIGKILL))?;
    ends_in_silence(child.pid, &child.pidfd, Status::SIGKILLED)
}

case! {
    /// Exec sets a child's exit signal to SIGCHLD; the parent of an auto-reaped child that has called exec still gets no SIGCHLD
    /// and no zombie.
    autoreap_no_sigchld_after_child_exec: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\"; fs/exec.c de_thread()",
}
fn autoreap_no_sigchld_after_child_exec() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let control = Held::execed(&Clone3::new(Flags::PIDFD), 66)?;
        control.let_go()?;
        wait::reap_expecting(control.pid(), Status::exited(66))?;
        sigchld::pending_for(control.pid(), libc::CLD_EXITED).context("control")?;

        let child = Held::execed(&call, 66)?;
        child.let_go()?;
        ends_in_silence(child.pid(), child.pidfd()?, Status::exited(66))
    })
}

case! {
    /// After an exec of the parent, the kernel makes any child's exit signal SIGCHLD; from an auto-reaped child the parent still
    /// gets no SIGCHLD and no zombie.
    autoreap_no_sigchld_after_parent_exec: Must, needs [Autoreap],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/signal.c do_notify_parent() (parent_exec_id)",
}
fn autoreap_no_sigchld_after_parent_exec() -> Result {
    let (event, signal) = end_seen_after_parents_exec(&Clone3::fork(), &Clone3::new(Flags::empty()))?;
    check::equal(
        "control: event of a child that was there before the exec",
        event.map(|event| (event.code, event.status)),
        Some((libc::CLD_EXITED, 5)),
    )?;
    check::equal("control: SIGCHLD of that child", signal, event)?;

    let (event, signal) = end_seen_after_parents_exec(&Clone3::fork(), &Clone3::new(Flags::AUTOREAP))?;
    check::equal("event of an auto-reaped child, ECHILD being None", event, None)?;
    check::equal("SIGCHLD of an auto-reaped child that was there before the exec", signal, None)
}

case! {
    /// The end of an auto-reaped child does not run the parent's SIGCHLD handler, with or without
    /// SA_NOCLDWAIT, not even when the child has execed.
    autoreap_sigchld_handler_not_run: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"No exit signal is delivered\")",
}
fn autoreap_sigchld_handler_not_run() -> Result {
    subject::each_reaped(|call| {
        for flags in [SaFlags::empty(), SaFlags::SA_NOCLDWAIT] {
            sigchld::react(Reaction::Count, flags)?;
            let control = Clone3::fork().spawn(|| 0)?;
            // With SA_NOCLDWAIT this waits for the child's end and then returns ECHILD.
            let _ = wait::waitpid(control.pid(), libc::__WALL);
            check::equal(format_args!("control: runs of the handler with {flags:?}"), sigchld::handled(), 1)?;

            for child in [Held::exiting_with(&call, 5)?, Held::execed(&call, 5)?] {
                child.let_go()?;
                child.pidfd()?.reaped_with(Status::exited(5))?;
                check::equal(format_args!("runs of the handler with {flags:?}"), sigchld::handled(), 0)?;
            }
        }
        Ok(())
    })
}

case! {
    /// SIG_IGN or SA_NOCLDWAIT in the parent change nothing for an auto-reaped child: it is reaped, and its
    /// exit code is in its pidfd.
    autoreap_with_sigchld_ignored: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/signal.c do_notify_parent()",
}
fn autoreap_with_sigchld_ignored() -> Result {
    subject::each_reaped(|call| {
        let reactions = [(Reaction::Ignore, SaFlags::empty()), (Reaction::Default, SaFlags::SA_NOCLDWAIT)];
        for (reaction, flags) in reactions {
            sigchld::react(reaction, flags)?;
            let control = Clone3::fork().spawn(|| 0)?;
            let got = wait::waitpid(control.pid(), libc::__WALL);
            check::equal(
                format_args!("control: waitpid of an ordinary child with {reaction:?} {flags:?}"),
                got,
                Err(Errno::ECHILD),
            )?;

            for child in [Held::exiting_with(&call, 42)?, Held::execed(&call, 42)?] {
                child.let_go()?;
                child.is_gone_with(Status::exited(42))?;
            }
        }
        Ok(())
    })
}

case! {
    /// Only the exit signal is suppressed: the stop of an auto-reaped child is announced with SIGCHLD and can
    /// be waited for, and its pidfd stays silent.
    autoreap_stop_is_reported: Is, needs [Autoreap, ExitInfo],
    source "kernel/signal.c do_notify_parent_cldstop()",
}
fn autoreap_stop_is_reported() -> Result {
    sigchld::block()?;
    let child = Held::exiting_with(&reaped(), 5)?;
    stop(&child)?;
    sigchld::arrives_for(child.pid(), libc::CLD_STOPPED)?;
    check::equal("poll on its pidfd", child.pidfd()?.poll_now(PollFlags::POLLIN)?, PollFlags::empty())?;
    let found = wait::waitid(Who::Pid(child.pid()), libc::WSTOPPED | libc::WNOHANG | libc::__WALL);
    check::equal("waitid(WSTOPPED) after one with WNOWAIT", found, Ok(Some(stopped(child.pid()))))?;
    let found = wait::waitid(Who::Pid(child.pid()), libc::WSTOPPED | libc::WNOHANG | libc::__WALL);
    check::equal("waitid(WSTOPPED) once more", found, Ok(None))?;
    child.kill(Signal::SIGKILL)?;
    ends_in_silence(child.pid(), child.pidfd()?, Status::SIGKILLED)
}

case! {
    /// The continuation of an auto-reaped child is announced with SIGCHLD and can be waited for.
    autoreap_continue_is_reported: Is, needs [Autoreap, ExitInfo],
    source "kernel/signal.c do_notify_parent_cldstop()",
}
fn autoreap_continue_is_reported() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let child = Held::exiting_with(&call, 5)?;
        stop(&child)?;
        sigchld::arrives_for(child.pid(), libc::CLD_STOPPED)?;
        child.kill(Signal::SIGCONT)?;
        sigchld::arrives_for(child.pid(), libc::CLD_CONTINUED)?;
        let found = wait::waitid(Who::Pid(child.pid()), libc::WCONTINUED | libc::WNOHANG | libc::__WALL);
        let continued = Event { pid: child.pid(), code: libc::CLD_CONTINUED, status: libc::SIGCONT };
        check::equal("waitid(WCONTINUED)", found, Ok(Some(continued)))?;
        child.let_go()?;
        ends_in_silence(child.pid(), child.pidfd()?, Status::exited(5))
    })
}

case! {
    /// Until it execs, the stop of an auto-reaped child is seen by wait calls with __WALL or __WCLONE only;
    /// after its exec a plain WUNTRACED sees it.
    autoreap_stop_needs_wall_before_exec: Is, needs [Autoreap, ExitInfo],
    source "kernel/exit.c eligible_child(); fs/exec.c de_thread()",
}
fn autoreap_stop_needs_wall_before_exec() -> Result {
    subject::each_reaped(|call| {
        const LOOK: i32 = libc::WUNTRACED | libc::WNOHANG;
        let seen = |pid| Ok(Some((pid, Status::stopped(Signal::SIGSTOP))));
        for option in [libc::__WALL, libc::__WCLONE] {
            let child = Held::exiting_with(&call, 5)?;
            let pid = child.pid();
            stop(&child)?;
            check::equal(
                "waitpid(WUNTRACED|WNOHANG) before exec",
                wait::waitpid(pid, LOOK),
                Err(Errno::ECHILD),
            )?;
            check::equal("the same with __WALL or __WCLONE", wait::waitpid(pid, LOOK | option), seen(pid))?;
            child.into_child().clear_away()?;
        }
        let child = Held::execed(&call, 5)?;
        stop(&child)?;
        check::equal(
            "waitpid(WUNTRACED|WNOHANG) after exec",
            wait::waitpid(child.pid(), LOOK),
            seen(child.pid()),
        )?;
        child.into_child().clear_away()
    })
}

case! {
    /// SA_NOCLDSTOP suppresses the SIGCHLD when an auto-reaped child stops or continues, but not the wait events.
    autoreap_sa_nocldstop: Must, needs [Autoreap],
    source "sigaction(2); kernel/signal.c do_notify_parent_cldstop()",
}
fn autoreap_sa_nocldstop() -> Result {
    subject::each_reaped(|reaped| {
        sigchld::block()?;
        let child = Echo::spawn(&reaped)?;
        for flags in [SaFlags::empty(), SaFlags::SA_NOCLDSTOP] {
            sigchld::react(Reaction::Default, flags)?;
            child.kill(Signal::SIGSTOP)?;
            wait::stops(child.pid(), Signal::SIGSTOP).context(format_args!("with {flags:?}"))?;
            child.kill(Signal::SIGCONT)?;
            let resumed = wait::waitid(Who::Pid(child.pid()), libc::WCONTINUED | libc::__WALL);
            let resumed = resumed.map(|event| event.map(|event| wait::code_name(event.code)));
            let continued = Ok(Some(wait::code_name(libc::CLD_CONTINUED)));
            check::equal(format_args!("si_code of waitid(WCONTINUED) with {flags:?}"), resumed, continued)?;
            // The child itself sends both before it answers.
            child.is_alive("after it was stopped and continued")?;
            // Its si_status is 0 if the wait call above saw the stop before the kernel had filled the SIGCHLD.
            if flags.is_empty() {
                sigchld::pending_for(child.pid(), libc::CLD_STOPPED)
                    .context("control: without SA_NOCLDSTOP")?;
            }
            sigchld::none_pending().context(format_args!("with {flags:?}"))?;
        }
        child.into_child().clear_away()
    })
}

case! {
    /// SIGKILL ends a stopped auto-reaped child in silence: no SIGCHLD, no zombie, before and after an exec.
    autoreap_killed_while_stopped: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"No exit signal is delivered\")",
}
fn autoreap_killed_while_stopped() -> Result {
    sigchld::block()?;
    for child in [Held::exiting_with(&reaped(), 5)?, Held::execed(&reaped(), 5)?] {
        stop(&child)?;
        sigchld::arrives_for(child.pid(), libc::CLD_STOPPED).context("control")?;
        child.kill(Signal::SIGKILL)?;
        ends_in_silence(child.pid(), child.pidfd()?, Status::SIGKILLED)?;
    }
    Ok(())
}

case! {
    /// SIGCHLD gives the status that wait gives, that of exit_group, even if the leader was exiting by itself at that moment and is
    /// the last thread to go; also for a child made with CLONE_NNP.
    nnp_sigchld_has_status_of_group: Must, needs [Nnp],
    source "sigaction(2), si_status for SIGCHLD; exit_group(2); waitid(2), which describes the same fields",
    known_defect "7.1 to 7.3: do_notify_parent() takes the leader's own exit code, where wait_task_zombie() takes the group's",
}
fn nnp_sigchld_has_status_of_group() -> Result {
    sigchld::block()?;
    let check = |flags| {
        let call = Clone3::fork().with(flags);
        // The first round nearly always hits; on a delayed vCPU, the leader may end first.
        for _ in rounds(4) {
            let child = call.spawn(|| threads::leader_exits_last(11, 99))?;
            let (pid, told) = (child.pid(), sigchld::next()?);
            child.reap_expecting(Status::exited(99))?;
            let what = format_args!("SIGCHLD of a child of {call} that waitpid() says exited with 99");
            let exited = |code| Event::exited(pid, code);
            check::equal_or_defect(what, told, exited(99), exited(11))?;
        }
        Ok(())
    };
    threads::with_slow_exits(|| check::each([Flags::empty(), Flags::NNP], check))
}
