//! The command line: libtest's options, and the suite's own.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, Resettable, TypedValueParser as _};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser};
pub use clone3_conformance::exit_status::{BROKEN, FAILED, GOOD, NOTHING_SELECTED, USAGE};
use clone3_conformance::expect::{self, Expectations};
use clone3_conformance::formats::{self, Format, quoted};
use clone3_conformance::guest::VERDICT_OPTIONS;
use clone3_conformance::need::Need;
use clone3_conformance::report::{Policy, Suite};
use clone3_conformance::usage;
use clone3_conformance::version::Version;
use libtest_mimic::FormatSetting;

/// The commit from which the suite was built, if the build set it.
pub const COMMIT: &str = match option_env!("CLONE3_CONFORMANCE_COMMIT") {
    Some(commit) => commit,
    None => "",
};

/// The version, commit and target.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let Suite { version, commit, target, .. } = Suite::this(COMMIT);
    let commit = if commit.is_empty() { "not known" } else { &commit };
    let linked = if cfg!(target_feature = "crt-static") { "static" } else { "dynamic" };
    format!("{version} (commit {commit}, {target}, {linked})")
});

/// The help template. libtest-mimic's own leaves out the description and the exit status.
const HELP: &str = "{about-with-newline}\n{usage-heading} {usage}\n\n{all-args}{after-help}";

const MORE: &str = "\
    clone3-conformance compare A.json B.json … shows the results of several kernels side by side;\n\
    see clone3-conformance compare --help.";

/// Conformance tests for CLONE_AUTOREAP, CLONE_NNP and CLONE_PIDFD_AUTOKILL of clone3(2) on the running kernel.
///
/// Exit status: 0 all good; 1 some case failed, or the kernel complained while the suite ran; 2 usage error; 3 broken harness;
/// 4 no case selected.
#[derive(Debug, Parser)]
#[command(name = "clone3-conformance", version = VERSION.as_str(), after_help = MORE)]
pub struct Options {
    #[command(flatten)]
    pub libtest: libtest_mimic::Arguments,

    /// What goes to stdout instead of libtest's output
    #[arg(skip)]
    pub format: Option<Format>,

    /// The options that affect verdicts, as they were given
    #[arg(skip)]
    pub verdict_options: Vec<String>,

    /// Multiply every deadline (default: 1, or 3 if the CPU is emulated)
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "FACTOR",
        env = "CLONE3_CONFORMANCE_TIMEOUT_SCALE",
        value_parser = scale
    )]
    pub timeout_scale: Option<f64>,

    /// Fail cases of these flags that are unsupported or blocked: autoreap, nnp, autokill, or all
    #[arg(long, value_name = "FLAGS", env = "CLONE3_CONFORMANCE_REQUIRE", value_delimiter = ',')]
    pub require: Vec<Required>,

    /// Run only the cases with these names
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub case: Vec<String>,

    /// Start no further case after one has failed
    #[arg(long)]
    pub fail_fast: bool,

    /// Run only the scenarios of the kernel's own selftest
    #[arg(long)]
    pub upstream: bool,

    /// Run each selected case N times
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,

    /// Count a deviation from undocumented behavior of mainline as a failure
    #[arg(long)]
    pub strict: bool,

    /// Apply the claims of this Linux, whatever `uname -r` says: for a backport, or for another kernel with Linux's interface
    #[arg(long, value_name = "VERSION")]
    pub as_linux: Option<Version>,

    /// Make statistical loops N times longer
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST_STRESS))]
    pub stress: u32,

    /// Print the N slowest cases
    #[arg(long, value_name = "N")]
    pub durations: Option<usize>,

    /// Measure how long the cases take, and the minimum that is possible; with --repeat, over N rounds
    #[arg(long)]
    pub speed: bool,

    /// Also run cases that change a global setting (core_pattern, threads-max, …) for an instant
    // A guest's init gives it, too.
    #[arg(long, overrides_with = "allow_global_changes")]
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

    /// Append each event of the run to FILE as it happens, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,

    /// Write the results to FILE as JSON, and update it as cases begin and end
    #[arg(long, value_name = "FILE")]
    pub results: Option<PathBuf>,

    /// Write a report to FILE, in the format of its suffix: .json, .xml (JUnit), .ktap, .html or .md
    #[arg(long, value_name = "FILE", value_parser = formats::target)]
    pub report: Vec<(PathBuf, Format)>,

    /// Expected failures, and on which kernels: a TOML file
    #[arg(long, value_name = "FILE", value_parser = expectations)]
    pub expect: Option<Expectations>,
}

