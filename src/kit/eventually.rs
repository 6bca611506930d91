//! What the kernel does at leisure, and tells nobody when it is done.

use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use crate::check::Result;

/// Milliseconds between two looks, of which each may be a fork.
const PAUSE: u8 = 3;

/// Looks again and again until there is an answer; `None` when `patience` has passed without. Where anything can be waited for, wait
/// for that.
pub fn eventually<T>(patience: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let start = Instant::now();
    loop {
        let answer = look()?;
        if answer.is_some() || start.elapsed() > patience {
            return Ok(answer);
        }
        poll(&mut [], PollTimeout::from(PAUSE))?;
    }
}
