//! What the host's driver and the guest's init say to each other.
//!
//! The driver puts a [`Plan`] where the guest finds it; the guest answers over two serial lines (what a person reads, and
//! the journal of events) and marks, in the kernel's own log, where the suite began and ended.
use serde::{Deserialize, Serialize};

/// Where the plan lies in a guest whose root is our initramfs.
pub const PLAN: &str = "/suite/plan.json";

/// The line in the kernel's log before which nothing is the suite's doing.
pub const SUITE_STARTS: &str = "clone3-conformance: suite starts";

/// The line in the kernel's log after which the guest has nothing more to say.
pub const SUITE_ENDED: &str = "clone3-conformance: suite ended";

/// What the guest is to run, and where it is to report.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Plan {
    /// Arguments of the runner, its own name not among them.
    pub args: Vec<String>,
    /// The ordinary user to run as; root if none is named.
    pub user: Option<u32>,
    /// How many processes are to do nothing but use processor time beside the suite, for each processor.
    #[serde(default)]
    pub load: u16,
    /// The command line, up to the runner's arguments, that boots this kernel again: for reports of failures.
    pub rerun: String,
    /// The text of a file of expectations, if there is one.
    #[serde(default)]
    pub expect: Option<String>,
    /// The device that takes the runner's output.
    pub output: String,
    /// The device that takes the journal of events.
    pub journal: String,
    /// The device that takes, as a tar archive, the counters of a kernel that was built with gcov.
    pub counters: Option<String>,
}

/// The last line of the journal, written by the guest's init and not by the runner: how the runner ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "event", rename = "exit")]
pub struct Exit {
    /// Its exit status, if it had one.
    pub status: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
}
