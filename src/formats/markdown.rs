//! One run in Markdown: the kernel, the totals, and everything that is not a plain pass.

use std::fmt::Write as _;

use super::{Status, bug_report, groups};
use crate::results::Results;

/// Returns the whole document.
pub fn document(results: &Results) -> String {
    let mut text = format!("# Linux {}: {}\n\n", results.kernel.release, results.totals());
    let _ = writeln!(text, "{}", facts(results));
    text.push_str("| case | | why |\n|---|---|---|\n");
    let groups = groups(results);
    let tests = || groups.iter().flat_map(|group| &group.tests);
    for test in tests().filter(|test| test.status != Status::Passed) {
        let status = match test.status {
            Status::Failed => "**failed**",
            Status::Errored => "**error**",
            _ => "skipped",
        };
        let _ = writeln!(text, "| `{}` | {status} | {} |", test.name, cell(&test.why));
    }
    for test in tests().filter(|test| matches!(test.status, Status::Failed | Status::Errored)) {
        let Some(record) = test.record else { continue };
        let report = bug_report(record, &results.kernel.to_string(), &results.rerun(&record.case));
        // The output of a case may itself contain a fence.
        let _ = writeln!(
            text,
            "\n## {}\n\n~~~~~~text\n{}\n~~~~~~",
            record.case,
            report.replace("~~~~~~", "~~~~~").trim_end()
        );
    }
    text
}

/// Describes kernel, machine and suite, one per line.
fn facts(results: &Results) -> String {
    let package = results.kernel.package.as_ref();
    let package = package.map(|it| format!("{} {} of {}", it.name, it.version, it.suite));
    let suite = &results.suite;
    let rows = [
        ("kernel", Some(results.kernel.to_string())),
        ("package", package),
        ("machine", Some(results.machine.to_string())),
        ("suite", Some(format!("{} {} {}", suite.name, suite.version, suite.commit))),
    ];
    let known = rows.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.map(|(name, value)| format!("- {name}: {}\n", value.trim())).collect()
}

/// Escapes text so that it stays in its table cell and is not interpreted as markup.
pub fn cell(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            '|' | '<' | '`' | '*' | '_' | '[' | '\\' => safe.extend(['\\', c]),
            '\n' | '\r' => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}
