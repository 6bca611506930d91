//! 64-bit RISC-V.

use std::arch::asm;
use std::ffi::{c_int, c_void};

use nix::sys::signal::Signal;

pub use super::generic::*;

/// What a library that uses restartable sequences on this processor signs them with, see `rseq(2)`.
pub const RSEQ_SIGNATURE: u32 = 0xf140_1073;

/// `clone3(2)` with a new stack for the child, which calls `entry` with `argument` and then ends its thread with the value that
/// this returns. Gives the raw result; negative is an errno.
///
/// # Safety
/// `args` points to `size` readable bytes of `struct clone_args` with a stack of the child's own, or the
/// kernel refuses them. `entry` is sound to call in the child.
pub unsafe fn clone3_on_stack(
    args: *const u64,
    size: usize,
    entry: extern "C" fn(usize) -> c_int,
    argument: usize,
) -> isize {
    let result: isize;
    // SAFETY: in the parent, a plain system call, which leaves all registers but a0. The child finds sp at the end of its
    // page-aligned stack; it never comes back to Rust code after `entry`.
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

/// `vfork(2)`, which is a `clone(2)` here, and whose child exits with `code` before the call returns. Gives the raw result; negative is
/// an errno.
pub fn vfork_and_exit(code: i32) -> isize {
    let pid: isize;
    // SAFETY: the child runs on the caller's stack but touches no memory at all: it exits from its registers.
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

/// The address of the caller's thread-local storage, which the kernel was told by CLONE_SETTLS or by the C library. Safe in a thread
/// that has none, and after any clone.
pub fn thread_pointer() -> u64 {
    let base: u64;
    // SAFETY: a register is read.
    unsafe { asm!("mv {}, tp", out(reg) base) };
    base
}

/// Whether the processor is QEMU's emulator, as far as it says so: one of no particular maker's (`mvendorid` 0), as QEMU's `rv64` is.
pub fn is_emulated() -> bool {
    /// `struct riscv_hwprobe` of `asm/hwprobe.h`, with the key of the maker's number.
    const MAKER: [i64; 2] = [0, -1];
    const SYS_RISCV_HWPROBE: libc::c_long = 258;
    let mut pair = MAKER;
    // SAFETY: one live pair is passed, and no set of processors, which means all.
    let done = unsafe { libc::syscall(SYS_RISCV_HWPROBE, &raw mut pair, 1_usize, 0_usize, 0_usize, 0_usize) };
    done == 0 && pair == [0, 0]
}

/// Reads a word of memory, wherever that is.
pub fn load(address: *const c_void) {
    // SAFETY: what is read goes nowhere. An address where nothing may be read ends in a signal, not in another instruction.
    unsafe { asm!("ld {0}, 0({0})", inout(reg) address => _) };
}

/// Writes a byte to memory.
///
/// # Safety
/// Nobody must depend on the byte that is there.
pub unsafe fn store(address: *mut c_void) {
    // SAFETY: passed on to the caller.
    unsafe { asm!("sb zero, 0({0})", in(reg) address) };
}

/// An instruction that ends in a signal. A division by zero is none here, and what only the kernel may use is like what does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A breakpoint without a debugger.
    Breakpoint,
    /// There is no such instruction.
    Illegal,
}

impl Trap {
    /// All of them.
    pub const ALL: [Trap; 2] = [Trap::Breakpoint, Trap::Illegal];

    /// The signal that comes of it.
    pub const fn signal(self) -> Signal {
        match self {
            Trap::Breakpoint => Signal::SIGTRAP,
            Trap::Illegal => Signal::SIGILL,
        }
    }

    /// The `si_code` of that signal: `TRAP_BRKPT`, `ILL_ILLOPC`.
    pub const fn code(self) -> i32 {
        match self {
            Trap::Breakpoint | Trap::Illegal => 1,
        }
    }

    /// Runs into it.
    pub fn happen(self) {
        match self {
            // SAFETY: ebreak does nothing but trap.
            Trap::Breakpoint => unsafe { asm!("ebreak") },
            // SAFETY: unimp does nothing but fault.
            Trap::Illegal => unsafe { asm!("unimp") },
        }
    }
}
