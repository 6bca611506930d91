//! Wait calls for auto-reaped children: what they see of a live child, and how they end when the child does.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::helper::Command;
use clone3_conformance::kit::pair::Pair;
use clone3_conformance::kit::process::spawn_once_free;
use clone3_conformance::kit::subject::{ends_by_its_kind, leaves_zombie, reaped};
use clone3_conformance::kit::threads::in_a_thread;
use clone3_conformance::kit::{Blocked, Found, Grandchild, Held, Orphan, WaitCall, subject, threads};
use clone3_conformance::note;
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::getpgrp;

const NO_CHILD: Found = Err(Errno::ECHILD);
const ALIVE: Found = Ok(None);

/// Returns the ways to wait for the end of a child, with these options.
fn ways_to_wait(child: &Child, options: i32) -> Result<[WaitCall; 6]> {
    let pid = child.pid();
    Ok([
        WaitCall::Waitpid(pid, options),
        WaitCall::Waitpid(-1, options),
        WaitCall::Pid(pid, libc::WEXITED | options),
        WaitCall::Pidfd(std::os::fd::AsRawFd::as_raw_fd(child.pidfd()?), libc::WEXITED | options),
        WaitCall::Group(getpgrp().as_raw(), libc::WEXITED | options),
        WaitCall::Pid(pid, libc::WEXITED | libc::WNOWAIT | options),
    ])
}

case! {
    /// A process cannot wait for a child of its child (ECHILD), by pid or by pidfd, auto-reaped or not, until that is reparented to it.
    autoreap_no_child_of_grandparent: Must, needs [Autoreap, ExitInfo],
    source "waitpid(2) and waitid(2), ECHILD (\"not a child of the calling process\")",
}
fn autoreap_no_child_of_grandparent() -> Result {
    let options = libc::WNOHANG | libc::__WALL;
    let ask = |pid: i32, pidfd: &Pidfd, whose: &str, expected: Found| {
        let by_pidfd = WaitCall::pidfd(pidfd, libc::WEXITED | options);
        [WaitCall::Waitpid(pid, options), WaitCall::Pid(pid, libc::WEXITED | options), by_pidfd]
            .into_iter()
            .try_for_each(|wait| check::equal(format_args!("{wait}, of {whose}"), wait.make(), expected))
    };
    subject::each(|call| {
        let grandchild = Grandchild::below(&Clone3::fork(), &call, 5)?;
        ask(grandchild.pid, &grandchild.pidfd, "a child of a child", NO_CHILD)?;
        let orphan = grandchild.orphan()?;
        ask(orphan.pid, &orphan.pidfd, "an adopted child: control", ALIVE)?;
        orphan.let_go()?;
        ends_by_its_kind(&call, orphan.pid, &orphan.pidfd, Status::exited(5))
    })
}

case! {
    /// Wait calls treat a live auto-reaped child like any child with exit_signal 0: they find it with __WALL or __WCLONE, and not
    /// without. They find an ordinary child with __WALL or with neither.
    autoreap_wait_alive_matrix: Is, needs [Autoreap],
    source "kernel/exit.c eligible_child(); wait(2)",
}
fn autoreap_wait_alive_matrix() -> Result {
    subject::each_reaped(|reaped| {
        let ordinary = Clone3::fork().with(Flags::PIDFD);
        for (call, plain, clone) in [(ordinary, ALIVE, NO_CHILD), (reaped.clone(), NO_CHILD, ALIVE)] {
            let child = Held::exiting_with(&call, 0)?;
            for (option, expected) in [(0, plain), (libc::__WCLONE, clone), (libc::__WALL, ALIVE)] {
                let stops = WaitCall::Pid(child.pid(), libc::WSTOPPED | libc::WNOHANG | option);
                for wait in ways_to_wait(&child, libc::WNOHANG | option)?.into_iter().chain([stops]) {
                    check::equal(format_args!("{wait} with a live child of {call}"), wait.make(), expected)?;
                }
            }
            child.into_child().clear_away()?;
        }
        Ok(())
    })
}

