//! What an auto-reaped process may create, what its children inherit, and what outlasts exec.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::Channel;
use clone3_conformance::kit::helper::Command;
use clone3_conformance::kit::process::{apart, child_reporting, two_apart};
use clone3_conformance::kit::programs::{CloneParentReport, try_clone_parent};
use clone3_conformance::wait::Status;
use nix::errno::Errno;

/// Every way to use CLONE_PARENT must have ended as `expected`: 0, or the number of an errno.
fn all_ended(who: &str, report: &CloneParentReport, expected: i32) -> Result {
    for (call, got) in report {
        let (got, expected) = (Errno::from_raw(*got), Errno::from_raw(expected));
        check::equal(format_args!("{call} by {who}"), got, expected)?;
    }
    Ok(())
}

/// A child made by `call` execs a program that tries CLONE_PARENT.
fn try_after_exec(call: &Clone3) -> Result<(Child, CloneParentReport)> {
    let report = Channel::<Result<CloneParentReport>>::new()?;
    let program = Command::new("clone-parent", &[])?.with_fd(&report.sending_end()?);
    let child = call.spawn(|| i32::from(report.send(&Err(program.exec())).is_err()))?;
    let told = report.recv()??;
    Ok((child, told))
}

case! {
    /// An auto-reaped process may not use CLONE_PARENT at all: clone3, the older clone, and CLONE_PARENT for a
    /// thread are all EINVAL.
    autoreap_caller_clone_parent_rejected: Is, needs [Autoreap, ExitInfo],
    source "kernel/fork.c copy_process(); LKML, Oleg Nesterov 2026-02-28, Christian Brauner 2026-03-02",
}
fn autoreap_caller_clone_parent_rejected() -> Result {
    let control = two_apart(try_clone_parent)?;
    all_ended("an ordinary process", &control, 0)?;
    let (child, report) = child_reporting(&Clone3::new(Flags::REAPED), try_clone_parent)?;
    all_ended("an auto-reaped process", &report, libc::EINVAL)?;
    child.pidfd()?.reaped_with(Status::exited(0))
}

case! {
    /// An auto-reaped process may not use CLONE_PARENT after an exec either, though its exit signal is SIGCHLD
    /// then.
    autoreap_caller_clone_parent_rejected_after_exec: Is, needs [Autoreap, ExitInfo],
    source "kernel/fork.c copy_process(); LKML, Oleg Nesterov 2026-02-28, Christian Brauner 2026-03-02",
}
fn autoreap_caller_clone_parent_rejected_after_exec() -> Result {
    let control = apart(|| {
        let (_, report) = try_after_exec(&Clone3::fork())?;
        clone3_conformance::kit::process::reap_all()?;
        Ok(report)
    })?;
    all_ended("an ordinary process after its exec", &control, 0)?;
    let (child, report) = try_after_exec(&Clone3::new(Flags::REAPED))?;
    all_ended("an auto-reaped process after its exec", &report, libc::EINVAL)?;
    child.pidfd()?.reaped_with(Status::exited(0))
}
