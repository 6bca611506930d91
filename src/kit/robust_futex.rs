//! A robust futex, which the kernel unlocks when the thread that holds it exits: see get_robust_list(2).

use std::mem::size_of;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use crate::check::Result;
use crate::kit::threads::own_tid;

/// `struct robust_list_head` of `linux/futex.h`.
#[repr(C)]
struct RobustList {
    next: *const RobustList,
    futex_offset: i64,
    pending: usize,
}

/// Returns whether the calling thread has registered a list of robust futexes, be it an empty one.
pub(crate) fn has_list() -> bool {
    let (mut list, mut size): (*const RobustList, usize) = (std::ptr::null(), 0);
    let own = 0;
    // SAFETY: the kernel stores an address and a size, in live words.
    let done = unsafe { libc::syscall(libc::SYS_get_robust_list, own, &raw mut list, &raw mut size) };
    done == 0 && !list.is_null()
}

/// Locks this word as a robust futex of the calling thread. This replaces the C library's own list, so the process must not
/// use other robust futexes.
pub fn take_robustly(word: &'static AtomicU32) -> Result {
    word.store(own_tid() as u32, Ordering::Release);
    let list = Box::leak(Box::new(RobustList { next: std::ptr::null(), futex_offset: 0, pending: 0 }));
    // An empty list points to itself; the kernel finds the word through the pending entry, like a futex that is just being
    // locked.
    list.next = &raw const *list;
    list.pending = word.as_ptr() as usize;
    // SAFETY: the list and the word are never freed; the kernel reads the list and writes the word when the thread exits.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_set_robust_list, &raw const *list, size_of::<RobustList>())
    })?;
    Ok(())
}
