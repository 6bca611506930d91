//! A process that is halted, whoever's it is: it does nothing, and no signal tells it why.

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;

use crate::check::{Failure, Result};
use crate::kit::tracer;
use crate::note;
use crate::wait;

/// What `PTRACE_INTERRUPT` stops with, above the signal in the wait status (`linux/ptrace.h`).
const PTRACE_EVENT_STOP: i32 = 128;

/// A process in a ptrace stop. It goes on at the drop, and at the end of the process that halted it.
#[derive(Debug)]
pub struct Halted {
    pid: Pid,
}

impl Halted {
    /// Halts a process of one thread. Signals that come for it before it stops are delivered, later ones when it goes on.
    ///
    /// # Errors
    /// `blocked` where it may not be traced.
    pub fn process(pid: i32) -> Result<Halted> {
        let seized = ptrace::seize(Pid::from_raw(pid), Options::empty());
        note!("ptrace(SEIZE, {pid}) = {seized:?}");
        match seized {
            // A security module may say EACCES.
            Err(Errno::EPERM | Errno::EACCES) => {
                return Err(Failure::blocked(format!("process {pid} may not be traced")));
            }
            other => other?,
        }
        let halted = Halted { pid: Pid::from_raw(pid) };
        ptrace::interrupt(halted.pid)?;
        loop {
            let status = wait::reap(pid)?;
            match status.stop() {
                Some((_, PTRACE_EVENT_STOP)) => return Ok(halted),
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
