//! Descriptor system calls that no crate provides, or provides only for a bare number.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag};
use nix::sys::signal::Signal;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

use crate::check::{self, Failure, Result, errno_of};
use crate::kit::process::own_pid;
use crate::kit::threads::own_tid;
use crate::note;

/// `fcntl(fd, F_DUPFD_QUERY, other)` (Linux 6.10).
const F_DUPFD_QUERY: libc::c_int = 1024 + 3;

/// `fcntl(fd, F_SETSIG, signal)`.
const F_SETSIG: libc::c_int = 10;

/// Asks for this signal when input or output becomes possible: `F_SETOWN` to the caller's process, and `F_SETSIG`.
pub fn ask_for_signal(fd: impl AsFd, signal: Signal) -> Result {
    let fd = fd.as_fd();
    set_owner_of_signals(fd, own_pid())?;
    // SAFETY: this takes a number, and no pointer.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal as i32) })?;
    note!("fcntl({}, F_SETSIG, {signal})", fd.as_raw_fd());
    Ok(())
}

fn set_owner_of_signals(fd: BorrowedFd<'_>, owner: i32) -> Result {
    // SAFETY: this takes a number, and no pointer.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETOWN, owner) })?;
    Ok(())
}

/// Returns whether a descriptor of the caller and one of another process are the same open file: `kcmp(2)`, `KCMP_FILE`.
pub fn are_one_file_across(own: impl AsFd, pid: i32, its: RawFd) -> std::result::Result<bool, Errno> {
    const KCMP_FILE: libc::c_int = 0;
    let own = own.as_fd().as_raw_fd();
    // SAFETY: no pointers are passed.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, own_pid(), pid, KCMP_FILE, own, its) };
    note!("kcmp({}, {pid}, KCMP_FILE, {own}, {its}) = {order}", own_pid());
    Errno::result(order).map(|order| order == 0)
}

/// Asks for SIGIO to this process, or process group if negative, when input or output becomes possible: `F_SETOWN` and `O_ASYNC`.
pub fn ask_for_signals_to(fd: impl AsFd, owner: i32) -> Result {
    let fd = fd.as_fd();
    set_owner_of_signals(fd, owner)?;
    nix::fcntl::fcntl(fd, FcntlArg::F_SETFL(OFlag::O_ASYNC))?;
    note!("fcntl({}, F_SETOWN, {owner}), and O_ASYNC", fd.as_raw_fd());
    Ok(())
}

/// Returns the process, or process group if negative, that [gets](ask_for_signals_to) the signals; 0 if there is none (`F_GETOWN`).
pub fn owner_of_signals(fd: impl AsFd) -> Result<i32> {
    // The C library makes another request of it, F_GETOWN_EX.
    //
    // SAFETY: no pointers are passed.
    let owner = unsafe { libc::syscall(libc::SYS_fcntl, fd.as_fd().as_raw_fd(), libc::F_GETOWN) };
    Ok(Errno::result(owner)? as i32)
}

/// In a forked process: closes its copy of a descriptor of the parent.
///
/// # Safety
/// This process must neither use nor drop its copy of the owner of that number.
pub(crate) unsafe fn close_copy(fd: RawFd) -> Result {
    // SAFETY: the caller upholds the contract of this function.
    Errno::result(unsafe { libc::close(fd) })?;
    Ok(())
}

/// Opens so many descriptors that the kernel takes long to release a process that has them, once their `/proc` entries
/// [are cached](crate::procfs::look_up_descriptors).
pub fn many() -> Result<Vec<OwnedFd>> {
    let event = eventfd(0, EventfdFlags::CLOEXEC)?;
    (0..250).map(|_| Ok(event.try_clone()?)).collect()
}

/// Calls `close_range(fd, fd, 0)`.
pub fn close_by_range(fd: impl Into<OwnedFd>) -> std::result::Result<(), Errno> {
    // SAFETY: the descriptor was owned, and ownership is given up here.
    unsafe { close_range(fd.into().into_raw_fd(), 0) }
}

/// Calls `close_range(fd, fd, CLOSE_RANGE_CLOEXEC)`, which closes nothing before an exec.
pub fn mark_by_range(fd: impl AsFd) -> std::result::Result<(), Errno> {
    // SAFETY: the descriptor stays open.
    unsafe { close_range(fd.as_fd().as_raw_fd(), libc::CLOSE_RANGE_CLOEXEC) }
}

