//! Detection of system calls that a filter in front of the kernel refuses, such as the seccomp filter of a container.
//!
//! The kernel may return EPERM too. So such a call is made with a target that does not exist: a descriptor that is not a
//! pidfd, an impossible pid, an unreadable address. The kernel reports exactly that, before it checks permissions; a filter
//! returns the same errno as always.

use nix::errno::Errno;
use nix::unistd::Pid;
use rustix::event::{EventfdFlags, eventfd};

use crate::check::{Failure, Named, Result};
use crate::pidfd::Pidfd;

/// A pid that no process has: higher than any pid that the kernel assigns.
pub const NO_SUCH_PID: Pid = Pid::from_raw(i32::MAX);

/// Makes a descriptor that is not a pidfd.
pub fn no_pidfd() -> Result<Pidfd> {
    Ok(Pidfd::from(eventfd(0, EventfdFlags::CLOEXEC)?))
}

/// Returns whether a call does not reach the kernel, or the kernel does not implement it, according to its result for a
/// nonexistent target.
pub fn is_filtered<T>(asked_about_nobody: &std::result::Result<T, Errno>) -> bool {
    matches!(asked_about_nobody, Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS))
}

/// Checks that a call reaches the kernel, according to its result for a nonexistent target.
///
/// # Errors
/// `blocked` if it does not.
pub fn reaches_kernel<T>(name: &str, asked_about_nobody: std::result::Result<T, Errno>) -> Result {
    match asked_about_nobody {
        Err(errno) if is_filtered(&asked_about_nobody) => Err(Failure::blocked(format!(
            "{name} fails with {} whatever it is asked: the kernel was built without it, or a filter refuses it",
            Named(errno)
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::process::answers;
    use crate::kit::seccomp::{self, Refusal};

    #[test]
    fn a_filter_is_told_from_the_kernel() {
        let ask = || no_pidfd().is_ok_and(|nothing| is_filtered(&nothing.madvise_nothing()));
        assert!(answers(|| {
            let filtered = rustix::thread::set_no_new_privs(true).is_ok_and(|()| {
                seccomp::refuse(libc::SYS_process_madvise, Refusal::Errno(Errno::EPERM)).is_ok()
            });
            filtered && ask()
        }));
        assert!(!is_filtered(&nix::sys::signal::kill(NO_SUCH_PID, None)));
    }
}
