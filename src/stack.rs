//! Stacks for children that share their creator's memory.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rustix::time::Timespec;

use crate::abi::Flags;
use crate::check::{Failure, Result};
use crate::sandbox;

/// A stack for a child that shares memory, and the word that shows when a thread on it has exited.
///
/// The stack is never unmapped, because a child may outlive the function that created it. A test case runs in
/// a short-lived process.
pub struct Stack {
    base: *mut std::ffi::c_void,
    /// The thread's id; the kernel clears it when the thread exits.
    pub(crate) tid: &'static AtomicU32,
    user: Cell<User>,
}

/// What uses a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Nobody,
    /// A thread whose exit clears the stack's `tid` word.
    Joinable,
    /// A child whose exit cannot be observed. It counts as using the stack forever.
    Other,
}

impl Stack {
    /// The size of a stack in bytes.
    pub const SIZE: usize = 64 * 1024;

    /// Maps a new stack.
    pub fn new() -> Result<Stack> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), Stack::SIZE, access, MapFlags::PRIVATE)? };
        Ok(Stack { base, tid: Box::leak(Box::new(AtomicU32::new(0))), user: Cell::new(User::Nobody) })
    }

    /// Returns the lowest address of the stack.
    pub fn base(&self) -> *mut std::ffi::c_void {
        self.base
    }

    /// Marks the stack as used by a child with these flags. A child that does not share the caller's memory
    /// uses a copy.
    pub(crate) fn lend(&self, flags: Flags) {
        assert_eq!(self.user.get(), User::Nobody, "two children on one stack");
        if flags.contains(Flags::CLONE_VM) {
            let tells = flags.contains(Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
            self.user.set(if tells { User::Joinable } else { User::Other });
        }
    }

    /// Marks the stack as unused.
    pub(crate) fn take_back(&self) {
        self.user.set(User::Nobody);
    }

    /// Blocks until the thread that was started on this stack has left user mode for good.
    ///
    /// # Errors
    /// If the kernel does not clear the thread's word (`CLONE_CHILD_CLEARTID`), or does not wake the caller,
    /// within the timeout of the test case.
    #[track_caller]
    pub fn join(&self) -> Result {
        use rustix::io::Errno;
        use rustix::thread::futex;
        loop {
            let tid = self.tid.load(Ordering::Acquire);
            if tid == 0 {
                if self.user.get() == User::Joinable {
                    self.take_back();
                }
                return Ok(());
            }
            let left =
                sandbox::time_left().duration().map(Timespec::try_from).and_then(std::result::Result::ok);
            match futex::wait(self.tid, futex::Flags::empty(), tid, left.as_ref()) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::TIMEDOUT) => {
                    return Err(never_woken(tid as i32, self.tid.load(Ordering::Acquire) == 0));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Describes a join that timed out: whether the thread still exists, and whether its word was cleared without
/// a wakeup.
#[track_caller]
fn never_woken(tid: i32, is_cleared: bool) -> Failure {
    let there = match kill(Pid::from_raw(tid), None) {
        Err(Errno::ESRCH) => "which is gone",
        _ => "which still exists",
    };
    let undone = match is_cleared {
        true => "cleared the word, and did not wake the FUTEX_WAIT on it, for",
        false => "did not clear the word of",
    };
    let waited = sandbox::patience();
    Failure::fail(format!(
        "CLONE_CHILD_CLEARTID: within {waited:.1?} the kernel {undone} thread {tid}, {there}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "two children on one stack")]
    fn a_stack_is_one_childs() {
        let stack = Stack::new().unwrap();
        stack.lend(Flags::CLONE_VM);
        // The word does not show whether that child has exited, so joining does not release the stack.
        stack.join().unwrap();
        stack.lend(Flags::CLONE_VM);
    }

    #[test]
    fn a_stack_is_free_after_its_thread() {
        let stack = Stack::new().unwrap();
        for _ in 0..2 {
            stack.lend(Flags::CLONE_VM | Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
            stack.join().unwrap();
        }
        stack.lend(Flags::empty());
    }
}
