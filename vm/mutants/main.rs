//! Builds broken kernels, runs the suite on each, and says which mistakes it does not notice.

mod catalogue;
mod kernel;
mod proof;
mod source;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Result, bail, ensure};
use clap::Parser;

use catalogue::Mutant;
use kernel::{Builder, Built, Kernel};
use proof::Fate;
use suite::Suite;

/// Build broken kernels, run the suite on each, and say which mistakes it does not notice.
///
/// Exit status: 0 every mistake was noticed, 1 some was not.
#[derive(Parser)]
#[command(name = "vm/mutants.sh", max_term_width = 100)]
struct Arguments {
    /// Kernel source tree to configure, build and break; give it a copy of its own (git worktree add)
    #[arg(long, value_name = "DIR")]
    tree: PathBuf,

    /// Where images and answers are kept
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,

    /// The catalogue, with the kernel's configuration
    #[arg(long, value_name = "DIR", default_value = "vm/mutants")]
    catalogue: PathBuf,

    /// Only these mutants
    #[arg(long, value_name = "ID", num_args = 1..)]
    only: Vec<String>,

    /// How many guests, or compilers, may run at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,

    /// Say what is in the catalogue, and end
    #[arg(long)]
    list: bool,

    /// Build the kernels and run nothing
    #[arg(long)]
    build_only: bool,

    /// Write the report to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mutants = chosen(catalogue::load(&arguments.catalogue)?, &arguments.only)?;
    if arguments.list {
        mutants.iter().for_each(|mutant| println!("{}\t{}", mutant.id, mutant.sees));
        return Ok(ExitCode::SUCCESS);
    }
    let builder = Builder::new(&arguments.tree, &arguments.cache, arguments.jobs)?;
    // Known in a moment, where building takes an hour.
    for (mutant, why) in mutants.iter().filter_map(|mutant| Some((mutant, builder.misfit(mutant)?))) {
        println!("{}: does not apply: {why}", mutant.id);
    }
    let base = builder.base(&arguments.catalogue.join("kernel.config"))?;
    println!("base: {}", base.image.display());
    let trials = build(&builder, &base, mutants)?;
    if arguments.build_only {
        return Ok(ExitCode::SUCCESS);
    }
    let suite = Suite::beside_us(&arguments.cache)?;
    suite.accepts(&base)?;
    let fates = judge(&suite, trials, arguments.jobs)?;
    report(&builder, &suite, &fates, &arguments)
}

fn chosen(mutants: Vec<Mutant>, only: &[String]) -> Result<Vec<Mutant>> {
    if let Some(unknown) = only.iter().find(|id| mutants.iter().all(|mutant| mutant.id != **id)) {
        bail!("no mutant is called {unknown}");
    }
    ensure!(!mutants.is_empty(), "the catalogue is empty");
    Ok(mutants.into_iter().filter(|mutant| only.is_empty() || only.contains(&mutant.id)).collect())
}

/// A mutant, and its kernel or its fate.
type Trial = (Mutant, Result<Kernel, Fate>);

/// Builds all kernels, one after the other: there is one tree.
fn build(builder: &Builder, base: &Kernel, mutants: Vec<Mutant>) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for mutant in mutants {
        let kernel = match builder.mutant(base, &mutant)? {
            Built::Kernel(kernel) if kernel.sha256 == base.sha256 => {
                Err(Fate::Equivalent("The compiler makes the same kernel of it.".to_owned()))
            }
            Built::Kernel(kernel) => {
                mutant.equivalent.clone().map_or(Ok(kernel), |why| Err(Fate::Equivalent(why)))
            }
            Built::DoesNotApply(why) => Err(Fate::DoesNotApply(why)),
            Built::DoesNotBuild(why) => Err(Fate::DoesNotBuild(why)),
        };
        match &kernel {
            Ok(_) => println!("{}: built", mutant.id),
            Err(fate) => println!("{}: {}: {}", mutant.id, fate.word(), fate.story()),
        }
        trials.push((mutant, kernel));
    }
    Ok(trials)
}

/// Runs the suite on every kernel, `jobs` at a time.
fn judge(suite: &Suite, trials: Vec<Trial>, jobs: u16) -> Result<Vec<(Mutant, Fate)>> {
    let total = trials.len();
    let queue = Mutex::new(trials.into_iter().enumerate());
    let fates = Mutex::new(Vec::with_capacity(total));
    let work = || -> Result<()> {
        loop {
            let next = queue.lock().unwrap_or_else(|poison| poison.into_inner()).next();
            let Some((place, (mutant, kernel))) = next else { return Ok(()) };
            let fate = match kernel {
                Ok(kernel) => Fate::Judged(suite.judges(&kernel, &mutant)?),
                Err(fate) => fate,
            };
            println!("{}: {}: {}", mutant.id, fate.word(), fate.story());
            fates.lock().unwrap_or_else(|poison| poison.into_inner()).push((place, mutant, fate));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let mut fates = fates.into_inner().unwrap_or_else(|poison| poison.into_inner());
    fates.sort_by_key(|(place, ..)| *place);
    Ok(fates.into_iter().map(|(_, mutant, fate)| (mutant, fate)).collect())
}

/// Prints what was missed and the totals, and writes the document.
fn report(
    builder: &Builder,
    suite: &Suite,
    fates: &[(Mutant, Fate)],
    arguments: &Arguments,
) -> Result<ExitCode> {
    let holes: Vec<_> = fates.iter().filter(|(_, fate)| fate.is_hole()).collect();
    for (mutant, fate) in &holes {
        println!("{}: {}: {}; its claims: {}", fate.word(), mutant.id, mutant.sees, mutant.claims.join(", "));
    }
    let mutants: Vec<Mutant> = fates.iter().map(|(mutant, _)| mutant.clone()).collect();
    let unchecked = suite.unchecked(&mutants);
    if !unchecked.is_empty() {
        println!("no case checks: {}", unchecked.into_iter().collect::<Vec<_>>().join(", "));
    }
    println!("{}", proof::totals(fates));
    if let Some(path) = &arguments.proof {
        std::fs::write(path, proof::document(&builder.release()?, fates))?;
    }
    Ok(if holes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
