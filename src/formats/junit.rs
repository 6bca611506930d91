//! JUnit XML, with a test suite for each theme.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{Group, Status, Test, bug_report, groups};
use crate::results::Results;

/// Returns the whole document.
pub fn document(results: &Results) -> String {
    let mut report = Report::new(format!("{} on Linux {}", results.suite.name, results.kernel.release));
    report.add_test_suites(groups(results).iter().map(|group| suite(group, results)));
    report.set_time(duration(results.cases.iter().map(|record| record.seconds).sum()));
    // The crate omits text that XML cannot represent, so this cannot fail.
    report.to_string().unwrap_or_default()
}

fn suite(group: &Group, results: &Results) -> TestSuite {
    let mut suite = TestSuite::new(group.name);
    suite.add_property(("kernel", results.kernel.to_string().as_str()));
    suite.add_property(("suite", format!("{} {}", results.suite.version, results.suite.commit).trim()));
    suite.set_time(duration(
        group.tests.iter().filter_map(|test| test.record).map(|record| record.seconds).sum(),
    ));
    suite.add_test_cases(group.tests.iter().map(|test| case(group, test, results)));
    suite
}

fn case(group: &Group, test: &Test, results: &Results) -> TestCase {
    let mut status = match test.status {
        Status::Passed => TestCaseStatus::success(),
        Status::Skipped => TestCaseStatus::skipped(),
        Status::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Status::Errored => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if !test.why.is_empty() {
        status.set_message(test.why.as_str());
    }
    if let (Status::Failed | Status::Errored, Some(record)) = (test.status, test.record) {
        let report = bug_report(record, &results.kernel.to_string(), &results.rerun(&record.case));
        status.set_type(record.verdict.to_string()).set_description(report);
    }
    let mut case = TestCase::new(test.name, status);
    case.set_classname(group.name);
    if let Some(record) = test.record {
        case.set_time(duration(record.seconds));
    }
    case
}

/// Converts a time from a file, which may be any number.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
