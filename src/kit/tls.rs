//! Thread-local storage, without touching it.

use std::arch::asm;

/// Of `arch_prctl(2)`: where is the base of the FS segment?
const ARCH_GET_FS: u64 = 0x1003;

/// The address of the caller's thread-local storage, which the kernel was told by CLONE_SETTLS or by the C library. Safe in a thread
/// that has none, and after any clone.
pub fn base() -> u64 {
    let mut base = 0_u64;
    // SAFETY: arch_prctl writes to `base` alone, and a system call changes no registers but these.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") libc::SYS_arch_prctl => _,
            in("rdi") ARCH_GET_FS,
            in("rsi") &raw mut base,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    base
}
