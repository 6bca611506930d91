//! The runner: selects cases, runs each in the sandbox, and reports.
#![forbid(unsafe_code)]

#[path = "../cases/mod.rs"]
mod cases;
mod claims;
mod cli;
mod compare;
mod counters;
mod describe;
mod init;
mod journal;
mod output;
mod run;
mod speed;
mod summary;
mod warm_up;

use std::process::ExitCode;

use clone3_conformance::kit::disposition::{self, Disposition};
use nix::sys::signal::Signal;

/// Runs what the command line requests.
pub fn main() -> ExitCode {
    if init::is_init() {
        init::run(Some(warm_up::warm_up));
    }
    clone3_conformance::kit::helper::run_if_asked();
    // If a caller ignores SIGCHLD, the kernel would reap our children before we wait for them. Exceeding RLIMIT_FSIZE should be
    // an error to report, rather than kill us.
    let _ = disposition::set(Signal::SIGCHLD, Disposition::Default);
    let _ = disposition::set(Signal::SIGXFSZ, Disposition::Ignored);
    // Under cargo test, this word is an ordinary filter.
    if !cfg!(test) && std::env::args_os().nth(1).is_some_and(|word| word == compare::WORD) {
        return compare::run();
    }
    let options = cli::Options::from_command_line();
    if options.list_features {
        return shown(&format!("{}\n", clone3_conformance::probe::Probe::run()));
    }
    if let Some(format) = options.claims {
        return shown(&claims::text(format));
    }
    if let Some(name) = &options.describe {
        return match describe::one(name) {
            Ok(text) => shown(&text),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(cli::USAGE)
            }
        };
    }
    if options.speed {
        return speed::measure(&options);
    }
    run::run(options)
}

/// Prints a text, and returns the exit status.
fn shown(text: &str) -> ExitCode {
    match output::print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(cli::BROKEN)
        }
    }
}
