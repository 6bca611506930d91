//! The output for the terminal and the documentation.
use std::collections::BTreeMap;
use std::fmt::Write;

use clone3_conformance::report;

use crate::judge::Verdict;

/// The text of the page before the table.
const INTRODUCTION: &str = "\
# The suite in hostile environments

The suite must never blame the kernel for the environment, never hang, leave nothing behind, and never pass wrongly.
`vm/environments.sh` boots a kernel, creates one environment after another, and runs the suite in each. A row is right if no
case fails; if each case that passes for root in the plain guest also passes here, or is blocked for one of the expected
reasons; if each of these reasons occurs; and if nothing is left: no process, mount, file, cgroup, sysctl or System V object,
and no signal to two bystander processes.

The table is the output of a run:

```console
$ vm/environments.sh -- --markdown | sed '1,/^<!-- the page begins here/d' >docs/environments.md
```

The environments themselves are in [vm/environments/table.rs](../vm/environments/table.rs).
";

/// The maximum number of problems that are shown for a row.
const SHOWN: usize = 30;

/// Formats the result of a row.
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

/// Formats the page of the documentation, after a marker line for its start.
pub fn markdown(verdicts: &[Verdict], quick: bool) -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let cases = if quick { "a few cases of every theme (`--quick`)" } else { "all cases" };
    let mut text = format!(
        "<!-- the page begins here -->\n{INTRODUCTION}\nThis run: Linux {release}, {processors} CPUs, {cases}.\n\n\
         | environment | expected | observed | |\n|---|---|---|---|\n"
    );
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
