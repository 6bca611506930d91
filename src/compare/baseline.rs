//! The comparison of one run with a baseline.

use std::fmt;

use super::terminal::visible;
use super::{Cell, File, Mark, Table};
use crate::report::Verdict;
use crate::results::Results;

/// How the result for a claim changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The claim held and no longer does, or it fails where it did not.
    Regressed,
    /// The claim was violated and holds now.
    Fixed,
    /// The claim holds where it could not be checked before: the kernel or the suite has something new.
    Appeared,
    /// The claim was not checked this time.
    Vanished,
    /// Any other change.
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Change::Regressed => "regressed",
            Change::Fixed => "fixed",
            Change::Appeared => "appeared",
            Change::Vanished => "vanished",
            Change::Changed => "changed",
        })
    }
}

/// All changes.
pub struct Changes {
    /// For each changed claim: the kind of change, the ID, the old and new mark, and the reason.
    pub list: Vec<(Change, String, Mark, Mark, String)>,
    /// Notes to print first: the kernels, and differing suites.
    notes: Vec<String>,
    /// Why the new run as a whole is worse than the old one, if it is.
    worse: Option<String>,
}

impl Changes {
    /// Compares two runs by claim ID.
    pub fn between(old: File, new: File) -> Changes {
        let worse = worse(&old.1, &new.1);
        let table = Table::of(vec![old, new]);
        let mut notes: Vec<String> = Vec::new();
        for (column, name) in table.columns.iter().zip(["old", "new"]) {
            notes.push(format!("{name}  {}: {}", column.results.kernel, column.totals()));
        }
        notes.extend(table.suites_differ());
        let mut list = Vec::new();
        for row in table.themes.into_iter().flat_map(|theme| theme.rows) {
            let [old, new] = [&row.cells[0], &row.cells[1]];
            if let Some(change) = change(old, new) {
                list.push((change, row.id.clone(), old.mark(), new.mark(), new.why().to_owned()));
            }
        }
        list.sort_by_key(|(change, ..)| *change);
        Changes { list, notes, worse }
    }

    /// Returns whether anything is worse than before.
    pub fn is_regression(&self) -> bool {
        self.worse.is_some() || self.count(Change::Regressed) > 0
    }

    /// Returns the number of claims with this kind of change.
    pub fn count(&self, change: Change) -> usize {
        self.list.iter().filter(|(what, ..)| *what == change).count()
    }
}

/// Returns why the new run as a whole is worse: it did not finish, or the kernel reported an error.
fn worse(old: &Results, new: &Results) -> Option<String> {
    let went_wrong = |results: &Results| {
        let guest = results.guest.as_ref();
        let fault = guest.and_then(|guest| guest.faults.first()).map(|fault| fault.fault.as_str());
        let complaint = fault.or_else(|| results.complaints().first().copied());
        match (complaint, guest.and_then(|guest| guest.no_verdict.as_ref())) {
            (Some(complaint), _) => Some(format!("the kernel complained ({complaint})")),
            (None, Some(end)) => Some(format!("it has no verdict: {}", end.why)),
            (None, None) => results.exit.is_none().then(|| "it was cut short".to_owned()),
        }
    };
    went_wrong(new).filter(|_| went_wrong(old).is_none())
}

/// Returns how the result for a claim changed, if it did.
fn change(old: &Cell, new: &Cell) -> Option<Change> {
    let (before, after) = (old.mark(), new.mark());
    let is_rare = |cell: &Cell| matches!(cell, Cell::Ended(record) if record.rare);
    let is_kept = |mark| mark == Mark::Verdict(Verdict::Pass);
    let is_missing =
        |mark| matches!(mark, Mark::NotRun | Mark::Verdict(Verdict::Unsupported | Verdict::Blocked));
    let is_bad = |mark| {
        let verdicts = [Verdict::Fail, Verdict::Broken].map(Mark::Verdict);
        verdicts.contains(&mark) || matches!(mark, Mark::Unexpected | Mark::Interrupted)
    };
    if before == after {
        return None;
    }
    // Whether a rare defect occurs is chance.
    let luck = [Verdict::Pass, Verdict::KnownDefect].map(Mark::Verdict);
    if (is_rare(old) || is_rare(new)) && luck.contains(&before) && luck.contains(&after) {
        return None;
    }
    Some(match (before, after) {
        // What the environment forbids says nothing about the kernel.
        (_, Mark::NotRun | Mark::Verdict(Verdict::Blocked)) => Change::Vanished,
        // What was broken or cut short says nothing about the claim, so a failure is new.
        (_, Mark::Verdict(Verdict::Fail)) => Change::Regressed,
        (before, after) if is_kept(before) || (is_bad(after) && !is_bad(before)) => Change::Regressed,
        (before, after) if is_kept(after) && is_missing(before) => Change::Appeared,
        (_, after) if is_kept(after) => Change::Fixed,
        _ => Change::Changed,
    })
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "{}", visible(note))?;
        }
        let mut last = None;
        for (change, claim, before, after, why) in &self.list {
            if last.replace(change) != Some(change) {
                writeln!(f, "\n{change} ({}):", self.count(*change))?;
            }
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            let line = format!("{claim}: {} -> {}{why}", before.name(), after.name());
            writeln!(f, "  {}", visible(&line))?;
        }
        if let Some(worse) = &self.worse {
            writeln!(f, "\nregressed: the new run: {}", visible(worse))?;
        }
        if self.list.is_empty() && self.worse.is_none() {
            writeln!(f, "\nnothing changed")?;
        }
        Ok(())
    }
}
