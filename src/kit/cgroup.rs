//! A private cgroup of the case on the version 2 hierarchy.
//!
//! The hierarchy is reached through an existing mount, in the mount namespace of the caller or of process 1, or else through
//! a detached mount that disappears with its last descriptor, so that there is nothing to unmount. A mounted hierarchy is
//! never mounted a second time, because that would reset its options for the whole system. So nothing is mounted where
//! `/proc` does not show what is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, mkdirat, open, openat, unlinkat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::check::{Failure, Named, Result, errno_of};
use crate::{note, procfs, sandbox};

/// A new cgroup without children or limits. Dropping it kills the remaining processes and removes it.
#[derive(Debug)]
pub struct Cgroup {
    parent: &'static OwnedFd,
    dir: OwnedFd,
    name: String,
    /// The process that made it: forked copies do not remove it.
    owner: u32,
}

/// Returns whether the version 2 hierarchy can be reached, for [`Need::Cgroup2`](crate::need::Need::Cgroup2).
pub fn is_reachable() -> bool {
    hierarchy().is_ok()
}

/// Checks whether the kernel supports cgroups, mounted or not.
///
/// # Errors
/// `blocked` if `/proc` shows that it does not.
pub fn is_built_in() -> Result {
    match procfs::is_mounted() && !std::path::Path::new("/proc/self/cgroup").exists() {
        true => Err(Failure::blocked("needs control groups (CONFIG_CGROUPS)")),
        false => Ok(()),
    }
}

/// Returns the root directory of the hierarchy, as seen from the caller's cgroup namespace. It is opened once per process,
/// because making and removing a mount is slow.
fn hierarchy() -> std::result::Result<&'static OwnedFd, Errno> {
    static ROOT: OnceLock<std::result::Result<OwnedFd, Errno>> = OnceLock::new();
    ROOT.get_or_init(open_hierarchy).as_ref().map_err(|errno| *errno)
}

fn open_hierarchy() -> std::result::Result<OwnedFd, Errno> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Some(path) = mounted_at()? {
        return open(path, directory, Mode::empty()).map_err(errno_of);
    }
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC).map_err(errno_of)?;
    fsconfig_create(&context).map_err(errno_of)?;
    let mount =
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(errno_of)?;
    openat(mount, ".", directory, Mode::empty()).map_err(errno_of)
}

/// Returns a path of the mounted hierarchy; `None` if it is not mounted.
///
/// # Errors
/// If that cannot be found out.
fn mounted_at() -> std::result::Result<Option<String>, Errno> {
    /// Where it is mounted by convention.
    const USUAL: &str = "/sys/fs/cgroup";
    let mounts = |whose: &str| std::fs::read_to_string(format!("/proc/{whose}/mountinfo"));
    match mounts("self") {
        Ok(own) => match mount_point(&own) {
            Some(path) => Ok(Some(path.to_owned())),
            None => {
                let of_init = mounts("1").map_err(unknown)?;
                Ok(mount_point(&of_init).map(|path| format!("/proc/1/root{path}")))
            }
        },
        Err(_) if is_cgroup2(USUAL) => Ok(Some(USUAL.to_owned())),
        Err(error) => Err(unknown(error)),
    }
}

/// Returns where a mountinfo has a cgroup2: the fifth field of a line with that type after the dash.
fn mount_point(mountinfo: &str) -> Option<&str> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4)
}

fn is_cgroup2(path: &str) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == libc::CGROUP2_SUPER_MAGIC as u64)
}

