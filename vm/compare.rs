//! `vm/compare.sh`: runs the suite on several kernels, one by one or in parallel, and compares the results in tables.
use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{ErrorKind, IsTerminal, Read, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clone3_conformance::compare::{Table, html, markdown, terminal};
use clone3_conformance::formats::Format;
use clone3_conformance::report::SCHEMA;
use clone3_conformance::results::{Guest, Kernel, NoVerdict, Results, write_whole};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use crate::accel;
use crate::arch::Arch;
use crate::archive::{Archive, Package};
use crate::cache::Cache;
use crate::cli::CompareCli;
use crate::interrupt::Interrupts;
use crate::outcome::{BROKEN, FAILED, GOOD, NO_VERDICT, NOTHING_SELECTED, USAGE};
use crate::process::{Process, wait_until};
use crate::run;
use crate::spec::Spec;
use crate::system::{self, Thing};
use crate::{note, say, show};

/// The host memory that a guest needs besides its own, in MiB.
const OVERHEAD: u64 = 512;

/// The width of the table that is written to a file.
const FILE_WIDTH: usize = 120;

/// One kernel of the comparison.
struct Column {
    spec: String,
    /// The base name of its result files.
    name: String,
}

/// Runs the suite on every kernel and returns the exit status.
pub fn compare(cli: &CompareCli, cache: &Cache, interrupts: &Interrupts) -> Result<u8> {
    let started = Instant::now();
    // Done once here, so that the runs do not all do it at the same time.
    let usual = Arch::of_flavor(&cli.flavor);
    let said = cli.kernels.iter().map(|spec| spec.or_flavor(&cli.flavor).arch());
    for arch in Arch::ALL.into_iter().filter(|arch| said.clone().chain([usual]).any(|said| said == *arch)) {
        prepare(cli, arch, cache, interrupts)?;
    }
    let columns = columns(cli, &Archive { cache, interrupts, arch: usual })?;
    if let Some(name) = twice(&columns) {
        note!("the results of two of these kernels would both be called {name}; compare them in two runs");
        return Ok(USAGE);
    }
    fs::create_dir_all(&cli.output).with_context(|| format!("cannot make {}", cli.output.display()))?;
    columns.iter().try_for_each(|column| remove(&column.file(cli, "json")))?;

    let board = Board::new(columns.iter().map(|column| column.name.clone()).collect());
    // Newest first: these run longest, and the shorter runs then fill the gaps at the end.
    let waiting: Mutex<VecDeque<(usize, &Column)>> = Mutex::new(columns.iter().enumerate().rev().collect());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || -> Result<u8> {
        let mut worst = 0;
        while let Some((number, column)) = next() {
            worst = worst.max(run(cli, column, interrupts, &|state| board.set(number, state))?);
        }
        Ok(worst)
    };
    let jobs = cli.jobs.map_or_else(|| jobs_for(cli), usize::from).min(columns.len());
    let ends: Vec<Result<u8>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(Ok(BROKEN))).collect()
    });
    // Even if some run failed: the others have results.
    let shown = show_tables(cli, &columns)?;
    let status =
        ends.into_iter().try_fold(shown, |worst: u8, end| Ok::<_, anyhow::Error>(worst.max(end?)))?;
    note!(
        "{} kernels in {:.1} s; see {}",
        columns.len(),
        started.elapsed().as_secs_f32(),
        cli.output.display()
    );
    Ok(status)
}

/// Prepares what a guest of this architecture needs.
fn prepare(cli: &CompareCli, arch: Arch, cache: &Cache, interrupts: &Interrupts) -> Result<()> {
    system::ensure(&[(arch.package(), Thing::Program(arch.emulator()))], cache, interrupts)?;
    accel::choose(cli.machine.accel, arch, cache, interrupts)?;
    if cli.refresh {
        Archive { cache, interrupts, arch }.index(true)?;
    }
    // vm/run.sh has already built the host's binary.
    if arch != Arch::Amd64 && std::env::var_os("CLONE3_SUITE").is_none() {
        run::build(arch, interrupts)?;
    }
    Ok(())
}

