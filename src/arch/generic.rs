//! What processors have in common whose system calls are the kernel's generic list (`asm-generic/unistd.h`): no fork(2) of its own, and
//! no calls of a 32-bit processor's.

use rustix::mm::MapFlags;

/// What [`call_as_32_bit`] needs.
pub const NEEDED_FOR_32_BIT: &str =
    "needs 32-bit system calls, which a 64-bit program cannot make on this processor";

/// For a mapping that 32 bits can point to: there is no such request, and no use for one.
pub const LOW_MEMORY: MapFlags = MapFlags::empty();

/// `fork(2)`, which is no system call here: the C library asks for it by `clone(2)`, as this does. Gives the raw result, with the
/// errno where the C library has it.
///
/// # Safety
/// The child must do with its copy of the memory what a child of a process with threads may do.
pub unsafe fn fork() -> libc::c_long {
    let zero: libc::c_ulong = 0;
    // SAFETY: no pointers are passed; the rest is passed on to the caller.
    unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, zero, zero, zero, zero) }
}

/// A system call as a 32-bit program makes it. A 64-bit program has no way to: ENOSYS.
///
/// # Safety
/// None is asked for; elsewhere it is.
pub unsafe fn call_as_32_bit(_: u32, _: [u32; 3]) -> i32 {
    -libc::ENOSYS
}
