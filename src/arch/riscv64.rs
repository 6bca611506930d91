//! Code for 64-bit RISC-V.

use std::arch::asm;
use std::ffi::{c_int, c_void};

use nix::sys::signal::Signal;

pub use super::generic::*;

/// The signature that code with restartable sequences uses on this architecture, see `rseq(2)`.
pub const RSEQ_SIGNATURE: u32 = 0xf140_1073;

/// Calls `clone3(2)` with a new stack for the child, which calls `entry` with `argument` and then ends its
/// thread with the return value as exit code. Returns the raw result; a negative one is an errno.
///
/// # Safety
/// `args` must point to `size` readable bytes of `struct clone_args` with a stack of the child's own, or to
/// something that the kernel rejects. Calling `entry` in the child must be sound.
pub unsafe fn clone3_on_stack(
    args: *const u64,
    size: usize,
    entry: extern "C" fn(usize) -> c_int,
    argument: usize,
) -> isize {
    let result: isize;
    // SAFETY: in the parent, this is a plain system call, which preserves all registers but a0. The child
    // starts with sp at the end of its page-aligned stack and never returns to Rust code after `entry`.
    unsafe {
        asm!(
            "ecall",
            "bnez a0, 2f",
            "li s0, 0",
            "mv a0, s3",
            "jalr s2",
            "li a7, {exit}",
            "ecall",
            "unimp",
            "2:",
            exit = const libc::SYS_exit,
            in("s2") entry,
            in("s3") argument,
            inlateout("a0") args => result,
            in("a1") size,
            in("a7") libc::SYS_clone3,
        );
    }
    result
}

/// Calls `vfork(2)`, which is a `clone(2)` here. The child exits with `code` before the call returns. Returns
/// the raw result; a negative one is an errno.
pub fn vfork_and_exit(code: i32) -> isize {
    let pid: isize;
    // SAFETY: the child runs on the caller's stack but accesses no memory at all: it exits using only
    // registers.
    unsafe {
        asm!(
            "ecall",
            "bnez a0, 2f",
            "mv a0, s2",
            "li a7, {exit}",
            "ecall",
            "unimp",
            "2:",
            exit = const libc::SYS_exit,
            in("s2") i64::from(code),
            inlateout("a0") (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as isize => pid,
            in("a1") 0_u64,
            in("a2") 0_u64,
            in("a3") 0_u64,
            in("a4") 0_u64,
            in("a7") libc::SYS_clone,
        );
    }
    pid
}

/// Returns the address of the caller's thread-local storage, as set by CLONE_SETTLS or by the C library. Safe
/// in a thread that has none, and after any clone.
pub fn thread_pointer() -> u64 {
    let base: u64;
    // SAFETY: this only reads a register.
    unsafe { asm!("mv {}, tp", out(reg) base) };
    base
}

/// Returns whether the CPU is QEMU's emulator, as far as the CPU shows it. QEMU's `rv64` has no vendor
/// (`mvendorid` 0).
pub fn is_emulated() -> bool {
    /// `struct riscv_hwprobe` of `asm/hwprobe.h`, with the key of the vendor ID.
    const MAKER: [i64; 2] = [0, -1];
    const SYS_RISCV_HWPROBE: libc::c_long = 258;
    let mut pair = MAKER;
    // SAFETY: one live pair is passed, and no CPU set, which means all CPUs.
    let done = unsafe { libc::syscall(SYS_RISCV_HWPROBE, &raw mut pair, 1_usize, 0_usize, 0_usize, 0_usize) };
    done == 0 && pair == [0, 0]
}

/// Reads a word of memory at any address.
pub fn load(address: *const c_void) {
    // SAFETY: the value read is discarded. An unreadable address ends in a signal, without executing another
    // instruction.
    unsafe { asm!("ld {0}, 0({0})", inout(reg) address => _) };
}

/// Writes a byte to memory.
///
/// # Safety
/// Nothing may depend on the byte at this address.
pub unsafe fn store(address: *mut c_void) {
    // SAFETY: the caller guarantees it.
    unsafe { asm!("sb zero, 0({0})", in(reg) address) };
}

/// An instruction that ends in a signal. On this architecture a division by zero does not, and a privileged
/// instruction is the same as an undefined one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A breakpoint without a debugger.
    Breakpoint,
    /// An undefined instruction.
    Illegal,
}

impl Trap {
    /// All traps.
    pub const ALL: [Trap; 2] = [Trap::Breakpoint, Trap::Illegal];

    /// Returns the signal that the instruction causes.
    pub const fn signal(self) -> Signal {
        match self {
            Trap::Breakpoint => Signal::SIGTRAP,
            Trap::Illegal => Signal::SIGILL,
        }
    }

    /// Returns the `si_code` of that signal: `TRAP_BRKPT`, `ILL_ILLOPC`.
    pub const fn code(self) -> i32 {
        match self {
            Trap::Breakpoint | Trap::Illegal => 1,
        }
    }

    /// Executes the instruction.
    pub fn happen(self) {
        match self {
            // SAFETY: ebreak only traps.
            Trap::Breakpoint => unsafe { asm!("ebreak") },
            // SAFETY: unimp only faults.
            Trap::Illegal => unsafe { asm!("unimp") },
        }
    }
}
