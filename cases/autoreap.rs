//! CLONE_AUTOREAP: a child that never becomes a zombie.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::process::{child_reporting, in_grandchild};
use clone3_conformance::kit::{Held, Orphan, sigchld, subject, threads};
use clone3_conformance::wait::{self, Event, Status, Who};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::Signal;

/// Checks, as the control of "no zombie", that the same child without CLONE_AUTOREAP becomes one.
fn control_is_a_zombie(code: i32) -> Result {
    let child = Clone3::new(Flags::PIDFD).spawn(|| code)?;
    child.pidfd()?.wait_exited()?;
    child.is_a_zombie(code).context("control without CLONE_AUTOREAP")?;
    child.reap_expecting(Status::exited(code))
}

case! {
    /// A child made with CLONE_AUTOREAP that exits is gone without a wait: its pidfd reports POLLHUP, its exit
    /// code is in PIDFD_GET_INFO, wait calls say ECHILD and its pid is free.
    autoreap_basic: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\"; selftest autoreap_basic",
}
fn autoreap_basic() -> Result {
    subject::each_reaped(|call| {
        control_is_a_zombie(42)?;
        let child = call.spawn(|| 42)?;
        child.is_gone_with(Status::exited(42))
    })
}

case! {
    /// An auto-reaped child that a signal kills reports the signal, in the format of a wait status.
    autoreap_signaled: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\"; selftest autoreap_signaled",
}
fn autoreap_signaled() -> Result {
    let control = Held::exiting_with(&Clone3::new(Flags::PIDFD), 0)?;
    control.kill(Signal::SIGKILL)?;
    let zombie = Event::killed(control.pid(), Signal::SIGKILL);
    check::equal("control without CLONE_AUTOREAP", wait::find_zombie(control.pid())?, zombie)?;
    control.into_child().reap_expecting(Status::SIGKILLED)?;

    let child = Held::exiting_with(&Clone3::new(Flags::REAPED), 0)?;
    check::succeeds("pidfd_send_signal(SIGKILL)", child.pidfd()?.send_signal(Signal::SIGKILL))?;
    child.is_gone_with(Status::SIGKILLED)
}

case! {
    /// CLONE_AUTOREAP works without CLONE_PIDFD: the child is gone without a wait, fire and forget.
    autoreap_without_pidfd: Must, needs [Autoreap],
    source "LKML, Linus Torvalds 2026-02-16 (\"unnecessary limitation\"); selftest autoreap_without_pidfd",
}
fn autoreap_without_pidfd() -> Result {
    let control = Clone3::new(Flags::empty()).spawn(|| 7)?;
    check::equal(
        "control without CLONE_AUTOREAP",
        wait::find_zombie(control.pid())?,
        Event::exited(control.pid(), 7),
    )?;
    control.reap_expecting(Status::exited(7))?;

    let child = Held::exiting_with(&Clone3::new(Flags::AUTOREAP), 7)?;
    let observer = child.observe()?;
    child.let_go()?;
    observer.wait_reaped()?;
    wait::no_child(child.pid())?;
    wait::pid_is_free(child.pid())
}

case! {
    /// CLONE_AUTOREAP with an exit_signal other than 0 is EINVAL, and makes no child.
    autoreap_rejects_exit_signal: Must, needs [Autoreap],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"exit_signal must be zero\"); selftest autoreap_rejects_exit_signal",
}
fn autoreap_rejects_exit_signal() -> Result {
    Clone3::new(Flags::AUTOREAP).accepted()?;
    for signal in [libc::SIGHUP, libc::SIGUSR1, libc::SIGCHLD, libc::SIGRTMAX()] {
        Clone3::new(Flags::empty()).exit_signal(signal as u64).accepted()?;
        Clone3::new(Flags::AUTOREAP).exit_signal(signal as u64).refused(Errno::EINVAL)?;
    }
    Ok(())
}

