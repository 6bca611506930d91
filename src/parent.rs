//! Processes that must not outlive their parent.

use rustix::io::{Errno, Result};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Makes the kernel send `signal` to the caller when the thread of `parent` that created it ends, for whatever reason.
///
/// # Errors
/// ESRCH if the parent is gone already, in which case no signal would come.
pub fn end_with(parent: Pid, signal: Signal) -> Result<()> {
    set_parent_process_death_signal(Some(signal))?;
    match getppid() == Some(parent) {
        true => Ok(()),
        false => Err(Errno::SRCH),
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpid;

    use super::*;
    use crate::kit::process::answers;

    #[test]
    fn a_parent_that_is_gone_is_noticed() {
        assert!(answers(|| end_with(getppid().unwrap(), Signal::KILL) == Ok(())));
        assert!(answers(|| end_with(getpid(), Signal::KILL) == Err(Errno::SRCH)));
    }
}
