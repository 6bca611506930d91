//! Coverage of the kernel's own code: builds the base kernel with gcov in the relevant files, runs the suite on it, and reports
//! which parts of the ranges that mention or implement the flags were not reached.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::kernel::Builder;
use crate::source::{Source, find_once, function};
use crate::suite::Suite;
use crate::sweep::Place;

/// The compiler options for counting, from the kernel's own build system.
pub const COUNTING: &str = "-fprofile-arcs -ftest-coverage -fno-tree-loop-im -fprofile-update=prefer-atomic";

/// The configuration that counting needs.
pub const CONFIG: &str = "CONFIG_DEBUG_FS=y\nCONFIG_GCOV_KERNEL=y\nCONFIG_GCOV_PROFILE_ALL=n\n";

/// `coverage/ranges.toml`: the ranges to examine, and the explanations for what is not reached.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    #[serde(rename = "range")]
    ranges: Vec<Range>,
    #[serde(default, rename = "unreached")]
    reasons: Vec<Reason>,
}

/// A part of a source file: a function, or a section of one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    file: String,
    function: String,
    /// The start and the end within the function: texts that are unique in it. The whole function if absent.
    from: Option<String>,
    to: Option<String>,
}

/// Why a line, or a branch on it, is not reached.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    file: String,
    function: String,
    /// A text on the line, unique in the function.
    line: String,
    why: String,
}

impl Sheet {
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{}", path.display()))
    }

    /// Returns the places of the ranges, for a sweep.
    pub fn places(&self, source: &Source) -> Result<Vec<Place>> {
        let place = |range: &Range| {
            let region = range.region(&source.read(&range.file)?)?;
            Ok(Place { file: range.file.clone(), function: range.function.clone(), region })
        };
        self.ranges.iter().map(place).collect()
    }

    /// Returns the files that have to be compiled for counting.
    pub fn files(&self) -> BTreeSet<&str> {
        self.ranges.iter().map(|range| range.file.as_str()).collect()
    }
}

/// gcov's data about a source line.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
struct Line {
    line_number: usize,
    count: u64,
    branches: Vec<Branch>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
struct Branch {
    count: u64,
}

/// The lines of a file, by line number.
type Lines = BTreeMap<usize, Line>;

/// Builds the kernel, runs the suite on it and writes the document. Returns whether everything that is not reached is explained.
pub fn measure(builder: &Builder, suite: &Suite, sheet: &Sheet, document: &Path) -> Result<bool> {
    // Check this first: it is fast, and the rest takes a while.
    sheet.fits(builder.source())?;
    let scratch = builder.scratch()?;
    let folder = scratch.path();
    let kernel = builder.counting(&sheet.files(), COUNTING, folder)?;
    let archive = folder.join("counters.tar");
    suite.counts(&kernel, &archive)?;
    unpack(&archive, folder)?;
    let mut counted = BTreeMap::new();
    for file in sheet.files() {
        counted.insert(file, ask_gcov(folder, file)?);
    }
    let mut report = Report::default();
    for range in &sheet.ranges {
        report.add(range, &counted[range.file.as_str()], sheet, builder.source())?;
    }
    fs::write(document, report.document(builder.release(), suite.len()))?;
    println!("{}", report.totals());
    report.unexplained.iter().for_each(|place| println!("not reached, and not explained: {place}"));
    Ok(report.unexplained.is_empty())
}

/// Unpacks each file of counters beside the notes that the compiler wrote.
fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let name = folder.to_string_lossy().trim_start_matches('/').to_owned();
    for entry in tar::Archive::new(File::open(archive)?).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if let Some((_, inside)) = path.split_once(&format!("{name}/")) {
            entry.unpack(folder.join(inside))?;
        }
    }
    Ok(())
}

/// Returns gcov's output for the notes and the counters of a file.
fn ask_gcov(folder: &Path, file: &str) -> Result<Lines> {
    #[derive(Deserialize)]
    struct Answer {
        files: Vec<Counted>,
    }
    #[derive(Deserialize)]
    struct Counted {
        file: String,
        lines: Vec<Line>,
    }
    let counters = folder.join(file).with_extension("gcda");
    ensure!(counters.exists(), "the guest sent no counters of {file}");
    let output = Command::new("gcov")
        .args(["--json-format", "--branch-probabilities", "--stdout"])
        .arg(&counters)
        .current_dir(folder)
        .output()
        .context("gcov, which comes with gcc")?;
    ensure!(output.status.success(), "gcov: {}", String::from_utf8_lossy(&output.stderr));
    let mut lines = Lines::new();
    for answer in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Answer>() {
        let own = answer?.files.into_iter().filter(|counted| counted.file.ends_with(file));
        own.flat_map(|counted| counted.lines).for_each(|line| merge(&mut lines, line));
    }
    Ok(lines)
}

/// Merges a line into `lines`. gcov lists a line of an inlined function once per call site; it is reached if it is reached at any
/// of them.
fn merge(lines: &mut Lines, line: Line) {
    let known = lines
        .entry(line.line_number)
        .or_insert_with(|| Line { line_number: line.line_number, ..Line::default() });
    known.count = known.count.max(line.count);
    if known.branches.len() == line.branches.len() {
        for (known, more) in known.branches.iter_mut().zip(line.branches) {
            known.count = known.count.max(more.count);
        }
    } else if known.branches.is_empty() {
        known.branches = line.branches;
    } else {
        known.branches.extend(line.branches);
    }
}

/// The total number, and the number reached.
#[derive(Clone, Copy, Default)]
struct Tally {
    reached: usize,
    all: usize,
}

impl Tally {
    fn add(&mut self, reached: bool) {
        self.all += 1;
        self.reached += usize::from(reached);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.reached, self.all)
    }
}

