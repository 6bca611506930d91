//! Many kernels side by side: claims in rows, kernels in columns.

mod baseline;
pub mod html;
pub mod markdown;
pub mod terminal;

pub use baseline::{Change, Changes};

use std::path::{Path, PathBuf};

use crate::case::Strength;
use crate::formats::Format;
use crate::probe::Features;
use crate::report::{Record, Verdict};
use crate::results::Results;

/// Results, and the name of the file that they are from.
pub type File = (String, Results);

/// Claims × kernels.
pub struct Table {
    /// The kernels, as they were given.
    pub columns: Vec<Column>,
    /// The claims, by theme and id.
    pub themes: Vec<Theme>,
}

/// A kernel.
pub struct Column {
    /// Its version, as short as it can be without being another's.
    pub label: String,
    /// What it did.
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
    /// Its id, which is the name of the case.
    pub id: String,
    /// What it says, where any of the files tells it.
    pub claim: String,
    /// Where it comes from.
    pub source: String,
    /// The first series of which it is true, where that is known.
    pub since: Option<String>,
    /// `file:line` of the declaration.
    pub declared: String,
    /// What a failure means.
    pub strength: Strength,
    /// What each kernel did, in the order of the columns.
    pub cells: Vec<Cell>,
}

/// What a kernel did with a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// The case ended.
    Ended(Box<Record>),
    /// It was running when the run was cut short.
    Interrupted,
    /// It did not run there: not selected, not in that version of the suite, or the run did not come so far.
    NotRun,
}

/// What a cell shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// The case ended with this.
    Verdict(Verdict),
    /// It went wrong as it was expected to.
    Expected,
    /// It should have gone wrong, and did not.
    Unexpected,
    /// See [`Cell::Interrupted`].
    Interrupted,
    /// See [`Cell::NotRun`].
    NotRun,
}

impl Cell {
    /// Why it is as it is; empty for a plain pass.
    pub fn why(&self) -> &str {
        match self {
            Cell::Ended(record) => record.why(),
            Cell::Interrupted => "it was running when the run was cut short",
            Cell::NotRun => "",
        }
    }

    /// What it shows.
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
    /// Whether it wants words: it is neither a plain pass nor just missing.
    pub fn is_remarkable(self) -> bool {
        let plain = [Verdict::Pass, Verdict::Unsupported].map(Mark::Verdict);
        self != Mark::NotRun && !plain.contains(&self)
    }

    /// All of them, in the order of legends.
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

    /// One character for it.
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

    /// Words for it.
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
    /// Whether all kernels did the same.
    pub fn is_agreed(&self) -> bool {
        self.cells.windows(2).all(|pair| pair[0].mark() == pair[1].mark())
    }
}

impl Theme {
    /// How many claims the kernel of a column keeps.
    pub fn kept(&self, column: usize) -> usize {
        self.count(column, Mark::Verdict(Verdict::Pass))
    }

    /// How many cells of a column show this.
    pub fn count(&self, column: usize, mark: Mark) -> usize {
        self.rows.iter().filter(|row| row.cells[column].mark() == mark).count()
    }
}

/// Looks up one feature among all.
pub type Feature = fn(&Features) -> bool;

/// The features that the probe finds, by name.
pub const FEATURES: [(&str, Feature); 9] = [
    ("CLONE_AUTOREAP", |has| has.autoreap),
    ("CLONE_NNP", |has| has.nnp),
    ("CLONE_PIDFD_AUTOKILL", |has| has.autokill),
    ("PIDFD_GET_INFO", |has| has.pidfd_info),
    ("PIDFD_INFO_EXIT", |has| has.exit_info),
    ("PIDFD_INFO_COREDUMP", |has| has.coredump_mask),
    ("PIDFD_INFO_SUPPORTED_MASK", |has| has.supported_mask),
    ("PIDFD_INFO_COREDUMP_SIGNAL", |has| has.coredump_signal),
    ("PIDFD_INFO_COREDUMP_CODE", |has| has.coredump_code),
];

impl Column {
    /// Whether the kernel has a feature; `None` where nobody could ask it.
    pub fn has(&self, feature: Feature) -> Option<bool> {
        self.results.probe.as_ref().map(|probe| feature(&probe.features))
    }

