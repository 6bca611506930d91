//! Running the suite on a kernel, and remembering what it said.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clone3_conformance::report::{Results, Verdict};
use serde::{Deserialize, Serialize};

use crate::catalogue::Mutant;
use crate::kernel::{Kernel, hex};

/// The driver's exit statuses that are verdicts; any other means that there is none.
const GOOD: i32 = 0;
const FAILED: i32 = 1;

/// How long a guest may take. A broken kernel may well never end.
const SECONDS: &str = "600";

/// What the suite said of a kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Said {
    /// Cases that failed.
    Noticed(Vec<Notice>),
    /// The guest crashed, hung or complained: the line that says so.
    Fault(String),
    /// Every case passed.
    Nothing { cases: usize },
    /// The guest did not come as far as the suite.
    NoBoot(String),
}

/// A case that failed, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Notice {
    pub case: String,
    pub message: String,
}

/// The suite and the driver that boots it, and where its answers are kept.
pub struct Suite {
    driver: PathBuf,
    binary: PathBuf,
    sha256: String,
    /// The cases that there are.
    cases: BTreeSet<String>,
    answers: PathBuf,
}

impl Suite {
    /// The driver and the suite that were built beside this program.
    pub fn beside_us(cache: &Path) -> Result<Self> {
        let driver = driver()?;
        let binary = driver.with_file_name("clone3-conformance");
        let bytes = fs::read(&binary).with_context(|| format!("{}", binary.display()))?;
        let answers = cache.join("answers");
        fs::create_dir_all(&answers)?;
        let cases = cases(&binary)?;
        Ok(Self { driver, binary, sha256: hex(&bytes), cases, answers })
    }

    /// Runs the suite on the kernel without mistakes: it must have nothing to say.
    pub fn accepts(&self, base: &Kernel) -> Result<()> {
        match self.ask(base, &[])? {
            Said::Nothing { .. } => Ok(()),
            said => bail!("the base kernel is not green: {}", in_a_line(&said)),
        }
    }

    /// What the suite says of a mutant: first the cases of the claims that it violates, and all only if they pass.
    pub fn judges(&self, kernel: &Kernel, mutant: &Mutant) -> Result<Said> {
        let claimed: Vec<&str> =
            mutant.claims.iter().filter(|claim| self.cases.contains(*claim)).map(String::as_str).collect();
        if !claimed.is_empty() {
            let said = self.ask(kernel, &["--fail-fast", "--case", &claimed.join(",")])?;
            if !matches!(said, Said::Nothing { .. }) {
                return Ok(said);
            }
        }
        self.ask_all(kernel)
    }

    /// Runs all cases. One that has nothing to do with the mistake may fail by accident, on a machine that is busy with
    /// many guests: it counts only if it fails again when it runs alone.
    fn ask_all(&self, kernel: &Kernel) -> Result<Said> {
        let mut skipped: Vec<String> = Vec::new();
        loop {
            let mut arguments = vec!["--fail-fast", "--exact"];
            skipped.iter().for_each(|case| arguments.extend(["--skip", case]));
            let Said::Noticed(notices) = self.ask(kernel, &arguments)? else {
                return self.ask(kernel, &arguments);
            };
            for notice in notices {
                let again = self.ask(kernel, &["--case", &notice.case])?;
                if !matches!(again, Said::Nothing { .. }) {
                    return Ok(again);
                }
                eprintln!("unsteady: {} failed once and then passed: {}", notice.case, notice.message);
                skipped.push(notice.case);
            }
        }
    }

