//! What a child does that may share its creator's memory.

use std::ffi::c_int;
use std::fmt;

use crate::abi::Flags;

/// A function and its argument, for a child with a stack of its own. What it returns is the child's exit status.
///
/// A child with `CLONE_VM` shares memory and thread-local storage with its creator. So cases do not write such functions: they
/// take one of [`kit::errands`](crate::kit::errands).
#[derive(Clone, Copy)]
pub struct Errand {
    function: extern "C" fn(usize) -> c_int,
    argument: usize,
    whole: bool,
}

impl Errand {
    /// One that any child can do.
    ///
    /// # Safety
    /// With this argument the function makes system calls through rustix and touches atomics and what is never freed, and nothing
    /// else: no allocation, no lock, no errno or other thread-local storage.
    pub(crate) const unsafe fn small(function: extern "C" fn(usize) -> c_int, argument: usize) -> Errand {
        Errand { function, argument, whole: false }
    }

    /// One that may do what its creator may: for a child that does not share its memory, or holds it up meanwhile
    /// (`CLONE_VFORK`).
    ///
    /// # Safety
    /// With this argument the creator, if it has one thread, could call the function, at the end of which or in which the child
    /// execs or ends.
    pub(crate) const unsafe fn whole(function: extern "C" fn(usize) -> c_int, argument: usize) -> Errand {
        Errand { function, argument, whole: true }
    }

    /// Does it in the calling process.
    pub fn run(self) -> c_int {
        (self.function)(self.argument)
    }

    /// Whether a child with these flags can do it.
    pub(crate) fn suits(self, flags: Flags) -> bool {
        let shares = flags.contains(Flags::CLONE_VM);
        let has_all = flags.contains(Flags::CLONE_VFORK) && !flags.contains(Flags::CLONE_SETTLS);
        !self.whole || !shares || has_all
    }

    /// The function and its argument, to be called by the child.
    pub(crate) fn parts(self) -> (extern "C" fn(usize) -> c_int, usize) {
        (self.function, self.argument)
    }
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errand({:#x})", self.argument)
    }
}