case! {
    /// After the end of an auto-reaped child every form of wait says ECHILD at once, blocking or not.
    autoreap_wait_dead_matrix: Must, needs [Autoreap],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/exit.c release_task()",
}
fn autoreap_wait_dead_matrix() -> Result {
    subject::each_reaped(|call| {
        for options in [libc::__WALL, libc::__WALL | libc::WNOHANG] {
            for form in 0..6 {
                let zombie = leaves_zombie().spawn(|| 0)?;
                wait::find_zombie(zombie.pid())?;
                let wait = ways_to_wait(&zombie, options)?[form];
                check::equal(
                    format_args!("control: {wait} with a zombie"),
                    wait.make(),
                    Ok(Some(zombie.pid())),
                )?;
                // The form with WNOWAIT leaves the zombie; the others have reaped it.
                let _ = wait::waitpid(zombie.pid(), libc::__WALL);
            }
            let child = call.spawn(|| 0)?;
            child.pidfd()?.wait_reaped()?;
            for wait in ways_to_wait(&child, options)? {
                check::equal(format_args!("{wait} after the child's end"), wait.make(), NO_CHILD)?;
            }
        }
        Ok(())
    })
}

/// Blocks a thread in a wait call while the child lives, then lets the child exit. The call must find a child that leaves a
/// zombie, and must return ECHILD for an auto-reaped one.
fn ends_with_the_child(wait_for: fn(&Child) -> Result<WaitCall>) -> Result {
    let control = Held::exiting_with(&leaves_zombie(), 4)?;
    let wait = wait_for(&control)?;
    let waiter = Blocked::in_call(wait)?;
    control.let_go()?;
    check::equal(format_args!("control: {wait}"), waiter.join()?, Ok(Some(control.pid())))?;
    // A zombie is left only after WNOWAIT.
    let _ = wait::waitpid(control.pid(), libc::__WALL);

    let child = Held::exiting_with(&reaped(), 4)?;
    let wait = wait_for(&child)?;
    let waiter = Blocked::in_call(wait)?;
    child.let_go()?;
    check::equal(format_args!("{wait}, blocked at the child's end"), waiter.join()?, NO_CHILD)?;
    child.pidfd()?.reaped_with(Status::exited(4))
}

case! {
    /// A blocked waitpid(-1, __WALL) returns with ECHILD when the caller's last child is auto-reaped.
    autoreap_blocked_waitpid_any: Must, needs [Autoreap, ExitInfo, Proc],
    source "waitpid(2); kernel/signal.c do_notify_parent() (__wake_up_parent)",
}
fn autoreap_blocked_waitpid_any() -> Result {
    ends_with_the_child(|_| Ok(WaitCall::Waitpid(-1, libc::__WALL)))
}

case! {
    /// A blocked waitpid(pid, __WALL) returns with ECHILD when that child is auto-reaped.
    autoreap_blocked_waitpid_pid: Must, needs [Autoreap, ExitInfo, Proc],
    source "waitpid(2); kernel/signal.c do_notify_parent() (__wake_up_parent)",
}
fn autoreap_blocked_waitpid_pid() -> Result {
    ends_with_the_child(|child| Ok(WaitCall::Waitpid(child.pid(), libc::__WALL)))
}

case! {
    /// A blocked waitid(P_PIDFD) with __WALL or __WCLONE returns with ECHILD when the child is auto-reaped.
    autoreap_blocked_waitid_pidfd: Must, needs [Autoreap, ExitInfo, Proc],
    source "waitid(2); kernel/signal.c do_notify_parent() (__wake_up_parent)",
}
fn autoreap_blocked_waitid_pidfd() -> Result {
    ends_with_the_child(|child| Ok(WaitCall::pidfd(child.pidfd()?, libc::WEXITED | libc::__WALL)))?;
    ends_with_the_child(|child| Ok(WaitCall::pidfd(child.pidfd()?, libc::WEXITED | libc::__WCLONE)))
}

