//! A wait call as a value, for use in a table, in a message, or in another thread.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;

use crate::wait::{self, Who};

/// The result of a wait call: the pid of the child that it found, or `None` if WNOHANG found children but no event.
pub type Found = std::result::Result<Option<i32>, Errno>;

/// A call of `waitpid(2)` or `waitid(2)` that has not been made yet.
#[derive(Clone, Copy, Debug)]
pub enum WaitCall {
    /// `waitpid(pid, &status, options)`.
    Waitpid(i32, i32),
    /// `waitid(P_ALL, …, options)`.
    Any(i32),
    /// `waitid(P_PID, pid, …, options)`.
    Pid(i32, i32),
    /// `waitid(P_PGID, pgid, …, options)`.
    Group(i32, i32),
    /// `waitid(P_PIDFD, fd, …, options)`.
    Pidfd(RawFd, i32),
}

impl WaitCall {
    /// Returns `waitid(P_PIDFD, …)`. It does not keep the descriptor open.
    pub fn pidfd(pidfd: &impl AsRawFd, options: i32) -> WaitCall {
        WaitCall::Pidfd(pidfd.as_raw_fd(), options)
    }

    /// Returns the wait call of a system call with this number and these arguments, if it is one.
    pub fn from_arguments(number: i64, arguments: &[u64]) -> Option<WaitCall> {
        let argument = |index: usize| arguments.get(index).map(|value| *value as i32);
        match number {
            libc::SYS_wait4 => Some(WaitCall::Waitpid(argument(0)?, argument(2)?)),
            libc::SYS_waitid => {
                let (kind, id, options) = (argument(0)? as libc::idtype_t, argument(1)?, argument(3)?);
                match kind {
                    libc::P_ALL => Some(WaitCall::Any(options)),
                    libc::P_PID => Some(WaitCall::Pid(id, options)),
                    libc::P_PGID => Some(WaitCall::Group(id, options)),
                    libc::P_PIDFD => Some(WaitCall::Pidfd(id, options)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Makes the call.
    pub fn make(self) -> Found {
        let waitid = |who, options| Ok(wait::waitid(who, options)?.map(|event| event.pid));
        match self {
            WaitCall::Waitpid(pid, options) => Ok(wait::waitpid(pid, options)?.map(|(pid, _)| pid)),
            WaitCall::Any(options) => waitid(Who::Any, options),
            WaitCall::Pid(pid, options) => waitid(Who::Pid(pid), options),
            WaitCall::Group(pgid, options) => waitid(Who::Group(pgid), options),
            WaitCall::Pidfd(fd, options) => {
                // SAFETY: the number is only passed to waitid, which returns EBADF if it is closed.
                let fd = unsafe { BorrowedFd::borrow_raw(fd) };
                waitid(Who::Pidfd(fd), options)
            }
        }
    }

    /// Returns the number of the system call.
    pub fn syscall(self) -> i64 {
        match self {
            WaitCall::Waitpid(..) => libc::SYS_wait4,
            _ => libc::SYS_waitid,
        }
    }

    fn options(self) -> i32 {
        let (WaitCall::Waitpid(_, options)
        | WaitCall::Any(options)
        | WaitCall::Pid(_, options)
        | WaitCall::Group(_, options)
        | WaitCall::Pidfd(_, options)) = self;
        options
    }

    /// Returns the options by name. WSTOPPED and WUNTRACED are the same bit.
    fn option_names(self) -> String {
        let stopped = if matches!(self, WaitCall::Waitpid(..)) { "WUNTRACED" } else { "WSTOPPED" };
        let names = [
            (libc::WEXITED, "WEXITED"),
            (libc::WSTOPPED, stopped),
            (libc::WCONTINUED, "WCONTINUED"),
            (libc::WNOHANG, "WNOHANG"),
            (libc::WNOWAIT, "WNOWAIT"),
            (libc::__WNOTHREAD, "__WNOTHREAD"),
            (libc::__WALL, "__WALL"),
            (libc::__WCLONE, "__WCLONE"),
        ];
        let set = names.iter().filter(|(bit, _)| self.options() & bit != 0);
        let names: Vec<&str> = set.map(|(_, name)| *name).collect();
        if names.is_empty() { "0".to_owned() } else { names.join("|") }
    }
}

/// Formats the call, for example as `waitid(P_PIDFD 5, WEXITED|__WALL)`.
impl fmt::Display for WaitCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.option_names();
        match self {
            WaitCall::Waitpid(pid, _) => write!(f, "waitpid({pid}, {options})"),
            WaitCall::Any(_) => write!(f, "waitid(P_ALL, {options})"),
            WaitCall::Pid(pid, _) => write!(f, "waitid(P_PID {pid}, {options})"),
            WaitCall::Group(pgid, _) => write!(f, "waitid(P_PGID {pgid}, {options})"),
            WaitCall::Pidfd(fd, _) => write!(f, "waitid(P_PIDFD {fd}, {options})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_shown_by_name() {
        let stopped = libc::WUNTRACED | libc::WNOHANG | libc::__WALL;
        assert_eq!(WaitCall::Waitpid(-1, stopped).to_string(), "waitpid(-1, WUNTRACED|WNOHANG|__WALL)");
        assert_eq!(WaitCall::Waitpid(7, 0).to_string(), "waitpid(7, 0)");
        assert_eq!(WaitCall::Any(libc::WSTOPPED).to_string(), "waitid(P_ALL, WSTOPPED)");
    }
}
