//! Helpers for programs that run on the host and control a guest.
use std::env;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Signal, getpid};

use crate::parent::end_with;

/// Returns whether this process ignores a signal, usually because the program that started it did, as nohup(1) does with SIGHUP.
pub fn is_ignored(signal: i32) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no action is given, and the kernel writes the present one to `now`.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: the call succeeded, and so has written it.
    asked == 0 && unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Returns the folder for what is downloaded and built, according to the XDG Base Directory Specification; `None` if the user has no
/// home.
pub fn cache_folder() -> Option<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| Some(env::home_dir()?.join(".cache")));
    Some(base?.join("clone3-conformance"))
}

/// Makes the kernel send `signal` to the command's process when the thread that starts it ends, for whatever
/// reason.
///
/// A driver that is killed with SIGKILL cannot clean up, and its virtual machine must not outlive it.
pub fn dies_with_parent(command: &mut Command, signal: Signal) -> &mut Command {
    let parent = getpid();
    // SAFETY: the closure runs between fork and exec and makes only system calls (prctl, getppid), which are
    // async-signal-safe; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || Ok(end_with(parent, signal)?)) }
}
