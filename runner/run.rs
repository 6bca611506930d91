//! A run: executes the selected cases in the sandbox, with libtest's output.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use clone3_conformance::case::{self, Case};
use clone3_conformance::formats::Format;
use clone3_conformance::need::{self, Setting};
use clone3_conformance::probe::{Clone3State, Probe};
use clone3_conformance::report::{self, Event, Footer, Header, Policy, Record, Suite, Verdict};
use clone3_conformance::results::{Results, write_whole};
use clone3_conformance::sandbox::Sandbox;
use clone3_conformance::taint;
use libtest_mimic::{Completion, Failed, Trial};

use super::cli::{self, Options};
use super::journal::Journal;
use super::{describe, output, summary};

/// The state that the worker threads share.
struct Shared {
    sandbox: Sandbox,
    setting: &'static Setting,
    journal: Arc<Journal>,
    /// The kernel's taint flags before it was probed.
    tainted: Option<u64>,
    policy: Policy,
    deadline: Duration,
    repeat: u32,
    fail_fast: bool,
    /// Whether some case has failed.
    failed: AtomicBool,
    /// `--ignored`: run only what cannot run here, as determined by [`list`].
    only_ignored: bool,
    /// Write-locked by a case that must run alone.
    alone: RwLock<()>,
}

/// Runs the selection and returns the exit status.
pub fn run(options: Options) -> ExitCode {
    if let Some(unknown) = options.case.iter().find(|name| case::all().iter().all(|case| case.name != **name))
    {
        eprintln!("error: {}", describe::no_case(unknown));
        return ExitCode::from(cli::USAGE);
    }
    if let Some(unknown) = options.expect.as_ref().and_then(|expect| expect.unknown_claim(&names())) {
        eprintln!(
            "error: --expect has a rule for the claim '{unknown}', which no case has; --list shows all names"
        );
        return ExitCode::from(cli::USAGE);
    }
    if let Err(error) = options.create_log() {
        eprintln!("error: {error}");
        return ExitCode::from(cli::BROKEN);
    }
    let selected = candidates(&options).filter(|case| is_selected(&options.libtest, case.name)).count();
    if options.libtest.list {
        return list(&options);
    }
    if selected == 0 {
        eprintln!("error: no case is selected by these filters; --list shows all names");
        return ExitCode::from(cli::NOTHING_SELECTED);
    }
    match Shared::new(&options) {
        Ok(shared) => ExitCode::from(execute(&options, Arc::new(shared), selected)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(cli::BROKEN)
        }
    }
}

fn names() -> Vec<&'static str> {
    case::all().iter().map(|case| case.name).collect()
}

/// Returns the policy for judging verdicts on this kernel.
fn policy(options: &Options, setting: &Setting) -> Policy {
    let cases = || case::all().iter().map(|case| (case.name, case.needs));
    let expected = options.expect.as_ref().map(|expect| expect.on(&setting.probe.release, cases()));
    Policy { expected: expected.unwrap_or_default(), ..options.policy() }
}

/// Returns the cases to which libtest's filters apply: the named ones, those of the kernel's selftest, or all.
fn candidates(options: &Options) -> impl Iterator<Item = &'static Case> {
    let is_meant = |case: &&Case| {
        let is_named = options.case.is_empty() || options.case.iter().any(|name| name == case.name);
        is_named && (!options.upstream || case.is_upstream())
    };
    case::all().iter().copied().filter(is_meant)
}

/// Lists the cases. A case that cannot run here is listed as an ignored test, for tools that list first and then run case by
/// case.
fn list(options: &Options) -> ExitCode {
    let setting = setting(options);
    let policy = policy(options, setting);
    let trials = candidates(options).map(|case| {
        let skipped =
            need::unmet(case.needs, setting).is_some_and(|unmet| !policy.on_unmet(case, unmet).required);
        Trial::test(case.name, || Ok(())).with_ignored_flag(skipped)
    });
    match output::listed(|| drop(libtest_mimic::run(&options.libtest, trials.collect()))) {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(cli::BROKEN),
    }
}

/// Probes the kernel and the environment, once.
pub fn setting(options: &Options) -> &'static Setting {
    Setting {
        probe: Probe::run(),
        allow_global_changes: options.allow_global_changes,
        stress: options.stress,
        strict: options.strict,
        judged_as: options.judged_as(),
    }
    .install()
}

