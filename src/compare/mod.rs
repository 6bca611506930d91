//! The comparison of many kernels in a table: claims in rows, kernels in columns.

mod baseline;
pub mod html;
pub mod markdown;
pub mod terminal;

pub use baseline::{Change, Changes};

use std::path::{Path, PathBuf};

use crate::case::Strength;
use crate::formats::Format;
use crate::need::Need;
use crate::report::{Record, Verdict};
use crate::results::Results;
use crate::version::Version;

/// Results, with the name of the file that they are from.
pub type File = (String, Results);

/// A table of claims and kernels.
pub struct Table {
    /// The kernels, in the order given.
    pub columns: Vec<Column>,
    /// The claims, by theme and ID.
    pub themes: Vec<Theme>,
}

/// A kernel.
pub struct Column {
    /// The kernel's version, as short as it can be while unique.
    pub label: String,
    /// The kernel's results.
    pub results: Results,
}

/// The claims of one theme.
pub struct Theme {
    /// Its name.
    pub name: String,
    /// Its claims.
    pub rows: Vec<Row>,
}

/// A claim.
pub struct Row {
    /// The ID, which is the name of the test case.
    pub id: String,
    /// The text of the claim, if any of the files contains it.
    pub claim: String,
    /// The source of the claim.
    pub source: String,
    /// The first kernel series for which the claim is true, if that is known.
    pub since: Option<String>,
    /// `file:line` of the declaration.
    pub declared: String,
    /// What a failure means.
    pub strength: Strength,
    /// The result on each kernel, in the order of the columns.
    pub cells: Vec<Cell>,
}

/// The result for a claim on a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// The test case ended.
    Ended(Box<Record>),
    /// The case was running when the run was cut short.
    Interrupted,
    /// The case did not run: it was not selected, is not in that version of the suite, or the run ended
    /// before it.
    NotRun,
}

/// What a cell shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// The case ended with this verdict.
    Verdict(Verdict),
    /// The case failed as expected.
    Expected,
    /// The case was expected not to pass, but passed.
    Unexpected,
    /// See [`Cell::Interrupted`].
    Interrupted,
    /// See [`Cell::NotRun`].
    NotRun,
}

impl Cell {
    /// Returns the reason for the result; empty for a plain pass.
    pub fn why(&self) -> &str {
        match self {
            Cell::Ended(record) => record.why(),
            Cell::Interrupted => "it was running when the run was cut short",
            Cell::NotRun => "",
        }
    }

    /// Returns what the cell shows.
    pub fn mark(&self) -> Mark {
        match self {
            Cell::Ended(record) if record.passed_unexpectedly() => Mark::Unexpected,
            Cell::Ended(record) if record.is_expected() && record.verdict != Verdict::Unsupported => {
                Mark::Expected
            }
            Cell::Ended(record) => Mark::Verdict(record.verdict),
            Cell::Interrupted => Mark::Interrupted,
            Cell::NotRun => Mark::NotRun,
        }
    }
}

impl Mark {
    /// Returns whether the mark needs an explanation: it is neither a plain pass nor just unsupported or not
    /// run.
    pub fn is_remarkable(self) -> bool {
        let plain = [Verdict::Pass, Verdict::Unsupported].map(Mark::Verdict);
        self != Mark::NotRun && !plain.contains(&self)
    }

    /// All marks, in the order of legends.
    pub const ALL: [Mark; 11] = [
        Mark::Verdict(Verdict::Pass),
        Mark::Verdict(Verdict::Fail),
        Mark::Verdict(Verdict::Deviation),
        Mark::Verdict(Verdict::KnownDefect),
        Mark::Expected,
        Mark::Unexpected,
        Mark::Verdict(Verdict::Unsupported),
        Mark::Verdict(Verdict::Blocked),
        Mark::Verdict(Verdict::Broken),
        Mark::Interrupted,
        Mark::NotRun,
    ];

    /// Returns one character that represents the mark.
    pub fn symbol(self) -> char {
        match self {
            Mark::Verdict(Verdict::Pass) => '✓',
            Mark::Verdict(Verdict::Fail) => '✗',
            Mark::Verdict(Verdict::Deviation) => '~',
            Mark::Verdict(Verdict::KnownDefect) => '!',
            Mark::Verdict(Verdict::Unsupported) => '-',
            Mark::Verdict(Verdict::Blocked) => 'b',
            Mark::Verdict(Verdict::Broken) => '?',
            Mark::Expected => 'x',
            Mark::Unexpected => '+',
            Mark::Interrupted => '…',
            Mark::NotRun => ' ',
        }
    }

