//! What an auto-reaped child holds, such as locks, memory, a message queue's notification and semaphores, is free once the child
//! is gone.

use std::fs::File;

use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::mapping::Mappable;
use clone3_conformance::kit::message_queue::MessageQueue;
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::segment::Segment;
use clone3_conformance::kit::semaphore::Semaphore;
use clone3_conformance::kit::{Cgroup, Channel, Held, Place, privilege, subject, threads, tracer};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::ptrace::Options;
use nix::sys::resource::{Resource, setrlimit};
use rustix::fs::{FlockOperation, MemfdFlags, fcntl_lock, flock, memfd_create};

/// Has children of each kind run `hold`, and checks with `is_free` that what they hold is in use while they live, and free when
/// they are gone, killed or not.
fn is_freed_by_each(what: &str, hold: impl Fn() -> Result, is_free: impl Fn() -> Result<bool>) -> Result {
    subject::each(|call| {
        for killed in [false, true] {
            let child = Held::prepared(&call, 5, &hold)?;
            check::equal(
                format_args!("control: {what} of a child of {call} free while it lives"),
                is_free()?,
                false,
            )?;
            child.end(killed)?;
            let what = format!("{what} of a child of {call} free when it is gone, killed: {killed}");
            check::equal(what, is_free()?, true)?;
        }
        Ok(())
    })
}

