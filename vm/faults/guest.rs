//! A guest that fails in the way that its last argument names; the faults test boots it in place of the suite.
//!
//! Panics are real. What would need a broken kernel is written to the kernel's log, and reaches the console just like the
//! kernel's own messages.
#![forbid(unsafe_code)]

#[path = "../../runner/counters.rs"]
mod counters;
#[path = "../../runner/init.rs"]
mod init;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::{abort, exit};
use std::thread;

use clone3_conformance::clone3::Clone3;
use clone3_conformance::probe::Probe;
use clone3_conformance::report::{Event, Header, Record, SCHEMA, Suite, Verdict};
use clone3_conformance::wait::Status;
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::tcdrain;

fn main() {
    if init::is_init() {
        init::run(None);
    }
    let arguments: Vec<String> = std::env::args().collect();
    let events = arguments.iter().skip_while(|argument| *argument != "--events").nth(1).expect("no --events");
    let journal = OpenOptions::new().append(true).open(events).expect("no journal");
    go_wrong(arguments.last().expect("no fault"), journal);
}

/// Fails before or after the suite's first line.
fn go_wrong(fault: &str, mut journal: File) {
    match fault {
        "panic-before" => crash(),
        "hang-before" => hang(),
        "usage" => exit(2),
        _ => {}
    }
    begin(&mut journal);
    // Ensures that the driver has the journal before anything is done to it.
    let _ = tcdrain(&journal);
    println!("under way");
    match fault {
        "panic" => crash(),
        "hang" => hang(),
        "restart" => drop(reboot(RebootCommand::Restart)),
        "power-off" => drop(reboot(RebootCommand::PowerOff)),
        "abort" => abort(),
        "no-line" => hang_up(&journal),
        "torn" => drop(journal.write_all(br#"{"event":"end","ca"#)),
        "warning" => say("WARNING: CPU: 0 PID: 1 at kernel/exit.c:1 do_exit+0x1/0x2"),
        "bug" => say("BUG: KASAN: slab-use-after-free in pidfd_poll+0x1/0x2"),
        "lockdep" => say("WARNING: possible circular locking dependency detected"),
        "int3" => say("Oops: int3: 0000 [#1] SMP NOPTI"),
        "int3-panic" => {
            say("Oops: int3: 0000 [#1] SMP NOPTI");
            crash();
        }
        "stall" => say("rcu: INFO: rcu_preempt self-detected stall on CPU"),
        // No end marker: the report of a stall has none.
        "stall-bug" => {
            log("rcu: INFO: rcu_preempt self-detected stall on CPU");
            say("BUG: KASAN: slab-use-after-free in pidfd_poll+0x1/0x2");
        }
        "stall-beside" => {
            tell_event(&mut journal, &end("wrong", Verdict::Fail));
            say("rcu: INFO: rcu_preempt self-detected stall on CPU");
        }
        "flood" => flood(&mut journal),
        _ => {}
    }
    let status = fault.strip_prefix("exit-").and_then(|status| status.parse().ok()).unwrap_or_default();
    tell(&mut journal, r#"{"event":"end","case":"running","verdict":"pass"}"#);
    exit(status);
}

/// Reports that one case ended, and another started.
fn begin(journal: &mut File) {
    let suite = Suite::this("");
    let header = Header { schema: SCHEMA, suite, probe: Probe::run(), tainted: None, cpus: 1, selected: 2 };
    let start = |case: &str| Event::Start { case: case.to_owned() };
    for event in [Event::Run(header), start("finished"), end("finished", Verdict::Pass), start("running")] {
        tell_event(journal, &event);
    }
}

fn end(case: &str, verdict: Verdict) -> Event {
    Event::End(Record { case: case.to_owned(), verdict, ..Record::default() })
}

fn tell_event(journal: &mut File, event: &Event) {
    tell(journal, &serde_json::to_string(event).expect("an event has a text"));
}

fn tell(journal: &mut File, event: &str) {
    journal.write_all(format!("{event}\n").as_bytes()).expect("the journal is gone");
}

/// Writes a report to the kernel's log.
fn say(report: &str) {
    for line in ["------------[ cut here ]------------", report, "---[ end trace 0000000000000000 ]---"] {
        log(line);
    }
}

/// Writes a line to the kernel's log.
fn log(line: &str) {
    fs::write("/dev/kmsg", format!("<4>{line}\n")).expect("no kernel log");
}

/// Panics the kernel.
fn crash() {
    fs::write("/proc/sys/kernel/sysrq", "1").expect("no sysrq");
    fs::write("/proc/sysrq-trigger", "c").expect("no panic");
}

fn hang() {
    loop {
        thread::park();
    }
}

/// Hangs up the serial line for all processes that have it open, as the end of a terminal's session does, and exits successfully.
fn hang_up(line: &File) -> ! {
    let session = Clone3::fork().spawn(|| {
        let held = setsid().and_then(|_| ioctl_tiocsctty(line));
        i32::from(held.is_err())
    });
    let ended = session.and_then(|child| child.reap_expecting(Status::exited(0)));
    ended.unwrap_or_else(|why| panic!("no hang-up: {why:?}"));
    exit(0)
}

/// Writes more to both lines than any pipe holds.
fn flood(journal: &mut File) {
    let filler = "x".repeat(1000);
    for number in 0..1000 {
        println!("{number} {filler}");
        tell(journal, &format!(r#"{{"event":"note","number":{number},"text":"{filler}"}}"#));
    }
}
