//! The sandbox: every test case runs in a fresh process, with a deadline, a check for leftovers and a verdict
//! that survives the process.
//!
//! There are three kinds of processes. All are single-threaded, so that forking is safe at any time:
//!
//! - the **zygote** is forked by the program before it starts any thread, and only forks lanes;
//! - a **lane** runs one test case at a time. It is a subreaper, so processes that a case leaves behind when it ends
//!   become children of the lane;
//! - the **case** is forked by its lane. It has its own process group and, while it lives, is the subreaper of what it starts.
//!
//! Each of the program's threads borrows a lane and talks to it over a socket.

mod census;
mod ending;
mod entry;
mod hang;
mod lane;
mod leftovers;
mod pipes;
mod poll;
mod resources;
mod system_lock;
mod wire;
mod zygote;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

pub use entry::{give_up_earlier, is_half_time_left, is_report, patience, time_left};
pub(crate) use hang::describe;
pub use lane::NOTHING;
pub(crate) use leftovers::{number_of, own_directory};
pub use poll::{wait_for, wait_within};
pub use wire::{Outcome, Request};

use crate::check::Failure;
use wire::Answer;
use zygote::Zygote;

/// The program's handle on the zygote and its lanes.
pub struct Sandbox {
    // Dropped in this order: the zygote ends after the last lane, and a lane ends when its socket closes.
    idle: Mutex<Vec<UnixStream>>,
    zygote: Mutex<Zygote>,
}

impl Sandbox {
    /// Forks the zygote.
    ///
    /// # Errors
    /// If the program already has a second thread, or cannot fork.
    pub fn start() -> io::Result<Sandbox> {
        Ok(Sandbox { zygote: Mutex::new(Zygote::start()?), idle: Mutex::new(Vec::new()) })
    }

    /// Runs one test case, which this program must have declared, and returns its outcome. Blocks.
    pub fn run(&self, case: &str, deadline: Duration) -> Outcome {
        let request = Request { case: case.to_owned(), deadline };
        self.try_run(&request).unwrap_or_else(|error| Outcome::lost(failed(&error)))
    }

    fn try_run(&self, request: &Request) -> io::Result<Outcome> {
        let idle = self.idle.lock().unwrap_or_else(|poison| poison.into_inner()).pop();
        let lane = match idle {
            Some(lane) => lane,
            None => self.zygote.lock().unwrap_or_else(|poison| poison.into_inner()).new_lane()?,
        };
        // If the lane is gone, no answer arrives below.
        let _ = wire::send(&lane, request);
        let answer: Answer =
            wire::receive(&lane)?.ok_or_else(|| io::Error::other("the lane died, and the case with it"))?;
        // If no lane could be forked, the zygote has answered in its place.
        if !answer.is_last {
            self.idle.lock().unwrap_or_else(|poison| poison.into_inner()).push(lane);
        }
        Ok(answer.outcome)
    }
}

/// Returns the failure of the sandbox itself: the environment's if it lacks descriptors, processes or memory.
fn failed(error: &io::Error) -> Failure {
    let why = format!("the sandbox itself failed: {error}");
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM) => Failure::blocked(why),
        _ => Failure::broken(why),
    }
}

/// Runs an empty test case in a lane of its own and ignores the outcome. For a caller with an idle CPU before
/// the first case, which takes ten times as long as the second one under an emulator.
///
/// # Errors
/// If the program already has a second thread, or a lane cannot be created.
pub fn warm_up(deadline: Duration) -> io::Result<()> {
    let lane = zygote::lane_without_zygote()?;
    wire::send(&lane, &Request { case: NOTHING.to_owned(), deadline })?;
    wire::receive::<Answer>(&lane).map(drop)
}
