//! Explanations of why a child did not report or do what was expected: how it ended.

use crate::check::{Failure, Kind};
use crate::clone3::Child;
use crate::pidfd::Pidfd;
use crate::procfs;
use crate::wait::{self, Status};

/// Adds to the `failure` of a wait for a child of the caller how the child ended.
///
/// A SIGKILL is attributed to the kernel until shown otherwise, as when it ends the case itself. Any other end is an error
/// of the suite.
pub(super) fn explained(child: &Child, failure: Failure) -> Failure {
    let (message, pid) = (failure.message, child.pid());
    match end_of(child) {
        Some(status) if status.term_signal() == Some(libc::SIGKILL) => Failure {
            kind: Kind::Fail,
            message: format!("{message}: process {pid} was {status}, which nothing in the suite sent"),
            ..failure
        },
        Some(status) => {
            Failure { message: format!("{message}: process {pid} {}", in_words(status)), ..failure }
        }
        None => Failure { message: format!("{message}; now: {}", procfs::describe(pid)), ..failure },
    }
}

/// `exited with …`, `was killed by …`
fn in_words(status: Status) -> String {
    let was = if status.term_signal().is_some() { "was " } else { "" };
    format!("{was}{status}")
}

/// Returns the status of the child if it ends within the time that the case has left: its descriptors are closed slightly
/// before its end. Reaps an ordinary child.
fn end_of(child: &Child) -> Option<Status> {
    let pidfd = match child.pidfd() {
        Ok(pidfd) => pidfd.try_clone(),
        Err(_) => Pidfd::open(child.pid()),
    };
    let pidfd = pidfd.ok()?;
    pidfd.wait_exited().ok()?;
    if child.reaps_itself() {
        return pidfd.exit_status().ok();
    }
    let found = wait::waitpid(child.pid(), libc::WNOHANG | libc::__WALL).ok()?;
    found.map(|(_, status)| status)
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;
    use crate::clone3::Clone3;

    /// Returns the failure for a child that ends in this way without a report.
    fn said_of(end: fn() -> i32) -> Failure {
        let child = Clone3::fork().spawn(end).unwrap();
        explained(&child, Failure::broken("no word"))
    }

    #[test]
    fn a_child_that_nobody_killed_is_the_kernels() {
        let killed = said_of(|| i32::from(raise(Signal::SIGKILL).is_err()));
        assert_eq!(killed.kind, Kind::Fail);
        assert!(
            killed.message.ends_with("was killed by SIGKILL (0x9), which nothing in the suite sent"),
            "{killed:?}"
        );
    }

    #[test]
    fn a_child_that_left_is_the_suites() {
        let left = said_of(|| 98);
        assert_eq!(left.kind, Kind::Broken);
        assert!(left.message.ends_with("exited with 98 (0x6200)"), "{left:?}");
    }
}
