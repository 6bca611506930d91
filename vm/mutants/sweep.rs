//! Systematic mistakes: deletes every statement of some functions, forces every condition, and exchanges every errno and
//! comparison, one at a time. A person must read what the suite lets pass: no program can distinguish many of these from the
//! correct kernel.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use regex::Regex;

use crate::catalogue::{Edit, Mutant};
use crate::source::{Source, find_once, function};

/// A function, or a part of one, to sweep.
#[derive(Debug, Clone)]
pub struct Place {
    pub file: String,
    pub function: String,
    /// The position in the text of the file.
    pub region: Range<usize>,
}

impl Place {
    /// Returns the whole function that is named `FILE:FUNCTION`.
    pub fn named(name: &str, source: &Source) -> Result<Place> {
        let (file, function_name) = name
            .split_once(':')
            .with_context(|| format!("{name} is no FILE:FUNCTION, as kernel/exit.c:release_task"))?;
        let region = function(&source.read(file)?, function_name).with_context(|| file.to_owned())?;
        Ok(Place { file: file.to_owned(), function: function_name.to_owned(), region })
    }
}

/// Returns all mistakes that can be made there, in source order.
pub fn mutants(places: &[Place], source: &Source) -> Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    let mut ids = BTreeSet::new();
    for place in places {
        let text = source.read(&place.file)?;
        for mutation in mutations(&text, &place.region)? {
            let Some(edit) = edit(&text, place, &mutation)? else { continue };
            let line = text[..mutation.at.start].matches('\n').count() + 1;
            let name = format!("{}:{line}:{}", place.function, mutation.kind);
            let numbered = (2..).map(|number| format!("{name}.{number}"));
            let id = std::iter::once(name.clone()).chain(numbered).find(|id| ids.insert(id.clone()));
            mutants.push(Mutant {
                id: id.context("no name is left")?,
                sees: format!(
                    "`{}` becomes `{}`",
                    in_a_line(&text[mutation.at.clone()]),
                    in_a_line(&mutation.becomes)
                ),
                claims: Vec::new(),
                equivalent: None,
                edits: vec![edit],
            });
        }
    }
    ensure!(!mutants.is_empty(), "there is nothing to change");
    Ok(mutants)
}

/// One small mistake.
#[derive(Debug, PartialEq, Eq)]
struct Mutation {
    kind: &'static str,
    at: Range<usize>,
    becomes: String,
}

/// Returns all mistakes in a region, without duplicates that produce the same text.
fn mutations(text: &str, region: &Range<usize>) -> Result<Vec<Mutation>> {
    let code = without_comments(text);
    // After the function's head, if the region has one.
    let body = match code[region.clone()].find("\n{") {
        Some(brace) => region.start + brace + 2..region.end - 1,
        None => region.clone(),
    };
    let mut mutations = conditions(&code, &body)?;
    mutations.extend(deletions(&code, &body)?);
    mutations.extend(exchanges(&code, &body)?);
    mutations.sort_by_key(|mutation| (mutation.at.start, mutation.at.end));
    mutations.dedup_by(|a, b| a.at == b.at && a.becomes == b.becomes);
    Ok(mutations)
}

/// Returns each condition made never and always true, and each of its operands made irrelevant.
fn conditions(code: &str, body: &Range<usize>) -> Result<Vec<Mutation>> {
    let mut mutations = Vec::new();
    for head in Regex::new(r"\b(?:if|while) \(")?.find_iter(&code[body.clone()]) {
        let open = body.start + head.end() - 1;
        let Some(at) = parenthesized(code, open) else { continue };
        let inner = &code[at.start + 1..at.end - 1];
        // A loop that never ends shows nothing.
        if head.as_str().starts_with("if") {
            mutations.push(Mutation { kind: "never", at: at.clone(), becomes: format!("(0 && ({inner}))") });
            mutations.push(Mutation { kind: "always", at: at.clone(), becomes: format!("(1 || ({inner}))") });
        }
        for (operand, neutral) in operands(code, &(at.start + 1..at.end - 1)) {
            let becomes = format!(" ({neutral} ({})) ", code[operand.clone()].trim());
            mutations.push(Mutation { kind: "operand", at: operand, becomes });
        }
    }
    Ok(mutations)
}

