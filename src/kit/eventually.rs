//! Polling for what the kernel does asynchronously without a notification.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

use crate::check::Result;
use crate::sandbox;

/// Milliseconds between two polls, each of which may be a fork.
const PAUSE: u8 = 3;

/// Calls `look` repeatedly until it returns a value; returns `None` if `patience` passes without one. If there is an event
/// to wait for, wait for that instead.
pub fn eventually<T>(patience: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let start = Instant::now();
    loop {
        let answer = look()?;
        if answer.is_some() || start.elapsed() > patience {
            return Ok(answer);
        }
        sandbox::wait_within(&mut [], PollTimeout::from(PAUSE))?;
    }
}
