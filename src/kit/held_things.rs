//! Resources that the kernel releases when a process exits: a robust futex, a semaphore, a mapping, the notification of a
//! message queue.

use std::ffi::CString;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::check::{Failure, Named, Result};
use crate::kit::shared;
use crate::kit::threads::own_tid;

/// `struct robust_list_head` of `linux/futex.h`.
#[repr(C)]
struct RobustList {
    next: *const RobustList,
    futex_offset: i64,
    pending: usize,
}

/// Locks this word as a robust futex of the calling thread. This replaces the C library's own list, so the process must not
/// use other robust futexes.
pub fn take_robustly(word: &'static AtomicU32) -> Result {
    word.store(own_tid() as u32, Ordering::Release);
    let list = Box::leak(Box::new(RobustList { next: std::ptr::null(), futex_offset: 0, pending: 0 }));
    // An empty list points to itself; the kernel finds the word through the pending entry, like a futex that is just being
    // locked.
    list.next = &raw const *list;
    list.pending = word.as_ptr() as usize;
    // SAFETY: the list and the word are never freed; the kernel reads the list and writes the word when the thread exits.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_set_robust_list, &raw const *list, size_of::<RobustList>())
    })?;
    Ok(())
}

/// The identifier of the running case's semaphore plus 1, or 0 if it has none, in memory that is shared with its lane.
static SEMAPHORE: LazyLock<Option<&AtomicU32>> = LazyLock::new(|| shared::word(0).ok());

/// Allocates the shared memory that [`remove_left`] reads. Call this before cases are forked.
pub(crate) fn prepare() {
    LazyLock::force(&SEMAPHORE);
}

/// A System V semaphore of the case, with the value 1. Dropping it removes it; if the case dies, its lane removes it.
#[derive(Debug)]
pub struct Semaphore {
    id: i32,
    owner: u32,
}

impl Semaphore {
    /// Makes a new semaphore without a key. A case may have one at a time, in the IPC namespace in which it started.
    ///
    /// # Errors
    /// `blocked` if the kernel has no semaphores, or if there is no memory shared with the lane.
    pub fn new() -> Result<Semaphore> {
        let told =
            SEMAPHORE.ok_or_else(|| Failure::blocked("there is no memory to share with the sandbox"))?;
        // SAFETY: no pointers are passed.
        let id = Errno::result(unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) })?;
        told.store(id as u32 + 1, Ordering::Release);
        let semaphore = Semaphore { id, owner: std::process::id() };
        // SAFETY: SETVAL takes a number.
        Errno::result(unsafe { libc::semctl(id, 0, libc::SETVAL, 1) })?;
        Ok(semaphore)
    }

    /// Decrements it from 1 to 0; the kernel undoes this when the calling process exits (SEM_UNDO).
    pub fn take(&self) -> Result {
        self.operate(-1, libc::SEM_UNDO | libc::IPC_NOWAIT)
    }

    /// Waits until it is 1, and decrements it for good.
    pub fn wait_and_take(&self) -> Result {
        self.operate(-1, 0)
    }

    /// Checks that it is 0, which is an operation, too: the caller is the last process that did one.
    pub fn find_zero(&self) -> Result {
        self.operate(0, libc::IPC_NOWAIT)
    }

    fn operate(&self, sem_op: i16, flags: i32) -> Result {
        let mut operation = libc::sembuf { sem_num: 0, sem_op, sem_flg: flags as i16 };
        // SAFETY: one live operation is passed.
        Errno::result(unsafe { libc::semop(self.id, &mut operation, 1) })?;
        Ok(())
    }

    /// Returns its value.
    pub fn value(&self) -> Result<i32> {
        self.ask(libc::GETVAL)
    }

    /// Returns the pid of the last process that did an operation.
    pub fn last_pid(&self) -> Result<i32> {
        self.ask(libc::GETPID)
    }

    fn ask(&self, what: i32) -> Result<i32> {
        // SAFETY: GETVAL and GETPID take no argument.
        Ok(Errno::result(unsafe { libc::semctl(self.id, 0, what) })?)
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        // Forked copies do not remove it.
        if std::process::id() == self.owner {
            remove_left();
        }
    }
}

