//! A process that makes one child and waits until it is gone, while other processes watch the two.

use crate::check::{Context as _, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::{Channel, Held, subject};

/// A process that waits at a gate, makes one child, and waits until it is gone.
#[derive(Debug)]
pub struct Creator {
    held: Held,
    seen_off: Channel<Result>,
}

impl Creator {
    /// Makes a creator by `call`. Once let go, it makes a child with `make`, waits until nothing is left of the child, and
    /// exits with 0.
    #[track_caller]
    pub fn new(call: &Clone3, make: impl FnOnce() -> Result<Child>) -> Result<Creator> {
        let seen_off = Channel::<Result>::new()?;
        let held = Held::running(call, || {
            // After a tracer has reaped the child, the child still has to be reaped by its parent.
            let gone = make().and_then(|child| subject::wait_until_gone(&child));
            i32::from(seen_off.send(&gone.map(drop)).is_err())
        })?;
        Ok(Creator { held, seen_off })
    }

    /// Returns the pid of the creator.
    pub fn pid(&self) -> i32 {
        self.held.pid()
    }

    /// Lets the creator make the child.
    pub fn let_go(&self) -> Result {
        self.held.let_go()
    }

    /// Receives the creator's report. Call this when the creator has exited.
    ///
    /// # Errors
    /// Why it could not make the child, or what it found left of the child.
    #[track_caller]
    pub fn report_when_gone(&self) -> Result {
        self.seen_off.recv()?.context(format_args!("in process {}, the creator", self.pid()))
    }
}
