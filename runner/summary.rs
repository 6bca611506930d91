//! The runner's summary: failures, totals, repeats, and the slowest cases.

use std::fmt::Write as _;

use clone3_conformance::case::{Case, Defect};
use clone3_conformance::formats::{bug_report, quoted};
use clone3_conformance::probe::Probe;
use clone3_conformance::report::{Record, Verdict};
use clone3_conformance::results::{Claim, Results};

use super::cli::Options;

/// Returns the command that runs a case again on this kernel and judges it the same way, up to `--exact NAME`. A program that
/// starts the runner elsewhere (in a guest) passes the command in CLONE3_CONFORMANCE_RERUN.
pub fn rerun_prefix(options: &Options) -> String {
    std::env::var("CLONE3_CONFORMANCE_RERUN").unwrap_or_else(|_| {
        // cargo sets this variable.
        let program = match std::env::var_os("CARGO") {
            Some(_) => "cargo test --test conformance --".to_owned(),
            None => quoted(&std::env::args().next().unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned())),
        };
        std::iter::once(program).chain(options.verdict_options.iter().cloned()).collect::<Vec<_>>().join(" ")
    })
}

/// Formats a failure of a case as it could be mailed to a maintainer; `rerun` is the command that runs it again.
pub fn failure(case: &Case, record: &Record, probe: &Probe, rerun: &str) -> String {
    let mut record = record.clone();
    Claim::from(case).explain(&mut record);
    let Probe { release, version, machine, .. } = probe;
    let kernel = format!("Linux {release} {version} {machine}");
    bug_report(&record, &kernel, &format!("{rerun} --exact {}", case.name))
}

/// Returns everything that follows libtest's own summary.
pub fn text(results: &Results, options: &Options) -> String {
    let mut text = String::new();
    text.push_str(&remarks(results, &options.judged_as()));
    if options.repeat > 1 {
        text.push_str(&repeats(results));
    }
    if let Some(count) = options.durations {
        text.push_str(&slowest(results, count));
    }
    text.push_str(&totals(results, options));
    text
}

/// Lists deviations and known defects: they are not failures, but the user should see them.
fn remarks(results: &Results, judged_as: &str) -> String {
    let remarkable = |record: &&Record| matches!(record.verdict, Verdict::Deviation | Verdict::KnownDefect);
    let mut text = String::new();
    for record in results.cases.iter().filter(remarkable) {
        let Record { verdict, case, message, at, failures, runs, .. } = record;
        let often = if *runs > 1 { format!(", {failures} of {runs} runs") } else { String::new() };
        let _ = writeln!(text, "{verdict}: {case}{often}: {message} ({at})");
    }
    for record in results.cases.iter().filter(|record| record.passed_unexpectedly()) {
        let _ = writeln!(text, "passed unexpectedly: {}", record.case);
    }
    for record in &results.cases {
        match defect_of(record, judged_as) {
            Some(defect) if record.verdict == Verdict::Pass && !defect.rare => {
                let _ = writeln!(text, "known defect not hit (fixed in this kernel?): {}", record.case);
            }
            Some(_) if record.verdict == Verdict::Pass => {
                let _ = writeln!(text, "rare defect not hit: {}", record.case);
            }
            _ => {}
        }
    }
    text
}

fn defect_of(record: &Record, release: &str) -> Option<Defect> {
    clone3_conformance::case::find(&record.case)?.defect_on(release)
}

fn repeats(results: &Results) -> String {
    let mut text = format!("\n{:48} {:>7} {:>8} {:>9}\n", "case", "runs", "failures", "slowest");
    for record in &results.cases {
        let Record { case, runs, failures, slowest_seconds, .. } = record;
        let _ = writeln!(text, "{case:48} {runs:7} {failures:8} {slowest_seconds:8.3}s");
    }
    text
}

fn slowest(results: &Results, count: usize) -> String {
    let mut records: Vec<&Record> = results.cases.iter().collect();
    records.sort_by(|a, b| b.slowest_seconds.total_cmp(&a.slowest_seconds));
    let mut text = format!("\nslowest {count}:\n");
    for record in records.iter().take(count) {
        let _ = writeln!(text, "{:8.3}s  {}", record.slowest_seconds, record.case);
    }
    text
}

fn totals(results: &Results, options: &Options) -> String {
    // Print zero counts explicitly, so that their absence need not be interpreted.
    let none = |verdict, words| if results.count_unexpected(verdict) == 0 { words } else { "" };
    let (passed, failed) = (none(Verdict::Pass, "0 pass, "), none(Verdict::Fail, ", 0 fail"));
    let (count, release) = (results.cases.len(), &results.kernel.release);
    let judged =
        options.as_linux.as_ref().map_or_else(String::new, |version| format!(", judged as {version}"));
    let cases = if count == 1 { "case" } else { "cases" };
    let required = results.cases.iter().filter(|record| record.required).count();
    let required = match required {
        0 => String::new(),
        _ => format!("; {required} required, but unsupported or blocked"),
    };
    format!("\n{count} {cases} on Linux {release}{judged}: {passed}{}{failed}{required}\n", results.totals())
}
