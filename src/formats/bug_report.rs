//! A report of a failure that can be mailed to a maintainer.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::report::Record;

/// The maximum number of lines of a trail or an output that are shown. The last ones are kept, as the most
/// useful.
const SHOWN: usize = 30;

/// Quotes a word of a command for a shell.
pub fn quoted(word: &str) -> String {
    // A string with a NUL byte cannot be a word of a command.
    shlex::try_quote(word).map_or_else(|_| word.to_owned(), Cow::into_owned)
}

/// Returns the report of a case that failed on `kernel`; `rerun` is the command that runs it again.
pub fn bug_report(record: &Record, kernel: &str, rerun: &str) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:9} {value}");
        }
    };
    let required = if record.required { ", though required" } else { "" };
    line("verdict", &format!("{}{required}", record.verdict));
    if let Some(expected) = &record.expected {
        line("expected", &format!("{}: {}", expected.verdict, expected.reason));
    }
    line("case", &record.case);
    line("claim", &record.claim);
    line("source", &record.source);
    line("strength", &record.strength.to_string());
    line("happened", record.why());
    line("at", &record.at);
    line("kernel", kernel);
    if record.runs > 1 {
        line("runs", &format!("{} of {} failed", record.failures, record.runs));
    }
    line("steps", &tail(&record.trail));
    line("output", &tail(&record.output.lines().map(str::to_owned).collect::<Vec<_>>()));
    line("rerun", rerun);
    text
}

fn tail(lines: &[String]) -> String {
    let first = lines.len().saturating_sub(SHOWN);
    let left_out = if first > 0 { format!("({first} earlier lines)\n          ") } else { String::new() };
    left_out + &lines[first..].join("\n          ")
}
