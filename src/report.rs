//! The results of a run as a stream of events.
//!
//! A run writes one JSON object per line for each [`Event`] as it happens. If something crashes, no finished
//! test case is lost, and the running ones are known. [`Results`](crate::results::Results) is the same as one
//! document.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::case::{Case, Strength};
use crate::check::{Failure, Kind};
use crate::expect::Expected;
use crate::need::{Need, Unmet};
use crate::probe::Probe;
use crate::sandbox::Outcome;

/// The version of the format. It is incremented when a reader of the old format would misread the new one.
pub const SCHEMA: u32 = 1;

/// What a run of a case means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The kernel does what the claim says.
    #[default]
    Pass,
    /// The kernel broke the claim.
    Fail,
    /// The kernel differs from mainline in something undocumented; counts as a failure with `--strict`.
    Deviation,
    /// The claim is broken where mainline is known to break it.
    KnownDefect,
    /// The kernel has no such feature.
    Unsupported,
    /// This environment forbids the case.
    Blocked,
    /// The suite's own set-up went wrong.
    Broken,
}

impl Verdict {
    /// All verdicts, in the order of reports.
    pub const ALL: [Verdict; 7] = [
        Verdict::Pass,
        Verdict::Fail,
        Verdict::Deviation,
        Verdict::KnownDefect,
        Verdict::Unsupported,
        Verdict::Blocked,
        Verdict::Broken,
    ];

    /// Returns whether the kernel or the suite did not do what it should, even if the run does not fail for
    /// it.
    pub fn is_failure(self) -> bool {
        self.is_bad() || matches!(self, Verdict::Deviation | Verdict::KnownDefect)
    }

    /// Returns whether the verdict makes the run fail.
    pub fn is_bad(self) -> bool {
        matches!(self, Verdict::Fail | Verdict::Broken)
    }

    fn because(self, why: String) -> Judgement {
        Judgement { verdict: self, why, required: false }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Deviation => "deviation",
            Verdict::KnownDefect => "known defect",
            Verdict::Unsupported => "unsupported",
            Verdict::Blocked => "blocked",
            Verdict::Broken => "broken",
        })
    }
}

/// What the user asked for in judging results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether a deviation is a failure.
    pub strict: bool,
    /// Cases with one of these needs may be neither unsupported nor blocked.
    pub require: Vec<Need>,
    /// Whether no case at all may be unsupported or blocked.
    pub require_all: bool,
    /// `uname -r`, or the Linux whose claims count instead. A claim's `since` and the fixes of known defects are compared to it.
    pub release: String,
    /// The expected failures on this kernel, by case.
    pub expected: BTreeMap<String, Expected>,
}

impl Policy {
    /// Returns whether this case may be neither unsupported nor blocked.
    fn requires(&self, case: &Case) -> bool {
        self.require_all || case.needs.iter().any(|need| self.require.contains(need))
    }

    fn expects(&self, case: &Case, verdict: Verdict) -> bool {
        self.expected.get(case.name).is_some_and(|expected| expected.verdict == verdict)
    }

    /// Returns whether a deviation of this case is not a failure.
    fn forgives(&self, case: &Case) -> bool {
        !self.strict || self.expects(case, Verdict::Deviation)
    }

    /// Returns what it means that a case could not run.
    pub fn on_unmet(&self, case: &Case, unmet: Unmet) -> Judgement {
        let (verdict, why) = match unmet {
            Unmet::Unsupported(reason) => (Verdict::Unsupported, reason),
            Unmet::Blocked(reason) => (Verdict::Blocked, reason),
        };
        // An expectation excuses only the verdict that it names.
        let is_expected = verdict == Verdict::Unsupported && self.expects(case, verdict);
        Judgement { verdict, why, required: self.requires(case) && !is_expected }
    }

