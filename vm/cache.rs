//! The project's cache of downloads, unpacked files and the answer whether KVM works, shared by all runs on this machine.
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clone3_conformance::host::cache_folder;
use rustix::event::{PollFd, PollFlags};

use crate::interrupt::Interrupts;
use crate::process::wait_until;

/// How often a run that waits for a lock tries again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The cache's folder.
pub struct Cache {
    root: PathBuf,
}

/// A lock held while an entry of the cache is created; dropping it releases the lock.
pub struct Lock {
    _file: File,
}

impl Cache {
    /// Opens the cache, and creates it if it does not exist.
    pub fn open() -> Result<Self> {
        let root = cache_folder().context("no place for a cache: set HOME or XDG_CACHE_HOME")?;
        fs::create_dir_all(&root).with_context(|| format!("cannot make the cache {}", root.display()))?;
        Ok(Self { root })
    }

    /// Returns the path of `name` in the cache.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns the folder `name`. If it does not exist, one run fills it with `make`, and it appears only when complete.
    pub fn folder(
        &self,
        name: &str,
        interrupts: &Interrupts,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let folder = self.path(name);
        if folder.exists() {
            return Ok(folder);
        }
        let _lock = self.lock(name, interrupts)?;
        if folder.exists() {
            return Ok(folder);
        }
        let part = self.path(&format!("{name}.part"));
        // A run that was killed may have left this behind.
        remove(&part)?;
        fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        // A signal may have reached a program that helped, and cut its output short.
        let made = make(&part).and_then(|()| Ok(interrupts.check()?));
        let made = made.and_then(|()| Ok(fs::rename(&part, &folder)?));
        if made.is_err() {
            remove(&part)?;
        }
        made.map(|()| folder)
    }

    /// Waits until no other run holds the lock `name`, and takes it.
    pub fn lock(&self, name: &str, interrupts: &Interrupts) -> Result<Lock> {
        let path = self.path(&format!("{name}.lock"));
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if !std::mem::replace(&mut said, true) {
                crate::note!("waiting for another run, which prepares {name}");
            }
            wait_until(&mut [PollFd::new(interrupts, PollFlags::IN)], Some(Instant::now() + LOOK_AGAIN))?;
            interrupts.check()?;
        }
    }
}

/// Removes a folder, if it exists.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a file atomically.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    clone3_conformance::results::write_whole(path, bytes)
        .with_context(|| format!("cannot write {}", path.display()))
}
