//! Mappings: one that others can detect, one that is refused, pages that are treated specially on fork.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::param::page_size;

use crate::check::{self, Failure, Result, errno_of};

/// Tries to map a page of this file for reading.
pub fn try_map(file: impl AsFd) -> std::result::Result<(), Errno> {
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
    let mapped =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, file, 0) };
    mapped.map(drop).map_err(errno_of)
}

/// Returns this many bytes, at most a page, behind which there is a page that cannot be accessed.
pub fn before_the_end(count: usize) -> Result<&'static mut [u8]> {
    let (page, access) = (page_size(), ProtFlags::READ | ProtFlags::WRITE);
    assert!(count <= page, "{count} bytes are more than a page");
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let start = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), 2 * page, access, MapFlags::PRIVATE)?.cast::<u8>()
    };
    // SAFETY: nothing refers to the second page.
    unsafe { rustix::mm::mprotect(start.add(page).cast(), page, MprotectFlags::empty())? };
    // SAFETY: the bytes are at the end of the first page, which is zeroed, referred to by nothing else, and never unmapped.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.add(page - count), count) })
}

/// A page of private memory for which a special treatment was asked.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    address: usize,
}

impl Page {
    /// Maps a new page, of which nothing special is asked yet.
    pub fn new() -> Result<Page> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let page = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), page_size(), access, MapFlags::PRIVATE)?
        };
        Ok(Page { address: page as usize })
    }

    /// Gives the kernel this advice, see madvise(2).
    ///
    /// # Errors
    /// `blocked` if the kernel does not know it.
    pub fn advise(self, advice: MemoryAdvice) -> Result {
        // SAFETY: the page is mapped, and whoever accesses it expects the effect.
        let done = unsafe { libc::madvise(self.address as *mut c_void, page_size(), advice as i32) };
        match Errno::result(done) {
            Err(Errno::EINVAL) => Err(Failure::blocked(format!("madvise({advice:?}) fails with EINVAL"))),
            done => Ok(done.map(drop)?),
        }
    }

    /// Seals the page: mseal(2).
    ///
    /// # Errors
    /// `blocked` if the kernel has no such call.
    pub fn seal(self) -> Result {
        // SAFETY: no memory is accessed.
        let done = unsafe { libc::syscall(SYS_MSEAL, self.address, page_size(), 0) };
        check::permitted("mseal", Errno::result(done)).map(drop)
    }

    /// Returns the word at its beginning.
    pub fn word(self) -> &'static AtomicU32 {
        // SAFETY: the mapping is page-aligned, large enough, zeroed, and unmapped only by `unmap`, whose caller does not use the word
        // any more; every access to it is atomic.
        unsafe { &*(self.address as *const AtomicU32) }
    }

    /// Has the kernel read the page on behalf of the caller, which gets EFAULT where an access of its own would be a SIGSEGV.
    pub fn read_by_kernel(self) -> std::result::Result<(), Errno> {
        let file = rustix::fs::memfd_create("sink", MemfdFlags::CLOEXEC).map_err(errno_of)?;
        // SAFETY: the kernel checks the address.
        Errno::result(unsafe { libc::write(file.as_raw_fd(), self.address as *const c_void, 1) }).map(drop)
    }

    /// Unmaps the page, which must not be accessed from then on.
    pub fn unmap(self) -> std::result::Result<(), Errno> {
        // SAFETY: nothing refers to the page any more.
        Errno::result(unsafe { libc::munmap(self.address as *mut c_void, page_size()) }).map(drop)
    }
}

/// Advice of madvise(2) about a page and the children of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum MemoryAdvice {
    /// `MADV_DONTFORK`: a forked process does not have the page.
    DontFork = libc::MADV_DONTFORK,
    /// `MADV_WIPEONFORK`: a forked process finds it wiped.
    WipeOnFork = libc::MADV_WIPEONFORK,
    /// `MADV_GUARD_INSTALL` (Linux 6.13): an access is a fault.
    GuardInstall = 102,
}

/// mseal(2) (Linux 6.10), which has the same number everywhere.
const SYS_MSEAL: libc::c_long = 462;

/// Locks in memory whatever the calling process maps from now on, once it is accessed (mlockall(2)).
///
/// # Errors
/// `blocked` if the caller is not allowed to lock memory.
pub fn lock_future() -> Result {
    // SAFETY: it has no preconditions.
    let done = unsafe { libc::mlockall(libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    check::permitted("mlockall(MCL_FUTURE)", Errno::result(done)).map(drop)
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
