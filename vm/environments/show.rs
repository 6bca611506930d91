//! What a person reads of it all.
use std::collections::BTreeMap;
use std::fmt::Write;

use clone3_conformance::report;

use crate::judge::Verdict;

/// How many things that are wrong with a row are shown.
const SHOWN: usize = 30;

/// A row as it ends.
pub fn line(verdict: &Verdict) -> String {
    let word = if verdict.is_wrong() { "WRONG" } else { "right" };
    let mut text =
        format!("{word} {:24} {:6.1} s  {}\n", verdict.name, verdict.seconds, counts(&verdict.counts));
    for (reason, count) in &verdict.reasons {
        let _ = writeln!(text, "      {count:4} x {reason}");
    }
    for wrong in verdict.wrong.iter().take(SHOWN) {
        let _ = writeln!(text, "      ! {wrong}");
    }
    if verdict.wrong.len() > SHOWN {
        let _ = writeln!(text, "      ! and {} more", verdict.wrong.len() - SHOWN);
    }
    text
}

fn counts(counts: &BTreeMap<report::Verdict, usize>) -> String {
    let words: Vec<String> = counts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
    if words.is_empty() { "no case ran".to_owned() } else { words.join(", ") }
}

pub fn totals(verdicts: &[Verdict]) -> String {
    let wrong: Vec<&str> =
        verdicts.iter().filter(|verdict| verdict.is_wrong()).map(|verdict| verdict.name).collect();
    let seconds: f64 = verdicts.iter().map(|verdict| verdict.seconds).sum();
    let names = if wrong.is_empty() { String::new() } else { format!(": {}", wrong.join(", ")) };
    format!("{} environments, {} wrong{names}; {seconds:.0} s\n", verdicts.len(), wrong.len())
}

/// The table of the documentation.
pub fn markdown(verdicts: &[Verdict]) -> String {
    let mut text = String::from("| environment | expected | observed | |\n|---|---|---|---|\n");
    for verdict in verdicts {
        let mut observed = counts(&verdict.counts);
        for (reason, count) in &verdict.reasons {
            let _ = write!(observed, "<br>{count} × {reason}");
        }
        if let Some(status) = verdict.status.filter(|status| *status != 0) {
            let _ = write!(observed, "<br>exit status {status}");
        }
        let word = if verdict.is_wrong() { "**wrong**" } else { "right" };
        let cell = |text: &str| text.replace('|', "\\|");
        let (words, expected) = (cell(verdict.words), cell(&verdict.expected));
        let _ = writeln!(text, "| {words} | {expected} | {} | {word} |", cell(&observed));
    }
    let wrong = verdicts.iter().filter(|verdict| verdict.is_wrong()).count();
    let _ = writeln!(text, "\n{} environments, {wrong} wrong.", verdicts.len());
    text
}
