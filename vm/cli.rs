//! The command line of `vm/run.sh`.
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, ValueEnum};
use clone3_conformance::formats::{self, Format};
use clone3_conformance::{compare, expect};

use crate::accel::AccelChoice;
use crate::spec::{Spec, USUAL_FLAVOR, flavor_name};

/// Boots a kernel, runs the conformance suite in it, and exits with the suite's verdict.
///
/// Exit status: 0 good; 1 some case failed, or the kernel complained while the suite ran; 2 usage error; 3 broken harness, or
/// output that cannot be written;
/// 4 no case selected; 69 no verdict (no kernel, no boot, or a timeout); 130 or 143 stopped by Ctrl-C or SIGTERM (128 + the
/// signal's number).
#[derive(Debug, Parser)]
#[command(name = "vm/run.sh", version, max_term_width = 100)]
pub struct Cli {
    /// The kernel: a path (vmlinuz, bzImage, vmlinux with PVH, Image of arm64, kernel build tree, kernel .deb), a version or a prefix of one, such as 7.1,
    /// 7.2.13, 7.1/rt-amd64 or 7.1/cloud-arm64 (the newest in Debian's archive), a package's own version, such as 7.2.13-1, debian:SUITE[/FLAVOR], or vX.Y (virtme-ng's own download)
    #[arg(long, value_name = "SPEC", default_value = "7.1")]
    pub kernel: Spec,

    /// List the kernels of Debian's archive, and exit; with --kernel 7.1/cloud-arm64, those for 64-bit ARM
    #[arg(long)]
    pub list_kernels: bool,

    /// Fetch the archive's package lists again, even if the local ones are recent
    #[arg(long)]
    pub refresh: bool,

    #[command(flatten)]
    pub machine: MachineOptions,

    /// Run the suite as this user, not as root
    #[arg(long, value_name = "UID", num_args = 0..=1, default_missing_value = "1000", value_parser = user, allow_negative_numbers = true)]
    pub user: Option<u32>,

    /// Keep the guest busy: run N busy loops per CPU alongside
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub load: u16,

    /// Write the results to this file as JSON, and update it as cases begin and end
    #[arg(long, value_name = "FILE")]
    pub results: Option<PathBuf>,

    /// Write a report to FILE, in the format of its suffix: .json, .xml (JUnit), .ktap, .html or .md
    #[arg(long, value_name = "FILE", value_parser = formats::target)]
    pub report: Vec<(PathBuf, Format)>,

    /// Expected failures, and on which kernels: a TOML file
    #[arg(long, value_name = "FILE", value_parser = expectations)]
    pub expect: Option<Expectations>,

    /// Write the kernel's console output to this file
    #[arg(long, value_name = "FILE")]
    pub console: Option<PathBuf>,

    /// Write the counters of a kernel built with gcov to this file, as a tar archive (with --engine qemu)
    #[arg(long, value_name = "FILE")]
    pub counters: Option<PathBuf>,

    /// Put each CPU in its own socket (with --engine qemu): a kernel without ACPI finds only one per socket
    #[arg(long)]
    pub sockets: bool,

    /// Take no shortcuts for emulation: the compressed kernel, QEMU's usual firmware, a CPU with all features (max), and nothing left
    /// out of the boot except what an emulator gets wrong
    #[arg(long)]
    pub plain: bool,

    /// Let gdb stop the guest: path where QEMU's gdbstub creates a socket ("target remote SOCKET")
    #[arg(long, value_name = "SOCKET")]
    pub gdb: Option<PathBuf>,

    /// The suite's static binary
    #[arg(long, value_name = "FILE", env = "CLONE3_SUITE", hide = true)]
    pub suite: Option<PathBuf>,

    /// Further files for the guest, put beside the suite under their own names (with --engine qemu)
    #[arg(long, value_name = "FILE", hide = true)]
    pub carry: Vec<PathBuf>,

    /// Arguments of the runner: filters, --list, --repeat …
    #[arg(last = true, value_name = "RUNNER ARGS", value_parser = runner_word)]
    pub runner: Vec<String>,
}

