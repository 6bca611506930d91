//! `--speed`: measures how fast the suite is, and how fast it could be.

use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clone3_conformance::case::{self, Case};
use clone3_conformance::check;
use clone3_conformance::clone3::Clone3;
use clone3_conformance::need::{self, Setting};
use clone3_conformance::sandbox::{NOTHING, Sandbox};
use clone3_conformance::wait::Status;

use super::cli::{self, Options};
use super::{output, run};

/// How often the short operations are measured.
const ROUNDS: usize = 200;

/// Measures, and prints a table. Ignores verdicts, which are the purpose of a normal run.
pub fn measure(options: &Options) -> ExitCode {
    let setting = run::setting(options);
    let sandbox = match Sandbox::start() {
        Ok(sandbox) => sandbox,
        Err(error) => {
            eprintln!("error: the harness cannot start: {error}");
            return ExitCode::from(cli::BROKEN);
        }
    };
    let deadline = options.deadline(setting.probe.emulated);
    let (bare, empty) = match floors(&sandbox, deadline) {
        Ok(floors) => floors,
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            return ExitCode::from(cli::BROKEN);
        }
    };
    let floor = format!(
        "{:44} {:>9} {:>9} {:>9}\n{:44} {bare}\n{:44} {empty}\n{:44} {:19.2}\n",
        "",
        "first",
        "median",
        "slowest",
        "fork, exit, wait",
        "an empty case through the sandbox",
        "    in forks",
        empty.median().as_secs_f64() / bare.median().as_secs_f64()
    );
    match output::print(&floor).and_then(|()| rounds(&sandbox, options, setting, deadline)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(cli::BROKEN)
        }
    }
}

/// Measures the selftest's scenarios and all cases, as far as they can run here, and prints a line for each.
fn rounds(
    sandbox: &Sandbox,
    options: &Options,
    setting: &'static Setting,
    deadline: Duration,
) -> Result<(), String> {
    let able = |case: &&'static Case| need::unmet(case.needs, setting).is_none();
    let all: Vec<&Case> = case::all().iter().copied().filter(able).collect();
    let upstream: Vec<&Case> = all.iter().copied().filter(|case| case.is_upstream()).collect();
    for (what, cases) in [("scenarios of the kernel's selftest", upstream), ("cases", all)] {
        let mut times = Times::default();
        (0..options.repeat).for_each(|_| times.add(|| run_all(sandbox, &cases, deadline)));
        output::print(&format!("{:44} {times}\n", format!("{} {what}", cases.len())))?;
    }
    Ok(())
}

/// Measures the minimum cost of a case, and the cost of an empty one. Alternates between them, so that a machine that slows down
/// affects both. Must run before the first thread is created, since the program forks.
fn floors(sandbox: &Sandbox, deadline: Duration) -> check::Result<(Times, Times)> {
    let [mut bare, mut empty] = [Times::default(), Times::default()];
    for _ in 0..ROUNDS {
        bare.add(bare_fork)?;
        empty.add(|| sandbox.run(NOTHING, deadline));
    }
    Ok((bare, empty))
}

fn bare_fork() -> check::Result {
    Clone3::fork().spawn(|| 0)?.reap_expecting(Status::exited(0))
}

/// Runs these cases like a normal run: on every CPU, and alone if a case must.
fn run_all(sandbox: &Sandbox, cases: &[&Case], deadline: Duration) {
    let (alone, together): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|case| case.runs_alone());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(case) = together.get(next.fetch_add(1, Ordering::Relaxed)) {
            sandbox.run(case.name, deadline);
        }
    };
    thread::scope(|scope| {
        (0..run::processors()).for_each(|_| drop(scope.spawn(work)));
    });
    alone.iter().for_each(|case| drop(sandbox.run(case.name, deadline)));
}

/// The wall times of a repeated operation, in the order of the runs.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn add<T>(&mut self, thing: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = thing();
        self.0.push(start.elapsed());
        result
    }

    fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// Formats the first, median and slowest time in milliseconds.
impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.0.first().copied().unwrap_or_default();
        let slowest = self.0.iter().max().copied().unwrap_or_default();
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        let [first, median, slowest] = [first, self.median(), slowest].map(milliseconds);
        write!(f, "{first:6.1} ms {median:6.1} ms {slowest:6.1} ms")
    }
}
