//! A child of two threads, each of which ends when it is let go.

use crate::check::Result;
use crate::clone3::{Child, Clone3, exit_thread};
use crate::kit::{Channel, Gate, threads, tracer};

/// The status that the leader ends with. That of the process is the status of the thread which ends last.
pub const LEADER: i32 = 11;

/// The status that the other thread ends with.
pub const OTHER: i32 = 22;

/// A child with a leader and one other thread, at a gate each. Anybody may trace them.
#[derive(Debug)]
pub struct Pair {
    /// The process.
    pub child: Child,
    /// The thread that is not the leader.
    pub other: i32,
    gates: [Gate; 2],
}

impl Pair {
    /// One made by `call`; both threads are there.
    #[track_caller]
    pub fn new(call: &Clone3) -> Result<Pair> {
        let (tid, gates) = (Channel::<i32>::new()?, [Gate::new()?, Gate::new()?]);
        let child = call.spawn(|| {
            tracer::let_anyone_trace_me();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // A failure to report is seen as the end of the stream.
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

    /// Ends the leader, and waits until it is dead.
    #[track_caller]
    pub fn end_leader(&self) -> Result {
        self.gates[0].open()?;
        threads::wait_for_dead_leader(self.child.pid())
    }

    /// Lets the other thread go.
    pub fn let_other_go(&self) -> Result {
        self.gates[1].open()
    }
}
