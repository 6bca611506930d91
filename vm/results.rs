//! The results of a run as documents: what the suite reports, plus what the driver knows about the kernel and the machine.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clone3_conformance::formats::Format;
use clone3_conformance::report::{SCHEMA, Suite};
use clone3_conformance::results::{self as document, Claim, Results};

use crate::cli::Cli;
use crate::console::Finding;
use crate::engine::Engine;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::process::output;
use crate::watch::Session;

/// Where the results go, and the parts of them that the guest does not report.
pub struct ResultFiles {
    /// Rewritten whenever the guest reports something.
    documents: Vec<PathBuf>,
    /// Written once, at the end.
    reports: Vec<(PathBuf, Format)>,
    claims: Vec<Claim>,
    /// What is known before the kernel boots.
    known: Results,
    /// What the guest has reported, including one that was booted again and has not reported anything yet.
    journal: Vec<String>,
}

impl ResultFiles {
    /// Prepares the files before anything is known about the kernel and the machine.
    pub fn open(cli: &Cli) -> Self {
        let (documents, reports): (Vec<_>, Vec<_>) =
            cli.report.iter().cloned().partition(|(_, format)| *format == Format::Json);
        let documents = cli.results.iter().cloned().chain(documents.into_iter().map(|(path, _)| path));
        let known = Results {
            schema: SCHEMA,
            // vm/run.sh passes the commit from which it has just built driver and suite.
            suite: Suite::this(&std::env::var("CLONE3_CONFORMANCE_COMMIT").unwrap_or_default()),
            ..Results::default()
        };
        Self { documents: documents.collect(), reports, claims: Vec::new(), known, journal: Vec::new() }
    }

    /// Writes all files as they are before the boot, to find out early whether they can be written.
    pub fn begin(&self) -> Result<()> {
        self.write(&self.known)
    }

    /// Asks the suite for the texts of its claims, if any document or report will contain them. A suite that does not know the
    /// option adds nothing.
    pub fn ask_for_claims(&mut self, suite: &Path) {
        if !self.documents.is_empty() || !self.reports.is_empty() {
            let told = output(Command::new(suite).args(["--claims", "json"])).unwrap_or_default();
            self.claims = serde_json::from_slice(&told).unwrap_or_default();
        }
    }

    /// Adds what is known about the kernel and the machine that is about to boot it.
    pub fn knows(&mut self, kernel: &Kernel, machine: &Machine, engine: &Engine, rerun: &str) {
        self.known.kernel.release.clone_from(&kernel.release);
        self.known.kernel.package = kernel.package.as_ref().map(|package| document::Package {
            name: package.name.clone(),
            version: package.version.clone(),
            suite: package.suite.clone(),
        });
        self.known.machine = document::Machine {
            engine: Some(engine.name().to_owned()),
            accelerator: Some(machine.accel.name().to_owned()),
            cpus: Some(usize::from(machine.cpus)),
            memory_mib: Some(machine.memory_mib),
            emulated: None,
        };
        rerun.clone_into(&mut self.known.rerun);
    }

    /// Writes what the guest has reported so far. An error is reported only at the end, when it matters.
    pub fn keep(&mut self, journal: &[String]) {
        journal.clone_into(&mut self.journal);
        if !self.documents.is_empty() {
            let _ = self.write_documents(&self.results());
        }
    }

    /// Writes all files, each atomically.
    pub fn close(&self, session: Option<&Session>, ending: &Ending) -> Result<()> {
        let mut results = self.results();
        results.guest = Some(ending.describe(session));
        self.write(&results)
    }

    /// Writes documents and reports; an error in one does not prevent the others from being written.
    fn write(&self, results: &Results) -> Result<()> {
        let documents = self.write_documents(results);
        let report = |(path, format): &(PathBuf, Format)| write(path, &format.render(results));
        let reports: Vec<Result<()>> = self.reports.iter().map(report).collect();
        documents.and(reports.into_iter().collect())
    }

    fn write_documents(&self, results: &Results) -> Result<()> {
        let text = results.to_json();
        let written: Vec<Result<()>> = self.documents.iter().map(|path| write(path, &text)).collect();
        written.into_iter().collect()
    }

    /// Combines the guest's reports with what the driver knows.
    fn results(&self) -> Results {
        let Some(mut results) = Results::from_journal(&self.journal.join("\n")) else {
            return self.known.clone();
        };
        let known = self.known.clone();
        results.kernel.package = known.kernel.package;
        results.machine.engine = known.machine.engine;
        results.machine.accelerator = known.machine.accelerator;
        results.machine.memory_mib = known.machine.memory_mib;
        results.rerun = known.rerun;
        if results.suite.commit.is_empty() {
            results.suite.commit = known.suite.commit;
        }
        results.explain(&self.claims);
        results
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    document::write_whole(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// How the guest ended, in addition to what the suite itself reports.
#[derive(Default)]
pub struct Ending {
    /// The exit status of the whole run.
    pub status: u8,
    /// The stage in which a run without a verdict ended, and the reason.
    pub no_verdict: Option<(&'static str, String)>,
    /// The faults that the kernel reported while the suite ran.
    pub faults: Vec<Finding>,
}

impl Ending {
    fn describe(&self, session: Option<&Session>) -> document::Guest {
        let fault = |fault: &Finding| document::Fault {
            fault: fault.fault.to_string(),
            running: fault.running.clone(),
            console: fault.excerpt.clone(),
        };
        let no_verdict = |(stage, why): &(&str, String)| document::NoVerdict {
            stage: (*stage).to_owned(),
            why: why.clone(),
        };
        document::Guest {
            status: self.status,
            no_verdict: self.no_verdict.as_ref().map(no_verdict),
            faults: self.faults.iter().map(fault).collect(),
            boot_seconds: session.and_then(|session| session.boot).map(|boot| boot.as_secs_f64()),
            seconds: session.map(|session| session.whole.as_secs_f64()),
        }
    }
}