/// Removes the results of an earlier comparison, if there are any.
fn remove(results: &Path) -> Result<()> {
    match fs::remove_file(results) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", results.display()))
        }
        _ => Ok(()),
    }
}

/// Writes the table of all results to a file of each format and to the terminal, and returns the exit status for the latter.
fn show_tables(cli: &CompareCli, columns: &[Column]) -> Result<u8> {
    let table = Table::of(columns.iter().map(|column| (column.name.clone(), column.results(cli))).collect());
    let file = |path: &Path, text: &str| {
        write_whole(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let look = |width, color, all| terminal::Look { width, color, all };
    file(&cli.output.join("compare.txt"), &terminal::text(&table, look(FILE_WIDTH, false, true)))?;
    let usual = [("compare.md", Format::Markdown), ("compare.html", Format::Html)];
    let usual = usual.map(|(name, format)| (cli.output.join(name), format));
    for (path, format) in usual.iter().chain(&cli.report) {
        match format {
            Format::Html => file(path, &html::page(&table))?,
            _ => file(path, &markdown::text(&table, true))?,
        }
    }
    let width = rustix::termios::tcgetwinsize(stdout()).map_or(0, |size| usize::from(size.ws_col));
    let width = if width == 0 { FILE_WIDTH } else { width };
    let color = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    Ok(show(&terminal::text(&table, look(width, color, cli.all))))
}

impl Column {
    fn file(&self, cli: &CompareCli, end: &str) -> PathBuf {
        cli.output.join(format!("{}.{end}", self.name))
    }

    /// Returns the results that the run wrote. A run that wrote none gets a column that says so.
    fn results(&self, cli: &CompareCli) -> Results {
        let known = fs::read_to_string(self.file(cli, "json")).map_err(|error| error.to_string());
        known.and_then(|text| Results::parse(&text)).unwrap_or_else(|why| Results {
            schema: SCHEMA,
            kernel: Kernel { release: self.spec.clone(), ..Kernel::default() },
            guest: Some(Guest {
                status: NO_VERDICT,
                no_verdict: Some(NoVerdict { stage: "run".to_owned(), why }),
                ..Guest::default()
            }),
            ..Results::default()
        })
    }
}

/// Returns the requested kernels, or the newest of each series.
fn columns(cli: &CompareCli, archive: &Archive) -> Result<Vec<Column>> {
    let column =
        |spec: String| Column { name: spec.replace(['/', ':'], "-").trim_matches('-').to_owned(), spec };
    if cli.kernels.is_empty() {
        let index = archive.index(false)?;
        let newest = index.newest_of_each_series(&cli.flavor);
        ensure!(!newest.is_empty(), "the archive has no {} kernel; see vm/run.sh --list-kernels", cli.flavor);
        let spec = |prefix| Spec::Version { prefix, flavor: Some(cli.flavor.clone()) }.to_string();
        let of = |package: &Package| Column {
            spec: spec(package.version.clone()),
            ..column(spec(package.short_version()))
        };
        return Ok(newest.into_iter().map(of).collect());
    }
    Ok(cli.kernels.iter().map(|spec| column(spec.or_flavor(&cli.flavor).to_string())).collect())
}

/// Returns the first name that two columns share, if any: their runs would write the same files.
fn twice(columns: &[Column]) -> Option<&str> {
    let mut names = BTreeSet::new();
    columns.iter().map(|column| column.name.as_str()).find(|name| !names.insert(*name))
}

/// Returns one guest per CPU of the host, or fewer if it has too little memory for that.
fn jobs_for(cli: &CompareCli) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let guest = cli.machine.memory_mib + OVERHEAD;
    let memory = free_memory().map_or(1, |free| free / guest);
    processors.min(usize::try_from(memory).unwrap_or(usize::MAX)).max(1)
}

/// Returns the memory that is available to programs, in MiB.
fn free_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// Runs the suite on one kernel. Returns 0 if the kernel was judged, whatever the verdict.
fn run(cli: &CompareCli, column: &Column, interrupts: &Interrupts, tell: &dyn Fn(State)) -> Result<u8> {
    let (results, log_path) = (column.file(cli, "json"), column.file(cli, "log"));
    let mut log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let started = Instant::now();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--kernel", &column.spec]).args(cli.machine.again()).arg("--results").arg(&results);
    command.arg("--").args(&cli.runner);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone()?);
    tell(State::Boots);
    let mut process = Process::spawn(&mut command, Signal::TERM)?;
    let mut output = process.take_stdout().context("the run has no output")?;
    let mut progress = Progress::default();
    let mut bytes = [0; 4096];
    loop {
        wait_until(&mut [PollFd::new(&output, PollFlags::IN), PollFd::new(interrupts, PollFlags::IN)], None)?;
        if let Err(interrupted) = interrupts.check() {
            process.ask_to_end()?;
            return Err(interrupted.into());
        }
        let length = output.read(&mut bytes)?;
        if length == 0 {
            break;
        }
        log.write_all(&bytes[..length])?;
        progress.take(&bytes[..length]);
        tell(State::Runs { done: progress.done, of: progress.of });
    }
    let status = process.wait()?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(BROKEN);
    let seconds = started.elapsed().as_secs_f32();
    tell(State::Ended(format!("{} ({seconds:.1} s)", summary(&column.results(cli), status, &log_path))));
    Ok(match status {
        GOOD | FAILED => 0,
        // The run was asked for something that the suite does not have: nothing was judged.
        USAGE | NOTHING_SELECTED | NO_VERDICT => status,
        _ => BROKEN,
    })
}