fn unknown(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl Cgroup {
    /// Makes a new cgroup in which these controllers can be set.
    ///
    /// A controller that is off is switched on for all children of the root cgroup and stays on as long as the sandbox
    /// lives, because a case that runs in parallel may have begun to use it.
    ///
    /// # Errors
    /// `blocked` if the hierarchy cannot be reached or written, or lacks a controller.
    #[track_caller]
    pub fn create(controllers: &[&str]) -> Result<Cgroup> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let parent = hierarchy().map_err(|errno| forbidden("reaching cgroup2", errno))?;
        for controller in controllers {
            enable(parent, controller)?;
        }
        let owner = std::process::id();
        let name = names_of(owner as i32) + &COUNT.fetch_add(1, Ordering::Relaxed).to_string();
        mkdirat(parent, &name, Mode::from_raw_mode(0o755))
            .map_err(|errno| forbidden("making a cgroup", errno_of(errno)))?;
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(parent, &name, directory, Mode::empty())?;
        note!("made cgroup {name}");
        Ok(Cgroup { parent, dir, name, owner })
    }

    /// Makes a new cgroup of this name below it, which must be dropped first.
    pub fn create_below(&self, name: &str) -> Result<Cgroup> {
        mkdirat(&self.dir, name, Mode::from_raw_mode(0o755))?;
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(&self.dir, name, directory, Mode::empty())?;
        let parent = Box::leak(Box::new(self.dir.try_clone()?));
        Ok(Cgroup { parent, dir, name: name.to_owned(), owner: self.owner })
    }

    /// Allows the user of this number to move processes into it.
    pub fn give_to(&self, user: u32) -> Result {
        use rustix::fs::{Uid, chownat};
        Ok(chownat(&self.dir, "cgroup.procs", Some(Uid::from_raw(user)), None, AtFlags::empty())?)
    }

    /// Returns its directory, for `CLONE_INTO_CGROUP`.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Returns its id, as in `PIDFD_GET_INFO`: the inode number.
    pub fn id(&self) -> Result<u64> {
        Ok(fstat(&self.dir)?.st_ino)
    }

    /// Writes to one of its files.
    #[track_caller]
    pub fn write(&self, file: &str, text: &str) -> Result {
        note!("{}/{file} := {text}", self.name);
        Ok(write_at(&self.dir, file, text)?)
    }

    /// Reads one of its files.
    #[track_caller]
    pub fn read(&self, file: &str) -> Result<String> {
        Ok(read_at(&self.dir, file)?)
    }

    /// Moves a process into it; 0 is the caller.
    #[track_caller]
    pub fn admit(&self, pid: i32) -> Result {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Blocks until `cgroup.events` has this line, such as `populated 0` or `frozen 1`.
    #[track_caller]
    pub fn wait_for(&self, line: &str) -> Result {
        until_line(&open_at(&self.dir, "cgroup.events", OFlags::RDONLY)?, line)
    }

    /// Runs `cause`, and blocks until the kernel reports a change of `cgroup.events` and the file has this line.
    #[track_caller]
    pub fn tells_of(&self, line: &str, cause: impl FnOnce() -> Result) -> Result {
        let events = open_at(&self.dir, "cgroup.events", OFlags::RDONLY)?;
        let before = read_from_start(&events)?;
        cause()?;
        until_change(&events, &before, line)?;
        until_line(&events, line)
    }

    /// Removes it once it is empty: a dead process leaves it shortly after it was reaped.
    #[track_caller]
    pub fn remove(self) -> Result {
        self.wait_for("populated 0")?;
        Ok(self.unlink()?)
    }

    fn unlink(&self) -> rustix::io::Result<()> {
        unlinkat(self.parent, &self.name, AtFlags::REMOVEDIR)
    }
}

/// Blocks until these `cgroup.events` have this line.
#[track_caller]
fn until_line(events: &OwnedFd, line: &str) -> Result {
    loop {
        // Reading arms the next notification of a change.
        let now = read_from_start(events)?;
        if now.lines().any(|has| has == line) {
            return Ok(());
        }
        until_change(events, &now, line)?;
    }
}

/// Blocks until the kernel reports that these `cgroup.events`, which were read as `now`, have changed.
#[track_caller]
fn until_change(events: &OwnedFd, now: &str, line: &str) -> Result {
    if sandbox::wait_for(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)])? {
        return Ok(());
    }
    let now = now.trim_end().replace('\n', ", ");
    Err(Failure::fail(format!("cgroup.events never said {line:?}, but: {now}")))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // After remove() it is gone already; otherwise the case failed midway, and its processes prevent the removal.
        if std::process::id() == self.owner && self.unlink() == Err(rustix::io::Errno::BUSY) {
            let _ = self.write("cgroup.kill", "1").and_then(|()| self.wait_for("populated 0"));
            let _ = self.unlink();
        }
    }
}

/// The prefix of the names of all cgroups of the suite.
const PREFIX: &str = "clone3-conformance-";

