//! The table for a terminal.

use std::fmt::Write as _;

use super::{Cell, Column, Mark, Remark, Row, Table, Theme};
use crate::need::Need;
use crate::report::Verdict;

/// Options for the display.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The width of the terminal, in columns.
    pub width: usize,
    /// Whether to use colors.
    pub color: bool,
    /// Whether to include the rows in which all kernels agree.
    pub all: bool,
}

/// The minimum width of the column of names.
const LEAST_NAME: usize = 20;

/// Returns the whole table.
pub fn text(table: &Table, look: Look) -> String {
    let drawing = Drawing::new(table, look);
    let mut text = String::new();
    drawing.kernels(&mut text);
    text.extend(table.suites_differ().map(|note| format!("{}\n", visible(&note))));
    drawing.features(&mut text);
    for theme in &table.themes {
        drawing.theme(&mut text, theme);
    }
    drawing.remarks(&mut text);
    drawing.legend(&mut text);
    text
}

struct Drawing<'a> {
    table: &'a Table,
    look: Look,
    /// The column headings: versions if they fit, otherwise numbers.
    heads: Vec<String>,
    /// The widths of the columns, including the space before them.
    widths: Vec<usize>,
    /// The width of the column of names.
    name: usize,
}

impl<'a> Drawing<'a> {
    fn new(table: &'a Table, look: Look) -> Self {
        let labels: Vec<String> = table.columns.iter().map(|column| column.label.clone()).collect();
        let numbers: Vec<String> = (1..=labels.len()).map(|number| number.to_string()).collect();
        let widths = |heads: &[String], gap: usize| -> Vec<usize> {
            heads.iter().map(|head| head.chars().count() + gap).collect()
        };
        let rows = table.themes.iter().flat_map(|theme| &theme.rows);
        let longest = rows.map(|row| row.id.len() + 2).chain([28]).max().unwrap_or_default();
        let fits = |widths: &[usize]| longest + widths.iter().sum::<usize>() <= look.width;
        let (heads, widths) = match fits(&widths(&labels, 2)) {
            true => (labels.clone(), widths(&labels, 2)),
            false if fits(&widths(&numbers, 2)) => (numbers.clone(), widths(&numbers, 2)),
            false => (numbers.clone(), widths(&numbers, 1)),
        };
        let left = look.width.saturating_sub(widths.iter().sum());
        Self { table, look, heads, widths, name: longest.min(left).max(LEAST_NAME) }
    }

    /// Writes the kernels, each with its totals.
    fn kernels(&self, text: &mut String) {
        let width = |of: fn(&Column) -> String| {
            self.table.columns.iter().map(|column| of(column).chars().count()).max().unwrap_or_default()
        };
        let (label, origin) = (width(|column| column.label.clone()), width(Column::origin));
        for (number, column) in (1..).zip(&self.table.columns) {
            let line = format!(
                "{number:>2}  {:label$}  {:origin$}  {}",
                column.label,
                column.origin(),
                column.totals()
            );
            let _ = writeln!(text, "{}", cut(&line, self.look.width));
        }
    }

    /// Writes what the probes found.
    fn features(&self, text: &mut String) {
        self.head(text, "found by the probe");
        for feature in Need::FEATURES {
            let marks = self.table.columns.iter().map(|column| match column.has(feature) {
                Some(true) => Mark::Verdict(Verdict::Pass),
                Some(false) => Mark::Verdict(Verdict::Unsupported),
                None => Mark::NotRun,
            });
            self.line(text, feature.name(), marks);
        }
    }

    fn theme(&self, text: &mut String, theme: &Theme) {
        self.head(text, &theme.name.replace('_', " "));
        let shown = |row: &&Row| self.look.all || !row.is_agreed();
        for (names, marks) in self.folded(theme.rows.iter().filter(shown)) {
            let name = match names.as_slice() {
                [name] => (*name).to_owned(),
                names => count_of(names.len()),
            };
            self.line(text, &name, marks.into_iter());
        }
        let agreed: Vec<&Row> = theme.rows.iter().filter(|row| !shown(row)).collect();
        for mark in Mark::ALL {
            let count = agreed.iter().filter(|row| row.cells.first().map(Cell::mark) == Some(mark)).count();
            if count > 0 {
                let _ = writeln!(
                    text,
                    "  {} on every kernel: {}",
                    count_of(count),
                    self.paint(mark, &mark.name())
                );
            }
        }
    }

