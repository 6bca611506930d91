//! Runs of the suite on a kernel, and the cache of their results.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clone3_conformance::report::{Record, Verdict};
use clone3_conformance::results::write_whole;
use serde::{Deserialize, Serialize};

use crate::catalogue::Mutant;
use crate::kernel::{Kernel, hex};

/// The driver's exit status after a signal is more than this: Ctrl-C, for example, makes it 130.
const SIGNALS: i32 = 128;

/// The driver's exit status if there is no verdict.
const NO_VERDICT: i32 = 69;

/// The timeout of a guest: a broken kernel may hang.
const SECONDS: &str = "240";

/// For a mutant that all cases have passed: the factor for statistical loops, and the longer timeout that they need.
const LONGER: [&str; 4] = ["--stress", "100", "--timeout-scale", "15"];

/// The driver's options for booting the kernels: a configuration without ACPI needs the sockets.
const MACHINE: [&str; 5] = ["--engine", "qemu", "--cpus", "2", "--sockets"];

/// The suite's result on a kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SuiteResult {
    /// The cases that failed.
    Noticed(Vec<Notice>),
    /// The guest crashed, hung or reported a fault: the line that says so.
    Fault(String),
    /// No case failed, with this number of CPUs; `defects` are the cases that hit a known bug of mainline.
    Nothing {
        cases: usize,
        processors: Option<usize>,
        #[serde(default)]
        defects: Vec<Notice>,
    },
    /// The guest did not get as far as the suite.
    NoBoot(String),
}

/// A case that failed, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Notice {
    pub case: String,
    pub message: String,
}

/// The suite and the driver that boots it, and the folder of cached results.
pub struct Suite {
    driver: PathBuf,
    binary: PathBuf,
    sha256: String,
    /// The names of all cases.
    cases: BTreeSet<String>,
    answers: PathBuf,
}

impl Suite {
    /// Returns the driver and the suite that were built beside this program.
    pub fn beside_us(cache: &Path) -> Result<Self> {
        let driver = driver()?;
        let binary = driver.with_file_name("clone3-conformance");
        let bytes = fs::read(&binary).with_context(|| format!("{}", binary.display()))?;
        let answers = cache.join("answers");
        fs::create_dir_all(&answers)?;
        let cases = cases(&binary)?;
        Ok(Self { driver, binary, sha256: hex(&bytes), cases, answers })
    }

    /// Runs the suite on the kernel without mistakes: no case may fail.
    pub fn accepts(&self, base: &Kernel) -> Result<()> {
        match self.ask_all(base)? {
            // Many mistakes are noticed on one CPU while the other is observed.
            SuiteResult::Nothing { processors: Some(2), .. } => Ok(()),
            SuiteResult::Nothing { processors, .. } => {
                bail!("the base kernel uses {processors:?} processors, not 2")
            }
            said => bail!("the base kernel is not green: {}", in_a_line(&said)),
        }
    }

    /// Returns the suite's result on a mutant. Runs the cases of the claims that it violates first, all cases only if those pass,
    /// and if these pass too, the first ones again for longer.
    ///
    /// What the suite noticed, or how a kernel failed, is recorded beside the kernel; with `keeps` that record is enough.
    pub fn judges(&self, kernel: &Kernel, mutant: &Mutant, keeps: bool) -> Result<SuiteResult> {
        let note = kernel.image.with_file_name("noticed.json");
        if keeps && let Some(said) = self.remembers(&note) {
            return Ok(said);
        }
        let said = self.ask_in_turn(kernel, mutant)?;
        if matches!(said, SuiteResult::Noticed(_) | SuiteResult::Fault(_)) {
            write(&note, &said)?;
        }
        Ok(said)
    }

    /// Returns the recorded result of an earlier suite, unless it names a case that no longer exists.
    fn remembers(&self, note: &Path) -> Option<SuiteResult> {
        let is_gone = |notice: &Notice| !self.cases.contains(&notice.case);
        read(note)
            .filter(|said| !matches!(said, SuiteResult::Noticed(notices) if notices.iter().any(is_gone)))
    }

