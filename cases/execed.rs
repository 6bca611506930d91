//! Exec and reparenting set an auto-reaped child's exit signal to SIGCHLD: what that changes, and what it does not.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Clone3, exit_now, park};
use clone3_conformance::kit::process::{own_pid, reap_all};
use clone3_conformance::kit::replacing::Replacing;
use clone3_conformance::kit::threads::own_tid;
use clone3_conformance::kit::{Channel, Gate, Handover, Held, Orphan, programs, sigchld, subject};
use clone3_conformance::procfs::Stat;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Checks that a wait for "clone" children only, without `__WALL`, finds this one if that is `expected`.
#[track_caller]
fn is_clone_child(pid: i32, expected: bool, what: &str) -> Result {
    let got = wait::waitpid(pid, libc::WNOHANG | libc::__WCLONE);
    let expected = if expected { Ok(None) } else { Err(Errno::ECHILD) };
    check::equal(format_args!("waitpid(WNOHANG|__WCLONE) for {what}"), got, expected)
}

/// The caller is a leader. Starts threads until the clock has gone on since its own start, and has the last of them run `exec`.
fn exec_in_later_thread(exec: impl Fn() + Sync) {
    let start_of = |task: i32| Stat::read(&format!("/proc/self/task/{task}/stat")).map(|stat| stat.start);
    let start = start_of(own_pid());
    while start.is_some() {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if start_of(own_tid()) > start {
                    exec();
                }
            });
        });
    }
}

case! {
    /// The start time of an auto-reaped process (field 22 of /proc/PID/stat) remains that of its first thread when another thread
    /// execs, like that of an ordinary one.
    autoreap_start_time_outlasts_nonleader_exec: Is, needs [Autoreap, ExitInfo, Proc],
    source "fs/exec.c de_thread(); proc_pid_stat(5), starttime",
}
fn autoreap_start_time_outlasts_nonleader_exec() -> Result {
    subject::each(|call| {
        let (ready, end) = (Channel::<Result>::new()?, Gate::new()?);
        let program = programs::hold(&ready, &end, 5)?;
        let child = call.spawn(|| {
            exec_in_later_thread(|| {
                let _ = ready.send(&Err(program.exec()));
                exit_now(98)
            });
            98
        })?;
        let start = || Stat::of(child.pid()).map(|stat| stat.start);
        let before = start();
        ready.recv_from(&child)??;
        check::equal(format_args!("start time of a child of {call} after a thread's exec"), start(), before)?;
        end.open()?;
        child.ends_with(Status::exited(5))
    })
}

case! {
    /// A wait with __WCLONE finds an auto-reaped child, like any child with exit signal 0, but no longer once it has called exec or
    /// was reparented.
    autoreap_clone_child_until_exec: Must, needs [Autoreap, ExitInfo],
    source "wait(2), __WCLONE; kernel/exit.c eligible_child(); commit \"clone: add CLONE_AUTOREAP\"",
}
fn autoreap_clone_child_until_exec() -> Result {
    subject::each_reaped(|reaped| {
        for call in [Clone3::new(Flags::PIDFD), reaped.clone()] {
            let child = Held::exiting_with(&call, 0)?;
            is_clone_child(child.pid(), true, &format!("a child of {call}"))?;
            child.into_child().clear_away()?;
            let child = Held::execed(&call, 0)?;
            is_clone_child(child.pid(), false, &format!("a child of {call} that called exec"))?;
            child.into_child().clear_away()?;
            let orphan = Orphan::running(&call, park)?;
            is_clone_child(orphan.pid, false, &format!("an adopted child of {call}"))?;
            kill(Pid::from_raw(orphan.pid), Signal::SIGKILL)?;
            if !call.flags().contains(Flags::AUTOREAP) {
                wait::reap(orphan.pid)?;
            }
            orphan.pidfd.wait_reaped()?;
        }
        Ok(())
    })
}

/// Checks that the stop and the continuation of this child each send a SIGCHLD.
#[track_caller]
fn stop_is_announced(pid: i32, what: &str) -> Result {
    for (signal, code) in [(Signal::SIGSTOP, libc::CLD_STOPPED), (Signal::SIGCONT, libc::CLD_CONTINUED)] {
        kill(Pid::from_raw(pid), signal)?;
        sigchld::arrives_for(pid, code).context(format_args!("{signal} for {what}"))?;
    }
    Ok(())
}

case! {
    /// The parent gets SIGCHLD when a child that has called exec, or that was reparented to it, stops and when it continues,
    /// auto-reaped or not.
    autoreap_stop_announced_after_exec: Must, needs [Autoreap, ExitInfo],
    source "wait(2); sigaction(2), SA_NOCLDSTOP; kernel/signal.c do_notify_parent_cldstop()",
}
fn autoreap_stop_announced_after_exec() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let child = Held::execed(&call, 0)?;
        stop_is_announced(child.pid(), &format!("a child of {call} that called exec"))?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        // An ordinary child's end sends one, too.
        let _ = sigchld::take();
        let orphan = Orphan::exiting_with(&call, 0)?;
        stop_is_announced(orphan.pid, &format!("an adopted child of {call}"))?;
        orphan.let_go()?;
        if !call.flags().contains(Flags::AUTOREAP) {
            wait::reap_expecting(orphan.pid, Status::exited(0))?;
        }
        orphan.pidfd.wait_reaped()?;
        let _ = sigchld::take();
        Ok(())
    })
}

case! {
    /// An auto-reaped init of a pid namespace that was reparented leaves no zombie. An ordinary one does.
    autoreap_adopted_init_leaves_no_zombie: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/exit.c reparent_leader()",
}
fn autoreap_adopted_init_leaves_no_zombie() -> Result {
    let ordinary = Orphan::exiting_with(&Clone3::new(Flags::PIDFD | Flags::CLONE_NEWPID), 5)?;
    ordinary.let_go()?;
    wait::reap_expecting(ordinary.pid, Status::exited(5)).context("control: an ordinary init")?;
    let init = Orphan::exiting_with(&Clone3::new(Flags::REAPED | Flags::CLONE_NEWPID), 5)?;
    init.let_go()?;
    init.pidfd.gone_with(init.pid, Status::exited(5)).context("an auto-reaped init that was adopted")
}

case! {
    /// An auto-reaped child leaves no zombie even if the thread that made it has been replaced by another thread's exec. An
    /// ordinary one does.
    autoreap_kept_when_creators_thread_is_replaced: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\"; execve(2), on threads; kernel/exit.c forget_original_parent()",
}
fn autoreap_kept_when_creators_thread_is_replaced() -> Result {
    subject::each(|call| {
        let (gate, handover) = (Gate::new()?, Handover::arrange()?);
        let creator = Replacing::new(&Clone3::fork(), 0, || {
            let child = call.spawn(|| {
                gate.wait();
                5
            });
            if handover.give(child) { park() } else { 98 }
        })?;
        let child = handover.take_from(&creator.child)?;
        creator.exec()?;
        gate.open()?;
        if call.flags().contains(Flags::AUTOREAP) {
            child.reaped_with(Status::exited(5)).context("auto-reaped, when its creator has called exec")?;
        } else {
            child.wait_exited()?;
            let now = child.poll_now(PollFlags::POLLIN)?;
            check::equal("control: poll of an ordinary zombie", now, PollFlags::POLLIN)?;
        }
        let creator = creator.into_held();
        creator.let_go()?;
        wait::reap_expecting(creator.pid(), Status::exited(0))?;
        Ok(())
    })?;
    // The ordinary child has been reparented to the caller.
    reap_all()
}
