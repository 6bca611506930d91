//! Test of the sandbox with cases that misbehave: each must get exactly its verdict and message, and leave nothing behind.
#![forbid(unsafe_code)]
mod bad_cases;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bad_cases::{EXPECTED, Expected};
use clone3_conformance::check::Kind;
use clone3_conformance::kit::helper;
use clone3_conformance::need::Setting;
use clone3_conformance::procfs;
use clone3_conformance::sandbox::{Outcome, Sandbox};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// The timeout of a case: long enough for every case that does not hang, on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs the cases, and checks for leftovers of the sandbox itself.
pub fn main() -> ExitCode {
    helper::run_if_asked();
    let arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(
            &arguments,
            EXPECTED.iter().map(|e| Trial::test(e.case, || Ok(()))).collect(),
        )
        .exit_code();
    }
    // Probed once here, as in the runner, and not in each case.
    Setting::get();
    let sandbox = match Sandbox::start() {
        Ok(sandbox) => Arc::new(sandbox),
        Err(error) => {
            eprintln!("error: the sandbox does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let trials = EXPECTED.iter().map(|expected| trial(expected, &sandbox)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let left = grandchildren_of_lanes();
    if !left.is_empty() {
        eprintln!("error: left behind: {}", left.join("; "));
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn trial(expected: &'static Expected, sandbox: &Arc<Sandbox>) -> Trial {
    let sandbox = Arc::clone(sandbox);
    Trial::ignorable_test(expected.case, move || {
        let outcome = sandbox.run(expected.case, DEADLINE);
        match need_that_is_missing(&outcome) {
            Some(reason) if expected.kind != Some(Kind::Blocked) => Ok(Completion::ignored_with(reason)),
            _ => compare(expected, &outcome).map(|()| Completion::Completed),
        }
    })
}

/// Returns the missing need of a case that can only misbehave as root or in a namespace.
fn need_that_is_missing(outcome: &Outcome) -> Option<String> {
    let failure = outcome.failure.as_ref().filter(|failure| failure.kind == Kind::Blocked)?;
    Some(failure.message.clone())
}

fn compare(expected: &Expected, got: &Outcome) -> Result<(), Failed> {
    let verdict = got.failure.as_ref().map(|failure| failure.kind);
    let message = got.failure.as_ref().map_or(String::new(), |failure| without_numbers(&failure.message));
    if verdict != expected.kind || message != expected.message {
        return Err(Failed::from(format!(
            "expected {:?}: {}\n     got {verdict:?}: {message}",
            expected.kind, expected.message
        )));
    }
    let last_step = got.trail.last().map_or(String::new(), |step| without_numbers(step));
    if !expected.last_step.is_empty() && last_step != expected.last_step {
        return Err(Failed::from(format!(
            "expected the last step {}\n              got {last_step}",
            expected.last_step
        )));
    }
    if got.output.len() < expected.output {
        return Err(Failed::from(format!(
            "expected {} bytes of output, got {:?}",
            expected.output, got.output
        )));
    }
    Ok(())
}

/// Replaces every number by `N`, since pids, durations and line numbers differ between runs.
fn without_numbers(text: &str) -> String {
    // The path by which the guest's copy of this test includes this folder.
    let text = text.replace("vm/environments/../../", "");
    let mut plain = String::new();
    for c in text.chars() {
        let c = if c.is_ascii_digit() { 'N' } else { c };
        if c != 'N' || !plain.ends_with('N') {
            plain.push(c);
        }
    }
    plain
}

/// Returns the processes below the lanes. Below this process there may be only the zygote, and below that the lanes.
fn grandchildren_of_lanes() -> Vec<String> {
    let below = |pid: i32| procfs::children_of(pid).into_iter();
    let lanes = below(std::process::id() as i32).flat_map(|zygote| below(zygote.pid));
    lanes.flat_map(|lane| below(lane.pid)).map(|stat| stat.to_string()).collect()
}
