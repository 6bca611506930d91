//! Syscall user dispatch: system calls that become a SIGSYS as long as a byte of memory says so.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;

use crate::check::{Failure, Named, Result};
use crate::note;

/// Of `linux/prctl.h`.
const PR_SET_SYSCALL_USER_DISPATCH: c_int = 59;
const OFF: libc::c_ulong = 0;
const ON: libc::c_ulong = 1;

/// `SYSCALL_DISPATCH_FILTER_ALLOW` and `SYSCALL_DISPATCH_FILTER_BLOCK`.
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;

/// The byte that decides.
#[derive(Debug)]
pub struct Selector(AtomicU8);

impl Selector {
    /// Has each system call of a thread whose dispatch is on become a SIGSYS.
    pub fn block(&self) {
        self.0.store(BLOCK, Ordering::Relaxed);
    }
}

/// Runs `body` while syscall user dispatch is on for the calling thread, and its system calls are allowed.
///
/// # Errors
/// `blocked` if the kernel has no syscall user dispatch.
pub fn switched_on<T>(body: impl FnOnce(&Selector) -> Result<T>) -> Result<T> {
    let selector = Box::leak(Box::new(Selector(AtomicU8::new(ALLOW))));
    set(ON, selector).map_err(|errno| {
        Failure::blocked(format!(
            "needs syscall user dispatch (CONFIG_SYSCALL_USER_DISPATCH): {}",
            Named(errno)
        ))
    })?;
    let result = body(selector);
    set(OFF, selector)?;
    result
}

fn set(mode: libc::c_ulong, selector: &'static Selector) -> std::result::Result<(), Errno> {
    let none: libc::c_ulong = 0;
    let byte = if mode == ON { selector.0.as_ptr() } else { std::ptr::null_mut() };
    // SAFETY: the byte is never freed; the kernel only reads it, and nothing else depends on it.
    let done = unsafe { libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, mode, none, none, byte) };
    note!("prctl(PR_SET_SYSCALL_USER_DISPATCH, {mode}) = {done}");
    Errno::result(done).map(drop)
}