/// Returns the operands of a condition and what neutralizes one of them; none if both operators occur.
fn operands(code: &str, condition: &Range<usize>) -> Vec<(Range<usize>, &'static str)> {
    let mut depth = 0;
    let mut operators = Vec::new();
    for at in condition.clone() {
        match &code.as_bytes()[at..] {
            [b'(', ..] => depth += 1,
            [b')', ..] => depth -= 1,
            [b'&', b'&', ..] | [b'|', b'|', ..] if depth == 0 => operators.push(at),
            _ => {}
        }
    }
    let Some(&first) = operators.first() else { return Vec::new() };
    let operator = &code[first..first + 2];
    if operators.iter().any(|&at| &code[at..at + 2] != operator) {
        return Vec::new();
    }
    let neutral = if operator == "&&" { "1 ||" } else { "0 &&" };
    let starts = std::iter::once(condition.start).chain(operators.iter().map(|at| at + 2));
    let ends = operators.iter().copied().chain([condition.end]);
    starts.zip(ends).map(|(start, end)| (start..end, neutral)).collect()
}

/// Returns the deletion of each statement that contains no other.
fn deletions(code: &str, body: &Range<usize>) -> Result<Vec<Mutation>> {
    // What precedes a statement: the head of a block, a label, a preprocessor line.
    let control = Regex::new(r"^(?:if|while|for|switch|\w*guard|\w*for_each\w*)\s?\(")?;
    let passed = Regex::new(r"^(?:[\s{}]+|(?:else|do)\b|case [^:]*:|\w+:|#[^\n]*)")?;
    let mut mutations = Vec::new();
    let mut at = body.start;
    while at < body.end {
        let rest = &code[at..body.end];
        if let Some(found) = passed.find(rest) {
            at += found.end();
        } else if let Some(found) = control.find(rest) {
            at = parenthesized(code, at + found.end() - 1).map_or(body.end, |head| head.end);
        } else {
            let Some(length) = statement(rest) else { break };
            // A lone semicolon, such as the empty body of a loop, is not a statement to delete.
            if length > 1 {
                mutations.push(Mutation { kind: "delete", at: at..at + length, becomes: ";".to_owned() });
            }
            at += length;
        }
    }
    Ok(mutations)
}

