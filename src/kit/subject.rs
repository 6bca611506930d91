//! The children whom `PIDFD_GET_INFO` is asked about: an ordinary one, and an auto-reaped one where the kernel
//! has them. What is true of both is claimed of both.

use crate::abi::Flags;
use crate::check::Result;
use crate::clone3::{Child, Clone3};
use crate::need::Setting;
use crate::wait::{self, Status};

/// The calls that make them, each with a pidfd.
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
