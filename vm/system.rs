//! System packages that the driver needs, and their installation where that is permitted.
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clone3_conformance::elf;
use rustix::process::geteuid;

use crate::cache::Cache;
use crate::interrupt::{Interrupted, Interrupts};
use crate::note;
use crate::process::succeed_undisturbed;

/// Something that a system package contains.
#[derive(Clone, Copy, Debug)]
pub enum Thing {
    /// A program in the search path.
    Program(&'static str),
    /// A program in the search path that is statically linked.
    Static(&'static str),
    File(&'static str),
    /// A module of the system's Python.
    Python(&'static str),
}

/// A system package, and the part of it that must be present.
pub type Need = (&'static str, Thing);

/// Seconds that apt-get waits for another program that installs packages.
const PATIENCE: &str = "DPkg::Lock::Timeout=600";

/// Ensures that everything is present, and installs the missing packages, one run after another.
pub fn ensure(needs: &[Need], cache: &Cache, interrupts: &Interrupts) -> Result<()> {
    if missing(needs).is_empty() {
        return Ok(());
    }
    let _lock = cache.lock("system-packages", interrupts)?;
    match missing(needs) {
        // Another run has installed them.
        missing if missing.is_empty() => Ok(()),
        missing => install(&missing, interrupts),
    }
}

/// Returns the packages that are missing.
fn missing(needs: &[Need]) -> Vec<&'static str> {
    needs.iter().filter(|(_, thing)| !thing.is_there()).map(|(package, _)| *package).collect()
}

/// Installs packages. apt-get always runs to its end: killed in between, it leaves packages that are not configured.
fn install(missing: &[&str], interrupts: &Interrupts) -> Result<()> {
    let wanted = missing.join(" ");
    let Some(root) = way_to_root() else {
        bail!("not installed here: {wanted}; as root: apt-get install {wanted}")
    };
    note!("installing system packages: {wanted}");
    let apt = |arguments: &[&str]| {
        let command = root.iter().copied().chain([
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-qq",
            "-o",
            PATIENCE,
        ]);
        let command: Vec<&str> = command.chain(arguments.iter().copied()).collect();
        succeed_undisturbed(Command::new(command[0]).args(&command[1..]), interrupts)
    };
    let install = [&["install", "--yes", "--no-install-recommends"], missing].concat();
    match apt(&install) {
        // The machine's package lists may be missing or outdated.
        Err(error) if !error.is::<Interrupted>() => apt(&["update"]).and_then(|()| apt(&install)),
        done => done,
    }
    .with_context(|| format!("cannot install {wanted}"))
}

/// Returns the prefix of a command that must run as root: empty for root, `sudo` if it needs no password.
fn way_to_root() -> Option<&'static [&'static str]> {
    let sudo =
        || Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|output| output.status.success());
    match geteuid().is_root() {
        true => Some(&[]),
        false => sudo().then_some(&["sudo", "-n"]),
    }
}

impl Thing {
    fn is_there(self) -> bool {
        match self {
            Self::Program(name) => find(name).is_some(),
            Self::Static(name) => {
                let program = find(name).and_then(|path| fs::read(path).ok()).unwrap_or_default();
                elf::is_program(&program) && elf::segment(&program, libc::PT_INTERP).is_none()
            }
            Self::File(path) => Path::new(path).exists(),
            Self::Python(module) => {
                let import = format!("import {module}");
                Command::new("python3")
                    .args(["-c", &import])
                    .output()
                    .is_ok_and(|output| output.status.success())
            }
        }
    }
}

/// Returns the path of a program in the search path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}
