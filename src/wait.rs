//! Wait calls for children, and a search for zombies that also sees clone children.
//!
//! A child cloned with exit_signal 0 is a "clone child": `waitpid(pid, …, 0)` never sees it, alive or dead,
//! so ECHILD from that call proves nothing. Everything here passes `__WALL`. See `wait(2)`.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::check::{Failure, Named, Result};
use crate::note;
use crate::pidfd::Pidfd;

/// A wait status, displayed in words: `exited with 42 (0x2a00)`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status(pub i32);

impl Status {
    /// The status of a process killed by SIGKILL.
    pub const SIGKILLED: Status = Status::killed(Signal::SIGKILL);

    /// The status of a process that called `exit(code)`.
    pub const fn exited(code: i32) -> Status {
        Status((code & 0xff) << 8)
    }

    /// The status of a process killed by `signal`, without a core dump.
    pub const fn killed(signal: Signal) -> Status {
        Status(signal as i32)
    }

    /// The status of a process that dumped core because of `signal`.
    pub const fn dumped(signal: Signal) -> Status {
        Status(signal as i32 | 0x80)
    }

    /// The status of a process that `signal` stopped.
    pub const fn stopped(signal: Signal) -> Status {
        Status(((signal as i32) << 8) | 0x7f)
    }

    /// The status of a tracee that is stopped for its tracer because of this event (`PTRACE_EVENT_EXIT`, …).
    /// The signal is SIGTRAP, or for `PTRACE_EVENT_STOP` in a group-stop the signal that stopped the group.
    pub const fn ptrace_event(event: i32, signal: Signal) -> Status {
        Status(event << 16 | Status::stopped(signal).0)
    }

    /// Returns the number of the signal and the ptrace event (or 0) if this is the stop of a tracee.
    pub fn stop(self) -> Option<(i32, i32)> {
        (self.0 & 0xff == 0x7f).then_some(((self.0 >> 8) & 0xff, self.0 >> 16))
    }

    /// Returns the number of the signal that killed the process, if one did.
    pub fn term_signal(self) -> Option<i32> {
        let number = self.0 & 0x7f;
        (number != 0 && number != 0x7f).then_some(number)
    }
}

/// Returns a signal's name, or its number if it has no name.
pub fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
}

/// Returns the name of a ptrace event, or its number if it has no name.
pub fn event_name(number: i32) -> String {
    let name = match number {
        libc::PTRACE_EVENT_FORK => "FORK",
        libc::PTRACE_EVENT_VFORK => "VFORK",
        libc::PTRACE_EVENT_CLONE => "CLONE",
        libc::PTRACE_EVENT_EXEC => "EXEC",
        libc::PTRACE_EVENT_VFORK_DONE => "VFORK_DONE",
        libc::PTRACE_EVENT_EXIT => "EXIT",
        libc::PTRACE_EVENT_SECCOMP => "SECCOMP",
        libc::PTRACE_EVENT_STOP => "STOP",
        other => return format!("ptrace event {other}"),
    };
    format!("PTRACE_EVENT_{name}")
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = self.0;
        if raw & 0xff == 0x7f {
            let signal = signal_name((raw >> 8) & 0xff);
            return match raw >> 16 {
                0 => write!(f, "stopped by {signal} ({raw:#x})"),
                event => write!(f, "stopped by {signal}, {} ({raw:#x})", event_name(event)),
            };
        }
        if raw == 0xffff {
            return write!(f, "continued ({raw:#x})");
        }
        match self.term_signal() {
            None => write!(f, "exited with {} ({raw:#x})", (raw >> 8) & 0xff),
            Some(number) => {
                let core = if raw & 0x80 != 0 { ", core dumped" } else { "" };
                write!(f, "killed by {}{core} ({raw:#x})", signal_name(number))
            }
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The children to wait for, as arguments of `waitid(2)`.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// Any child.
    Any,
    /// One child by pid.
    Pid(i32),
    /// Children of a process group.
    Group(i32),
    /// One child by pidfd.
    Pidfd(std::os::fd::BorrowedFd<'a>),
}

impl<'a> Who<'a> {
    /// Selects the child that a pidfd refers to.
    pub fn pidfd(fd: &'a impl AsFd) -> Who<'a> {
        Who::Pidfd(fd.as_fd())
    }

    /// Returns `idtype` and `id` as the kernel expects them.
    pub(crate) fn as_arguments(self) -> (libc::idtype_t, libc::id_t) {
        match self {
            Who::Any => (libc::P_ALL, 0),
            Who::Pid(pid) => (libc::P_PID, pid as libc::id_t),
            Who::Group(pgid) => (libc::P_PGID, pgid as libc::id_t),
            Who::Pidfd(fd) => (libc::P_PIDFD, fd.as_raw_fd() as libc::id_t),
        }
    }
}

/// What `waitid(2)` or SIGCHLD reports about a child, displayed in words: `child 38 CLD_STOPPED by SIGSTOP`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The child's pid.
    pub pid: i32,
    /// `CLD_EXITED`, `CLD_KILLED`, `CLD_STOPPED`, …
    pub code: i32,
    /// The exit code, or the signal number.
    pub status: i32,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "child {} {}", self.pid, code_name(self.code))?;
        match Signal::try_from(self.status) {
            Ok(signal) if self.code != libc::CLD_EXITED => write!(f, " by {signal}"),
            _ => write!(f, " with {}", self.status),
        }
    }
}

