//! Signals that are sent to the caller and must have no effect.

use std::ffi::c_int;
use std::mem::zeroed;
use std::ptr::null_mut;

use nix::errno::Errno;

use crate::check::Result;

/// A signal that has no effect from now on. At the [end](DiscardedSignal::end) it is neither pending nor blocked unless it was before.
///
/// The caller must be single-threaded, because another thread could receive the signal.
pub(crate) struct DiscardedSignal {
    signal: c_int,
    mask: libc::sigset_t,
    was_pending: bool,
}

impl DiscardedSignal {
    /// Blocks the signal.
    pub(crate) fn begin(signal: c_int) -> Result<DiscardedSignal> {
        let (one, mut mask) = (only(signal)?, only(signal)?);
        // SAFETY: both sets are live and valid.
        Errno::result(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &one, &mut mask) })?;
        Ok(DiscardedSignal { signal, mask, was_pending: is_pending(signal)? })
    }

    /// Discards the signal and unblocks it. Call this after whatever sends the signal.
    pub(crate) fn end(self) -> Result {
        let one = only(self.signal)?;
        if !self.was_pending {
            // Repeat, because a real-time signal may be queued several times.
            while take(&one) == self.signal {}
        }
        // SAFETY: the set is live and valid.
        Errno::result(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.mask, null_mut()) })?;
        Ok(())
    }
}

/// Returns the set of this signal, which may be one that [`nix::sys::signal::Signal`] does not know.
fn only(signal: c_int) -> Result<libc::sigset_t> {
    // SAFETY: a set is plain data, for which all zeroes is a valid value.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: the set is live; an invalid signal number is an error.
    Errno::result(unsafe { libc::sigaddset(&mut set, signal) })?;
    Ok(set)
}

fn is_pending(signal: c_int) -> Result<bool> {
    // SAFETY: a set is plain data, for which all zeroes is a valid value.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: the set is live.
    Errno::result(unsafe { libc::sigpending(&mut set) })?;
    // SAFETY: the set is live and valid.
    Ok(unsafe { libc::sigismember(&set, signal) } == 1)
}

/// Takes a pending signal of this set; returns -1 if none is pending.
fn take(set: &libc::sigset_t) -> c_int {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set and the time are live and valid.
    unsafe { libc::sigtimedwait(set, null_mut(), &at_once) }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, Signal};

    use super::*;
    use crate::clone3::Clone3;
    use crate::kit::process::answers;

    /// Returns whether SIGUSR1 is blocked, and whether it is pending.
    fn state() -> (bool, bool) {
        let blocked = SigSet::thread_get_mask().unwrap().contains(Signal::SIGUSR1);
        (blocked, is_pending(libc::SIGUSR1).unwrap())
    }

    fn accepted() {
        Clone3::fork().exit_signal(libc::SIGUSR1 as u64).accepted().unwrap();
    }

    #[test]
    fn a_control_leaves_the_signals_as_they_were() {
        let unblocked = || {
            accepted();
            state() == (false, false) && !SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM)
        };
        assert!(answers(unblocked));
        let pending = || {
            SigSet::from(Signal::SIGUSR1).thread_block().unwrap();
            accepted();
            let nothing = state() == (true, false);
            nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
            accepted();
            nothing && state() == (true, true)
        };
        assert!(answers(pending));
    }
}