    /// Where the kernel comes from: its package, or nothing.
    pub fn origin(&self) -> String {
        let package = self.results.kernel.package.as_ref();
        package.map_or_else(String::new, |package| format!("Debian {}, {}", package.version, package.suite))
    }

    /// What it came to, in a few words.
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

/// Something that wants words: neither a plain pass nor just missing.
pub struct Remark<'a> {
    /// What the cells show.
    pub mark: Mark,
    /// The claim.
    pub id: &'a str,
    /// The kernels.
    pub kernels: Vec<&'a str>,
    /// What happened on the first of them.
    pub why: &'a str,
}

impl Table {
    /// Everything that wants words, each thing once for all the kernels that do it.
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

    /// Puts results side by side; each comes with the name of its file, which tells kernels apart that nothing else does.
    pub fn of(files: Vec<File>) -> Table {
        let labels = labels(&files);
        let columns: Vec<Column> =
            labels.into_iter().zip(files).map(|(label, (_, results))| Column { label, results }).collect();
        Table { themes: themes(&columns), columns }
    }

    /// What is to be said when the files are not all of the same suite.
    pub fn suites_differ(&self) -> Option<String> {
        let suites = self.suites();
        let differ = suites.len() > 1;
        differ.then(|| format!("compared by claim id, since the suites differ: {}", suites.join("; ")))
    }

    /// The suites that ran: version and commit.
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

    /// The marks that occur, in the order of legends.
    pub fn marks(&self) -> Vec<Mark> {
        let cells = || self.themes.iter().flat_map(|theme| &theme.rows).flat_map(|row| &row.cells);
        Mark::ALL.into_iter().filter(|mark| cells().any(|cell| cell.mark() == *mark)).collect()
    }
}

/// A file that a table goes to, and the format that its end asks for; for command lines.
///
/// # Errors
/// Where it asks for none that a table has: which there are.
pub fn target(path: &str) -> Result<(PathBuf, Format), String> {
    match Format::of(Path::new(path)) {
        Ok(format @ (Format::Html | Format::Markdown)) => Ok((PathBuf::from(path), format)),
        _ => Err(format!("a table goes to a file that ends in .html or .md, and '{path}' does not")),
    }
}

/// The shortest names that tell the kernels apart: version, release, file.
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

/// A kernel's version in mainline's words: from its package, or from the beginning of its release.
fn version(results: &Results) -> String {
    if let Some(package) = &results.kernel.package {
        let upstream =
            package.version.rsplit_once('-').map_or(package.version.as_str(), |(upstream, _)| upstream);
        return upstream.replace('~', "-");
    }
    let release = &results.kernel.release;
    let end = release.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(release.len());
    let (numbers, rest) = release.split_at(end);
    let candidate: String = match rest.strip_prefix("-rc") {
        Some(rest) => format!("-rc{}", rest.chars().take_while(char::is_ascii_digit).collect::<String>()),
        None => String::new(),
    };
    numbers.to_owned() + &candidate
}

/// Every claim of any file, with what each kernel did.
fn themes(columns: &[Column]) -> Vec<Theme> {
    let records = || columns.iter().flat_map(|column| &column.results.cases);
    let mut claims: Vec<(&str, &str)> =
        records().map(|record| (record.theme.as_str(), record.case.as_str())).collect();
    let is_known = |name: &str| records().any(|record| record.case == name);
    let cut_off = columns.iter().flat_map(|column| &column.results.interrupted);
    claims.extend(cut_off.filter(|name| !is_known(name)).map(|name| ("interrupted", name.as_str())));
    claims.sort_unstable();
    // A claim may have moved to another theme from one suite to the next: its first place is as good as any.
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
    // The newest kernel's file is the last one, as a rule, and has the newest words.
    let told = cells.iter().rev().find_map(|cell| match cell {
        Cell::Ended(record) if !record.claim.is_empty() => Some((**record).clone()),
        _ => None,
    });
    let told = told.unwrap_or_default();
    let Record { claim, source, since, declared, strength, .. } = told;
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
