//! What a run prints about itself: bug reports, totals, repeats, the slowest cases.

use std::fmt::Write as _;

use clone3_conformance::case::{Case, Defect};
use clone3_conformance::probe::Probe;
use clone3_conformance::report::{Record, Results, Verdict};

use super::cli::Options;

/// How many lines of a trail or an output are shown; the last ones say most.
const SHOWN: usize = 30;

/// A failure as it could be mailed to a maintainer.
pub fn bug_report(case: &Case, record: &Record, probe: &Probe) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:9} {value}");
        }
    };
    let Probe { release, version, machine, .. } = probe;
    line("verdict", &record.verdict.to_string());
    line("case", case.name);
    line("claim", &case.claim());
    line("source", case.source);
    line("strength", &case.strength.to_string());
    line("happened", &record.message);
    line("at", &record.at);
    line("kernel", &format!("Linux {release} {version} {machine}"));
    if record.runs > 1 {
        line("runs", &format!("{} of {} failed", record.failures, record.runs));
    }
    line("steps", &tail(&record.trail));
    line("output", &tail(&record.output.lines().map(str::to_owned).collect::<Vec<_>>()));
    line("rerun", &rerun(case.name));
    text
}

fn tail(lines: &[String]) -> String {
    let first = lines.len().saturating_sub(SHOWN);
    let left_out = if first > 0 { format!("({first} earlier lines)\n          ") } else { String::new() };
    left_out + &lines[first..].join("\n          ")
}

/// The command that runs this case again on this kernel. Who starts the runner elsewhere (in a guest) says how
/// in CLONE3_CONFORMANCE_RERUN.
fn rerun(name: &str) -> String {
    match std::env::var("CLONE3_CONFORMANCE_RERUN") {
        Ok(prefix) => format!("{prefix} --exact {name}"),
        Err(_) => format!("cargo test --test conformance -- --exact {name}"),
    }
}

/// All that follows libtest's own summary.
pub fn text(results: &Results, options: &Options) -> String {
    let mut text = String::new();
    text.push_str(&remarks(results));
    if options.repeat > 1 {
        text.push_str(&repeats(results));
    }
    if let Some(count) = options.durations {
        text.push_str(&slowest(results, count));
    }
    text.push_str(&totals(results));
    text
}

/// Deviations and known defects: no failures, but nobody should miss them.
fn remarks(results: &Results) -> String {
    let remarkable = |record: &&Record| matches!(record.verdict, Verdict::Deviation | Verdict::KnownDefect);
    let mut text = String::new();
    for record in results.cases.iter().filter(remarkable) {
        let Record { verdict, case, message, at, failures, runs, .. } = record;
        let _ = writeln!(text, "{verdict}: {case}, {failures} of {runs} runs: {message} ({at})");
    }
    for record in &results.cases {
        match defect_of(record) {
            Some(defect) if record.verdict == Verdict::Pass && !defect.rare => {
                let _ = writeln!(text, "fixed: {}: this kernel is without a known defect", record.case);
            }
            Some(_) if record.verdict == Verdict::Pass => {
                let runs = record.runs;
                let _ = writeln!(text, "rare defect, not met in {runs} run(s): {}", record.case);
            }
            _ => {}
        }
    }
    text
}

fn defect_of(record: &Record) -> Option<Defect> {
    clone3_conformance::case::find(&record.case)?.known_defect
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

fn totals(results: &Results) -> String {
    let count = |verdict: Verdict| results.cases.iter().filter(|record| record.verdict == verdict).count();
    let parts: Vec<String> = Verdict::ALL
        .into_iter()
        .map(|verdict| (verdict, count(verdict)))
        .filter(|(verdict, count)| *count > 0 || *verdict == Verdict::Pass || *verdict == Verdict::Fail)
        .map(|(verdict, count)| format!("{count} {verdict}"))
        .collect();
    format!(
        "\n{} cases on Linux {}: {}\n",
        results.cases.len(),
        results.header.probe.release,
        parts.join(", ")
    )
}