case! {
    /// A blocked waitpid(pid, __WCLONE) returns with ECHILD when the auto-reaped child ends after an exec, which made it a child that
    /// __WCLONE does not find.
    autoreap_blocked_clone_wait_outlasts_exec: Must, needs [Autoreap, ExitInfo, Proc],
    source "waitpid(2), ECHILD, __WCLONE; kernel/exit.c child_wait_callback(), eligible_child()",
}
fn autoreap_blocked_clone_wait_outlasts_exec() -> Result {
    let command = Command::new("exit", &[])?.number(4);
    subject::each_reaped(|call| {
        let child = Held::running(&call, || {
            note!("exec in the child: {:?}", command.exec());
            98
        })?;
        let wait = WaitCall::Waitpid(child.pid(), libc::__WCLONE);
        let waiter = Blocked::in_call(wait)?;
        child.let_go()?;
        check::equal(format_args!("{wait}, blocked at the child's end"), waiter.join()?, NO_CHILD)?;
        child.pidfd()?.reaped_with(Status::exited(4))
    })
}

case! {
    /// waitid(P_PIDFD) waits for the process that the pidfd refers to: when that is gone it is ECHILD, though another child of the
    /// caller has the same pid now, and a zombie of its own to be waited for.
    autoreap_pidfd_wait_is_not_by_number: Must, needs [Autoreap, ExitInfo, CheckpointRestore],
    source "waitid(2), P_PIDFD, ECHILD; pidfd_open(2): a pidfd refers to a process, not to a number",
}
fn autoreap_pidfd_wait_is_not_by_number() -> Result {
    const OPTIONS: i32 = libc::WEXITED | libc::WNOHANG | libc::__WALL;
    subject::each(|call| {
        let gone = Held::exiting_with(&call, 0)?;
        let wait = WaitCall::pidfd(gone.pidfd()?, OPTIONS);
        check::equal(format_args!("control: {wait} while the child lives"), wait.make(), ALIVE)?;
        gone.end(false)?;
        let heir = spawn_once_free(&leaves_zombie().set_tid(&[gone.pid()]), || 7)?;
        heir.pidfd()?.wait_exited()?;
        let what =
            format!("{wait} with the pidfd of a child of {call} that is gone, whose pid another child has");
        check::equal(what, wait.make(), NO_CHILD)?;
        heir.reap_expecting(Status::exited(7))
    })
}

case! {
    /// A blocked waitid(P_ALL) with WNOWAIT returns with ECHILD when the last child is auto-reaped.
    autoreap_blocked_waitid_wnowait: Must, needs [Autoreap, ExitInfo, Proc],
    source "waitid(2); kernel/signal.c do_notify_parent() (__wake_up_parent)",
}
fn autoreap_blocked_waitid_wnowait() -> Result {
    ends_with_the_child(|_| Ok(WaitCall::Any(libc::WEXITED | libc::WNOWAIT | libc::__WALL)))
}

case! {
    /// A blocked wait for stops alone also returns with ECHILD when the child is auto-reaped.
    autoreap_blocked_wait_stopped_only: Is, needs [Autoreap, ExitInfo, Proc],
    source "kernel/signal.c do_notify_parent() (__wake_up_parent)",
}
fn autoreap_blocked_wait_stopped_only() -> Result {
    subject::each_reaped(|call| {
        let child = Held::exiting_with(&call, 4)?;
        let wait = WaitCall::Pid(child.pid(), libc::WSTOPPED | libc::__WALL);
        let waiter = Blocked::in_call(wait)?;
        child.kill(Signal::SIGSTOP)?;
        check::equal(format_args!("control: {wait}, at a stop"), waiter.join()?, Ok(Some(child.pid())))?;

        let waiter = Blocked::in_call(wait)?;
        child.let_go()?;
        child.kill(Signal::SIGCONT)?;
        check::equal(format_args!("{wait}, blocked at the child's end"), waiter.join()?, NO_CHILD)?;
        child.pidfd()?.reaped_with(Status::exited(4))
    })
}

case! {
    /// A wait for any child stays blocked when an auto-reaped child ends while another child lives, and then
    /// gets that one.
    autoreap_blocked_wait_two_children: Must, needs [Autoreap, ExitInfo, Proc],
    source "waitpid(2); kernel/exit.c do_wait()",
}
fn autoreap_blocked_wait_two_children() -> Result {
    subject::each_reaped(|call| {
        let child = Held::exiting_with(&call, 1)?;
        let ordinary = Held::exiting_with(&Clone3::fork(), 2)?;
        let waiter = Blocked::in_call(WaitCall::Waitpid(-1, libc::__WALL))?;
        child.let_go()?;
        child.pidfd()?.reaped_with(Status::exited(1))?;
        waiter.is_blocked("after the end of the auto-reaped child, with an ordinary one alive")?;
        ordinary.let_go()?;
        check::equal("waitpid(-1, __WALL)", waiter.join()?, Ok(Some(ordinary.pid())))
    })
}

