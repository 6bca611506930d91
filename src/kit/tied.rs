//! A child tied to its pidfd: it answers pings until the last reference to clone3's pidfd is gone.

use std::os::fd::{AsRawFd, RawFd};

use nix::poll::PollFlags;
use nix::sys::signal::Signal;

use crate::abi::{AUTOKILL_MARK, Flags, InfoMask};
use crate::check;
use crate::check::{Context as _, Result};
use crate::clone3::Clone3;
use crate::kit::echo::{Echo, Line, line};
use crate::kit::holder::Holder;
use crate::pidfd::Pidfd;
use crate::wait::{self, Status};

/// An auto-kill child that echoes, the pidfd that clone3 returned for it, and a plain one to watch it with.
#[derive(Debug)]
pub struct Tied {
    pid: i32,
    pidfd: Option<Pidfd>,
    line: Line,
    observer: Pidfd,
}

impl Tied {
    /// A child as anybody may create it.
    #[track_caller]
    pub fn new() -> Result<Tied> {
        Tied::by(&Clone3::new(Flags::KILLED_NNP))
    }

    /// The control of what must *not* kill: the last close of an auto-kill pidfd does.
    #[track_caller]
    pub fn control() -> Result {
        let mut child = Tied::new()?;
        child.close()?;
        child.dies("control: after the last close of its pidfd")
    }

    /// A child made by this call.
    #[track_caller]
    pub fn by(call: &Clone3) -> Result<Tied> {
        Tied::prepared(call, || Ok(()))
    }

    /// A child that first runs `prepare`, which must succeed.
    #[track_caller]
    pub fn prepared(call: &Clone3, prepare: impl FnMut() -> Result) -> Result<Tied> {
        let (mut child, line) = Echo::prepared(call, prepare)?.into_parts();
        let pidfd = Some(child.take_pidfd()?);
        Ok(Tied { pid: child.pid(), pidfd, line, observer: child.observe()? })
    }

    /// A child made by another process, which holds the only reference, under the number given.
    #[track_caller]
    pub fn elsewhere() -> Result<(Holder, RawFd, Tied)> {
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
        let tied = Tied { pid, pidfd: None, line, observer: Pidfd::open(pid)? };
        tied.lives("with the one reference in the process that made it")?;
        Ok((holder, fd, tied))
    }

    /// A child that somebody else made, who holds the references to its pidfd.
    #[track_caller]
    pub fn met(pid: i32, observer: Pidfd, line: Line) -> Result<Tied> {
        let tied = Tied { pid, pidfd: None, line, observer };
        tied.lives("before anything was done")?;
        Ok(tied)
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A plain pidfd of it, which neither holds nor kills.
    pub fn observer(&self) -> &Pidfd {
        &self.observer
    }

    /// The pidfd that clone3 returned.
    #[track_caller]
    pub fn pidfd(&self) -> Result<&Pidfd> {
        self.pidfd.as_ref().ok_or_else(gone)
    }

    /// The pidfd that clone3 returned, out of these hands.
    #[track_caller]
    pub fn take(&mut self) -> Result<Pidfd> {
        self.pidfd.take().ok_or_else(gone)
    }

    /// Closes the pidfd that clone3 returned; in a process forked later, its copy of it.
    #[track_caller]
    pub fn close(&mut self) -> Result {
        self.take()?.close()
    }

    /// It must answer.
    #[track_caller]
    pub fn lives(&self, when: &str) -> Result {
        self.line.is_alive(self.pid, when)
    }

    /// It must be dead already, and then be found killed by SIGKILL, reaped and gone.
    #[track_caller]
    pub fn dies(&self, when: &str) -> Result {
        self.line.is_dead(self.pid, when)?;
        self.dies_in_time(when)
    }

    /// It must be killed by SIGKILL some time: the kernel may let go of a reference after the call that gave
    /// it up has returned.
    #[track_caller]
    pub fn dies_in_time(&self, when: &str) -> Result {
        self.observer.reaped_with(Status::SIGKILLED).context(when)?;
        wait::no_child(self.pid).context(when)
    }

    /// What `get` makes of clone3's pidfd is a pidfd like any other: neither does its close kill the child, nor does it hold the
    /// child when it is open. It is made twice.
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

    /// This pidfd must be the child's, have no mark, and serve as any plain one does.
    #[track_caller]
    fn has_plain(&self, what: &str, pidfd: &Pidfd) -> Result {
        let mark = pidfd.status_flags()? & AUTOKILL_MARK;
        check::equal(format_args!("mark of an auto-kill pidfd in F_GETFL of {what}"), mark, 0)?;
        let info = check::succeeds(format_args!("PIDFD_GET_INFO on {what}"), pidfd.info(InfoMask::PID))?;
        check::equal(format_args!("pid in PIDFD_GET_INFO on {what}"), info.pid, self.pid as u32)?;
        check::equal(format_args!("poll on {what}"), pidfd.poll_now(PollFlags::POLLIN)?, PollFlags::empty())?;
        check::succeeds(format_args!("pidfd_send_signal on {what}"), pidfd.send_signal(Signal::SIGCONT))
    }

    /// Lets go of everything at the end of a case in which the child outlives its pidfd.
    #[track_caller]
    pub fn clear_away(self) -> Result {
        // ESRCH says that it is gone already.
        let _ = self.observer.send_signal(Signal::SIGKILL);
        self.observer.wait_reaped()
    }
}

#[track_caller]
fn gone() -> check::Failure {
    check::Failure::broken("clone3's pidfd was taken already")
}
