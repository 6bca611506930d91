//! What a process does with a signal.

use std::ffi::c_int;

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
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which is safe at any moment.
    unsafe { sigaction(signal, &action)? };
    Ok(())
}

/// The disposition of a signal in the calling process.
pub fn of(signal: Signal) -> Result<Disposition> {
    // SAFETY: sigaction is plain data for which all zeroes is a valid value.
    let mut found: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action changes nothing, and `found` is live.
    let asked = unsafe { libc::sigaction(signal as c_int, std::ptr::null(), &mut found) };
    nix::errno::Errno::result(asked)?;
    Ok(match found.sa_sigaction {
        libc::SIG_DFL => Disposition::Default,
        libc::SIG_IGN => Disposition::Ignored,
        _ => Disposition::Caught,
    })
}
