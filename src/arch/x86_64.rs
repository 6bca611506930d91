//! x86-64.

use std::arch::asm;
use std::ffi::{c_int, c_void};

use nix::sys::signal::Signal;
use rustix::mm::MapFlags;

/// What a library that uses restartable sequences on this processor signs them with, see `rseq(2)`.
pub const RSEQ_SIGNATURE: u32 = 0x5305_3053;

/// What [`call_as_32_bit`] needs.
pub const NEEDED_FOR_32_BIT: &str =
    "needs 32-bit system calls (CONFIG_IA32_EMULATION, and not turned off at boot)";

/// For a mapping that 32 bits can point to.
pub const LOW_MEMORY: MapFlags = MapFlags::from_bits_retain(libc::MAP_32BIT as u32);

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
    // SAFETY: in the parent, a plain system call. The child finds rsp at the end of its page-aligned stack, so
    // the call below is aligned as the ABI asks; it never comes back to Rust code after `entry`.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "mov edi, eax",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            exit = const libc::SYS_exit,
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") args,
            in("rsi") size,
            in("r12") entry,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// `fork(2)`, as the system call. Gives the raw result, with the errno where the C library has it.
///
/// # Safety
/// The child must do with its copy of the memory what a child of a process with threads may do.
pub unsafe fn fork() -> libc::c_long {
    // SAFETY: takes no arguments; the rest is passed on to the caller.
    unsafe { libc::syscall(libc::SYS_fork) }
}

/// `vfork(2)`, whose child exits with `code` before the call returns. Gives the raw result; negative is an errno.
pub fn vfork_and_exit(code: i32) -> isize {
    let pid: isize;
    // SAFETY: the child runs on the caller's stack but touches no memory at all: it exits from its registers.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            exit = const libc::SYS_exit,
            inlateout("rax") libc::SYS_vfork as isize => pid,
            in("edi") code,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    pid
}

/// A system call as a 32-bit program makes it, with a number of i386: `int 0x80`, a gate that is open to 64-bit programs too. Gives
/// the raw result; negative is an errno.
///
/// # Safety
/// As that of the system call: pointers among the arguments point to what it asks for.
pub unsafe fn call_as_32_bit(number: u32, [first, second, third]: [u32; 3]) -> i32 {
    let result: i32;
    // SAFETY: passed on to the caller. rbx, which the compiler keeps for itself, is put back; r8 to r11 are
    // lost in old kernels.
    unsafe {
        asm!(
            "xchg rbx, {first:r}",
            "int 0x80",
            "xchg rbx, {first:r}",
            first = inout(reg) u64::from(first) => _,
            inlateout("eax") number => result,
            in("ecx") second,
            in("edx") third,
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
        );
    }
    result
}

/// Of `arch_prctl(2)`: where is the base of the FS segment?
const ARCH_GET_FS: u64 = 0x1003;

/// The address of the caller's thread-local storage, which the kernel was told by CLONE_SETTLS or by the C library. Safe in a thread
/// that has none, and after any clone.
pub fn thread_pointer() -> u64 {
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

/// Whether the processor is QEMU's emulator, which names itself in the hypervisor leaf of cpuid.
pub fn is_emulated() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    leaf.ebx.to_le_bytes() == *b"TCGT"
}

/// Reads a word of memory, wherever that is.
pub fn load(address: *const c_void) {
    // SAFETY: what is read goes nowhere. An address where nothing may be read ends in a signal, not in another instruction.
    unsafe { asm!("mov {0}, qword ptr [{0}]", inout(reg) address => _) };
}

/// Writes a byte to memory.
///
/// # Safety
/// Nobody must depend on the byte that is there.
pub unsafe fn store(address: *mut c_void) {
    // SAFETY: passed on to the caller.
    unsafe { asm!("mov byte ptr [{0}], 1", in(reg) address) };
}

/// An instruction that ends in a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// An integer is divided by zero.
    Division,
    /// There is no such instruction.
    Illegal,
    /// Only the kernel may use it.
    Privileged,
}

impl Trap {
    /// All of them.
    pub const ALL: [Trap; 3] = [Trap::Division, Trap::Illegal, Trap::Privileged];

    /// The signal that comes of it.
    pub const fn signal(self) -> Signal {
        match self {
            Trap::Division => Signal::SIGFPE,
            Trap::Illegal => Signal::SIGILL,
            Trap::Privileged => Signal::SIGSEGV,
        }
    }

    /// The `si_code` of that signal: `FPE_INTDIV`, `ILL_ILLOPN`, `SI_KERNEL`.
    pub const fn code(self) -> i32 {
        match self {
            Trap::Division => 1,
            Trap::Illegal => 2,
            Trap::Privileged => 128,
        }
    }

    /// Runs into it.
    pub fn happen(self) {
        match self {
            // SAFETY: the division faults before any register changes.
            Trap::Division => unsafe {
                asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _);
            },
            // SAFETY: ud2 does nothing but fault.
            Trap::Illegal => unsafe { asm!("ud2") },
            // SAFETY: outside the kernel hlt does nothing but fault.
            Trap::Privileged => unsafe { asm!("hlt") },
        }
    }
}
