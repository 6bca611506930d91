//! 64-bit RISC-V.

use std::arch::asm;
use std::ffi::{c_int, c_void};

use nix::sys::signal::Signal;
use rustix::mm::MapFlags;

/// What a library that uses restartable sequences on this processor signs them with, see `rseq(2)`.
pub const RSEQ_SIGNATURE: u32 = 0xf140_1073;

/// What [`call_as_32_bit`] needs.
pub const NEEDED_FOR_32_BIT: &str =
    "needs 32-bit system calls, which a 64-bit program cannot make on this processor";

/// For a mapping that 32 bits can point to: there is no such request, and no use for one.
pub const LOW_MEMORY: MapFlags = MapFlags::empty();

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

/// A system call as a 32-bit program makes it. A 64-bit program has no way to: ENOSYS.
///
/// # Safety
/// None is asked for; elsewhere it is.
pub unsafe fn call_as_32_bit(_: u32, _: [u32; 3]) -> i32 {
    -libc::ENOSYS
}

/// The address of the caller's thread-local storage, which the kernel was told by CLONE_SETTLS or by the C library. Safe in a thread
/// that has none, and after any clone.
pub fn thread_pointer() -> u64 {
    let base: u64;
    // SAFETY: a register is read.
    unsafe { asm!("mv {}, tp", out(reg) base) };
    base
}

/// Whether the processor is QEMU's emulator, as far as a program can tell: it cannot, and most kernels that are tested run in one.
pub fn is_emulated() -> bool {
    true
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
