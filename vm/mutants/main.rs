//! Builds broken kernels, runs the suite on each, and reports which mistakes it does not notice.
#![forbid(unsafe_code)]

mod catalogue;
mod coverage;
mod fetch;
mod fixed;
mod kernel;
mod link;
mod proof;
mod source;
mod suite;
mod sweep;
mod variant;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread::ScopedJoinHandle;

use anyhow::{Context, Error, Result, bail, ensure};
use clap::Parser;
use clone3_conformance::usage;

use catalogue::Mutant;
use coverage::Sheet;
use kernel::{Builder, Built};
use proof::MutantResult;
use source::Source;
use suite::Suite;
use sweep::Place;
use variant::Variant;

/// Exit status: the run itself failed, which says nothing about the suite.
const BROKEN: u8 = 3;

/// Build broken kernels (mutants), run the suite on each, and report which ones it does not notice.
///
/// Exit status: 0 every mutant (with --fixed, every fix) was noticed; 1 some was not, or could not be tried; 2 usage error;
/// 3 the run itself failed.
#[derive(Parser)]
#[command(name = "vm/mutants.sh", max_term_width = 100)]
struct Arguments {
    /// Kernel source tree to use, which is only read; it must be clean (make mrproper)
    #[arg(long, value_name = "DIR", conflicts_with = "source")]
    tree: Option<PathBuf>,

    /// Without a tree: the source package in Debian's archive that has one
    #[arg(long, value_name = "PACKAGE", default_value = "linux-source-7.3")]
    source: String,

    /// Where images and results are kept (default: mutants in the cache of vm/run.sh)
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// The catalogue, with the kernel's configuration; vm/mutants.sh passes this project's, which this option overrides
    #[arg(long, value_name = "DIR", default_value = "vm/mutants", overrides_with = "catalogue")]
    catalogue: PathBuf,

    /// Only these mutants
    #[arg(long, value_name = "ID", num_args = 1..)]
    only: Vec<String>,

    /// Instead of the catalogue, all small edits of these functions, or of those in coverage/ranges.toml: statements left out,
    /// conditions forced, errnos and comparisons exchanged
    #[arg(long, value_name = "FILE:FUNCTION", num_args = 0.., conflicts_with_all = ["coverage", "lean", "checked", "proof"])]
    sweep: Option<Vec<String>>,

    /// How many compilers or guests may run at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,

    /// Skip mutants that an earlier suite noticed, by a case that still exists
    #[arg(long)]
    keep: bool,

    /// List the catalogue, and exit
    #[arg(long)]
    list: bool,

    /// Build the kernels, and run nothing
    #[arg(long)]
    build_only: bool,

    /// Build the base with gcov, run the suite on it, and write to this file, as Markdown, how much of the kernel's code ran
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "build_only", "proof"])]
    coverage: Option<PathBuf>,

    /// Build the base without optional features (lean.config), and run the suite on it: nothing may fail
    #[arg(long, conflicts_with_all = ["only", "build_only", "proof", "coverage"])]
    lean: bool,

    /// Build the base with the kernel's own checks (checked.config: KASAN, UBSAN, lockdep …), and run the suite on it: nothing may
    /// fail, and the kernel may not complain
    #[arg(long, conflicts_with_all = ["only", "build_only", "proof", "coverage", "lean"])]
    checked: bool,

    /// Build the kernels of fixed/, each of which fixes a bug of mainline, and write to this file, as Markdown, whether the cases
    /// that hit the bug notice
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sweep", "build_only", "proof", "coverage", "lean", "checked"])]
    fixed: Option<PathBuf>,

    /// Write the report to this file, as Markdown; with --only, the file's rows for other mutants stay
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
}

