//! Process groups that the end of a process orphans: their stopped members get SIGHUP, auto-reaped or not.

use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::{Orphan, subject};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Status};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Pid, setpgid, setsid};

const HUNG_UP: Status = Status::killed(Signal::SIGHUP);

/// Makes the calling process the leader of a new process group.
fn lead_a_group() -> Result {
    Ok(setpgid(Pid::from_raw(0), Pid::from_raw(0))?)
}

/// Creates a child that runs `prepare` and stops itself.
fn stopped(call: &Clone3, prepare: impl FnOnce() -> Result) -> Result<Child> {
    let child = call.spawn(|| match prepare() {
        Ok(()) => raise(Signal::SIGSTOP).map_or(98, |()| 0),
        Err(_) => 97,
    })?;
    let told = wait::waitpid(child.pid(), libc::WUNTRACED | libc::__WALL)?.map(|(_, status)| status);
    let what = format!("control: wait status of a child of {call} that stops itself");
    check::equal(what, told, Some(Status::stopped(Signal::SIGSTOP)))?;
    Ok(child)
}

/// In a new session, has a process made by `call` run `prepare`, stop a child that has run `prepare_child`, and exit. Checks that
/// the child, which is reparented to the caller, is hung up.
fn is_hung_up_by_end_of_parent(
    call: &Clone3,
    prepare: impl FnOnce() -> Result,
    prepare_child: impl FnOnce() -> Result,
    what: &str,
) -> Result {
    let stopped = in_child(|| {
        setsid()?;
        let (between, stopped) = child_reporting(call, || {
            prepare()?;
            Ok(stopped(&Clone3::fork(), prepare_child)?.pid())
        })?;
        subject::wait_until_gone(&between)?;
        Ok(stopped)
    })?;
    Pidfd::open(stopped)?.wait_exited().context(what)?;
    wait::reap_expecting(stopped, HUNG_UP).context(what)
}

case! {
    /// The end of an auto-reaped process orphans its process group as any end does: a stopped member gets SIGHUP and continues.
    autoreap_end_orphans_process_group: Must, needs [Autoreap],
    source "setpgid(2) (orphaned process groups); kernel/exit.c exit_notify(), kill_orphaned_pgrp()",
}
fn autoreap_end_orphans_process_group() -> Result {
    subject::each(|call| {
        let what = format!("stopped in the process group that a child of {call} left");
        // It was the only member of the group with a parent elsewhere in the session.
        is_hung_up_by_end_of_parent(&call, lead_a_group, || Ok(()), &what)
    })
}

case! {
    /// The end of an auto-reaped shell orphans the process groups of its jobs as any end does: a stopped job gets SIGHUP and
    /// continues.
    autoreap_end_hangs_up_stopped_job: Must, needs [Autoreap],
    source "setpgid(2) (orphaned process groups); kernel/exit.c reparent_leader(), kill_orphaned_pgrp()",
}
fn autoreap_end_hangs_up_stopped_job() -> Result {
    subject::each(|call| {
        let what = format!("stopped in a process group of its own when its parent, a child of {call}, ended");
        is_hung_up_by_end_of_parent(&call, || Ok(()), lead_a_group, &what)
    })
}

case! {
    /// An auto-reaped child that is stopped in a process group of its own gets SIGHUP and continues when its parent's end orphans
    /// that group, like any child.
    autoreap_stopped_orphan_hung_up: Must, needs [Autoreap, ExitInfo],
    source "setpgid(2) (orphaned process groups); kernel/exit.c reparent_leader(), kill_orphaned_pgrp()",
}
fn autoreap_stopped_orphan_hung_up() -> Result {
    subject::each(|call| {
        let orphan = Orphan::left_by(|| {
            setsid()?;
            stopped(&call, lead_a_group)
        })?;
        let what = format!("child of {call}, stopped when its parent ended");
        orphan.pidfd.wait_exited().context(&what)?;
        ends_by_its_kind(&call, orphan.pid, &orphan.pidfd, HUNG_UP).context(&what)
    })
}
