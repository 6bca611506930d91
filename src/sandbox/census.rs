//! What a case left behind: found, named, killed and reaped.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::procfs::{self, Stat};
use crate::wait::{Who, waitid};

/// How long leftovers may take to die of SIGKILL: long enough for an emulated machine under load.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that a case left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leftover {
    /// Its pid; 0 where it could not be found out.
    pub(super) pid: i32,
    /// Its state, parent and command.
    description: String,
}

/// Leftovers in words.
pub(super) fn names(left: &[Leftover]) -> String {
    let descriptions: Vec<&str> = left.iter().map(|leftover| leftover.description.as_str()).collect();
    descriptions.join("; ")
}

/// All children of the calling process; empty when there are none, alive or zombie.
///
/// The usual case costs one system call and needs no `/proc`.
pub(super) fn take() -> Vec<Leftover> {
    if has_no_child() {
        return Vec::new();
    }
    let children = procfs::children_of(rustix::process::getpid().as_raw_nonzero().get());
    match children.as_slice() {
        [] => vec![Leftover { pid: 0, description: "a child (not to be found in /proc)".to_owned() }],
        found => found.iter().map(describe).collect(),
    }
}

fn describe(stat: &Stat) -> Leftover {
    let command = command_line(&stat.pid.to_string());
    // A fork of the case has the case's command line, which says nothing.
    let description = match command.trim() {
        "" => stat.to_string(),
        command if command == command_line("self").trim() => stat.to_string(),
        command => format!("{stat}, command line: {}", command.chars().take(80).collect::<String>()),
    };
    Leftover { pid: stat.pid, description }
}

fn command_line(pid: &str) -> String {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).replace('\0', " ")
}

fn has_no_child() -> bool {
    let any = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    waitid(Who::Any, any) == Err(Errno::ECHILD)
}

/// Kills and reaps every child; orphans of the killed become children of a subreaper, and are next. Gives
/// what could not be killed.
pub(super) fn kill_all_children() -> Vec<Leftover> {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let start = Instant::now();
    while !has_no_child() {
        for child in procfs::children_of(me) {
            // ESRCH: it is gone already.
            let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
        }
        while let Ok(Some(_)) = waitid(Who::Any, libc::WEXITED | libc::WNOHANG | libc::__WALL) {}
        if start.elapsed() > PATIENCE {
            return take();
        }
        std::thread::yield_now();
    }
    Vec::new()
}
