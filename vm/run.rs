//! One run: a kernel, a machine, the suite in it, a verdict.
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clone3_conformance::guest::Plan;

use crate::accel::{self, Accel, Threads};
use crate::archive::Archive;
use crate::cache::Cache;
use crate::cli::Cli;
use crate::console::Finding;
use crate::interrupt::Interrupts;
use crate::kernel::{self, Kernel};
use crate::machine::Machine;
use crate::note;
use crate::outcome::{FAILED, NO_VERDICT, Outcome, boot_findings, judge};
use crate::qemu;
use crate::watch::{Limits, Session};

/// How long a kernel may take to come to the suite's first line, on the slowest of machines.
const BOOT: Duration = Duration::from_secs(120);

/// How often a guest that does not boot is tried.
const BOOTS: u32 = 3;

/// Does what the command line says; the result is the exit status.
pub fn run(cli: &Cli, cache: &Cache, interrupts: &Interrupts) -> Result<u8> {
    let archive = Archive { cache, interrupts };
    let kernel =
        kernel::get(&cli.kernel, &archive, cli.refresh).context("no verdict, for want of a kernel")?;
    let accel = accel::choose(cli.accel, cache, interrupts).context("no verdict, for want of a machine")?;
    let limits = Limits { boot: BOOT, whole: cli.timeout };
    let machine =
        Machine { accel, cpus: cli.cpus, memory: cli.memory.clone(), limits, append: cli.append.clone() };
    let run = Run { cli, kernel, plan: plan(cli), binary: binary(cli)?, interrupts };
    run.announce(&machine);
    let (status, _session) = run.verdict(machine)?;
    Ok(status)
}

/// What the guest is to do.
fn plan(cli: &Cli) -> Plan {
    let mut args = vec!["--allow-global-changes".to_owned()];
    // The guest's output is a serial line; whether it ends at a terminal is known here.
    if !cli.runner.iter().any(|arg| arg.starts_with("--color")) {
        let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        args.push(format!("--color={}", if colour { "always" } else { "never" }));
    }
    args.extend(cli.runner.iter().cloned());
    Plan { args, user: cli.user, output: "/dev/ttyS1".to_owned(), journal: "/dev/ttyS2".to_owned() }
}

/// The suite's binary: beside the driver's, unless it was named.
fn binary(cli: &Cli) -> Result<PathBuf> {
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("clone3-conformance"));
    let path = cli.suite.clone().map_or_else(beside, Ok)?;
    ensure!(path.exists(), "{} is not there; vm/run.sh builds it", path.display());
    Ok(path)
}

struct Run<'a> {
    cli: &'a Cli,
    kernel: Kernel,
    plan: Plan,
    binary: PathBuf,
    interrupts: &'a Interrupts,
}

impl Run<'_> {
    fn announce(&self, machine: &Machine) {
        let origin = self.kernel.package.as_ref().map_or_else(
            || self.kernel.image.display().to_string(),
            |package| format!("Debian {}, {}", package.version, package.suite),
        );
        note!(
            "Linux {} ({origin}), {} with {} processor{}, {} MiB",
            self.kernel.release,
            machine.accel.name().to_uppercase(),
            machine.cpus,
            if machine.cpus == 1 { "" } else { "s" },
            machine.memory,
        );
    }

    /// Boots until there is a verdict, or none to be had.
    fn verdict(&self, mut machine: Machine) -> Result<(u8, Session)> {
        let mut boots = 1;
        let mut believed = false;
        loop {
            let (session, complaint) = qemu::boot(
                &self.kernel,
                &self.plan,
                &self.binary,
                &machine,
                self.interrupts,
                &mut stdout().lock(),
            )?;
            for finding in boot_findings(&session) {
                note!("while it booted, the kernel said: {}", finding.excerpt.join(" / "));
            }
            let status = match judge(&session, machine.accel, believed) {
                Outcome::Verdict { status, why } => {
                    if let Some(why) = why {
                        note!("{why}{}", while_running(&session.journal.running));
                    }
                    status
                }
                Outcome::Accused(findings) => {
                    findings.iter().for_each(show);
                    FAILED
                }
                Outcome::Suspected(findings) => {
                    findings.iter().for_each(show);
                    note!("that may be the host's doing and not the kernel's; running it all again to know");
                    believed = true;
                    if let Accel::Tcg { threads } = &mut machine.accel {
                        *threads = Threads::Single;
                    }
                    continue;
                }
                Outcome::NoBoot { why, .. } if boots < BOOTS => {
                    note!("{why}; booting again ({boots} of {})", BOOTS - 1);
                    boots += 1;
                    continue;
                }
                Outcome::NoBoot { why, last } => {
                    no_verdict("boot", &why, &last, &complaint);
                    NO_VERDICT
                }
                Outcome::Lost { why, running, last } => {
                    no_verdict("run", &format!("{why}{}", while_running(&running)), &last, &complaint);
                    NO_VERDICT
                }
            };
            return Ok((status, session));
        }
    }
}

/// Shows what the kernel said, and what was running.
fn show(finding: &Finding) {
    note!("the kernel reported a fault ({:?}){}:", finding.fault, while_running(&finding.running));
    finding.excerpt.iter().for_each(|line| eprintln!("    {line}"));
}

fn while_running(cases: &[String]) -> String {
    match cases {
        [] => " while no case was running".to_owned(),
        [case] => format!(" while {case} was running"),
        cases => format!(" while these cases were running: {}", cases.join(", ")),
    }
}

/// Shows where and how a guest went away.
fn no_verdict(stage: &str, why: &str, last: &[String], complaint: &str) {
    note!("no verdict ({stage}): {why}");
    complaint.lines().for_each(|line| eprintln!("    {line}"));
    if !last.is_empty() {
        note!("the last lines of the console:");
        last.iter().for_each(|line| eprintln!("    {line}"));
    }
}
