//! The older system calls that make a child, with arbitrary flags.

use std::ffi::c_ulong;

use nix::errno::Errno;

use crate::abi::Flags;
use crate::clone3::{PIDFD_UNTOUCHED, exit_child, exit_now};
use crate::kit::fds;
use crate::pidfd::Pidfd;
use crate::{arch, note};

/// Calls `clone(2)` as fork does, without a separate stack. The child runs `body` and exits with the result. Returns a
/// pidfd if the flags contain `CLONE_PIDFD`.
pub fn clone(flags: u64, body: impl FnOnce() -> i32) -> Result<(i32, Option<Pidfd>), Errno> {
    assert!(flags & Flags::CLONE_VM.bits() == 0, "a child that shares memory needs a stack of its own");
    assert!(flags & Flags::CLONE_SETTLS.bits() == 0, "a body needs the thread-local storage that it knows");
    let zero: c_ulong = 0;
    let mut pidfd = PIDFD_UNTOUCHED;
    // SAFETY: without CLONE_VM the child works on a copy of this memory, and `pidfd` is live.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, zero, &raw mut pidfd, zero, zero) };
    if pid == 0 {
        exit_child(body);
    }
    note!("clone({flags:#x}) = {pid}");
    let pid = Errno::result(pid)? as i32;
    let wrote = flags & Flags::PIDFD.bits() != 0 && pidfd >= 0;
    // SAFETY: on success the kernel wrote a new descriptor that nothing else owns.
    Ok((pid, wrote.then(|| Pidfd::from(unsafe { fds::adopt(pidfd) }))))
}

/// Calls `fork(2)`. The child exits with `code`.
pub fn fork(code: i32) -> Result<i32, Errno> {
    // SAFETY: the child exits at once.
    let pid = unsafe { arch::fork() };
    if pid == 0 {
        exit_now(code);
    }
    note!("fork() = {pid}");
    Errno::result(pid).map(|pid| pid as i32)
}

/// Calls `vfork(2)`. The child exits with `code` before the call returns.
pub fn vfork(code: i32) -> Result<i32, Errno> {
    let pid = arch::vfork_and_exit(code);
    note!("vfork() = {pid}");
    if pid < 0 { Err(Errno::from_raw(-pid as i32)) } else { Ok(pid as i32) }
}

/// Calls `unshare(2)` with arbitrary flags.
pub fn unshare(flags: u64) -> Result<(), Errno> {
    // SAFETY: no pointers are passed.
    Errno::result(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}
