//! System calls that something in front of the kernel refuses, as the seccomp filter of a container does.
//!
//! The kernel too may say EPERM. So such a call is asked about what nobody has: a descriptor that is no pidfd, a pid that no process can
//! have, an address that cannot be read. The kernel says just that, and before it looks at permissions; a filter says what it says always.

use nix::errno::Errno;
use nix::unistd::Pid;
use rustix::event::{EventfdFlags, eventfd};

use crate::check::{Failure, Result};
use crate::pidfd::Pidfd;

/// A pid that no process has: more than any kernel gives.
pub const NOBODY: Pid = Pid::from_raw(i32::MAX);

/// A descriptor that is no pidfd.
pub fn no_pidfd() -> Result<Pidfd> {
    Ok(Pidfd::from(eventfd(0, EventfdFlags::CLOEXEC)?))
}

/// Whether a call does not get to the kernel, or to one that has it, by what it says when it is asked about nobody.
pub fn is_barred<T>(asked_about_nobody: &std::result::Result<T, Errno>) -> bool {
    matches!(asked_about_nobody, Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS))
}

/// Makes sure that a call gets to the kernel, by what it says when it is asked about nobody.
///
/// # Errors
/// `blocked` where it does not.
pub fn reaches_kernel<T>(name: &str, asked_about_nobody: std::result::Result<T, Errno>) -> Result {
    match asked_about_nobody {
        Err(errno) if is_barred(&asked_about_nobody) => Err(Failure::blocked(format!(
            "{name} says {errno:?} whatever it is asked: the kernel was built without it, or a filter refuses it"
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
        let ask = || no_pidfd().is_ok_and(|nothing| is_barred(&nothing.madvise_nothing()));
        assert!(answers(|| {
            let filtered = rustix::thread::set_no_new_privs(true).is_ok_and(|()| {
                seccomp::refuse(libc::SYS_process_madvise, Refusal::Errno(Errno::EPERM)).is_ok()
            });
            filtered && ask()
        }));
        assert!(!is_barred(&nix::sys::signal::kill(NOBODY, None)));
    }
}
