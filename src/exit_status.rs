//! The exit statuses of the runner, which `vm/run.sh` passes on.

/// Every verdict is good.
pub const GOOD: u8 = 0;
/// Some case failed, or the kernel complained while the suite ran.
pub const FAILED: u8 = 1;
/// The command line is invalid.
pub const USAGE: u8 = 2;
/// The harness is broken.
pub const BROKEN: u8 = 3;
/// No case is selected.
pub const NOTHING_SELECTED: u8 = 4;