/// Returns the name of a `si_code` that SIGCHLD and `waitid(2)` report.
pub fn code_name(code: i32) -> String {
    match code {
        libc::CLD_EXITED => "CLD_EXITED".to_owned(),
        libc::CLD_KILLED => "CLD_KILLED".to_owned(),
        libc::CLD_DUMPED => "CLD_DUMPED".to_owned(),
        libc::CLD_TRAPPED => "CLD_TRAPPED".to_owned(),
        libc::CLD_STOPPED => "CLD_STOPPED".to_owned(),
        libc::CLD_CONTINUED => "CLD_CONTINUED".to_owned(),
        other => format!("si_code {other}"),
    }
}

impl Event {
    /// Creates the event `CLD_EXITED` with `status`.
    pub fn exited(pid: i32, status: i32) -> Event {
        Event { pid, code: libc::CLD_EXITED, status }
    }

    /// Creates the event `CLD_STOPPED` by `signal`.
    pub fn stopped(pid: i32, signal: Signal) -> Event {
        Event { pid, code: libc::CLD_STOPPED, status: signal as i32 }
    }

    /// Creates the event `CLD_KILLED` by `signal`.
    pub fn killed(pid: i32, signal: Signal) -> Event {
        Event { pid, code: libc::CLD_KILLED, status: signal as i32 }
    }
}

/// Returns whether a process is a child of the caller, alive or zombie.
pub fn is_child(pidfd: &Pidfd) -> bool {
    let any = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    waitid(Who::Pidfd(pidfd.as_fd()), any) != Err(Errno::ECHILD)
}

/// Calls `waitid(2)` with raw `options`. Returns `None` if WNOHANG finds nothing.
pub fn waitid(who: Who<'_>, options: i32) -> std::result::Result<Option<Event>, Errno> {
    let info = raw_waitid(who, options)?;
    // SAFETY: waitid filled the child fields, or left them zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then_some(Event { pid, code: info.si_code, status }))
}

/// Returns the `si_uid` of `waitid(2)`: the child's real user ID, or 0 if WNOHANG finds nothing.
pub fn waitid_user(who: Who<'_>, options: i32) -> std::result::Result<u32, Errno> {
    // SAFETY: waitid filled the child fields, or left them zero.
    raw_waitid(who, options).map(|info| unsafe { info.si_uid() })
}

fn raw_waitid(who: Who<'_>, options: i32) -> std::result::Result<libc::siginfo_t, Errno> {
    let (kind, id) = who.as_arguments();
    // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a live siginfo_t that the kernel may fill.
    Errno::result(unsafe { libc::waitid(kind, id, &mut info, options) })?;
    Ok(info)
}

/// Calls `waitpid(2)` with raw `options`. Returns `None` if WNOHANG finds nothing.
pub fn waitpid(pid: i32, options: i32) -> std::result::Result<Option<(i32, Status)>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is a live int that the kernel may fill.
    let got = Errno::result(unsafe { libc::waitpid(pid, &mut status, options) })?;
    Ok((got != 0).then_some((got, Status(status))))
}

/// Reaps an ordinary child and returns its status. Blocks until the child ends.
#[track_caller]
pub fn reap(pid: i32) -> Result<Status> {
    next_status(pid)
}

/// Blocks until a child has ended, and reaps it, or until a tracee has stopped; returns the status.
#[track_caller]
pub fn next_status(pid: i32) -> Result<Status> {
    match waitpid(pid, libc::__WALL) {
        Ok(Some((_, status))) => {
            note!("waitpid({pid}, __WALL) = {status}");
            Ok(status)
        }
        Ok(None) => Err(Failure::broken(format!("waitpid({pid}) without WNOHANG returned 0"))),
        Err(errno) => {
            Err(Failure::fail(format!("waitpid({pid}, __WALL): expected its status, got {}", Named(errno))))
        }
    }
}

