//! File handles of pidfds: `name_to_handle_at(2)` and `open_by_handle_at(2)`.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::check::{Failure, Result};
use crate::kit::barred;
use crate::note;

/// Where a handle is opened when no descriptor on pidfs is at hand (Linux 6.18).
const FD_PIDFS_ROOT: libc::c_int = -10002;

/// More than any handle of pidfs takes.
const ROOM: usize = 64;

/// `struct file_handle` with its bytes.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; ROOM],
}

impl Handle {
    /// The handle of a pidfd's file, to be opened.
    ///
    /// # Errors
    /// `blocked` where the kernel is without file handles, or where something in front of it lets none be opened.
    pub fn of(fd: impl AsFd) -> Result<Handle> {
        match Handle::try_of(&fd) {
            Err(Errno::ENOSYS) => Err(Failure::blocked("name_to_handle_at is ENOSYS: CONFIG_FHANDLE is off")),
            Err(errno @ (Errno::EOPNOTSUPP | Errno::EPERM)) => {
                Err(Failure::blocked(format!("name_to_handle_at of a pidfd is {errno:?}")))
            }
            got => {
                // By the pidfd, which an ordinary user may do too: otherwise Linux 6.16 says EPERM before it looks for a handle.
                let of_nothing = open_at(fd.as_fd().as_raw_fd(), std::ptr::null(), 0);
                barred::reaches_kernel("open_by_handle_at", of_nothing)?;
                Ok(got?)
            }
        }
    }

    /// `name_to_handle_at(2)` as it is.
    pub fn try_of(fd: impl AsFd) -> std::result::Result<Handle, Errno> {
        let mut handle = Handle { bytes: ROOM as u32, kind: 0, handle: [0; ROOM] };
        let mut mount = 0;
        // SAFETY: an empty path, a handle with the room that it states, and a live int.
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
        Errno::result(got).map(|_| handle)
    }

    /// Opens it by way of a descriptor on pidfs.
    pub fn open(&self, pidfs: impl AsFd, flags: i32) -> std::result::Result<OwnedFd, Errno> {
        open_at(pidfs.as_fd().as_raw_fd(), self, flags)
    }

    /// Opens it by way of `FD_PIDFS_ROOT`.
    pub fn open_at_root(&self, flags: i32) -> std::result::Result<OwnedFd, Errno> {
        open_at(FD_PIDFS_ROOT, self, flags)
    }
}

/// `open_by_handle_at(2)` as it is. With a pidfd for the mount, no handle is EFAULT.
fn open_at(mount: libc::c_int, handle: *const Handle, flags: i32) -> std::result::Result<OwnedFd, Errno> {
    // SAFETY: the kernel reads the handle alone, and as much of it as it says is there; at an address that nobody can read it
    // fails.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount, handle, flags) };
    note!("open_by_handle_at({mount}, flags {flags:#x}) = {fd}");
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