/// A value of `--claims`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClaimsFormat {
    Markdown,
    Json,
}

/// A value of `--require`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Required {
    Autoreap,
    Nnp,
    Autokill,
    All,
}

/// The upper limit of `--stress`: the loops count in 32 bits, and none has a base of more than a few thousand.
const MOST_STRESS: i64 = 100_000;

/// The limits of `--timeout-scale`: a tenth of a second and eleven days per case.
const SCALES: RangeInclusive<f64> = 0.01..=100_000.0;

fn scale(text: &str) -> Result<f64, String> {
    let (least, most) = (SCALES.start(), SCALES.end());
    match text.parse::<f64>() {
        Ok(factor) if SCALES.contains(&factor) => Ok(factor),
        _ => Err(format!("expected a number such as 2 or 0.5, from {least} to {most}")),
    }
}

fn expectations(path: &str) -> Result<Expectations, String> {
    expect::parse(&std::fs::read_to_string(path).map_err(|error| error.to_string())?)
}

/// Adds the suite's own formats to the `--format` option, which libtest-mimic declares.
fn with_our_formats(option: clap::Arg) -> clap::Arg {
    let to_libtest = |name: String| match name.as_str() {
        "terse" => FormatSetting::Terse,
        "json" => FormatSetting::Json,
        _ => FormatSetting::Pretty,
    };
    option
        .value_name("FORMAT")
        .value_parser(PossibleValuesParser::new(["pretty", "terse", "json", "ktap", "junit"]).map(to_libtest))
        .help(
            "What is printed: pretty and terse for people, json (libtest's events), ktap or junit for tools",
        )
}

/// Takes an empty environment variable for one that is not set: CI systems can only set them.
fn without_empty_variable(option: clap::Arg) -> clap::Arg {
    let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
    if option.get_env().is_some_and(is_empty) { option.env(Resettable::Reset) } else { option }
}

/// Returns an option as it was given on the command line or in the environment.
fn given(matches: &ArgMatches, (name, takes_value): &(&str, bool)) -> Option<String> {
    let id = name.trim_start_matches('-').replace('-', "_");
    if matches!(matches.value_source(&id), None | Some(ValueSource::DefaultValue)) {
        return None;
    }
    if !takes_value {
        return Some((*name).to_owned());
    }
    let values: Vec<_> = matches.get_raw(&id)?.map(|value| quoted(&value.to_string_lossy())).collect();
    Some(format!("{name} {}", values.join(",")))
}

impl Options {
    /// Parses the command line; if it is invalid, prints why and exits with [`USAGE`].
    pub fn from_command_line() -> Options {
        Options::of(std::env::args_os()).unwrap_or_else(|error| usage::exit_with(&error))
    }

