//! A gate that holds a child until its parent opens it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::check::{self, Failure, Result};
use crate::pidfd::Pidfd;
use crate::{note, sandbox};

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

    /// As [`Gate::wait`], for the word of a process that may be dead by mistake: that is a failure then.
    #[track_caller]
    pub fn wait_for(&self, process: &Pidfd) -> Result {
        use nix::poll::{PollFd, PollFlags, poll};
        let mut fds = [self.inner.as_fd(), process.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        check::succeeds("poll", poll(&mut fds, sandbox::time_left()))?;
        match fds.map(|fd| fd.any()) {
            [Some(true), _] => {
                self.wait();
                Ok(())
            }
            [_, Some(true)] => Err(Failure::fail(format!(
                "the process of {process} has ended, and should have opened a gate"
            ))),
            _ => {
                let waited = sandbox::patience();
                Err(Failure::fail(format!("the process of {process} opened no gate within {waited:.1?}")))
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Flags;
    use crate::clone3::Clone3;

    /// What comes of waiting for a child that does this.
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
