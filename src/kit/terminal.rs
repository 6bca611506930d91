//! A private terminal of the case.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::setsid;
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::check::{Failure, Named, Result, errno_of};
use crate::kit::process::in_child;
use crate::note;

/// A pseudo-terminal that is not yet the controlling terminal of any session.
#[derive(Debug)]
pub struct Terminal {
    /// Keeps the terminal connected while it is open.
    user: OwnedFd,
    line: OwnedFd,
}

impl Terminal {
    /// Makes a new one.
    ///
    /// # Errors
    /// `blocked` if none can be made.
    pub fn new() -> Result<Terminal> {
        // Do not look up the name of the other end, which may be in another mount.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let opened = openpt(flags).and_then(|user| {
            unlockpt(&user)?;
            let line = ioctl_tiocgptpeer(&user, flags)?;
            Ok(Terminal { user, line })
        });
        opened.map_err(|errno| {
            let why = Named(errno_of(errno));
            Failure::blocked(format!("needs a pseudo-terminal, and none can be opened: {why}"))
        })
    }

    /// Makes it the caller's controlling terminal (`TIOCSCTTY`). The caller must be the leader of a session without one.
    pub fn take(&self) -> std::result::Result<(), Errno> {
        let taken = rustix::process::ioctl_tiocsctty(&self.line);
        note!("ioctl(TIOCSCTTY) = {taken:?}");
        taken.map_err(errno_of)
    }

    /// In a freshly forked child: closes its copy of the user's end, which would keep the terminal connected.
    pub fn close_user_in_child(&self) {
        // SAFETY: this copy of the descriptor belongs to the child, which never uses or drops its `OwnedFd`.
        unsafe { rustix::io::close(self.user.as_raw_fd()) };
    }

    /// Returns the result of [`Terminal::take`] for the leader of a new session, while it may be the terminal of another session.
    #[track_caller]
    pub fn taken_by_another(&self) -> Result<std::result::Result<(), Errno>> {
        let taken = in_child(|| {
            setsid()?;
            Ok(self.take().map_err(|errno| errno as i32))
        })?;
        Ok(taken.map_err(Errno::from_raw))
    }

    /// Returns the foreground process group of the caller's controlling terminal, which this must be.
    pub fn foreground(&self) -> std::result::Result<i32, Errno> {
        let group = rustix::termios::tcgetpgrp(&self.line).map_err(errno_of)?;
        Ok(group.as_raw_nonzero().get())
    }

    /// Presses Ctrl-C: sends SIGINT to the foreground process group.
    pub fn interrupt(&self) -> Result {
        const CTRL_C: &[u8] = b"\x03";
        rustix::io::write(&self.user, CTRL_C)?;
        note!("Ctrl-C");
        Ok(())
    }

    /// Makes a process group of the caller's session the foreground group of its controlling terminal, which this must be.
    pub fn put_into_foreground(&self, group: i32) -> std::result::Result<(), Errno> {
        let put = rustix::termios::tcsetpgrp(&self.line, Pid::from_raw(group).ok_or(Errno::EINVAL)?);
        note!("tcsetpgrp({group}) = {put:?}");
        put.map_err(errno_of)
    }
}
