//! A POSIX message queue: see mq_overview(7).

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::check::{Failure, Named, Result};

/// A POSIX message queue without a name, so that nothing is left of it when its descriptors are closed.
#[derive(Debug)]
pub struct MessageQueue(OwnedFd);

impl MessageQueue {
    /// Makes a new queue.
    ///
    /// # Errors
    /// `blocked` if the kernel has no message queues, or does not allow the caller one more.
    pub fn new() -> Result<MessageQueue> {
        let name = CString::new(format!("/clone3-conformance-{}", std::process::id()))
            .map_err(std::io::Error::from)?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        // SAFETY: the name is a live string; no attributes are passed.
        let made = Errno::result(unsafe {
            libc::mq_open(name.as_ptr(), flags, 0o600, std::ptr::null::<libc::mq_attr>())
        });
        let made = made.map_err(|errno| {
            Failure::blocked(format!("needs a message queue: mq_open fails with {}", Named(errno)))
        })?;
        // SAFETY: the name is a live string.
        unsafe { libc::mq_unlink(name.as_ptr()) };
        // SAFETY: the descriptor is new, and nobody else has it.
        Ok(MessageQueue(unsafe { OwnedFd::from_raw_fd(made) }))
    }

    /// Registers the calling process as the one to be notified, without a signal. Returns false if another is.
    pub fn register(&self) -> Result<bool> {
        // SAFETY: all zeroes is a valid value of this plain structure.
        let mut silent: libc::sigevent = unsafe { std::mem::zeroed() };
        silent.sigev_notify = libc::SIGEV_NONE;
        // SAFETY: `silent` is live.
        match Errno::result(unsafe { libc::mq_notify(self.0.as_raw_fd(), &silent) }) {
            Ok(_) => Ok(true),
            Err(Errno::EBUSY) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the calling process's registration.
    pub fn unregister(&self) -> Result {
        // SAFETY: NULL is allowed, and removes the registration.
        Errno::result(unsafe { libc::mq_notify(self.0.as_raw_fd(), std::ptr::null()) })?;
        Ok(())
    }
}
