//! Compares the suite's results in an environment with what its row expects.
use std::collections::BTreeMap;

use clone3_conformance::report::{self, Record};

use crate::row::Row;
use crate::trial::Outcome;

/// The number of output lines that are shown for a wrong row.
const LINES_SHOWN: usize = 12;

/// The verdict on a row.
pub struct Verdict {
    pub name: &'static str,
    pub words: &'static str,
    /// The expected result, as text.
    pub expected: String,
    /// The number of cases with each verdict.
    pub counts: BTreeMap<report::Verdict, usize>,
    /// How often each reason was given.
    pub reasons: BTreeMap<String, usize>,
    pub status: Option<i32>,
    /// What differs from the expectation.
    pub wrong: Vec<String>,
    pub seconds: f64,
}

impl Verdict {
    pub fn is_wrong(&self) -> bool {
        !self.wrong.is_empty()
    }
}

/// Compares every row with the results of root in the plain guest.
pub struct Judge {
    measure: BTreeMap<String, report::Verdict>,
    quick: bool,
}

impl Judge {
    pub fn new(quick: bool) -> Judge {
        Judge { measure: BTreeMap::new(), quick }
    }

    pub fn on(&mut self, row: &Row, outcome: Outcome) -> Verdict {
        let records = outcome.results.as_ref().map_or(&[][..], |results| &results.cases);
        if row.is_baseline() {
            self.measure = records.iter().map(|record| (record.case.clone(), record.verdict)).collect();
        }
        let mut counts = BTreeMap::new();
        let mut reasons = BTreeMap::new();
        for record in records {
            *counts.entry(record.verdict).or_default() += 1;
            if matches!(record.verdict, report::Verdict::Blocked | report::Verdict::Unsupported) {
                *reasons.entry(reason(record.why())).or_default() += 1;
            }
        }
        let mut wrong = Vec::new();
        wrong.extend(self.ending(row, &outcome));
        wrong.extend(records.iter().filter_map(|record| self.complaint(row, record)));
        wrong.extend(self.completeness(row, &outcome, records));
        wrong.extend(self.unsaid(row, &reasons));
        wrong.extend(outcome.left.iter().map(|left| format!("not as before: {left}")));
        let unsaid = row.expected.says.iter().filter(|text| !outcome.output.contains(**text));
        wrong.extend(unsaid.map(|text| format!("it does not say: {text}")));
        if !wrong.is_empty() {
            let lines: Vec<&str> = outcome.output.lines().collect();
            let from = lines.len().saturating_sub(LINES_SHOWN);
            wrong.extend(lines[from..].iter().map(|line| format!("| {line}")));
        }
        Verdict {
            name: row.name,
            words: row.words,
            expected: in_words(row),
            counts,
            reasons,
            status: outcome.status,
            wrong,
            seconds: outcome.seconds,
        }
    }

    fn ending(&self, row: &Row, outcome: &Outcome) -> Option<String> {
        match outcome.status {
            None => Some("the suite hung".to_owned()),
            Some(_) if ended_otherwise(row, outcome) => None,
            Some(status) if status != row.expected.status => {
                Some(format!("exit status {status}, not {}", row.expected.status))
            }
            Some(_) => None,
        }
    }

    /// Returns what is wrong with the verdict on one case, if anything.
    fn complaint(&self, row: &Row, record: &Record) -> Option<String> {
        let usual = self.measure.get(&record.case);
        let Record { case, verdict, at, .. } = record;
        let message = record.why();
        let told = |what: &str| Some(format!("{case} is {what}{verdict}: {message} {at}"));
        match verdict {
            report::Verdict::Pass | report::Verdict::KnownDefect => None,
            report::Verdict::Fail | report::Verdict::Broken => told(""),
            _ if !row.is_baseline() && usual == Some(verdict) => None,
            report::Verdict::Blocked => {
                let allowed = row.expected.blocked.iter().chain(row.expected.maybe);
                (!each_is_among(message, allowed)).then(|| told("for no good reason "))?
            }
            // The expected verdict on a kernel from before the change.
            report::Verdict::Unsupported if message.starts_with("true since Linux") => None,
            report::Verdict::Unsupported => {
                let allowed = row.expected.unsupported.iter();
                (!each_is_among(message, allowed)).then(|| told("for no good reason "))?
            }
            report::Verdict::Deviation => told(""),
        }
    }

