//! The results of a run, as documents: the suite's own words, and what the driver knows of kernel and machine.
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

/// Where the results go, and what is in them that no guest tells.
#[derive(Clone, Default)]
pub struct Account {
    /// Written anew with everything that the guest tells.
    documents: Vec<PathBuf>,
    /// Written once, at the end.
    reports: Vec<(PathBuf, Format)>,
    claims: Vec<Claim>,
    /// What is known before the kernel is booted.
    known: Results,
}

impl Account {
    /// Before anything is known of kernel and machine.
    pub fn open(cli: &Cli) -> Self {
        let (documents, reports): (Vec<_>, Vec<_>) =
            cli.report.iter().cloned().partition(|(_, format)| *format == Format::Json);
        let documents = cli.results.iter().cloned().chain(documents.into_iter().map(|(path, _)| path));
        let known = Results {
            schema: SCHEMA,
            // vm/run.sh says from which commit it has just built driver and suite.
            suite: Suite::this(&std::env::var("CLONE3_CONFORMANCE_COMMIT").unwrap_or_default()),
            ..Results::default()
        };
        Self { documents: documents.collect(), reports, claims: Vec::new(), known }
    }

    /// Writes everything as it is before a kernel is booted, which tells whether it can be written.
    pub fn begin(&self) -> Result<()> {
        self.write(&self.known)
    }

    /// Asks the suite what its claims say, if anybody will want to read it. A suite that does not know has nothing to
    /// add.
    pub fn ask_for_claims(&mut self, suite: &Path) {
        if !self.documents.is_empty() || !self.reports.is_empty() {
            let told = output(Command::new(suite).args(["--claims", "json"])).unwrap_or_default();
            self.claims = serde_json::from_slice(&told).unwrap_or_default();
        }
    }

    /// Adds what is known of a kernel, and of the machine that it is about to be booted on.
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
            memory_mib: machine.memory.parse().ok(),
            emulated: None,
        };
        rerun.clone_into(&mut self.known.rerun);
    }

    /// Writes what the guest has told so far. That this goes wrong is said at the end, when it matters.
    pub fn keep(&self, journal: &[String]) {
        if !self.documents.is_empty() {
            let _ = self.write_documents(&self.results(journal));
        }
    }

    /// Writes everything, each file whole or not at all.
    pub fn close(&self, session: Option<&Session>, ending: &Ending) -> Result<()> {
        let journal = session.map_or(&[][..], |session| &session.journal.lines);
        let mut results = self.results(journal);
        results.guest = Some(ending.describe(session));
        self.write(&results)
    }

    /// Writes documents and reports; one that cannot be written keeps none of the others from it.
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

    /// The guest's words and ours.
    fn results(&self, journal: &[String]) -> Results {
        let Some(mut results) = Results::from_journal(&journal.join("\n")) else { return self.known.clone() };
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
    document::write_whole(path, text)
        .with_context(|| format!("the results are lost: cannot write {}", path.display()))
}

/// How the guest ended, beside what the suite itself says.
#[derive(Default)]
pub struct Ending {
    /// The exit status of the whole run.
    pub status: u8,
    /// Where a run without a verdict came to its end, and why.
    pub no_verdict: Option<(&'static str, String)>,
    /// What the kernel reported about itself while the suite ran.
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
