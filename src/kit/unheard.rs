//! Signals that are sent to the caller and that nobody is to notice.

use std::ffi::c_int;
use std::mem::zeroed;
use std::ptr::null_mut;

use nix::errno::Errno;

use crate::check::Result;

/// A signal that does not act from now on. At the [end](Unheard::end) it is neither pending nor blocked unless it was before.
///
/// For a caller with one thread: another could be the one that the signal goes to.
pub(crate) struct Unheard {
    signal: c_int,
    mask: libc::sigset_t,
    was_pending: bool,
}

impl Unheard {
    /// Begins.
    pub(crate) fn begin(signal: c_int) -> Result<Unheard> {
        let (one, mut mask) = (only(signal)?, only(signal)?);
        // SAFETY: both sets are live and valid.
        Errno::result(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &one, &mut mask) })?;
        Ok(Unheard { signal, mask, was_pending: is_pending(signal)? })
    }

    /// Ends, after whatever sends the signal.
    pub(crate) fn end(self) -> Result {
        let one = only(self.signal)?;
        if !self.was_pending {
            // As often as a real-time signal was queued.
            while take(&one) == self.signal {}
        }
        // SAFETY: the set is live and valid.
        Errno::result(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.mask, null_mut()) })?;
        Ok(())
    }
}

/// The set of this signal, which may be one that [`nix::sys::signal::Signal`] does not know.
fn only(signal: c_int) -> Result<libc::sigset_t> {
    // SAFETY: a set is plain data for which all zeroes is a valid value.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: the set is live; a number that is no signal is an error.
    Errno::result(unsafe { libc::sigaddset(&mut set, signal) })?;
    Ok(set)
}

fn is_pending(signal: c_int) -> Result<bool> {
    // SAFETY: a set is plain data for which all zeroes is a valid value.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: the set is live.
    Errno::result(unsafe { libc::sigpending(&mut set) })?;
    // SAFETY: the set is live and valid.
    Ok(unsafe { libc::sigismember(&set, signal) } == 1)
}

/// Takes a signal of this set, if one is pending; -1 if not.
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

    /// Whether SIGUSR1 is blocked, and whether it is pending.
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
