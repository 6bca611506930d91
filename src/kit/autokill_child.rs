//! A child tied to its pidfd: it answers pings until the last reference to clone3's pidfd is dropped.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;
use nix::sys::signal::Signal;

use crate::abi::{AUTOKILL_MARK, Flags, InfoMask};
use crate::check;
use crate::check::{Context as _, Result};
use crate::clone3::Clone3;
use crate::kit::echo::{Echo, Line, line};
use crate::kit::fdpass;
use crate::kit::holder::Holder;
use crate::pidfd::Pidfd;
use crate::wait::{self, Status};

/// An auto-kill child that echoes, with the pidfd that clone3 returned and a plain pidfd to watch it with.
#[derive(Debug)]
pub struct AutokillChild {
    pid: i32,
    pidfd: Option<Pidfd>,
    line: Line,
    observer: Pidfd,
}

impl AutokillChild {
    /// Makes a child with the flags that an unprivileged user may use.
    #[track_caller]
    pub fn new() -> Result<AutokillChild> {
        AutokillChild::by(&Clone3::new(Flags::KILLED_NNP))
    }

    /// Control for tests of what must *not* kill: checks that the last close of an auto-kill pidfd kills.
    #[track_caller]
    pub fn control() -> Result {
        let mut child = AutokillChild::new()?;
        child.close()?;
        child.dies("control: after the last close of its pidfd")
    }

    /// Makes a child by this call.
    #[track_caller]
    pub fn by(call: &Clone3) -> Result<AutokillChild> {
        AutokillChild::prepared(call, || Ok(()))
    }

    /// Makes a child that first runs `prepare`, which must succeed.
    #[track_caller]
    pub fn prepared(call: &Clone3, prepare: impl FnMut() -> Result) -> Result<AutokillChild> {
        let (mut child, line) = Echo::prepared(call, prepare)?.into_parts();
        let pidfd = Some(child.take_pidfd()?);
        Ok(AutokillChild { pid: child.pid(), pidfd, line, observer: child.observe()? })
    }

    /// Has another process make the child and hold the only reference to its pidfd, under the returned number.
    #[track_caller]
    pub fn elsewhere() -> Result<(Holder, RawFd, AutokillChild)> {
        let (line, echoer) = line()?;
        let (holder, (pid, fd)) = Holder::running(|| {
            let mut child = Clone3::new(Flags::KILLED_NNP).spawn(|| {
                line.close_in_child();
                echoer.serve()
            })?;
            echoer.close_in_child();
            let pidfd = child.take_pidfd()?;
            let fd = pidfd.as_raw_fd();
            std::mem::forget(pidfd);
            Ok((child.pid(), fd))
        })?;
        drop(echoer);
        let autokill_child = AutokillChild { pid, pidfd: None, line, observer: Pidfd::open(pid)? };
        autokill_child.lives("with the one reference in the process that made it")?;
        Ok((holder, fd, autokill_child))
    }

    /// Makes a child, and sends its pidfd over a pair of stream sockets, where the only reference then is. Returns the sending and
    /// the receiving socket, too.
    #[track_caller]
    pub fn in_flight() -> Result<(AutokillChild, UnixStream, UnixStream)> {
        let mut child = AutokillChild::new()?;
        let (here, there) = fdpass::pair()?;
        fdpass::send(&here, child.pidfd()?)?;
        child.close()?;
        child.lives("with its pidfd in flight")?;
        Ok((child, here, there))
    }

    /// Wraps a child that another process made, whose pidfd references are held elsewhere.
    #[track_caller]
    pub fn met(pid: i32, observer: Pidfd, line: Line) -> Result<AutokillChild> {
        let autokill_child = AutokillChild { pid, pidfd: None, line, observer };
        autokill_child.lives("before anything was done")?;
        Ok(autokill_child)
    }

    /// Returns its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns a plain pidfd of the child, which neither keeps it alive nor kills it.
    pub fn observer(&self) -> &Pidfd {
        &self.observer
    }

