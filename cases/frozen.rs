//! Children that are created in a frozen cgroup, or moved into one.

use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::Child;
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::{Cgroup, Echo, subject};
use clone3_conformance::procfs::Task;
use clone3_conformance::sandbox;
use clone3_conformance::wait::Status;
use nix::poll::{PollFlags, PollTimeout};

/// Waits until a child that does nothing but exit is asleep, which it is only when frozen.
#[track_caller]
fn is_frozen(child: &Child) -> Result {
    loop {
        let seen = child.pidfd()?.poll_now(PollFlags::POLLIN)?;
        check::equal("poll on its pidfd, while the cgroup is frozen", seen, PollFlags::empty())?;
        if Task::of(child.pid()).is_some_and(|task| task.state == 'S') {
            return Ok(());
        }
        if sandbox::time_left() == PollTimeout::ZERO {
            return Err(Failure::fail("a process that was made in a frozen cgroup neither sleeps nor ends"));
        }
        std::thread::yield_now();
    }
}

case! {
    /// A child created in a frozen cgroup (CLONE_INTO_CGROUP), auto-reaped or not, does not run until the cgroup is thawed.
    autoreap_born_frozen: Must, needs [Autoreap, ExitInfo, Proc, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze; kernel/cgroup/cgroup.c cgroup_post_fork()",
}
fn autoreap_born_frozen() -> Result {
    subject::each(|call| {
        let group = Cgroup::create(&[])?;
        group.write("cgroup.freeze", "1")?;
        group.wait_for("frozen 1")?;
        let call = call.into_cgroup(group.dir());
        let child = call.spawn(|| 5)?;
        is_frozen(&child).context(format_args!("child of {call}"))?;
        group.write("cgroup.freeze", "0")?;
        ends_by_its_kind(&call, child.pid(), child.pidfd()?, Status::exited(5))?;
        group.remove()
    })
}

case! {
    /// A child that is moved into a frozen cgroup (cgroup.procs), auto-reaped or not, does not run there until the cgroup is thawed.
    autoreap_frozen_by_move: Must, needs [Autoreap, ExitInfo, Proc, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze (\"If a process is moved to a frozen cgroup, it stops\")",
}
fn autoreap_frozen_by_move() -> Result {
    subject::each(|call| {
        let group = Cgroup::create(&[])?;
        group.write("cgroup.freeze", "1")?;
        group.wait_for("frozen 1")?;
        let child = Echo::spawn(&call)?;
        group.admit(child.pid())?;
        group.wait_for("frozen 1").context(format_args!("with a child of {call} that was moved there"))?;
        group.write("cgroup.freeze", "0")?;
        child.is_alive("when the cgroup to which it was moved is thawed")?;
        child.into_child().clear_away()?;
        group.remove()
    })
}
