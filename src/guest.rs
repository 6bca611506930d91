//! The protocol between the host's driver and the guest's init.
//!
//! The driver provides a [`Plan`] to the guest. The guest answers over two serial lines (one for output that
//! people read, one for the journal of events), and marks in the kernel log where the suite starts and ends.
use serde::{Deserialize, Serialize};

/// The path of the plan in a guest whose root is our initramfs.
pub const PLAN: &str = "/suite/plan.json";

/// The line in the kernel log at which the suite starts. Nothing before it is caused by the suite.
pub const SUITE_STARTS: &str = "clone3-conformance: suite starts";

/// The line in the kernel log after which the guest reports nothing more.
pub const SUITE_ENDED: &str = "clone3-conformance: suite ended";

/// The runner's options that affect the verdict on a case, and whether each takes a value. A rerun passes the same ones.
pub const VERDICT_OPTIONS: [(&str, bool); 7] = [
    ("--allow-global-changes", false),
    ("--strict", false),
    ("--stress", true),
    ("--timeout-scale", true),
    ("--require", true),
    ("--as-linux", true),
    ("--expect", true),
];

/// What the guest runs, and where it reports.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Plan {
    /// The runner's arguments, without the program name.
    pub args: Vec<String>,
    /// The unprivileged user to run as; root if none is given.
    pub user: Option<u32>,
    /// The number of processes per CPU that run a busy loop beside the suite.
    #[serde(default)]
    pub load: u16,
    /// The command line, up to the runner's arguments, that boots this kernel again. Failure reports contain
    /// it.
    pub rerun: String,
    /// The contents of a file of expectations, if there is one.
    #[serde(default)]
    pub expect: Option<String>,
    /// The device for the runner's output.
    pub output: String,
    /// The device for the journal of events.
    pub journal: String,
    /// The device for the counters, as a tar archive, of a kernel built with gcov.
    pub counters: Option<String>,
}

/// The last line of the journal: how the runner ended. The guest's init writes it, not the runner.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "event", rename = "exit")]
pub struct Exit {
    /// The runner's exit code, if it exited.
    pub status: Option<i32>,
    /// The signal that killed the runner, if one did.
    pub signal: Option<i32>,
}