/// Removes the semaphore that the case has or has left behind, and returns its identifier.
pub(crate) fn remove_left() -> Option<i32> {
    let id = SEMAPHORE.map_or(0, |told| told.swap(0, Ordering::AcqRel)).checked_sub(1)? as i32;
    // SAFETY: IPC_RMID takes no argument.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }).ok().map(|_| id)
}

/// A memory file that cannot be sealed against writing while a process has mapped it.
#[derive(Debug)]
pub struct Mappable(OwnedFd);

impl Mappable {
    /// The size of the file, in bytes.
    const SIZE: usize = 8 << 20;

    /// Makes a new file.
    pub fn new() -> Result<Mappable> {
        let file = rustix::fs::memfd_create("mapped", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, Self::SIZE as u64)?;
        Ok(Mappable(file))
    }

    /// Maps the file for as long as the calling process has its memory.
    pub fn map(&self) -> Result {
        self.map_with(ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    /// Maps the file several times more, and all of its pages, so that it takes the kernel a while to unmap them.
    pub fn map_at_length(&self) -> Result {
        (0..8).try_for_each(|_| self.map_with(ProtFlags::READ, MapFlags::SHARED | MapFlags::POPULATE))
    }

    fn map_with(&self, access: ProtFlags, flags: MapFlags) -> Result {
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), Self::SIZE, access, flags, &self.0, 0)? };
        Ok(())
    }

    /// Returns whether any process has mapped it. If none has, the file is sealed and cannot be mapped from now on.
    pub fn is_mapped(&self) -> Result<bool> {
        match rustix::fs::fcntl_add_seals(&self.0, SealFlags::WRITE) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::BUSY) => Ok(true),
            Err(errno) => Err(Failure::from(errno)),
        }
    }
}

/// A POSIX message queue without a name, so that nothing is left of it when its descriptors are closed.
#[derive(Debug)]
pub struct Queue(OwnedFd);

impl Queue {
    /// Makes a new queue.
    ///
    /// # Errors
    /// `blocked` if the kernel has no message queues, or does not allow the caller one more.
    pub fn new() -> Result<Queue> {
        let name = CString::new(format!("/clone3-conformance-{}", std::process::id()))
            .map_err(std::io::Error::from)?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        // SAFETY: the name is a live string; no attributes are passed.
        let made = Errno::result(unsafe {
            libc::mq_open(name.as_ptr(), flags, 0o600, std::ptr::null::<libc::mq_attr>())
        });
        let made = made.map_err(|errno| {
            Failure::blocked(format!("needs a message queue: mq_open fails with {}", Named(errno)))
        })?;
        // SAFETY: the name is a live string.
        unsafe { libc::mq_unlink(name.as_ptr()) };
        // SAFETY: the descriptor is new, and nobody else has it.
        Ok(Queue(unsafe { OwnedFd::from_raw_fd(made) }))
    }

    /// Registers the calling process as the one to be notified, without a signal. Returns false if another is.
    pub fn register(&self) -> Result<bool> {
        // SAFETY: all zeroes is a valid value of this plain structure.
        let mut silent: libc::sigevent = unsafe { std::mem::zeroed() };
        silent.sigev_notify = libc::SIGEV_NONE;
        // SAFETY: `silent` is live.
        match Errno::result(unsafe { libc::mq_notify(self.0.as_raw_fd(), &silent) }) {
            Ok(_) => Ok(true),
            Err(Errno::EBUSY) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the calling process's registration.
    pub fn unregister(&self) -> Result {
        // SAFETY: NULL is allowed, and removes the registration.
        Errno::result(unsafe { libc::mq_notify(self.0.as_raw_fd(), std::ptr::null()) })?;
        Ok(())
    }
}