    /// The claims of the mutants that no case checks (yet).
    pub fn unchecked<'a>(&self, mutants: &'a [Mutant]) -> BTreeSet<&'a str> {
        let claims = mutants.iter().flat_map(|mutant| &mutant.claims);
        claims.filter(|claim| !self.cases.contains(*claim)).map(String::as_str).collect()
    }

    /// The answer to a question that was asked before, or a new one. No verdict is no answer: that is asked again.
    fn ask(&self, kernel: &Kernel, arguments: &[&str]) -> Result<Said> {
        let question = hex(format!("{} {} {arguments:?}", kernel.sha256, self.sha256).as_bytes());
        let answer = self.answers.join(&question[..32]);
        let known = answer.with_extension("json");
        if let Ok(text) = fs::read(&known) {
            return Ok(serde_json::from_slice(&text)?);
        }
        let said = self.boot(kernel, arguments, &answer)?;
        fs::write(known, serde_json::to_vec(&said)?)?;
        Ok(said)
    }

    /// Boots the kernel and runs the suite in it. What is undocumented counts, and so does a flag that is not there.
    fn boot(&self, kernel: &Kernel, arguments: &[&str], answer: &Path) -> Result<Said> {
        let (results, log) = (answer.with_extension("results"), answer.with_extension("log"));
        let output = File::create(&log)?;
        let status = Command::new(&self.driver)
            .args(["--engine", "qemu", "--timeout", SECONDS, "--kernel"])
            .arg(&kernel.image)
            .arg("--suite")
            .arg(&self.binary)
            .arg("--results")
            .arg(&results)
            .args(["--", "--strict", "--require", "autoreap,nnp,autokill"])
            .args(arguments)
            .stderr(output.try_clone()?)
            .stdout(output)
            .status()
            .with_context(|| format!("{}", self.driver.display()))?;
        let found = fs::read(&results).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let log = fs::read_to_string(&log)?;
        match status.code() {
            Some(GOOD) => {
                let results: Results = found.context("the driver left no results")?;
                Ok(Said::Nothing { cases: results.cases.len() })
            }
            Some(FAILED) => Ok(failure(found, &log)),
            _ => no_verdict(found, &log),
        }
    }
}

/// The program that boots kernels; it is built beside this one.
pub fn driver() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("clone3-vm"))
}

/// The names of the suite's cases.
fn cases(binary: &Path) -> Result<BTreeSet<String>> {
    let list = Command::new(binary).args(["--list", "--format", "terse"]).output()?;
    ensure!(list.status.success(), "{} --list fails", binary.display());
    let text = String::from_utf8(list.stdout)?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// What a failed run says: its failed cases, or else what the kernel printed.
fn failure(results: Option<Results>, log: &str) -> Said {
    let notices = notices(results.as_ref());
    match notices.is_empty() {
        true => Said::Fault(remark(log)),
        false => Said::Noticed(notices),
    }
}

/// A guest that went away: while the suite ran that is the kernel's doing, and before it nothing was said.
fn no_verdict(results: Option<Results>, log: &str) -> Result<Said> {
    let notices = notices(results.as_ref());
    match results {
        _ if !notices.is_empty() => Ok(Said::Noticed(notices)),
        Some(_) => Ok(Said::Fault(remark(log))),
        None if log.contains("no verdict (run)") => Ok(Said::Fault(remark(log))),
        None if log.contains("no verdict (boot)") => Ok(Said::NoBoot(remark(log))),
        None => bail!("the driver does not work:\n{log}"),
    }
}

fn notices(results: Option<&Results>) -> Vec<Notice> {
    let records = results.iter().flat_map(|results| &results.cases);
    let failed = records.filter(|record| record.verdict == Verdict::Fail);
    failed.map(|record| Notice { case: record.case.clone(), message: record.message.clone() }).collect()
}

/// The driver's own remark on a run.
fn remark(log: &str) -> String {
    let is_remark = |line: &&str| line.contains("reported a fault") || line.contains("no verdict");
    let line = log.lines().find(is_remark).or(log.lines().last());
    line.unwrap_or_default().trim_start_matches("run.sh: ").to_owned()
}

/// What was said, for a table.
pub fn in_a_line(said: &Said) -> String {
    match said {
        Said::Noticed(notices) => {
            notices.first().map_or_else(String::new, |first| format!("{}: {}", first.case, first.message))
        }
        Said::Fault(why) => why.clone(),
        Said::Nothing { cases } => format!("{cases} cases passed"),
        Said::NoBoot(why) => why.clone(),
    }
}
