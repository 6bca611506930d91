//! The verdict on a session: its exit status and explanation.
use std::process::ExitStatus;

pub use clone3_conformance::exit_status::{BROKEN, FAILED, GOOD, NOTHING_SELECTED, USAGE};
use clone3_conformance::guest::Exit;
use clone3_conformance::report::{Record, Verdict};
use clone3_conformance::results::Results;

use crate::accel::{Accel, Threads};
use crate::console::{Fault, Finding, Line, fault_in_line, findings};
use crate::watch::{Ending, Session};

/// Exit status: there is no verdict, because there was no kernel, no boot or no end.
pub const NO_VERDICT: u8 = 69;

/// How many console lines are shown when a guest died.
const LAST_LINES: usize = 20;

/// Part of the sandbox's message about a case that it had to kill; the sandbox has a test of this wording.
const HUNG: &str = "did not end within ";

/// The outcome of a session.
pub enum Outcome {
    /// The runner's own verdict.
    Verdict { status: u8, why: Option<String> },
    /// The kernel reported a fault while the suite ran. If the host or emulator may have caused it, that still does not explain
    /// why the cases in `unexplained` failed.
    Accused { faults: Vec<Finding>, unexplained: Vec<String> },
    /// The kernel reported a fault that the host or emulator may have caused while the suite ran, and that may be why these cases
    /// failed. It counts only if it happens again.
    Suspected { faults: Vec<Finding>, failed: Vec<String> },
    /// The guest did not reach the suite's first line. `again` says whether another boot may succeed.
    NoBoot { why: String, last: Vec<String>, again: bool },
    /// The guest died, or took too long, while the suite ran.
    Lost { why: String, running: Vec<String>, last: Vec<String> },
}

