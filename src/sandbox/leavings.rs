//! What a case that died can leave beside processes, by the names that such things have in this suite: a directory for
//! temporary files and what is mounted on it, cgroups, and a semaphore. Found, named and removed.
//!
//! Nothing else is looked for: on a machine that is in use, a mount or a file that is new may be anybody's.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{UnmountFlags, unmount};

use super::census::Leftover;
use crate::case::Case;
use crate::kit::{cgroup, held_things, shared};
use crate::need::Need;

/// Where temporary files go. Without a symbolic link in it: the kernel does not follow one to a socket.
static PARENT: LazyLock<PathBuf> = LazyLock::new(|| {
    let parent = std::env::temp_dir();
    fs::canonicalize(&parent).unwrap_or(parent)
});

/// Sixteen bits of chance, of each lane's own: a pid alone says too little of whose something is, where another run has a pid namespace of its own, and
/// the directory for temporary files or the cgroups in common with this one. No more of them, since names with the number in it
/// have to find room in the 127 bytes of `kernel.core_pattern`, twice.
static CHANCE: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()) >> 48);

/// The number in the names of what this process may leave: that chance, and the pid in the lowest 22 bits, which is what a pid
/// has.
pub(crate) fn number_of(pid: i32) -> u64 {
    *CHANCE << 22 | pid as u64
}

/// Not 0 once the case that runs may have made its directory, in memory that its lane shares: to look in vain takes a tenth of
/// a fork. Where there is no such memory, it is looked for after every case.
static IN_USE: LazyLock<Option<&AtomicU32>> = LazyLock::new(|| shared::word(0).ok());

/// The one directory that a case may make, in its own process: to be asked for before it is made.
pub(crate) fn own_directory() -> PathBuf {
    if let Some(in_use) = *IN_USE {
        in_use.store(1, Ordering::Relaxed);
    }
    directory_of(std::process::id() as i32)
}

fn directory_of(pid: i32) -> PathBuf {
    PARENT.join(format!("clone3-conformance-{}", number_of(pid)))
}

/// Finds out where temporary files go and what is called how, before cases are forked.
pub(super) fn prepare() {
    LazyLock::force(&PARENT);
    LazyLock::force(&CHANCE);
    LazyLock::force(&IN_USE);
    held_things::prepare();
}

/// Removes what the case's process `pid` left, now that it is gone, and gives it by name.
pub(super) fn clear_away(case: &Case, pid: i32) -> Vec<Leftover> {
    let mut left = Vec::new();
    if case.needs.contains(&Need::Cgroup2) {
        left.extend(
            cgroup::remove_left_by(pid).into_iter().map(|name| Leftover::occupied(format!("cgroup {name}"))),
        );
    }
    left.extend(held_things::remove_left().map(|id| Leftover::thing(format!("System V semaphore {id}"))));
    let in_use = IN_USE.is_none_or(|in_use| in_use.swap(0, Ordering::Relaxed) != 0);
    if let Some(directory) = in_use.then(|| directory_of(pid)).filter(|directory| is_ours(directory)) {
        left.extend(unmount_all(&directory).into_iter().map(|path| Leftover::thing(format!("mount {path}"))));
        left.push(Leftover::thing(format!("directory {}", directory.display())));
        // What cannot be removed has been named.
        let _ = fs::remove_dir_all(&directory);
    }
    left
}

/// Whether it is a directory that this user made: others may put something of that name into `/tmp`.
fn is_ours(directory: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(directory).is_ok_and(|found| found.is_dir() && found.uid() == me)
}

/// Takes away what is mounted in a directory, the last mount first.
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
