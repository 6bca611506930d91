//! Output channels of the guest: named pipes into which QEMU writes what the guest's serial ports send.
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// The maximum size of one read, so that a guest that floods one channel does not keep us from reading the others.
const MAX_READ: usize = 1 << 20;

/// Our end of the pipe.
pub struct Channel {
    pub path: PathBuf,
    /// Open for reading and writing: QEMU never blocks for lack of a reader, and we never see end of file.
    pipe: File,
    /// The start of a line whose end has not arrived yet.
    partial: Vec<u8>,
}

impl Channel {
    /// Creates the pipe.
    pub fn create(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .with_context(|| format!("cannot make the pipe {}", path.display()))?;
        let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
        let pipe = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path)?;
        Ok(Self { path, pipe, partial: Vec::new() })
    }

    /// Returns the bytes that are available, possibly none.
    pub fn read(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut part = [0; 1 << 16];
        while bytes.len() < MAX_READ {
            match self.pipe.read(&mut part) {
                Ok(length) => bytes.extend(&part[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }

    /// Returns the lines that are now complete.
    pub fn lines(&mut self) -> Result<Vec<Vec<u8>>> {
        let bytes = self.read()?;
        self.partial.extend(bytes);
        let whole = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let rest = self.partial.split_off(whole);
        let whole = std::mem::replace(&mut self.partial, rest);
        Ok(whole.split_inclusive(|byte| *byte == b'\n').map(|line| line.trim_ascii_end().to_vec()).collect())
    }

    /// Returns the incomplete last line, once no more output will come.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        let rest = std::mem::take(&mut self.partial);
        (!rest.is_empty()).then_some(rest)
    }
}

impl AsFd for Channel {
    /// Readable when output is available.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