    /// Checks that every case has a verdict.
    fn completeness(&self, row: &Row, outcome: &Outcome, records: &[Record]) -> Option<String> {
        let (come, all) = (records.len(), self.measure.len());
        if row.expected.no_case {
            return (come > 0).then(|| format!("{come} cases came to a verdict, though none should"));
        }
        if row.expected.cut_short {
            return None;
        }
        let ended = outcome.results.as_ref().is_some_and(|results| results.exit.is_some());
        (come != all || !ended)
            .then(|| format!("{come} of {all} cases came to a verdict; end of the run told: {ended}"))
    }

    /// Returns the expected reasons that no case gave.
    fn unsaid(&self, row: &Row, reasons: &BTreeMap<String, usize>) -> Vec<String> {
        let expected = row.expected.blocked.iter().chain(row.expected.unsupported);
        let unsaid = expected.filter(|wanted| !reasons.keys().any(|reason| reason.contains(**wanted)));
        // The few cases of a quick run may not meet every reason.
        unsaid.filter(|_| !self.quick).map(|wanted| format!("no case says: {wanted}")).collect()
    }
}

/// Returns whether the suite ended as expected, but the program around it ended in another, permitted way.
fn ended_otherwise(row: &Row, outcome: &Outcome) -> bool {
    let told = outcome.results.as_ref().and_then(|results| results.exit);
    let is_so =
        |(status, words): (i32, &str)| outcome.status == Some(status) && outcome.output.contains(words);
    told.map(i32::from) == Some(row.expected.status) && row.expected.or_else.is_some_and(is_so)
}

/// Returns a reason without its consequence, and with the numbers that differ between cases replaced.
fn reason(message: &str) -> String {
    let reason = message.split(", so that ").next().unwrap_or_default();
    let without_numbers = |text: &str| {
        let mut plain = text.replace(|c: char| c.is_ascii_digit(), "N");
        while plain.contains("NN") {
            plain = plain.replace("NN", "N");
        }
        plain
    };
    match reason.split_once("/clone3-conformance-") {
        Some((before, after)) => format!("{before}/clone3-conformance-{}", without_numbers(after)),
        None if reason.starts_with("only ") => without_numbers(reason),
        None => reason.to_owned(),
    }
}

/// Returns whether each part of a message, which may list several reasons, is permitted.
fn each_is_among<'a>(message: &str, allowed: impl Iterator<Item = &'a &'static str> + Clone) -> bool {
    reason(message).split("; ").all(|part| allowed.clone().any(|reason| part.contains(reason)))
}

/// Describes what a row expects.
fn in_words(row: &Row) -> String {
    let expected = &row.expected;
    let mut words = match (expected.no_case, expected.blocked, expected.unsupported) {
        (true, ..) => "no case runs".to_owned(),
        (_, [], []) => "all as for root".to_owned(),
        (_, blocked, unsupported) => {
            let reasons = blocked.iter().map(|reason| format!("blocked: {reason}"));
            let reasons = reasons.chain(unsupported.iter().map(|reason| format!("unsupported: {reason}")));
            reasons.collect::<Vec<_>>().join("<br>")
        }
    };
    if expected.status != 0 {
        words.push_str(&format!("<br>exit status {}", expected.status));
    }
    if let Some((status, says)) = expected.or_else {
        words.push_str(&format!("<br>or exit status {status}, and says: {says}"));
    }
    for says in expected.says {
        words.push_str(&format!("<br>says: {says}"));
    }
    words
}
