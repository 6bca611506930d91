//! The catalogue of broken kernels: `vm/mutants/*.toml`, one file per kernel source file.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// One broken kernel: a behaviour that a backport, a merge conflict or another implementation could plausibly have.
#[derive(Debug, Clone)]
pub struct Mutant {
    pub id: String,
    /// What somebody who uses such a kernel would see.
    pub sees: String,
    /// The claims it violates, by the names of the cases that check them.
    pub claims: Vec<String>,
    /// Why no program can tell it from the right kernel, where that is so.
    pub equivalent: Option<String>,
    pub edits: Vec<Edit>,
}

/// The smallest change of a source file that makes the mistake.
#[derive(Debug, Clone, Serialize)]
pub struct Edit {
    pub file: String,
    /// Where in the file the anchor is looked for; all of it when absent.
    pub function: Option<String>,
    /// A unique place in the function: the anchor is the first match behind it.
    pub after: Option<String>,
    /// What is replaced. White space in it stands for any white space. Unless `after` is given it must match once.
    pub anchor: String,
    /// What it becomes; `$0` in it stands for the text that matched.
    pub replace: String,
}

/// A file of the catalogue as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sheet {
    /// The kernel source file that its mutants edit, unless they say otherwise.
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
    /// Another file than the sheet's.
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
    /// Another file than the sheet's.
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

/// Reads every sheet in `dir`, in the order of their names.
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

/// A catalogue in which two mutants are called or made alike counts one of them twice.
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
