//! Application of mutants to the source files of a kernel.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;

use crate::catalogue::{Edit, Mutant};

/// A kernel source tree, which is only read.
pub struct Source {
    pub tree: PathBuf,
}

impl Source {
    /// Returns the files that the mutant edits, with the edits applied.
    pub fn edited(&self, mutant: &Mutant) -> Result<BTreeMap<String, String>> {
        let mut files = BTreeMap::new();
        for edit in &mutant.edits {
            let text = match files.remove(&edit.file) {
                Some(text) => text,
                None => self.read(&edit.file)?,
            };
            files.insert(edit.file.clone(), apply(&text, edit).with_context(|| edit.file.clone())?);
        }
        Ok(files)
    }

    /// Returns why the mutant's edits do not match this tree, if they do not.
    pub fn misfit(&self, mutant: &Mutant) -> Option<String> {
        self.edited(mutant).err().map(|error| format!("{error:#}"))
    }

    /// Reads a file.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.tree.join(file);
        fs::read_to_string(&path).with_context(|| format!("{}", path.display()))
    }
}

/// Applies an edit to the text of a file.
fn apply(text: &str, edit: &Edit) -> Result<String> {
    let mut region = match &edit.function {
        Some(name) => function(text, name)?,
        None => 0..text.len(),
    };
    if let Some(after) = &edit.after {
        region.start = find_once(text, region.clone(), after)?.end;
    }
    let found = match edit.after {
        Some(_) => find_all(text, region, &edit.anchor)?.into_iter().next().context("no match")?,
        None => find_once(text, region, &edit.anchor)?,
    };
    let replacement = edit.replace.replace("$0", &text[found.clone()]);
    Ok(format!("{}{replacement}{}", &text[..found.start], &text[found.end..]))
}

/// Returns the position of a function, from the first line of its definition to its closing brace; `sys_…` is a system call.
///
/// Kernel style makes that easy: only definitions start in the first column, and so does the closing brace.
pub fn function(text: &str, name: &str) -> Result<Range<usize>> {
    let head = match name.strip_prefix("sys_") {
        Some(call) => format!(r"SYSCALL_DEFINE\d\({},", regex::escape(call)),
        None => format!(r"(?:[a-z_][^\n;]*\b)?{}\(", regex::escape(name)),
    };
    let head = Regex::new(&format!(r"(?m)^{head}[^;{{]*?\n\{{"))?;
    let mut heads = head.find_iter(text);
    let start = heads.next().with_context(|| format!("no function {name}"))?.start();
    ensure!(heads.next().is_none(), "two functions {name}");
    let end = text[start..].find("\n}").with_context(|| format!("{name} does not end"))?;
    Ok(start..start + end + 2)
}

/// Returns the only match of the anchor in the region.
pub fn find_once(text: &str, region: Range<usize>, anchor: &str) -> Result<Range<usize>> {
    let mut found = find_all(text, region, anchor)?;
    match found.len() {
        1 => Ok(found.remove(0)),
        matches => bail!("{matches} matches of `{}`", anchor.trim()),
    }
}

/// Returns every match of the anchor in the region, regardless of white space.
fn find_all(text: &str, region: Range<usize>, anchor: &str) -> Result<Vec<Range<usize>>> {
    let words: Vec<String> = anchor.split_whitespace().map(regex::escape).collect();
    let pattern = Regex::new(&words.join(r"\s+"))?;
    let matches = pattern.find_iter(&text[region.clone()]);
    Ok(matches.map(|found| region.start + found.start()..region.start + found.end()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "static int one(int a,\n\tint b)\n{\n\tif (a)\n\t\treturn 1;\n\tif (b)\n\t\treturn 1;\n}\n\n\
                        int two(void)\n{\n\treturn one(1, 2);\n}\n\nSYSCALL_DEFINE1(three, int, a)\n{\n\treturn 1;\n}\n";

    fn edit(function: Option<&str>, after: Option<&str>, anchor: &str, replace: &str) -> Edit {
        Edit {
            file: String::new(),
            function: function.map(str::to_owned),
            after: after.map(str::to_owned),
            anchor: anchor.to_owned(),
            replace: replace.to_owned(),
        }
    }

    #[test]
    fn an_anchor_is_looked_for_in_its_function() {
        let edited = apply(TEXT, &edit(Some("sys_three"), None, "return 1;", "return 3;")).unwrap();
        assert!(edited.ends_with("return 3;\n}\n") && edited.matches("return 1;").count() == 2);
    }

    #[test]
    fn an_anchor_must_be_unique() {
        assert!(apply(TEXT, &edit(Some("one"), None, "return 1;", "")).is_err());
        assert!(apply(TEXT, &edit(Some("two"), None, "return 2;", "")).is_err());
    }

    #[test]
    fn after_chooses_among_matches() {
        let edited = apply(TEXT, &edit(Some("one"), Some("if (b)"), "1", "2")).unwrap();
        assert!(edited.contains("if (a)\n\t\treturn 1;\n\tif (b)\n\t\treturn 2;"));
    }

    #[test]
    fn white_space_matches_white_space_and_the_match_can_be_kept() {
        let edited = apply(TEXT, &edit(None, None, "if (a) return 1;", "[$0]")).unwrap();
        assert!(edited.contains("[if (a)\n\t\treturn 1;]"));
    }
}