case! {
    /// CLONE_AUTOREAP with CLONE_PARENT is EINVAL, with and without CLONE_PIDFD, and makes no child.
    autoreap_rejects_parent: Must, needs [Autoreap],
    source "pull request vfs-7.1-rc1.pidfs; selftest autoreap_rejects_parent",
}
fn autoreap_rejects_parent() -> Result {
    in_grandchild(|| {
        Clone3::new(Flags::AUTOREAP).accepted()?;
        Clone3::new(Flags::CLONE_PARENT).accepted_elsewhere()?;
        for pidfd in [Flags::empty(), Flags::PIDFD] {
            Clone3::new(Flags::AUTOREAP | Flags::CLONE_PARENT | pidfd).refused(Errno::EINVAL)?;
        }
        Ok(())
    })
}

case! {
    /// CLONE_AUTOREAP with CLONE_THREAD is EINVAL, with and without CLONE_PIDFD, and starts no thread.
    autoreap_rejects_thread: Must, needs [Autoreap],
    source "pull request vfs-7.1-rc1.pidfs; selftest autoreap_rejects_thread",
}
fn autoreap_rejects_thread() -> Result {
    Clone3::new(Flags::THREAD).accepted()?;
    Clone3::new(Flags::AUTOREAP).accepted()?;
    for pidfd in [Flags::empty(), Flags::PIDFD] {
        Clone3::new(Flags::AUTOREAP | Flags::THREAD | pidfd).refused(Errno::EINVAL)?;
    }
    Ok(())
}

case! {
    /// An auto-reaped child whose parent dies stays auto-reaped: the subreaper that adopts it finds neither a child to wait for nor
    /// a SIGCHLD, although reparenting sets the child's exit signal to SIGCHLD.
    autoreap_reparent: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\"; selftest autoreap_reparent",
}
fn autoreap_reparent() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let control = Orphan::exiting_with(&Clone3::new(Flags::PIDFD), 3)?;
        control.let_go()?;
        wait::reap_expecting(control.pid, Status::exited(3))?;
        sigchld::pending_for(control.pid, libc::CLD_EXITED).context("control")?;

        let orphan = Orphan::exiting_with(&call, 3)?;
        orphan.let_go()?;
        orphan.pidfd.reaped_with(Status::exited(3))?;
        // A wait without __WALL would find a zombie here, as the exit signal is SIGCHLD by now.
        wait::no_such_child("waitid of the new parent, after the end", orphan.wait_now())?;
        wait::no_child(orphan.pid)?;
        sigchld::none_pending()
    })
}

case! {
    /// An auto-reaped process whose thread-group leader has exited is not reaped while another thread lives; it is reaped when the
    /// last thread exits, with that thread's status.
    autoreap_multithreaded: Must, needs [Autoreap, ExitInfo, Proc],
    source "selftest autoreap_multithreaded (\"only after all threads have exited\"); kernel/exit.c release_task()",
}
fn autoreap_multithreaded() -> Result {
    subject::each_reaped(|call| {
        let child = threads::leaderless(&call, 11, || 22)?;
        let pidfd = child.pidfd()?;
        check::equal(
            "poll on the pidfd while a thread lives",
            pidfd.poll_now(PollFlags::POLLIN)?,
            PollFlags::empty(),
        )?;
        let alive = wait::waitid(Who::Pid(child.pid()), libc::WEXITED | libc::WNOHANG | libc::__WALL);
        check::equal("waitid(WNOHANG|__WALL) while a thread lives", alive, Ok(None))?;
        child.let_go()?;
        child.is_gone_with(Status::exited(22))
    })
}

case! {
    /// Children forked by an auto-reaped process are ordinary: they become zombies, send SIGCHLD and can be waited for, while an
    /// auto-reaped child of the same process is gone without a wait.
    autoreap_no_inherit: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"not inherited\"); selftest autoreap_no_inherit",
}
fn autoreap_no_inherit() -> Result {
    subject::each_reaped(|call| {
        let (child, ()) = child_reporting(&call, || {
            sigchld::block()?;
            let grandchild = Clone3::fork().spawn(|| 77)?;
            let pid = grandchild.pid();
            check::equal("the grandchild", wait::find_zombie(pid)?, Event::exited(pid, 77))?;
            sigchld::pending_for(pid, libc::CLD_EXITED)?;
            grandchild.reap_expecting(Status::exited(77))?;

            let reaped = call.spawn(|| 78)?;
            reaped.pidfd()?.reaped_with(Status::exited(78))?;
            wait::no_children()
        })?;
        child.is_gone_with(Status::exited(0))
    })
}
