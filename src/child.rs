//! The children that clone3 creates: watching, signalling and reaping them.

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::check::{self, Failure, Result};
use crate::note;
use crate::pidfd::Pidfd;
use crate::wait::{self, Status};

/// A child created by [`Clone3`](crate::clone3::Clone3).
///
/// Dropping it closes the pidfd and does nothing else: the sandbox cleans up what a failing test case leaves
/// behind.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: Option<Pidfd>,
    reaps_itself: bool,
}

impl Child {
    /// Wraps what a successful call has created.
    pub(crate) fn new(pid: i32, pidfd: Option<Pidfd>, reaps_itself: bool) -> Child {
        Child { pid, pidfd, reaps_itself }
    }

    /// Returns the pid that the call returned.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns whether the child was created with `CLONE_AUTOREAP`, so that no process has to wait for it.
    pub fn reaps_itself(&self) -> bool {
        self.reaps_itself
    }

    /// Returns the pidfd that the call returned.
    #[track_caller]
    pub fn pidfd(&self) -> Result<&Pidfd> {
        // Not `ok_or_else(no_pidfd)`: the location of the failure would be in the standard library.
        match &self.pidfd {
            Some(pidfd) => Ok(pidfd),
            None => Err(no_pidfd()),
        }
    }

    /// Takes the pidfd that the call returned out of this child.
    #[track_caller]
    pub fn take_pidfd(&mut self) -> Result<Pidfd> {
        match self.pidfd.take() {
            Some(pidfd) => Ok(pidfd),
            None => Err(no_pidfd()),
        }
    }

    /// Closes the pidfd that the call returned.
    #[track_caller]
    pub fn close_pidfd(&mut self) -> Result {
        self.take_pidfd()?.close()
    }

    /// Opens a second pidfd for the child with `pidfd_open(2)`. Closing such a pidfd never kills the child.
    /// Call this while the child is known to exist.
    #[track_caller]
    pub fn observe(&self) -> Result<Pidfd> {
        Pidfd::open(self.pid)
    }

    /// Sends the child a signal by pid.
    #[track_caller]
    pub fn kill(&self, signal: Signal) -> Result {
        note!("kill({}, {signal})", self.pid);
        let sent = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
        check::succeeds(format_args!("kill({}, {signal})", self.pid), sent)
    }

    /// Kills the child if it still exists and waits until it is gone. An ordinary child is reaped.
    #[track_caller]
    pub fn clear_away(self) -> Result {
        if !self.reaps_itself {
            self.kill(Signal::SIGKILL)?;
            wait::reap(self.pid)?;
            return Ok(());
        }
        let observer = match &self.pidfd {
            Some(pidfd) => pidfd.try_clone()?,
            None => match Pidfd::try_open(self.pid) {
                Err(Errno::ESRCH) => return Ok(()),
                // Another process may have the pid by now.
                Ok(pidfd) if !wait::is_child(&pidfd) => return Ok(()),
                other => other?,
            },
        };
        // ESRCH means that the child is already gone.
        let _ = observer.send_signal(Signal::SIGKILL);
        observer.wait_reaped()
    }

    /// Blocks until the child is a zombie, checks that it exited with `code`, and leaves it unreaped.
    #[track_caller]
    pub fn is_a_zombie(&self, code: i32) -> Result {
        check::equal("the zombie", wait::find_zombie(self.pid)?, wait::Event::exited(self.pid, code))
    }

    /// Waits until a child with a pidfd is gone without a wait call, and checks that the recorded exit status
    /// is `expected`.
    #[track_caller]
    pub fn is_gone_with(&self, expected: Status) -> Result {
        self.pidfd()?.gone_with(self.pid, expected)
    }

    /// Waits until the child is gone and checks how it ended. Reaps an ordinary child; checks that the kernel
    /// has reaped an auto-reaped one.
    #[track_caller]
    pub fn ends_with(self, expected: Status) -> Result {
        if self.reaps_itself { self.is_gone_with(expected) } else { self.reap_expecting(expected) }
    }

    /// Reaps an ordinary child and checks how it ended.
    #[track_caller]
    pub fn reap_expecting(self, expected: Status) -> Result {
        wait::reap_expecting(self.pid, expected)
    }
}

#[track_caller]
fn no_pidfd() -> Failure {
    Failure::broken(
        "this child has no pidfd: cloned without CLONE_PIDFD, taken already, or the kernel wrote none",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_pidfd_is_missed_by_the_caller() {
        let mut child = Child::new(1, None, false);
        let missed = [child.pidfd().map(drop), child.take_pidfd().map(drop), child.close_pidfd()];
        let line = line!() - 1;
        assert_eq!(
            missed.map(|missed| missed.unwrap_err().at),
            [(); 3].map(|()| format!("src/child.rs:{line}"))
        );
    }
}