/// Boots several kernels, runs the conformance suite in each, and compares the results.
///
/// Each SPEC is a kernel as for vm/run.sh --kernel; without one, the newest of each series in Debian's archive, and the newest
/// release candidate. The results go to RESULTS/KERNEL.json, the output of the runs to KERNEL.log, and the tables to
/// compare.txt, compare.md and compare.html in the same folder; compare.txt is also printed.
///
/// Exit status: 0 every kernel was judged, whatever the verdict; 2 usage error; 3 broken harness; 4 no case selected; 69 some
/// kernel gave no verdict; 130 or 143 stopped by Ctrl-C or SIGTERM (128 + the signal's number).
#[derive(Debug, Parser)]
#[command(name = "vm/compare.sh", version, max_term_width = 100, mut_arg("engine", usually_qemu))]
pub struct CompareCli {
    /// The kernels
    #[arg(value_name = "SPEC")]
    pub kernels: Vec<Spec>,

    /// How many kernels to boot at once (default: one per CPU of the host, as far as its memory suffices)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), allow_negative_numbers = true)]
    pub jobs: Option<u16>,

    /// The flavor of kernels that are given by version, or not given
    #[arg(long, default_value = USUAL_FLAVOR, value_parser = |flavor: &str| Ok::<_, String>(flavor_name(flavor)))]
    pub flavor: String,

    /// Also show the rows in which all kernels agree
    #[arg(long)]
    pub all: bool,

    /// Also write the table, with all rows, to FILE: .html or .md
    #[arg(long, value_name = "FILE", value_parser = compare::target)]
    pub report: Vec<(PathBuf, Format)>,

    /// Where the results go
    #[arg(long, value_name = "FOLDER", default_value = "results")]
    pub output: PathBuf,

    /// Fetch the archive's package lists again, even if the local ones are recent
    #[arg(long)]
    pub refresh: bool,

    #[command(flatten)]
    pub machine: MachineOptions,

    /// Arguments of the runner
    #[arg(last = true, value_name = "RUNNER ARGS", value_parser = runner_word)]
    pub runner: Vec<String>,
}

/// The virtual machine.
#[derive(Args, Debug)]
pub struct MachineOptions {
    /// What boots the kernel: virtme-ng, or QEMU with our binary as init
    #[arg(long, value_enum, default_value_t = Engine::Virtme)]
    pub engine: Engine,

    /// What runs the guest's instructions: auto tries KVM, and uses TCG if that does not work
    #[arg(long, value_enum, default_value_t = AccelChoice::Auto)]
    pub accel: AccelChoice,

    /// How many CPUs the guest has
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=255), allow_negative_numbers = true)]
    pub cpus: u16,

    /// How much memory the guest has: a number of MiB, or with a suffix, such as 2G
    #[arg(long = "memory", value_name = "M", default_value_t = USUAL_MEMORY, value_parser = memory, allow_negative_numbers = true)]
    pub memory_mib: u64,

    /// How many seconds the guest may take, from power-on to the suite's end
    #[arg(long, value_name = "S", default_value = "900", value_parser = seconds, allow_negative_numbers = true)]
    pub timeout: Duration,

    /// Text to append to the kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub append: String,
}

impl Cli {
    /// Checks what clap cannot: options that need each other's values, and folders that must exist.
    pub fn check(&self) -> Result<(), clap::Error> {
        let needs_qemu = [
            ("--counters", self.counters.is_some()),
            ("--sockets", self.sockets),
            ("--carry", !self.carry.is_empty()),
        ];
        let given = needs_qemu.iter().find(|(_, given)| *given && self.machine.engine != Engine::Qemu);
        if let Some((option, _)) = given {
            return Err(usage_error(&format!("{option} needs --engine qemu")));
        }
        let folder = self.gdb.as_ref().and_then(|socket| socket.parent());
        match folder.filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
            Some(folder) => Err(usage_error(&format!("--gdb: there is no folder {}", folder.display()))),
            None => Ok(()),
        }
    }
}

fn usage_error(why: &str) -> clap::Error {
    Cli::command().error(clap::error::ErrorKind::ArgumentConflict, why)
}

/// What boots the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Engine {
    Virtme,
    Qemu,
}

/// The default of `--memory`, in MiB.
pub const USUAL_MEMORY: u64 = 1024;

impl MachineOptions {
    /// Returns `--accel` and its value.
    pub fn accel_option(&self) -> String {
        let value = self.accel.to_possible_value();
        format!("--accel {}", value.as_ref().map_or("auto", clap::builder::PossibleValue::get_name))
    }

    /// Returns the same options as arguments for another of this project's programs.
    pub fn again(&self) -> Vec<String> {
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        vec![
            format!("--engine={}", word(self.engine.to_possible_value())),
            format!("--accel={}", word(self.accel.to_possible_value())),
            format!("--cpus={}", self.cpus),
            format!("--memory={}", self.memory_mib),
            format!("--timeout={}", self.timeout.as_secs()),
            format!("--append={}", self.append),
        ]
    }
}

