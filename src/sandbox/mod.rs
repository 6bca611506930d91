//! The sandbox: every case in a fresh process, with a deadline, a leak census and a verdict that survives it.
//!
//! Three kinds of processes, all single-threaded, so that forking is safe at any time:
//!
//! - the **zygote** is forked by the program before it starts any thread, and does nothing but fork lanes;
//! - a **lane** runs one case at a time. It is subreaper of all that the case starts, so what a case leaves
//!   behind becomes the lane's child, and nobody else's;
//! - the **case** is forked by its lane: its own process group, subreaper of what it starts.
//!
//! The program's threads each borrow a lane and talk to it over a socket.

mod alone;
mod census;
mod entry;
mod hang;
mod lane;
mod leavings;
mod scarcity;
mod wire;
mod zygote;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

pub use entry::{give_up_earlier, is_half_time_left, is_report, patience, time_left};
pub(crate) use hang::whereabouts;
pub use lane::NOTHING;
pub(crate) use leavings::{number_of, own_directory};
pub use wire::{Outcome, Request};

use crate::check::Failure;
use wire::Answer;
use zygote::Zygote;

/// The program's handle on the zygote and its lanes.
pub struct Sandbox {
    // Dropped in this order: the zygote ends when the last lane has, and a lane when its socket closes.
    idle: Mutex<Vec<UnixStream>>,
    zygote: Mutex<Zygote>,
}

impl Sandbox {
    /// Forks the zygote.
    ///
    /// # Errors
    /// When the program has a second thread already, or cannot fork.
    pub fn start() -> io::Result<Sandbox> {
        Ok(Sandbox { zygote: Mutex::new(Zygote::start()?), idle: Mutex::new(Vec::new()) })
    }

    /// Runs one case, which this program must have declared, and says how it went. Blocks.
    pub fn run(&self, case: &str, deadline: Duration) -> Outcome {
        let request = Request { case: case.to_owned(), deadline };
        self.try_run(&request).unwrap_or_else(|error| {
            Outcome::lost(Failure::broken(format!("the sandbox itself failed: {error}")))
        })
    }

    fn try_run(&self, request: &Request) -> io::Result<Outcome> {
        let idle = self.idle.lock().unwrap_or_else(|poison| poison.into_inner()).pop();
        let lane = match idle {
            Some(lane) => lane,
            None => self.zygote.lock().unwrap_or_else(|poison| poison.into_inner()).new_lane()?,
        };
        // A lane that is gone shows in the answer that does not come.
        let _ = wire::send(&lane, request);
        let answer: Answer =
            wire::receive(&lane)?.ok_or_else(|| io::Error::other("the lane died, and the case with it"))?;
        // Where no lane could be forked, the zygote has answered in its place.
        if !answer.is_last {
            self.idle.lock().unwrap_or_else(|poison| poison.into_inner()).push(lane);
        }
        Ok(answer.outcome)
    }
}

/// Runs an empty case in a lane of its own, and tells nobody how it went: for those who have a processor to spare before the
/// first case, which takes an emulator ten times as long as the second.
///
/// # Errors
/// When the program has a second thread already, or there can be no lane.
pub fn rehearse(deadline: Duration) -> io::Result<()> {
    let lane = zygote::lane_without_zygote()?;
    wire::send(&lane, &Request { case: NOTHING.to_owned(), deadline })?;
    wire::receive::<Answer>(&lane).map(drop)
}
