//! A search for what a dead test case can leave behind besides processes: a directory for temporary files and
//! what is mounted on it, cgroups, and a semaphore. They are found by the names that the suite gives them,
//! reported and removed.
//!
//! Nothing else is searched for, because on a machine in use any process may have created a new mount or
//! file.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{UnmountFlags, unmount};

use super::census::Leftover;
use crate::case::Case;
use crate::kit::{cgroup, semaphore, shared};
use crate::need::Need;

/// The directory for temporary files, without symbolic links in the path: the kernel does not follow one to a
/// socket.
static PARENT: LazyLock<PathBuf> = LazyLock::new(|| {
    let parent = std::env::temp_dir();
    fs::canonicalize(&parent).unwrap_or(parent)
});

/// Sixteen random bits of each lane. A pid alone does not identify the owner if another run has its own pid
/// namespace but shares the directory for temporary files or the cgroups with this one. There are no more
/// bits because names with the number in them must fit twice into the 127 bytes of `kernel.core_pattern`.
static CHANCE: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()) >> 48);

/// Returns the number in the names of what this process may leave behind: the random bits, and the pid in the
/// lowest 22 bits, which is the size of a pid.
pub(crate) fn number_of(pid: i32) -> u64 {
    *CHANCE << 22 | pid as u64
}

/// Nonzero once the running case may have created its directory, in memory shared with the lane. It saves a
/// search that takes a tenth of the time of a fork. Without such memory, the lane looks for the directory
/// after every case.
static IN_USE: LazyLock<Option<&AtomicU32>> = LazyLock::new(|| shared::word(0).ok());

/// Returns the path of the one directory that a case may create. Call it in the case's own process, before
/// creating the directory.
pub(crate) fn own_directory() -> PathBuf {
    if let Some(in_use) = *IN_USE {
        in_use.store(1, Ordering::Relaxed);
    }
    directory_of(std::process::id() as i32)
}

fn directory_of(pid: i32) -> PathBuf {
    PARENT.join(format!("clone3-conformance-{}", number_of(pid)))
}

/// Computes directory and names before cases are forked.
pub(super) fn prepare() {
    LazyLock::force(&PARENT);
    LazyLock::force(&CHANCE);
    LazyLock::force(&IN_USE);
    semaphore::prepare();
}

/// Removes what the case's process `pid` left behind, now that it is gone, and returns the names.
pub(super) fn clear_away(case: &Case, pid: i32) -> Vec<Leftover> {
    let mut left = Vec::new();
    if case.needs.contains(&Need::Cgroup2) {
        left.extend(
            cgroup::remove_left_by(pid).into_iter().map(|name| Leftover::occupied(format!("cgroup {name}"))),
        );
    }
    left.extend(semaphore::remove_left().map(|id| Leftover::thing(format!("System V semaphore {id}"))));
    let in_use = IN_USE.is_none_or(|in_use| in_use.swap(0, Ordering::Relaxed) != 0);
    if let Some(directory) = in_use.then(|| directory_of(pid)).filter(|directory| is_ours(directory)) {
        left.extend(unmount_all(&directory).into_iter().map(|path| Leftover::thing(format!("mount {path}"))));
        left.push(Leftover::thing(format!("directory {}", directory.display())));
        // What cannot be removed has been named.
        let _ = fs::remove_dir_all(&directory);
    }
    left
}

/// Returns whether this is a directory that this user created: other users may create that name in `/tmp`.
fn is_ours(directory: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(directory).is_ok_and(|found| found.is_dir() && found.uid() == me)
}

/// Unmounts everything in a directory, the last mount first.
fn unmount_all(directory: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let paths = mounts.lines().filter_map(|mount| mount.split(' ').nth(4));
    let below: Vec<String> =
        paths.filter(|path| Path::new(path).starts_with(directory)).map(str::to_owned).collect();
    for path in below.iter().rev() {
        let _ = unmount(path.as_str(), UnmountFlags::DETACH);
    }
    below
}
