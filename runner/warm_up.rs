//! Warm-up for emulators: runs the runner's code up to the end of a first case in another process, so that the code is already
//! translated when the runner gets there.

use std::time::Duration;

use clone3_conformance::probe::Privileges;
use clone3_conformance::sandbox;

use super::cli::Options;

/// The timeout of the empty case.
const PATIENCE: Duration = Duration::from_secs(10);

/// Parses a command line, probes privileges, and runs an empty case. Ignores errors, since the runner will hit them too.
///
/// This must not use the kernel features that the suite tests: if they are broken, the suite must be the first to hit that.
pub fn warm_up() {
    let _ = Options::of(["clone3-conformance", "--upstream"]);
    let _ = Privileges::find(0, true);
    let _ = sandbox::warm_up(PATIENCE);
}
