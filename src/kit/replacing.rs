//! A process whose second thread is about to exec, and thereby to replace its leader.

use crate::check::Result;
use crate::clone3::{Child, Clone3, exit_now};
use crate::kit::{Channel, Gate, Held, programs, threads, tracer};

/// A child whose second thread is about to exec. Any process may trace it.
#[derive(Debug)]
pub struct Replacing {
    /// The child.
    pub child: Child,
    /// The tid of its second thread, which execs.
    pub other: i32,
    exec: Gate,
    end: Gate,
    ready: Channel<Result>,
}

impl Replacing {
    /// Makes a child by this call; its leader runs `leader` until the exec ends it. The new program exits with `code` once
    /// it is let go.
    #[track_caller]
    pub fn new(call: &Clone3, code: i32, leader: impl FnOnce() -> i32) -> Result<Replacing> {
        let (exec, end, ready) = (Gate::new()?, Gate::new()?, Channel::<Result>::new()?);
        let other = Channel::<i32>::new()?;
        let hold = programs::hold(&ready, &end, code)?;
        let child = call.spawn(|| {
            tracer::let_anyone_trace_me();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // If this fails, the parent sees the end of the stream.
                    let _ = other.send(&threads::own_tid());
                    exec.wait();
                    let _ = ready.send(&Err(hold.exec()));
                    exit_now(98)
                });
                leader()
            })
        })?;
        let other = other.recv_from(&child)?;
        Ok(Replacing { child, other, exec, end, ready })
    }

    /// Has the second thread exec, and returns when the new program runs.
    #[track_caller]
    pub fn exec(&self) -> Result {
        self.exec.open()?;
        self.ready.recv_from(&self.child)?
    }

    /// Returns the child, which the new program holds at a gate.
    pub fn into_held(self) -> Held {
        Held::at(self.child, self.end)
    }
}