    /// Returns the name of the mark.
    pub fn name(self) -> String {
        match self {
            Mark::Verdict(verdict) => verdict.to_string(),
            Mark::Expected => "expected".to_owned(),
            Mark::Unexpected => "passed unexpectedly".to_owned(),
            Mark::Interrupted => "interrupted".to_owned(),
            Mark::NotRun => "not run".to_owned(),
        }
    }
}

impl Row {
    /// Returns whether the result is the same on all kernels.
    pub fn is_agreed(&self) -> bool {
        self.cells.windows(2).all(|pair| pair[0].mark() == pair[1].mark())
    }
}

impl Theme {
    /// Returns how many claims hold on the kernel of a column.
    pub fn kept(&self, column: usize) -> usize {
        self.count(column, Mark::Verdict(Verdict::Pass))
    }

    /// Returns how many cells of a column show this mark.
    pub fn count(&self, column: usize, mark: Mark) -> usize {
        self.rows.iter().filter(|row| row.cells[column].mark() == mark).count()
    }
}

impl Column {
    /// Returns whether the kernel has a feature, or `None` if it was not probed.
    pub fn has(&self, feature: Need) -> Option<bool> {
        self.results.probe.as_ref().map(|probe| probe.features.has(feature))
    }

    /// Returns the distribution package of the kernel, or an empty string.
    pub fn origin(&self) -> String {
        let package = self.results.kernel.package.as_ref();
        package.map_or_else(String::new, |package| format!("Debian {}, {}", package.version, package.suite))
    }

    /// Summarizes the kernel's results.
    pub fn totals(&self) -> String {
        let guest = self.results.guest.as_ref();
        let Some(end) = guest.and_then(|guest| guest.no_verdict.as_ref()) else {
            let faults = guest.map_or_else(|| self.results.complaints().len(), |guest| guest.faults.len());
            let faults = if faults > 0 { ", and the kernel complained" } else { "" };
            return self.results.totals() + faults;
        };
        match end.stage.as_str() {
            "boot" => format!("did not boot: {}", end.why),
            "run" => format!("cut short: {}; {}", end.why, self.results.totals()),
            stage => format!("no verdict ({stage}): {}", end.why),
        }
    }
}

/// A result that needs an explanation: neither a plain pass nor just unsupported or not run.
pub struct Remark<'a> {
    /// The mark of the cells.
    pub mark: Mark,
    /// The ID of the claim.
    pub id: &'a str,
    /// The kernels with this result.
    pub kernels: Vec<&'a str>,
    /// The reason on the first of these kernels.
    pub why: &'a str,
}

impl Table {
    /// Returns all results that need an explanation, each once for all the kernels that share it.
    pub fn remarks(&self) -> Vec<Remark<'_>> {
        let mut remarks: Vec<Remark> = Vec::new();
        for row in self.themes.iter().flat_map(|theme| &theme.rows) {
            let from = remarks.len();
            for (cell, column) in row.cells.iter().zip(&self.columns) {
                let (mark, label) = (cell.mark(), column.label.as_str());
                if !mark.is_remarkable() {
                    continue;
                }
                match remarks[from..].iter_mut().find(|remark| remark.mark == mark) {
                    Some(remark) => remark.kernels.push(label),
                    None => remarks.push(Remark { mark, id: &row.id, kernels: vec![label], why: cell.why() }),
                }
            }
        }
        remarks
    }

    /// Builds a table of results. Each comes with the name of its file, which distinguishes otherwise equal
    /// kernels.
    pub fn of(files: Vec<File>) -> Table {
        let labels = labels(&files);
        let columns: Vec<Column> =
            labels.into_iter().zip(files).map(|(label, (_, results))| Column { label, results }).collect();
        Table { themes: themes(&columns), columns }
    }

    /// Returns a note if the files are not all from the same version of the suite.
    pub fn suites_differ(&self) -> Option<String> {
        let suites = self.suites();
        let differ = suites.len() > 1;
        differ.then(|| format!("compared by claim id, since the suites differ: {}", suites.join("; ")))
    }

    /// Returns the suites that ran: version and commit.
    fn suites(&self) -> Vec<String> {
        let mut suites: Vec<String> = Vec::new();
        for Column { results, .. } in &self.columns {
            let suite = format!("{} {}", results.suite.version, results.suite.commit).trim().to_owned();
            if !suites.contains(&suite) {
                suites.push(suite);
            }
        }
        suites
    }

    /// Returns the marks that occur, in the order of legends.
    pub fn marks(&self) -> Vec<Mark> {
        let cells = || self.themes.iter().flat_map(|theme| &theme.rows).flat_map(|row| &row.cells);
        Mark::ALL.into_iter().filter(|mark| cells().any(|cell| cell.mark() == *mark)).collect()
    }
}