    /// Returns what the outcome of a case that ran means.
    fn on_outcome(&self, case: &Case, failure: Option<&Failure>) -> Judgement {
        let Some(failure) = failure else { return Verdict::Pass.because(String::new()) };
        let message = failure.message.clone();
        match failure.kind {
            Kind::Unsupported => self.on_unmet(case, Unmet::Unsupported(message)),
            Kind::Blocked => self.on_unmet(case, Unmet::Blocked(message)),
            Kind::Broken => Verdict::Broken.because(message),
            Kind::Defect if case.defect_on(&self.release).is_some() => Verdict::KnownDefect.because(message),
            Kind::Defect | Kind::Fail => self.on_broken_claim(case, message),
        }
    }

    fn on_broken_claim(&self, case: &Case, message: String) -> Judgement {
        match case.since {
            // The required features are present; the kernel is only older than this claim about them.
            Some(since) if case.is_ahead_of(&self.release) => {
                let release = &self.release;
                let why = format!("true since Linux {since}; Linux {release} has: {message}");
                Verdict::Unsupported.because(why)
            }
            _ if case.strength == Strength::Is && self.forgives(case) => Verdict::Deviation.because(message),
            _ => Verdict::Fail.because(message),
        }
    }
}

/// The verdict on a run of a case, as a [`Policy`] gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// What was expected and what was found, or what is missing.
    pub why: String,
    /// Whether the case could not run, but is one that has to.
    pub required: bool,
}

/// The outcome of one case, over all its repeats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Record {
    /// The case, which is also the id of the claim.
    pub case: String,
    /// The theme: the file that declares the case.
    pub theme: String,
    /// The claim. Not in a journal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub claim: String,
    /// Where the claim comes from. Not in a journal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The first kernel series of which the claim is true, where that is known. Not in a journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// `file:line` of the declaration. Not in a journal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub declared: String,
    /// What a failure means.
    pub strength: Strength,
    /// The worst verdict of all its runs.
    pub verdict: Verdict,
    /// What is missing (unsupported, blocked), or what is known about the defect (known defect).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whether the known defect shows in some runs only, so that a pass does not mean that it is fixed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rare: bool,
    /// What was expected and what was found, in one line, if the case ran and did not pass.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// `file:line` of the check that failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub at: String,
    /// The calls that led there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trail: Vec<String>,
    /// What the case wrote to stdout and stderr, if it did not pass.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// The number of runs.
    pub runs: u32,
    /// The number of runs that did not pass: failures, deviations, known defects and broken ones.
    pub failures: u32,
    /// Whether `--require` demands this case, and it is unsupported or blocked: the run fails.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The verdict that was expected, if it was not a pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
    /// The duration of the longest run, in seconds.
    pub slowest_seconds: f64,
    /// The duration of all runs, in seconds.
    pub seconds: f64,
}

impl Record {
    /// Creates the record of a case that did not run.
    pub fn not_run(case: &Case, judgement: Judgement) -> Record {
        let Judgement { verdict, why, required } = judgement;
        let (reason, message) = match verdict {
            Verdict::Unsupported | Verdict::Blocked => (why, String::new()),
            Verdict::KnownDefect => (case.known_defect.map_or("", |defect| defect.what).to_owned(), why),
            _ => (String::new(), why),
        };
        Record {
            case: case.name.to_owned(),
            theme: case.theme().to_owned(),
            strength: case.strength,
            verdict,
            reason,
            message,
            required,
            ..Record::default()
        }
    }

    /// Creates the record of one run.
    pub fn of(case: &Case, policy: &Policy, outcome: Outcome) -> Record {
        let judgement = policy.on_outcome(case, outcome.failure.as_ref());
        let verdict = judgement.verdict;
        let seconds = outcome.duration.as_secs_f64();
        Record {
            at: outcome.failure.map(|failure| failure.at).unwrap_or_default(),
            trail: outcome.trail,
            output: if verdict == Verdict::Pass { String::new() } else { outcome.output },
            rare: case.defect_on(&policy.release).is_some_and(|defect| defect.rare),
            runs: 1,
            failures: u32::from(verdict.is_failure()),
            slowest_seconds: seconds,
            seconds,
            ..Record::not_run(case, judgement)
        }
    }

    /// Returns whether the case was expected not to pass, but passed.
    pub fn passed_unexpectedly(&self) -> bool {
        self.expected.is_some() && self.verdict == Verdict::Pass
    }