    fn ask_in_turn(&self, kernel: &Kernel, mutant: &Mutant) -> Result<SuiteResult> {
        let claimed: Vec<&str> =
            mutant.claims.iter().filter(|claim| self.cases.contains(*claim)).map(String::as_str).collect();
        let claimed = claimed.join(",");
        if !claimed.is_empty() {
            let said = self.ask(kernel, &["--fail-fast", "--case", &claimed])?;
            if !matches!(said, SuiteResult::Nothing { .. }) {
                return Ok(said);
            }
        }
        let said = self.ask_all(kernel)?;
        if claimed.is_empty() || mutant.equivalent.is_some() || !matches!(said, SuiteResult::Nothing { .. }) {
            return Ok(said);
        }
        // Some mistakes are noticed only with luck.
        let arguments = [&["--fail-fast", "--case", &claimed], &LONGER[..]].concat();
        match self.ask(kernel, &arguments)? {
            SuiteResult::Nothing { .. } => Ok(said),
            met => Ok(met),
        }
    }

    /// Returns the result of these cases, each run for longer than usual, since some bugs are hit only with luck. All of them
    /// must run.
    pub fn ask_long(&self, kernel: &Kernel, cases: &[String]) -> Result<SuiteResult> {
        self.ask(kernel, &[&["--require", "all", "--case", &cases.join(",")], &LONGER[..]].concat())
    }

    /// Runs all cases. One that is unrelated to the mistake may fail by accident on a machine that is busy with many guests, so a
    /// failure counts only if the case fails again when run alone.
    pub fn ask_all(&self, kernel: &Kernel) -> Result<SuiteResult> {
        let mut skipped: Vec<String> = Vec::new();
        loop {
            let mut arguments = vec!["--fail-fast", "--exact"];
            skipped.iter().for_each(|case| arguments.extend(["--skip", case]));
            let notices = match self.ask(kernel, &arguments)? {
                SuiteResult::Noticed(notices) => notices,
                other => return Ok(other),
            };
            for notice in notices {
                let again = self.ask(kernel, &["--case", &notice.case])?;
                if !matches!(again, SuiteResult::Nothing { .. }) {
                    return Ok(again);
                }
                eprintln!("unsteady: {} failed once and then passed: {}", notice.case, notice.message);
                skipped.push(notice.case);
            }
        }
    }

    /// Runs all cases on a kernel that counts, which writes its counters to `archive`.
    pub fn counts(&self, kernel: &Kernel, archive: &Path) -> Result<()> {
        let output = archive.with_extension("log");
        let log = File::create(&output)?;
        let status = self
            .run_of(kernel, SECONDS)
            .arg("--counters")
            .arg(archive)
            .stderr(log.try_clone()?)
            .stdout(log)
            .status()
            .with_context(|| format!("{}", self.driver.display()))?;
        if !status.success() {
            bail!("the base kernel is not green: {}", fs::read_to_string(output)?);
        }
        Ok(())
    }

    /// Returns the command that boots the kernel and runs the suite on it, with a timeout in seconds.
    pub fn run_of(&self, kernel: &Kernel, seconds: &str) -> Command {
        let mut command = Command::new(&self.driver);
        command.args(MACHINE).args(["--timeout", seconds, "--kernel"]).arg(&kernel.image);
        command.arg("--suite").arg(&self.binary);
        command
    }

    /// Returns the number of cases.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Returns the claims of the mutants that no case checks (yet).
    pub fn unchecked<'a>(&self, mutants: impl Iterator<Item = &'a Mutant>) -> BTreeSet<&'a str> {
        let claims = mutants.flat_map(|mutant| &mutant.claims);
        claims.filter(|claim| !self.cases.contains(*claim)).map(String::as_str).collect()
    }

    /// Returns the cached result, or runs the suite. A guest that does not boot gives no result to cache.
    fn ask(&self, kernel: &Kernel, arguments: &[&str]) -> Result<SuiteResult> {
        let question = format!("{} {} {MACHINE:?} {arguments:?}", kernel.sha256, self.sha256);
        let question = hex(question.as_bytes());
        let answer = self.answers.join(&question[..32]);
        let known = answer.with_extension("json");
        if let Some(said) = read(&known) {
            return Ok(said);
        }
        let said = self.boot(kernel, arguments, &answer)?;
        if !matches!(said, SuiteResult::NoBoot(_)) {
            write(&known, &said)?;
        }
        Ok(said)
    }

    /// Boots the kernel and runs the suite in it. Deviations count as failures, and so do missing flags.
    fn boot(&self, kernel: &Kernel, arguments: &[&str], answer: &Path) -> Result<SuiteResult> {
        let (results, log) = (answer.with_extension("results"), answer.with_extension("log"));
        let output = File::create(&log)?;
        let status = self
            .run_of(kernel, SECONDS)
            .arg("--results")
            .arg(&results)
            .args(["--", "--strict", "--require", "autoreap,nnp,autokill"])
            .args(arguments)
            .stderr(output.try_clone()?)
            .stdout(output)
            .status()
            .with_context(|| format!("{}", self.driver.display()))?;
        ensure!(status.code().is_some_and(|code| code <= SIGNALS), "interrupted");
        let text =
            fs::read(&results).with_context(|| format!("the driver does not work, see {}", log.display()))?;
        let said = serde_json::from_slice::<Document>(&text)?.says()?;
        // A kernel that kills the runner itself leaves no record of a case.
        match said {
            SuiteResult::Nothing { .. } if !status.success() => Ok(SuiteResult::Fault(last_words(&log)?)),
            said => Ok(said),
        }
    }
}