/// Returns the prefix of the names of all cgroups that a process makes.
fn names_of(pid: i32) -> String {
    format!("{PREFIX}{}-", sandbox::number_of(pid))
}

/// Removes the cgroups that a process left behind, killing the processes inside; returns their names.
pub(crate) fn remove_left_by(pid: i32) -> Vec<String> {
    let Ok(root) = hierarchy() else { return Vec::new() };
    let mut left = names_below(root);
    left.retain(|name| name.starts_with(&names_of(pid)));
    for name in &left {
        let _ = kill_and_remove(root, name);
    }
    left
}

fn kill_and_remove(root: &'static OwnedFd, name: &str) -> Result {
    let dir = openat(root, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let cgroup = Cgroup { parent: root, dir, name: name.to_owned(), owner: std::process::id() };
    cgroup.write("cgroup.kill", "1")?;
    cgroup.wait_for("populated 0")?;
    for below in names_below(&cgroup.dir) {
        // Entries that are not directories remain.
        let _ = unlinkat(&cgroup.dir, &below, AtFlags::REMOVEDIR);
    }
    cgroup.remove()
}

fn names_below(dir: &OwnedFd) -> Vec<String> {
    let Ok(entries) = rustix::fs::Dir::read_from(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The controllers that are on for the children of the root cgroup, to be restored later.
pub(crate) struct Controllers(Vec<String>);

impl Controllers {
    /// Returns the current ones; `None` if none can be switched on anyway.
    pub(crate) fn now() -> Option<Controllers> {
        let root = nix::unistd::geteuid().is_root().then(hierarchy)?.ok()?;
        Some(Controllers(switched_on(root)))
    }

    /// Switches off what was switched on since, unless another run of the suite may be using it.
    pub(crate) fn put_back(&self) {
        let Ok(root) = hierarchy() else { return };
        if names_below(root).iter().any(|name| name.starts_with(PREFIX)) {
            return;
        }
        for new in switched_on(root).iter().filter(|name| !self.0.contains(name)) {
            // There is no way to report an error.
            let _ = write_at(root, "cgroup.subtree_control", &format!("-{new}"));
        }
    }
}

fn switched_on(root: &OwnedFd) -> Vec<String> {
    let list = read_at(root, "cgroup.subtree_control").unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

fn forbidden(what: &str, errno: Errno) -> Failure {
    Failure::blocked(format!("{what} fails with {}", Named(errno)))
}

/// Switches a controller on for the children of a cgroup.
fn enable(cgroup: &OwnedFd, controller: &str) -> Result {
    let has = |file| read_at(cgroup, file).map(|list| list.split_whitespace().any(|word| word == controller));
    if !has("cgroup.controllers")? {
        return Err(Failure::blocked(format!("cgroup2 has no controller {controller:?} here")));
    }
    if has("cgroup.subtree_control")? {
        return Ok(());
    }
    write_at(cgroup, "cgroup.subtree_control", &format!("+{controller}"))
        .map_err(|errno| forbidden(&format!("enabling {controller:?}"), errno_of(errno)))
}

fn open_at(dir: &OwnedFd, file: &str, access: OFlags) -> rustix::io::Result<OwnedFd> {
    openat(dir, file, access | OFlags::CLOEXEC, Mode::empty())
}

fn write_at(dir: &OwnedFd, file: &str, text: &str) -> rustix::io::Result<()> {
    // The kernel accepts a new value of such a file only in a single write.
    rustix::io::write(open_at(dir, file, OFlags::WRONLY)?, text.as_bytes()).map(drop)
}

fn read_at(dir: &OwnedFd, file: &str) -> rustix::io::Result<String> {
    read_from_start(&open_at(dir, file, OFlags::RDONLY)?)
}

fn read_from_start(file: &OwnedFd) -> rustix::io::Result<String> {
    let mut text = [0; 4096];
    let length = rustix::io::pread(file, &mut text, 0)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_hierarchy_is_found() {
        let mounts = "24 30 0:22 / /proc rw,nosuid - proc proc rw\n\
                      31 24 0:26 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("32 30 0:27 / /sys/fs/cgroup/cgroup2 rw - cgroup cgroup rw,cpu\n"), None);
        assert!(!is_cgroup2("/"));
    }
}
