//! A process of any parent that is stopped by ptrace, without a signal that shows why.

use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;

use crate::check::{Failure, Result};
use crate::kit::tracer;
use crate::wait;

/// A process in a ptrace stop. It continues when this is dropped, or when the process that stopped it exits.
#[derive(Debug)]
pub struct Halted {
    pid: Pid,
}

impl Halted {
    /// Stops a single-threaded process. Signals sent before it stops are delivered; later ones are delivered when it continues.
    ///
    /// # Errors
    /// `blocked` if it may not be traced.
    #[track_caller]
    pub fn process(pid: i32) -> Result<Halted> {
        match tracer::try_seize(pid, Options::empty()) {
            seized if tracer::is_refusal(seized) => {
                return Err(Failure::blocked(format!("process {pid} may not be traced")));
            }
            seized => seized?,
        }
        let halted = Halted { pid: Pid::from_raw(pid) };
        ptrace::interrupt(halted.pid)?;
        loop {
            let status = wait::next_status(pid)?;
            match status.stop() {
                Some((_, libc::PTRACE_EVENT_STOP)) => return Ok(halted),
                Some((signal, _)) => tracer::go_on(pid, Some(signal))?,
                None => return Err(Failure::broken(format!("process {pid}, to be halted, {status}"))),
            }
        }
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        let _ = tracer::detach(self.pid.as_raw());
    }
}