/// The progress of a run, parsed from its output.
#[derive(Default)]
struct Progress {
    line: Vec<u8>,
    done: usize,
    of: usize,
}

impl Progress {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line);
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("running"), Some(count)) => self.of = count.parse().unwrap_or_default(),
                (Some("test"), Some(name)) if name != "result:" => self.done += 1,
                _ => {}
            }
            self.line.clear();
        }
    }
}

/// Summarizes the result of a run in a few words.
fn summary(results: &Results, status: u8, log: &Path) -> String {
    match status {
        NO_VERDICT => format!("no verdict; see {}", log.display()),
        _ if results.exit.is_some() => results.totals(),
        _ => format!("exit status {status}; see {}", log.display()),
    }
}

/// The state of one kernel's run.
#[derive(Clone)]
enum State {
    Waits,
    Boots,
    Runs { done: usize, of: usize },
    Ended(String),
}

/// The progress display, one line per kernel: always up to date on a terminal, otherwise printed when a run ends.
struct Board {
    names: Vec<String>,
    width: usize,
    states: Mutex<Vec<State>>,
    redraws: bool,
}

impl Board {
    fn new(names: Vec<String>) -> Self {
        let width = names.iter().map(String::len).max().unwrap_or_default();
        let states = vec![State::Waits; names.len()];
        let redraws = stderr().is_terminal();
        if redraws {
            say(format_args!("{}", "\n".repeat(names.len())));
        }
        Self { names, width, states: Mutex::new(states), redraws }
    }

    fn set(&self, number: usize, state: State) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = matches!(state, State::Ended(_));
        states[number] = state;
        if self.redraws {
            // Move up to the first line, and redraw all lines.
            let lines: Vec<String> =
                states.iter().zip(0..).map(|(state, number)| self.line(number, state)).collect();
            say(format_args!("\x1b[{}A{}\n", lines.len(), lines.join("\n")));
        } else if ended {
            say(format_args!("{}\n", self.line(number, &states[number])));
        }
    }

    fn line(&self, number: usize, state: &State) -> String {
        let (name, width) = (&self.names[number], self.width);
        let clear = if self.redraws { "\x1b[K" } else { "" };
        let text = match state {
            State::Waits => "waits".to_owned(),
            State::Boots => "boots".to_owned(),
            State::Runs { done, of } => format!("runs: {done} of {of}"),
            State::Ended(text) => text.clone(),
        };
        format!("{name:width$}  {text}{clear}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_what_the_run_shows() {
        let mut progress = Progress::default();
        progress.take(b"\nrunning 3 tests\ntest a ... ok\nte");
        progress.take(b"st b ... FAILED\ntest result: FAILED. 1 passed\n");
        assert_eq!((progress.done, progress.of), (2, 3));
    }
}