    /// Returns whether the case failed as expected.
    pub fn is_expected(&self) -> bool {
        self.expected.as_ref().is_some_and(|expected| expected.is_met_by(self.verdict))
    }

    /// Returns whether the record makes the run fail.
    pub fn is_bad(&self) -> bool {
        self.required || self.passed_unexpectedly() || (self.verdict.is_bad() && !self.is_expected())
    }

    /// Returns why the verdict is not a pass: what was found, or what is missing.
    pub fn why(&self) -> &str {
        if self.message.is_empty() { &self.reason } else { &self.message }
    }

    /// Returns why the run fails because of this record.
    pub fn why_bad(&self) -> String {
        match self.required {
            true => format!("{}, though required: {}", self.verdict, self.why()),
            false => self.why().to_owned(),
        }
    }

    /// Adds another run: times and counts add up, and the details of the worse verdict are kept.
    pub fn and(self, next: Record) -> Record {
        let runs = self.runs + next.runs;
        let failures = self.failures + next.failures;
        let seconds = self.seconds + next.seconds;
        let slowest_seconds = self.slowest_seconds.max(next.slowest_seconds);
        let worse = if next.severity() > self.severity() { next } else { self };
        Record { runs, failures, seconds, slowest_seconds, ..worse }
    }

    /// Returns the rank of what happened, the worst last: what makes the run fail is worse than what does not.
    fn severity(&self) -> (bool, usize) {
        let order = [
            Verdict::Pass,
            Verdict::Unsupported,
            Verdict::Blocked,
            Verdict::KnownDefect,
            Verdict::Deviation,
            Verdict::Fail,
            Verdict::Broken,
        ];
        let rank = order.iter().position(|verdict| *verdict == self.verdict).unwrap_or(order.len());
        (self.required || self.verdict.is_bad(), rank)
    }
}

/// The suite that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The commit it was built from; empty if the build did not say.
    pub commit: String,
    /// What it was built for, as `x86_64-unknown-linux-gnu`.
    pub target: String,
}

impl Suite {
    /// Returns the description of this suite, built from that commit.
    pub fn this(commit: &str) -> Suite {
        let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
        Suite {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: commit.to_owned(),
            target: format!("{}-unknown-linux-{libc}", std::env::consts::ARCH),
        }
    }
}

/// The state at the start of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of this format.
    pub schema: u32,
    /// The suite.
    pub suite: Suite,
    /// The kernel, its features and the caller's privileges.
    pub probe: Probe,
    /// `/proc/sys/kernel/tainted` before the first use of the flags.
    pub tainted: Option<u64>,
    /// The number of CPUs that the suite may use.
    pub cpus: usize,
    /// The number of test cases selected.
    pub selected: usize,
}

