//! What a case left behind: found, named, killed and reaped.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::procfs::{self, Stat};
use crate::wait::{Who, waitid};

/// How long leftovers may take to die of SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);

/// All children of the calling process, in words; empty when there are none, alive or zombie.
///
/// The usual case costs one system call and needs no `/proc`.
pub(super) fn take() -> Vec<String> {
    if has_no_child() {
        return Vec::new();
    }
    let children = procfs::children_of(rustix::process::getpid().as_raw_nonzero().get());
    match children.as_slice() {
        [] => vec!["a child (not to be found in /proc)".to_owned()],
        found => found.iter().map(describe).collect(),
    }
}

fn describe(stat: &Stat) -> String {
    let command = std::fs::read(format!("/proc/{}/cmdline", stat.pid)).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    match command.trim() {
        "" => stat.to_string(),
        command => format!("{stat}, command line: {}", command.chars().take(80).collect::<String>()),
    }
}

fn has_no_child() -> bool {
    let any = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    waitid(Who::Any, any) == Err(Errno::ECHILD)
}

/// Kills and reaps every child; orphans of the killed become children of a subreaper, and are next. Gives
/// what could not be killed.
pub(super) fn kill_all_children() -> Vec<String> {
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