/// Judges a session. `believed` says that it repeats a session whose fault was suspected to be caused by the host or emulator.
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
        // The guest's serial lines are read one after another, so the journal's entry for the start of a case may be read just
        // after the console's last lines.
        for finding in found.iter_mut().filter(|finding| finding.running.is_empty()) {
            finding.running.clone_from(&session.journal.running);
        }
    }
    if !found.is_empty() {
        return match !believed && are_suspect(&found, accel) {
            true => suspicion(session, found),
            false => Outcome::Accused { faults: found, unexplained: Vec::new() },
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

/// Returns the faults that the kernel reported during boot, which are printed but do not affect the verdict.
pub fn boot_findings(session: &Session) -> Vec<Finding> {
    let end = session.suite_at.filter(|_| session.journal.begun).unwrap_or(session.console.len());
    findings(&session.console[..end])
}

/// Returns whether QEMU refused to start. It prints why, and would fail the same way again.
fn was_refused(session: &Session) -> bool {
    let failed = |status: &ExitStatus| status.code().is_some_and(|code| code != 0);
    session.console.is_empty() && matches!(&session.ending, Ending::Died(status) if failed(status))
}

/// Maps the runner's exit to an outcome.
fn verdict(exit: Exit) -> Outcome {
    match exit {
        Exit { status: Some(status @ 0..=4), .. } => {
            Outcome::Verdict { status: u8::try_from(status).unwrap_or(BROKEN), why: None }
        }
        Exit { status, signal } => {
            let how = match (status, signal) {
                (Some(status), _) => format!("ended with exit status {status}"),
                (None, Some(signal)) => format!("was killed by {}", signal_name(signal)),
                (None, None) => "ended in an unknown way".to_owned(),
            };
            Outcome::Verdict { status: BROKEN, why: Some(format!("the runner {how}")) }
        }
    }
}

/// Returns whether the emulator or the host may have caused all of the faults. Everything after an int3 oops counts as its
/// consequence: a kernel that hits one in an interrupt panics.
fn are_suspect(found: &[Finding], accel: Accel) -> bool {
    let oops = found.iter().position(|finding| finding.origin == Fault::Int3);
    let independent = oops.map_or(found, |oops| &found[..=oops]);
    independent.iter().all(|finding| is_suspect(finding.origin, accel))
}

/// Decides the outcome of faults that the host or emulator may have caused. If a case failed that the faults do not explain, the
/// kernel failed it: it may take many runs to fail again, so a good rerun must not override this one.
fn suspicion(session: &Session, faults: Vec<Finding>) -> Outcome {
    let results = Results::from_journal(&session.journal.lines.join("\n")).unwrap_or_default();
    let failed = results.cases.iter().filter(|record| record.is_bad());
    let (explained, unexplained): (Vec<_>, Vec<_>) =
        failed.partition(|record| faults.iter().any(|fault| explains(fault, record)));
    let names = |records: Vec<&Record>| records.iter().map(|record| record.case.clone()).collect();
    match unexplained.is_empty() {
        true => Outcome::Suspected { faults, failed: names(explained) },
        false => Outcome::Accused { faults, unexplained: names(unexplained) },
    }
}

/// Returns whether the cause of the fault may also have made the case fail. A stalled machine affects what runs at the time, what
/// has a deadline, and the suite's own preparations; a kernel that executed half-patched code may do anything.
fn explains(fault: &Finding, record: &Record) -> bool {
    fault.origin != Fault::Stall
        || fault.running.contains(&record.case)
        || record.verdict == Verdict::Broken
        || record.message.contains(HUNG)
}

/// Returns whether the host or emulator may cause such a fault: several CPUs emulated in parallel may execute half-patched code,
/// and a guest that gets no CPU time from the host sees its own CPUs stall.
fn is_suspect(origin: Fault, accel: Accel) -> bool {
    match origin {
        Fault::Int3 => accel == Accel::Tcg { threads: Threads::Multi },
        Fault::Stall => true,
        _ => false,
    }
}

/// Describes how a session ended before `goal`.
fn ending(ending: &Ending, goal: &str) -> String {
    match ending {
        Ending::Finished => format!("the guest's init ended before {goal}"),
        Ending::Died(status) => format!("the virtual machine ended before {goal}{}", how(*status)),
        Ending::TooLate(limit) => format!("{goal} did not come within {} s", limit.as_secs()),
        Ending::Stopped(said) => format!("KVM stopped the guest before {goal} ({said})"),
        Ending::Failed(error) => format!("{error:#}"),
    }
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!(": its program was killed by {}", signal_name(signal)),
        (None, Some(0)) => ": the guest restarted or powered off".to_owned(),
        (None, Some(code)) => format!(": its program ended with exit status {code}"),
        (None, None) => String::new(),
    }
}

fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// Returns the end of the console. If the kernel reported a fault shortly before, it starts with that.
fn last_lines(console: &[Line]) -> Vec<String> {
    let texts: Vec<&str> =
        console.iter().map(|line| line.text.as_str()).filter(|text| !text.trim().is_empty()).collect();
    let usual = texts.len().saturating_sub(LAST_LINES);
    let farthest = texts.len().saturating_sub(3 * LAST_LINES);
    let accused = (farthest..usual).find(|&at| fault_in_line(texts[at]).is_some());
    texts[accused.unwrap_or(usual)..].iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clone3_conformance::probe::Probe;
    use clone3_conformance::report::{Event, Header, SCHEMA, Suite};

    use super::*;
    use crate::journal::Journal;

    const STALL: &str = "[   30.0] rcu: INFO: rcu_preempt self-detected stall on CPU";
    const INT3: &str = "[   30.0] Oops: int3: 0000 [#1] SMP NOPTI";
    const TCG: Accel = Accel::Tcg { threads: Threads::Multi };

    /// Creates a session with some failed cases, in which the kernel printed `said` while `slow` was running.
    fn session(said: &str, failed: &[(&str, Verdict, &str)]) -> Session {
        let suite = Suite::default();
        let header =
            Header { schema: SCHEMA, suite, probe: Probe::run(), tainted: None, cpus: 1, selected: 9 };
        let record = |&(case, verdict, message): &(&str, Verdict, &str)| {
            let (case, message) = (case.to_owned(), message.to_owned());
            Event::End(Record { case, verdict, message, ..Record::default() })
        };
        let mut journal = Journal::default();
        for event in std::iter::once(Event::Run(header)).chain(failed.iter().map(record)) {
            journal.push(serde_json::to_string(&event).unwrap());
        }
        journal.exit = Some(Exit { status: Some(i32::from(!failed.is_empty())), signal: None });
        Session {
            ending: Ending::Finished,
            console: vec![Line { text: said.to_owned(), running: vec!["slow".to_owned()] }],
            suite_at: None,
            journal,
            complaint: Vec::new(),
            boot: None,
            whole: Duration::ZERO,
        }
    }

    #[test]
    fn what_a_stall_does_not_explain_is_not_run_away_from() {
        let failed = [
            ("slow", Verdict::Fail, "expected dead, got alive"),
            ("hung", Verdict::Fail, "did not end within 10.0s and was killed"),
            ("unprepared", Verdict::Broken, "no memory"),
            ("wrong", Verdict::Fail, "expected dead, got alive"),
        ];
        let Outcome::Suspected { failed: doubted, .. } = judge(&session(STALL, &failed[..3]), TCG, false)
        else {
            panic!("a stall of the host may have done all that");
        };
        assert_eq!(doubted, ["hung", "slow", "unprepared"]);
        let Outcome::Accused { unexplained, faults } = judge(&session(STALL, &failed), TCG, false) else {
            panic!("the case that was not running then does not count");
        };
        assert_eq!((unexplained, faults.len()), (vec!["wrong".to_owned()], 1));
    }

    #[test]
    fn half_patched_code_explains_whatever_fails() {
        let failed = [("wrong", Verdict::Fail, "expected dead, got alive")];
        let outcome = judge(&session(INT3, &failed), TCG, false);
        assert!(matches!(outcome, Outcome::Suspected { failed, .. } if failed == ["wrong"]));
        assert!(matches!(judge(&session(INT3, &failed), Accel::Kvm, false), Outcome::Accused { .. }));
    }

    #[test]
    fn what_is_seen_twice_counts() {
        assert!(matches!(judge(&session(STALL, &[]), TCG, false), Outcome::Suspected { .. }));
        assert!(matches!(judge(&session(STALL, &[]), TCG, true), Outcome::Accused { .. }));
    }
}
