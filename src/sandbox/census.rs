//! What a case left behind: found, named, killed and reaped.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::pidfd_send_signal;
use serde::{Deserialize, Serialize};

use crate::clone3::exit_now;
use crate::kit::process;
use crate::pidfd::Pidfd;
use crate::procfs::{self, Stat};
use crate::wait::{self, Who, waitid};

/// How long leftovers may take to die of SIGKILL: long enough for an emulated machine under load.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A process, or another thing, that a case left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leftover {
    /// Its pid; 0 for what is no process.
    pub(super) pid: i32,
    /// Its state, parent and command.
    description: String,
    /// Whether it is there because of a process that is, or may be.
    by_process: bool,
}

impl Leftover {
    /// Something that the case made and did not remove.
    pub(super) fn thing(description: String) -> Leftover {
        Leftover { pid: 0, description, by_process: false }
    }

    /// Something that cannot be removed while a process is in it.
    pub(super) fn occupied(description: String) -> Leftover {
        Leftover { pid: 0, description, by_process: true }
    }

    /// Whether only the case can be to blame that it is there.
    pub(super) fn is_of_the_case(&self) -> bool {
        !self.by_process
    }
}

/// How many leftovers are named; a storm of forks leaves more than anybody reads.
const NAMED: usize = 8;

/// How many are passed on at all, so that a report is never too long for its pipe.
const TAKEN: usize = 100;

/// Leftovers in words.
pub(super) fn names(left: &[Leftover]) -> String {
    let mut words: Vec<String> =
        left.iter().take(NAMED).map(|leftover| leftover.description.clone()).collect();
    if left.len() > NAMED {
        words.push(format!("and {} more", left.len() - NAMED));
    }
    words.join("; ")
}

/// All children of the calling process; empty when there are none, alive or zombie.
///
/// The usual case costs one system call and needs no `/proc`.
pub(super) fn take() -> Vec<Leftover> {
    if has_no_child() {
        return Vec::new();
    }
    children()
        .into_iter()
        .take(TAKEN)
        .map(|pid| Stat::of(pid).map_or_else(|| nameless(pid), |stat| describe(&stat)))
        .collect()
}

/// The pids of all children of the calling process.
fn children() -> Vec<i32> {
    if procfs::is_mounted() {
        let me = own_pid();
        return procfs::children_of(me).iter().map(|stat| stat.pid).collect();
    }
    numbers_to_try().filter(|pid| is_child(*pid)).collect()
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The most that a pid can be.
const PID_MAX_LIMIT: i32 = 1 << 22;

/// The numbers that a child can have: pids are given out upwards from the caller's own, to the newest of all.
fn numbers_to_try() -> Box<dyn Iterator<Item = i32>> {
    let me = own_pid();
    match newest_pid() {
        Some(newest) if newest > me => Box::new(me..=newest),
        Some(newest) => Box::new((me..PID_MAX_LIMIT).chain(1..=newest)),
        None => Box::new(1..PID_MAX_LIMIT),
    }
}

/// The pid of a process that is made for it, and is gone on return.
fn newest_pid() -> Option<i32> {
    let pid = process::stray_copy().ok()?.unwrap_or_else(|| exit_now(0));
    let _ = waitid(Who::Pid(pid), libc::WEXITED | libc::__WALL);
    Some(pid)
}

/// Whether it is a child of the caller, alive or zombie. Nothing else is ever touched.
fn is_child(pid: i32) -> bool {
    waitid(Who::Pid(pid), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL).is_ok()
}

fn nameless(pid: i32) -> Leftover {
    Leftover { pid, description: format!("process {pid} (no /proc to look at it)"), by_process: true }
}

fn describe(stat: &Stat) -> Leftover {
    let command = command_line(&stat.pid.to_string());
    // A fork of the case has the case's command line, which says nothing.
    let description = match command.trim() {
        "" => stat.to_string(),
        command if command == command_line("self").trim() => stat.to_string(),
        command => format!("{stat}, command line: {}", command.chars().take(80).collect::<String>()),
    };
    Leftover { pid: stat.pid, description, by_process: true }
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
    let start = Instant::now();
    while !has_no_child() {
        children().into_iter().for_each(kill_child);
        while let Ok(Some(_)) = waitid(Who::Any, libc::WEXITED | libc::WNOHANG | libc::__WALL) {}
        if start.elapsed() > PATIENCE {
            return take();
        }
        std::thread::yield_now();
    }
    Vec::new()
}

/// Kills what had this number when children were looked up. One that the kernel reaps by itself may be gone since, and its number
/// somebody else's.
fn kill_child(pid: i32) {
    match Pidfd::try_open(pid) {
        // Not by the trail's own call: what is killed here is no step of the case.
        Ok(pidfd) if wait::is_child(&pidfd) => drop(pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)),
        Ok(_) | Err(Errno::ESRCH) => {}
        // Without descriptors, or behind a filter.
        Err(_) if is_child(pid) => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
        Err(_) => {}
    }
}