case! {
    /// After reparenting a plain waitpid(-1, 0) sees the live auto-reaped child and blocks; it returns with
    /// ECHILD when the child ends.
    autoreap_blocked_wait_after_reparent: Must, needs [Autoreap, ExitInfo, Proc],
    source "waitpid(2); kernel/exit.c reparent_leader() (sets exit_signal to SIGCHLD)",
}
fn autoreap_blocked_wait_after_reparent() -> Result {
    subject::each_reaped(|call| {
        let control = Orphan::exiting_with(&leaves_zombie(), 4)?;
        let waiter = Blocked::in_call(WaitCall::Waitpid(-1, 0))?;
        control.let_go()?;
        check::equal("control: waitpid(-1, 0) by the new parent", waiter.join()?, Ok(Some(control.pid)))?;

        let child = Orphan::exiting_with(&call, 4)?;
        let waiter = Blocked::in_call(WaitCall::Waitpid(-1, 0))?;
        child.let_go()?;
        check::equal("waitpid(-1, 0) by the new parent", waiter.join()?, NO_CHILD)?;
        child.pidfd.reaped_with(Status::exited(4))
    })
}

case! {
    /// After the child's exec a plain waitpid(pid, 0) sees the live auto-reaped child and blocks; it returns
    /// with ECHILD when the child ends.
    autoreap_blocked_wait_after_child_exec: Must, needs [Autoreap, ExitInfo, Proc],
    source "waitpid(2); fs/exec.c de_thread() (sets exit_signal to SIGCHLD)",
}
fn autoreap_blocked_wait_after_child_exec() -> Result {
    subject::each_reaped(|call| {
        let control = Held::execed(&leaves_zombie(), 4)?;
        let waiter = Blocked::in_call(WaitCall::Waitpid(control.pid(), 0))?;
        control.let_go()?;
        check::equal("control: waitpid(pid, 0)", waiter.join()?, Ok(Some(control.pid())))?;

        let child = Held::execed(&call, 4)?;
        let waiter = Blocked::in_call(WaitCall::Waitpid(child.pid(), 0))?;
        child.let_go()?;
        check::equal("waitpid(pid, 0), blocked at the end of an execed child", waiter.join()?, NO_CHILD)?;
        child.pidfd()?.reaped_with(Status::exited(4))
    })
}

case! {
    /// With __WNOTHREAD a thread that did not make the auto-reaped child gets ECHILD at once; the thread that made it finds the
    /// child.
    autoreap_wnothread_other_thread: Must, needs [Autoreap],
    source "waitpid(2) (__WNOTHREAD); kernel/exit.c do_wait()",
}
fn autoreap_wnothread_other_thread() -> Result {
    subject::each_reaped(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let look = WaitCall::Waitpid(child.pid(), libc::__WALL | libc::WNOHANG);
        let own = WaitCall::Waitpid(child.pid(), libc::__WALL | libc::WNOHANG | libc::__WNOTHREAD);
        let block = WaitCall::Waitpid(child.pid(), libc::__WALL | libc::__WNOTHREAD);
        check::equal(format_args!("control: {own} by the thread that made the child"), own.make(), ALIVE)?;
        let (looked, blocked) = in_a_thread(|| Ok((look.make(), block.make())))?;
        check::equal(format_args!("control: {look} by another thread"), looked, ALIVE)?;
        check::equal(format_args!("{block} by another thread"), blocked, NO_CHILD)?;
        child.into_child().clear_away()
    })
}

