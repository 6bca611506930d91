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
pub const FOLDER: &str = "fixed";

/// The result of a fixed kernel.
enum FixResult {
    /// The base hits the bugs, with these messages; the fixed kernel does not, and none of `cases` cases fails.
    Fixed { on_base: Vec<Notice>, cases: usize },
    /// Why the kernel does not count as fixed.
    Not(String),
}

/// Judges each kernel and writes the report.
pub fn judge(builder: &Builder, suite: &Suite, fixes: &[Mutant], document: &Path) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for kernel in fixes {
        let fate = fate(builder, suite, kernel)?;
        println!("{}: {}", kernel.id, fate.line());
        rows.push((kernel, fate));
    }
    std::fs::write(document, report(builder.release(), &rows))?;
    let all = rows.iter().all(|(_, fate)| matches!(fate, FixResult::Fixed { .. }));
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn fate(builder: &Builder, suite: &Suite, fix: &Mutant) -> Result<FixResult> {
    let kernel = match builder.mutant(fix)? {
        Built::Kernel(kernel) => kernel,
        Built::DoesNotApply(why) => return Ok(FixResult::Not(format!("does not apply: {why}"))),
        Built::DoesNotBuild(why) => return Ok(FixResult::Not(format!("does not build: {why}"))),
        Built::Same => return Ok(FixResult::Not("the compiler makes the same kernel of it".to_owned())),
    };
    // A case that passes despite the bug would also pass on the fixed kernel.
    let on_base = match met(suite, builder.base(), fix)? {
        Ok(bugs) if bugs.len() == fix.claims.len() => bugs,
        Ok(bugs) => {
            return Ok(FixResult::Not(format!("the base hits {} of {} bugs", bugs.len(), fix.claims.len())));
        }
        Err(why) => bail!("the base kernel is not green: {why}"),
    };
    match met(suite, &kernel, fix)? {
        Ok(bugs) if bugs.is_empty() => {}
        Ok(bugs) => {
            return Ok(FixResult::Not(format!("still there: {}", in_a_line(&SuiteResult::Noticed(bugs)))));
        }
        Err(why) => return Ok(FixResult::Not(why)),
    }
    Ok(match suite.ask_all(&kernel)? {
        SuiteResult::Nothing { cases, .. } => FixResult::Fixed { on_base, cases },
        said => FixResult::Not(in_a_line(&said)),
    })
}

/// Returns which of the bugs the cases hit on a kernel, or why they give no answer.
fn met(suite: &Suite, kernel: &Kernel, fix: &Mutant) -> Result<Result<Vec<Notice>, String>> {
    Ok(match suite.ask_long(kernel, &fix.claims)? {
        SuiteResult::Nothing { defects, .. } => Ok(defects),
        said => Err(in_a_line(&said)),
    })
}

impl FixResult {
    fn line(&self) -> String {
        match self {
            FixResult::Fixed { cases, .. } => format!("fixed, and none of {cases} cases fails"),
            FixResult::Not(why) => format!("NOT fixed: {why}"),
        }
    }

    /// Returns the columns "before" and "after" of the report.
    fn cells(&self) -> [String; 2] {
        let before = match self {
            FixResult::Fixed { on_base, .. } => {
                on_base.iter().map(Notice::cell).collect::<Vec<_>>().join("; ")
            }
            FixResult::Not(_) => String::new(),
        };
        [before, cell(&self.line())]
    }
}

/// Formats the document.
fn report(release: &str, rows: &[(&Mutant, FixResult)]) -> String {
    let fixed = rows.iter().filter(|(_, fate)| matches!(fate, FixResult::Fixed { .. })).count();
    let mut text = format!(
        "# Known bugs, fixed experimentally\n\n\
         <!-- Written by vm/mutants.sh --fixed; do not edit. -->\n\n\
         Most known-defect cases fail on every released kernel, so nobody has seen that they can pass. `vm/mutants/fixed/` has\n\
         edits that fix bugs of [findings.md](findings.md) which this kernel has. `vm/mutants.sh --fixed` builds each such\n\
         kernel: the case must hit the bug in the base kernel, must not hit it in the fixed one, however long it looks, and no\n\
         other case may fail there. The edits are the minimum that shows this; they are not patches.\n\n\
         On Linux {release}: **{fixed} of {} fixed**.\n\n\
         | fixed kernel | what a user sees there | before | after |\n|---|---|---|---|\n",
        rows.len()
    );
    for (kernel, fate) in rows {
        let [before, after] = fate.cells();
        let _ = writeln!(text, "| `{}` | {} | {before} | {after} |", kernel.id, cell(&kernel.sees));
    }
    text
}
