//! Resource limits: lowered for one step, or too low for a case.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::check::{self, Failure, Result, errno_of};
use crate::note;

/// Runs `body` with this soft limit, and restores the old one.
pub fn lowered<T>(resource: Resource, soft: u64, body: impl FnOnce() -> T) -> Result<T> {
    let before = getrlimit(resource);
    let lower = setrlimit(resource, Rlimit { current: Some(soft), maximum: before.maximum });
    check::permitted("setrlimit", lower.map_err(errno_of))?;
    note!("limit {resource:?} lowered to {soft}");
    let value = body();
    setrlimit(resource, before)?;
    Ok(value)
}

/// Checks that signals can be queued together with their siginfo.
///
/// # Errors
/// `blocked` if RLIMIT_SIGPENDING is 0.
pub fn signals_can_be_queued() -> Result {
    match getrlimit(Resource::Sigpending).current {
        Some(0) => Err(Failure::blocked("RLIMIT_SIGPENDING lets no signal be queued")),
        _ => Ok(()),
    }
}
