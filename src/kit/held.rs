//! A child that is provably alive until it is let go.

use std::ops::{Deref, DerefMut};

use crate::check::Result;
use crate::clone3::{Child, Clone3};
use crate::kit::Gate;

/// A child blocked at a gate.
#[derive(Debug)]
pub struct Held {
    child: Child,
    gate: Gate,
}

impl Held {
    /// A child that, once let go, exits with `code`.
    #[track_caller]
    pub fn exiting_with(call: &Clone3, code: i32) -> Result<Held> {
        Held::running(call, move || code)
    }

    /// A child that, once let go, runs `body` and exits with what it returns.
    #[track_caller]
    pub fn running(call: &Clone3, body: impl FnOnce() -> i32) -> Result<Held> {
        let gate = Gate::new()?;
        let child = call.spawn(|| {
            gate.wait();
            body()
        })?;
        Ok(Held { child, gate })
    }

    /// Lets the child go on.
    pub fn let_go(&self) -> Result {
        self.gate.open()
    }

    /// The child alone, without its gate.
    pub fn into_child(self) -> Child {
        self.child
    }
}

impl Deref for Held {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}
