//! Asynchronous I/O of the kernel, see io_submit(2).

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::check::{self, Failure, Result};
use crate::note;

/// `struct iocb` of `linux/aio_abi.h`, on a little-endian machine.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

/// `IOCB_CMD_PREAD`.
const READ: u16 = 0;

/// Submits a read from this descriptor in a context of its own, and returns whether the kernel took it. (The buffer has no
/// bytes.)
///
/// # Errors
/// The outer error is one of the suite: `blocked` if there is no asynchronous I/O here. The inner one is the kernel's.
#[track_caller]
pub fn submit_read(fd: impl AsFd) -> Result<std::result::Result<(), Errno>> {
    let mut context: u64 = 0;
    // SAFETY: the kernel writes the context's number to a live word.
    let made = unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) };
    match Errno::result(made) {
        Err(Errno::EAGAIN) => {
            return Err(Failure::blocked("io_setup fails with EAGAIN: no request is left of fs.aio-max-nr"));
        }
        made => check::permitted("io_setup", made)?,
    };
    let fd = fd.as_fd().as_raw_fd();
    let mut request = Request { opcode: READ, fd: fd as u32, ..Request::default() };
    let requests = [&raw mut request];
    // SAFETY: one live request, which refers to no memory.
    let submitted = unsafe { libc::syscall(libc::SYS_io_submit, context, 1, requests.as_ptr()) };
    note!("io_submit(IOCB_CMD_PREAD of descriptor {fd}) = {submitted}");
    let submitted = Errno::result(submitted).map(drop);
    // SAFETY: the context is this function's own; the kernel waits for its requests.
    Errno::result(unsafe { libc::syscall(libc::SYS_io_destroy, context) })?;
    Ok(submitted)
}
