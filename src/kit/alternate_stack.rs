//! The alternate stack for signal handlers: see sigaltstack(2).

use nix::errno::Errno;

use crate::check::Result;
use crate::clone3::Stack;
use crate::errand::Errand;

/// Gives the calling thread an alternate stack.
pub fn set() -> Result {
    let stack = libc::stack_t { ss_sp: Stack::new()?.base(), ss_flags: 0, ss_size: Stack::SIZE };
    // SAFETY: the structure is live, and its memory is never unmapped or used for anything else.
    Errno::result(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) })?;
    Ok(())
}

/// Returns an errand that exits with the result of [`exit_code_if_missing`].
pub fn tell_if_missing() -> Errand {
    extern "C" fn tell(_: usize) -> i32 {
        exit_code_if_missing()
    }
    // SAFETY: it makes one system call, which has no reason to fail and so does not set errno.
    unsafe { Errand::small(tell, 0) }
}

/// Returns 1 if the calling thread has no alternate stack, 0 if it has one, 2 if that is unknown.
pub fn exit_code_if_missing() -> i32 {
    // SAFETY: stack_t is plain data, for which all zeroes is a valid value.
    let mut found: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: a null new stack changes nothing, and `found` is live.
    match unsafe { libc::sigaltstack(std::ptr::null(), &mut found) } {
        0 => i32::from(found.ss_flags & libc::SS_DISABLE != 0),
        _ => 2,
    }
}
