//! The runner's way to the end of its first case, gone by somebody else: when the runner comes there, an emulator has
//! translated the code.

use std::time::Duration;

use clone3_conformance::need::Setting;
use clone3_conformance::sandbox;

use super::cli::Options;

/// An empty case that hangs is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads a command line, probes, and runs an empty case. What goes wrong is nobody's news: the runner will meet it, too.
pub fn rehearse() {
    let _ = Options::of(["clone3-conformance", "--upstream"]);
    Setting::get();
    let _ = sandbox::rehearse(PATIENCE);
}
