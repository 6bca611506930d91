//! The guest program of vm/lost-kill.sh: races the last close of an auto-kill pidfd on one CPU against the exec of a thread of
//! the child on another, once. Exits with 0 if the child died, and with 1 if it survived the close.
#![forbid(unsafe_code)]

#[path = "../runner/counters.rs"]
mod counters;
#[path = "../runner/init.rs"]
mod init;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::{ExitCode, exit};

use clone3_conformance::check::{Kind, Result};
use clone3_conformance::kit::exec_race::about_to_exec_on;
use clone3_conformance::kit::processors::stay_on;
use clone3_conformance::kit::{Gate, helper};

/// The functions at which the debugger stops the two CPUs.
const SYMBOLS: [&str; 4] = ["__x64_sys_sethostname", "begin_new_exec", "do_send_sig_info", "unshare_files"];

fn main() -> ExitCode {
    helper::run_if_asked();
    if init::is_init() {
        init::run(None);
    }
    tell(r#"{"event":"run","schema":1}"#);
    let Some(places) = places() else {
        println!("/proc/kallsyms does not say where {SYMBOLS:?} are");
        return ExitCode::from(3);
    };
    println!("ready: {places}");
    match survives() {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(1),
        Err(failure) => {
            println!("{} at {}", failure.message, failure.at);
            ExitCode::from(3)
        }
    }
}

/// Writes an event to the journal: the driver waits for the suite's first line.
fn tell(event: &str) {
    let arguments: Vec<String> = std::env::args().collect();
    let events = arguments.iter().skip_while(|argument| *argument != "--events").nth(1);
    let journal = events.and_then(|path| OpenOptions::new().append(true).open(path).ok());
    let written = journal.map(|mut journal| journal.write_all(format!("{event}\n").as_bytes()));
    if !matches!(written, Some(Ok(()))) {
        println!("no journal to write to");
        exit(3);
    }
}

/// Returns the addresses of the functions, as `name=0x…`.
fn places() -> Option<String> {
    let table = fs::read_to_string("/proc/kallsyms").ok()?;
    let address = |name: &&str| {
        let words = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        words.filter(|words| words.get(2) == Some(name)).map(|words| words[0].to_owned()).next()
    };
    let found = SYMBOLS.iter().map(|name| Some(format!("{name}=0x{}", address(name)?)));
    Some(found.collect::<Option<Vec<_>>>()?.join(" "))
}

/// Races close and exec once, and returns whether the child survived.
fn survives() -> Result<bool> {
    stay_on(0)?;
    // The debugger makes this call fail to show that it is attached.
    while nix::unistd::sethostname("waiting").is_ok() {}
    let gate = Gate::new()?;
    let (mut child, line) = about_to_exec_on(1, &gate)?;
    let observer = child.observe()?;
    gate.open()?;
    child.close_pidfd()?;
    match line.is_dead(child.pid(), "after the last close of its pidfd") {
        Err(failure) if failure.kind == Kind::Fail => {
            println!("LOST: {}", failure.message);
            return Ok(true);
        }
        other => other?,
    }
    observer.wait_reaped()?;
    println!("child {} is dead after the last close of its pidfd", child.pid());
    Ok(false)
}
