//! Readers for what `/proc` says about a process.
//!
//! Without `/proc` they find nothing. In the `/proc` of another pid namespace, pids refer to other processes: what looks for
//! processes returns "unknown" then, and a case that reads about a given one declares that it needs `/proc`.

use std::fs;

use nix::sys::signal::Signal;

use crate::check::{Failure, Result};

/// What `/proc/PID/status` says about a process or thread.
///
/// Unlike `stat`, which waits for a lock since Linux 7.3 (see proc_pid_stat() in fs/proc/array.c: `exec_update_lock`), this can be read
/// while the process is stuck in execve(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The thread ID, which is that of the process for its leader.
    pub pid: i32,
    /// Its command name, in which the kernel has escaped line feeds and backslashes.
    pub comm: String,
    /// `R`, `S`, `Z`, …
    pub state: char,
    /// `state` with the kernel's word for it: `S (sleeping)`.
    state_in_words: String,
    /// The parent's process ID.
    pub ppid: i32,
}

impl Task {
    /// Reads `/proc/PID/status` (or `/proc/PID/task/TID/status`).
    pub fn read(path: &str) -> Option<Task> {
        if !is_mounted() {
            return None;
        }
        Task::parse(&fs::read_to_string(path).ok()?)
    }

    /// Reads the status file of a process.
    pub fn of(pid: i32) -> Option<Task> {
        Task::read(&format!("/proc/{pid}/status"))
    }

    fn parse(text: &str) -> Option<Task> {
        let state = line(text, "State")?;
        Some(Task {
            pid: line(text, "Pid")?.parse().ok()?,
            comm: line(text, "Name")?.to_owned(),
            state: state.chars().next()?,
            state_in_words: state.to_owned(),
            ppid: line(text, "PPid")?.parse().ok()?,
        })
    }

    /// Describes what a process or thread is doing: `7 (name) is S (sleeping)`.
    pub fn doing(&self) -> String {
        let Task { pid, comm, state_in_words, .. } = self;
        format!("{pid} ({comm}) is {state_in_words}")
    }
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}, child of {}", self.doing(), self.ppid)
    }
}

/// What `/proc/PID/stat` says about a process: fields that no other file has, and the parent once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Field 4: the parent's process ID.
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
        let (_, from_third) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = from_third.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3);
        Some(Stat {
            ppid: field(4)?.parse().ok()?,
            start: field(22)?.parse().ok()?,
            exit_signal: field(38)?.parse().ok()?,
        })
    }
}

/// Describes a process for messages.
pub fn describe(pid: i32) -> String {
    match Task::of(pid) {
        Some(task) => task.to_string(),
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
    line(&text, name).map(str::to_owned)
}

/// Returns the value of a line of a status file.
fn line<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
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
pub fn children_of(parent: i32) -> Vec<Task> {
    if !is_mounted() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let tasks = pids.filter_map(|pid| Task::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?));
    tasks.filter(|task| task.ppid == parent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_command_name_is_read() {
        let fields = (3..51).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = Stat::parse(&format!("7 (a) Z (b) {fields}")).unwrap();
        assert_eq!(stat, Stat { ppid: 4, start: 22, exit_signal: 38 });
    }

    #[test]
    fn a_status_file_is_read() {
        let text = "Name:\tPPid: 1\nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t8\nPid:\t9\nPPid:\t7\n";
        let task = Task::parse(text).unwrap();
        assert_eq!(task.to_string(), "process 9 (PPid: 1) is t (tracing stop), child of 7");
        assert_eq!(task.state, 't');
    }

    #[test]
    fn the_running_process_is_found() {
        let me = std::process::id() as i32;
        assert_eq!(Task::of(me).unwrap().pid, me);
        assert!(Stat::of(me).unwrap().start > 0);
        assert_eq!(status_field("self", "Pid").unwrap(), me.to_string());
    }
}
