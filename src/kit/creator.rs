//! A process that makes one child and sees it off, while others watch the two.

use crate::check::{Context as _, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::{Channel, Held, subject};

/// Such a process. It waits at a gate before it makes the child.
#[derive(Debug)]
pub struct Creator {
    held: Held,
    seen_off: Channel<Result>,
}

impl Creator {
    /// One made by `call`, which once let go makes a child through `make`, waits until nothing is left of that, and exits with 0.
    #[track_caller]
    pub fn new(call: &Clone3, make: impl FnOnce() -> Result<Child>) -> Result<Creator> {
        let seen_off = Channel::<Result>::new()?;
        let held = Held::running(call, || {
            // A child that its tracer has waited for is its parent's to wait for then.
            let gone = make().and_then(|child| subject::see_off(&child));
            i32::from(seen_off.send(&gone.map(drop)).is_err())
        })?;
        Ok(Creator { held, seen_off })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.held.pid()
    }

    /// Has it make the child.
    pub fn let_go(&self) -> Result {
        self.held.let_go()
    }

    /// To be asked when it has ended.
    ///
    /// # Errors
    /// Why it has not made the child, or what it has found left of it.
    #[track_caller]
    pub fn has_seen_it_off(&self) -> Result {
        self.seen_off.recv()?.context(format_args!("in process {}, the creator", self.pid()))
    }
}
