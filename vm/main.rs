//! The program behind `vm/run.sh`, which boots kernels in virtual machines and runs the suite in them.
#![forbid(unsafe_code)]
mod accel;
mod arch;
mod archive;
mod cache;
mod channel;
mod cli;
mod compare;
mod console;
mod engine;
mod initramfs;
mod interrupt;
mod journal;
mod kernel;
mod list;
mod machine;
mod outcome;
mod process;
mod qemu;
mod results;
mod run;
mod source;
mod spec;
mod system;
mod version;
mod virtme;
mod vmlinux;
mod watch;

use std::ffi::OsString;
use std::fmt;
use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use clone3_conformance::usage;

use crate::cache::Cache;
use crate::cli::{Cli, CompareCli};
use crate::interrupt::{Interrupted, Interrupts};
use crate::outcome::{BROKEN, GOOD, NO_VERDICT};
use crate::process::{SUPERVISE, supervise};
use crate::source::SOURCE;

/// The first argument with which vm/compare.sh calls this program.
const COMPARE: &str = "compare";

/// Prints a message that is not part of the suite's own output.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::say(format_args!("{}: {}\n", $crate::script(), format_args!($($text)*))) };
}

/// Writes to stderr, and goes on if nobody reads it any more: after Ctrl-C, for example, `tee` in the same pipeline is gone.
pub fn say(text: fmt::Arguments) {
    let _ = stderr().write_fmt(text);
}

/// Writes the output for the user, and returns the exit status: output that nobody sees is no success.
pub fn show(text: &str) -> u8 {
    match stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()) {
        Ok(()) => GOOD,
        Err(error) => {
            note!("cannot write to stdout: {error}");
            BROKEN
        }
    }
}

/// The script that this program was started for.
fn script() -> &'static str {
    match std::env::args_os().nth(1) {
        Some(word) if word == COMPARE => "compare.sh",
        Some(word) if word == SOURCE => "mutants.sh",
        _ => "run.sh",
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let result = match arguments.nth(1) {
        Some(word) if word == SUPERVISE => supervise(arguments),
        Some(word) if word == COMPARE => compare(arguments),
        Some(word) if word == SOURCE => source(arguments),
        _ => {
            let cli = Cli::try_parse().unwrap_or_else(|error| usage::exit_with(&error));
            cli.check().unwrap_or_else(|error| usage::exit_with(&error));
            run_or_list(&cli)
        }
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            note!("{error:#}");
            ExitCode::from(error.downcast_ref().map_or(NO_VERDICT, Interrupted::status))
        }
    }
}

fn run_or_list(cli: &Cli) -> anyhow::Result<u8> {
    let interrupts = Interrupts::keep()?;
    let cache = Cache::open()?;
    match cli.list_kernels {
        true => list::show(cli, &cache, &interrupts),
        false => run::run(cli, &cache, &interrupts),
    }
}

fn compare(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<u8> {
    let words = std::iter::once(OsString::from("vm/compare.sh")).chain(arguments);
    let cli = CompareCli::try_parse_from(words).unwrap_or_else(|error| usage::exit_with(&error));
    compare::compare(&cli, &Cache::open()?, &Interrupts::keep()?)
}

fn source(mut arguments: impl Iterator<Item = OsString>) -> anyhow::Result<u8> {
    let package = arguments
        .next()
        .and_then(|word| word.into_string().ok())
        .context("the package of a kernel's source is missing")?;
    source::show(&package, &Cache::open()?, &Interrupts::keep()?)
}
