//! `kernel.core_pattern`, changed for the time of one case.
//!
//! It is global, so it is put back whatever becomes of the case: by the case itself when it ends or fails, by
//! its lane when the case dies, and by a guard process when the lane dies too. Cases that use it declare
//! [`Need::GlobalChanges`](crate::need::Need::GlobalChanges): nothing else runs meanwhile.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use crate::check::{Failure, Result};
use crate::clone3::{Child, Clone3};
use crate::note;
use crate::pidfd::Pidfd;

const FILE: &str = "/proc/sys/kernel/core_pattern";

/// The pattern as it is, or `None` where there is none: no `/proc`, or a kernel that never dumps core.
pub fn read() -> Option<String> {
    let text = std::fs::read_to_string(FILE).ok()?;
    Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

/// Puts a pattern back, if another one is in force.
pub(crate) fn put_back(pattern: &str) {
    if read().is_some_and(|now| now != pattern) {
        // There is nobody to be told of an error.
        let _ = write(pattern);
    }
}

/// One write of a whole line: an empty pattern would otherwise be no write at all.
fn write(pattern: &str) -> std::io::Result<()> {
    std::fs::write(FILE, format!("{pattern}\n"))
}

/// A pattern in force until this is dropped.
#[derive(Debug)]
pub struct CorePattern {
    before: String,
    /// Taken when it is dismissed.
    guard: Option<Child>,
    /// The process that changed the pattern: forked copies do not put it back.
    owner: u32,
}

impl CorePattern {
    /// Puts `pattern` in force.
    ///
    /// # Errors
    /// `blocked` where the kernel takes none, or not this one: a socket's path, outside the initial mount
    /// namespace.
    pub fn set(pattern: &str) -> Result<CorePattern> {
        let before = read().ok_or_else(|| Failure::blocked(format!("cannot read {FILE}")))?;
        let guard = Some(guard(&before)?);
        let in_force = CorePattern { before, guard, owner: std::process::id() };
        in_force.change(pattern)?;
        Ok(in_force)
    }

    /// Puts another pattern in force.
    pub fn change(&self, pattern: &str) -> Result {
        note!("core_pattern := {pattern:?}");
        write(pattern).map_err(|error| {
            let is_socket = pattern.starts_with('@') && error.kind() == std::io::ErrorKind::InvalidInput;
            let why = if is_socket { " (a socket is taken in the initial mount namespace only)" } else { "" };
            Failure::blocked(format!("cannot set core_pattern to {pattern:?}: {error}{why}"))
        })
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        if std::process::id() != self.owner {
            return;
        }
        put_back(&self.before);
        if let Some(guard) = self.guard.take() {
            // Its task is done; should this fail, the census finds it.
            let _ = guard.clear_away();
        }
    }
}

/// A process in a session of its own that waits for the death of the caller, and then puts `pattern` back.
fn guard(pattern: &str) -> Result<Child> {
    let case = Pidfd::open(std::process::id() as i32)?;
    Clone3::fork().spawn(|| {
        let _ = rustix::process::setsid();
        let _ = nix::sys::signal::SigSet::all().thread_block();
        let mut fds = [PollFd::new(case.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE).is_err() {}
        put_back(pattern);
        0
    })
}
