//! The verdict on a session, as an exit status and in words.
use std::process::ExitStatus;

use clone3_conformance::guest::Exit;

use crate::accel::{Accel, Threads};
use crate::console::{Fault, Finding, Line, accusation, findings};
use crate::watch::{Ending, Session};

/// Exit status: some case failed, or the kernel complained while the suite ran.
pub const FAILED: u8 = 1;
/// Exit status: the harness is broken.
pub const BROKEN: u8 = 3;
/// Exit status: there is no verdict, since there was no kernel, no boot or no end.
pub const NO_VERDICT: u8 = 69;

/// How many lines of the console are shown where a guest went away.
const LAST_LINES: usize = 20;

/// What a session comes to.
pub enum Outcome {
    /// The runner's own verdict.
    Verdict { status: u8, why: Option<String> },
    /// The kernel went wrong while the suite ran.
    Accused(Vec<Finding>),
    /// Something that may be the machine's doing went wrong while the suite ran: to be seen twice before it counts.
    Suspected(Vec<Finding>),
    /// The guest did not come to the suite's first line; `again` says that another boot may.
    NoBoot { why: String, last: Vec<String>, again: bool },
    /// The guest went away, or went on for too long, while the suite ran.
    Lost { why: String, running: Vec<String>, last: Vec<String> },
}

/// Judges a session; `believed` says that it repeats one in which something was suspected.
pub fn judge(session: &Session, accel: Accel, believed: bool) -> Outcome {
    let last = || last_lines(&session.console);
    let exit = session.journal.exit;
    if !session.journal.begun {
        return match exit {
            Some(exit) => verdict(exit),
            None => Outcome::NoBoot {
                why: ending(&session.ending, "the suite's first line"),
                last: last(),
                again: !was_refused(session),
            },
        };
    }
    let since = session.suite_at.unwrap_or_default();
    let mut found = findings(&session.console[since..]);
    if exit.is_none() {
        // The guest's lines are read one after the other: that a case had begun may have come an instant after the
        // kernel's last words.
        for finding in found.iter_mut().filter(|finding| finding.running.is_empty()) {
            finding.running.clone_from(&session.journal.running);
        }
    }
    if !found.is_empty() {
        return match !believed && are_suspect(&found, accel) {
            true => Outcome::Suspected(found),
            false => Outcome::Accused(found),
        };
    }
    match exit {
        Some(exit) => verdict(exit),
        None => Outcome::Lost {
            why: ending(&session.ending, "the suite's end"),
            running: session.journal.running.clone(),
            last: last(),
        },
    }
}

/// The boot's own accusations: told, and not held against the kernel's conduct under the suite.
pub fn boot_findings(session: &Session) -> Vec<Finding> {
    let end = session.suite_at.filter(|_| session.journal.begun).unwrap_or(session.console.len());
    findings(&session.console[..end])
}

/// Whether QEMU would not even start: it says why, and will say the same again.
fn was_refused(session: &Session) -> bool {
    let failed = |status: &ExitStatus| status.code().is_some_and(|code| code != 0);
    session.console.is_empty() && matches!(&session.ending, Ending::Died(status) if failed(status))
}

/// What the runner's end means.
fn verdict(exit: Exit) -> Outcome {
    match exit {
        Exit { status: Some(status @ 0..=4), .. } => {
            Outcome::Verdict { status: u8::try_from(status).unwrap_or(BROKEN), why: None }
        }
        Exit { status, signal } => {
            let how = match (status, signal) {
                (Some(status), _) => format!("with exit status {status}"),
                (None, Some(signal)) => format!("by {}", signal_name(signal)),
                (None, None) => "in an unknown way".to_owned(),
            };
            Outcome::Verdict { status: BROKEN, why: Some(format!("the runner ended {how}")) }
        }
    }
}

/// Whether all of it may be the emulator's or the host's doing. Whatever follows an int3 oops counts as its consequence: a kernel
/// that met one in an interrupt panics.
fn are_suspect(found: &[Finding], accel: Accel) -> bool {
    let oops = found.iter().position(|finding| finding.origin == Fault::Int3);
    let independent = oops.map_or(found, |oops| &found[..=oops]);
    independent.iter().all(|finding| is_suspect(finding.origin, accel))
}

/// Several processors emulated at once meet half-patched code, and a guest that the host gives no time to sees its own
/// processors stall.
fn is_suspect(origin: Fault, accel: Accel) -> bool {
    match origin {
        Fault::Int3 => accel == Accel::Tcg { threads: Threads::Multi },
        Fault::Stall => true,
        _ => false,
    }
}

/// How a session ended short of `goal`, in words.
fn ending(ending: &Ending, goal: &str) -> String {
    match ending {
        Ending::Finished => format!("the guest's init ended before {goal}"),
        Ending::Died(status) => format!("the virtual machine ended before {goal}{}", how(*status)),
        Ending::TooLate(limit) => format!("{goal} did not come within {} s", limit.as_secs()),
    }
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!(": QEMU was ended by {}", signal_name(signal)),
        (None, Some(0)) => ": the guest restarted or powered off".to_owned(),
        (None, Some(code)) => format!(": QEMU ended with exit status {code}"),
        (None, None) => String::new(),
    }
}

fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// The end of the console; what the kernel accuses itself of there is shown from its beginning.
fn last_lines(console: &[Line]) -> Vec<String> {
    let texts: Vec<&str> =
        console.iter().map(|line| line.text.as_str()).filter(|text| !text.trim().is_empty()).collect();
    let usual = texts.len().saturating_sub(LAST_LINES);
    let farthest = texts.len().saturating_sub(3 * LAST_LINES);
    let accused = (farthest..usual).find(|&at| accusation(texts[at]).is_some());
    texts[accused.unwrap_or(usual)..].iter().map(|text| (*text).to_owned()).collect()
}
