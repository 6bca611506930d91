//! The runner: selects cases, runs each in the sandbox, and reports.
#![forbid(unsafe_code)]

#[path = "../cases/mod.rs"]
mod cases;
mod claims;
mod cli;
mod counters;
mod describe;
mod init;
mod journal;
mod run;
mod summary;

use std::process::ExitCode;

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    if init::is_init() {
        init::run();
    }
    clone3_conformance::kit::helper::run_if_asked();
    let options = cli::Options::from_command_line();
    if options.list_features {
        println!("{}", clone3_conformance::probe::Probe::run());
        return ExitCode::SUCCESS;
    }
    if let Some(cli::ClaimsFormat::Markdown) = options.claims {
        print!("{}", claims::markdown());
        return ExitCode::SUCCESS;
    }
    if let Some(name) = &options.describe {
        return describe::one(name);
    }
    run::run(options)
}
