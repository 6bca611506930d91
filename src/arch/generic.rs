//! Code for architectures that use the kernel's generic system call list (`asm-generic/unistd.h`): they have
//! no fork(2) of their own, and no 32-bit system calls.

use rustix::mm::MapFlags;

/// What [`call_as_32_bit`] needs.
pub const NEEDED_FOR_32_BIT: &str =
    "needs 32-bit system calls, which a 64-bit program cannot make on this processor";

/// The mmap flag for a mapping in the low 32 bits: there is no such flag here, and no use for one.
pub const LOW_MEMORY: MapFlags = MapFlags::empty();

/// Returns 0: here no register that the kernel keeps for each thread is spare.
pub fn spare_register() -> u64 {
    0
}

/// Does nothing.
pub fn set_spare_register(_: u64) {}

/// Forks. `fork(2)` is not a system call here: the C library implements it with `clone(2)`, and so does this.
/// Returns the raw result, with the error in errno.
///
/// # Safety
/// The child must do with its copy of the memory only what the child of a multithreaded process may do.
pub unsafe fn fork() -> libc::c_long {
    let zero: libc::c_ulong = 0;
    // SAFETY: no pointers are passed; the caller guarantees the rest.
    unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, zero, zero, zero, zero) }
}

/// Makes a system call as a 32-bit program does. A 64-bit program cannot do so here: returns ENOSYS.
///
/// # Safety
/// This version has no requirements; the one for x86-64 has.
pub unsafe fn call_as_32_bit(_: u32, _: [u32; 3]) -> i32 {
    -libc::ENOSYS
}
