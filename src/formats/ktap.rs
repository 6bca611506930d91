//! The kernel's Test Anything Protocol, with a test for each theme and a subtest for each case.
//!
//! Whatever is neither a pass nor a failure is marked as skipped, because that is the only directive that
//! every reader knows; the diagnostic says what it really is.

use std::fmt::Write as _;

use super::{Group, Status, Test, bug_report, groups};
use crate::results::Results;

/// Returns the whole document.
pub fn document(results: &Results) -> String {
    let groups = groups(results);
    let mut text = format!("KTAP version 1\n1..{}\n", groups.len());
    let _ = writeln!(text, "# {}", results.kernel);
    for (number, group) in (1..).zip(&groups) {
        subtests(&mut text, group, results);
        let _ = writeln!(text, "{} {number} {}{}", word(worst(group)), group.name, skip(worst(group), ""));
    }
    text
}

fn subtests(text: &mut String, group: &Group, results: &Results) {
    let _ = writeln!(text, "  KTAP version 1\n  # Subtest: {}\n  1..{}", group.name, group.tests.len());
    for (number, test) in (1..).zip(&group.tests) {
        diagnose(text, test, results);
        let _ =
            writeln!(text, "  {} {number} {}{}", word(test.status), test.name, skip(test.status, &test.why));
    }
}

/// Writes the details of a failure before the line that only says that the test failed.
fn diagnose(text: &mut String, test: &Test, results: &Results) {
    if !matches!(test.status, Status::Failed | Status::Errored) {
        return;
    }
    let report = match test.record {
        Some(record) => bug_report(record, &results.kernel.to_string(), &results.rerun(&record.case)),
        None => test.why.clone(),
    };
    for line in report.lines() {
        let _ = writeln!(text, "  # {}: {}", test.name, line.trim_end());
    }
}

/// Returns the status of a theme: it fails if any of its cases fails, and is skipped if all of them are.
fn worst(group: &Group) -> Status {
    let any = |status| group.tests.iter().any(|test| test.status == status);
    let order = [Status::Errored, Status::Failed, Status::Passed, Status::Skipped];
    order.into_iter().find(|status| any(*status)).unwrap_or(Status::Skipped)
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Passed | Status::Skipped => "ok",
        Status::Failed | Status::Errored => "not ok",
    }
}

fn skip(status: Status, why: &str) -> String {
    match status {
        // A hash sign would start another directive.
        Status::Skipped => format!(" # SKIP {}", why.replace('#', "")).trim_end().to_owned(),
        _ => String::new(),
    }
}