/// Implements libtest's selection: the filter matches, if there is one, and no skip does.
fn is_selected(arguments: &libtest_mimic::Arguments, name: &str) -> bool {
    let matches = |filter: &String| {
        if arguments.exact { name == filter } else { name.contains(filter.as_str()) }
    };
    let wanted = arguments.filter.iter().all(matches);
    wanted && !arguments.skip.iter().any(matches)
}

impl Shared {
    /// Probes, then forks the zygote, both before the first thread is created.
    fn new(options: &Options) -> Result<Shared, String> {
        let tainted = taint::now();
        let setting = setting(options);
        Ok(Shared {
            tainted,
            sandbox: Sandbox::start().map_err(|error| format!("the harness cannot start: {error}"))?,
            setting,
            journal: Journal::open(
                options.events.as_deref(),
                options.documents(),
                summary::rerun_prefix(options),
            )?,
            policy: policy(options, setting),
            deadline: options.deadline(setting.probe.emulated),
            repeat: options.repeat,
            fail_fast: options.fail_fast,
            failed: AtomicBool::new(false),
            only_ignored: options.libtest.ignored,
            alone: RwLock::new(()),
        })
    }

    /// Runs a case as often as requested, regardless of failures.
    fn run(&self, case: &'static Case) -> Record {
        // A case that waits for its turn has not started, so nothing that happens in the meantime is attributed to it.
        let _turn = self.turn(case);
        self.journal.add(Event::Start { case: case.name.to_owned() });
        let record = match need::unmet(case.needs, self.setting) {
            Some(unmet) => Record::not_run(case, self.policy.on_unmet(case, unmet)),
            None => self.run_all(case),
        };
        let record = Record { expected: self.policy.expected.get(case.name).cloned(), ..record };
        self.journal.add(Event::End(record.clone()));
        record
    }

    fn run_all(&self, case: &'static Case) -> Record {
        let once = || Record::of(case, &self.policy, self.sandbox.run(case.name, self.deadline));
        (1..self.repeat).fold(once(), |record, _| record.and(once()))
    }

    /// Waits until the case may run, alone or concurrently with others.
    fn turn(&self, case: &Case) -> Turn<'_> {
        // A poisoned lock guards no data: the thread that panicked is no longer running its case.
        match case.runs_alone() {
            true => Turn::Alone(self.alone.write().unwrap_or_else(|poison| poison.into_inner())),
            false => Turn::Together(self.alone.read().unwrap_or_else(|poison| poison.into_inner())),
        }
    }
}

/// A case's permission to run, held until dropped.
#[expect(dead_code, reason = "held, and never looked at")]
enum Turn<'a> {
    Alone(RwLockWriteGuard<'a, ()>),
    Together(RwLockReadGuard<'a, ()>),
}

fn execute(options: &Options, shared: Arc<Shared>, selected: usize) -> u8 {
    if let Err(error) = begin(options, &shared, selected) {
        eprintln!("error: {error}");
        return cli::BROKEN;
    }
    let mut cases: Vec<_> = candidates(options).collect();
    // Last, because a case that runs alone leaves all CPUs but one idle.
    cases.sort_by_key(|case| case.runs_alone());
    let trials = cases.into_iter().map(|case| trial(case, &shared)).collect();
    let exit = match output::guarded(|| libtest_mimic::run(&arguments(options, shared.setting), trials)) {
        Some(conclusion) if conclusion.has_failed() => cli::FAILED,
        // For example with --ignored, if every case can run.
        Some(_) if shared.journal.is_without_cases() => {
            eprintln!("error: no selected case is to run with these options; --list shows those that are");
            cli::NOTHING_SELECTED
        }
        Some(_) => cli::GOOD,
        None => cli::BROKEN,
    };
    let tainted = taint::now();
    let exit = if tell_complaints(shared.tainted, tainted) { exit.max(cli::FAILED) } else { exit };
    shared.journal.add(Event::Done(Footer { exit, tainted }));
    if publish(options, &shared, exit) {
        return exit;
    }
    // Readers of the journal must not take the run for a successful one.
    shared.journal.add(Event::Done(Footer { exit: cli::BROKEN, tainted }));
    cli::BROKEN
}

/// Opens the journal and all documents, to find out before the run whether they can be written.
fn begin(options: &Options, shared: &Shared, selected: usize) -> Result<(), String> {
    shared.journal.add(Event::Run(Header {
        schema: report::SCHEMA,
        suite: Suite::this(cli::COMMIT),
        probe: shared.setting.probe.clone(),
        tainted: shared.tainted,
        cpus: processors(),
        selected,
    }));
    if !options.report.is_empty()
        && let Some(results) = shared.journal.results()
    {
        write_reports(options, &results)?;
    }
    shared.journal.error().map_or(Ok(()), Err)
}

/// Prints the summary and writes the reports. Prints errors to stderr, and returns whether there were none.
fn publish(options: &Options, shared: &Shared, exit: u8) -> bool {
    let Some(results) = shared.journal.results() else { return false };
    let shown = match exit {
        cli::BROKEN => None,
        _ => output::guarded(|| match options.format {
            Some(format) => print!("{}", format.render(&results)),
            None if options.libtest.format == Some(libtest_mimic::FormatSetting::Json) => {}
            None => print!("{}", summary::text(&results, options)),
        }),
    };
    let error = shared.journal.error().or_else(|| write_reports(options, &results).err());
    if let Some(error) = &error {
        eprintln!("error: {error}");
    }
    shown.is_some() && error.is_none()
}

/// Prints to stderr if the kernel reported a fault during the run, and returns whether it did. Concurrent activity may have
/// caused it; only the kernel's log shows what did.
fn tell_complaints(before: Option<u64>, after: Option<u64>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return false };
    let complaints = taint::complaints(before, after);
    if complaints.is_empty() {
        return false;
    }
    let complaints = complaints.join(", ");
    eprintln!("error: the kernel complained while the suite ran: {complaints}; its log (dmesg) says of what");
    true
}

