//! References to clone3's own pidfd that an io_uring holds.
//!
//! Every child is created before the ring: it would otherwise inherit the ring and keep it open.

use std::mem::forget;

use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::kit::uring::Ring;
use clone3_conformance::kit::{AutokillChild, End, Holder};
use clone3_conformance::pidfd::Pidfd;
use nix::errno::Errno;
use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::{PipeFlags, pipe_with};

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
        to.register_empty_slots(1)?;
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
    /// Another file that is put into the slot with the last reference (IORING_REGISTER_FILES_UPDATE, IORING_MSG_SEND_FD) kills the
    /// child; an update that skips the slot (IORING_REGISTER_FILES_SKIP) leaves it alone, and so does a file that is put into a
    /// slot of the kernel's choice.
    autokill_io_uring_replaced_file_kills: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "io_uring_register(2), io_uring_enter(2); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_io_uring_replaced_file_kills() -> Result {
    let in_first_of_two = || {
        held_by_ring("with its pidfd in one of two slots of an io_uring", |ring, pidfd| {
            ring.register_empty_slots(2)?;
            ring.fill_slot(pidfd)
        })
    };
    let other = eventfd(0, EventfdFlags::CLOEXEC)?;
    let (child, mut ring) = in_first_of_two()?;
    ring.skip_slot()?;
    child.lives("after an update that skips the slot of its pidfd")?;
    let slot = check::succeeds("IORING_OP_FILES_UPDATE", ring.fill_free_slot(&other)?)?;
    check::equal("the slot that is free", slot, 1)?;
    child.lives("after another file was put into a free slot")?;
    ring.fill_slot(&other)?;
    child.dies_in_time("after another file was put into the slot of its pidfd")?;
    drop(ring);

    let (child, ring) = in_first_of_two()?;
    let mut from = Ring::new()?;
    from.register_file(&other)?;
    from.pass_file_to(&ring, true)?;
    child.dies_in_time("after another ring passed a file to the slot of its pidfd")
}

case! {
    /// Requests that fail keep no reference to the pidfd: registering it together with a closed descriptor (EBADF), putting it into
    /// a full table (ENFILE), passing it to a ring without a table (ENXIO), and splicing from it (EINVAL).
    autokill_io_uring_failed_request_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "io_uring_register(2), io_uring_enter(2); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_io_uring_failed_request_does_not_hold() -> Result {
    type Fail = fn(&mut Ring, &Pidfd) -> Result;
    let ways: [(&str, Fail); 4] = [
        ("was to be registered together with a closed descriptor", |ring, pidfd| {
            ring.register_file_and_none(pidfd)
        }),
        ("was to be put into a full table", |ring, pidfd| {
            ring.register_file(eventfd(0, EventfdFlags::CLOEXEC)?)?;
            check::refused(
                "IORING_OP_FILES_UPDATE in a full table",
                ring.fill_free_slot(pidfd)?,
                Errno::ENFILE,
            )
        }),
        ("was to be passed to a ring without a table", |ring, pidfd| {
            ring.register_file(pidfd)?;
            let passed = ring.try_pass_file_to(&Ring::new()?, true)?;
            check::refused("IORING_MSG_SEND_FD to a ring without a table", passed, Errno::ENXIO)?;
            ring.unregister_files()
        }),
        ("was to be spliced from", |ring, pidfd| {
            ring.register_file(pidfd)?;
            let (_read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            let spliced = ring.try_splice_from_slot(&write)?;
            check::refused("IORING_OP_SPLICE from a pidfd", spliced, Errno::EINVAL)?;
            ring.unregister_files()
        }),
    ];
    for (what, fail) in ways {
        let mut child = AutokillChild::new()?;
        let mut ring = Ring::new()?;
        fail(&mut ring, child.pidfd()?)?;
        child.lives(&format!("after its pidfd {what}"))?;
        child.close()?;
        child.dies_in_time(&format!("after the last close of its pidfd, which {what}"))?;
        // Not earlier: closing the ring would kill the child, too.
        drop(ring);
    }
    Ok(())
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
