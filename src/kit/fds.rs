//! Descriptor calls that take a bare number, or that no crate has.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::check::{Failure, Result};
use crate::note;

/// `fcntl(fd, F_DUPFD_QUERY, other)` (Linux 6.10).
const F_DUPFD_QUERY: libc::c_int = 1024 + 3;

/// In a forked process: closes its copy of a descriptor of the parent's. The copy of whatever owns that number
/// must be neither used nor dropped.
pub fn close_copy(fd: RawFd) -> Result {
    // SAFETY: no memory is touched, and the number's owner in this process is as good as gone, says the caller.
    Errno::result(unsafe { libc::close(fd) })?;
    Ok(())
}

/// `close_range(fd, fd, flags)`. What owns the number must be neither used nor dropped afterwards, unless the
/// flags leave it open.
pub fn close_range(fd: RawFd, flags: u32) -> std::result::Result<(), Errno> {
    // SAFETY: no memory is touched, and the number's owner is as good as gone, says the caller.
    let done = unsafe { libc::syscall(libc::SYS_close_range, fd, fd, flags) };
    note!("close_range({fd}, {fd}, {flags:#x}) = {done}");
    Errno::result(done).map(drop)
}

/// `dup2(fd, fd)`, which does nothing to an open descriptor.
pub fn dup2_onto_itself(fd: impl AsFd) -> std::result::Result<(), Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open and stays what it is.
    Errno::result(unsafe { libc::dup2(fd, fd) }).map(drop)
}

/// Clears FD_CLOEXEC of the descriptor with this number.
pub fn keep_over_exec(fd: RawFd) -> Result {
    // SAFETY: no pointers are passed; EBADF if there is no such descriptor.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
    Ok(())
}

/// What a child or thread that shares memory can do: reads one byte from the descriptor with this number, however long that
/// takes. One system call.
pub extern "C" fn wait_for_input(fd: usize) -> i32 {
    // SAFETY: borrowed for the call, which says EBADF if there is no such descriptor.
    let fd = unsafe { BorrowedFd::borrow_raw(fd as RawFd) };
    i32::from(rustix::io::read(fd, &mut [0_u8; 1]).is_err())
}

/// Whether two descriptors are one open file.
///
/// # Errors
/// `unsupported` where the kernel has no `F_DUPFD_QUERY`.
pub fn are_one_file(one: impl AsFd, other: impl AsFd) -> Result<bool> {
    let (one, other) = (one.as_fd().as_raw_fd(), other.as_fd().as_raw_fd());
    // SAFETY: no pointers are passed.
    match Errno::result(unsafe { libc::fcntl(one, F_DUPFD_QUERY, other) }) {
        Err(Errno::EINVAL) => Err(Failure::unsupported("the kernel has no F_DUPFD_QUERY (Linux 6.10)")),
        answer => Ok(answer? == 1),
    }
}

/// Takes possession of a descriptor that a system call has just returned as a number.
pub fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller has it from the kernel, and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
