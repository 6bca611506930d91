//! On which processor something runs: what is to be seen while it happens has to happen on another one.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::check::Result;

/// Two processors on which the caller may run; where there is only one, that one twice.
pub fn two() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut allowed = (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor) == Ok(true));
    let first = allowed.next().unwrap_or_default();
    Ok([first, allowed.next().unwrap_or(first)])
}

/// Keeps the calling thread, and those that it starts, on this processor.
pub fn stay_on(processor: usize) -> Result {
    let mut only = CpuSet::new();
    only.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}
