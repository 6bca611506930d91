//! 64-bit ARM.

use std::arch::asm;
use std::ffi::{c_int, c_void};

use nix::sys::signal::Signal;

pub use super::generic::*;

/// What a library that uses restartable sequences on this processor signs them with, see `rseq(2)`.
pub const RSEQ_SIGNATURE: u32 = 0xd428_bc00;

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
    // SAFETY: in the parent, a plain system call, which leaves all registers but x0. The child finds sp at the end of its
    // page-aligned stack; it never comes back to Rust code after `entry`.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x21",
            "blr x20",
            "mov x8, {exit}",
            "svc #0",
            "udf #0",
            "2:",
            exit = const libc::SYS_exit,
            in("x20") entry,
            in("x21") argument,
            inlateout("x0") args => result,
            in("x1") size,
            in("x8") libc::SYS_clone3,
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
            "svc #0",
            "cbnz x0, 2f",
            "mov x0, x20",
            "mov x8, {exit}",
            "svc #0",
            "udf #0",
            "2:",
            exit = const libc::SYS_exit,
            in("x20") i64::from(code),
            inlateout("x0") (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as isize => pid,
            in("x1") 0_u64,
            in("x2") 0_u64,
            in("x3") 0_u64,
            in("x4") 0_u64,
            in("x8") libc::SYS_clone,
        );
    }
    pid
}

/// The address of the caller's thread-local storage, which the kernel was told by CLONE_SETTLS or by the C library. Safe in a thread
/// that has none, and after any clone.
pub fn thread_pointer() -> u64 {
    let base: u64;
    // SAFETY: a register is read that every program may read.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) base) };
    base
}

/// Whether the processor is QEMU's emulator, as far as it says so: as `max`, the model that has all that it can do, it is number 0x51
/// of nobody's. As another model it is like that one to the last bit.
pub fn is_emulated() -> bool {
    const IMPLEMENTER_AND_PART: u64 = 0xff00_fff0;
    const NOBODYS_0X51: u64 = 0x0000_0510;
    // SAFETY: takes a number.
    if unsafe { libc::getauxval(libc::AT_HWCAP) } & libc::HWCAP_CPUID == 0 {
        return false;
    }
    let midr: u64;
    // SAFETY: the kernel lets every program read this register where it says HWCAP_CPUID.
    unsafe { asm!("mrs {}, midr_el1", out(reg) midr) };
    midr & IMPLEMENTER_AND_PART == NOBODYS_0X51
}

/// Reads a word of memory, wherever that is.
pub fn load(address: *const c_void) {
    // SAFETY: what is read goes nowhere. An address where nothing may be read ends in a signal, not in another instruction.
    unsafe { asm!("ldr {0}, [{0}]", inout(reg) address => _) };
}

/// Writes a byte to memory.
///
/// # Safety
/// Nobody must depend on the byte that is there.
pub unsafe fn store(address: *mut c_void) {
    // SAFETY: passed on to the caller.
    unsafe { asm!("strb wzr, [{0}]", in(reg) address) };
}

/// An instruction that ends in a signal. A division by zero is none here, and what only the kernel may use is like what does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A breakpoint without a debugger.
    Breakpoint,
    /// There is no such instruction.
    Illegal,
    /// It is not where an instruction can be.
    Misaligned,
}

impl Trap {
    /// All of them.
    pub const ALL: [Trap; 3] = [Trap::Breakpoint, Trap::Illegal, Trap::Misaligned];

    /// The signal that comes of it.
    pub const fn signal(self) -> Signal {
        match self {
            Trap::Breakpoint => Signal::SIGTRAP,
            Trap::Illegal => Signal::SIGILL,
            Trap::Misaligned => Signal::SIGBUS,
        }
    }

    /// The `si_code` of that signal: `TRAP_BRKPT`, `ILL_ILLOPC`, `BUS_ADRALN`.
    pub const fn code(self) -> i32 {
        match self {
            Trap::Breakpoint | Trap::Illegal | Trap::Misaligned => 1,
        }
    }

    /// Runs into it.
    pub fn happen(self) {
        match self {
            // SAFETY: brk does nothing but trap.
            Trap::Breakpoint => unsafe { asm!("brk #0") },
            // SAFETY: udf does nothing but fault.
            Trap::Illegal => unsafe { asm!("udf #0") },
            // SAFETY: no instruction is fetched from the middle of one.
            Trap::Misaligned => unsafe {
                asm!("adr {place}, 2f", "add {place}, {place}, #2", "br {place}", "2:", "nop", place = out(reg) _);
            },
        }
    }
}
