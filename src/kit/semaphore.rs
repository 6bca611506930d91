//! A System V semaphore, whose operations the kernel undoes when a process exits.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use crate::check::{self, Failure, Result};
use crate::kit::shared;

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
        if told.load(Ordering::Acquire) != 0 {
            return Err(Failure::broken("a case may have one semaphore at a time"));
        }
        // SAFETY: no pointers are passed.
        let made = Errno::result(unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) });
        let id = check::permitted("semget", made)?;
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
