//! Conversion of the results document to formats that other tools read.

mod bug_report;
mod junit;
mod ktap;
mod markdown;

use std::path::{Path, PathBuf};

pub use bug_report::{bug_report, quoted};
pub use markdown::cell as markdown_cell;

use crate::compare::{Table, html};
use crate::report::{Record, Verdict};
use crate::results::Results;

/// A format of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The results document itself.
    Json,
    /// JUnit XML, for CI systems.
    Junit,
    /// The kernel's Test Anything Protocol, for the kernel's tools.
    Ktap,
    /// A self-contained HTML page.
    Html,
    /// Markdown, for issue trackers and documents.
    Markdown,
}

impl Format {
    /// Returns the format that belongs to a file's extension.
    ///
    /// # Errors
    /// If the extension belongs to no format; the message lists those that do.
    pub fn of(path: &Path) -> Result<Format, String> {
        match path.extension().and_then(|end| end.to_str()) {
            Some("json") => Ok(Format::Json),
            Some("xml") => Ok(Format::Junit),
            Some("ktap") => Ok(Format::Ktap),
            Some("html") => Ok(Format::Html),
            Some("md") => Ok(Format::Markdown),
            _ => Err(format!(
                "'{}' has no known suffix; expected .json, .xml, .ktap, .html or .md",
                path.display()
            )),
        }
    }

    /// Returns the results in this format.
    pub fn render(self, results: &Results) -> String {
        match self {
            Format::Json => results.to_json(),
            Format::Junit => junit::document(results),
            Format::Ktap => ktap::document(results),
            Format::Html => html::page(&Table::of(vec![(String::new(), results.clone())])),
            Format::Markdown => markdown::document(results),
        }
    }
}

/// Returns a report's path and the format that belongs to its extension. For command lines.
///
/// # Errors
/// Those of [`Format::of`].
pub fn target(path: &str) -> Result<(PathBuf, Format), String> {
    Ok((PathBuf::from(path), Format::of(Path::new(path))?))
}

/// The status of a test as tools count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Passed,
    /// Failed because of the kernel.
    Failed,
    /// Failed for another reason.
    Errored,
    /// Neither passed nor failed.
    Skipped,
}

/// One test as a tool sees it.
struct Test<'a> {
    name: &'a str,
    status: Status,
    /// Why the test did not pass, in one line.
    why: String,
    record: Option<&'a Record>,
}

/// The tests of one theme, or what happened outside of all test cases.
struct Group<'a> {
    name: &'a str,
    tests: Vec<Test<'a>>,
}

/// Returns everything to report, by theme and name: the cases, the interrupted ones, and the guest itself.
fn groups(results: &Results) -> Vec<Group<'_>> {
    let mut themes: Vec<&str> = results.cases.iter().map(|record| record.theme.as_str()).collect();
    themes.sort_unstable();
    themes.dedup();
    let of_theme = |theme| results.cases.iter().filter(move |record| record.theme == theme).map(test);
    let mut groups: Vec<Group> =
        themes.into_iter().map(|name| Group { name, tests: of_theme(name).collect() }).collect();
    let others = [
        ("interrupted", interrupted(results)),
        (if results.guest.is_some() { "guest" } else { "kernel" }, kernel(results)),
    ];
    groups.extend(others.into_iter().map(|(name, tests)| Group { name, tests }));
    groups.retain(|group| !group.tests.is_empty());
    groups
}

fn test(record: &Record) -> Test<'_> {
    let (status, why) = match (record.verdict, &record.expected) {
        (Verdict::Pass, Some(expected)) => (
            Status::Failed,
            format!("passed unexpectedly; expected {}: {}", expected.verdict, expected.reason),
        ),
        (Verdict::Pass, None) => (Status::Passed, String::new()),
        (verdict, Some(expected)) if record.is_expected() => {
            (Status::Skipped, format!("expected {verdict}: {}: {}", expected.reason, record.why()))
        }
        (Verdict::Fail, _) => (Status::Failed, record.why_bad()),
        _ if record.required => (Status::Failed, record.why_bad()),
        (Verdict::Broken, _) => (Status::Errored, format!("broken: {}", record.why())),
        (verdict, _) => (Status::Skipped, format!("{verdict}: {}", record.why())),
    };
    Test { name: &record.case, status, why: in_a_line(&why), record: Some(record) }
}

/// Returns the cases that a crash interrupted.
fn interrupted(results: &Results) -> Vec<Test<'_>> {
    let why = results
        .guest
        .as_ref()
        .and_then(|guest| guest.no_verdict.as_ref())
        .map_or("the run was cut short", |it| &it.why);
    let test = |name| Test {
        name,
        status: Status::Errored,
        why: in_a_line(&format!("interrupted: {why}")),
        record: None,
    };
    results.interrupted.iter().map(|name| test(name)).collect()
}

/// Returns the errors of the kernel as a whole: from the console in a guest, elsewhere from the taint flags.
fn kernel(results: &Results) -> Vec<Test<'_>> {
    let Some(guest) = &results.guest else {
        let complaint = |words| Test {
            name: "tainted",
            status: Status::Failed,
            why: format!("the kernel complained meanwhile: {words}"),
            record: None,
        };
        // The file of a run that was killed must not look like that of a good one.
        let cut_short = results.exit.is_none().then(|| Test {
            name: "verdict",
            status: Status::Errored,
            why: "no verdict: the run was cut short".to_owned(),
            record: None,
        });
        return results.complaints().into_iter().map(complaint).chain(cut_short).collect();
    };
    let no_verdict = guest.no_verdict.iter().map(|end| Test {
        name: "verdict",
        status: Status::Errored,
        why: in_a_line(&format!("no verdict ({}): {}", end.stage, end.why)),
        record: None,
    });
    let faults = guest.faults.iter().map(|fault| Test {
        name: "console",
        status: Status::Failed,
        why: in_a_line(&format!("{} while {} ran", fault.fault, one_of(&fault.running))),
        record: None,
    });
    no_verdict.chain(faults).collect()
}

fn one_of(running: &[String]) -> String {
    if running.is_empty() { "no case".to_owned() } else { running.join(", ") }
}

fn in_a_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
