//! A process whose second thread is about to exec, and so to take the place of its leader.

use crate::check::Result;
use crate::clone3::{Child, Clone3, exit_now};
use crate::kit::helper::Command;
use crate::kit::{Channel, Gate, Held, threads, tracer};

/// Such a child. Anyone may trace it.
#[derive(Debug)]
pub struct Replacing {
    /// The child.
    pub child: Child,
    /// Its second thread, the one that is to exec.
    pub other: i32,
    exec: Gate,
    end: Gate,
    ready: Channel<Result>,
}

impl Replacing {
    /// One made by this call, whose leader runs `leader` until the exec ends it. The new program exits with `code` once it is let go.
    #[track_caller]
    pub fn new(call: &Clone3, code: i32, leader: impl FnOnce() -> i32) -> Result<Replacing> {
        let (exec, end, ready) = (Gate::new()?, Gate::new()?, Channel::<Result>::new()?);
        let other = Channel::<i32>::new()?;
        let hold = Command::new("hold", &[])?.with_fd(&ready.sending_end()?);
        let hold = hold.with_fd(&end.waiting_end()).number(code);
        let child = call.spawn(|| {
            tracer::let_anyone_trace_me();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // A failure to report is seen as the end of the stream.
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

    /// As a child that is held by the new program.
    pub fn into_held(self) -> Held {
        Held::at(self.child, self.end)
    }
}
