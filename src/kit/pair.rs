//! Children with two threads: each exits when it is let go, or one does nothing.

use crate::check::Result;
use crate::clone3::{Child, Clone3, exit_thread, park};
use crate::kit::{Channel, Gate, threads, tracer};

/// The exit status of the leader. The last thread to exit determines the status of the process.
pub const LEADER: i32 = 11;

/// The exit status of the other thread.
pub const OTHER: i32 = 22;

/// A child with a leader and one other thread, each waiting at its own gate. Any process may trace them.
#[derive(Debug)]
pub struct Pair {
    /// The process.
    pub child: Child,
    /// The tid of the other thread.
    pub other: i32,
    gates: [Gate; 2],
}

impl Pair {
    /// Makes a pair by `call`; both threads exist when this returns.
    #[track_caller]
    pub fn new(call: &Clone3) -> Result<Pair> {
        let (tid, gates) = (Channel::<i32>::new()?, [Gate::new()?, Gate::new()?]);
        let child = call.spawn(|| {
            tracer::let_anyone_trace_me();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // If this fails, the parent sees the end of the stream.
                    let _ = tid.send(&threads::own_tid());
                    gates[1].wait();
                    exit_thread(OTHER)
                });
                gates[0].wait();
                exit_thread(LEADER)
            })
        })?;
        let other = tid.recv_from(&child)?;
        Ok(Pair { child, other, gates })
    }

    /// Lets the leader exit, and waits until it is dead.
    #[track_caller]
    pub fn end_leader(&self) -> Result {
        self.gates[0].open()?;
        threads::wait_for_dead_leader(self.child.pid())
    }

    /// Lets the other thread exit.
    pub fn let_other_go(&self) -> Result {
        self.gates[1].open()
    }
}

/// Makes a child by `call` with a thread that does nothing; the leader runs `act` when the gate opens, and exits with the result.
/// Returns the child, and the tid of that thread.
#[track_caller]
pub fn beside_idle_thread(call: &Clone3, gate: &Gate, act: impl FnOnce() -> i32) -> Result<(Child, i32)> {
    let tid = Channel::<i32>::new()?;
    let child = call.spawn(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // If this fails, the parent sees the end of the stream.
                let _ = tid.send(&threads::own_tid());
                park()
            });
            gate.wait();
            act()
        })
    })?;
    let other = tid.recv_from(&child)?;
    Ok((child, other))
}
