//! Signal dispositions of a process, and handlers that report signals.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde::{Deserialize, Serialize};

use crate::check::Result;

/// The disposition of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Disposition {
    /// `SIG_DFL`.
    Default,
    /// `SIG_IGN`.
    Ignored,
    /// A handler.
    Caught,
}

extern "C" fn do_nothing(_: c_int) {}

/// Sets the disposition of a signal; a handler set here does nothing.
pub fn set(signal: Signal, disposition: Disposition) -> Result {
    let handler = match disposition {
        Disposition::Default => SigHandler::SigDfl,
        Disposition::Ignored => SigHandler::SigIgn,
        Disposition::Caught => SigHandler::Handler(do_nothing),
    };
    // SAFETY: the handler does nothing.
    unsafe { act(signal, handler, SaFlags::empty(), SigSet::empty()) }
}

/// Sets the action for a signal.
///
/// # Safety
/// The handler, if any, is safe at any moment.
unsafe fn act(signal: Signal, handler: SigHandler, flags: SaFlags, masked: SigSet) -> Result {
    // SAFETY: the caller upholds the contract of this function.
    unsafe { sigaction(signal, &SigAction::new(handler, flags, masked))? };
    Ok(())
}

/// Catches a signal that may be one without a name; the handler does nothing.
pub fn catch(signal: c_int) {
    // SAFETY: the handler does nothing, which is safe at any moment.
    let _ = unsafe { libc::signal(signal, do_nothing as *const () as libc::sighandler_t) };
}

/// Catches a signal; while its handler runs, which does nothing, these signals are blocked.
pub fn catch_masking(signal: Signal, masked: SigSet) -> Result {
    // SAFETY: the handler does nothing.
    unsafe { act(signal, SigHandler::Handler(do_nothing), SaFlags::SA_RESTART, masked) }
}

/// Catches a signal once: when the handler runs, which does nothing, the disposition becomes the default (`SA_RESETHAND`).
pub fn catch_once(signal: Signal) -> Result {
    // SAFETY: the handler does nothing.
    unsafe { act(signal, SigHandler::Handler(do_nothing), SaFlags::SA_RESETHAND, SigSet::empty()) }
}

/// Sets the disposition of every standard signal for which it can be set.
pub fn set_all(disposition: Disposition) {
    for signal in Signal::iterator() {
        // This fails for SIGKILL and SIGSTOP.
        let _ = set(signal, disposition);
    }
}

/// Sets the default disposition of every signal, real-time signals among them.
pub(crate) fn reset_all() {
    set_every(libc::SIG_DFL);
}

/// Ignores every signal that can be ignored, real-time signals among them.
pub fn ignore_all() {
    set_every(libc::SIG_IGN);
}

fn set_every(handler: libc::sighandler_t) {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: neither handler runs any code. This fails for SIGKILL and SIGSTOP, and for the C library's own signals.
        let _ = unsafe { libc::signal(number, handler) };
    }
}

static WIRE: AtomicI32 = AtomicI32::new(-1);

/// Reports that a signal was caught.
extern "C" fn report(_: c_int) {
    // SAFETY: the descriptor was passed for this, and stays open until the process ends.
    let wire = unsafe { BorrowedFd::borrow_raw(WIRE.load(Ordering::Relaxed)) };
    // There is no other way to report an error.
    let _ = rustix::io::write(wire, b"s");
}

/// Catches every standard signal that can be caught; the handler writes a byte to `wire`, which must stay open.
pub fn report_all(wire: &impl AsRawFd) {
    WIRE.store(wire.as_raw_fd(), Ordering::Relaxed);
    let action = SigAction::new(SigHandler::Handler(report), SaFlags::SA_RESTART, SigSet::empty());
    for signal in Signal::iterator() {
        // SAFETY: the handler makes one system call. This fails for SIGKILL and SIGSTOP, as it must.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

/// Blocks a signal in the calling thread, which may be one without a name.
pub fn block(signal: c_int) -> Result {
    // SAFETY: a set is plain data, for which all zeroes is a valid value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is live; an invalid signal number is an error.
    let blocked = unsafe {
        libc::sigaddset(&mut set, signal);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut())
    };
    Ok(nix::errno::Errno::result(blocked).map(drop)?)
}

/// Sends the calling process a signal that occupies a queue entry, as `sigqueue(3)` does.
pub fn queue(signal: c_int) -> std::result::Result<(), nix::errno::Errno> {
    let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
    // SAFETY: the value is passed along and never dereferenced.
    nix::errno::Errno::result(unsafe { libc::sigqueue(libc::getpid(), signal, value) }).map(drop)
}

/// Returns the disposition of a signal in the calling process.
pub fn of(signal: Signal) -> Result<Disposition> {
    let found = action(signal as c_int).ok_or_else(nix::errno::Errno::last)?;
    Ok(match found.sa_sigaction {
        libc::SIG_DFL => Disposition::Default,
        libc::SIG_IGN => Disposition::Ignored,
        _ => Disposition::Caught,
    })
}

/// Returns what the calling process does with a signal, which may be one without a name; `None` on an error, see errno.
pub(crate) fn action(signal: c_int) -> Option<libc::sigaction> {
    // SAFETY: sigaction is plain data, for which all zeroes is a valid value.
    let mut found: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action changes nothing, and `found` is live.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut found) };
    (asked == 0).then_some(found)
}
