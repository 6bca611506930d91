//! References to clone3's own pidfd: copies of the descriptor, in this process and in others.

use std::os::fd::{AsRawFd, OwnedFd};

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::{Clone3, is_cloexec};
use clone3_conformance::kit::{AutokillChild, Blocked, End, Holder, WaitCall, fds};
use clone3_conformance::need::rounds;
use clone3_conformance::pidfd::Pidfd;
use nix::errno::Errno;

case! {
    /// By the time the last close of the pidfd returns, SIGKILL is pending for the child: if the child is blocked in a system call, it
    /// does not return to user mode.
    autokill_kill_queued_before_close_returns: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fs/pidfs.c pidfs_file_release(), which runs before close(2) returns",
}
fn autokill_kill_queued_before_close_returns() -> Result {
    for _ in rounds(20) {
        let mut child = AutokillChild::new()?;
        let copy = child.pidfd()?.try_clone()?;
        child.close()?;
        child.lives("after a close that was not the last")?;
        copy.close()?;
        child.is_dead_at_once("right after the last close")?;
        child.dies("after the last close")?;
    }
    Ok(())
}

case! {
    /// A waitid(P_PIDFD) that is blocked holds no reference to the pidfd: closing the descriptor in another thread kills the child,
    /// and the wait returns with ECHILD.
    autokill_blocked_waitid_does_not_hold: Is, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "kernel/exit.c kernel_waitid_prepare(), which keeps the struct pid and not the file; waitid(2)",
}
fn autokill_blocked_waitid_does_not_hold() -> Result {
    let mut child = AutokillChild::new()?;
    let wait = WaitCall::pidfd(child.pidfd()?, libc::WEXITED | libc::__WALL);
    let waiter = Blocked::in_call(wait)?;
    child.close()?;
    child.dies("after the last close of its pidfd, on which another thread is blocked in waitid(P_PIDFD)")?;
    check::equal(format_args!("{wait}, blocked at the close"), waiter.join()?, Err(Errno::ECHILD))
}

/// Returns a new descriptor of a file unrelated to pidfds, to be replaced.
fn unrelated() -> Result<OwnedFd> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?.0)
}

/// Returns copies of a descriptor, made in every possible way.
fn copies(fd: &Pidfd) -> Result<Vec<Pidfd>> {
    let (mut second, mut third) = (unrelated()?, unrelated()?);
    rustix::io::dup2(fd, &mut second)?;
    rustix::io::dup3(fd, &mut third, rustix::io::DupFlags::CLOEXEC)?;
    let first = rustix::io::dup(fd)?;
    let fourth = fds::dupfd(fd)?;
    let fifth = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
    Ok([first, second, third, fourth, fifth].map(Pidfd::from).into())
}

case! {
    /// Copies of the pidfd made by dup, dup2, dup3, F_DUPFD and F_DUPFD_CLOEXEC are one open file: only the
    /// close of the last of them kills the child, whichever that is.
    autokill_dup_extends: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"dup()/fork() share the same struct file\")",
}
fn autokill_dup_extends() -> Result {
    for original_goes_first in [true, false] {
        let mut child = AutokillChild::new()?;
        let mut all = copies(child.pidfd()?)?;
        let at = if original_goes_first { all.len() } else { 0 };
        all.insert(at, child.take()?);
        while let Some(copy) = all.pop() {
            child.lives("with copies of its pidfd open")?;
            copy.close()?;
        }
        child.dies("after the close of the last copy")?;
    }
    Ok(())
}

