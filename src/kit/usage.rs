//! What the dead have used, as `wait4(2)` and `getrusage(2)` tell it.

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use crate::check::Result;
use crate::wait::Status;

/// Counts of an account: none of them is measured by a clock, so that a single child is seen for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Page faults that needed no disk.
    pub minor_faults: i64,
    /// How often a thread gave its processor away, to wait for something.
    pub voluntary_switches: i64,
    /// How often a processor was taken from a thread.
    pub involuntary_switches: i64,
}

/// RUSAGE_CHILDREN of the caller.
pub fn of_children() -> Result<Usage> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(Usage {
        minor_faults: usage.minor_page_faults(),
        voluntary_switches: usage.voluntary_context_switches(),
        involuntary_switches: usage.involuntary_context_switches(),
    })
}

/// `wait4(pid, &status, __WALL, &usage)`: how a child or tracee ended, and what it has used.
pub fn wait4(pid: i32) -> std::result::Result<(Status, Usage), Errno> {
    let mut status = 0;
    // SAFETY: rusage is plain data for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are live, and the kernel may fill them.
    Errno::result(unsafe { libc::wait4(pid, &mut status, libc::__WALL, &mut usage) })?;
    let usage = Usage {
        minor_faults: usage.ru_minflt,
        voluntary_switches: usage.ru_nvcsw,
        involuntary_switches: usage.ru_nivcsw,
    };
    Ok((Status(status), usage))
}
