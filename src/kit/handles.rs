//! File handles of pidfds: `name_to_handle_at(2)` and `open_by_handle_at(2)`.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::check::{Failure, Named, Result};
use crate::kit::filtered_calls;
use crate::note;

/// The special descriptor for opening a handle without a descriptor on pidfs (Linux 6.18).
const FD_PIDFS_ROOT: libc::c_int = -10002;

/// A size larger than any handle of pidfs.
const ROOM: usize = 64;

/// `struct file_handle` with its data.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; ROOM],
}

impl Handle {
    /// Returns the handle of a pidfd's file, for opening it later.
    ///
    /// # Errors
    /// `blocked` if the kernel does not support file handles, or if a filter prevents opening them.
    pub fn of(fd: impl AsFd) -> Result<Handle> {
        match Handle::try_of(&fd) {
            Err(Errno::ENOSYS) => {
                Err(Failure::blocked("name_to_handle_at fails with ENOSYS: CONFIG_FHANDLE is off"))
            }
            Err(errno @ (Errno::EOPNOTSUPP | Errno::EPERM)) => {
                Err(Failure::blocked(format!("name_to_handle_at of a pidfd fails with {}", Named(errno))))
            }
            got => {
                // With the pidfd as the mount, which unprivileged users may pass too: otherwise Linux 6.16 returns EPERM
                // before it looks at the handle.
                let of_nothing = open_at(fd.as_fd().as_raw_fd(), std::ptr::null(), 0);
                filtered_calls::reaches_kernel("open_by_handle_at", of_nothing)?;
                Ok(got?)
            }
        }
    }

    /// Calls `name_to_handle_at(2)` and returns its errno.
    pub fn try_of(fd: impl AsFd) -> std::result::Result<Handle, Errno> {
        Handle::in_room_of(fd, ROOM as u32).0
    }

    /// Likewise, with room for so many bytes, at most 64. Also returns how many bytes the kernel has stored, or would store.
    pub fn in_room_of(fd: impl AsFd, bytes: u32) -> (std::result::Result<Handle, Errno>, u32) {
        let mut handle = Handle { bytes: bytes.min(ROOM as u32), kind: 0, handle: [0; ROOM] };
        let mut mount = 0;
        // SAFETY: an empty path, a handle with the capacity that it states, and a live int.
        let got = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                fd.as_fd().as_raw_fd(),
                c"".as_ptr(),
                &raw mut handle,
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        note!("name_to_handle_at with room for {bytes} bytes = {got}, {} bytes", handle.bytes);
        let size = handle.bytes;
        (Errno::result(got).map(|_| handle), size)
    }

    /// Opens the handle through a descriptor on pidfs.
    pub fn open(&self, pidfs: impl AsFd, flags: i32) -> std::result::Result<OwnedFd, Errno> {
        open_at(pidfs.as_fd().as_raw_fd(), self, flags)
    }

    /// Opens the handle through `FD_PIDFS_ROOT`.
    pub fn open_at_root(&self, flags: i32) -> std::result::Result<OwnedFd, Errno> {
        open_at(FD_PIDFS_ROOT, self, flags)
    }
}

/// Calls `open_by_handle_at(2)`. With a pidfd as the mount, a null handle fails with EFAULT.
fn open_at(mount: libc::c_int, handle: *const Handle, flags: i32) -> std::result::Result<OwnedFd, Errno> {
    // SAFETY: the kernel only reads the handle, of the size that it states; for an unreadable address the call fails.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount, handle, flags) };
    note!("open_by_handle_at({mount}, flags {flags:#x}) = {fd}");
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
