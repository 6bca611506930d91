//! A word of memory that a case shares with the processes that it forks later.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::poll::PollTimeout;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use crate::check::{Failure, Result};
use crate::kit::process::own_pid;
use crate::sandbox;

/// Makes a shared word, which lives as long as the process.
pub fn word(value: u32) -> Result<&'static AtomicU32> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let page =
        unsafe { mmap_anonymous(std::ptr::null_mut(), size_of::<AtomicU32>(), access, MapFlags::SHARED)? };
    // SAFETY: the mapping is page-aligned, large enough, zeroed, and never unmapped; every access to it is atomic.
    let word = unsafe { &*page.cast::<AtomicU32>() };
    word.store(value, Ordering::Release);
    Ok(word)
}

/// Waits in a busy loop until the word is 0, so that the caller continues without having to be woken.
#[track_caller]
pub fn spin_until_cleared(word: &AtomicU32, what: &str) -> Result {
    while word.load(Ordering::Acquire) != 0 {
        if sandbox::time_left() == PollTimeout::ZERO {
            let waited = sandbox::patience();
            let doing = sandbox::describe(own_pid());
            return Err(Failure::fail(format!("{what} did not come within {waited:.1?}; {doing}")));
        }
        std::thread::yield_now();
    }
    Ok(())
}
