//! A System V shared memory segment that its creator does not remove.

use nix::errno::Errno;

use crate::check::{Failure, Result};

/// The identifier of a segment.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Segment(i32);

impl Segment {
    /// Makes a new segment of one page, not attached. The caller must be in an IPC namespace that ends with the case.
    pub fn new() -> Result<Segment> {
        // SAFETY: no pointers are passed.
        Ok(Segment(Errno::result(unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, 0o600) })?))
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