    /// Parses these arguments, the first of which is the program's name.
    pub fn of(words: impl IntoIterator<Item: Into<OsString> + Clone>) -> Result<Options, clap::Error> {
        // libtest has no --version, and so libtest-mimic disables it.
        let command = Options::command().disable_version_flag(false).help_template(HELP);
        let matches = command
            .mut_arg("format", with_our_formats)
            .mut_args(without_empty_variable)
            .try_get_matches_from(words)?;
        let mut options = Options::from_arg_matches(&matches)?;
        options.verdict_options =
            VERDICT_OPTIONS.iter().filter_map(|option| given(&matches, option)).collect();
        let word = matches.get_raw("format").and_then(|mut words| words.next_back());
        options.format = match word.and_then(|word| word.to_str()) {
            Some("ktap") => Some(Format::Ktap),
            Some("junit") => Some(Format::Junit),
            _ => None,
        };
        if let Some(why) = options.conflict() {
            return Err(Options::command().error(ErrorKind::ArgumentConflict, why));
        }
        if options.format.is_some() {
            // libtest-mimic always prints; this keeps its output off stdout.
            options.libtest.logfile = Some("/dev/null".to_owned());
        }
        Ok(options)
    }

    /// Returns which options exclude each other, or make no sense.
    fn conflict(&self) -> Option<String> {
        let instead_of_a_run = [
            ("--list", self.libtest.list),
            ("--list-features", self.list_features),
            ("--claims", self.claims.is_some()),
            ("--describe", self.describe.is_some()),
            ("--speed", self.speed),
        ];
        // Not --events: a guest's init always passes it, and it is harmless.
        let of_a_run = [
            ("--results", self.results.is_some()),
            ("--report", !self.report.is_empty()),
            ("--format ktap or junit", self.format.is_some()),
        ];
        let given = |options: &[(&'static str, bool)]| {
            options.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect::<Vec<_>>()
        };
        match (given(&instead_of_a_run).as_slice(), given(&of_a_run).as_slice()) {
            ([one, other, ..], _) => Some(format!("{one} and {other} each print something instead of a run")),
            ([one], [other, ..]) => Some(format!("{other} is about a run, and with {one} there is none")),
            _ if self.format.is_some() && self.libtest.logfile.is_some() => {
                Some("--logfile takes libtest's output, and with --format ktap or junit there is none".into())
            }
            // libtest-mimic would wait for ever.
            _ if self.libtest.test_threads == Some(0) => Some("--test-threads must be at least 1".into()),
            _ => None,
        }
    }

    /// Creates the log file, if there is to be one: libtest-mimic panics if it cannot be written.
    pub fn create_log(&self) -> Result<(), String> {
        let Some(path) = &self.libtest.logfile else { return Ok(()) };
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        opened.map(drop).map_err(|error| format!("cannot write libtest's output to {path}: {error}"))
    }

    /// Returns the paths of the JSON results, which are updated during the run.
    pub fn documents(&self) -> Vec<PathBuf> {
        let reports = self.report.iter().filter(|(_, format)| *format == Format::Json);
        self.results.iter().chain(reports.map(|(path, _)| path)).cloned().collect()
    }

    /// Returns the policy for judging verdicts.
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
            release: self.judged_as(),
            ..Policy::default()
        }
    }

    /// Returns the release whose claims count.
    pub fn judged_as(&self) -> String {
        self.as_linux.as_ref().map_or_else(clone3_conformance::probe::release, Version::to_string)
    }

    /// Returns the timeout of a case.
    pub fn deadline(&self, emulated: bool) -> Duration {
        let scale = self.timeout_scale.unwrap_or(if emulated { 3.0 } else { 1.0 });
        Duration::from_secs(10).mul_f64(scale)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn options_that_affect_verdicts_are_passed_to_a_rerun() {
        let words = "--allow-global-changes --strict --stress 2 --timeout-scale 3.0 --require autoreap,nnp \
                     --as-linux 7.2 --expect expectations/mainline.toml";
        let passed = |words: &str| {
            let line = format!("clone3-conformance --repeat 2 {words}");
            super::Options::of(line.split(' ')).expect("a correct command line").verdict_options
        };
        assert_eq!(passed(words).join(" "), words);
        assert_eq!(passed("--timeout-scale 1 --require all"), ["--timeout-scale 1", "--require all"]);
    }
}