case! {
    /// waitid(P_PIDFD) on a non-blocking pidfd of a live auto-reaped child is EAGAIN, and ECHILD after its end.
    autoreap_nonblock_pidfd_waitid: Must, needs [Autoreap],
    source "pidfd_open(2) (PIDFD_NONBLOCK); kernel/exit.c kernel_waitid_prepare()",
}
fn autoreap_nonblock_pidfd_waitid() -> Result {
    subject::each_reaped(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let wait = WaitCall::pidfd(child.pidfd()?, libc::WEXITED | libc::__WALL);
        let look = WaitCall::pidfd(child.pidfd()?, libc::WEXITED | libc::__WALL | libc::WNOHANG);
        check::equal(format_args!("control: {look}, alive"), look.make(), ALIVE)?;
        let of_thread = Pidfd::of_thread(child.pid())?;
        for (pidfd, what) in [(child.pidfd()?, "O_NONBLOCK"), (&of_thread, "O_NONBLOCK and PIDFD_THREAD")] {
            pidfd.set_status_flags(OFlag::O_NONBLOCK)?;
            let wait = WaitCall::pidfd(pidfd, libc::WEXITED | libc::__WALL);
            check::equal(format_args!("{wait} with {what}, alive"), wait.make(), Err(Errno::EAGAIN))?;
        }
        child.let_go()?;
        child.pidfd()?.wait_reaped()?;
        check::equal(format_args!("{wait} with O_NONBLOCK, after the end"), wait.make(), NO_CHILD)
    })
}

case! {
    /// Of auto-reaped and ordinary children mixed, wait calls get exactly the ordinary ones, and then ECHILD.
    autoreap_mixed_children: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (auto-reaping for selected children only)",
}
fn autoreap_mixed_children() -> Result {
    subject::each_reaped(|reaped| {
        let mut children = Vec::new();
        for code in 0..6 {
            let call = if code % 2 == 0 { Clone3::fork().with(Flags::PIDFD) } else { reaped.clone() };
            children.push(call.spawn(|| code)?);
        }
        for child in &children {
            child.pidfd()?.wait_exited()?;
        }
        let mut found = Vec::new();
        while let Ok(Some((pid, status))) = wait::waitpid(-1, libc::__WALL) {
            found.push((pid, status));
        }
        found.sort_by_key(|(_, status)| status.0);
        let ordinary = (0..6).step_by(2).map(|code| (children[code].pid(), Status::exited(code as i32)));
        check::equal("what waitpid(-1, __WALL) got", found, ordinary.collect())?;
        wait::no_children()?;
        for code in [1, 3, 5] {
            children[code].pidfd()?.reaped_with(Status::exited(code as i32))?;
        }
        Ok(())
    })
}

case! {
    /// A blocked wait for an auto-reaped child whose leader has ended returns with ECHILD when the last thread ends.
    autoreap_blocked_wait_leaderless: Must, needs [Autoreap, ExitInfo, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/exit.c release_task(); wait(2), ECHILD",
}
fn autoreap_blocked_wait_leaderless() -> Result {
    subject::each_reaped(|call| {
        let child = threads::leaderless(&call, 11, || 22)?;
        let wait = WaitCall::Waitpid(-1, libc::__WALL);
        let waiter = Blocked::in_call(wait)?;
        child.let_go()?;
        check::equal(format_args!("{wait}, blocked at the child's end"), waiter.join()?, NO_CHILD)?;
        child.pidfd()?.reaped_with(Status::exited(22))
    })
}

case! {
    /// For a wait call only a child's own pid names the child, auto-reaped or not; the tid of another of its threads is ECHILD.
    autoreap_wait_by_thread_id: Must, needs [Autoreap],
    source "wait(2) (\"the child whose process ID is equal to the value of pid\"); kernel/exit.c do_wait_pid()",
}
fn autoreap_wait_by_thread_id() -> Result {
    subject::each(|call| {
        let pair = Pair::new(&call)?;
        for (number, expected) in [(pair.child.pid(), ALIVE), (pair.other, NO_CHILD)] {
            let options = libc::WNOHANG | libc::__WALL;
            for wait in [WaitCall::Waitpid(number, options), WaitCall::Pid(number, libc::WEXITED | options)] {
                check::equal(format_args!("{wait} with a live child of {call}"), wait.make(), expected)?;
            }
        }
        pair.child.clear_away()
    })
}
