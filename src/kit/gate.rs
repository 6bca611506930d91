//! A gate that holds a child until its parent opens it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::check::Result;
use crate::note;

/// Made before the child; the child [waits](Gate::wait) at it, the parent [opens](Gate::open) it.
///
/// Opening is a byte, not a close: forked siblings that inherited the pipe cannot keep the gate shut.
#[derive(Debug)]
pub struct Gate {
    inner: OwnedFd,
    outer: OwnedFd,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Result<Gate> {
        let (inner, outer) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Gate { inner, outer })
    }

    /// Blocks until the gate opens. One system call, safe in any thread and after any clone.
    pub fn wait(&self) {
        let mut byte = [0_u8; 1];
        while rustix::io::read(&self.inner, &mut byte) == Err(rustix::io::Errno::INTR) {}
    }

    /// As [`Gate::wait`], but looks all the time and so goes on at once.
    pub fn wait_awake(&self) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let closed = || {
            let mut fds = [PollFd::new(self.inner.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO) == Ok(0)
        };
        while closed() {
            std::thread::yield_now();
        }
        self.wait();
    }

    /// The end at which one waits, for a helper that inherits it: it goes on after reading a byte.
    pub fn waiting_end(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }

    /// The end from which the gate is opened, for a helper that inherits it and writes a byte.
    pub fn opening_end(&self) -> BorrowedFd<'_> {
        self.outer.as_fd()
    }

    /// Lets one waiter through.
    pub fn open(&self) -> Result {
        note!("gate opened");
        rustix::io::write(&self.outer, b"g")?;
        Ok(())
    }
}
