//! A System V shared memory segment.

use nix::errno::Errno;

use crate::check::{Failure, Result};

/// The identifier of a segment.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Segment(i32);

impl Segment {
    /// Makes a new segment of one page, not attached. The caller must be in an IPC namespace that ends with the case, or
    /// [remove](Segment::attach_and_remove) the segment.
    pub fn new() -> Result<Segment> {
        // SAFETY: no pointers are passed.
        Ok(Segment(Errno::result(unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, 0o600) })?))
    }

    /// Attaches the segment for as long as the calling process has its memory, and marks it to be removed (`IPC_RMID`), which happens
    /// when nobody has it attached any more.
    pub fn attach_and_remove(self) -> Result {
        // SAFETY: the kernel chooses the address of the new mapping, which aliases nothing.
        let address = unsafe { libc::shmat(self.0, std::ptr::null(), 0) };
        Errno::result(address as isize)?;
        // SAFETY: IPC_RMID takes no structure.
        Errno::result(unsafe { libc::shmctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) })?;
        Ok(())
    }

    /// Returns whether the segment exists.
    pub fn exists(self) -> Result<bool> {
        // SAFETY: shmid_ds is plain data, for which all zeroes is a valid value.
        let mut state: libc::shmid_ds = unsafe { std::mem::zeroed() };
        // SAFETY: `state` is live, and the kernel may fill it.
        match Errno::result(unsafe { libc::shmctl(self.0, libc::IPC_STAT, &mut state) }) {
            Ok(_) => Ok(true),
            Err(Errno::EINVAL | Errno::EIDRM) => Ok(false),
            Err(errno) => Err(Failure::from(errno)),
        }
    }
}
