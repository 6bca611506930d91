//! A performance counter that children inherit, see `perf_event_open(2)`.

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use crate::check::{Failure, Named, Result};

/// `struct perf_event_attr` of `linux/perf_event.h`, as it was first published.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

/// Counts the page faults of the process that made it, and of all children that this makes from then on.
#[derive(Debug)]
pub struct FaultCounter(OwnedFd);

impl FaultCounter {
    /// A new one, for the caller.
    ///
    /// # Errors
    /// `blocked` where there is none or where it is forbidden.
    pub fn new() -> Result<FaultCounter> {
        const SOFTWARE: u32 = 1;
        const PAGE_FAULTS: u64 = 2;
        const INHERIT: u64 = 1 << 1;
        // Or it would be forbidden to ordinary users.
        const EXCLUDE_KERNEL_AND_HYPERVISOR: u64 = 1 << 5 | 1 << 6;
        const CLOSE_ON_EXEC: u64 = 1 << 3;
        let attributes = Attributes {
            kind: SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: PAGE_FAULTS,
            flags: INHERIT | EXCLUDE_KERNEL_AND_HYPERVISOR,
            ..Attributes::default()
        };
        // SAFETY: the structure is live, as large as it says, and only read.
        let opened = Errno::result(unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw const attributes, 0, -1, -1, CLOSE_ON_EXEC)
        });
        match opened {
            // SAFETY: the kernel just made this descriptor, and nobody else owns it.
            Ok(fd) => Ok(FaultCounter(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
            Err(errno) => {
                let why = Named(errno);
                Err(Failure::blocked(format!("needs a performance counter, which cannot be had: {why}")))
            }
        }
    }

    /// How many it has counted.
    pub fn count(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        rustix::io::read(&self.0, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// Has the calling process fault on this many pages of its own.
pub fn touch(pages: usize) -> Result {
    const PAGE: usize = 4096;
    let (size, access) = (pages * PAGE, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), size, access, MapFlags::PRIVATE)? };
    // One fault must not bring in more than one page. A kernel need not have huge ones.
    // SAFETY: the mapping is this function's own, and the advice changes nothing in it.
    let _ = unsafe { madvise(base, size, Advice::LinuxNoHugepage) };
    for page in 0..pages {
        // SAFETY: within the mapping made above, which nobody else knows of.
        unsafe { base.cast::<u8>().add(page * PAGE).write_volatile(1) };
    }
    Ok(())
}
