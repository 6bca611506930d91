//! What one run changed against another.

use std::fmt;

use super::terminal::visible;
use super::{Cell, File, Mark, Table};
use crate::report::Verdict;
use crate::results::Results;

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It was kept and is not any more, or it fails where it did not.
    Regressed,
    /// It was broken, and is kept.
    Fixed,
    /// It is kept where it could not be asked for: the kernel or the suite has something new.
    Appeared,
    /// Nobody asked for it this time.
    Vanished,
    /// Something else.
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

/// All that changed.
pub struct Changes {
    /// What became of which claim, from what, to what, and why.
    pub list: Vec<(Change, String, Mark, Mark, String)>,
    /// What is to be said before: the kernels, and suites that differ.
    notes: Vec<String>,
    /// Why the new run as a whole is worse than the old one, if it is.
    worse: Option<String>,
}

impl Changes {
    /// Compares by claim id.
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

    /// Whether anything is worse than it was.
    pub fn is_regression(&self) -> bool {
        self.worse.is_some() || self.count(Change::Regressed) > 0
    }

    /// How many claims changed so.
    pub fn count(&self, change: Change) -> usize {
        self.list.iter().filter(|(what, ..)| *what == change).count()
    }
}

/// Why the new run as a whole is worse: it came to no end, or the kernel complained.
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

/// What became of a claim, if anything did.
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
    // A rare defect that was met, or not, is luck.
    let luck = [Verdict::Pass, Verdict::KnownDefect].map(Mark::Verdict);
    if (is_rare(old) || is_rare(new)) && luck.contains(&before) && luck.contains(&after) {
        return None;
    }
    Some(match (before, after) {
        (_, Mark::NotRun) => Change::Vanished,
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
