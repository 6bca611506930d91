//! Detection of SIGCHLD, and of other exit signals.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};

use crate::check::{self, Context as _, Failure, Result};
use crate::wait::Event;
use crate::{sandbox, wait};

/// Blocks SIGCHLD in the calling thread, so that a SIGCHLD stays pending and can be detected.
pub fn block() -> Result {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    Ok(sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?)
}

/// Takes a pending SIGCHLD; returns what it reports about a child. Never blocks.
pub fn take() -> Option<Event> {
    take_exit_signal(libc::SIGCHLD)
}

/// Like [`take`], for the exit signal of a child with this number. A signalfd would not provide the pid: for signals other
/// than SIGCHLD it interprets `si_code` differently.
pub fn take_exit_signal(signal: i32) -> Option<Event> {
    // SAFETY: both are plain data, for which all zeroes is a valid value.
    let (mut info, mut set): (libc::siginfo_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: all three are live, and the set is valid.
    let got = unsafe {
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::sigtimedwait(&set, &mut info, &at_once)
    };
    // SAFETY: for any signal about a child, the kernel fills these fields, and it copies the whole structure; without a signal
    // they are zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    (got == signal).then_some(Event { pid, code: info.si_code, status })
}

/// Fails if a SIGCHLD is pending. SIGCHLD must be [blocked](block()), and anything that could send it must be over.
#[track_caller]
pub fn none_pending() -> Result {
    let got = take();
    check::holds(got.is_none(), format_args!("expected no SIGCHLD, got one: {got:?}"))
}

/// Fails unless a SIGCHLD about this child is pending.
#[track_caller]
pub fn pending_for(pid: i32, code: i32) -> Result {
    is_about(pid, code, take())
}

/// Blocks until a SIGCHLD arrives, which must be about this child, with this `code`. SIGCHLD must be [blocked](block()).
#[track_caller]
pub fn arrives_for(pid: i32, code: i32) -> Result {
    is_about(pid, code, Some(next().context(format_args!("process {pid}"))?))
}

#[track_caller]
fn is_about(pid: i32, code: i32, got: Option<Event>) -> Result {
    check::holds(
        got.is_some_and(|event| (event.pid, event.code) == (pid, code)),
        format_args!("SIGCHLD: expected {} of {pid}, got {got:?}", wait::code_name(code)),
    )
}

/// Blocks until a SIGCHLD arrives, and returns what it reports about a child. SIGCHLD must be [blocked](block()).
#[track_caller]
pub fn next() -> Result<Event> {
    next_info().map(|info| Event { pid: info.ssi_pid as i32, code: info.ssi_code, status: info.ssi_status })
}

/// Like [`next`], but the SIGCHLD must be about this child; returns its `si_uid`, the child's real user id.
#[track_caller]
pub fn next_user(pid: i32) -> Result<u32> {
    let info = next_info()?;
    check::equal("si_pid of SIGCHLD", info.ssi_pid as i32, pid)?;
    Ok(info.ssi_uid)
}

#[track_caller]
fn next_info() -> Result<siginfo> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    let pending = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // A signalfd is readable while the signal is pending.
    sandbox::wait_for(&mut [PollFd::new(pending.as_fd(), PollFlags::POLLIN)])?;
    match pending.read_signal()? {
        Some(info) => Ok(info),
        None => Err(Failure::fail(format!("no SIGCHLD came within {:.1?}", sandbox::patience()))),
    }
}

/// The caller's disposition of SIGCHLD.
#[derive(Clone, Copy, Debug)]
pub enum Reaction {
    /// SIG_DFL.
    Default,
    /// SIG_IGN.
    Ignore,
    /// A handler that [counts](handled).
    Count,
}

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Returns how often the handler has run since the last call.
pub fn handled() -> u32 {
    HANDLED.swap(0, Ordering::Relaxed)
}

/// Sets the caller's disposition; system calls that a handler interrupts are restarted.
pub fn react(reaction: Reaction, flags: SaFlags) -> Result {
    let handler = match reaction {
        Reaction::Default => SigHandler::SigDfl,
        Reaction::Ignore => SigHandler::SigIgn,
        Reaction::Count => SigHandler::Handler(count),
    };
    let action = SigAction::new(handler, flags | SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the only handler performs one atomic addition.
    unsafe { sigaction(Signal::SIGCHLD, &action)? };
    Ok(())
}