impl Arguments {
    /// Returns the configuration that is requested in place of the base's, if any.
    fn variant(&self) -> Option<Variant> {
        match (self.lean, self.checked) {
            (true, _) => Some(variant::LEAN),
            (_, true) => Some(variant::CHECKED),
            _ => None,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::try_parse().unwrap_or_else(|error| usage::exit_with(&error));
    start(&arguments).unwrap_or_else(|error| {
        eprintln!("mutants.sh: {error:#}");
        ExitCode::from(BROKEN)
    })
}

fn start(arguments: &Arguments) -> Result<ExitCode> {
    let source = || Ok::<_, Error>(Source { tree: tree(arguments)? });
    let all = match (&arguments.sweep, &arguments.fixed) {
        (Some(names), _) => swept(arguments, names, &source()?)?,
        (None, Some(_)) => catalogue::load(&arguments.catalogue.join(fixed::FOLDER))?,
        (None, None) => catalogue::load(&arguments.catalogue)?,
    };
    let mutants = chosen(all.clone(), &arguments.only)?;
    if arguments.list {
        mutants.iter().for_each(|mutant| println!("{}\t{}", mutant.id, mutant.sees));
        return Ok(ExitCode::SUCCESS);
    }
    let cache = arguments.cache.clone().map_or_else(fetch::cache, Ok)?;
    let source = source()?;
    // Check this first: it is fast, and building takes minutes.
    for (mutant, why) in mutants.iter().filter_map(|mutant| Some((mutant, source.misfit(mutant)?))) {
        println!("{}: does not apply: {why}", mutant.id);
    }
    if let Some(document) = &arguments.coverage {
        return measure(arguments, source, &cache, document);
    }
    if let Some(variant) = arguments.variant() {
        let (config, folder) = base(arguments, &source, &cache, &read_config(arguments, variant.config)?)?;
        let kernel = kernel::make(&source, &folder, &config, arguments.jobs)?;
        return variant.judge(&Suite::beside_us(&cache)?, &kernel);
    }
    let files = all.iter().flat_map(|mutant| &mutant.edits).map(|edit| edit.file.as_str()).collect();
    let builder = builder(arguments, source, &cache, "", &files)?;
    println!("base: {}", builder.base().image.display());
    let suite = if arguments.build_only { None } else { Some(Suite::beside_us(&cache)?) };
    suite.as_ref().map_or(Ok(()), |suite| suite.accepts(builder.base()))?;
    if let (Some(document), Some(suite)) = (&arguments.fixed, &suite) {
        return fixed::judge(&builder, suite, &mutants, document);
    }
    let mut fates = try_all(&builder, mutants, suite.as_ref(), arguments)?;
    if arguments.sweep.is_some() {
        // Such as a variable without its declaration: not a kernel, and so not a mistake in one.
        fates.retain(|(_, fate)| !matches!(fate, MutantResult::DoesNotBuild(_)));
    }
    match suite {
        Some(suite) => {
            let catalogue = all.iter().map(|mutant| mutant.id.clone()).collect();
            report(&builder, &suite, &fates, &catalogue, arguments)
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Returns all small mistakes in these functions, or if there are none, in those of the coverage ranges.
fn swept(arguments: &Arguments, names: &[String], source: &Source) -> Result<Vec<Mutant>> {
    let places = match names {
        [] => Sheet::load(&arguments.catalogue.join("coverage/ranges.toml"))?.places(source)?,
        names => names.iter().map(|name| Place::named(name, source)).collect::<Result<_>>()?,
    };
    sweep::mutants(&places, source)
}

/// Builds the base; with `more` in its configuration it is a different base, in a separate folder.
fn builder(
    arguments: &Arguments,
    source: Source,
    cache: &Path,
    more: &str,
    files: &BTreeSet<&str>,
) -> Result<Builder> {
    let (config, folder) = base(arguments, &source, cache, more)?;
    Builder::new(source, &folder, &cache.join("images"), &config, files, arguments.jobs)
}

/// Returns the configuration of the base with `more`, and the folder for it.
fn base(arguments: &Arguments, source: &Source, cache: &Path, more: &str) -> Result<(String, PathBuf)> {
    let config = read_config(arguments, "kernel.config")? + more;
    let tree = source.tree.as_os_str().as_encoded_bytes();
    Ok((config, cache.join(&kernel::hex(&[tree, more.as_bytes()].concat())[..16])))
}

fn read_config(arguments: &Arguments, name: &str) -> Result<String> {
    let path = arguments.catalogue.join(name);
    std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))
}

/// Runs the suite on a base that counts, and reports what it did not reach.
fn measure(arguments: &Arguments, source: Source, cache: &Path, document: &Path) -> Result<ExitCode> {
    let sheet = Sheet::load(&arguments.catalogue.join("coverage/ranges.toml"))?;
    let builder = builder(arguments, source, cache, coverage::CONFIG, &sheet.files())?;
    let is_whole = coverage::measure(&builder, &Suite::beside_us(cache)?, &sheet, document)?;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the given tree, or one from the archive.
fn tree(arguments: &Arguments) -> Result<PathBuf> {
    match &arguments.tree {
        Some(tree) => tree.canonicalize().with_context(|| format!("kernel tree {}", tree.display())),
        None => fetch::tree(&arguments.source, &suite::driver()?),
    }
}

fn chosen(mutants: Vec<Mutant>, only: &[String]) -> Result<Vec<Mutant>> {
    if let Some(unknown) = only.iter().find(|id| mutants.iter().all(|mutant| mutant.id != **id)) {
        bail!("no mutant is called {unknown}");
    }
    ensure!(!mutants.is_empty(), "the catalogue is empty");
    Ok(mutants.into_iter().filter(|mutant| only.is_empty() || only.contains(&mutant.id)).collect())
}

/// Builds each mutant and runs the suite on it, `--jobs` at a time. Without a suite, it only builds the kernels.
fn try_all(
    builder: &Builder,
    mutants: Vec<Mutant>,
    suite: Option<&Suite>,
    arguments: &Arguments,
) -> Result<Vec<(Mutant, MutantResult)>> {
    let mutants = Mutex::new(mutants.into_iter());
    let fates = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        loop {
            let next = mutants.lock().unwrap_or_else(|poison| poison.into_inner()).next();
            let Some(mutant) = next else { return Ok(()) };
            let fate = fate(builder, &mutant, suite, arguments.keep)?;
            println!("{}: {}", mutant.id, fate.line());
            fates.lock().unwrap_or_else(|poison| poison.into_inner()).push((mutant, fate));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(joined)
    })?;
    let mut fates = fates.into_inner().unwrap_or_else(|poison| poison.into_inner());
    fates.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    Ok(fates)
}

/// Builds and judges a mutant.
fn fate(builder: &Builder, mutant: &Mutant, suite: Option<&Suite>, keep: bool) -> Result<MutantResult> {
    let kernel = match builder.mutant(mutant)? {
        Built::Kernel(kernel) => kernel,
        Built::DoesNotApply(why) => return Ok(MutantResult::DoesNotApply(why)),
        Built::DoesNotBuild(why) => return Ok(MutantResult::DoesNotBuild(why)),
        Built::Same => {
            return Ok(MutantResult::Equivalent("The compiler makes the same kernel of it.".to_owned()));
        }
    };
    Ok(match (mutant.equivalent.clone(), suite) {
        (Some(why), _) => MutantResult::Equivalent(why),
        (None, Some(suite)) => MutantResult::Judged(suite.judges(&kernel, mutant, keep)?),
        (None, None) => MutantResult::Built,
    })
}

/// Returns a thread's result, and propagates its panic.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Prints what was missed and the totals, and writes the document.
fn report(
    builder: &Builder,
    suite: &Suite,
    fates: &[(Mutant, MutantResult)],
    catalogue: &BTreeSet<String>,
    arguments: &Arguments,
) -> Result<ExitCode> {
    for (mutant, fate) in fates {
        let claims = match &mutant.claims[..] {
            [] => String::new(),
            claims => format!("; its claims: {}", claims.join(", ")),
        };
        if fate.is_hole() {
            println!("{}: {}: {}{claims}", fate.word(), mutant.id, mutant.sees);
        }
        // Either the mutant's claims are incomplete, or the case that checks them is weak.
        if let Some(case) = fate.noticed_by().filter(|case| is_unexpected(mutant, case)) {
            println!("noticed only by {case}: {}: {}{claims}", mutant.id, mutant.sees);
        }
    }
    let unchecked = suite.unchecked(fates.iter().map(|(mutant, _)| mutant));
    if !unchecked.is_empty() {
        println!("no case checks: {}", unchecked.into_iter().collect::<Vec<_>>().join(", "));
    }
    println!("{}", proof::totals(fates));
    if let Some(path) = &arguments.proof {
        let earlier = if arguments.only.is_empty() { String::new() } else { earlier(path)? };
        let release = builder.release();
        std::fs::write(path, proof::document(release, fates, arguments.keep, &earlier, catalogue))?;
    }
    let is_whole = fates.iter().all(|(_, fate)| !fate.is_hole());
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the document that an earlier run has written, or an empty one.
fn earlier(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.with_context(|| format!("{}", path.display())),
    }
}

/// Returns whether the mutant has claims, but the case checks none of them.
fn is_unexpected(mutant: &Mutant, case: &str) -> bool {
    !mutant.claims.is_empty() && mutant.claims.iter().all(|claim| claim != case)
}