/// Calls `close_range(fd, fd, CLOSE_RANGE_UNSHARE)` in a thread other than the leader: the thread gets its own descriptor
/// table, in which this descriptor is closed. The owner keeps it in the table that the other threads still share.
pub fn close_apart_by_range(fd: RawFd) -> std::result::Result<(), Errno> {
    assert_ne!(own_tid(), own_pid(), "the leader would leave its table to the others");
    // SAFETY: this closes a copy; the owner's descriptor is in the table of the other threads.
    unsafe { close_range(fd, libc::CLOSE_RANGE_UNSHARE) }
}

/// Likewise, with `CLOSE_RANGE_CLOEXEC`: the descriptor is marked in the thread's own table, and closed in none.
pub fn mark_apart_by_range(fd: impl AsFd) -> std::result::Result<(), Errno> {
    assert_ne!(own_tid(), own_pid(), "the leader would leave its table to the others");
    // SAFETY: the descriptor stays open.
    unsafe { close_range(fd.as_fd().as_raw_fd(), libc::CLOSE_RANGE_UNSHARE | libc::CLOSE_RANGE_CLOEXEC) }
}

/// Calls `close_range(fd, fd, CLOSE_RANGE_UNSHARE)` in a process that shares its descriptor table with another one and has no
/// other thread: the caller gets its own table, in which this descriptor is closed. It stays open in the other's.
pub fn leave_table_by_range(fd: impl Into<OwnedFd>) -> std::result::Result<(), Errno> {
    // SAFETY: the descriptor was owned, and ownership is given up here.
    unsafe { close_range(fd.into().into_raw_fd(), libc::CLOSE_RANGE_UNSHARE) }
}

/// Calls `close_range(fd, fd, flags)`.
///
/// # Safety
/// The owner of the number must be neither used nor dropped afterwards, unless the flags leave it open.
unsafe fn close_range(fd: RawFd, flags: u32) -> std::result::Result<(), Errno> {
    // SAFETY: the caller upholds the contract of this function.
    let done = unsafe { libc::syscall(libc::SYS_close_range, fd, fd, flags) };
    note!("close_range({fd}, {fd}, {flags:#x}) = {done}");
    Errno::result(done).map(drop)
}

/// Calls `fcntl(fd, F_DUPFD, 0)`.
pub fn dupfd(fd: impl AsFd) -> std::result::Result<OwnedFd, Errno> {
    // SAFETY: no pointers are passed.
    let copy = Errno::result(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD, 0) })?;
    // SAFETY: the kernel has just created it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Calls `dup2(fd, fd)`, which does nothing to an open descriptor.
pub fn dup2_onto_itself(fd: impl AsFd) -> std::result::Result<(), Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open and stays open.
    Errno::result(unsafe { libc::dup2(fd, fd) }).map(drop)
}

/// Clears FD_CLOEXEC.
pub fn keep_over_exec(fd: impl AsFd) -> Result {
    Ok(rustix::io::fcntl_setfd(fd, FdFlags::empty())?)
}

/// Returns whether two descriptors refer to the same open file description.
///
/// # Errors
/// `unsupported` if the kernel has no `F_DUPFD_QUERY`.
pub fn are_one_file(one: impl AsFd, other: impl AsFd) -> Result<bool> {
    let (one, other) = (one.as_fd().as_raw_fd(), other.as_fd().as_raw_fd());
    // SAFETY: no pointers are passed.
    match Errno::result(unsafe { libc::fcntl(one, F_DUPFD_QUERY, other) }) {
        Err(Errno::EINVAL) => Err(Failure::unsupported("the kernel has no F_DUPFD_QUERY (Linux 6.10)")),
        answer => Ok(answer? == 1),
    }
}

/// Makes a file in memory that may be executed, with this text.
///
/// # Errors
/// `blocked` if the sysctl `vm.memfd_noexec` or a security module forbids it.
pub fn executable_text(text: &[u8]) -> Result<OwnedFd> {
    /// `MFD_EXEC` (Linux 6.3).
    const EXECUTABLE: MemfdFlags = MemfdFlags::from_bits_retain(0x10);
    let make = |flags| rustix::fs::memfd_create("text", MemfdFlags::CLOEXEC | flags).map_err(errno_of);
    let file = match make(EXECUTABLE) {
        // An older kernel, where every one may be executed.
        Err(Errno::EINVAL) => make(MemfdFlags::empty()),
        made => made,
    };
    let file = check::permitted("memfd_create(MFD_EXEC)", file)?;
    rustix::io::write(&file, text)?;
    Ok(file)
}

/// Takes ownership of a descriptor that a system call has just returned as a number.
///
/// # Safety
/// The number must be that of an open descriptor that nothing else owns.
pub(crate) unsafe fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller upholds the contract of this function.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
