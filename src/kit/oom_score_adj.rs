//! The OOM score adjustment of a process (`proc_pid_oom_score_adj(5)`), from -1000 to 1000. Any process may raise its own,
//! but only root may lower it below the initial value of the session.

use crate::check::{Failure, Result};

/// The file through which a process reads and writes its own value.
pub const OWN: &str = "/proc/self/oom_score_adj";

/// Returns the caller's value.
pub fn own() -> Result<i32> {
    let text = std::fs::read_to_string(OWN)?;
    text.trim().parse().map_err(|_| Failure::broken(format!("{OWN} contains {text:?}")))
}

/// Returns the caller's value plus `steps`, capped at the maximum.
pub fn own_raised_by(steps: i32) -> Result<i32> {
    const MOST: i32 = 1000;
    Ok((own()? + steps).min(MOST))
}
