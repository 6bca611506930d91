//! Threads of the case: seen blocked before the event, and joined after it.

use nix::poll::PollTimeout;

use crate::check::{Failure, Result};
use crate::procfs::Stat;
use crate::sandbox;

/// Waits until the leader thread of a process has ended while others run on: the process then shows as `Z`.
///
/// The kernel reports that nowhere else, so this looks again and again, without pause and within the patience
/// of the case.
#[track_caller]
pub fn wait_for_dead_leader(pid: i32) -> Result {
    wait_for_state(&format!("/proc/{pid}/stat"), 'Z')
}

/// Waits until a thread of the caller sleeps in the kernel.
#[track_caller]
pub fn wait_until_asleep(tid: i32) -> Result {
    wait_for_state(&format!("/proc/self/task/{tid}/stat"), 'S')
}

/// Waits until a process sleeps in the kernel.
#[track_caller]
pub fn wait_until_process_sleeps(pid: i32) -> Result {
    wait_for_state(&format!("/proc/{pid}/stat"), 'S')
}

#[track_caller]
fn wait_for_state(path: &str, wanted: char) -> Result {
    loop {
        match Stat::read(path) {
            Some(stat) if stat.state == wanted => return Ok(()),
            Some(stat) if sandbox::time_left() == PollTimeout::ZERO => {
                return Err(Failure::fail(format!("expected state {wanted}, but {stat}")));
            }
            Some(_) => std::thread::yield_now(),
            None => return Err(Failure::broken(format!("cannot read {path}"))),
        }
    }
}
