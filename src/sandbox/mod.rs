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

mod census;
mod entry;
mod lane;
mod leavings;
mod scarcity;
mod wire;
mod zygote;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

pub use entry::{give_up_earlier, is_report, patience, time_left};
pub use lane::NOTHING;
pub(crate) use leavings::directory_of;
pub use wire::{Outcome, Request};

use crate::check::Failure;
use zygote::Zygote;

/// The program's handle on the zygote and its lanes.
pub struct Sandbox {
    // Dropped in this order: the zygote ends when the last lane has, and a lane when its socket closes.
    idle: Mutex<Vec<UnixStream>>,
    /// Lanes that owe the outcome of an empty case.
    rehearsing: Mutex<Vec<UnixStream>>,
    zygote: Mutex<Zygote>,
}

impl Sandbox {
    /// Forks the zygote.
    ///
    /// # Errors
    /// When the program has a second thread already, or cannot fork.
    pub fn start() -> io::Result<Sandbox> {
        let (idle, rehearsing) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        Ok(Sandbox { idle, rehearsing, zygote: Mutex::new(Zygote::start()?) })
    }

    /// Has lanes made for so many cases at once, each of which rehearses with an empty case, while the program goes on;
    /// without it, the first cases wait for theirs, and take longer than they would later.
    pub fn prepare(&self, lanes: usize, deadline: Duration) {
        let rehearsal = Request { case: NOTHING.to_owned(), deadline };
        let lanes = (0..lanes).map_while(|_| {
            let lane = self.new_lane().ok()?;
            wire::send(&lane, &rehearsal).ok()?;
            Some(lane)
        });
        self.rehearsing.lock().unwrap_or_else(|poison| poison.into_inner()).extend(lanes);
    }

    /// Waits for the end of all rehearsals. What goes wrong in one is nobody's news: the cases will meet it, too.
    pub fn settle(&self) {
        let lanes = std::mem::take(&mut *self.rehearsing.lock().unwrap_or_else(|poison| poison.into_inner()));
        let is_ready = |lane: &UnixStream| outcome_of(lane).is_ok_and(|outcome| outcome.failure.is_none());
        let ready = lanes.into_iter().filter(is_ready);
        self.idle.lock().unwrap_or_else(|poison| poison.into_inner()).extend(ready);
    }

    fn new_lane(&self) -> io::Result<UnixStream> {
        self.zygote.lock().unwrap_or_else(|poison| poison.into_inner()).new_lane()
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
            None => self.new_lane()?,
        };
        // Where no lane could be forked, the zygote has answered in its place and left.
        let sent = wire::send(&lane, request);
        let outcome = outcome_of(&lane)?;
        // What took no time may be the answer of somebody who is about to hang up.
        if sent.is_ok() && !outcome.duration.is_zero() && !has_hung_up(&lane) {
            self.idle.lock().unwrap_or_else(|poison| poison.into_inner()).push(lane);
        }
        Ok(outcome)
    }
}

/// What the lane says of the case that it was given.
fn outcome_of(lane: &UnixStream) -> io::Result<Outcome> {
    wire::receive(lane)?.ok_or_else(|| io::Error::other("the lane died, and the case with it"))
}

/// Whether nobody is at the other end any more.
fn has_hung_up(lane: &UnixStream) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(lane.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}
