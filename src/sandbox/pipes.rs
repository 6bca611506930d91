//! The pipes through which a case reports and prints.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;

/// How much of a case's output is kept, in bytes.
const OUTPUT_KEPT: usize = 64 * 1024;

/// The pipes for a case's report and output. They are used for one case after another: only a case that is
/// over could still hold them, and what it left behind is killed before the next one starts.
pub(super) struct Pipes {
    pub(super) verdict: File,
    pub(super) verdict_in: OwnedFd,
    /// The other end is the lane's own standard output, which every case inherits.
    pub(super) output: File,
}

impl Pipes {
    pub(super) fn new() -> rustix::io::Result<Pipes> {
        let (verdict, verdict_in) = pipe()?;
        let (output, output_in) = pipe()?;
        rustix::stdio::dup2_stdout(&output_in)?;
        Ok(Pipes { verdict, verdict_in, output })
    }
}

/// Creates a pipe whose reader never blocks, so that a case cannot block its lane.
fn pipe() -> rustix::io::Result<(File, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read.into(), write))
}

/// Reads from a pipe once, and returns whether there may be more.
pub(super) fn read_some(mut pipe: &File, take: impl FnOnce(&[u8])) -> bool {
    // Small, because after a fork each page that the lane writes to causes a page fault.
    let mut buffer = [0; 1024];
    let count = pipe.read(&mut buffer).unwrap_or_default();
    take(&buffer[..count]);
    count == buffer.len()
}

/// A case's output: the beginning is kept, the rest is only counted.
#[derive(Default)]
pub(super) struct Collected {
    kept: Vec<u8>,
    total: usize,
}

impl Collected {
    /// Reads once, and returns whether there may be more.
    pub(super) fn read_some(&mut self, source: &File) -> bool {
        read_some(source, |some| {
            self.total += some.len();
            let room = OUTPUT_KEPT - self.kept.len();
            self.kept.extend_from_slice(&some[..some.len().min(room)]);
        })
    }

    pub(super) fn drain(&mut self, source: &File) {
        while self.read_some(source) {}
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        if self.total > self.kept.len() {
            text.push_str(&format!("\n[{} more bytes of output]", self.total - self.kept.len()));
        }
        text
    }
}
