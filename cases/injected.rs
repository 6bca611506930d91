//! Children that their creator puts into another pid namespace than its own: reaped all the same.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::{Clone3, park};
use clone3_conformance::kit::namespace;
use clone3_conformance::wait::{self, Status};
use nix::unistd::getpid;

case! {
    /// An auto-reaped child that its creator puts into another pid namespace (unshare(CLONE_NEWPID)), which has an init already,
    /// leaves no zombie. An ordinary one does.
    autoreap_injected_into_pid_namespace: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "commit \"clone: add CLONE_AUTOREAP\"; pid_namespaces(7), on unshare(2)",
}
fn autoreap_injected_into_pid_namespace() -> Result {
    namespace::unshare_pid()?;
    let init = Clone3::fork().with(Flags::PIDFD).spawn(park)?;
    // Each exits with the number that it has in there.
    let own_number = || getpid().as_raw();
    let ordinary = Clone3::fork().with(Flags::PIDFD).spawn(own_number)?;
    let zombie = wait::Event::exited(ordinary.pid(), 2);
    check::equal("control: an ordinary child in there", wait::find_zombie(ordinary.pid())?, zombie)?;
    ordinary.reap_expecting(Status::exited(2))?;
    let child = Clone3::new(Flags::REAPED).spawn(own_number)?;
    child.pidfd()?.gone_with(child.pid(), Status::exited(3))?;
    init.clear_away()
}
