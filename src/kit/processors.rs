//! Control over which processor a thread runs on and with what priority, to observe events while they happen.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::check::{self, Failure, Result};
use crate::kit::process::set_scheduler;
use crate::pidfd::Pidfd;

/// Returns two processors on which the caller may run; if there is only one, that one twice.
fn two() -> Result<[usize; 2]> {
    let allowed = match sched_getaffinity(Pid::from_raw(0)) {
        Err(Errno::EINVAL) => {
            let many = CpuSet::count();
            return Err(Failure::blocked(format!("this kernel may have more than {many} processors")));
        }
        allowed => check::permitted("sched_getaffinity", allowed)?,
    };
    let mut allowed = (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor) == Ok(true));
    let first = allowed.next().unwrap_or_default();
    Ok([first, allowed.next().unwrap_or(first)])
}

/// Returns the first processor on which the caller may run.
pub(super) fn first_allowed() -> Result<usize> {
    Ok(two()?[0])
}

/// Binds the calling thread, and threads that it starts, to this processor.
pub fn stay_on(processor: usize) -> Result {
    let mut only = CpuSet::new();
    only.set(processor)?;
    check::permitted("sched_setaffinity", sched_setaffinity(Pid::from_raw(0), &only))
}

/// Binds the calling thread, and its children, to the first processor on which it may run.
pub fn stay_on_first() -> Result {
    stay_on(first_allowed()?)
}

/// Gives the calling thread, but none of its children, real-time priority. Returns whether that is permitted.
pub(super) fn take_real_time_priority() -> bool {
    set_scheduler(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1).is_ok()
}

/// Gives the calling thread normal priority.
fn take_normal_priority() -> bool {
    set_scheduler(libc::SCHED_OTHER, 0).is_ok()
}

/// A position from which the caller observes the release of a child while it happens.
///
/// The best one is asleep on the child's own processor: the event that wakes the caller then preempts the child at exactly
/// that point. That needs a real-time priority, which an unprivileged user may not set. Otherwise the caller polls in a
/// busy loop from another processor, and may be preempted at the decisive moment.
#[derive(Debug)]
pub struct Lookout {
    goes_first: bool,
    /// The processor on which the child should run.
    pub there: usize,
}

impl Lookout {
    /// Binds the caller to one processor.
    pub fn take() -> Result<Lookout> {
        Ok(Lookout::take_after(|_| Ok(()))?.0)
    }

    /// Like [`Lookout::take`], but first runs `prepare`, with the processor for the children, at normal priority: a caller
    /// that polls for something must not have real-time priority meanwhile.
    pub fn take_after<T>(prepare: impl FnOnce(usize) -> Result<T>) -> Result<(Lookout, T)> {
        let [here, other] = two()?;
        stay_on(here)?;
        let goes_first = take_real_time_priority() && take_normal_priority();
        let there = if goes_first { here } else { other };
        let prepared = prepare(there)?;
        Ok((Lookout { goes_first: goes_first && take_real_time_priority(), there }, prepared))
    }

    /// Returns as soon as the child has exited, possibly before it is reaped.
    #[track_caller]
    pub fn see_exited(&self, pidfd: &Pidfd) -> Result {
        if self.goes_first { pidfd.wait_exited() } else { pidfd.spin_until_exited() }
    }

    /// Returns as soon as the child is reaped.
    #[track_caller]
    pub fn see_reaped(&self, pidfd: &Pidfd) -> Result {
        if self.goes_first { pidfd.wait_reaped() } else { pidfd.spin_until_reaped() }
    }
}

/// Binds the caller to one processor and returns another one, for a process that the caller polls in a busy loop.
pub fn stay_apart() -> Result<usize> {
    let [here, there] = two()?;
    stay_on(here)?;
    Ok(there)
}
