//! The function that a child runs when it may share its creator's memory.

use std::ffi::c_int;
use std::fmt;

use crate::abi::Flags;

/// A function and its argument, for a child with its own stack. The return value is the child's exit code.
///
/// A child with `CLONE_VM` shares memory and thread-local storage with its creator. Test cases therefore do
/// not write such functions; they use those in [`kit::errands`](crate::kit::errands).
#[derive(Clone, Copy)]
pub struct Errand {
    function: extern "C" fn(usize) -> c_int,
    argument: usize,
    whole: bool,
}

impl Errand {
    /// Creates an errand that any child can run.
    ///
    /// # Safety
    /// With this argument the function only makes system calls through rustix and accesses atomics and memory
    /// that is never freed: no allocation, no lock, no errno or other thread-local storage.
    pub(crate) const unsafe fn small(function: extern "C" fn(usize) -> c_int, argument: usize) -> Errand {
        Errand { function, argument, whole: false }
    }

    /// Creates an errand that may do whatever its creator may: for a child that does not share the creator's
    /// memory, or that suspends the creator while it runs (`CLONE_VFORK`).
    ///
    /// # Safety
    /// With this argument a single-threaded creator could itself call the function, and the child execs or
    /// exits inside the function or when it returns.
    pub(crate) const unsafe fn whole(function: extern "C" fn(usize) -> c_int, argument: usize) -> Errand {
        Errand { function, argument, whole: true }
    }

    /// Runs the errand in the calling process.
    pub fn run(self) -> c_int {
        (self.function)(self.argument)
    }

    /// Returns whether a child with these flags can run this errand.
    pub(crate) fn suits(self, flags: Flags) -> bool {
        let shares = flags.contains(Flags::CLONE_VM);
        let has_all = flags.contains(Flags::CLONE_VFORK) && !flags.contains(Flags::CLONE_SETTLS);
        !self.whole || !shares || has_all
    }

    /// Returns the function and its argument, for the child to call.
    pub(crate) fn parts(self) -> (extern "C" fn(usize) -> c_int, usize) {
        (self.function, self.argument)
    }
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errand({:#x})", self.argument)
    }
}
