//! Readers for what `/proc` says about a process.
//!
//! Without `/proc` they find nothing. In the `/proc` of another pid namespace, pids refer to other processes: what looks for
//! processes returns "unknown" then, and a case that reads about a given one declares that it needs `/proc`.

use std::fs;

use nix::sys::signal::Signal;

use crate::check::{Failure, Result};

/// The fields of `/proc/PID/stat` that the suite uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The process ID.
    pub pid: i32,
    /// Its command name.
    pub comm: String,
    /// `R`, `S`, `Z`, …
    pub state: char,
    /// The parent's process ID.
    pub ppid: i32,
    /// Field 22: the time of its start after boot, in clock ticks.
    pub start: u64,
    /// Field 38: the signal sent to the parent at exit.
    pub exit_signal: i32,
}

impl Stat {
    /// Reads `/proc/PID/stat` (or `/proc/PID/task/TID/stat`).
    pub fn read(path: &str) -> Option<Stat> {
        if !is_mounted() {
            return None;
        }
        Stat::parse(&fs::read_to_string(path).ok()?)
    }

    /// Reads the stat file of a process.
    pub fn of(pid: i32) -> Option<Stat> {
        Stat::read(&format!("/proc/{pid}/stat"))
    }

    /// Parses a stat line. The command name is in parentheses and may contain anything, including parentheses
    /// and blanks.
    fn parse(text: &str) -> Option<Stat> {
        let (pid, rest) = text.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some(Stat {
            pid: pid.parse().ok()?,
            comm: comm.to_owned(),
            state: fields.first()?.chars().next()?,
            ppid: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
            exit_signal: fields.get(35)?.parse().ok()?,
        })
    }
}

/// Returns the meaning of a state letter according to proc(5).
fn state_name(state: char) -> &'static str {
    match state {
        'R' => "running",
        'S' => "sleeping",
        'D' => "uninterruptible",
        'Z' => "zombie",
        'T' => "stopped",
        't' => "stopped by a tracer",
        'X' => "dead",
        'I' => "idle",
        _ => "unknown state",
    }
}

impl Stat {
    /// Describes what a process or thread is doing: `7 (name) is S (sleeping)`.
    pub fn doing(&self) -> String {
        let Stat { pid, comm, state, .. } = self;
        format!("{pid} ({comm}) is {state} ({})", state_name(*state))
    }
}

impl std::fmt::Display for Stat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}, child of {}", self.doing(), self.ppid)
    }
}

/// Describes a process for messages.
pub fn describe(pid: i32) -> String {
    match Stat::of(pid) {
        Some(stat) => stat.to_string(),
        None if is_mounted() => format!("process {pid} does not exist"),
        None => format!("process {pid} (no /proc to look at it)"),
    }
}

/// Returns whether `/proc` is readable and belongs to the caller's own pid namespace.
pub fn is_mounted() -> bool {
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    fs::read_link("/proc/self").is_ok_and(|number| number.as_os_str() == own.as_str())
}

/// Returns the value of a `Name:` line of `/proc/PID/status`.
pub fn status_field(pid: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

/// Where a signal is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Pending for the process: `ShdPnd`.
    pub process: bool,
    /// Pending for this thread only: `SigPnd`.
    pub thread: bool,
}

impl Pending {
    /// Returns where `signal` is pending for a task: a pid, `self` or `thread-self`. See
    /// `proc_pid_status(5)`.
    pub fn of(task: &str, signal: Signal) -> Result<Pending> {
        let has = |field| has_signal(task, field, signal);
        Ok(Pending { process: has("ShdPnd")?, thread: has("SigPnd")? })
    }
}

/// Returns whether a line of `/proc/PID/status` that lists signals, like `SigBlk`, has this one.
pub fn has_signal(task: &str, field: &str, signal: Signal) -> Result<bool> {
    let word = status_field(task, field).unwrap_or_default();
    let mask = u64::from_str_radix(&word, 16);
    let mask = mask.map_err(|_| Failure::broken(format!("{field} in /proc is {word:?}")))?;
    Ok(mask & 1 << (signal as i32 - 1) != 0)
}

/// Looks up all `/proc` entries of a process's descriptors, so that the kernel caches them until the process
/// is gone.
pub fn look_up_descriptors(pid: i32) {
    for folder in ["fd", "fdinfo"] {
        // Listing the directory looks up every entry.
        fs::read_dir(format!("/proc/{pid}/{folder}")).into_iter().flatten().for_each(drop);
    }
}

/// Returns the thread IDs of a process, or none if it is gone.
pub fn threads_of(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Returns all children of a process, including zombies.
pub fn children_of(parent: i32) -> Vec<Stat> {
    if !is_mounted() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let stats = pids.filter_map(|pid| Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?));
    stats.filter(|stat| stat.ppid == parent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_command_name_is_read() {
        let fields = (0..48).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = Stat::parse(&format!("7 (a) Z (b) S {fields}")).unwrap();
        assert_eq!((stat.pid, stat.comm.as_str(), stat.state, stat.ppid), (7, "a) Z (b", 'S', 0));
        assert_eq!(stat.exit_signal, 34);
    }

    #[test]
    fn the_running_process_is_found() {
        let me = std::process::id() as i32;
        assert_eq!(Stat::of(me).unwrap().pid, me);
        assert_eq!(status_field("self", "Pid").unwrap(), me.to_string());
    }
}