/// The findings so far.
#[derive(Default)]
struct Report {
    lines: Tally,
    branches: Tally,
    rows: String,
    unreached: String,
    unexplained: Vec<String>,
}

impl Report {
    fn add(&mut self, range: &Range, counted: &Lines, sheet: &Sheet, source: &Source) -> Result<()> {
        let text = source.read(&range.file)?;
        let (mut lines, mut branches) = (Tally::default(), Tally::default());
        for line in counted.range(range.lines(&text)?).map(|(_, line)| line) {
            lines.add(line.count > 0);
            line.branches.iter().for_each(|branch| branches.add(branch.count > 0));
            let missed = line.branches.iter().filter(|branch| branch.count == 0).count();
            if line.count == 0 || missed > 0 {
                let reason = sheet.reason(range, &text, line.line_number)?;
                self.miss(range, &text, line, missed, reason);
            }
        }
        ensure!(lines.all > 0, "{}: {} has no line that can be counted", range.file, range.function);
        let name = match range.from {
            Some(_) => format!("{} (part)", range.function),
            None => range.function.clone(),
        };
        let _ = writeln!(self.rows, "| {} | `{name}` | {lines} | {branches} |", range.file);
        for (total, part) in [(&mut self.lines, lines), (&mut self.branches, branches)] {
            total.reached += part.reached;
            total.all += part.all;
        }
        Ok(())
    }

    fn miss(&mut self, range: &Range, text: &str, line: &Line, missed: usize, reason: Option<&str>) {
        let code = text.lines().nth(line.line_number - 1).unwrap_or_default().trim();
        let place = format!("{}:{} {}", range.file, line.line_number, range.function);
        let what = match line.count {
            0 => "line".to_owned(),
            _ => format!("{missed} of {} branches", line.branches.len()),
        };
        let why = reason.unwrap_or("**not explained**");
        let _ = writeln!(self.unreached, "| {place} | `{}` | {what} | {why} |", code.replace('|', "\\|"));
        if reason.is_none() {
            self.unexplained.push(format!("{place}: {code} ({what})"));
        }
    }

    fn totals(&self) -> String {
        format!("{} lines and {} branches reached", self.lines, self.branches)
    }

    fn document(&self, release: &str, cases: usize) -> String {
        format!(
            "# How much of the kernel's code the suite runs\n\n\
             <!-- Written by vm/mutants.sh --coverage; do not edit. -->\n\n\
             The functions of the kernel that mention the three flags, or implement them and the exit information, are compiled\n\
             with gcov; the {cases} cases of the suite run once, as root; the boot is not counted. `vm/mutants/coverage/ranges.toml` lists\n\
             these functions, and the reason for everything that is not reached.\n\n\
             On Linux {release}: **{}**.\n\n\
             | file | function | lines reached | branches reached |\n|---|---|---|---|\n{}\n\
             ## Not reached\n\n| where | line | what | why |\n|---|---|---|---|\n{}",
            self.totals(),
            self.rows,
            self.unreached
        )
    }
}

impl Range {
    /// Returns the range's position in the text of its file.
    fn region(&self, text: &str) -> Result<std::ops::Range<usize>> {
        let mut region = function(text, &self.function)?;
        if let Some(from) = &self.from {
            region.start = find_once(text, region.clone(), from)?.start;
        }
        if let Some(to) = &self.to {
            region.end = find_once(text, region.clone(), to)?.end;
        }
        Ok(region)
    }

    /// Returns the range's line numbers.
    fn lines(&self, text: &str) -> Result<RangeInclusive<usize>> {
        let region = self.region(text)?;
        Ok(line_at(text, region.start)..=line_at(text, region.end))
    }
}

impl Sheet {
    /// Checks that every range and every reason is found in the tree.
    fn fits(&self, source: &Source) -> Result<()> {
        for range in &self.ranges {
            let text = source.read(&range.file)?;
            let place = || format!("{}: {}", range.file, range.function);
            range.lines(&text).with_context(place)?;
            self.reason(range, &text, 0).with_context(place)?;
        }
        Ok(())
    }

    /// Returns the reason why the code on this line is not reached, if there is one.
    fn reason(&self, range: &Range, text: &str, line: usize) -> Result<Option<&str>> {
        for reason in &self.reasons {
            if (&reason.file, &reason.function) == (&range.file, &range.function) {
                let found = find_once(text, function(text, &reason.function)?, &reason.line)
                    .with_context(|| format!("{}: {}", reason.file, reason.function))?;
                if (line_at(text, found.start)..=line_at(text, found.end)).contains(&line) {
                    return Ok(Some(&reason.why));
                }
            }
        }
        Ok(None)
    }
}

/// Returns the number of the line that contains a byte.
fn line_at(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_part_of_a_function() {
        let text = "int a;\nint f(void)\n{\n\tone();\n\ttwo();\n\tthree();\n}\n";
        let range = |from: Option<&str>, to: Option<&str>| Range {
            file: String::new(),
            function: "f".into(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        assert_eq!(range(None, None).lines(text).unwrap(), 2..=7);
        assert_eq!(range(Some("one"), Some("two();")).lines(text).unwrap(), 4..=5);
    }

    #[test]
    fn an_inlined_line_counts_once() {
        let line = |count, branches: &[u64]| Line {
            line_number: 7,
            count,
            branches: branches.iter().map(|&count| Branch { count }).collect(),
        };
        let mut lines = Lines::new();
        merge(&mut lines, line(0, &[0, 0]));
        merge(&mut lines, line(3, &[3, 0]));
        assert_eq!(lines[&7], line(3, &[3, 0]));
    }
}