/// The state at the end of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// The exit code of the runner.
    pub exit: u8,
    /// `/proc/sys/kernel/tainted` after the run.
    pub tainted: Option<u64>,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The run begins.
    Run(Header),
    /// A case begins.
    Start {
        /// The name of the case.
        case: String,
    },
    /// A case ended.
    End(Record),
    /// The run ended.
    Done(Footer),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Defect;

    fn case(strength: Strength, known_defect: Option<Defect>) -> Case {
        Case {
            name: "c",
            doc: "",
            source: "",
            strength,
            needs: &[Need::Nnp],
            since: None,
            known_defect,
            file: "cases/t.rs",
            line: 1,
            body: || Ok(()),
        }
    }

    #[test]
    fn strength_and_policy_decide_what_a_failure_means() {
        let failure = Failure::fail("x");
        let verdict = |case: &Case, policy: &Policy| policy.on_outcome(case, Some(&failure)).verdict;
        let (lax, strict) = (Policy::default(), Policy { strict: true, ..Policy::default() });
        assert_eq!(verdict(&case(Strength::Must, None), &lax), Verdict::Fail);
        assert_eq!(verdict(&case(Strength::Is, None), &lax), Verdict::Deviation);
        assert_eq!(verdict(&case(Strength::Is, None), &strict), Verdict::Fail);
    }

    #[test]
    fn only_what_the_case_names_is_its_known_defect() {
        let verdict = |case: &Case, kind| {
            let failure = Failure { kind, ..Failure::fail("x") };
            Policy { strict: true, ..Policy::default() }.on_outcome(case, Some(&failure)).verdict
        };
        let known = case(Strength::Must, Some(Defect { what: "7.1", rare: false, fixed: None }));
        assert_eq!(verdict(&known, Kind::Defect), Verdict::KnownDefect);
        assert_eq!(verdict(&known, Kind::Fail), Verdict::Fail);
        assert_eq!(verdict(&case(Strength::Must, None), Kind::Defect), Verdict::Fail);
    }

    #[test]
    fn a_defect_is_none_any_more_on_a_kernel_that_is_known_to_be_without_it() {
        let known = case(Strength::Must, Some(Defect { what: "", rare: true, fixed: Some("7.3.4") }));
        let verdict = |release: &str| {
            let policy = Policy { release: release.to_owned(), ..Policy::default() };
            policy.on_outcome(&known, Some(&Failure::fail("x").as_defect())).verdict
        };
        for release in ["7.1.13+deb13-cloud-amd64", "7.2.13", "7.3-rc7", "7.3-cloud-amd64", "7.3.3"] {
            assert_eq!(verdict(release), Verdict::KnownDefect, "{release}");
        }
        for release in ["7.3.4+deb13-amd64", "7.3.12", "7.4-rc1", "8.0"] {
            assert_eq!(verdict(release), Verdict::Fail, "{release}");
        }
    }

    #[test]
    fn an_older_kernel_is_without_a_later_claim() {
        let later = Case { since: Some("6.18"), ..case(Strength::Must, None) };
        let verdict = |release: &str| {
            let policy = Policy { release: release.to_owned(), require_all: true, ..Policy::default() };
            policy.on_outcome(&later, Some(&Failure::fail("x"))).verdict
        };
        assert_eq!(verdict("6.17.13+deb13-amd64"), Verdict::Unsupported);
        assert_eq!(verdict("6.18.5"), Verdict::Fail);
        assert_eq!(verdict("7.1.3"), Verdict::Fail);
    }

    #[test]
    fn what_is_required_may_not_be_missing() {
        let unmet = || Unmet::Unsupported("no".into());
        let nnp = Policy { require: vec![Need::Nnp], ..Policy::default() };
        let autokill = Policy { require: vec![Need::Autokill], ..Policy::default() };
        let record = |policy: &Policy| {
            let case = case(Strength::Must, None);
            Record::not_run(&case, policy.on_unmet(&case, unmet()))
        };
        assert_eq!((record(&nnp).verdict, record(&nnp).is_bad()), (Verdict::Unsupported, true));
        assert_eq!((record(&autokill).verdict, record(&autokill).is_bad()), (Verdict::Unsupported, false));
        let expected = Some(Expected { verdict: Verdict::Fail, reason: String::new() });
        assert!(Record { expected, ..record(&nnp) }.is_bad(), "a claim that was not tested has not failed");
    }

    #[test]
    fn what_is_expected_excuses_nothing_else() {
        let expected = Expected { verdict: Verdict::Unsupported, reason: String::new() };
        let expected = [("c".to_owned(), expected)].into();
        let policy = Policy { require_all: true, expected, ..Policy::default() };
        let required = |unmet| policy.on_unmet(&case(Strength::Must, None), unmet).required;
        assert!(!required(Unmet::Unsupported("no".into())));
        assert!(required(Unmet::Blocked("no".into())));
    }

    #[test]
    fn the_worse_of_two_runs_is_remembered() {
        let case = case(Strength::Must, None);
        let pass =
            Record { runs: 1, seconds: 1.0, ..Record::not_run(&case, Verdict::Pass.because(String::new())) };
        let fail = Record {
            runs: 1,
            failures: 1,
            seconds: 2.0,
            ..Record::not_run(&case, Verdict::Fail.because("why".into()))
        };
        let both = fail.clone().and(pass.clone());
        assert_eq!((both.verdict, both.runs, both.failures, both.seconds), (Verdict::Fail, 2, 1, 3.0));
        assert_eq!(pass.and(fail).message, "why");
    }
}
