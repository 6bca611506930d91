//! A performance counter, see perf_event_open(2).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::check::{Failure, Named, Result};
use crate::kit::fds;

/// The first version of `struct perf_event_attr` of `linux/perf_event.h`.
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
    config1: u64,
}

/// `PERF_TYPE_SOFTWARE`.
const SOFTWARE: u32 = 1;
/// `PERF_COUNT_SW_PAGE_FAULTS_MIN`.
const MINOR_FAULTS: u64 = 5;
/// `PERF_FLAG_FD_CLOEXEC`.
const FD_CLOEXEC: u64 = 1 << 3;
/// Bits of the flags: children count as well; what the kernel does on behalf of the process is not counted.
const DISABLED: u64 = 1;
const INHERIT: u64 = 1 << 1;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const ENABLE_ON_EXEC: u64 = 1 << 12;

/// A count of minor page faults.
#[derive(Debug)]
pub struct FaultCounter(OwnedFd);

impl FaultCounter {
    /// Starts to count those of the calling thread and of the children that it makes from now on.
    ///
    /// # Errors
    /// `blocked` if the kernel has no counters, or does not allow them.
    pub fn start() -> Result<FaultCounter> {
        FaultCounter::with(INHERIT)
    }

    /// Makes a counter that counts those of the calling thread once it has called exec.
    ///
    /// # Errors
    /// As [`FaultCounter::start`].
    pub fn from_exec_on() -> Result<FaultCounter> {
        FaultCounter::with(DISABLED | ENABLE_ON_EXEC)
    }

    /// Wraps a counter that another process has made.
    pub fn adopt(counter: OwnedFd) -> FaultCounter {
        FaultCounter(counter)
    }

    fn with(flags: u64) -> Result<FaultCounter> {
        let attributes = Attributes {
            kind: SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: MINOR_FAULTS,
            flags: flags | EXCLUDE_KERNEL,
            ..Attributes::default()
        };
        let (own, any_cpu, no_group) = (0, -1, -1);
        // SAFETY: the kernel reads the live structure, which contains its length.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                own,
                any_cpu,
                no_group,
                FD_CLOEXEC,
            )
        };
        match Errno::result(opened) {
            // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
            Ok(fd) => Ok(FaultCounter(unsafe { fds::adopt(fd as i32) })),
            Err(errno) => Err(Failure::blocked(format!(
                "perf_event_open fails with {} (CONFIG_PERF_EVENTS, kernel.perf_event_paranoid)",
                Named(errno)
            ))),
        }
    }

    /// Returns the count.
    pub fn read(&self) -> Result<u64> {
        let mut count = [0; 8];
        rustix::io::read(&self.0, &mut count)?;
        Ok(u64::from_ne_bytes(count))
    }
}

impl AsFd for FaultCounter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
