//! The resource usage of processes, as `wait4(2)` and `getrusage(2)` report it.

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use serde::{Deserialize, Serialize};

use crate::check::Result;
use crate::wait::Status;

/// Counters of resource usage. None of them is measured by a clock, so even a single child shows up reliably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Page faults that needed no I/O.
    pub minor_faults: i64,
    /// The number of times that a thread gave up its processor to wait for something.
    pub voluntary_switches: i64,
    /// The number of times that a thread was preempted.
    pub involuntary_switches: i64,
    /// The most memory that a process had, in KiB.
    pub max_rss: i64,
}

/// Returns RUSAGE_CHILDREN of the caller.
pub fn of_children() -> Result<Usage> {
    of(UsageWho::RUSAGE_CHILDREN)
}

/// Returns RUSAGE_SELF of the caller: of all its threads, those that have ended among them.
pub fn own() -> Result<Usage> {
    of(UsageWho::RUSAGE_SELF)
}

fn of(who: UsageWho) -> Result<Usage> {
    let usage = getrusage(who)?;
    Ok(Usage {
        minor_faults: usage.minor_page_faults(),
        voluntary_switches: usage.voluntary_context_switches(),
        involuntary_switches: usage.involuntary_context_switches(),
        max_rss: usage.max_rss(),
    })
}

/// Causes at least this many minor page faults, with few system calls: under a tracer, these are slow.
pub fn touch_pages(count: usize) -> Result {
    let (page, access) = (rustix::param::page_size(), ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), count * page, access, MapFlags::PRIVATE)? };
    // So that no large page serves several faults. A kernel without them refuses the advice.
    // SAFETY: the range is the new mapping.
    let _ = unsafe { madvise(start, count * page, Advice::LinuxNoHugepage) };
    for number in 0..count {
        // SAFETY: the page is mapped and writable, and nothing else refers to it.
        unsafe { start.cast::<u8>().add(number * page).write_volatile(1) };
    }
    // SAFETY: nothing refers to the mapping any more.
    unsafe { munmap(start, count * page)? };
    Ok(())
}

/// Uses CPU time until getrusage(2) reports that the calling process has used so many microseconds.
pub fn burn(microseconds: i64) -> Result {
    while cpu_time(&getrusage(UsageWho::RUSAGE_SELF)?) < microseconds {}
    Ok(())
}

/// Returns user plus system time, in microseconds.
pub fn cpu_time(usage: &nix::sys::resource::Usage) -> i64 {
    let (user, system) = (usage.user_time(), usage.system_time());
    (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec()
}

/// The size of [`touch_at_once`], in KiB: several times what a case needs otherwise.
const PEAK: usize = 48 << 10;

/// Has the calling process use much memory for a moment.
pub(crate) fn touch_at_once() -> Result {
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::POPULATE);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), PEAK << 10, access, flags)? };
    // SAFETY: nothing refers to the mapping.
    unsafe { munmap(start, PEAK << 10)? };
    Ok(())
}

/// Returns whether the calling process has at some time used as much memory, before its exec or after it.
pub(crate) fn has_touched_at_once() -> Result<bool> {
    Ok(own()?.max_rss >= PEAK as i64)
}

/// Calls `wait4(pid, &status, __WALL, &usage)`; returns the status and the resource usage of a child or tracee.
pub fn wait4(pid: i32) -> std::result::Result<(Status, Usage), Errno> {
    wait4_for(pid, 0)
}

/// Likewise, with more options: `WUNTRACED`, `WCONTINUED`.
pub fn wait4_for(pid: i32, options: i32) -> std::result::Result<(Status, Usage), Errno> {
    let mut status = 0;
    // SAFETY: rusage is plain data, for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are live, and the kernel may fill them.
    Errno::result(unsafe { libc::wait4(pid, &mut status, libc::__WALL | options, &mut usage) })?;
    let usage = Usage {
        minor_faults: usage.ru_minflt,
        voluntary_switches: usage.ru_nvcsw,
        involuntary_switches: usage.ru_nivcsw,
        max_rss: usage.ru_maxrss,
    };
    Ok((Status(status), usage))
}
