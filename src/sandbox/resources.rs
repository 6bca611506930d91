//! Detection of environments with too few resources, in which a failure is not the kernel's fault.
//!
//! A limit shows in many ways: as EAGAIN from clone3, as a thread that cannot be started, as a process killed
//! for lack of memory. So nothing is inferred from how a case failed. After a failure, the lane checks
//! whether it could get the resources that a case can need. If there is enough of everything, as almost
//! everywhere, the failure stands.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::process::{Resource, getrlimit};

use crate::check::{Failure, Kind};
use crate::clone3::{exit_now, park};
use crate::kit::{privilege, process};
use crate::wait::{self, Status};

/// The number of processes that the largest case has at once, with a margin. An exit code can hold it.
const PROCESSES: usize = 160;

/// The number of open files.
const FILES: u64 = 256;

/// The size of the address space, in bytes.
const MEMORY: usize = 64 << 20;

/// How long a reading taken before one case is also used for the next ones. A reading before each case would
/// cost a third of the time of a fork.
const FRESH: Duration = Duration::from_secs(1);

/// The state before a case, or shortly before.
///
/// If the kernel kills an unrelated process for lack of memory, that must excuse only cases that run at that
/// time.
pub(super) struct Before {
    asked: Instant,
    killed_for_memory: Option<u64>,
}

impl Before {
    pub(super) fn now() -> Before {
        Before { asked: Instant::now(), killed_for_memory: killed_for_memory() }
    }

    /// Renews the reading if it is too old. Call it before each case.
    pub(super) fn refresh(&mut self) {
        if self.asked.elapsed() > FRESH {
            *self = Before::now();
        }
    }

    /// Returns the failure of the case that ran, as `blocked` if a resource is too scarce to judge it.
    pub(super) fn excuse(&self, failure: Failure) -> Failure {
        if !matches!(failure.kind, Kind::Fail | Kind::Broken) {
            return failure;
        }
        match self.scarce() {
            Some(what) => Failure {
                kind: Kind::Blocked,
                message: format!("{what}, so that {}", failure.message),
                ..failure
            },
            None => failure,
        }
    }

    /// Describes the resource that is too scarce.
    fn scarce(&self) -> Option<String> {
        let killed = self.killed_for_memory.is_some_and(|before| killed_for_memory() > Some(before));
        too_few()
            .or_else(|| killed.then(|| "the kernel killed a process for want of memory meanwhile".to_owned()))
    }
}

/// Describes the resource that is too scarce now.
fn too_few() -> Option<String> {
    let processes = processes_to_be_had().min(processes_of_ordinary_user());
    if processes < PROCESSES {
        return Some(format!(
            "only {processes} more processes can be had (RLIMIT_NPROC, a pids cgroup or pid_max)"
        ));
    }
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < FILES) {
        return Some(format!("RLIMIT_NOFILE allows only {files} open files"));
    }
    (!memory_can_be_had()).then(|| format!("{} MiB of memory cannot be had (RLIMIT_AS)", MEMORY >> 20))
}

/// Forks as many children as a case may need, or as many as possible, and reaps them. Returns their number.
fn processes_to_be_had() -> usize {
    let mut children = Vec::new();
    while children.len() < PROCESSES {
        match process::raw_fork() {
            Ok(Some(child)) => children.push(child),
            Ok(None) => exit_now(park()),
            Err(_) => break,
        }
    }
    for child in &children {
        let _ = nix::sys::signal::kill(Pid::from_raw(*child), nix::sys::signal::Signal::SIGKILL);
        let _ = wait::waitpid(*child, libc::__WALL);
    }
    children.len()
}

/// Returns the number of processes that the user can have whom root's cases become: RLIMIT_NPROC does not apply to root.
fn processes_of_ordinary_user() -> usize {
    let count = || privilege::become_ordinary_user().map_or(PROCESSES, |()| processes_to_be_had());
    match process::raw_fork() {
        Ok(None) => exit_now(count() as i32),
        Ok(Some(child)) => match wait::reap(child) {
            Ok(Status(status)) if libc::WIFEXITED(status) => libc::WEXITSTATUS(status) as usize,
            _ => PROCESSES,
        },
        Err(_) => 0,
    }
}

fn memory_can_be_had() -> bool {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new anonymous mapping at an address that the kernel chooses aliases nothing.
    let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), MEMORY, access, MapFlags::PRIVATE) };
    // SAFETY: the mapping was just made, and nothing refers to it.
    mapped.is_ok_and(|address| unsafe { munmap(address, MEMORY) }.is_ok())
}

/// Returns how many processes the kernel has killed for lack of memory since boot, in any cgroup.
fn killed_for_memory() -> Option<u64> {
    let counters = std::fs::read_to_string("/proc/vmstat").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the counter after [`Before::refresh`] of a reading of this age. The initial value is one that
    /// no kernel reports.
    fn refreshed(age: Duration) -> Option<u64> {
        let asked = Instant::now().checked_sub(age).unwrap();
        let mut before = Before { asked, killed_for_memory: Some(u64::MAX) };
        before.refresh();
        before.killed_for_memory
    }

    #[test]
    fn a_kill_of_long_ago_excuses_nothing() {
        assert_eq!(refreshed(Duration::ZERO), Some(u64::MAX));
        assert_ne!(refreshed(2 * FRESH), Some(u64::MAX));
    }
}
