//! The children of whom something is claimed that the new flags do not matter to: an ordinary one, and one with
//! new flags where the kernel has them. What is true of both is claimed of both.

use crate::abi::Flags;
use crate::check::Result;
use crate::clone3::{Child, Clone3};
use crate::need::Setting;
use crate::wait::{self, Status};

/// One call of each kind that the kernel has: the plainest, one with each new flag that can go alone, and one with all of them. What
/// clone3 says of the other arguments is the same for each.
pub fn kinds() -> Vec<Clone3> {
    let has = &Setting::get().probe.features;
    let mut calls = vec![Clone3::fork()];
    if has.autoreap {
        calls.push(Clone3::new(Flags::AUTOREAP));
    }
    if has.nnp {
        calls.push(Clone3::fork().with(Flags::NNP));
    }
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
