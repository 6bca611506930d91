//! Whether SIGCHLD was sent.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use crate::check::{self, Result};

/// Blocks SIGCHLD in the calling thread, so that one which is sent stays pending and can be found.
pub fn block() -> Result {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    Ok(sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?)
}

/// Takes a pending SIGCHLD: its `si_code` and the pid it speaks of. Never blocks.
pub fn take() -> Option<(i32, i32)> {
    // SAFETY: both are plain data for which all zeroes is a valid value.
    let (mut info, mut set): (libc::siginfo_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: all three are live, and the set is a valid one.
    let got = unsafe {
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigtimedwait(&set, &mut info, &at_once)
    };
    // SAFETY: for SIGCHLD the kernel fills the child fields.
    (got == libc::SIGCHLD).then(|| (info.si_code, unsafe { info.si_pid() }))
}

/// No SIGCHLD may be pending. It must be [blocked](block()), and whatever would send it must be over.
#[track_caller]
pub fn none_pending() -> Result {
    let got = take();
    check::holds(got.is_none(), format_args!("expected no SIGCHLD, got one with (si_code, si_pid) = {got:?}"))
}

/// A SIGCHLD about this child must be pending.
#[track_caller]
pub fn pending_for(pid: i32, code: i32) -> Result {
    check::equal("pending SIGCHLD as (si_code, si_pid)", take(), Some((code, pid)))
}
