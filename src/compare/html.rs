//! The table as one self-contained HTML page, which needs no network and no other file.
//!
//! The table itself is plain HTML. The details that a click shows are embedded as JSON, and a script inserts
//! them as text, never as markup, so that nothing in the files can inject code.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Cell, Column, Mark, Row, Table, Theme};
use crate::need::Need;
use crate::report::Verdict;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Returns the whole page.
pub fn page(table: &Table) -> String {
    let labels: Vec<&str> = table.columns.iter().map(|column| column.label.as_str()).collect();
    let kernels_in_words = match labels.as_slice() {
        [first, .., last] if labels.len() > 3 => format!("{first} to {last}"),
        few => few.join(", "),
    };
    let title = escape(&format!("clone3 flags on Linux {kernels_in_words}"));
    let columns = table.columns.len();
    let mut body = format!("<h1>{title}</h1>\n");
    body.extend(table.suites_differ().map(|note| format!("<p class=note>{}</p>\n", escape(&note))));
    kernels(&mut body, table);
    filters(&mut body, table);
    let _ = writeln!(body, "<div class=table role=table style=\"--columns:{columns}\">");
    head(&mut body, &labels);
    features(&mut body, table);
    for theme in &table.themes {
        section(&mut body, theme, table);
    }
    body.push_str("</div>\n<p id=none hidden>No claim fits these filters.</p>\n");
    body.push_str("<dialog id=details><form method=dialog><button autofocus>Close</button></form>");
    body.push_str("<div id=text></div></dialog>\n");
    format!(
        "<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}\
         <script type=\"application/json\" id=data>{}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        data(table)
    )
}

/// Writes the kernels, each with its totals.
fn kernels(body: &mut String, table: &Table) {
    let count = table.columns.len();
    let noun = if count == 1 { "kernel" } else { "kernels" };
    let _ = writeln!(body, "<details id=kernels open><summary>{count} {noun}</summary>\n<ul class=kernels>");
    for column in &table.columns {
        let release = &column.results.kernel.release;
        let cells = [release.clone(), column.origin(), column.results.machine.to_string()];
        let facts: Vec<String> =
            cells.iter().filter(|fact| !fact.is_empty()).map(|fact| escape(fact)).collect();
        let _ = writeln!(
            body,
            "<li><b>{}</b> <span>{}</span> <small>{}</small></li>",
            escape(&column.label),
            escape(&column.totals()),
            facts.join(" · ")
        );
    }
    body.push_str("</ul></details>\n");
}

fn filters(body: &mut String, table: &Table) {
    body.push_str(
        "<form class=filters id=filters>\n<label>Theme <select id=theme><option value=\"\">all</option>",
    );
    for theme in &table.themes {
        let _ = write!(body, "<option>{}</option>", escape(&theme.name));
    }
    body.push_str("</select></label>\n<label>Verdict <select id=verdict><option value=\"\">any</option>");
    for mark in table.marks() {
        let _ = write!(body, "<option value={}>{}</option>", class(mark), mark.name());
    }
    body.push_str(
        "</select></label>\n<label>Name <input id=name type=search placeholder=\"part of it\"></label>\n",
    );
    if table.columns.len() > 1 {
        body.push_str(
            "<label class=check><input id=differ type=checkbox> only where kernels differ</label>\n",
        );
    }
    body.push_str("<p class=legend>");
    for mark in table.marks().into_iter().filter(|mark| *mark != Mark::NotRun) {
        let _ = write!(body, "<span class=item>{} {}</span> ", cell(mark, ""), mark.name());
    }
    body.push_str("</p>\n</form>\n");
}

fn head(body: &mut String, labels: &[&str]) {
    body.push_str("<div class=\"row head\" role=row><span class=name role=columnheader></span>");
    for label in labels {
        let _ = write!(body, "<span class=label role=columnheader><span>{}</span></span>", escape(label));
    }
    body.push_str("</div>\n");
}

/// Writes what the probes found.
fn features(body: &mut String, table: &Table) {
    body.push_str("<section class=features><h2>Found by the probe</h2>\n");
    for feature in Need::FEATURES {
        let _ = write!(
            body,
            "<div class=row role=row><span class=name role=rowheader><code>{}</code></span>",
            feature.name()
        );
        for column in &table.columns {
            let mark = match column.has(feature) {
                Some(true) => Mark::Verdict(Verdict::Pass),
                Some(false) => Mark::Verdict(Verdict::Unsupported),
                None => Mark::NotRun,
            };
            body.push_str(&cell(mark, if column.has(feature) == Some(true) { "yes" } else { "no" }));
        }
        body.push_str("</div>\n");
    }
    body.push_str("</section>\n");
}

fn section(body: &mut String, theme: &Theme, table: &Table) {
    let name = escape(&theme.name);
    let words = escape(&theme.name.replace('_', " "));
    let _ = writeln!(
        body,
        "<section class=theme data-theme=\"{name}\"><h2>{words} <small>{}</small></h2>",
        theme.rows.len()
    );
    for row in &theme.rows {
        let differ = if row.is_agreed() { "" } else { " data-differ" };
        let id = escape(&row.id);
        let _ = write!(
            body,
            "<div class=row role=row data-id=\"{id}\"{differ}><span class=name role=rowheader>\
             <button type=button>{id}</button></span>"
        );
        for (result, column) in row.cells.iter().zip(&table.columns) {
            let mark = result.mark();
            body.push_str(&cell(mark, &format!("{}: {}", column.label, mark.name())));
        }
        body.push_str("</div>\n");
    }
    body.push_str("</section>\n");
}

fn cell(mark: Mark, title: &str) -> String {
    let symbol = escape(&mark.symbol().to_string());
    format!("<span class=\"cell {}\" role=cell title=\"{}\">{symbol}</span>", class(mark), escape(title))
}

fn class(mark: Mark) -> String {
    mark.name().replace(' ', "-")
}

/// Returns the details that a click shows, as JSON that cannot end the element around it.
fn data(table: &Table) -> String {
    let kernel = |column: &Column| json!({ "label": column.label, "kernel": column.results.kernel.to_string(), "rerun": column.results.rerun });
    let rows = table.themes.iter().flat_map(|theme| &theme.rows).map(|row| (row.id.clone(), details(row)));
    let document = json!({
        "kernels": table.columns.iter().map(kernel).collect::<Vec<_>>(),
        "claims": rows.collect::<serde_json::Map<String, Value>>(),
    });
    document.to_string().replace('<', "\\u003c")
}

fn details(row: &Row) -> Value {
    let cell = |cell: &Cell| match cell {
        Cell::Ended(record) => json!({
            "mark": cell.mark().name(),
            "reason": record.reason,
            "message": record.message,
            "expected": record.expected.as_ref().map(|expected| &expected.reason),
            "at": record.at,
            "trail": record.trail,
            "runs": record.runs,
            "failures": record.failures,
            "seconds": record.seconds,
        }),
        _ => json!({ "mark": cell.mark().name() }),
    };
    json!({
        "claim": row.claim,
        "source": row.source,
        "strength": row.strength.to_string(),
        "since": row.since,
        "declared": row.declared,
        "cells": row.cells.iter().map(cell).collect::<Vec<_>>(),
    })
}

fn escape(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}
