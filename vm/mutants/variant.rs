//! Correct kernels in other configurations than the base's, on which the suite must find nothing wrong.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::kernel::Kernel;
use crate::suite::Suite;

/// Another configuration, and the runs of the suite on such a kernel.
pub struct Variant {
    /// The file that is appended to `kernel.config`.
    pub config: &'static str,
    /// The runner's arguments of each run; none may fail.
    runs: &'static [&'static [&'static str]],
    /// The timeout of a guest in seconds.
    seconds: &'static str,
}

/// A kernel that lacks optional features, which the suite must not report as failures. The scenarios of the selftest must pass:
/// they need only the flags.
pub const LEAN: Variant = Variant {
    config: "lean.config",
    runs: &[&[], &["--upstream", "--require", "autoreap,nnp,autokill"]],
    seconds: "240",
};

/// A kernel with debug checks: for memory errors, locks, and sleeping in atomic context. All cases must run and pass, and the
/// kernel must report nothing. It is several times slower.
pub const CHECKED: Variant =
    Variant { config: "checked.config", runs: &[&["--require", "all"]], seconds: "1800" };

impl Variant {
    /// Runs the suite on such a kernel, and shows its output.
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
