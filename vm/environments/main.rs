//! The suite in one hostile environment after the other: what `vm/environments.sh` boots in place of the suite.
//!
//! This program is the guest's init, and then the one that goes through the table: for each row it makes the environment,
//! runs the suite itself (`/suite/carried/clone3-conformance`, as it is shipped) in it, compares every verdict with what
//! the row expects, and looks for what is left. It also plays the other parts: the process that gives up a privilege and
//! then becomes the suite, the tracer, the load, the bystander that must never be signalled.
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

/// This program, in the guest.
const THIS: &str = "/suite/clone3-conformance";

fn main() -> ExitCode {
    if init::is_init() {
        init::run(None);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("inside") => inside::become_suite(&arguments[1..]),
        Some("part") => parts::play(&arguments[1..]),
        _ => go_through_table(&Options::parse(&arguments)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("environments: {error}");
        ExitCode::from(3)
    })
}

/// What was asked for.
struct Options {
    journal: String,
    quick: bool,
    markdown: bool,
    names: Vec<String>,
}

impl Options {
    /// What the guest's init adds for the suite is no concern of ours.
    fn parse(arguments: &[String]) -> Options {
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        let journal = arguments.iter().skip_while(|argument| *argument != "--events").nth(1);
        let names =
            arguments.iter().filter(|argument| !argument.starts_with('-') && Some(*argument) != journal);
        Options {
            journal: journal.cloned().unwrap_or_default(),
            quick: has("--quick"),
            markdown: has("--markdown"),
            names: names.cloned().collect(),
        }
    }

    fn wants(&self, row: &Row) -> bool {
        match self.names.as_slice() {
            [] => !row.only_if_named,
            names => names.iter().any(|name| row.name.contains(name.as_str())),
        }
    }
}

/// Every row that was asked for, behind the one that the others are compared with.
fn go_through_table(options: &Options) -> Result<ExitCode> {
    let mut journal = OpenOptions::new().append(true).open(&options.journal)?;
    let mut tell = |event: String| writeln!(journal, "{event}").and_then(|()| File::flush(&mut journal));
    // The driver takes what comes before this line for the boot's doing.
    tell(r#"{"event":"run","schema":1}"#.to_owned())?;
    let bystanders = Bystanders::start()?;
    let mut judge = Judge::new(options.quick);
    let mut verdicts = Vec::new();
    for row in table::rows().iter().filter(|row| row.is_the_measure() || options.wants(row)) {
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