/// Checks an argument for the runner. The runner runs in the guest, which has none of the host's files and loses what is written
/// there.
fn runner_word(word: &str) -> Result<String, String> {
    const WITH_FILE: [&str; 5] = ["--results", "--report", "--events", "--logfile", "--expect"];
    let name = word.split('=').next().unwrap_or(word);
    match WITH_FILE.contains(&name) {
        true => Err(format!(
            "{name} would be about a file in the guest; --help shows what files of the host there can be"
        )),
        false => Ok(word.to_owned()),
    }
}

/// A file of expected failures, already checked.
#[derive(Clone, Debug)]
pub struct Expectations {
    pub path: String,
    pub text: String,
}

fn expectations(path: &str) -> Result<Expectations, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    expect::parse(&text).map(|_| Expectations { path: path.to_owned(), text })
}

/// Makes QEMU the default engine: a comparison is about kernels, and QEMU boots fastest, and all kernels the same way.
fn usually_qemu(engine: clap::Arg) -> clap::Arg {
    engine.default_value("qemu").help(
        "What boots the kernel: QEMU with our binary as init, which boots fastest and every kernel in the same way, \
         or virtme-ng",
    )
}

/// One year.
const MOST_SECONDS: u64 = 31_536_000;

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=MOST_SECONDS) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("expected a whole number of seconds, from 1 to {MOST_SECONDS}")),
    }
}

/// Parses a user id. The kernel's `(uid_t)-1` means that there is none.
fn user(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(user) if user != u32::MAX => Ok(user),
        _ => Err(format!("expected a user id, from 0 to {}", u32::MAX - 1)),
    }
}

/// The smallest memory with which distribution kernels boot.
const LEAST_MEMORY: u64 = 256;

fn memory(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(mebibytes @ LEAST_MEMORY..) => Ok(mebibytes),
        _ => Err(format!("expected a number of MiB, or one such as 2G, of at least {LEAST_MEMORY}M")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        CompareCli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_dashes_is_the_runners() {
        let cli = Cli::parse_from(["run.sh", "--user", "--kernel", "7.2", "--", "--list", "basic"]);
        assert_eq!(cli.user, Some(1000));
        assert_eq!(cli.runner, ["--list", "basic"]);
    }

    #[test]
    fn what_only_qemu_can_do_needs_it() {
        let refused = |line: &[&str]| Cli::parse_from([&["run.sh"], line].concat()).check().is_err();
        assert!(refused(&["--sockets"]) && refused(&["--counters=c.tar"]));
        assert!(!refused(&["--sockets", "--engine=qemu"]) && !refused(&[]));
        assert!(refused(&["--gdb=/no/such/folder/socket"]) && !refused(&["--gdb=socket"]));
    }

    #[test]
    fn numbers_below_zero_are_values_out_of_range() {
        for option in ["--user", "--timeout", "--cpus", "--memory", "--load"] {
            let error = Cli::try_parse_from(["run.sh", option, "-1"]).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ValueValidation, "{option}");
        }
        assert!(Cli::try_parse_from(["run.sh", "--user", "4294967295"]).is_err());
    }

    #[test]
    fn files_are_the_hosts() {
        for option in ["--logfile", "--events=j", "--results"] {
            assert!(Cli::try_parse_from(["run.sh", "--", option]).is_err(), "{option}");
            assert!(CompareCli::try_parse_from(["compare.sh", "--", option]).is_err(), "{option}");
        }
    }

    #[test]
    fn options_survive_being_passed_on() {
        let line = [
            "run.sh",
            "--engine=qemu",
            "--accel=tcg",
            "--cpus=3",
            "--memory=2G",
            "--timeout=5",
            "--append=a b",
        ];
        let first = Cli::parse_from(line).machine.again();
        let second = Cli::parse_from([&["run.sh".to_owned()], first.as_slice()].concat()).machine.again();
        assert_eq!(first, second);
        assert_eq!(first[3..], ["--memory=2048", "--timeout=5", "--append=a b"]);
    }

    #[test]
    fn memory_is_counted_in_mebibytes() {
        assert_eq!(memory("2G"), Ok(2048));
        assert_eq!(memory("512"), Ok(512));
        assert_eq!(memory("512M"), Ok(512));
        for text in ["", "1", "G", "2T", "99999999999999999999G", "18446744073709551615G"] {
            assert!(memory(text).is_err(), "{text}");
        }
    }
}
