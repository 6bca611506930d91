//! A lock for test cases that change system-wide settings, so that only one of them runs at a time on the
//! whole system.
//!
//! Within one program the runner ensures that. With two programs, the second would take a value changed by
//! the first one's case for the original value, and restore that at its end.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, getpid};

use super::lane::kill_and_reap;
use super::wait_within;
use crate::check::{Failure, Result};
use crate::clone3::exit_now;
use crate::kit::process;
use crate::parent::end_with;
use crate::wait::Status;

/// The file that is locked: one of `/proc`, so that no file is left behind. Only root can open it, so that no other user can keep
/// the cases from running.
const LOCK: &str = "/proc/sys/kernel/cad_pid";

/// How long to wait for other runs: several cases one after another, or one that hangs until its deadline.
const PATIENCE: Duration = Duration::from_secs(120);

/// The right to change settings, until it is dropped. The case inherits the descriptor: if its lane dies,
/// other runs wait for all processes of the case, one of which restores the settings.
pub(super) struct SystemLock(Option<File>);

impl SystemLock {
    /// Blocks until no other program holds the lock, or `program` goes away.
    ///
    /// # Errors
    /// `blocked` if another program does not release it.
    pub(super) fn when_possible(program: &impl AsFd) -> Result<SystemLock> {
        SystemLock::of(LOCK, PATIENCE, program.as_fd())
    }

    fn of(path: &str, patience: Duration, program: BorrowedFd<'_>) -> Result<SystemLock> {
        let file = match File::open(path) {
            Ok(file) => file,
            // Without /proc, or with one that is not for us, no setting can be changed. Every Linux with settings has the file.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                return Ok(SystemLock(None));
            }
            Err(error) => return Err(Failure::from(error).within(format_args!("{path}, to be locked"))),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => wait_for(&file, patience, program)?,
            // The kernel has no such locks, or a filter rejects them.
            Err(_) => return Ok(SystemLock(None)),
        }
        Ok(SystemLock(Some(file)))
    }
}

impl Drop for SystemLock {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            // Unlocks for all copies of the descriptor.
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}

/// Waits for the lock in a forked child, and then has it too. flock(2) itself has no timeout and cannot wait
/// for another event.
fn wait_for(file: &File, patience: Duration, program: BorrowedFd<'_>) -> Result {
    let (ended, lives) = pipe_with(PipeFlags::CLOEXEC)?;
    let lane = getpid();
    let Some(waiter) = process::raw_fork()? else {
        if end_with(lane, Signal::KILL) == Err(Errno::SRCH) {
            exit_now(1);
        }
        exit_now(i32::from(flock(file, FlockOperation::LockExclusive).is_err()))
    };
    drop(lives);
    let news = first_news(&ended, program, patience);
    let status = kill_and_reap(waiter);
    match news {
        News::Ended if status == Some(Status::exited(0)) => Ok(()),
        News::Ended => {
            Err(Failure::broken(format!("flock of {LOCK} failed while it was locked: {status:?}")))
        }
        News::Gone => Err(Failure::broken("the program that asked for the case went away")),
        News::Nothing => Err(Failure::blocked(format!(
            "another run of the suite has had {LOCK} locked for {patience:.1?}: it changes such settings, too"
        ))),
    }
}

enum News {
    Ended,
    Gone,
    Nothing,
}

/// Waits for the first event: the child exits, usually with the lock, or the program goes away.
fn first_news(ended: &OwnedFd, program: BorrowedFd<'_>, patience: Duration) -> News {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(program, PollFlags::empty())];
    match wait_within(&mut fds, timeout) {
        Ok(false) | Err(_) => News::Nothing,
        Ok(true) if fds[0].any() == Some(true) => News::Ended,
        Ok(true) => News::Gone,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Runs the question in a child process: it forks, which the multithreaded test harness must not do.
    fn holds(question: impl FnOnce(&str, BorrowedFd<'_>) -> bool) -> bool {
        let place = tempfile::NamedTempFile::new().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        process::answers(|| question(place.path().to_str().unwrap(), ours.as_fd()))
    }

    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn the_second_is_told_that_it_cannot() {
        assert!(holds(|path, program| {
            let first = SystemLock::of(path, SHORT, program).unwrap();
            let told =
                SystemLock::of(path, SHORT, program).is_err_and(|failure| failure.message.contains("locked"));
            drop(first);
            told && SystemLock::of(path, SHORT, program).is_ok()
        }));
    }

    #[test]
    fn the_second_waits_for_the_first() {
        assert!(holds(|path, program| {
            let first = SystemLock::of(path, SHORT, program).unwrap();
            let (going, goes) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let Some(other) = process::raw_fork().unwrap() else {
                drop(goes);
                // Wait until the second is about to lock. It gets the lock whether or not it is already
                // waiting.
                let _ = rustix::io::read(&going, &mut [0_u8; 1]);
                drop(first);
                exit_now(0)
            };
            drop(going);
            rustix::io::write(&goes, b"g").unwrap();
            let second = SystemLock::of(path, PATIENCE, program);
            kill_and_reap(other);
            // The second holds the lock itself, not only the child that waited for it.
            second.is_ok() && SystemLock::of(path, SHORT, program).is_err()
        }));
    }

    #[test]
    fn a_program_that_goes_away_ends_the_waiting() {
        let place = tempfile::NamedTempFile::new().unwrap();
        assert!(process::answers(|| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let path = place.path().to_str().unwrap();
            let _first = SystemLock::of(path, SHORT, ours.as_fd()).unwrap();
            drop(theirs);
            SystemLock::of(path, PATIENCE, ours.as_fd())
                .is_err_and(|failure| failure.message.contains("went away"))
        }));
    }

    #[test]
    fn what_is_not_there_needs_no_lock() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(SystemLock::of("/nothing/here", SHORT, ours.as_fd()).is_ok());
    }
}