/// Writes the reports that the journal does not keep up to date.
fn write_reports(options: &Options, results: &Results) -> Result<(), String> {
    for (path, format) in options.report.iter().filter(|(_, format)| *format != Format::Json) {
        write_whole(path, format.render(results))
            .map_err(|error| format!("cannot write the report to {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Returns the number of CPUs that this program may use, which is also libtest's number of threads.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the arguments for libtest: run cases in parallel, as far as there can be threads.
fn arguments(options: &Options, setting: &Setting) -> libtest_mimic::Arguments {
    let wanted = options.libtest.test_threads.unwrap_or_else(processors);
    // A filter that refuses clone3 with an error other than ENOSYS permits no thread, since only ENOSYS makes the C library
    // fall back to clone.
    let refused = matches!(setting.probe.clone3, Clone3State::Blocked(_));
    let threads = if refused { 1 } else { startable(wanted).max(1) };
    libtest_mimic::Arguments { test_threads: Some(threads), ..options.libtest.clone() }
}

/// Returns how many of this many threads can exist at the same time. libtest-mimic panics if it cannot start one.
fn startable(wanted: usize) -> usize {
    // Each thread lives until this is dropped.
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = Arc::new(std::sync::Mutex::new(ended));
    let start = |_| {
        let ended = Arc::clone(&ended);
        let stay = move || drop(ended.lock().map(|ended| ended.recv()));
        std::thread::Builder::new().spawn(stay).ok()
    };
    let threads: Vec<_> = (0..wanted).map_while(start).collect();
    drop(end);
    threads.into_iter().filter_map(|thread| thread.join().ok()).count()
}

/// Wraps a case for libtest: a case that neither passes nor fails is `ignored`, with the reason.
fn trial(case: &'static Case, shared: &Arc<Shared>) -> Trial {
    let asked_for = shared.only_ignored && need::unmet(case.needs, shared.setting).is_some();
    let shared = Arc::clone(shared);
    Trial::ignorable_test(case.name, move || {
        if shared.fail_fast && shared.failed.load(Ordering::Relaxed) {
            return Ok(Completion::ignored_with("not run: another case has failed"));
        }
        let record = shared.run(case);
        shared.failed.fetch_or(record.is_bad(), Ordering::Relaxed);
        match record.verdict {
            _ if record.is_bad() => Err(Failed::from(summary::failure(
                case,
                &record,
                &shared.setting.probe,
                &shared.journal.rerun,
            ))),
            Verdict::Pass => Ok(Completion::Completed),
            other => {
                let expected = if record.is_expected() { "expected " } else { "" };
                Ok(Completion::ignored_with(format!("{expected}{other}: {}", record.why())))
            }
        }
    })
    .with_ignored_flag(asked_for)
}
