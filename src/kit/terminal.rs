//! A terminal of the case's own.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::unistd::setsid;
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::check::{Failure, Named, Result, errno_of};
use crate::kit::process::apart;
use crate::note;

/// A pseudo-terminal, which is nobody's controlling terminal yet.
#[derive(Debug)]
pub struct Terminal {
    /// As long as one has it open, the terminal is connected.
    _user: OwnedFd,
    line: OwnedFd,
}

impl Terminal {
    /// A new one.
    ///
    /// # Errors
    /// `blocked` where there can be none.
    pub fn new() -> Result<Terminal> {
        // The name of the other end is not looked up: that may be another mount's.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let opened = openpt(flags).and_then(|user| {
            unlockpt(&user)?;
            let line = ioctl_tiocgptpeer(&user, flags)?;
            Ok(Terminal { _user: user, line })
        });
        opened.map_err(|errno| {
            let why = Named(errno_of(errno));
            Failure::blocked(format!("needs a pseudo-terminal, which cannot be had here: {why}"))
        })
    }

    /// `TIOCSCTTY`: makes it the caller's controlling terminal. The caller must lead a session that has none.
    pub fn take(&self) -> std::result::Result<(), Errno> {
        let taken = rustix::process::ioctl_tiocsctty(&self.line);
        note!("ioctl(TIOCSCTTY) = {taken:?}");
        taken.map_err(errno_of)
    }

    /// What [`Terminal::take`] says to a leader of another session than the one whose terminal it may be.
    pub fn taken_by_another(&self) -> Result<std::result::Result<(), Errno>> {
        let taken = apart(|| {
            setsid()?;
            Ok(self.take().map_err(|errno| errno as i32))
        })?;
        Ok(taken.map_err(Errno::from_raw))
    }

    /// Puts a process group of the caller's session into the foreground of its terminal, which this must be.
    pub fn put_into_foreground(&self, group: i32) -> Result {
        let group =
            Pid::from_raw(group).ok_or_else(|| Failure::broken("no process group has the number 0"))?;
        Ok(rustix::termios::tcsetpgrp(&self.line, group)?)
    }
}
