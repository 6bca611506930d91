//! The report on which mistakes the suite notices, as text for the terminal and as docs/proof.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::catalogue::Mutant;
use crate::suite::{Notice, SuiteResult, in_a_line};

/// The result for a mutant.
pub enum MutantResult {
    /// Its kernel was built, and nothing more was requested.
    Built,
    /// The suite ran on it.
    Judged(SuiteResult),
    /// Its image equals the base's, or there is an argument that no program can distinguish them.
    Equivalent(String),
    DoesNotApply(String),
    DoesNotBuild(String),
}

impl MutantResult {
    /// Returns a word that summarizes the result.
    pub fn word(&self) -> &'static str {
        match self {
            MutantResult::Built => "built",
            MutantResult::Judged(SuiteResult::Noticed(_) | SuiteResult::Fault(_)) => "killed",
            MutantResult::Judged(SuiteResult::Nothing { .. }) => "survived",
            MutantResult::Judged(SuiteResult::NoBoot(_)) => "does not boot",
            MutantResult::Equivalent(_) => "equivalent",
            MutantResult::DoesNotApply(_) => "does not apply",
            MutantResult::DoesNotBuild(_) => "does not build",
        }
    }

    /// Returns the explanation of the result.
    pub fn story(&self) -> String {
        match self {
            MutantResult::Built => String::new(),
            MutantResult::Judged(said) => in_a_line(said),
            MutantResult::Equivalent(why)
            | MutantResult::DoesNotApply(why)
            | MutantResult::DoesNotBuild(why) => why.clone(),
        }
    }

    /// Returns the word and the explanation.
    pub fn line(&self) -> String {
        match self {
            MutantResult::Built => self.word().to_owned(),
            _ => format!("{}: {}", self.word(), self.story()),
        }
    }

    /// Returns the case that noticed, if one did.
    pub fn noticed_by(&self) -> Option<&str> {
        match self {
            MutantResult::Judged(SuiteResult::Noticed(notices)) => {
                notices.first().map(|first| first.case.as_str())
            }
            _ => None,
        }
    }

    pub fn is_killed(&self) -> bool {
        self.word() == "killed"
    }

    /// Returns whether the proof has a gap: an unnoticed mistake, or one that could not be tested.
    pub fn is_hole(&self) -> bool {
        !self.is_killed() && !matches!(self, MutantResult::Equivalent(_))
    }
}

/// Returns the totals, in one line.
pub fn totals(fates: &[(Mutant, MutantResult)]) -> String {
    let count = |word: &str| fates.iter().filter(|(_, fate)| fate.word() == word).count();
    let equivalent = count("equivalent");
    let mut text = format!("{} of {} noticed", count("killed"), fates.len() - equivalent);
    for word in ["survived", "does not boot", "does not build", "does not apply"] {
        match count(word) {
            0 => {}
            count => _ = write!(text, ", {count} {word}"),
        }
    }
    let _ = write!(text, "; {equivalent} more are equivalent");
    text
}

/// The document's sections, and the columns of their tables.
const SECTIONS: [(&str, [&str; 3]); 3] = [
    ("Noticed", ["broken kernel", "what a user would see", "what the suite says"]),
    ("Not noticed", ["broken kernel", "what a user would see", "what happened"]),
    ("Equivalent", ["change", "what a user would see", "why nobody can tell"]),
];

const KEPT: &str = "A kernel that an earlier version of the suite noticed, by a case that still exists, was not tested again (`--keep`).\n";

/// The rows of each section, by the id with which they start.
#[derive(Default)]
struct Tables([BTreeMap<String, String>; 3]);

impl Tables {
    /// Reads the rows of a document.
    fn read(text: &str) -> Tables {
        let mut tables = Tables::default();
        let mut section = None;
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                section = SECTIONS.iter().position(|(name, _)| *name == title);
            }
            let id = line.strip_prefix("| `").and_then(|rest| rest.split('`').next());
            if let (Some(section), Some(id)) = (section, id) {
                tables.0[section].insert(id.to_owned(), format!("{line}\n"));
            }
        }
        tables
    }

    /// Keeps the rows whose id satisfies the predicate.
    fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.0.iter_mut().for_each(|rows| rows.retain(|id, _| is_wanted(id)));
    }

    fn add(&mut self, mutant: &Mutant, fate: &MutantResult) {
        let section = match fate {
            MutantResult::Equivalent(_) => 2,
            fate if fate.is_killed() => 0,
            _ => 1,
        };
        let row = format!("| `{}` | {} | {} |\n", mutant.id, cell(&mutant.sees), story(fate));
        self.0[section].insert(mutant.id.clone(), row);
    }

    fn totals(&self) -> String {
        let [noticed, missed, same] = self.0.each_ref().map(BTreeMap::len);
        format!("{noticed} of {} noticed; {same} more are equivalent", noticed + missed)
    }
}

