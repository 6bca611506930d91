//! The OOM adjustment of a process (`proc_pid_oom_score_adj(5)`), -1000 to 1000. Anybody may raise it, and only root may lower it
//! below what a session begins with.

use crate::check::{Failure, Result};

/// Where a process reads and writes its own.
pub const OWN: &str = "/proc/self/oom_score_adj";

/// The caller's.
pub fn own() -> Result<i32> {
    let text = std::fs::read_to_string(OWN)?;
    text.trim().parse().map_err(|_| Failure::broken(format!("{OWN} is {text:?}")))
}

/// The caller's, higher by so much, or the highest that there is.
pub fn own_raised_by(steps: i32) -> Result<i32> {
    const MOST: i32 = 1000;
    Ok((own()? + steps).min(MOST))
}
