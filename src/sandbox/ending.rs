//! How a case ended, and what that means.

use super::census::{self, Leftover};
use super::entry::{COULD_NOT_REPORT, Report};
use crate::check::Failure;
use crate::wait::{Status, signal_name};

/// How the case's process ended.
pub(super) enum Ending {
    Died(Status),
    /// Killed at the deadline, with a description of what it was doing.
    Hung(String),
    /// The lane could not wait for it.
    Vanished,
    /// Killed because the program went away.
    Abandoned,
}

/// Returns what the case says that it left behind, and what else was found after it.
pub(super) fn all_left(
    report: &mut Result<Option<Report>, String>,
    found: impl Iterator<Item = Leftover>,
) -> Vec<Leftover> {
    let mut left = match report {
        Ok(Some(report)) => std::mem::take(&mut report.left),
        _ => Vec::new(),
    };
    let known: Vec<i32> = left.iter().map(|leftover| leftover.pid).collect();
    left.extend(found.filter(|leftover| leftover.pid == 0 || !known.contains(&leftover.pid)));
    left
}

/// Decides from how the case ended, what it reported and what it left behind whether it passed, and if not,
/// what is to blame.
pub(super) fn judge(
    ending: Ending,
    report: Result<Option<Report>, String>,
    left: &[Leftover],
) -> Option<Failure> {
    let status = match ending {
        Ending::Hung(message) => return Some(Failure::fail(message)),
        Ending::Vanished => {
            return Some(Failure::fail(
                "the kernel reaped the process of the case itself, which was made without CLONE_AUTOREAP: its parent \
                 cannot wait for it",
            ));
        }
        Ending::Abandoned => return Some(Failure::broken("the program that asked for the case went away")),
        Ending::Died(status) => status,
    };
    let report = match report {
        Ok(Some(report)) => report,
        Ok(None) => return Some(silent(status)),
        Err(message) => return Some(Failure::broken(message)),
    };
    match report.failure {
        None if left.is_empty() => None,
        None => {
            let what = format!("the case passed but left behind: {}", census::names(left));
            // The case should have removed what it created, unless a process is in it.
            let is_own = left.iter().all(Leftover::is_of_the_case);
            Some(if is_own { Failure::broken(what) } else { Failure::fail(what) })
        }
        failure => failure,
    }
}

/// Judges a case that ended without a report. SIGKILL is blamed on the kernel, because a broken auto-kill
/// kills the wrong process. Any other death is the suite's own mistake.
fn silent(status: Status) -> Failure {
    match status.term_signal() {
        Some(libc::SIGKILL) => Failure::fail(
            "the case's process was killed by SIGKILL, which nothing in the suite sent: \
             the kernel killed the wrong process, or the machine ran out of memory",
        ),
        Some(libc::SIGABRT) => Failure::broken("the case aborted (SIGABRT)"),
        Some(number) => Failure::broken(format!("the case was killed by {}", signal_name(number))),
        None if status == Status::exited(COULD_NOT_REPORT) => {
            Failure::broken("the case ran to its end but could not report: it closed its channel")
        }
        None => Failure::broken(format!("the case {status} before its end, without a report")),
    }
}
