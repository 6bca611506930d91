//! Calls that wait on clone3's own pidfd, which are references to it, and epoll, which only watches it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::kit::AutokillChild;
use clone3_conformance::kit::sleeper::{self, Sleeper};
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::retry_on_intr;

case! {
    /// poll on the pidfd of a living auto-kill child reports nothing; once it is dead, whether by the last
    /// close or otherwise, POLLIN and POLLHUP are reported on any pidfd of it that is still open.
    autokill_poll_before_after: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fs/pidfs.c pidfd_poll(); pidfd_open(2)",
}
fn autokill_poll_before_after() -> Result {
    let after = PollFlags::POLLIN | PollFlags::POLLHUP;
    let mut child = AutokillChild::new()?;
    for pidfd in [child.pidfd()?, child.observer()] {
        let before = pidfd.poll_now(PollFlags::POLLIN)?;
        check::equal(format_args!("poll on {pidfd} of a living child"), before, PollFlags::empty())?;
    }
    child.close()?;
    child.dies("after the last close of its pidfd")?;
    let plain = child.observer().poll_now(PollFlags::POLLIN)?;
    check::equal("poll on a pidfd_open pidfd after the auto-kill", plain, after)?;

    let child = AutokillChild::new()?;
    check::succeeds("pidfd_send_signal(SIGKILL)", child.pidfd()?.send_signal(Signal::SIGKILL))?;
    child.dies("of a SIGKILL that was sent")?;
    let own = child.pidfd()?.poll_now(PollFlags::POLLIN)?;
    check::equal("poll on the auto-kill pidfd after the child's death", own, after)
}

/// Returns an epoll instance that watches one descriptor for input.
fn watching(fd: impl std::os::fd::AsFd) -> Result<OwnedFd> {
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&watch, fd, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
    Ok(watch)
}

/// Returns what an epoll instance reports; if `blocking`, waits until there is something.
fn reported(watch: &OwnedFd, blocking: bool) -> Result<Vec<(u64, epoll::EventFlags)>> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut events = Vec::with_capacity(4);
    let timeout = if blocking { None } else { Some(&at_once) };
    // A stop or a freeze of the suite interrupts it.
    retry_on_intr(|| epoll::wait(watch, rustix::buffer::spare_capacity(&mut events), timeout))?;
    Ok(events.iter().map(|event| (event.data.u64(), event.flags)).collect())
}

case! {
    /// An epoll registration is no reference, not even in an instance that another one watches: the last close kills the child, and
    /// the registration is gone with the file, while one for another pidfd of the child reports its death.
    autokill_epoll_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "epoll(7), question 6: closing the last descriptor of an open file removes it from interest lists",
}
fn autokill_epoll_does_not_hold() -> Result {
    let death = vec![(1, epoll::EventFlags::IN | epoll::EventFlags::HUP)];
    let control = AutokillChild::new()?;
    let watch = watching(control.pidfd()?)?;
    check::equal("events of a living child", reported(&watch, false)?, vec![])?;
    check::succeeds("pidfd_send_signal(SIGKILL)", control.observer().send_signal(Signal::SIGKILL))?;
    control.dies("of a SIGKILL that was sent")?;
    check::equal(
        "control: events of a dead child with its pidfd open",
        reported(&watch, false)?,
        death.clone(),
    )?;

    let mut child = AutokillChild::new()?;
    let (watch, other) = (watching(child.pidfd()?)?, watching(child.observer())?);
    child.close()?;
    child.dies("after the last close of its pidfd, which an epoll instance watches")?;
    let mut nested = AutokillChild::new()?;
    let inner = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let _outer = watching(&inner)?;
    epoll::add(&inner, nested.pidfd()?, epoll::EventData::new_u64(1), epoll::EventFlags::IN)?;
    nested.close()?;
    nested
        .dies("after the last close of its pidfd, watched by an epoll instance that another one watches")?;
    check::equal("events of the closed pidfd", reported(&watch, false)?, vec![])?;
    check::equal("events of the other pidfd", reported(&other, false)?, death)
}

case! {
    /// A thread blocked in epoll_wait does not hold the pidfd that the epoll instance watches: the last close
    /// kills the child, and epoll_wait does not return.
    autokill_epoll_waiter_not_woken: Is, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "fs/eventpoll.c eventpoll_release_file()",
}
fn autokill_epoll_waiter_not_woken() -> Result {
    let mut child = AutokillChild::new()?;
    let watch = Arc::new(watching(child.pidfd()?)?);
    let wake = eventfd(0, EventfdFlags::CLOEXEC)?;
    epoll::add(&*watch, &wake, epoll::EventData::new_u64(2), epoll::EventFlags::IN)?;
    let waiter = Sleeper::start({
        let watch = Arc::clone(&watch);
        move || reported(&watch, true)
    })?;
    child.close()?;
    child.dies("after the last close of its pidfd, on which a thread waits with epoll")?;
    // The waiter gets an event only now. If the death had ended its call, that would have given another event, or none.
    rustix::io::write(&wake, &1_u64.to_ne_bytes())?;
    check::equal("events that the waiter got", waiter.join()??, vec![(2, epoll::EventFlags::IN)])
}

case! {
    /// A thread blocked in poll, ppoll or select on the pidfd holds its file: the close in another thread
    /// succeeds, but the child lives until that call ends.
    autokill_blocked_poll_holds: Is, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "fs/select.c __pollwait(), which takes a reference to the file",
}
fn autokill_blocked_poll_holds() -> Result {
    for (name, call) in sleeper::CALLS {
        let mut child = AutokillChild::new()?;
        let fd = child.pidfd()?.as_raw_fd();
        let waiter = Sleeper::start(move || call(fd))?;
        child.close()?;
        child.lives(&format!("after the close of its pidfd, on which a thread waits with {name}"))?;
        let ended = waiter.interrupt()?;
        child.dies(&format!("after the end of the {name} that held its pidfd"))?;
        // Woken by the signal, it looks up the descriptor again, finds it closed, and reports that (POLLNVAL).
        check::equal(format_args!("what the interrupted {name} gave"), ended, Ok(1))?;
    }
    Ok(())
}