/// Returns a table's path and the format that belongs to its extension. For command lines.
///
/// # Errors
/// If the extension belongs to no format of tables; the message lists those that do.
pub fn target(path: &str) -> Result<(PathBuf, Format), String> {
    match Format::of(Path::new(path)) {
        Ok(format @ (Format::Html | Format::Markdown)) => Ok((PathBuf::from(path), format)),
        _ => Err(format!("a table goes to a file that ends in .html or .md, and '{path}' does not")),
    }
}

/// Returns the shortest names that distinguish the kernels: version, release, or file.
fn labels(files: &[File]) -> Vec<String> {
    let forms: [fn(&File) -> String; 2] =
        [|(_, results)| version(results), |(_, results)| results.kernel.release.clone()];
    let all: [Vec<String>; 2] = forms.map(|form| files.iter().map(form).collect());
    let is_telling = |names: &[String], name: &String| {
        !name.is_empty() && names.iter().filter(|other| *other == name).count() == 1
    };
    let label = |number: usize| {
        let names = all.iter().find(|names| is_telling(names, &names[number]));
        names.map_or_else(|| files[number].0.clone(), |names| names[number].clone())
    };
    (0..files.len()).map(label).collect()
}

/// Returns the mainline version of a kernel: from its package, or from the beginning of its release.
fn version(results: &Results) -> String {
    if let Some(package) = &results.kernel.package {
        let upstream =
            package.version.rsplit_once('-').map_or(package.version.as_str(), |(upstream, _)| upstream);
        return upstream.replace('~', "-");
    }
    Version::of(&results.kernel.release).to_string()
}

/// Returns every claim in any of the files, with the result on each kernel.
fn themes(columns: &[Column]) -> Vec<Theme> {
    let records = || columns.iter().flat_map(|column| &column.results.cases);
    let mut claims: Vec<(&str, &str)> =
        records().map(|record| (record.theme.as_str(), record.case.as_str())).collect();
    let is_known = |name: &str| records().any(|record| record.case == name);
    let cut_off = columns.iter().flat_map(|column| &column.results.interrupted);
    claims.extend(cut_off.filter(|name| !is_known(name)).map(|name| ("interrupted", name.as_str())));
    claims.sort_unstable();
    // A claim may be in different themes in different versions of the suite: use the first one.
    let mut seen = std::collections::BTreeSet::new();
    claims.retain(|(_, case)| seen.insert(*case));
    let mut themes: Vec<Theme> = Vec::new();
    for (theme, case) in claims {
        if themes.last().is_none_or(|last| last.name != theme) {
            themes.push(Theme { name: theme.to_owned(), rows: Vec::new() });
        }
        let Some(last) = themes.last_mut() else { continue };
        last.rows.push(row(case, columns));
    }
    themes
}

fn row(id: &str, columns: &[Column]) -> Row {
    let cells: Vec<Cell> = columns.iter().map(|column| cell(id, &column.results)).collect();
    // The last file usually belongs to the newest kernel and has the newest text.
    let told = cells.iter().rev().find_map(|cell| match cell {
        Cell::Ended(record) if !record.claim.is_empty() => Some((**record).clone()),
        _ => None,
    });
    let Record { claim, source, since, declared, .. } = told.unwrap_or_default();
    // Unlike the texts, this is also in a journal.
    let strength = cells.iter().rev().find_map(|cell| match cell {
        Cell::Ended(record) => Some(record.strength),
        _ => None,
    });
    let strength = strength.unwrap_or_default();
    Row { id: id.to_owned(), claim, source, since, declared, strength, cells }
}

fn cell(id: &str, results: &Results) -> Cell {
    if let Some(record) = results.cases.iter().find(|record| record.case == id) {
        return Cell::Ended(Box::new(record.clone()));
    }
    match results.interrupted.iter().any(|name| name == id) {
        true => Cell::Interrupted,
        false => Cell::NotRun,
    }
}

#[cfg(test)]
pub(crate) mod tests;