/// Returns whether an attempt to lock without waiting succeeded.
fn is_locked_now(attempt: rustix::io::Result<()>) -> Result<bool> {
    match attempt.map_err(check::errno_of) {
        Ok(()) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

case! {
    /// A record lock of an auto-reaped child is released when the child ends, like an ordinary one's, although another process has
    /// the same file open.
    autoreap_releases_record_lock: Must, needs [Autoreap, ExitInfo],
    source "fcntl_locking(2) (\"automatically released when the process terminates\")",
}
fn autoreap_releases_record_lock() -> Result {
    let file = memfd_create("locked", MemfdFlags::CLOEXEC)?;
    let lock = || fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
    let is_free = || {
        let locked = is_locked_now(lock())?;
        fcntl_lock(&file, FlockOperation::Unlock)?;
        Ok(locked)
    };
    is_freed_by_each("a record lock", || Ok(lock()?), is_free)
}

case! {
    /// The files that only an auto-reaped child had open are closed by the time its pidfd reports POLLHUP, so that its flock(2)
    /// locks are free, as for an ordinary child that has been waited for.
    autoreap_closes_files_first: Is, needs [Autoreap, ExitInfo],
    source "flock(2); kernel/exit.c do_exit() (exit_files() before exit_task_work() and exit_notify())",
}
fn autoreap_closes_files_first() -> Result {
    let place = Place::new()?;
    let path = place.path().join("locked");
    File::create(&path)?;
    let lock = |file: &File| is_locked_now(flock(file, FlockOperation::NonBlockingLockExclusive));
    let hold = || {
        let file = File::open(&path)?;
        let locked = lock(&file)?;
        // Closed by the kernel when the child ends.
        std::mem::forget(file);
        check::equal("the lock of a file that nobody has locked", locked, true)
    };
    is_freed_by_each("a flock(2) lock", hold, || lock(&File::open(&path)?))
}

/// Returns whether the memory of a child of this call is unmapped when its pidfd reports POLLHUP.
fn is_unmapped_at_once(call: &Clone3) -> Result<bool> {
    let file = Mappable::new()?;
    let child = Held::prepared(call, 5, || {
        file.map()?;
        file.map_at_length()
    })?;
    check::equal(format_args!("control: mapped by a child of {call} that lives"), file.is_mapped()?, true)?;
    child.let_go()?;
    subject::wait_until_gone(&child)?;
    Ok(!file.is_mapped()?)
}

case! {
    /// The memory of an auto-reaped child is unmapped by the time its pidfd reports POLLHUP, as for an ordinary child that has been
    /// waited for: a file that only the child had mapped can be sealed against writing.
    autoreap_unmaps_memory_first: Is, needs [Autoreap, ExitInfo],
    source "F_ADD_SEALS(2const), EBUSY; kernel/exit.c do_exit() (exit_mm() before exit_notify())",
}
fn autoreap_unmaps_memory_first() -> Result {
    subject::each(|call| {
        // Who reads /proc/PID/cmdline while the child ends keeps its memory for that time.
        let mut tries = (0..5).map(|_| is_unmapped_at_once(&call));
        let unmapped = tries.find(|found| !matches!(found, Ok(false))).unwrap_or(Ok(false))?;
        check::equal(format_args!("memory of a child of {call} unmapped when it is gone"), unmapped, true)
    })
}

case! {
    /// The notification that an auto-reaped child has requested from a message queue is removed when the child ends, although the
    /// child's creator has the queue open: another process can request one.
    autoreap_gives_up_queue_notification: Must, needs [Autoreap, ExitInfo],
    source "mq_close(3), on the notification request of the process; _exit(2) (open descriptors are closed)",
}
fn autoreap_gives_up_queue_notification() -> Result {
    let queue = MessageQueue::new()?;
    let is_free = || {
        let is_registered = queue.register()?;
        if is_registered {
            queue.unregister()?;
        }
        Ok(is_registered)
    };
    let hold = || check::equal("the request for a notification that nobody has", queue.register()?, true);
    is_freed_by_each("the notification of a message queue", hold, is_free)
}

case! {
    /// If an auto-reaped child ends, a process that waits for a semaphore which the child took with SEM_UNDO gets it.
    autoreap_semaphore_undo_wakes_waiter: Must, needs [Autoreap, ExitInfo, Proc],
    source "semop(2), SEM_UNDO; ipc/sem.c exit_sem()",
}
fn autoreap_semaphore_undo_wakes_waiter() -> Result {
    subject::each(|call| {
        let semaphore = Semaphore::new()?;
        let child = Held::prepared(&call, 5, || semaphore.take())?;
        let waiter = subject::leaves_zombie().spawn(|| i32::from(semaphore.wait_and_take().is_err()))?;
        threads::wait_until_process_sleeps(waiter.pid())?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        let woken = waiter.pidfd()?.wait_exited();
        woken.context(format_args!("in semop(2), after the end of a child of {call} with the semaphore"))?;
        waiter.reap_expecting(Status::exited(0))
    })
}

case! {
    /// A shared memory segment that is marked to be removed (IPC_RMID) is removed when the last process ends that has it attached,
    /// auto-reaped or not.
    autoreap_last_user_of_segment: Must, needs [Autoreap, ExitInfo],
    source "shmctl(2), IPC_RMID (\"actually be destroyed only after the last process detaches it\"); ipc/shm.c shm_close()",
}
fn autoreap_last_user_of_segment() -> Result {
    subject::each(|call| {
        let segment = Channel::<Segment>::new()?;
        let child = Held::prepared(&call, 0, || {
            let made = Segment::new()?;
            made.attach_and_remove()?;
            segment.send(&made)
        })?;
        let segment = segment.recv_from(&child)?;
        check::equal("control: whether the segment exists while the child lives", segment.exists()?, true)?;
        child.end(false)?;
        let what = format!("whether a segment exists whose last user was a child of {call}");
        check::equal(what, segment.exists()?, false)
    })
}

case! {
    /// After the undo of an auto-reaped child's semaphore operation the semaphore names that child as the last process that changed
    /// it (GETPID), as for an ordinary child.
    autoreap_semaphore_undo_names_child: Is, needs [Autoreap, ExitInfo],
    source "semctl(2), GETPID and NOTES; ipc/sem.c exit_sem()",
}
fn autoreap_semaphore_undo_names_child() -> Result {
    let semaphore = Semaphore::new()?;
    subject::each(|call| {
        let child = Held::prepared(&call, 5, || semaphore.take())?;
        semaphore.find_zero()?;
        check::equal(
            "control: GETPID after an operation of ours",
            semaphore.last_pid()?,
            std::process::id() as i32,
        )?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        check::equal(
            format_args!("GETPID after the end of a child of {call}"),
            semaphore.last_pid()?,
            child.pid(),
        )
    })
}

case! {
    /// An auto-reaped process whose leader thread ended before another is no longer charged to its cgroup (pids.current) when that
    /// one has ended, like an ordinary process that has been waited for.
    autoreap_leaderless_releases_cgroup: Must, needs [Autoreap, ExitInfo, Proc, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, pids.current; kernel/exit.c release_task() (cgroup_task_release())",
}
fn autoreap_leaderless_releases_cgroup() -> Result {
    subject::each(|call| {
        let group = Cgroup::create(&["pids"])?;
        let child = threads::leaderless(&call.clone().into_cgroup(group.dir()), 5, || 6)?;
        let charged = || -> Result<String> { Ok(group.read("pids.current")?.trim_end().to_owned()) };
        check::equal("control: pids.current while another thread lives", &charged()?[..], "2")?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        group.wait_for("populated 0")?;
        check::equal(format_args!("pids.current after a leaderless child of {call}"), &charged()?[..], "0")?;
        group.remove()
    })
}

/// Returns whether a process of this user may create another under RLIMIT_NPROC 2.
fn may_fork_within_two(user: u32) -> Result<bool> {
    in_child(|| {
        privilege::become_user(user)?;
        setrlimit(Resource::RLIMIT_NPROC, 2, 2)?;
        match Clone3::fork().try_spawn(|| 0) {
            Ok(child) => child.reap_expecting(Status::exited(0)).map(|()| true),
            Err(Errno::EAGAIN) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    })
}

case! {
    /// An auto-reaped child that changed its user id no longer counts against RLIMIT_NPROC of that user when it has ended and its
    /// tracer, another user, has waited for it.
    autoreap_traced_releases_rlimit_nproc: Must, needs [Autoreap, ExitInfo, Root, Ptrace],
    source "getrlimit(2), RLIMIT_NPROC; kernel/exit.c release_task()",
}
fn autoreap_traced_releases_rlimit_nproc() -> Result {
    let user = privilege::unused_id();
    subject::each(|call| {
        let child = Held::prepared(&call, 5, || privilege::become_user(user))?;
        tracer::seize(child.pid(), Options::empty())?;
        if may_fork_within_two(user)? {
            return Err(Failure::blocked("RLIMIT_NPROC does not limit a user"));
        }
        child.let_go()?;
        wait::reap_expecting(child.pid(), Status::exited(5))?;
        child.pidfd()?.wait_reaped()?;
        let may = may_fork_within_two(user)?;
        check::equal(
            format_args!("room for two processes when a child of {call} of that user is gone"),
            may,
            true,
        )
    })
}
