//! The children of whom something is claimed that the new flags do not matter to: an ordinary one, and one with
//! new flags where the kernel has them. What is true of both is claimed of both.

use crate::abi::Flags;
use crate::check::Result;
use crate::clone3::{Child, Clone3};
use crate::need::Setting;
use crate::wait::{self, Status};

/// The plainest call, and the one with all of the new flags if the kernel has them: what clone3 says of the other
/// arguments is the same for both.
pub fn extremes() -> Vec<Clone3> {
    let mut calls = vec![Clone3::fork()];
    let has = &Setting::get().probe.features;
    if has.autoreap && has.nnp && has.autokill {
        calls.push(Clone3::new(Flags::KILLED_NNP));
    }
    calls
}

/// The calls that make the children whom `PIDFD_GET_INFO` is asked about, each with a pidfd.
pub fn calls() -> Vec<Clone3> {
    let mut calls = vec![Clone3::fork().with(Flags::PIDFD)];
    if Setting::get().probe.features.autoreap {
        calls.push(Clone3::new(Flags::REAPED));
    }
    calls
}

/// Waits until nothing is left of a child that ends by itself. An ordinary one is reaped, and its wait status
/// given.
#[track_caller]
pub fn see_off(child: &Child) -> Result<Option<Status>> {
    let status = if child.reaps_itself() { None } else { Some(wait::reap(child.pid())?) };
    child.pidfd()?.wait_reaped()?;
    Ok(status)
}
