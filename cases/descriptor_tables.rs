//! References to clone3's own pidfd and the descriptor tables that they are in: shared, left, copied, grown, limited.

use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::{Clone3, is_cloexec};
use clone3_conformance::kit::{AutokillChild, Channel, End, Gate, Holder, fds, programs};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Status};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Checks that a process here may have a descriptor of this number.
///
/// # Errors
/// `blocked` if it may not.
fn may_have_descriptor(number: i32) -> Result {
    match getrlimit(Resource::Nofile).current {
        Some(files) if files <= number as u64 => {
            Err(Failure::blocked(format!("RLIMIT_NOFILE allows only {files} open files")))
        }
        _ => Ok(()),
    }
}

/// Makes a child and moves its pidfd to this number, or to the next free one.
fn with_pidfd_at(number: i32) -> Result<(AutokillChild, Pidfd)> {
    may_have_descriptor(number)?;
    let mut child = AutokillChild::new()?;
    let moved = rustix::io::fcntl_dupfd_cloexec(child.pidfd()?, number)?;
    child.close()?;
    Ok((child, Pidfd::from(moved)))
}

/// Runs `meanwhile` while another thread, which has run `detach`, keeps its descriptors.
fn beside_thread(detach: impl FnOnce() -> Result + Send, meanwhile: impl FnOnce() -> Result) -> Result {
    let (ready, is_ready) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = ready.send(detach());
            let _ = may_go.recv();
        });
        is_ready.recv().map_err(|_| Failure::broken("the thread ended early"))??;
        let done = meanwhile();
        drop(go);
        done
    })
}

case! {
    /// A thread that unshares its descriptor table gets references of its own: closing with CLOSE_RANGE_UNSHARE does not touch the
    /// other table, and the copy in a table from unshare(CLONE_FILES) keeps the child alive until its thread ends.
    autokill_close_range_unshare: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "close_range(2), unshare(2); fs/file.c dup_fd()",
}
fn autokill_close_range_unshare() -> Result {
    let mut child = AutokillChild::new()?;
    let fd = child.pidfd()?.as_raw_fd();
    let detach = || Ok(fds::close_apart_by_range(fd)?);
    let mut meanwhile = || {
        child.lives("after CLOSE_RANGE_UNSHARE in another thread")?;
        child.close()?;
        child.dies("after the close in the table that still had its pidfd")
    };
    beside_thread(detach, &mut meanwhile)?;

    let mut child = AutokillChild::new()?;
    let detach = || check::permitted("unshare(CLONE_FILES)", unshare(CloneFlags::CLONE_FILES));
    let meanwhile = || {
        child.close()?;
        child.lives("with a copy of its pidfd in the unshared table of a thread")
    };
    beside_thread(detach, meanwhile)?;
    // The thread is joined before the kernel has dropped its table.
    child.dies_in_time("after the end of the thread with the last copy")
}

case! {
    /// CLOSE_RANGE_UNSHARE of some descriptors leaves all others in the caller's new table, however far they are from these. With
    /// CLOSE_RANGE_CLOEXEC it marks the descriptors in the new table only.
    autokill_close_range_unshare_others: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "close_range(2)",
}
fn autokill_close_range_unshare_others() -> Result {
    let (child, pidfd) = with_pidfd_at(100)?;
    let low = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let detach = || Ok(fds::close_apart_by_range(low.0.as_raw_fd())?);
    let meanwhile = || {
        pidfd.close()?;
        child.lives(
            "with its pidfd in the table of a thread that closed another descriptor by CLOSE_RANGE_UNSHARE",
        )
    };
    beside_thread(detach, meanwhile)?;
    child.dies_in_time("after the end of the thread with the last copy")?;

    let child = AutokillChild::new()?;
    fds::keep_over_exec(child.pidfd()?)?;
    let detach = || {
        fds::mark_apart_by_range(child.pidfd()?)?;
        let what = "FD_CLOEXEC in the table that CLOSE_RANGE_UNSHARE|CLOSE_RANGE_CLOEXEC made";
        check::equal(what, is_cloexec(child.pidfd()?)?, true)
    };
    beside_thread(detach, || {
        check::equal("FD_CLOEXEC in the table of the other thread", is_cloexec(child.pidfd()?)?, false)
    })?;
    child.clear_away()
}

