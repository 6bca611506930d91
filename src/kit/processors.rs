//! On which processor something runs, and who goes first there: how to see a thing while it happens.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::check::Result;
use crate::pidfd::Pidfd;

/// Two processors on which the caller may run; where there is only one, that one twice.
fn two() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut allowed = (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor) == Ok(true));
    let first = allowed.next().unwrap_or_default();
    Ok([first, allowed.next().unwrap_or(first)])
}

/// One processor on which the caller may run.
pub(super) fn this() -> Result<usize> {
    Ok(two()?[0])
}

/// Keeps the calling thread, and those that it starts, on this processor.
pub fn stay_on(processor: usize) -> Result {
    let mut only = CpuSet::new();
    only.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

/// Has the calling thread, but none of its children, run before all others as soon as it can. Says whether that is permitted.
pub(super) fn go_first() -> bool {
    schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1)
}

/// Has the calling thread run as all others do.
fn go_along() -> bool {
    schedule(libc::SCHED_OTHER, 0)
}

fn schedule(policy: i32, priority: i32) -> bool {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the call reads the structure, which outlives it.
    unsafe { libc::sched_setscheduler(0, policy, &parameters) == 0 }
}

/// From where the release of a child is seen while it happens.
///
/// Best on the child's own processor, asleep: what wakes the caller then stops the child in its tracks. That takes a priority
/// for which an ordinary user may not ask. Who has to look from another processor, all the time, may be held up just then.
#[derive(Debug)]
pub struct Lookout {
    goes_first: bool,
    /// The processor that the child is to be on.
    pub there: usize,
}

impl Lookout {
    /// The caller stays on one processor from here on.
    pub fn take() -> Result<Lookout> {
        Ok(Lookout::take_after(|_| Ok(()))?.0)
    }

    /// As [`Lookout::take`], after `prepare`, which is told the processor that children are to be on: who waits for something by
    /// looking again and again must not go before all others meanwhile.
    pub fn take_after<T>(prepare: impl FnOnce(usize) -> Result<T>) -> Result<(Lookout, T)> {
        let [here, other] = two()?;
        stay_on(here)?;
        let goes_first = go_first() && go_along();
        let there = if goes_first { here } else { other };
        let prepared = prepare(there)?;
        Ok((Lookout { goes_first: goes_first && go_first(), there }, prepared))
    }

    /// Goes on as soon as the child has exited: it may not be reaped yet.
    #[track_caller]
    pub fn see_exited(&self, pidfd: &Pidfd) -> Result {
        if self.goes_first { pidfd.wait_exited() } else { pidfd.spin_until_exited() }
    }

    /// Goes on as soon as the child is reaped.
    #[track_caller]
    pub fn see_reaped(&self, pidfd: &Pidfd) -> Result {
        if self.goes_first { pidfd.wait_reaped() } else { pidfd.spin_until_reaped() }
    }
}

/// The processor for what the caller looks at all the time: another than its own, on which it stays from here on.
pub fn stay_apart() -> Result<usize> {
    let [here, there] = two()?;
    stay_on(here)?;
    Ok(there)
}
