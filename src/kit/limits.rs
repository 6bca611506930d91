//! Resource limits, lowered for the length of one step.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::check::Result;
use crate::note;

/// Runs `body` with this soft limit, and puts the old one back.
pub fn lowered<T>(resource: Resource, soft: u64, body: impl FnOnce() -> T) -> Result<T> {
    let before = getrlimit(resource);
    setrlimit(resource, Rlimit { current: Some(soft), maximum: before.maximum })?;
    note!("limit {resource:?} lowered to {soft}");
    let value = body();
    setrlimit(resource, before)?;
    Ok(value)
}