case! {
    /// A process that leaves a shared descriptor table by close_range(CLOSE_RANGE_UNSHARE), unshare(CLONE_FILES) or an exec is no
    /// user of that table any more: when the only other user ends, the pidfd in it is closed, and the child dies.
    autokill_table_left_by_one_user: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "close_range(2), unshare(2), execve(2); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_table_left_by_one_user() -> Result {
    type Leave = fn(Pidfd) -> Result;
    let ways: [(&str, Leave); 2] = [
        ("close_range(CLOSE_RANGE_UNSHARE)", |pidfd| Ok(fds::leave_table_by_range(pidfd)?)),
        ("unshare(CLONE_FILES)", |pidfd| {
            check::permitted("unshare(CLONE_FILES)", unshare(CloneFlags::CLONE_FILES))?;
            pidfd.close()
        }),
    ];
    for (call, leave) in ways {
        let mut child = AutokillChild::new()?;
        let gate = Gate::new()?;
        let other = Clone3::fork().with(Flags::CLONE_FILES).spawn(|| {
            gate.wait();
            0
        })?;
        leave(child.take()?)?;
        child.lives(&format!("with its pidfd in a table that a process has left by {call}"))?;
        gate.open()?;
        other.reap_expecting(Status::exited(0))?;
        child
            .dies(&format!("after the end of the last user of a table that a process has left by {call}"))?;
    }
    table_left_by_exec()
}

fn table_left_by_exec() -> Result {
    let mut child = AutokillChild::new()?;
    let (ready, gate) = (Channel::<Result>::new()?, Gate::new()?);
    let program = programs::hold(&ready, &gate, 0)?;
    let (holder, pid) = Holder::running(|| {
        let other = Clone3::fork().with(Flags::CLONE_FILES).spawn(|| {
            let _ = ready.send(&Err(program.exec()));
            98
        })?;
        let pid = other.pid();
        std::mem::forget(other);
        Ok(pid)
    })?;
    ready.recv()??;
    child.close()?;
    child.lives("with its pidfd in a table that a process has left by an exec")?;
    holder.end(End::Exit)?;
    child.dies("after the end of the last user of a table that a process has left by an exec")?;
    gate.open()?;
    // The case has adopted it.
    wait::reap_expecting(pid, Status::exited(0))
}

case! {
    /// A forked process inherits the pidfd, and holds it, also where its number is the last or the first of a word of 64 and the
    /// highest in use. close_range closes it there, too, and so does the end of a process that has lowered RLIMIT_NOFILE below it.
    autokill_descriptor_at_table_end: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fork(2), close_range(2), getrlimit(2); fs/file.c sane_fdtable_size(), __range_close(), close_files()",
}
fn autokill_descriptor_at_table_end() -> Result {
    // A table has 64 entries, and twice as many whenever it grows.
    for number in [63, 64, 127, 128, 255] {
        let (child, pidfd) = with_pidfd_at(number)?;
        let holder = Holder::fork()?;
        fds::close_by_range(pidfd)?;
        child.lives(&format!("with a copy of its pidfd at descriptor {number} of a forked process"))?;
        holder.end(End::Exit)?;
        child.dies(&format!("after the end of the process with its pidfd at descriptor {number}"))?;

        let (child, pidfd) = with_pidfd_at(number)?;
        fds::close_by_range(pidfd)?;
        child.dies(&format!("after close_range of descriptor {number}, its pidfd"))?;
    }
    for end in [End::Exit, End::Killed] {
        let (child, pidfd) = with_pidfd_at(64)?;
        let (holder, ()) = Holder::running(|| {
            let limit = Rlimit { current: Some(32), ..getrlimit(Resource::Nofile) };
            Ok(setrlimit(Resource::Nofile, limit)?)
        })?;
        pidfd.close()?;
        child.lives("with its pidfd at a descriptor above RLIMIT_NOFILE")?;
        holder.end(end)?;
        child.dies(&format!(
            "after the end ({end:?}) of its holder, which had lowered RLIMIT_NOFILE below it"
        ))?;
    }
    Ok(())
}

case! {
    /// An exec closes the pidfd, and so kills the child, even if the descriptor's number is far above all others. The descriptor
    /// table that grows for it keeps the FD_CLOEXEC of the other descriptors.
    autokill_exec_closes_far_descriptor: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "execve(2), fcntl(2), on close-on-exec; commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"",
}
fn autokill_exec_closes_far_descriptor() -> Result {
    // The kernel keeps close-on-exec bits in words of 64; the word in between is all clear.
    const FAR: i32 = 130;
    may_have_descriptor(FAR)?;
    let mut child = AutokillChild::new()?;
    let copy = rustix::io::fcntl_dupfd_cloexec(child.pidfd()?, FAR)?;
    check::equal("FD_CLOEXEC after the table has grown", is_cloexec(child.pidfd()?)?, true)?;
    child.close()?;
    let holder = Holder::fork()?;
    drop(copy);
    child.lives(&format!("with its pidfd at descriptor {FAR} or above of a forked process"))?;
    holder.exec()?;
    child.dies("after the exec of the process that held its pidfd")?;
    holder.end(End::Exit)
}