    /// Merges rows that differ only in their names, unless they need an explanation.
    fn folded<'r>(&self, rows: impl Iterator<Item = &'r Row>) -> Vec<(Vec<&'r str>, Vec<Mark>)> {
        let mut folded: Vec<(Vec<&str>, Vec<Mark>)> = Vec::new();
        for row in rows {
            let marks: Vec<Mark> = row.cells.iter().map(Cell::mark).collect();
            let is_plain = !self.look.all && !marks.iter().any(|mark| mark.is_remarkable());
            match folded.iter_mut().find(|(_, known)| is_plain && *known == marks) {
                Some((names, _)) => names.push(&row.id),
                None => folded.push((vec![&row.id], marks)),
            }
        }
        folded
    }

    /// Writes a theme's name, and the kernels above their columns.
    fn head(&self, text: &mut String, name: &str) {
        let heads: String =
            self.heads.iter().zip(&self.widths).map(|(head, width)| format!("{head:>width$}")).collect();
        let heads = visible(&heads);
        let name = format!("{:1$}", cut(name, self.name), self.name);
        let _ = match self.look.color {
            true => writeln!(text, "\n\x1b[1m{name}\x1b[0m\x1b[2m{heads}\x1b[0m"),
            false => writeln!(text, "\n{name}{heads}"),
        };
    }

    fn line(&self, text: &mut String, name: &str, marks: impl Iterator<Item = Mark>) {
        let name = cut(&format!("  {name}"), self.name);
        let mut line = format!("{name:0$}", self.name);
        for (mark, width) in marks.zip(&self.widths) {
            line.push_str(&" ".repeat(width - 1));
            line.push_str(&self.paint(mark, &mark.symbol().to_string()));
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }

    fn remarks(&self, text: &mut String) {
        for (number, remark) in self.table.remarks().into_iter().enumerate() {
            let Remark { mark, id, kernels, why } = remark;
            let begins = if number == 0 { "\n" } else { "" };
            let what = self.paint(mark, &mark.name());
            let words = visible(&format!("{id} on {}: {why}", kernels.join(", ")));
            let _ = writeln!(text, "{begins}{what}: {words}");
        }
    }

    fn legend(&self, text: &mut String) {
        let words = self
            .table
            .marks()
            .into_iter()
            .filter(|mark| *mark != Mark::NotRun)
            .map(|mark| format!("{} {}", self.paint(mark, &mark.symbol().to_string()), mark.name()));
        let _ = writeln!(text, "\n{}", words.collect::<Vec<_>>().join("   "));
    }

    fn paint(&self, mark: Mark, text: &str) -> String {
        let color = match mark {
            Mark::Verdict(Verdict::Pass) => "32",
            Mark::Verdict(Verdict::Fail | Verdict::Broken) | Mark::Unexpected | Mark::Interrupted => "1;31",
            Mark::Verdict(Verdict::Deviation | Verdict::KnownDefect) | Mark::Expected => "33",
            Mark::Verdict(Verdict::Unsupported | Verdict::Blocked) | Mark::NotRun => "2",
        };
        match self.look.color {
            true => format!("\x1b[{color}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

fn count_of(count: usize) -> String {
    if count == 1 { "1 claim".to_owned() } else { format!("{count} claims") }
}

/// Replaces control characters, so that a terminal interprets nothing in the text as a command.
pub(super) fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Returns the visible text, truncated to `width`.
fn cut(text: &str, width: usize) -> String {
    let text = visible(text);
    match text.chars().count() > width {
        true => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        false => text,
    }
}