/// Returns the length of the statement with which the text starts.
fn statement(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth -= 1,
            b';' if depth == 0 => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Returns the exchanges of words and operators that are easily confused.
fn exchanges(code: &str, body: &Range<usize>) -> Result<Vec<Mutation>> {
    type Other = fn(&str) -> &'static str;
    let all: [(&'static str, &str, Other); 5] = [
        ("errno", r"-E[A-Z0-9]+\b", |errno| if errno == "-EINVAL" { "-EPERM" } else { "-EINVAL" }),
        ("compare", r" (?:==|!=|<=|>=|<|>) ", |sign| match sign.trim() {
            "==" => " != ",
            "!=" => " == ",
            "<" => " <= ",
            "<=" => " < ",
            ">" => " >= ",
            _ => " > ",
        }),
        ("bit", r" \| [A-Z_0-9]{4,}", |_| ""),
        ("bool", r"\b(?:true|false)\b", |word| if word == "true" { "false" } else { "true" }),
        ("not", r"![\w(]", |_| ""),
    ];
    let mut mutations = Vec::new();
    for (kind, pattern, other) in all {
        for found in Regex::new(pattern)?.find_iter(&code[body.clone()]) {
            let start = body.start + found.start();
            // Keep the operand of the negation.
            let end = if kind == "not" { start + 1 } else { body.start + found.end() };
            mutations.push(Mutation { kind, at: start..end, becomes: other(found.as_str()).to_owned() });
        }
    }
    Ok(mutations)
}

/// Returns the range from this parenthesis to the matching one.
fn parenthesized(code: &str, open: usize) -> Option<Range<usize>> {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(open..at + 1),
            b')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Replaces comments by blanks, so that positions stay the same.
fn without_comments(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while let Some(found) = text[at..].find("/*") {
        let start = at + found;
        let end = text[start..].find("*/").map_or(text.len(), |length| start + length + 2);
        bytes[start..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Converts the mistake to an edit, whose anchor starts as many lines earlier as it takes to be unique. `None` if nothing makes
/// it unique.
fn edit(text: &str, place: &Place, mutation: &Mutation) -> Result<Option<Edit>> {
    let whole = function(text, &place.function)?;
    let mut start = mutation.at.start;
    while find_once(text, whole.clone(), &text[start..mutation.at.end]).is_err() {
        match text[whole.start..start].trim_end().rfind('\n') {
            Some(line) => start = whole.start + line + 1,
            None => return Ok(None),
        }
    }
    Ok(Some(Edit {
        file: place.file.clone(),
        function: Some(place.function.clone()),
        after: None,
        anchor: text[start..mutation.at.end].to_owned(),
        replace: format!("{}{}", &text[start..mutation.at.start], mutation.becomes),
    }))
}

fn in_a_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "int f(int a)\n{\n\tint b = g();\n\n\t/* if (x) y(); */\n\tif (a && !b)\n\t\treturn -EPERM;\n\telse\n\t\th(a,\n\t\t  b);\nout:\n\tfor (;;)\n\t\tbreak;\n\tb |= X | LONG;\n\treturn 0;\n}\n";

    fn of_kind(kind: &str) -> Vec<(&'static str, String)> {
        let all = mutations(TEXT, &(0..TEXT.len())).unwrap();
        all.into_iter()
            .filter(|mutation| mutation.kind == kind)
            .map(|mutation| (&TEXT[mutation.at], mutation.becomes))
            .collect()
    }

    #[test]
    fn a_condition_is_forced_both_ways_and_loses_each_operand() {
        assert_eq!(of_kind("never"), [("(a && !b)", "(0 && (a && !b))".to_owned())]);
        assert_eq!(of_kind("always"), [("(a && !b)", "(1 || (a && !b))".to_owned())]);
        let operands = [("a ", " (1 || (a)) ".to_owned()), (" !b", " (1 || (!b)) ".to_owned())];
        assert_eq!(of_kind("operand"), operands);
        assert_eq!(of_kind("not"), [("!", String::new())]);
    }

    #[test]
    fn a_statement_is_left_out_wherever_it_stands() {
        let left_out: Vec<&str> = of_kind("delete").into_iter().map(|(what, _)| what).collect();
        assert_eq!(
            left_out,
            ["int b = g();", "return -EPERM;", "h(a,\n\t\t  b);", "break;", "b |= X | LONG;", "return 0;"]
        );
    }

    #[test]
    fn words_are_exchanged() {
        assert_eq!(of_kind("errno"), [("-EPERM", "-EINVAL".to_owned())]);
        assert_eq!(of_kind("bit"), [(" | LONG", String::new())]);
    }

    #[test]
    fn an_anchor_grows_until_it_is_unique() {
        let text = "int f(void)\n{\n\tone();\n\ttwo();\n\tthree();\n\ttwo();\n}\n";
        let place = Place { file: String::new(), function: "f".to_owned(), region: 0..text.len() };
        let second = text.rfind("two").unwrap();
        let mutation = Mutation { kind: "delete", at: second..second + 6, becomes: ";".to_owned() };
        let edit = edit(text, &place, &mutation).unwrap().unwrap();
        assert_eq!((&edit.anchor[..], &edit.replace[..]), ("\tthree();\n\ttwo();", "\tthree();\n\t;"));
    }
}
