//! Kernels in which a bug of mainline is fixed. The case that hit the bug must pass there, and no other case may fail, which
//! shows that the case is about this bug and nothing else.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::catalogue::Mutant;
use crate::kernel::{Builder, Built, Kernel};
use crate::proof::cell;
use crate::suite::{Notice, Suite, SuiteResult, in_a_line};

/// The folder of their sheets, within that of the broken kernels.
pub const FOLDER: &str = "mended";

/// The result of a fixed kernel.
enum FixResult {
    /// The base hits the bugs, with these messages; the fixed kernel does not, and none of `cases` cases fails.
    Mended { on_base: Vec<Notice>, cases: usize },
    /// Why the kernel does not count as fixed.
    Not(String),
}

/// Judges each kernel and writes the report.
pub fn judge(builder: &Builder, suite: &Suite, mended: &[Mutant], document: &Path) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for kernel in mended {
        let fate = fate(builder, suite, kernel)?;
        println!("{}: {}", kernel.id, fate.line());
        rows.push((kernel, fate));
    }
    std::fs::write(document, report(builder.release(), &rows))?;
    let all = rows.iter().all(|(_, fate)| matches!(fate, FixResult::Mended { .. }));
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn fate(builder: &Builder, suite: &Suite, mended: &Mutant) -> Result<FixResult> {
    let kernel = match builder.mutant(mended)? {
        Built::Kernel(kernel) => kernel,
        Built::DoesNotApply(why) => return Ok(FixResult::Not(format!("does not apply: {why}"))),
        Built::DoesNotBuild(why) => return Ok(FixResult::Not(format!("does not build: {why}"))),
        Built::Same => return Ok(FixResult::Not("the compiler makes the same kernel of it".to_owned())),
    };
    // A case that passes despite the bug would also pass on the fixed kernel.
    let on_base = match met(suite, builder.base(), mended)? {
        Ok(bugs) if bugs.len() == mended.claims.len() => bugs,
        Ok(bugs) => {
            return Ok(FixResult::Not(format!(
                "the base hits {} of {} bugs",
                bugs.len(),
                mended.claims.len()
            )));
        }
        Err(why) => bail!("the base kernel is not green: {why}"),
    };
    match met(suite, &kernel, mended)? {
        Ok(bugs) if bugs.is_empty() => {}
        Ok(bugs) => {
            return Ok(FixResult::Not(format!("still there: {}", in_a_line(&SuiteResult::Noticed(bugs)))));
        }
        Err(why) => return Ok(FixResult::Not(why)),
    }
    Ok(match suite.ask_all(&kernel)? {
        SuiteResult::Nothing { cases, .. } => FixResult::Mended { on_base, cases },
        said => FixResult::Not(in_a_line(&said)),
    })
}

/// Returns which of the bugs the cases hit on a kernel, or why they give no answer.
fn met(suite: &Suite, kernel: &Kernel, mended: &Mutant) -> Result<Result<Vec<Notice>, String>> {
    Ok(match suite.ask_long(kernel, &mended.claims)? {
        SuiteResult::Nothing { defects, .. } => Ok(defects),
        said => Err(in_a_line(&said)),
    })
}

impl FixResult {
    fn line(&self) -> String {
        match self {
            FixResult::Mended { cases, .. } => format!("mended, and none of {cases} cases fails"),
            FixResult::Not(why) => format!("NOT mended: {why}"),
        }
    }

    /// Returns the columns "before" and "after" of the report.
    fn cells(&self) -> [String; 2] {
        let before = match self {
            FixResult::Mended { on_base, .. } => {
                on_base.iter().map(Notice::cell).collect::<Vec<_>>().join("; ")
            }
            FixResult::Not(_) => String::new(),
        };
        [before, cell(&self.line())]
    }
}

/// Formats the document.
fn report(release: &str, rows: &[(&Mutant, FixResult)]) -> String {
    let mended = rows.iter().filter(|(_, fate)| matches!(fate, FixResult::Mended { .. })).count();
    let mut text = format!(
        "# Known bugs, fixed experimentally\n\n\
         <!-- Written by vm/mutants.sh --mended; do not edit. -->\n\n\
         Most known-defect cases fail on every released kernel, so nobody has seen that they can pass. `vm/mutants/mended/` has\n\
         edits that fix bugs of [findings.md](findings.md) which this kernel has. `vm/mutants.sh --mended` builds each such\n\
         kernel: the case must hit the bug in the base kernel, must not hit it in the fixed one, however long it looks, and no\n\
         other case may fail there. The edits are the minimum that shows this; they are not patches.\n\n\
         On Linux {release}: **{mended} of {} fixed**.\n\n\
         | mended kernel | what a user sees there | before | after |\n|---|---|---|---|\n",
        rows.len()
    );
    for (kernel, fate) in rows {
        let [before, after] = fate.cells();
        let _ = writeln!(text, "| `{}` | {} | {before} | {after} |", kernel.id, cell(&kernel.sees));
    }
    text
}
