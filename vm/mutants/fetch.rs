//! What the driver, the program behind vm/run.sh, keeps in its cache for this one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clone3_conformance::host::cache_folder;

/// Returns the folder in the driver's cache for everything that is built.
pub fn cache() -> Result<PathBuf> {
    Ok(cache_folder().context("no place for a cache: set HOME or XDG_CACHE_HOME")?.join("mutants"))
}

/// Returns the unpacked tree of a source package in Debian's archive, such as `linux-source-7.3`; the driver downloads it once.
pub fn tree(package: &str, driver: &Path) -> Result<PathBuf> {
    let mut source = Command::new(driver);
    let output = source.args(["source", package]).stderr(Stdio::inherit()).output().context("vm/run.sh")?;
    ensure!(output.status.success(), "no kernel source {package}");
    let path = String::from_utf8(output.stdout).context("the path of the kernel source")?;
    Ok(PathBuf::from(path.trim_end_matches('\n')))
}
