//! A search for the processes that a test case left behind, which names, kills and reaps them.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::pidfd_send_signal;
use serde::{Deserialize, Serialize};

use crate::clone3::exit_now;
use crate::kit::process;
use crate::pidfd::Pidfd;
use crate::procfs::{self, Task};
use crate::wait::{self, Who, waitid};

/// How long leftovers may take to die of SIGKILL. This is long enough for an emulated machine under load.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A process, or something else, that a test case left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leftover {
    /// The pid, or 0 if this is not a process.
    pub(super) pid: i32,
    /// For a process: its state, parent and command.
    description: String,
    /// Whether this is a process, or something that a process may keep in existence.
    by_process: bool,
}

impl Leftover {
    /// Describes something that the case created and did not remove.
    pub(super) fn thing(description: String) -> Leftover {
        Leftover { pid: 0, description, by_process: false }
    }

    /// Describes something that cannot be removed while a process is in it.
    pub(super) fn occupied(description: String) -> Leftover {
        Leftover { pid: 0, description, by_process: true }
    }

    /// Returns whether only the case can be the cause of this leftover.
    pub(super) fn is_of_the_case(&self) -> bool {
        !self.by_process
    }
}

/// The maximum number of leftovers that are named. A fork storm leaves more than anyone would read.
const NAMED: usize = 8;

/// The maximum number of leftovers in a report, so that it is never too long for its pipe.
const TAKEN: usize = 100;

/// Describes leftovers for a message.
pub(super) fn names(left: &[Leftover]) -> String {
    let mut words: Vec<String> =
        left.iter().take(NAMED).map(|leftover| leftover.description.clone()).collect();
    if left.len() > NAMED {
        words.push(format!("and {} more", left.len() - NAMED));
    }
    words.join("; ")
}

/// Returns all children of the calling process, alive or zombie.
///
/// The usual case, no children, costs one system call and needs no `/proc`.
pub(super) fn take() -> Vec<Leftover> {
    if has_no_child() {
        return Vec::new();
    }
    children()
        .into_iter()
        .take(TAKEN)
        .map(|pid| Task::of(pid).map_or_else(|| nameless(pid), |task| describe(&task)))
        .collect()
}

/// Returns the pids of all children of the calling process.
fn children() -> Vec<i32> {
    if procfs::is_mounted() {
        let me = own_pid();
        return procfs::children_of(me).iter().map(|task| task.pid).collect();
    }
    numbers_to_try().filter(|pid| is_child(*pid)).collect()
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The kernel's upper limit for pids.
const PID_MAX_LIMIT: i32 = 1 << 22;

/// Returns the pids that a child may have: the kernel hands them out upwards from the caller's own to the
/// newest one.
fn numbers_to_try() -> Box<dyn Iterator<Item = i32>> {
    let me = own_pid();
    match newest_pid() {
        Some(newest) if newest > me => Box::new(me..=newest),
        Some(newest) => Box::new((me..PID_MAX_LIMIT).chain(1..=newest)),
        None => Box::new(1..PID_MAX_LIMIT),
    }
}

/// Returns the pid of a process that is created for this purpose and is gone on return.
fn newest_pid() -> Option<i32> {
    let pid = process::raw_fork().ok()?.unwrap_or_else(|| exit_now(0));
    let _ = waitid(Who::Pid(pid), libc::WEXITED | libc::__WALL);
    Some(pid)
}

/// Returns whether `pid` is a child of the caller, alive or zombie. Only children are ever killed.
fn is_child(pid: i32) -> bool {
    waitid(Who::Pid(pid), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL).is_ok()
}

fn nameless(pid: i32) -> Leftover {
    Leftover { pid, description: format!("process {pid} (no /proc to look at it)"), by_process: true }
}

fn describe(task: &Task) -> Leftover {
    let command = command_line(&task.pid.to_string());
    // A fork of the case has the case's own command line, which is no useful information.
    let description = match command.trim() {
        "" => task.to_string(),
        command if command == command_line("self").trim() => task.to_string(),
        command => format!("{task}, command line: {}", command.chars().take(80).collect::<String>()),
    };
    Leftover { pid: task.pid, description, by_process: true }
}

fn command_line(pid: &str) -> String {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).replace('\0', " ")
}

fn has_no_child() -> bool {
    let any = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    waitid(Who::Any, any) == Err(Errno::ECHILD)
}

/// Kills and reaps every child. Orphans of a killed child become children of the calling subreaper and are
/// killed next. Returns the children that could not be killed.
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

/// Kills the child that had this pid when the children were listed. If the kernel reaps the child by itself,
/// it may be gone by now, and another process may have its pid.
fn kill_child(pid: i32) {
    match Pidfd::try_open(pid) {
        // The wrapper that notes the call on the trail is not used, because this is not a step of the case.
        Ok(pidfd) if wait::is_child(&pidfd) => drop(pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)),
        Ok(_) | Err(Errno::ESRCH) => {}
        // No descriptor is available, or a filter rejects pidfd_open.
        Err(_) if is_child(pid) => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
        Err(_) => {}
    }
}
