//! The catalogue of broken kernels: `vm/mutants/*.toml`, one file per kernel source file.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// One broken kernel, with a behavior that a backport, a merge conflict or another implementation could plausibly have.
#[derive(Debug, Clone)]
pub struct Mutant {
    pub id: String,
    /// What a user of such a kernel would see.
    pub sees: String,
    /// The claims that it violates, by the names of the cases that check them.
    pub claims: Vec<String>,
    /// Why no program can distinguish it from the correct kernel, if that is so.
    pub equivalent: Option<String>,
    pub edits: Vec<Edit>,
}

/// The smallest change of a source file that introduces the mistake.
#[derive(Debug, Clone, Serialize)]
pub struct Edit {
    pub file: String,
    /// The function to search for the anchor; the whole file if absent.
    pub function: Option<String>,
    /// A unique text in the function; the anchor is the first match after it.
    pub after: Option<String>,
    /// The text to replace. White space in it matches any white space. Unless `after` is given, it must match exactly once.
    pub anchor: String,
    /// The replacement; `$0` in it stands for the matched text.
    pub replace: String,
}

/// A file of the catalogue as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sheet {
    /// The kernel source file that its mutants edit by default.
    file: String,
    #[serde(rename = "mutant")]
    mutants: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    sees: String,
    claims: Vec<String>,
    equivalent: Option<String>,
    /// A file other than the sheet's.
    file: Option<String>,
    function: Option<String>,
    after: Option<String>,
    anchor: String,
    replace: String,
    /// Further edits, for mistakes that need more than one.
    #[serde(default)]
    also: Vec<Also>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Also {
    /// A file other than the sheet's.
    file: Option<String>,
    function: Option<String>,
    after: Option<String>,
    anchor: String,
    replace: String,
}

impl Entry {
    fn into_mutant(self, file: &str) -> Mutant {
        let first = Edit {
            file: self.file.unwrap_or_else(|| file.to_owned()),
            function: self.function,
            after: self.after,
            anchor: self.anchor,
            replace: self.replace,
        };
        let more = self.also.into_iter().map(|also| Edit {
            file: also.file.unwrap_or_else(|| file.to_owned()),
            function: also.function,
            after: also.after,
            anchor: also.anchor,
            replace: also.replace,
        });
        Mutant {
            id: self.id,
            sees: self.sees,
            claims: self.claims,
            equivalent: self.equivalent,
            edits: std::iter::once(first).chain(more).collect(),
        }
    }
}

/// Reads every sheet in `dir`, ordered by name.
pub fn load(dir: &Path) -> Result<Vec<Mutant>> {
    let mut sheets = Vec::new();
    for entry in dir.read_dir().with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            sheets.push(path);
        }
    }
    sheets.sort();
    let mut mutants = Vec::new();
    for path in sheets {
        let text = std::fs::read_to_string(&path)?;
        let sheet: Sheet = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        mutants.extend(sheet.mutants.into_iter().map(|entry| entry.into_mutant(&sheet.file)));
    }
    check(&mutants)?;
    Ok(mutants)
}

/// Checks that no two mutants have the same name or the same edits: one of them would be counted twice.
fn check(mutants: &[Mutant]) -> Result<()> {
    let mut ids = BTreeSet::new();
    let mut edits = BTreeSet::new();
    for mutant in mutants {
        ensure!(ids.insert(&mutant.id), "two mutants are called {}", mutant.id);
        ensure!(
            edits.insert(serde_json::to_string(&mutant.edits)?),
            "{} makes the same edit as another mutant",
            mutant.id
        );
        ensure!(!mutant.claims.is_empty(), "{} violates no claim", mutant.id);
    }
    Ok(())
}