/// Reaps an ordinary child and checks how it ended.
#[track_caller]
pub fn reap_expecting(pid: i32, expected: Status) -> Result {
    let got = reap(pid)?;
    crate::check::equal(format_args!("wait status of process {pid}"), got, expected)
}

/// Blocks until `pid`, a child of the caller, is stopped by `signal`.
#[track_caller]
pub fn stops(pid: i32, signal: Signal) -> Result {
    let found = waitid(Who::Pid(pid), libc::WSTOPPED | libc::__WALL);
    let what = format_args!("waitid(P_PID {pid}, WSTOPPED|__WALL)");
    crate::check::equal(what, found, Ok(Some(Event::stopped(pid, signal))))
}

/// Blocks until `pid` is a zombie, and leaves it unreaped. It must be a child (or tracee) of the caller.
///
/// This is the control for every "no zombie" check: the same search, in a situation where it must find a
/// zombie.
#[track_caller]
pub fn find_zombie(pid: i32) -> Result<Event> {
    match waitid(Who::Pid(pid), libc::WEXITED | libc::WNOWAIT | libc::__WALL) {
        Ok(Some(event)) => {
            note!("process {pid} is a zombie, as it must be");
            Ok(event)
        }
        Ok(None) => Err(Failure::broken(format!("waitid({pid}) without WNOHANG found nothing"))),
        Err(errno) => Err(Failure::fail(format!(
            "waitid(P_PID {pid}, WEXITED|WNOWAIT|__WALL): expected a zombie, got {}",
            Named(errno)
        ))),
    }
}

/// Checks that the caller has no such child: neither alive nor a zombie.
///
/// The pid itself may still exist for a moment after POLLIN; see [`crate::pidfd::Pidfd::wait_reaped`].
#[track_caller]
pub fn no_child(pid: i32) -> Result {
    let got = waitid(Who::Pid(pid), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL);
    no_such_child(format_args!("waitid(P_PID {pid}, WEXITED|WNOHANG|WNOWAIT|__WALL)"), got)
}

/// Checks that the caller has no child at all.
#[track_caller]
pub fn no_children() -> Result {
    let got = waitid(Who::Any, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL);
    no_such_child("waitid(P_ALL, WEXITED|WNOHANG|WNOWAIT|__WALL)", got)
}

/// Checks that the result of a wait call is ECHILD; the failure says what was found instead.
#[track_caller]
pub fn no_such_child(what: impl fmt::Display, got: std::result::Result<Option<Event>, Errno>) -> Result {
    let found = match got {
        Err(Errno::ECHILD) => return Ok(()),
        Err(errno) => Named(errno).to_string(),
        Ok(None) => "0: the child is there and still alive".to_owned(),
        Ok(Some(event)) => format!("a zombie: {event:?}"),
    };
    Err(Failure::fail(format!("{what}: expected ECHILD (no such child), got {found}")))
}

/// Checks that the pid is unused: `kill(pid, 0)` fails with ESRCH once the process is unhashed, which POLLHUP
/// reports.
///
/// The check is wrong only if another process has got the pid since, which takes the kernel handing out all
/// other pids between POLLHUP and this call.
#[track_caller]
pub fn pid_is_free(pid: i32) -> Result {
    let got = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
    crate::check::refused(format_args!("kill({pid}, 0)"), got, Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_shown_in_words() {
        assert_eq!(Status::exited(42).to_string(), "exited with 42 (0x2a00)");
        assert_eq!(Status::killed(Signal::SIGKILL).to_string(), "killed by SIGKILL (0x9)");
        assert_eq!(Status::dumped(Signal::SIGSEGV).to_string(), "killed by SIGSEGV, core dumped (0x8b)");
        assert_eq!(Status::stopped(Signal::SIGSTOP).to_string(), "stopped by SIGSTOP (0x137f)");
        let event = Status::ptrace_event(libc::PTRACE_EVENT_STOP, Signal::SIGTRAP);
        assert_eq!(event.to_string(), "stopped by SIGTRAP, PTRACE_EVENT_STOP (0x80057f)");
        assert_eq!(event.stop(), Some((libc::SIGTRAP, libc::PTRACE_EVENT_STOP)));
        assert_eq!(Status(40 << 8 | 0x7f).stop(), Some((40, 0)));
        assert_eq!(Status::exited(0x7f).stop(), None);
        assert_eq!(Status(0xffff).to_string(), "continued (0xffff)");
        assert_eq!(Status(40).to_string(), "killed by signal 40 (0x28)");
    }
}