    /// Returns the pidfd that clone3 returned.
    #[track_caller]
    pub fn pidfd(&self) -> Result<&Pidfd> {
        // Not `ok_or_else(gone)`: the location of the failure would be in the standard library.
        match &self.pidfd {
            Some(pidfd) => Ok(pidfd),
            None => Err(gone()),
        }
    }

    /// Takes the pidfd that clone3 returned.
    #[track_caller]
    pub fn take(&mut self) -> Result<Pidfd> {
        match self.pidfd.take() {
            Some(pidfd) => Ok(pidfd),
            None => Err(gone()),
        }
    }

    /// Closes the pidfd that clone3 returned; in a process forked later, closes that process's copy.
    #[track_caller]
    pub fn close(&mut self) -> Result {
        self.take()?.close()
    }

    /// Fails unless the child answers.
    #[track_caller]
    pub fn lives(&self, when: &str) -> Result {
        self.line.is_alive(self.pid, when)
    }

    /// Fails unless the child is dead already, and then reaped with SIGKILL as its status. Without `--strict` it may die soon
    /// afterwards, see [`Line::is_dead`].
    #[track_caller]
    pub fn dies(&self, when: &str) -> Result {
        self.line.is_dead(self.pid, when)?;
        self.dies_in_time(when)
    }

    /// Fails unless the child is dead already; it must not answer even once more.
    #[track_caller]
    pub fn is_dead_at_once(&self, when: &str) -> Result {
        self.line.is_dead_at_once(self.pid, when)
    }

    /// Fails unless SIGKILL kills the child within the time limit: Linux may drop a reference only after the system call that
    /// released it has returned.
    #[track_caller]
    pub fn dies_in_time(&self, when: &str) -> Result {
        self.observer.reaped_with(Status::SIGKILLED).context(when)?;
        wait::no_child(self.pid).context(when)
    }

    /// Checks that `get` turns clone3's pidfd into an ordinary pidfd: closing it does not kill the child, and keeping it
    /// open does not keep the child alive. Calls `get` twice.
    #[track_caller]
    pub fn is_not_tied_to(mut self, what: &str, get: impl Fn(&Pidfd) -> Result<Pidfd>) -> Result {
        let other = get(self.pidfd()?)?;
        self.has_plain(what, &other)?;
        other.close()?;
        self.lives(&format!("after the close of {what}"))?;
        let _kept = get(self.pidfd()?)?;
        self.close()?;
        self.dies(&format!("after the last close of clone3's pidfd, with {what} open"))
    }

    /// Fails unless this pidfd refers to the child, has no auto-kill mark, and works like any plain pidfd.
    #[track_caller]
    fn has_plain(&self, what: &str, pidfd: &Pidfd) -> Result {
        let mark = pidfd.status_flags()? & AUTOKILL_MARK;
        check::equal(format_args!("mark of an auto-kill pidfd in F_GETFL of {what}"), mark, 0)?;
        let info = check::succeeds(format_args!("PIDFD_GET_INFO on {what}"), pidfd.info(InfoMask::PID))?;
        check::equal(format_args!("pid in PIDFD_GET_INFO on {what}"), info.pid, self.pid as u32)?;
        check::equal(format_args!("poll on {what}"), pidfd.poll_now(PollFlags::POLLIN)?, PollFlags::empty())?;
        check::succeeds(format_args!("pidfd_send_signal on {what}"), pidfd.send_signal(Signal::SIGCONT))
    }

    /// Cleans up at the end of a case in which the child outlives its pidfd.
    #[track_caller]
    pub fn clear_away(self) -> Result {
        // ESRCH means that it is gone already.
        let _ = self.observer.send_signal(Signal::SIGKILL);
        self.observer.wait_reaped()
    }
}

#[track_caller]
fn gone() -> check::Failure {
    check::Failure::broken("clone3's pidfd was taken already")
}
