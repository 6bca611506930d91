//! Mappings: one that others can detect, one that is refused, one that is wiped on fork.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::check::{Failure, Result, errno_of};

/// Tries to map a page of this file for reading.
pub fn try_map(file: impl AsFd) -> std::result::Result<(), Errno> {
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
    let mapped =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, file, 0) };
    mapped.map(drop).map_err(errno_of)
}

/// Returns a word of private memory with this value, which a forked process finds wiped: 0 (`MADV_WIPEONFORK`).
pub fn wiped_on_fork(value: u32) -> Result<&'static AtomicU32> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let size = rustix::param::page_size();
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let page = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), size, access, MapFlags::PRIVATE)? };
    // SAFETY: the range is the new mapping, and its users expect the wipe.
    unsafe { rustix::mm::madvise(page, size, rustix::mm::Advice::LinuxWipeOnFork)? };
    // SAFETY: the mapping is page-aligned, large enough, zeroed, and never unmapped; every access to it is atomic.
    let word = unsafe { &*page.cast::<AtomicU32>() };
    word.store(value, Ordering::Release);
    Ok(word)
}

/// A memory file that cannot be sealed against writing while a process has mapped it.
#[derive(Debug)]
pub struct Mappable(OwnedFd);

impl Mappable {
    /// The size of the file, in bytes.
    const SIZE: usize = 8 << 20;

    /// Makes a new file.
    pub fn new() -> Result<Mappable> {
        let file = rustix::fs::memfd_create("mapped", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, Self::SIZE as u64)?;
        Ok(Mappable(file))
    }

    /// Maps the file for as long as the calling process has its memory.
    pub fn map(&self) -> Result {
        self.map_with(ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    /// Maps the file several times more, and all of its pages, so that it takes the kernel a while to unmap them.
    pub fn map_at_length(&self) -> Result {
        (0..8).try_for_each(|_| self.map_with(ProtFlags::READ, MapFlags::SHARED | MapFlags::POPULATE))
    }

    fn map_with(&self, access: ProtFlags, flags: MapFlags) -> Result {
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), Self::SIZE, access, flags, &self.0, 0)? };
        Ok(())
    }

    /// Returns whether any process has mapped it. If none has, the file is sealed and cannot be mapped from now on.
    pub fn is_mapped(&self) -> Result<bool> {
        match rustix::fs::fcntl_add_seals(&self.0, SealFlags::WRITE) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::BUSY) => Ok(true),
            Err(errno) => Err(Failure::from(errno)),
        }
    }
}
