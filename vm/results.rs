//! The results of a run, as one document: the suite's own, and what the driver knows of kernel and machine.
use std::path::Path;

use anyhow::{Context, Result};
use clone3_conformance::report::Results;
use serde_json::{Value, json};

use crate::cache::write_whole;
use crate::console::Finding;
use crate::engine::Engine;
use crate::kernel::Kernel;
use crate::machine::Machine;

/// The driver's share of a document; empty where there was no kernel to boot.
#[derive(Default)]
pub struct Account {
    machine: Value,
    package: Value,
}

impl Account {
    /// What is known before the kernel is booted.
    pub fn of(kernel: &Kernel, machine: &Machine, engine: &Engine) -> Self {
        let package = kernel.package.as_ref().map(
            |package| json!({ "name": package.name, "version": package.version, "suite": package.suite }),
        );
        let machine = json!({
            "engine": engine.name(),
            "accelerator": machine.accel.name(),
            "cpus": machine.cpus,
            "memory_mib": machine.memory.parse::<u64>().ok(),
        });
        Self { machine, package: json!(package) }
    }

    /// Writes the document, whole or not at all.
    pub fn write(&self, path: &Path, journal: &[String], ending: &Ending) -> Result<()> {
        let results = Results::from_journal(&journal.join("\n"));
        let mut document = serde_json::to_value(results)?;
        if document.is_null() {
            document = json!({});
        }
        document["machine"] = self.machine.clone();
        document["package"] = self.package.clone();
        document["guest"] = ending.describe();
        let mut text = serde_json::to_vec_pretty(&document)?;
        text.push(b'\n');
        write_whole(path, &text).context("the results are lost")
    }
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
    fn describe(&self) -> Value {
        let fault = |fault: &Finding| json!({ "fault": fault.fault.to_string(), "running": fault.running, "console": fault.excerpt });
        json!({
            "status": self.status,
            "no_verdict": self.no_verdict.as_ref().map(|(stage, why)| json!({ "stage": stage, "why": why })),
            "faults": self.faults.iter().map(fault).collect::<Vec<_>>(),
        })
    }
}