case! {
    /// dup2 and dup3 of another file onto the last descriptor of the pidfd kill the child, even if it is another pidfd of the child. dup2 of the descriptor onto itself does
    /// not; dup2 and dup3 of it onto a copy of it leave as many references as before.
    autokill_dup2_over_last_ref: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fs/file.c do_dup2(); dup(2) (\"the close is performed silently\")",
}
fn autokill_dup2_over_last_ref() -> Result {
    let other = unrelated()?;
    let mut child = AutokillChild::new()?;
    let mut last = OwnedFd::from(child.take()?);
    fds::dup2_onto_itself(&last)?;
    child.lives("after dup2 of its pidfd onto itself")?;
    let mut copy = rustix::io::dup(&last)?;
    rustix::io::dup2(&last, &mut copy)?;
    rustix::io::dup3(&last, &mut copy, rustix::io::DupFlags::CLOEXEC)?;
    Pidfd::from(copy).close()?;
    child.lives("after dup2 and dup3 of its pidfd onto a copy of it, which is closed")?;
    rustix::io::dup2(&other, &mut last)?;
    child.dies("after dup2 of another file onto its pidfd")?;

    let mut child = AutokillChild::new()?;
    let mut last = OwnedFd::from(child.take()?);
    rustix::io::dup3(&other, &mut last, rustix::io::DupFlags::CLOEXEC)?;
    child.dies("after dup3 of another file onto its pidfd")?;

    let mut child = AutokillChild::new()?;
    let mut last = OwnedFd::from(child.take()?);
    rustix::io::dup2(child.observer(), &mut last)?;
    child.dies("after dup2 of an ordinary pidfd of the child onto its pidfd")
}

case! {
    /// A forked process's copy of the pidfd keeps the child alive after the parent has closed its own. That process's close, exit,
    /// death by SIGKILL and exec (the descriptor is close-on-exec) kill the child, and do nothing to it while the parent holds the
    /// pidfd as well.
    autokill_fork_inherited: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"dup()/fork() share the same struct file\")",
}
fn autokill_fork_inherited() -> Result {
    let closes = |holder: Holder, fd| holder.close(fd).map(|()| Some(holder));
    let execs = |holder: Holder, _| holder.exec().map(|()| Some(holder));
    let exits = |holder: Holder, _| holder.end(End::Exit).map(|()| None);
    let is_killed = |holder: Holder, _| holder.end(End::Killed).map(|()| None);
    for lets_go in [closes, execs, exits, is_killed] {
        let mut child = AutokillChild::new()?;
        let fd = child.pidfd()?.as_raw_fd();
        let left = lets_go(Holder::fork()?, fd)?;
        child.lives("after a forked process let go of its pidfd, which the parent holds as well")?;
        left.map_or(Ok(()), |holder| holder.end(End::Exit))?;
        let holder = Holder::fork()?;
        child.close()?;
        child.lives("with a copy of its pidfd in a forked process")?;
        let left = lets_go(holder, fd)?;
        child.dies("after the forked process let go")?;
        left.map_or(Ok(()), |holder| holder.end(End::Exit))?;
    }
    Ok(())
}

case! {
    /// With FD_CLOEXEC cleared the copy in a forked process survives that process's exec and keeps the child
    /// alive; the end of the new program kills it.
    autokill_fork_inherited_cloexec_cleared: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; execve(2), on close-on-exec",
}
fn autokill_fork_inherited_cloexec_cleared() -> Result {
    let mut child = AutokillChild::new()?;
    let fd = child.pidfd()?.as_raw_fd();
    let holder = Holder::fork()?;
    child.close()?;
    holder.keep_over_exec(fd)?;
    holder.exec()?;
    child.lives("after an exec that kept the last copy of its pidfd open")?;
    holder.end(End::Killed)?;
    child.dies("after the end of the program that held its pidfd")
}

case! {
    /// A child made later inherits the pidfd of an earlier one and holds it: closing it in the parent does not
    /// kill the earlier child before the later one has died.
    autokill_sibling_inherits_hazard: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fork(2): the child gets copies of the parent's descriptors",
}
fn autokill_sibling_inherits_hazard() -> Result {
    let mut earlier = AutokillChild::new()?;
    let mut later = AutokillChild::new()?;
    earlier.close()?;
    earlier.lives("with a copy of its pidfd in a later child")?;
    later.close()?;
    later.dies("after the last close of its own pidfd")?;
    earlier.dies("after the end of the later child, which held the last copy of its pidfd")
}

case! {
    /// Closing the pidfd of one of two auto-kill children kills that one alone.
    autokill_two_children_independent: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"",
}
fn autokill_two_children_independent() -> Result {
    for earlier_first in [true, false] {
        let mut earlier = AutokillChild::new()?;
        let later = AutokillChild::prepared(&Clone3::new(Flags::KILLED_NNP), || earlier.close())?;
        let (mut first, mut second) = if earlier_first { (earlier, later) } else { (later, earlier) };
        first.close()?;
        first.dies("after the last close of its pidfd")?;
        second.lives("after the death of the other child")?;
        second.close()?;
        second.dies("after the last close of its pidfd")?;
    }
    Ok(())
}

case! {
    /// A copy made with pidfd_getfd is a reference like any other, with the same file status flags.
    autokill_pidfd_getfd_holds: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "pidfd_getfd(2) (\"refers to the same open file description\")",
}
fn autokill_pidfd_getfd_holds() -> Result {
    let mut child = AutokillChild::new()?;
    let number = child.pidfd()?.as_raw_fd();
    let holder = Holder::fork()?;
    let copy = Pidfd::from(Pidfd::open(holder.pid())?.getfd_of_child(number)?);
    check::equal("F_GETFL of the copy", copy.status_flags()?, child.pidfd()?.status_flags()?)?;
    child.close()?;
    holder.end(End::Exit)?;
    child.lives("with only a copy made by pidfd_getfd")?;
    copy.close()?;
    child.dies("after the close of the copy made by pidfd_getfd")
}

case! {
    /// close_range of the last descriptor kills the child; with CLOSE_RANGE_CLOEXEC it only marks the
    /// descriptor, and the exec kills.
    autokill_close_range: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "close_range(2)",
}
fn autokill_close_range() -> Result {
    let mut child = AutokillChild::new()?;
    fds::close_by_range(child.take()?)?;
    child.dies("after close_range of its pidfd")?;

    let mut child = AutokillChild::new()?;
    fds::keep_over_exec(child.pidfd()?)?;
    fds::mark_by_range(child.pidfd()?)?;
    check::equal("FD_CLOEXEC after CLOSE_RANGE_CLOEXEC", is_cloexec(child.pidfd()?)?, true)?;
    let holder = Holder::fork()?;
    child.close()?;
    child.lives("after CLOSE_RANGE_CLOEXEC")?;
    holder.exec()?;
    child.dies("after the exec of the process with the marked descriptor")?;
    holder.end(End::Exit)
}

case! {
    /// The pidfd is close-on-exec: an exec of the process that made the child kills it. With FD_CLOEXEC cleared
    /// the child lives on, until the new program ends.
    autokill_parent_exec_kills: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "kernel/fork.c pidfd_prepare(), with O_CLOEXEC; execve(2)",
}
fn autokill_parent_exec_kills() -> Result {
    let (creator, _, child) = AutokillChild::elsewhere()?;
    creator.exec()?;
    child.dies("after the exec of its parent")?;
    creator.end(End::Exit)?;

    let (creator, fd, child) = AutokillChild::elsewhere()?;
    creator.keep_over_exec(fd)?;
    creator.exec()?;
    child.lives("after an exec of its parent that kept its pidfd open")?;
    creator.end(End::Exit)?;
    child.dies("after the end of its parent")
}
