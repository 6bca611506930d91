//! The trail: what a case did, in memory that outlives it.
//!
//! A failure is only a bug report if it says what led to it. Calls that matter leave a line here; the page is
//! shared between the lane and every process of the case, so that the trail of a case that hung, crashed or
//! was killed can still be read. Writing is one atomic addition and a copy: safe after a raw clone3, in any
//! thread.

use std::fmt::{Arguments, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

const SIZE: usize = 16 * 1024;
const HEADER: usize = size_of::<AtomicUsize>();
const TEXT: usize = SIZE - HEADER;
/// Longer lines are cut: a trail has many lines, none of which is long.
const LINE: usize = 240;

/// The shared page, mapped once by the lane before it forks its first case.
struct Page(*mut u8);

// SAFETY: the page is never unmapped, its header is atomic, and its text is written in disjoint pieces that
// the atomic header hands out.
unsafe impl Sync for Page {}
// SAFETY: as above; the pointer is valid in every thread.
unsafe impl Send for Page {}

static PAGE: OnceLock<Page> = OnceLock::new();

impl Page {
    fn used(&self) -> &AtomicUsize {
        // SAFETY: the mapping is page-aligned, zeroed, SIZE bytes long and never unmapped.
        unsafe { &*self.0.cast::<AtomicUsize>() }
    }

    fn append(&self, line: &[u8]) {
        let at = self.used().fetch_add(line.len(), Ordering::Relaxed);
        if at + line.len() > TEXT {
            return;
        }
        // SAFETY: fetch_add gave this writer the range at..at+len alone, and it lies within the mapping.
        unsafe { std::ptr::copy_nonoverlapping(line.as_ptr(), self.0.add(HEADER + at), line.len()) };
    }

    fn read(&self) -> String {
        let len = self.used().load(Ordering::Relaxed).min(TEXT);
        // SAFETY: HEADER + len is within the mapping, which is never unmapped.
        let text = unsafe { std::slice::from_raw_parts(self.0.add(HEADER), len) };
        String::from_utf8_lossy(text).replace('\0', "")
    }
}

/// Maps the page. Called once in a lane; without it, [`note`] does nothing.
pub(crate) fn open() -> rustix::io::Result<()> {
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let page = unsafe {
        mmap_anonymous(std::ptr::null_mut(), SIZE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)?
    };
    // A second call in the same process keeps the first page; nothing refers to the new one.
    let _ = PAGE.set(Page(page.cast()));
    Ok(())
}

/// Forgets what the case before left.
pub(crate) fn clear() {
    if let Some(page) = PAGE.get() {
        page.used().store(0, Ordering::Relaxed);
    }
}

/// All lines so far.
pub(crate) fn read() -> Vec<String> {
    PAGE.get().map(|page| page.read().lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// A line on the stack: no allocation between clone3 and exec.
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

/// Adds a line, led by the pid of the writer.
pub fn note(text: Arguments<'_>) {
    let Some(page) = PAGE.get() else { return };
    let mut line = Line { bytes: [0; LINE], len: 0 };
    // Writing to a Line never fails.
    let _ = write!(line, "[{}] {text}", rustix::process::getpid().as_raw_nonzero());
    line.bytes[line.len] = b'\n';
    page.append(&line.bytes[..=line.len]);
}

/// Leaves a line on the [trail](crate::trail): `note!("closed the last reference to {pid}")`.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::trail::note(format_args!($($text)*)) };
}
