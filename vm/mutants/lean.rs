//! A kernel without mistakes that lacks what a kernel need not have. The suite must not blame it for that, and must still
//! find the flags in it.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::kernel::Kernel;
use crate::suite::Suite;

/// Runs on it all cases, of which none may fail, and then the selftest's scenarios, of which each must pass: they need
/// nothing but the flags. Shows what the suite says.
pub fn judge(suite: &Suite, kernel: &Kernel) -> Result<ExitCode> {
    let runs: [&[&str]; 2] = [&[], &["--upstream", "--require", "autoreap,nnp,autokill"]];
    for arguments in runs {
        let mut run: Command = suite.run_of(kernel);
        let status = run.arg("--").args(arguments).status();
        if !status.with_context(|| format!("{run:?}"))?.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
