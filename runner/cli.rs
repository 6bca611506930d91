//! The command line: libtest's own, and ours.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clone3_conformance::need::Need;
use clone3_conformance::report::Policy;

/// Exit status: every verdict is good.
pub const GOOD: u8 = 0;
/// Exit status: some case failed.
pub const FAILED: u8 = 1;
/// Exit status: the command line makes no sense.
pub const USAGE: u8 = 2;
/// Exit status: the harness itself does not work.
pub const BROKEN: u8 = 3;
/// Exit status: the selection holds no case.
pub const NOTHING_SELECTED: u8 = 4;

/// Conformance tests for CLONE_AUTOREAP, CLONE_NNP and CLONE_PIDFD_AUTOKILL of clone3(2) on the running kernel.
///
/// Exit status: 0 all good, 1 some case failed, 2 usage, 3 broken harness, 4 no case selected.
#[derive(Debug, Parser)]
#[command(name = "clone3-conformance", version)]
pub struct Options {
    #[command(flatten)]
    pub libtest: libtest_mimic::Arguments,

    /// Multiply every deadline (default: 1, or 3 where the CPU is emulated)
    #[arg(long, value_name = "FACTOR", env = "CLONE3_CONFORMANCE_TIMEOUT_SCALE", value_parser = positive)]
    pub timeout_scale: Option<f64>,

    /// Fail cases of these flags that are unsupported or blocked: autoreap, nnp, autokill, or all
    #[arg(long, value_name = "FLAGS", env = "CLONE3_CONFORMANCE_REQUIRE", value_delimiter = ',')]
    pub require: Vec<Required>,

    /// Run only the cases of these names
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub case: Vec<String>,

    /// Begin no further case once one has failed
    #[arg(long)]
    pub fail_fast: bool,

    /// Only the scenarios that the kernel's own selftest has
    #[arg(long)]
    pub upstream: bool,

    /// Run each selected case N times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,

    /// Count a deviation from undocumented behaviour of mainline as a failure
    #[arg(long)]
    pub strict: bool,

    /// Make statistical loops N times longer
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub stress: u32,

    /// Print the N slowest cases
    #[arg(long, value_name = "N")]
    pub durations: Option<usize>,

    /// Run cases that change a global setting (core_pattern) for an instant, too
    #[arg(long)]
    pub allow_global_changes: bool,

    /// Print what this kernel supports and what this environment allows
    #[arg(long)]
    pub list_features: bool,

    /// Print the claim, source, strength and needs of a case
    #[arg(long, value_name = "NAME")]
    pub describe: Option<String>,

    /// Print the table of all claims
    #[arg(long, value_name = "FORMAT")]
    pub claims: Option<ClaimsFormat>,

    /// Append each event of the run to FILE, a JSON object a line, as it happens
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,

    /// Write the results to FILE as JSON
    #[arg(long, value_name = "FILE")]
    pub results: Option<PathBuf>,
}

/// A value of `--claims`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClaimsFormat {
    Markdown,
}

/// A value of `--require`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Required {
    Autoreap,
    Nnp,
    Autokill,
    All,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(factor),
        _ => Err("expected a number above 0, as 2 or 0.5".to_owned()),
    }
}

impl Options {
    /// Reads the command line; says what is wrong with it and exits with [`USAGE`] where something is.
    pub fn from_command_line() -> Options {
        Options::parse()
    }

    /// How verdicts are to be judged.
    pub fn policy(&self) -> Policy {
        let need = |required: &Required| match required {
            Required::Autoreap => Some(Need::Autoreap),
            Required::Nnp => Some(Need::Nnp),
            Required::Autokill => Some(Need::Autokill),
            Required::All => None,
        };
        Policy {
            strict: self.strict,
            require: self.require.iter().filter_map(need).collect(),
            require_all: self.require.contains(&Required::All),
            release: clone3_conformance::probe::release(),
        }
    }

    /// How long a case may take.
    pub fn deadline(&self, emulated: bool) -> Duration {
        let scale = self.timeout_scale.unwrap_or(if emulated { 3.0 } else { 1.0 });
        Duration::from_secs(10).mul_f64(scale)
    }
}
