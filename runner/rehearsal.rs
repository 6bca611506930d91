//! The runner's way to the end of its first case, gone by somebody else: when the runner comes there, an emulator has
//! translated the code.

use std::time::Duration;

use clone3_conformance::probe::Privileges;
use clone3_conformance::sandbox;

use super::cli::Options;

/// An empty case that hangs is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads a command line, tries privileges, and runs an empty case. What goes wrong is nobody's news: the runner will meet it,
/// too.
///
/// Nothing here may ask the kernel for what the suite is about: should it be broken, the suite has to be the first to meet it.
pub fn rehearse() {
    let _ = Options::of(["clone3-conformance", "--upstream"]);
    let _ = Privileges::find(0, true);
    let _ = sandbox::rehearse(PATIENCE);
}
