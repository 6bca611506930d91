//! `vm/run.sh --list-kernels`: the list of available kernels.
use std::fmt::Write;

use anyhow::Result;

use crate::archive::Archive;
use crate::cache::Cache;
use crate::cli::Cli;
use crate::interrupt::Interrupts;
use crate::version::upstream;

/// Prints the archive's kernels, oldest first, with the versions that `--kernel` accepts.
pub fn show(cli: &Cli, cache: &Cache, interrupts: &Interrupts) -> Result<u8> {
    let index = Archive { cache, interrupts, arch: cli.kernel.arch() }.index(cli.refresh)?;
    let mut rows: Vec<[&str; 4]> = Vec::new();
    for package in index.images() {
        let Some(name) = package.parsed() else { continue };
        rows.push([upstream(&package.version), name.flavor, &package.suite, name.base]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let (version, flavor, suite) = (width(0), width(1), width(2));
    let mut text = String::new();
    for row in &rows {
        writeln!(text, "{:version$}  {:flavor$}  {:suite$}  {}-{}", row[0], row[1], row[2], row[3], row[1])?;
    }
    Ok(crate::show(&text))
}