/// Returns why the driver reports a failure: the last of its own lines, except for the one with the times.
fn last_words(log: &Path) -> Result<String> {
    let text = fs::read_to_string(log)?;
    let mut said = text.lines().filter_map(|line| line.strip_prefix("run.sh: "));
    let last = said.rfind(|line| !line.starts_with("booted in"));
    Ok(last.unwrap_or("the run failed without a word").to_owned())
}

/// The driver's results file: the suite's results as far as it got, and how the guest ended.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    cases: Vec<Record>,
    machine: Machine,
    guest: Guest,
}

#[derive(Deserialize)]
struct Machine {
    /// The number of CPUs that the kernel uses.
    cpus: Option<usize>,
}

#[derive(Deserialize)]
struct Guest {
    /// The driver's exit status.
    status: i32,
    no_verdict: Option<NoVerdict>,
    faults: Vec<Fault>,
}

#[derive(Deserialize)]
struct NoVerdict {
    stage: String,
    why: String,
}

#[derive(Deserialize)]
struct Fault {
    fault: String,
    running: Vec<String>,
    console: Vec<String>,
}

impl Document {
    /// Returns the result. A guest that died while the suite ran was broken by its kernel; one that died before gives no result.
    fn says(self) -> Result<SuiteResult> {
        let notices = self.notices(Record::is_bad);
        Ok(match (self.guest.faults.first(), &self.guest.no_verdict) {
            _ if !notices.is_empty() => SuiteResult::Noticed(notices),
            (Some(fault), _) => SuiteResult::Fault(fault.in_a_line()),
            (None, Some(end)) => match &end.stage[..] {
                "run" if self.guest.status == NO_VERDICT => SuiteResult::Fault(end.why.clone()),
                "boot" => SuiteResult::NoBoot(end.why.clone()),
                stage => bail!("the driver does not work ({stage}): {}", end.why),
            },
            (None, None) => SuiteResult::Nothing {
                cases: self.cases.len(),
                processors: self.machine.cpus,
                defects: self.notices(|record| record.verdict == Verdict::KnownDefect),
            },
        })
    }

    fn notices(&self, is_wanted: impl Fn(&Record) -> bool) -> Vec<Notice> {
        let wanted = self.cases.iter().filter(|record| is_wanted(record));
        wanted.map(|record| Notice { case: record.case.clone(), message: record.why_bad() }).collect()
    }
}

impl Fault {
    fn in_a_line(&self) -> String {
        let accusing = self.console.iter().find(|line| !line.contains("cut here"));
        let said = accusing.map_or("", |line| line.trim());
        let running = if self.running.is_empty() { "no case".to_owned() } else { self.running.join(", ") };
        format!("the kernel reported a fault ({}) while {running} ran: {said}", self.fault)
    }
}

/// Returns a recorded result. One that cannot be read is none.
fn read(path: &Path) -> Option<SuiteResult> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Records a result, whole or not at all.
fn write(path: &Path, said: &SuiteResult) -> Result<()> {
    write_whole(path, serde_json::to_vec(said)?).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the program that boots kernels, which is built beside this one.
pub fn driver() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("clone3-vm"))
}

/// Returns the names of the suite's cases.
fn cases(binary: &Path) -> Result<BTreeSet<String>> {
    let list = Command::new(binary).args(["--list", "--format", "terse"]).output()?;
    ensure!(list.status.success(), "{} --list fails", binary.display());
    let text = String::from_utf8(list.stdout)?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Formats the result for a table.
pub fn in_a_line(said: &SuiteResult) -> String {
    match said {
        SuiteResult::Noticed(notices) => notices.first().map_or_else(String::new, |first| {
            format!("{}: {}", first.case, first.message.split_whitespace().collect::<Vec<_>>().join(" "))
        }),
        SuiteResult::Fault(why) => why.clone(),
        SuiteResult::Nothing { cases, .. } => format!("{cases} cases passed"),
        SuiteResult::NoBoot(why) => why.clone(),
    }
}
