//! Requests to stop (Ctrl-C, SIGTERM from a CI system, a closed terminal), as a file descriptor to wait for.
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clone3_conformance::host::is_ignored;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// The signals that ask the driver to stop. They are recorded rather than acted on at once, so that the driver can clean up
/// first.
pub struct Interrupts {
    last: Arc<AtomicUsize>,
    wake: UnixStream,
}

/// The error that the driver was stopped by this signal.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted(pub u8);

impl Interrupts {
    /// Starts to record the signals. A SIGHUP that is ignored stays so, for nohup(1). SIGINT is not left out likewise: it is ignored in
    /// whatever a script runs in the background.
    pub fn keep() -> io::Result<Self> {
        let last = Arc::new(AtomicUsize::new(0));
        let (wake, waker) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal == SIGHUP && is_ignored(SIGHUP) {
                continue;
            }
            flag::register_usize(signal, Arc::clone(&last), signal.unsigned_abs() as usize)?;
            low_level::pipe::register(signal, waker.try_clone()?)?;
        }
        Ok(Self { last, wake })
    }

    /// Fails if a signal has arrived.
    pub fn check(&self) -> Result<(), Interrupted> {
        match u8::try_from(self.last.load(Ordering::Acquire)) {
            Ok(0) | Err(_) => Ok(()),
            Ok(signal) => Err(Interrupted(signal)),
        }
    }
}

impl AsFd for Interrupts {
    /// Readable, for every waiter, once a signal has arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Interrupted {
    /// Returns the exit status that a shell reports for a program that the signal killed.
    pub fn status(&self) -> u8 {
        128 + self.0
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let name = low_level::signal_name(self.0.into()).unwrap_or("a signal");
        write!(out, "stopped by {name}")
    }
}

impl std::error::Error for Interrupted {}
