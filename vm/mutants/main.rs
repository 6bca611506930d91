//! Builds broken kernels, runs the suite on each, and says which mistakes it does not notice.

mod catalogue;
mod kernel;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

use catalogue::Mutant;
use kernel::{Builder, Built};

/// Build broken kernels and run the suite on each.
#[derive(Parser)]
struct Arguments {
    /// Kernel source tree to break; every file is put back.
    #[arg(long)]
    tree: PathBuf,
    /// Where images and results are kept.
    #[arg(long)]
    cache: PathBuf,
    /// The catalogue, with the kernel's configuration.
    #[arg(long, default_value = "vm/mutants")]
    catalogue: PathBuf,
    /// Only these mutants.
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// How many compilers may run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Say what is in the catalogue.
    #[arg(long)]
    list: bool,
    /// Build the kernels and run nothing.
    #[arg(long)]
    build_only: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mutants = chosen(catalogue::load(&arguments.catalogue)?, &arguments.only)?;
    if arguments.list {
        mutants.iter().for_each(|mutant| println!("{}\t{}", mutant.id, mutant.sees));
        return Ok(ExitCode::SUCCESS);
    }
    let builder = Builder::new(&arguments.tree, &arguments.cache, arguments.jobs)?;
    let base = builder.base(&arguments.catalogue.join("kernel.config"))?;
    println!("base\t{}", base.image.display());
    for mutant in &mutants {
        match builder.mutant(&base, mutant)? {
            Built::Kernel(kernel) if kernel.sha256 == base.sha256 => println!("{}\tsame code as the base", mutant.id),
            Built::Kernel(kernel) => println!("{}\t{}", mutant.id, kernel.image.display()),
            Built::DoesNotApply(why) => println!("{}\t{why}", mutant.id),
            Built::DoesNotBuild(why) => println!("{}\tdoes not build: {why}", mutant.id),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn chosen(mutants: Vec<Mutant>, only: &[String]) -> Result<Vec<Mutant>> {
    let known = |id: &String| mutants.iter().any(|mutant| mutant.id == *id);
    if let Some(unknown) = only.iter().find(|id| !known(id)) {
        anyhow::bail!("no mutant is called {unknown}");
    }
    ensure!(!mutants.is_empty(), "the catalogue is empty");
    Ok(mutants.into_iter().filter(|mutant| only.is_empty() || only.contains(&mutant.id)).collect())
}
