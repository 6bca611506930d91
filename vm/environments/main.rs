//! The program that `vm/environments.sh` boots in place of the suite; it runs the suite in one hostile environment after another.
//!
//! The program is the guest's init, and then processes the table: for each row it creates the environment, runs the released
//! suite (`/suite/carried/clone3-conformance`) in it, compares every verdict with what the row expects, and looks for leftovers.
//! It also provides the helper processes: the one that drops a privilege and then becomes the suite, the tracer, the load, and
//! the bystander that must never be signaled.
#![forbid(unsafe_code)]

#[path = "../../runner/counters.rs"]
mod counters;
#[path = "../../runner/init.rs"]
mod init;
mod inside;
mod judge;
mod outside;
mod parts;
mod row;
mod show;
mod snapshot;
mod table;
mod trial;

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use judge::{Judge, Verdict};
use row::{CARRIED, Row};
use snapshot::Bystanders;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The path of this program in the guest.
const THIS: &str = "/suite/clone3-conformance";

fn main() -> ExitCode {
    if init::is_init() {
        init::run(None);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("inside") => inside::become_suite(&arguments[1..]),
        Some("part") => parts::play(&arguments[1..]),
        _ => Options::parse(&arguments).map_or_else(refuse, |options| go_through_table(&options)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("environments: {error}");
        ExitCode::from(3)
    })
}

/// Reports a usage error.
fn refuse(why: String) -> Result<ExitCode> {
    eprintln!("environments: {why}");
    Ok(ExitCode::from(2))
}

/// The requested run.
#[derive(Default)]
struct Options {
    journal: String,
    quick: bool,
    markdown: bool,
    names: Vec<String>,
}

impl Options {
    /// Parses the arguments; ignores those that the driver and the guest's init add for the suite.
    fn parse(arguments: &[String]) -> std::result::Result<Options, String> {
        let mut options = Options::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--markdown" => options.markdown = true,
                "--events" => options.journal = rest.next().cloned().unwrap_or_default(),
                "--expect" => drop(rest.next()),
                "--allow-global-changes" => {}
                color if color.starts_with("--color") => {}
                option if option.starts_with('-') => return Err(format!("no option {option}")),
                name if !table::rows().iter().any(|row| row.name.contains(name)) => {
                    return Err(format!("no environment's name contains {name}"));
                }
                name => options.names.push(name.to_owned()),
            }
        }
        Ok(options)
    }

    fn wants(&self, row: &Row) -> bool {
        match self.names.as_slice() {
            [] => !row.only_if_named,
            names => names.iter().any(|name| row.name.contains(name.as_str())),
        }
    }
}

/// Runs every requested row, after the one with which the others are compared.
fn go_through_table(options: &Options) -> Result<ExitCode> {
    let mut journal = OpenOptions::new().append(true).open(&options.journal)?;
    let mut tell = |event: String| writeln!(journal, "{event}").and_then(|()| File::flush(&mut journal));
    // The driver attributes everything before this line to the boot.
    tell(r#"{"event":"run","schema":1}"#.to_owned())?;
    let bystanders = Bystanders::start()?;
    let mut judge = Judge::new(options.quick);
    let mut verdicts = Vec::new();
    for row in table::rows().iter().filter(|row| row.is_baseline() || options.wants(row)) {
        if let Some(tool) = row.tool().filter(|tool| !Path::new(CARRIED).join(tool.name).exists()) {
            println!("left out: {}: the host has no {} that could be given", row.name, tool.name);
            continue;
        }
        let name = row.name;
        tell(format!(r#"{{"event":"start","case":"{name}"}}"#))?;
        let verdict = judge.on(row, trial::carry_out(row, options.quick, &bystanders)?);
        tell(format!(r#"{{"event":"end","case":"{name}","verdict":"pass"}}"#))?;
        print!("{}", show::line(&verdict));
        verdicts.push(verdict);
    }
    print!("{}", show::totals(&verdicts));
    if options.markdown {
        print!("{}", show::markdown(&verdicts, options.quick));
    }
    Ok(ExitCode::from(u8::from(verdicts.iter().any(Verdict::is_wrong))))
}