/// Formats the document from this run's results and, for mutants that were not tested, from an earlier document's rows, if they
/// are still in the catalogue.
pub fn document(
    release: &str,
    fates: &[(Mutant, MutantResult)],
    keep: bool,
    earlier: &str,
    catalogue: &BTreeSet<String>,
) -> String {
    let mut tables = Tables::read(earlier);
    tables.retain(|id| catalogue.contains(id) && fates.iter().all(|(mutant, _)| mutant.id != id));
    let others: usize = tables.0.iter().map(BTreeMap::len).sum();
    fates.iter().for_each(|(mutant, fate)| tables.add(mutant, fate));
    let mut text = format!(
        "# Proof that the suite notices\n\n\
         <!-- Written by vm/mutants.sh --proof; do not edit. -->\n\n\
         A test suite is worth what it catches. `vm/mutants/` describes broken kernels (mutants), each with one wrong behavior\n\
         that a backport, a merge conflict or another implementation could plausibly have. `vm/mutants.sh` builds each of them,\n\
         boots it, and runs the suite on it.\n\n\
         On Linux {release}: **{}**.\n",
        tables.totals()
    );
    if keep || earlier.contains(KEPT) {
        text.push_str(KEPT);
    }
    if others > 0 {
        let _ = writeln!(
            text,
            "The last run was of {} (`--only`); the other rows are from earlier runs.",
            fates.len()
        );
    }
    for ((title, [first, second, third]), rows) in SECTIONS.iter().zip(&tables.0) {
        if !rows.is_empty() {
            let _ = write!(text, "\n## {title}\n\n| {first} | {second} | {third} |\n|---|---|---|\n");
            text.extend(rows.values().map(String::as_str));
        }
    }
    text
}

/// Formats the explanation as a table cell, with the name of the case first, if there is one.
fn story(fate: &MutantResult) -> String {
    match fate {
        MutantResult::Judged(SuiteResult::Noticed(notices)) => {
            notices.first().map_or_else(String::new, Notice::cell)
        }
        other => cell(&other.story()),
    }
}

impl Notice {
    /// Formats the name of the case and its message as a table cell.
    pub fn cell(&self) -> String {
        format!("`{}`: {}", self.case, cell(&self.message))
    }
}

/// Escapes text for a table cell.
pub fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(id: &str) -> Mutant {
        Mutant {
            id: id.to_owned(),
            sees: "a | b".to_owned(),
            claims: vec![],
            equivalent: None,
            edits: vec![],
        }
    }

    fn noticed(id: &str) -> (Mutant, MutantResult) {
        (mutant(id), MutantResult::Judged(SuiteResult::Fault("it crashed".to_owned())))
    }

    fn survived(id: &str) -> (Mutant, MutantResult) {
        (
            mutant(id),
            MutantResult::Judged(SuiteResult::Nothing { cases: 1, processors: Some(2), defects: vec![] }),
        )
    }

    #[test]
    fn a_run_of_some_keeps_what_is_known_of_the_others() {
        let catalogue = ["early", "late", "same"].map(str::to_owned).into();
        let same = (mutant("same"), MutantResult::Equivalent("nobody can tell".to_owned()));
        let all = [survived("early"), noticed("gone"), noticed("late"), same];
        let first = document("7.3", &all, true, "", &catalogue);
        assert!(first.contains("**2 of 3 noticed; 1 more are equivalent**"), "{first}");

        let second = document("7.3", &[noticed("early")], false, &first, &catalogue);
        assert!(second.contains("**2 of 2 noticed; 1 more are equivalent**"), "{second}");
        assert!(second.contains(KEPT) && second.contains("The last run was of 1 (`--only`)"), "{second}");
        assert!(!second.contains("gone") && !second.contains("Not noticed"), "{second}");
        let row = |id: &str| {
            second.lines().filter(|line| line.starts_with(&format!("| `{id}` | a \\| b |"))).count()
        };
        assert_eq!(["early", "late", "same"].map(row), [1, 1, 1]);
    }
}
