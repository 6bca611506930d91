//! What the end of an auto-reaped child wakes and what it does not, and what is reported and counted then.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::sigchld::{self, Reaction};
use clone3_conformance::kit::subject::leaves_zombie;
use clone3_conformance::kit::{Blocked, Gate, Held, WaitCall, subject, threads};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::signal::SaFlags;
use nix::unistd::getpgrp;
use rustix::event::{EventfdFlags, epoll, eventfd};

case! {
    /// When two threads are blocked in a wait for the last child, and it is auto-reaped, both return with ECHILD; for an ordinary
    /// child, one of them gets the zombie.
    autoreap_blocked_wait_two_threads: Must, needs [Autoreap, ExitInfo, Proc],
    source "waitpid(2), ECHILD; kernel/exit.c do_wait(), child_wait_callback()",
}
fn autoreap_blocked_wait_two_threads() -> Result {
    let wait = WaitCall::Waitpid(-1, libc::__WALL);
    subject::each(|call| {
        let child = Held::exiting_with(&call, 4)?;
        let waiters = [Blocked::in_call(wait)?, Blocked::in_call(wait)?];
        child.let_go()?;
        let mut found = Vec::new();
        for waiter in waiters {
            found.push(waiter.join()?);
        }
        found.sort_by_key(std::result::Result::is_err);
        let of_child = if child.reaps_itself() { Err(Errno::ECHILD) } else { Ok(Some(child.pid())) };
        let what = format!("what two calls {wait} gave, blocked at the end of a child of {call}");
        check::equal(what, found, vec![of_child, Err(Errno::ECHILD)])
    })
}

case! {
    /// A blocked waitid(P_PGID) or waitpid(-pgid) returns with ECHILD when the last child in that group is auto-reaped; for an
    /// ordinary child it returns the child.
    autoreap_blocked_wait_for_group: Must, needs [Autoreap, ExitInfo, Proc],
    source "waitid(2); kernel/exit.c pid_child_should_wake(), eligible_pid()",
}
fn autoreap_blocked_wait_for_group() -> Result {
    subject::each_reaped(|reaped| {
        let group = getpgrp().as_raw();
        for wait in
            [WaitCall::Group(group, libc::WEXITED | libc::__WALL), WaitCall::Waitpid(-group, libc::__WALL)]
        {
            for call in [leaves_zombie(), reaped.clone()] {
                let child = Held::exiting_with(&call, 4)?;
                let waiter = Blocked::in_call(wait)?;
                child.let_go()?;
                let expected = if child.reaps_itself() { Err(Errno::ECHILD) } else { Ok(Some(child.pid())) };
                check::equal(
                    format_args!("{wait}, blocked at the end of a child of {call}"),
                    waiter.join()?,
                    expected,
                )?;
            }
        }
        Ok(())
    })
}

/// Has the calling thread, the child's creator, wait for an event that comes when the child is gone and the thread is asleep
/// again. Returns the result of its epoll_wait.
fn epoll_wait_across_the_end_of(child: &Held) -> Result<std::result::Result<(), Errno>> {
    let (watch, event) = (epoll::create(epoll::CreateFlags::CLOEXEC)?, eventfd(0, EventfdFlags::CLOEXEC)?);
    epoll::add(&watch, &event, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
    let (creator, about_to_wait) = (threads::own_tid(), Gate::new()?);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let ended = end_beside_a_sleeper(child, creator, &about_to_wait);
            // After a failure, too: nothing else ends the wait.
            rustix::io::write(&event, &1_u64.to_ne_bytes())?;
            ended
        });
        about_to_wait.open()?;
        let mut events = Vec::with_capacity(1);
        let waited = epoll::wait(&watch, rustix::buffer::spare_capacity(&mut events), None);
        threads::join(other)?;
        Ok(waited.map(drop).map_err(check::errno_of))
    })
}

/// Waits until the child's creator sleeps and lets the child go; returns when the child is gone and the creator is asleep
/// again.
fn end_beside_a_sleeper(child: &Held, creator: i32, about_to_wait: &Gate) -> Result {
    // A handler of SIGCHLD can then run only in the other thread.
    sigchld::block()?;
    about_to_wait.wait();
    threads::wait_until_asleep(creator)?;
    child.let_go()?;
    if child.reaps_itself() {
        child.pidfd()?.wait_reaped()?;
    } else {
        // The pidfd becomes readable shortly before SIGCHLD is sent; a wait finds the zombie only after that.
        wait::find_zombie(child.pid())?;
    }
    // After a spurious wakeup, it would be asleep in a join by now.
    threads::wait_until_asleep(creator)
}

case! {
    /// The end of an auto-reaped child does not interrupt an epoll_wait of the thread that made it, whether SIGCHLD is caught or
    /// not; that of an ordinary child interrupts it (EINTR) if SIGCHLD is caught.
    autoreap_end_interrupts_nothing: Must, needs [Autoreap, Proc, Untraced],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"No exit signal is delivered\"); signal(7), interruption by handlers",
}
fn autoreap_end_interrupts_nothing() -> Result {
    subject::each_reaped(|call| {
        for (reaction, ordinary) in [(Reaction::Default, Ok(())), (Reaction::Count, Err(Errno::EINTR))] {
            sigchld::react(reaction, SaFlags::empty())?;
            let control = Held::exiting_with(&Clone3::fork().with(Flags::PIDFD), 4)?;
            let got = epoll_wait_across_the_end_of(&control)?;
            let what = format!("epoll_wait at the end of an ordinary child, SIGCHLD {reaction:?}");
            check::equal(format_args!("control: {what}"), got, ordinary)?;
            control.into_child().reap_expecting(Status::exited(4))?;

            let child = Held::exiting_with(&call, 4)?;
            let got = epoll_wait_across_the_end_of(&child)?;
            check::equal(
                format_args!("epoll_wait at the end of an auto-reaped child, SIGCHLD {reaction:?}"),
                got,
                Ok(()),
            )?;
        }
        Ok(())
    })
}

case! {
    /// A pending SIGCHLD of an ordinary child stays pending when an auto-reaped one ends.
    autoreap_pending_sigchld_stays: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"No exit signal is delivered\"); signal(7), pending signals",
}
fn autoreap_pending_sigchld_stays() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let ordinary = Clone3::fork().spawn(|| 4)?;
        ordinary.is_a_zombie(4)?;
        for child in [Held::exiting_with(&call, 5)?, Held::execed(&call, 5)?] {
            child.let_go()?;
            child.is_gone_with(Status::exited(5))?;
        }
        sigchld::pending_for(ordinary.pid(), libc::CLD_EXITED)?;
        ordinary.reap_expecting(Status::exited(4))
    })
}
