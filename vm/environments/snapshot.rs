//! Snapshots of the machine's state, and their differences.
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::parts::pending_signals;
use crate::{Result, THIS};

/// Everything that a run of the suite must leave unchanged, by name.
pub struct Snapshot(BTreeMap<String, String>);

/// Sysctls that change by themselves.
const RESTLESS: [&str; 9] = [
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "fs/aio-nr",
    "kernel/ns_last_pid",
    "kernel/random/",
    "kernel/pty/nr",
    "vm/stat_refresh",
];

/// The flag of kernel threads, which are ignored: they come and go.
const PF_KTHREAD: u64 = 0x0020_0000;

impl Snapshot {
    pub fn take() -> Result<Snapshot> {
        let mut found = BTreeMap::new();
        processes(&mut found)?;
        files(Path::new("/"), &mut found)?;
        cgroups(Path::new("/sys/fs/cgroup"), &mut found)?;
        sysctls(Path::new("/proc/sys"), &mut found)?;
        for mount in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            found.insert(format!("mount {mount}"), String::new());
        }
        for kind in ["shm", "sem", "msg"] {
            let table = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
            found.insert(format!("System V {kind}"), table);
        }
        Ok(Snapshot(found))
    }

    /// Returns what is new, gone or changed in the later snapshot.
    pub fn differences(&self, later: &Snapshot) -> Vec<String> {
        let mut differences = Vec::new();
        for (name, before) in &self.0 {
            match later.0.get(name) {
                None => differences.push(format!("gone: {name}")),
                Some(now) if now != before => {
                    differences.push(format!("{name} was {before:?}, and is {now:?} now"))
                }
                Some(_) => {}
            }
        }
        differences.extend(
            later.0.keys().filter(|name| !self.0.contains_key(*name)).map(|name| format!("left: {name}")),
        );
        differences
    }
}

fn processes(found: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        // The process may exit in the meantime.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let flags: u64 = tail.split(' ').nth(6).unwrap_or_default().parse()?;
        if flags & PF_KTHREAD == 0 {
            let state = tail.split(' ').next().unwrap_or_default();
            let zombie = if state == "Z" { ", a zombie" } else { "" };
            found.insert(format!("process {head}){zombie}"), String::new());
        }
    }
    Ok(())
}

fn files(folder: &Path, found: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let Ok(file) = fs::symlink_metadata(&path) else { continue };
        let kind = file.file_type();
        let size = if kind.is_file() { file.len() } else { 0 };
        let device = if kind.is_char_device() || kind.is_block_device() { file.rdev() } else { 0 };
        let state = format!("{:o} {}:{} {size} {device}", file.mode(), file.uid(), file.gid());
        found.insert(format!("file {}", path.display()), state);
        if kind.is_dir() && path != Path::new("/proc") && path != Path::new("/sys") {
            files(&path, found)?;
        }
    }
    Ok(())
}

fn cgroups(folder: &Path, found: &mut BTreeMap<String, String>) -> Result<()> {
    let switched_on = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
    found.insert(format!("cgroup {}", folder.display()), switched_on);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type()?.is_dir() {
            cgroups(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn sysctls(folder: &Path, found: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let name = path.strip_prefix("/proc/sys")?.display().to_string();
        if entry.file_type()?.is_dir() {
            sysctls(&path, found)?;
        } else if !RESTLESS.iter().any(|restless| name.starts_with(restless)) {
            // Some sysctls are write-only, and some need a device that does not exist.
            let mut value = Vec::new();
            let _ = fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut value));
            found.insert(format!("sysctl {name}"), String::from_utf8_lossy(&value).into_owned());
        }
    }
    Ok(())
}

/// Processes unrelated to the suite, one of root and one of an unprivileged user.
pub struct Bystanders(Vec<(Child, String)>);

impl Bystanders {
    pub fn start() -> Result<Bystanders> {
        Ok(Bystanders(vec![bystander(None)?, bystander(Some("1000"))?]))
    }

    /// Describes the bystanders that were signaled or are gone.
    pub fn disturbed(&self) -> Vec<String> {
        let now = |child: &Child| pending_signals(child.id()).unwrap_or_else(|_| "gone".to_owned());
        let disturbed = self.0.iter().filter(|(child, before)| now(child) != *before);
        disturbed
            .map(|(child, before)| format!("a bystander was {before}, and is {} now", now(child)))
            .collect()
    }
}

fn bystander(user: Option<&str>) -> Result<(Child, String)> {
    let mut child = Command::new(THIS)
        .args(["part", "bystander"])
        .args(user)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdout.take().ok_or("no output")?.read_exact(&mut [0])?;
    // It reports that it is ready before it sleeps.
    loop {
        let state = pending_signals(child.id())?;
        if state.contains("sleeping") {
            return Ok((child, state));
        }
        std::thread::yield_now();
    }
}
