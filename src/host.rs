//! Helpers for programs that run on the host and control a guest.
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Makes the kernel send `signal` to the command's process when the thread that starts it ends, for whatever
/// reason.
///
/// A driver that is killed with SIGKILL cannot clean up, and its virtual machine must not outlive it.
pub fn dies_with_parent(command: &mut Command, signal: Signal) -> &mut Command {
    let parent = getpid();
    // SAFETY: the closure runs between fork and exec and makes only system calls (prctl, getppid), which are
    // async-signal-safe; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || bind_to(parent, signal)) }
}

/// Requests the signal, then checks whether the parent was already gone, in which case no signal would be
/// sent.
fn bind_to(parent: Pid, signal: Signal) -> io::Result<()> {
    set_parent_process_death_signal(Some(signal))?;
    match getppid() == Some(parent) {
        true => Ok(()),
        false => Err(rustix::io::Errno::SRCH.into()),
    }
}
