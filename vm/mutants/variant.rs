//! Kernels without mistakes in other configurations than the base. The suite must find nothing wrong with them.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::kernel::Kernel;
use crate::suite::Suite;

/// Another configuration, and what runs on a kernel that has it.
pub struct Variant {
    /// The file of what comes behind `kernel.config`.
    pub config: &'static str,
    /// The arguments of the runner in one run after the other; none may fail.
    runs: &'static [&'static [&'static str]],
    /// How long a guest may take.
    seconds: &'static str,
}

/// Lacks what a kernel need not have. The suite must not blame it for that. The selftest's scenarios must pass: they need nothing but
/// the flags.
pub const LEAN: Variant = Variant {
    config: "lean.config",
    runs: &[&[], &["--upstream", "--require", "autoreap,nnp,autokill"]],
    seconds: "240",
};

/// Checks itself, as a kernel developer's does: for memory errors, locks, calls that may sleep. All cases must run and pass, and the
/// kernel must have nothing to complain about; it is several times as slow.
pub const CHECKED: Variant =
    Variant { config: "checked.config", runs: &[&["--require", "all"]], seconds: "1800" };

impl Variant {
    /// Runs the suite on such a kernel, and shows what it says.
    pub fn judge(&self, suite: &Suite, kernel: &Kernel) -> Result<ExitCode> {
        for arguments in self.runs {
            let mut run: Command = suite.run_of(kernel, self.seconds);
            let status = run.arg("--").args(*arguments).status();
            if !status.with_context(|| format!("{run:?}"))?.success() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
