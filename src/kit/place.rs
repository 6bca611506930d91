//! A place for a case's files.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::check::{Failure, Result};
use crate::sandbox;

/// A directory of the case's own under the directory for temporary files, removed when dropped.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    owner: u32,
}

impl Place {
    /// A new one, for the case's own process. Its path has no symbolic link in it: the kernel would not follow one.
    ///
    /// # Errors
    /// `blocked` if it cannot be made.
    pub fn new() -> Result<Place> {
        let path = sandbox::own_directory();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::blocked(format!("cannot make {}: {error}", path.display())))?;
        Ok(Place { path, owner: std::process::id() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub(crate) fn of(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::process::id() == self.owner {
            // Nothing depends on it any more.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
