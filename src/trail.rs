//! The trail: a log of what a test case did, in memory that outlives the case.
//!
//! A failure makes a bug report only if it says what led to it. Calls that matter add a line here. The buffer
//! is shared between the lane and all processes of the case, so that the trail of a case that hung, crashed
//! or was killed can still be read. Writing is one atomic addition and a copy, so it is safe after a raw
//! clone3 and in any thread.

use std::fmt::{Arguments, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

const SIZE: usize = 16 * 1024;
const HEADER: usize = size_of::<AtomicUsize>();
const TEXT: usize = SIZE - HEADER;
/// The maximum length of a line. Longer ones are truncated.
const LINE: usize = 240;
/// The replacement for the lines that were overwritten. The last lines are the most useful ones.
const LOST: &str = "(earlier steps are left out)";

/// The shared buffer, mapped once by the lane before it forks its first test case. It contains the total
/// number of bytes written, and a ring of the last of them: each byte is at its number modulo the size of the
/// ring.
struct Page(*mut u8);

// SAFETY: the buffer is never unmapped, and all of it is read and written as atomics.
unsafe impl Sync for Page {}
// SAFETY: as above; the pointer is valid in every thread.
unsafe impl Send for Page {}

static PAGE: OnceLock<Page> = OnceLock::new();

impl Page {
    fn used(&self) -> &AtomicUsize {
        // SAFETY: the mapping is page-aligned, zeroed, SIZE bytes long and never unmapped.
        unsafe { &*self.0.cast::<AtomicUsize>() }
    }

    fn text(&self) -> &[AtomicU8] {
        // SAFETY: as above; HEADER and TEXT are its two parts, and any process may change an atomic at any
        // time.
        unsafe { std::slice::from_raw_parts(self.0.add(HEADER).cast(), TEXT) }
    }

    fn append(&self, line: &[u8]) {
        let start = self.used().fetch_add(line.len(), Ordering::Relaxed);
        let room = self.text();
        let first = start % TEXT;
        let (before, behind) = line.split_at(line.len().min(TEXT - first));
        let places = room[first..].iter().zip(before).chain(room.iter().zip(behind));
        places.for_each(|(place, byte)| place.store(*byte, Ordering::Relaxed));
    }

    fn read(&self) -> Vec<String> {
        let used = self.used().load(Ordering::Relaxed);
        let room = self.text();
        let (newer, older) = room.split_at(used % TEXT);
        let older = if used >= TEXT { older } else { &[] };
        let bytes: Vec<u8> = older.iter().chain(newer).map(|byte| byte.load(Ordering::Relaxed)).collect();
        let text = String::from_utf8_lossy(&bytes).replace('\0', "");
        let lines = text.lines().map(str::to_owned);
        match older {
            [] => lines.collect(),
            // The first line is incomplete.
            _ => std::iter::once(LOST.to_owned()).chain(lines.skip(1)).collect(),
        }
    }

    /// Zeroes what was written, so that a process killed in the middle of a line does not expose a line of an
    /// earlier case.
    fn clear(&self) {
        let used = self.used().swap(0, Ordering::Relaxed);
        self.text()[..used.min(TEXT)].iter().for_each(|byte| byte.store(0, Ordering::Relaxed));
    }
}

/// Maps the buffer. Called once in a lane; without it, [`note`] does nothing.
pub(crate) fn open() -> rustix::io::Result<()> {
    // SAFETY: a new anonymous mapping at an address that the kernel chooses aliases nothing.
    let page = unsafe {
        mmap_anonymous(std::ptr::null_mut(), SIZE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)?
    };
    // A second call in the same process keeps the first buffer; nothing refers to the new one.
    let _ = PAGE.set(Page(page.cast()));
    Ok(())
}

/// Clears the trail of the previous test case.
pub(crate) fn clear() {
    if let Some(page) = PAGE.get() {
        page.clear();
    }
}

/// Returns all lines so far, or the last ones if there were too many.
pub(crate) fn read() -> Vec<String> {
    PAGE.get().map(Page::read).unwrap_or_default()
}

/// A line on the stack, because the code between clone3 and exec must not allocate.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = LINE - 1 - self.len;
        let piece = &text.as_bytes()[..text.len().min(room)];
        self.bytes[self.len..self.len + piece.len()].copy_from_slice(piece);
        self.len += piece.len();
        Ok(())
    }
}

/// Adds a line that begins with the pid of the writer.
pub fn note(text: Arguments<'_>) {
    let Some(page) = PAGE.get() else { return };
    let mut line = Line { bytes: [0; LINE], len: 0 };
    // Writing to a Line never fails.
    let _ = write!(line, "[{}] {text}", rustix::process::getpid().as_raw_nonzero());
    line.bytes[line.len] = b'\n';
    page.append(&line.bytes[..=line.len]);
}

/// Adds a line to the [trail](crate::trail): `note!("closed the last reference to {pid}")`.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::trail::note(format_args!($($text)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let mut memory = vec![0_usize; SIZE / size_of::<usize>()];
        let page = Page(memory.as_mut_ptr().cast());
        assert!(page.read().is_empty());
        page.append(b"first\n");
        assert_eq!(page.read(), ["first"]);
        for number in 0..10_000 {
            page.append(format!("line {number}\n").as_bytes());
        }
        let lines = page.read();
        assert_eq!((&lines[0][..], &lines[lines.len() - 1][..]), (LOST, "line 9999"));
        assert!(lines[1..].iter().all(|line| line.starts_with("line ")), "{lines:?}");
        page.clear();
        (0..TEXT / 8).for_each(|_| page.append(b"8 bytes\n"));
        assert_eq!(page.read().len(), TEXT / 8);
        page.clear();
        assert!(page.read().is_empty() && memory.iter().all(|word| *word == 0));
    }
}
