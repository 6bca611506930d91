//! A gate that blocks a child until its parent opens it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::check::{Failure, Result};
use crate::pidfd::Pidfd;
use crate::{note, sandbox};

/// A gate, made before the child: the child [waits](Gate::wait) at it, the parent [opens](Gate::open) it.
///
/// A byte opens the gate, not a close, so forked siblings that inherited the pipe cannot keep it shut.
#[derive(Debug)]
pub struct Gate {
    inner: OwnedFd,
    outer: OwnedFd,
}

impl Gate {
    /// Makes a closed gate.
    pub fn new() -> Result<Gate> {
        let (inner, outer) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Gate { inner, outer })
    }

    /// Blocks until the gate opens. Makes one system call; safe in any thread and after any clone.
    pub fn wait(&self) {
        let mut byte = [0_u8; 1];
        while rustix::io::read(&self.inner, &mut byte) == Err(rustix::io::Errno::INTR) {}
    }

    /// Like [`Gate::wait`], for a gate that another process opens. Fails if that process ends first.
    #[track_caller]
    pub fn wait_for(&self, process: &Pidfd) -> Result {
        use nix::poll::{PollFd, PollFlags};
        let mut fds = [self.inner.as_fd(), process.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if !sandbox::wait_for(&mut fds)? {
            let waited = sandbox::patience();
            return Err(Failure::fail(format!(
                "the process of {process} opened no gate within {waited:.1?}"
            )));
        }
        match fds.map(|fd| fd.any()) {
            [Some(true), _] => {
                self.wait();
                Ok(())
            }
            _ => Err(Failure::fail(format!(
                "the process of {process} has ended, and should have opened a gate"
            ))),
        }
    }

    /// Like [`Gate::wait`], but polls in a busy loop, so that the caller continues without having to be woken.
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

    /// Returns the end to wait at, for a helper that inherits it and reads a byte.
    pub fn waiting_end(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }

    /// Returns the end that opens the gate, for a helper that inherits it and writes a byte.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Flags;
    use crate::clone3::Clone3;

    /// Returns the result of waiting for a child that runs `open`.
    fn waited_for(open: fn(&Gate) -> i32) -> Result {
        let gate = Gate::new()?;
        let child = Clone3::fork().with(Flags::PIDFD).spawn(|| open(&gate))?;
        let waited = gate.wait_for(child.pidfd()?);
        crate::wait::reap(child.pid())?;
        waited
    }

    #[test]
    fn the_dead_open_no_gate() {
        assert_eq!(waited_for(|gate| i32::from(gate.open().is_err())), Ok(()));
        let failure = waited_for(|_| 0).unwrap_err();
        assert!(failure.message.ends_with("has ended, and should have opened a gate"), "{}", failure.message);
    }
}
