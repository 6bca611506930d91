//! Builds broken kernels, runs the suite on each, and says which mistakes it does not notice.

mod catalogue;
mod fetch;
mod kernel;
mod proof;
mod source;
mod suite;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::ScopedJoinHandle;

use anyhow::{Error, Result, bail, ensure};
use clap::Parser;

use catalogue::Mutant;
use kernel::{Builder, Built, Kernel};
use proof::Fate;
use suite::Suite;

/// Exit status: the run itself failed, which says nothing of the suite.
const BROKEN: u8 = 3;

/// Build broken kernels, run the suite on each, and say which mistakes it does not notice.
///
/// Exit status: 0 every mistake was noticed; 1 some was not, or could not be tried; 2 usage; 3 the run itself failed.
#[derive(Parser)]
#[command(name = "vm/mutants.sh", max_term_width = 100)]
struct Arguments {
    /// Kernel source tree to configure, build and break: give it a copy of its own, as from git worktree add
    #[arg(long, value_name = "DIR", conflicts_with = "source")]
    tree: Option<PathBuf>,

    /// Without a tree: the source package of Debian's archive that has one
    #[arg(long, value_name = "PACKAGE", default_value = "linux-source-7.3")]
    source: String,

    /// Where images and answers are kept (default: mutants in the cache of vm/run.sh)
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

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

fn main() -> ExitCode {
    start(&Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("mutants.sh: {error:#}");
        ExitCode::from(BROKEN)
    })
}

fn start(arguments: &Arguments) -> Result<ExitCode> {
    let mutants = chosen(catalogue::load(&arguments.catalogue)?, &arguments.only)?;
    if arguments.list {
        mutants.iter().for_each(|mutant| println!("{}\t{}", mutant.id, mutant.sees));
        return Ok(ExitCode::SUCCESS);
    }
    let cache =
        arguments.cache.clone().map_or_else(|| Ok(fetch::cache()?.join("mutants")), Ok::<_, Error>)?;
    let builder = Builder::new(&tree(arguments)?, &cache, arguments.jobs)?;
    // Known in a moment, where building takes an hour.
    for (mutant, why) in mutants.iter().filter_map(|mutant| Some((mutant, builder.misfit(mutant)?))) {
        println!("{}: does not apply: {why}", mutant.id);
    }
    let base = builder.base(&arguments.catalogue.join("kernel.config"))?;
    println!("base: {}", base.image.display());
    if arguments.build_only {
        try_all(&builder, &base, mutants, None, arguments.jobs)?;
        return Ok(ExitCode::SUCCESS);
    }
    let suite = Suite::beside_us(&cache)?;
    suite.accepts(&base)?;
    let fates = try_all(&builder, &base, mutants, Some(&suite), arguments.jobs)?;
    report(&builder, &suite, &fates, arguments.proof.as_deref())
}

/// The tree that was given, or one from the archive.
fn tree(arguments: &Arguments) -> Result<PathBuf> {
    match &arguments.tree {
        Some(tree) => Ok(tree.clone()),
        None => fetch::tree(&arguments.source, &suite::driver()?),
    }
}

/// Builds each mutant and runs the suite on it, the one while the other.
fn try_all(
    builder: &Builder,
    base: &Kernel,
    mutants: Vec<Mutant>,
    suite: Option<&Suite>,
    jobs: u16,
) -> Result<Vec<(Mutant, Fate)>> {
    std::thread::scope(|scope| {
        let (done, trials) = channel();
        let building = scope.spawn(|| build(builder, base, mutants, done));
        let fates = judge(suite, trials, jobs)?;
        joined(building).map(|()| fates)
    })
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

/// Builds all kernels, one after the other since there is one tree, and passes each on as soon as it is there.
fn build(builder: &Builder, base: &Kernel, mutants: Vec<Mutant>, done: Sender<Trial>) -> Result<()> {
    for mutant in mutants {
        let kernel = match builder.mutant(base, &mutant)? {
            Built::Kernel(kernel) => distinguishable(base, &mutant, kernel),
            Built::DoesNotApply(why) => Err(Fate::DoesNotApply(why)),
            Built::DoesNotBuild(why) => Err(Fate::DoesNotBuild(why)),
        };
        // Nobody listens any more where running the suite has failed; that is reported there.
        if done.send((mutant, kernel)).is_err() {
            break;
        }
    }
    Ok(())
}

/// The kernel, unless it is known that no program can tell it from the base.
fn distinguishable(base: &Kernel, mutant: &Mutant, kernel: Kernel) -> Result<Kernel, Fate> {
    if kernel.sha256 == base.sha256 {
        return Err(Fate::Equivalent("The compiler makes the same kernel of it.".to_owned()));
    }
    mutant.equivalent.clone().map_or(Ok(kernel), |why| Err(Fate::Equivalent(why)))
}

/// Runs the suite on every kernel as it comes, `jobs` at a time. Without a suite, the kernels are all that is wanted.
fn judge(suite: Option<&Suite>, trials: Receiver<Trial>, jobs: u16) -> Result<Vec<(Mutant, Fate)>> {
    let trials = Mutex::new(trials);
    let fates = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let next = trials.lock().unwrap_or_else(|poison| poison.into_inner()).recv();
            let Ok((mutant, kernel)) = next else { return Ok(()) };
            let fate = match (kernel, suite) {
                (Ok(kernel), Some(suite)) => Fate::Judged(suite.judges(&kernel, &mutant)?),
                (Ok(_), None) => Fate::Built,
                (Err(fate), _) => fate,
            };
            println!("{}: {}", mutant.id, fate.line());
            fates.lock().unwrap_or_else(|poison| poison.into_inner()).push((mutant, fate));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(joined)
    })?;
    let mut fates = fates.into_inner().unwrap_or_else(|poison| poison.into_inner());
    fates.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    Ok(fates)
}

/// What a thread came to; its panic is ours.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Prints what was missed and the totals, and writes the document.
fn report(
    builder: &Builder,
    suite: &Suite,
    fates: &[(Mutant, Fate)],
    proof: Option<&Path>,
) -> Result<ExitCode> {
    for (mutant, fate) in fates {
        let claims = mutant.claims.join(", ");
        if fate.is_hole() {
            println!("{}: {}: {}; its claims: {claims}", fate.word(), mutant.id, mutant.sees);
        }
        // Either its claims are incomplete, or the case that checks them is weak.
        if let Some(case) = fate.noticed_by().filter(|case| mutant.claims.iter().all(|claim| claim != case)) {
            println!("noticed only by {case}: {}: {}; its claims: {claims}", mutant.id, mutant.sees);
        }
    }
    let unchecked = suite.unchecked(fates.iter().map(|(mutant, _)| mutant));
    if !unchecked.is_empty() {
        println!("no case checks: {}", unchecked.into_iter().collect::<Vec<_>>().join(", "));
    }
    println!("{}", proof::totals(fates));
    if let Some(path) = proof {
        std::fs::write(path, proof::document(&builder.release()?, fates))?;
    }
    let is_whole = fates.iter().all(|(_, fate)| !fate.is_hole());
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
