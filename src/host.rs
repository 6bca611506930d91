//! Small helpers for programs that run on the host, beside the guest they look after.
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Makes the kernel send `signal` to the command's process when the thread that starts it ends, however it ends.
///
/// A driver that is killed outright cleans nothing up; its virtual machine must not live on without it.
pub fn dies_with_parent(command: &mut Command, signal: Signal) -> &mut Command {
    let parent = getpid();
    // SAFETY: the closure runs between fork and exec and makes only system calls (prctl, getppid), which are
    // async-signal-safe; it allocates nothing and touches no lock.
    unsafe { command.pre_exec(move || bind_to(parent, signal)) }
}

/// Asks for the signal, then looks whether the parent was already gone by then, when no signal would come.
fn bind_to(parent: Pid, signal: Signal) -> io::Result<()> {
    set_parent_process_death_signal(Some(signal))?;
    match getppid() == Some(parent) {
        true => Ok(()),
        false => Err(rustix::io::Errno::SRCH.into()),
    }
}
