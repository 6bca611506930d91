//! Ways to dump core.

use std::ffi::c_int;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction, signal};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::arch::{self, Trap};
use crate::check::Result;
use crate::clone3::Stack;
use crate::wait::Status;

/// The way in which a process crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// It reads from an unmapped address.
    Unmapped,
    /// It writes to a read-only page.
    ReadOnly,
    /// It executes an instruction that raises a fatal trap.
    Trap(Trap),
    /// It handles a signal on an alternate stack that is not writable.
    NoStack,
    /// It sends itself SIGABRT.
    Abort,
}

impl Crash {
    /// Returns all ways to crash.
    pub fn all() -> impl Iterator<Item = Crash> {
        let everywhere = [Crash::Unmapped, Crash::ReadOnly, Crash::NoStack, Crash::Abort];
        everywhere.into_iter().chain(Trap::ALL.map(Crash::Trap))
    }

    /// Returns the signal that this causes.
    pub const fn signal(self) -> Signal {
        match self {
            Crash::Unmapped | Crash::ReadOnly | Crash::NoStack => Signal::SIGSEGV,
            Crash::Trap(trap) => trap.signal(),
            Crash::Abort => Signal::SIGABRT,
        }
    }

    /// Returns the `si_code` of that signal: `SEGV_MAPERR`, `SEGV_ACCERR`, the trap's, `SI_KERNEL`, `SI_TKILL`.
    pub const fn code(self) -> i32 {
        match self {
            Crash::Unmapped => 1,
            Crash::ReadOnly => 2,
            Crash::Trap(trap) => trap.code(),
            Crash::NoStack => libc::SI_KERNEL,
            Crash::Abort => libc::SI_TKILL,
        }
    }

    /// Returns the wait status when core is dumped.
    pub const fn dumped(self) -> Status {
        Status::dumped(self.signal())
    }

    /// Crashes the calling process; returns the exit status 94 if it survives.
    pub fn now(self) -> i32 {
        expect_death_by(self.signal());
        self.happen();
        94
    }

    /// Like [`Crash::now`], but with more memory in the core dump than any socket buffers: the dump cannot finish before a
    /// reader takes it.
    pub fn with_large_core(self) -> i32 {
        expect_large_core_by(self.signal());
        self.happen();
        94
    }

    fn happen(self) {
        match self {
            // Nothing is mapped at this address.
            Crash::Unmapped => arch::load(std::ptr::without_provenance(8)),
            Crash::ReadOnly => write_to_read_only_page(),
            Crash::Trap(trap) => trap.happen(),
            // If the crash does not happen, the caller notices.
            Crash::NoStack => drop(handle_without_stack()),
            Crash::Abort => drop(raise(Signal::SIGABRT)),
        }
    }
}

/// In a process to which another process will send `signal`: lets it dump a small core.
pub fn expect_death_by(signal: Signal) {
    choose_memory("0");
    prepare(signal);
}

/// Like [`expect_death_by`], with as much memory in the core dump as with [`Crash::with_large_core`].
pub fn expect_large_core_by(signal: Signal) {
    std::hint::black_box(vec![1_u8; 1 << 19].leak());
    choose_memory("0x1");
    prepare(signal);
}

/// Sets the default action of the signal, and makes the process dumpable.
fn prepare(number: Signal) {
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { signal(number, SigHandler::SigDfl) };
}

/// Selects the memory that goes into the core dump, see core(5). With "0" it contains registers and a map of the memory,
/// but no memory contents.
fn choose_memory(filter: &str) {
    // Cases that dump core need /proc anyway.
    let _ = std::fs::write("/proc/self/coredump_filter", filter);
}

/// Sends the caller a signal that it handles, but for which the kernel cannot write a stack frame.
fn handle_without_stack() -> Result {
    extern "C" fn never(_: c_int) {}
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
    let nowhere =
        unsafe { mmap_anonymous(std::ptr::null_mut(), Stack::SIZE, ProtFlags::empty(), MapFlags::PRIVATE)? };
    let stack = libc::stack_t { ss_sp: nowhere, ss_flags: 0, ss_size: Stack::SIZE };
    // SAFETY: the structure is live, and nothing will run on the stack.
    Errno::result(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) })?;
    let action = SigAction::new(SigHandler::Handler(never), SaFlags::SA_ONSTACK, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action)? };
    Ok(raise(Signal::SIGUSR1)?)
}

fn write_to_read_only_page() {
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::PRIVATE) };
    if let Ok(page) = page {
        // SAFETY: the page is ours, and the kernel does not allow writes to it.
        unsafe { arch::store(page) };
    }
}
