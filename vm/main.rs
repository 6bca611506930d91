//! Boots kernels in virtual machines and runs the suite in them: what `vm/run.sh` starts.
mod accel;
mod archive;
mod cache;
mod channel;
mod cli;
mod console;
mod initramfs;
mod interrupt;
mod journal;
mod kernel;
mod list;
mod machine;
mod outcome;
mod process;
mod qemu;
mod run;
mod spec;
mod version;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::cache::Cache;
use crate::cli::Cli;
use crate::interrupt::{Interrupted, Interrupts};
use crate::outcome::NO_VERDICT;

/// Says something about the run that is not the suite's own output.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { eprintln!("run.sh: {}", format_args!($($text)*)) };
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            note!("{error:#}");
            // As a shell reports a program that a signal ended.
            ExitCode::from(error.downcast_ref().map_or(NO_VERDICT, |Interrupted(signal)| 128 + signal))
        }
    }
}

fn start(cli: &Cli) -> anyhow::Result<u8> {
    let interrupts = Interrupts::keep()?;
    let cache = Cache::open()?;
    match cli.list_kernels {
        true => list::show(cli, &cache, &interrupts),
        false => run::run(cli, &cache, &interrupts),
    }
}
