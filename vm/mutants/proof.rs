//! The report: which mistakes the suite notices, as text for the terminal and as docs/proof.md.

use std::fmt::Write as _;

use crate::catalogue::Mutant;
use crate::suite::{Said, in_a_line};

/// What became of a mutant.
pub enum Fate {
    /// Its kernel is there, and more was not wanted.
    Built,
    /// The suite ran on it.
    Judged(Said),
    /// Its image is the base's, or an argument says that nobody can tell.
    Equivalent(String),
    DoesNotApply(String),
    DoesNotBuild(String),
}

impl Fate {
    /// One word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Fate::Built => "built",
            Fate::Judged(Said::Noticed(_) | Said::Fault(_)) => "killed",
            Fate::Judged(Said::Nothing { .. }) => "survived",
            Fate::Judged(Said::NoBoot(_)) => "does not boot",
            Fate::Equivalent(_) => "equivalent",
            Fate::DoesNotApply(_) => "does not apply",
            Fate::DoesNotBuild(_) => "does not build",
        }
    }

    /// The story to the word.
    pub fn story(&self) -> String {
        match self {
            Fate::Built => String::new(),
            Fate::Judged(said) => in_a_line(said),
            Fate::Equivalent(why) | Fate::DoesNotApply(why) | Fate::DoesNotBuild(why) => why.clone(),
        }
    }

    /// Both.
    pub fn line(&self) -> String {
        match self {
            Fate::Built => self.word().to_owned(),
            _ => format!("{}: {}", self.word(), self.story()),
        }
    }

    /// The case that noticed, where one did.
    pub fn noticed_by(&self) -> Option<&str> {
        match self {
            Fate::Judged(Said::Noticed(notices)) => notices.first().map(|first| first.case.as_str()),
            _ => None,
        }
    }

    pub fn is_killed(&self) -> bool {
        self.word() == "killed"
    }

    /// Whether the proof has a hole: an unnoticed mistake, or one that could not be tried.
    pub fn is_hole(&self) -> bool {
        !self.is_killed() && !matches!(self, Fate::Equivalent(_))
    }
}

/// The totals, in one line.
pub fn totals(fates: &[(Mutant, Fate)]) -> String {
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

/// The document, from the results alone.
pub fn document(release: &str, fates: &[(Mutant, Fate)], keep: bool) -> String {
    let mut text = format!(
        "# Proof that the suite notices\n\n\
         <!-- Written by vm/mutants.sh --proof; do not edit. -->\n\n\
         A test suite is worth what it catches. `vm/mutants/` describes broken kernels: each one wrong behaviour that a\n\
         backport, a merge conflict or another implementation could plausibly have. `vm/mutants.sh` builds every one of\n\
         them, boots it, and runs the suite on it.\n\n\
         On Linux {release}: **{}**.\n",
        totals(fates)
    );
    if keep {
        text.push_str("Where an earlier state of the suite had noticed already, by a case that is still there, it was not asked again (`--keep`).\n");
    }
    let noticed = fates.iter().filter(|(_, fate)| fate.is_killed());
    section(&mut text, "Noticed", ["broken kernel", "what a user would see", "what the suite says"], noticed);
    let missed = fates.iter().filter(|(_, fate)| fate.is_hole());
    section(&mut text, "Not noticed", ["broken kernel", "what a user would see", "what happened"], missed);
    let same = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Equivalent(_)));
    section(&mut text, "Equivalent", ["change", "what a user would see", "why nobody can tell"], same);
    text
}

fn section<'a>(
    text: &mut String,
    title: &str,
    columns: [&str; 3],
    rows: impl Iterator<Item = &'a (Mutant, Fate)>,
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let [first, second, third] = columns;
    let _ = write!(text, "\n## {title}\n\n| {first} | {second} | {third} |\n|---|---|---|\n");
    for (mutant, fate) in rows {
        let _ = writeln!(text, "| `{}` | {} | {} |", mutant.id, cell(&mutant.sees), story(fate));
    }
}

/// The story as a cell: the name of the case first, where there is one.
fn story(fate: &Fate) -> String {
    match fate {
        Fate::Judged(Said::Noticed(notices)) => notices
            .first()
            .map_or_else(String::new, |first| format!("`{}`: {}", first.case, cell(&first.message))),
        other => cell(&other.story()),
    }
}

/// Text that does not break a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}
