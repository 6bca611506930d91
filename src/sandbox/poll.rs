//! poll(2) with one deadline, whatever signals come meanwhile.

use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};

use super::time_left;

/// Blocks until poll(2) reports something of these; false when the time that the case's waits have left is over.
pub fn wait_for(fds: &mut [PollFd<'_>]) -> nix::Result<bool> {
    wait_within(fds, time_left())
}

/// As [`wait_for`], with a time of its own.
pub fn wait_within(fds: &mut [PollFd<'_>], patience: PollTimeout) -> nix::Result<bool> {
    let (start, mut left) = (Instant::now(), patience);
    loop {
        match poll(fds, left) {
            Err(Errno::EINTR) => left = left_of(patience, start),
            polled => return polled.map(|ready| ready > 0),
        }
    }
}

fn left_of(patience: PollTimeout, start: Instant) -> PollTimeout {
    // What has passed is rounded down, so that the wait does not end early.
    let left =
        patience.as_millis().map(|whole| u128::from(whole).saturating_sub(start.elapsed().as_millis()));
    left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use super::*;
    use crate::kit::process::answers;

    /// Has a handler run again and again, at short intervals.
    fn be_interrupted() {
        extern "C" fn nothing(_: i32) {}
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGALRM, &action) }.unwrap();
        let short = libc::timeval { tv_sec: 0, tv_usec: 5_000 };
        let often = libc::itimerval { it_interval: short, it_value: short };
        // SAFETY: `often` is live, and the former timer is not asked for.
        let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &often, std::ptr::null_mut()) };
        assert_eq!(set, 0);
    }

    #[test]
    fn signals_neither_end_a_wait_nor_prolong_it() {
        assert!(answers(|| {
            be_interrupted();
            let start = Instant::now();
            let waited = wait_within(&mut [], PollTimeout::from(50_u8));
            waited == Ok(false) && start.elapsed() >= Duration::from_millis(50)
        }));
    }
}
