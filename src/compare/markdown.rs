//! The table in Markdown.

use std::fmt::Write as _;

use super::{FEATURES, Mark, Remark, Row, Table};
use crate::formats::markdown_cell;

/// The whole table; with `all`, also the rows in which all kernels agree.
pub fn text(table: &Table, all: bool) -> String {
    let mut text = String::from(
        "# Claims and kernels\n\n\
         Made by `vm/compare.sh --report FILE` (or, from results that are there, `clone3-conformance compare`).\n\n",
    );
    text.push_str(&kernels(table));
    let _ = match table.suites_differ() {
        Some(note) => writeln!(text, "\nThe files are {note}."),
        None => writeln!(text, "\nSuite: {}.", table.suites().concat()),
    };
    text.push_str("\n## Found by the probe\n\n");
    text.push_str(&features(table));
    text.push_str("\n## Claims kept, by theme\n\n");
    text.push_str(&summary(table));
    let legend = table.marks().into_iter().filter(|mark| *mark != Mark::NotRun);
    let legend: Vec<String> = legend.map(|mark| format!("{} {}", symbol(mark), mark.name())).collect();
    let _ = writeln!(text, "\n## Claims\n\n{}", legend.join(" · "));
    for theme in &table.themes {
        let _ = writeln!(text, "\n### {}\n", theme.name.replace('_', " "));
        let rows: Vec<&Row> = theme.rows.iter().filter(|row| all || !row.is_agreed()).collect();
        if !rows.is_empty() {
            text.push_str(&head("claim", table));
        }
        for row in &rows {
            let cells = row.cells.iter().map(|cell| symbol(cell.mark()));
            line(&mut text, &format!("`{}`", row.id), cells);
        }
        let agreed = theme.rows.len() - rows.len();
        if agreed > 0 {
            let _ = writeln!(text, "\nOn {agreed} more, all kernels agree.");
        }
    }
    text.push_str(&remarks(table));
    text
}

/// The kernels, each with what it came to.
pub fn kernels(table: &Table) -> String {
    let mut text = String::from("| kernel | release | package | result |\n|---|---|---|---|\n");
    for column in &table.columns {
        let release = &column.results.kernel.release;
        let cells = [&column.label, release, &column.origin(), &column.totals()];
        let _ = writeln!(text, "| {} |", cells.map(|text| markdown_cell(text)).join(" | "));
    }
    text
}

/// What the probes found.
pub fn features(table: &Table) -> String {
    let mut text = head("feature", table);
    for (name, feature) in FEATURES {
        let cells = table.columns.iter().map(|column| match column.has(feature) {
            Some(true) => "✓".to_owned(),
            Some(false) => "-".to_owned(),
            None => String::new(),
        });
        line(&mut text, &format!("`{name}`"), cells);
    }
    text
}

/// How many claims of each theme every kernel keeps; `-` where it supports none of them.
pub fn summary(table: &Table) -> String {
    let mut text = head("theme (claims)", table);
    for theme in &table.themes {
        let unsupported = Mark::Verdict(crate::report::Verdict::Unsupported);
        let cells = (0..table.columns.len()).map(|column| {
            let missing = theme.count(column, unsupported) + theme.count(column, Mark::NotRun);
            match missing == theme.rows.len() {
                true => "-".to_owned(),
                false => theme.kept(column).to_string(),
            }
        });
        line(&mut text, &format!("{} ({})", theme.name.replace('_', " "), theme.rows.len()), cells);
    }
    text
}

/// Whatever is no plain pass and not just missing, in words.
fn remarks(table: &Table) -> String {
    let mut text = String::new();
    for Remark { mark, id, kernels, why } in table.remarks() {
        let kernels = markdown_cell(&kernels.join(", "));
        let _ = writeln!(text, "- `{id}` on {kernels}: {}: {}", mark.name(), markdown_cell(why));
    }
    if text.is_empty() { text } else { format!("\n## Remarks\n\n{text}") }
}

fn head(first: &str, table: &Table) -> String {
    let mut text = String::new();
    line(&mut text, first, table.columns.iter().map(|column| markdown_cell(&column.label)));
    let _ = writeln!(text, "|---|{}", ":-:|".repeat(table.columns.len()));
    text
}

fn line(text: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let _ = writeln!(text, "| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
}

fn symbol(mark: Mark) -> String {
    match mark {
        Mark::NotRun => String::new(),
        mark if mark.is_remarkable() => format!("**{}**", markdown_cell(&mark.symbol().to_string())),
        mark => mark.symbol().to_string(),
    }
}
