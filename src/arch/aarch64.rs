//! Code for 64-bit ARM.

use std::arch::asm;
use std::ffi::{c_int, c_void};

use nix::sys::signal::Signal;

pub use super::generic::*;

/// The signature that code with restartable sequences uses on this architecture, see `rseq(2)`.
pub const RSEQ_SIGNATURE: u32 = 0xd428_bc00;

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
    // SAFETY: in the parent, this is a plain system call, which preserves all registers but x0. The child
    // starts with sp at the end of its page-aligned stack and never returns to Rust code after `entry`.
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

/// Calls `vfork(2)`, which is a `clone(2)` here. The child exits with `code` before the call returns. Returns
/// the raw result; a negative one is an errno.
pub fn vfork_and_exit(code: i32) -> isize {
    let pid: isize;
    // SAFETY: the child runs on the caller's stack but accesses no memory at all: it exits using only
    // registers.
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

/// Returns the address of the caller's thread-local storage, as set by CLONE_SETTLS or by the C library. Safe
/// in a thread that has none, and after any clone.
pub fn thread_pointer() -> u64 {
    let base: u64;
    // SAFETY: this reads a register that every program may read.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) base) };
    base
}

/// Returns whether the CPU is QEMU's emulator, as far as the CPU shows it. QEMU's model `max`, which has all
/// features, has part number 0x51 and implementer 0. Its other models are identical to the CPUs that they
/// emulate.
pub fn is_emulated() -> bool {
    const IMPLEMENTER_AND_PART: u64 = 0xff00_fff0;
    const QEMU_MAX_MIDR: u64 = 0x0000_0510;
    // SAFETY: getauxval takes a number.
    if unsafe { libc::getauxval(libc::AT_HWCAP) } & libc::HWCAP_CPUID == 0 {
        return false;
    }
    let midr: u64;
    // SAFETY: the kernel lets every program read this register if it reports HWCAP_CPUID.
    unsafe { asm!("mrs {}, midr_el1", out(reg) midr) };
    midr & IMPLEMENTER_AND_PART == QEMU_MAX_MIDR
}

/// Reads a word of memory at any address.
pub fn load(address: *const c_void) {
    // SAFETY: the value read is discarded. An unreadable address ends in a signal, without executing another
    // instruction.
    unsafe { asm!("ldr {0}, [{0}]", inout(reg) address => _) };
}

/// Writes a byte to memory.
///
/// # Safety
/// Nothing may depend on the byte at this address.
pub unsafe fn store(address: *mut c_void) {
    // SAFETY: the caller guarantees it.
    unsafe { asm!("strb wzr, [{0}]", in(reg) address) };
}

/// An instruction that ends in a signal. On this architecture a division by zero does not, and a privileged
/// instruction is the same as an undefined one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A breakpoint without a debugger.
    Breakpoint,
    /// An undefined instruction.
    Illegal,
    /// A misaligned instruction address.
    Misaligned,
}

impl Trap {
    /// All traps.
    pub const ALL: [Trap; 3] = [Trap::Breakpoint, Trap::Illegal, Trap::Misaligned];

    /// Returns the signal that the instruction causes.
    pub const fn signal(self) -> Signal {
        match self {
            Trap::Breakpoint => Signal::SIGTRAP,
            Trap::Illegal => Signal::SIGILL,
            Trap::Misaligned => Signal::SIGBUS,
        }
    }

    /// Returns the `si_code` of that signal: `TRAP_BRKPT`, `ILL_ILLOPC`, `BUS_ADRALN`.
    pub const fn code(self) -> i32 {
        match self {
            Trap::Breakpoint | Trap::Illegal | Trap::Misaligned => 1,
        }
    }

    /// Executes the instruction.
    pub fn happen(self) {
        match self {
            // SAFETY: brk only traps.
            Trap::Breakpoint => unsafe { asm!("brk #0") },
            // SAFETY: udf only faults.
            Trap::Illegal => unsafe { asm!("udf #0") },
            // SAFETY: the CPU fetches no instruction from a misaligned address.
            Trap::Misaligned => unsafe {
                asm!("adr {place}, 2f", "add {place}, {place}, #2", "br {place}", "2:", "nop", place = out(reg) _);
            },
        }
    }
}
