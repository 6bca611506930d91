//! References to clone3's own pidfd that an io_uring holds.
//!
//! Every child is created before the ring: it would otherwise inherit the ring and keep it open.

use std::mem::forget;

use clone3_conformance::case;
use clone3_conformance::check::Result;
use clone3_conformance::kit::uring::Ring;
use clone3_conformance::kit::{AutokillChild, End, Holder};
use clone3_conformance::pidfd::Pidfd;

/// A way to make a ring drop its reference to a registered pidfd.
type LetGo = fn(&Ring) -> Result;

/// Creates a child, and a ring that has the only reference to its pidfd once `hold` has given it one. The child must live.
fn held_by_ring(how: &str, hold: impl FnOnce(&mut Ring, &Pidfd) -> Result) -> Result<(AutokillChild, Ring)> {
    let mut child = AutokillChild::new()?;
    let mut ring = Ring::new()?;
    hold(&mut ring, child.pidfd()?)?;
    child.close()?;
    child.lives(how)?;
    Ok((child, ring))
}

case! {
    /// A pidfd registered as a fixed file of an io_uring keeps the child alive; unregistering it, emptying its slot,
    /// closing the ring and the death of the process that owns the ring kill the child.
    autokill_io_uring_fixed_file_holds: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "io_uring_register(2), IORING_REGISTER_FILES; commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_io_uring_fixed_file_holds() -> Result {
    let registered =
        || held_by_ring("with its pidfd registered in an io_uring", |ring, pidfd| ring.register_file(pidfd));
    let ways: [(LetGo, &str); 2] = [
        (Ring::unregister_files, "after the unregistering of its pidfd, with the ring still open"),
        (Ring::empty_slot, "after the slot of its pidfd was emptied, with the ring still open"),
    ];
    for (let_go, when) in ways {
        let (child, ring) = registered()?;
        let_go(&ring)?;
        child.dies_in_time(when)?;
        // Not earlier: closing the ring would kill the child, too.
        drop(ring);
    }
    let (child, ring) = registered()?;
    drop(ring);
    child.dies_in_time("after the close of the ring in which its pidfd was registered")?;

    let mut child = AutokillChild::new()?;
    let (owner, ()) = Holder::running(|| {
        let ring = Ring::new()?;
        ring.register_file(child.pidfd()?)?;
        forget(ring);
        child.close()
    })?;
    child.close()?;
    child.lives("with its pidfd registered in the io_uring of another process")?;
    owner.end(End::Killed)?;
    child.dies_in_time("after the death of the process with the ring")
}

case! {
    /// A pidfd that is registered with a tag keeps the child alive like another; unregistering it and closing the ring kill the
    /// child.
    autokill_io_uring_tagged_file_holds: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "io_uring_register(2), IORING_REGISTER_FILES2; commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_io_uring_tagged_file_holds() -> Result {
    let registered = || {
        held_by_ring("with its pidfd registered with a tag", |ring, pidfd| ring.register_file_with_tag(pidfd))
    };
    let (child, ring) = registered()?;
    ring.unregister_files()?;
    child.dies_in_time("after the unregistering of its pidfd, with the ring still open")?;
    // Not earlier: closing the ring would kill the child, too.
    drop(ring);

    let (child, ring) = registered()?;
    drop(ring);
    child.dies_in_time("after the close of the ring in which its pidfd was registered with a tag")
}

case! {
    /// A pidfd that one io_uring has passed to a slot of another (IORING_MSG_SEND_FD), with or without an event there, keeps the
    /// child alive until that ring is closed as well.
    autokill_io_uring_passed_file_holds: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "io_uring_enter(2), IORING_OP_MSG_RING; commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_io_uring_passed_file_holds() -> Result {
    for event in [true, false] {
        let mut child = AutokillChild::new()?;
        let (mut from, to) = (Ring::new()?, Ring::new()?);
        from.register_file(child.pidfd()?)?;
        to.register_empty_slot()?;
        from.pass_file_to(&to, event)?;
        from.unregister_files()?;
        child.close()?;
        child.lives("with its pidfd only in the slot of a ring that it was passed to")?;
        drop(to);
        child.dies_in_time(&format!(
            "after the close of the ring that its pidfd was passed to, event: {event}"
        ))?;
        drop(from);
    }
    Ok(())
}

case! {
    /// A descriptor installed from a slot of an io_uring (IORING_OP_FIXED_FD_INSTALL) is the same auto-kill pidfd: it keeps the
    /// child alive, and its close kills.
    autokill_io_uring_installed_file_kills: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "io_uring_enter(2), IORING_OP_FIXED_FD_INSTALL; commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_io_uring_installed_file_kills() -> Result {
    let mut child = AutokillChild::new()?;
    let mut ring = Ring::new()?;
    ring.register_file(child.pidfd()?)?;
    child.close()?;
    let installed = Pidfd::from(ring.install_file()?);
    drop(ring);
    child.lives("with a descriptor installed from the slot of a ring")?;
    installed.close()?;
    // The ring may drop its reference later than that.
    child.dies_in_time("after the close of the descriptor installed from the slot of a ring")
}

case! {
    /// A pending IORING_OP_POLL_ADD on the pidfd keeps the child alive until the request is cancelled or the
    /// ring is closed.
    autokill_io_uring_poll_holds: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "io_uring: a request holds the file that it works on until it is done",
}
fn autokill_io_uring_poll_holds() -> Result {
    let polled = || {
        held_by_ring("with an io_uring poll request pending on its pidfd", |ring, pidfd| {
            ring.start_poll(pidfd)
        })
    };
    let (child, mut ring) = polled()?;
    ring.cancel_poll()?;
    child.dies_in_time("after the cancelling of the poll request, with the ring still open")?;
    // Not earlier: closing the ring would kill the child, too.
    drop(ring);

    let (child, ring) = polled()?;
    drop(ring);
    child.dies_in_time("after the close of the ring with a poll request pending")
}

case! {
    /// IORING_OP_CLOSE of the last descriptor kills the child, as close(2) does, whether the caller executes it, or a worker of the
    /// kernel, or the kernel thread that serves the ring.
    autokill_io_uring_close_op: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\"); io_uring_enter(2)",
}
fn autokill_io_uring_close_op() -> Result {
    let mut child = AutokillChild::new()?;
    let mut ring = Ring::new()?;
    let copy = child.pidfd()?.try_clone()?;
    ring.close(child.take()?)?;
    child.lives("after an IORING_OP_CLOSE that was not the last close")?;
    ring.close(copy)?;
    child.dies_in_time("after IORING_OP_CLOSE of its last descriptor")?;

    let mut child = AutokillChild::new()?;
    Ring::new()?.close_in_worker(child.take()?)?;
    child.dies_in_time("after IORING_OP_CLOSE of its last descriptor, with IOSQE_ASYNC")?;

    let mut child = AutokillChild::new()?;
    Ring::served_by_kernel()?.close(child.take()?)?;
    child.dies_in_time("after IORING_OP_CLOSE of its last descriptor, on a ring with IORING_SETUP_SQPOLL")
}
