//! Code for x86-64.

use std::arch::asm;
use std::ffi::{c_int, c_void};

use nix::sys::signal::Signal;
use rustix::mm::MapFlags;

/// The signature that code with restartable sequences uses on this architecture, see `rseq(2)`.
pub const RSEQ_SIGNATURE: u32 = 0x5305_3053;

/// What [`call_as_32_bit`] needs.
pub const NEEDED_FOR_32_BIT: &str =
    "needs 32-bit system calls (CONFIG_IA32_EMULATION, and not turned off at boot)";

/// The mmap flag for a mapping in the low 32 bits.
pub const LOW_MEMORY: MapFlags = MapFlags::from_bits_retain(libc::MAP_32BIT as u32);

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
    // SAFETY: in the parent, this is a plain system call. The child starts with rsp at the end of its
    // page-aligned stack, so the call below is aligned as the ABI requires; it never returns to Rust code
    // after `entry`.
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

/// Calls `fork(2)` as a raw system call. Returns the raw result, with the error in errno.
///
/// # Safety
/// The child must do with its copy of the memory only what the child of a multithreaded process may do.
pub unsafe fn fork() -> libc::c_long {
    // SAFETY: the call takes no arguments; the caller guarantees the rest.
    unsafe { libc::syscall(libc::SYS_fork) }
}

/// Calls `vfork(2)`. The child exits with `code` before the call returns. Returns the raw result; a negative
/// one is an errno.
pub fn vfork_and_exit(code: i32) -> isize {
    let pid: isize;
    // SAFETY: the child runs on the caller's stack but accesses no memory at all: it exits using only
    // registers.
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

/// Makes a system call as a 32-bit program does, with an i386 number: `int 0x80`, which 64-bit programs can
/// use too. Returns the raw result; a negative one is an errno.
///
/// # Safety
/// The requirements of the system call: pointers among the arguments must point to what it expects.
pub unsafe fn call_as_32_bit(number: u32, [first, second, third]: [u32; 3]) -> i32 {
    let result: i32;
    // SAFETY: the caller guarantees it. rbx, which the compiler reserves, is restored; old kernels clobber r8
    // to r11.
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

/// `arch_prctl(2)`: get the base of the FS segment.
const ARCH_GET_FS: u64 = 0x1003;

/// Returns the address of the caller's thread-local storage, as set by CLONE_SETTLS or by the C library. Safe
/// in a thread that has none, and after any clone.
pub fn thread_pointer() -> u64 {
    let mut base = 0_u64;
    // SAFETY: arch_prctl writes only to `base`, and a system call changes no registers but these.
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

/// `arch_prctl(2)`: get and set the base of the GS segment.
const ARCH_GET_GS: libc::c_int = 0x1004;
const ARCH_SET_GS: libc::c_int = 0x1001;

/// Returns the base of the GS segment, a register that the kernel keeps for each thread and that no program here uses.
pub fn spare_register() -> u64 {
    let mut base = 0_u64;
    // SAFETY: the kernel stores one address, in a live word.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_GS, &raw mut base) };
    base
}

/// Sets that register in the calling thread.
pub fn set_spare_register(value: u64) {
    // SAFETY: nothing accesses memory through GS.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, value) };
}

/// Returns whether the CPU is QEMU's emulator, which names itself in the hypervisor leaf of cpuid.
pub fn is_emulated() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    leaf.ebx.to_le_bytes() == *b"TCGT"
}

/// Reads a word of memory at any address.
pub fn load(address: *const c_void) {
    // SAFETY: the value read is discarded. An unreadable address ends in a signal, without executing another
    // instruction.
    unsafe { asm!("mov {0}, qword ptr [{0}]", inout(reg) address => _) };
}

/// Writes a byte to memory.
///
/// # Safety
/// Nothing may depend on the byte at this address.
pub unsafe fn store(address: *mut c_void) {
    // SAFETY: the caller guarantees it.
    unsafe { asm!("mov byte ptr [{0}], 1", in(reg) address) };
}

/// An instruction that ends in a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// An integer division by zero.
    Division,
    /// An undefined instruction.
    Illegal,
    /// A privileged instruction.
    Privileged,
}

impl Trap {
    /// All traps.
    pub const ALL: [Trap; 3] = [Trap::Division, Trap::Illegal, Trap::Privileged];

    /// Returns the signal that the instruction causes.
    pub const fn signal(self) -> Signal {
        match self {
            Trap::Division => Signal::SIGFPE,
            Trap::Illegal => Signal::SIGILL,
            Trap::Privileged => Signal::SIGSEGV,
        }
    }

    /// Returns the `si_code` of that signal: `FPE_INTDIV`, `ILL_ILLOPN`, `SI_KERNEL`.
    pub const fn code(self) -> i32 {
        match self {
            Trap::Division => 1,
            Trap::Illegal => 2,
            Trap::Privileged => 128,
        }
    }

    /// Executes the instruction.
    pub fn happen(self) {
        match self {
            // SAFETY: the division faults before any register changes.
            Trap::Division => unsafe {
                asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _);
            },
            // SAFETY: ud2 only faults.
            Trap::Illegal => unsafe { asm!("ud2") },
            // SAFETY: outside the kernel, hlt only faults.
            Trap::Privileged => unsafe { asm!("hlt") },
        }
    }
}
