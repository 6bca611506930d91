//! A directory for the files of a case.

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::check::{Failure, Result};
use crate::sandbox;

/// A private directory of the case below the directory for temporary files, removed when dropped.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    owner: u32,
}

impl Place {
    /// Makes one for the case's own process. Its path contains no symbolic link, because the kernel would not follow one.
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

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a listening socket of this name in it.
    ///
    /// # Errors
    /// `blocked` if the path of the directory for temporary files is too long for the name of a socket.
    pub(crate) fn listen(&self, name: &str) -> Result<UnixListener> {
        let path = self.of(name);
        UnixListener::bind(&path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => {
                Failure::blocked(format!("the path of a socket is too long, set a shorter TMPDIR: {path}"))
            }
            _ => error.into(),
        })
    }

    /// Returns the path of a file in it.
    pub(crate) fn of(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::process::id() == self.owner {
            // Nothing depends on the directory any more.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
