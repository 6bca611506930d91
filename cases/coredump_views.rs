//! Core dumps of processes of all kinds, as seen by PIDFD_GET_INFO and by the helper that takes the core.

use clone3_conformance::abi::{CoredumpMask, Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3, park};
use clone3_conformance::kit::coredump::Server;
use clone3_conformance::kit::crash::Crash;
use clone3_conformance::kit::handles::Handle;
use clone3_conformance::kit::{Held, subject, threads};
use clone3_conformance::pidfd::info;
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::unistd::{Pid, setpgid};

/// Checks that the child is gone after dumping core, and that the dump is on record.
#[track_caller]
fn has_dumped(child: &Child, crash: Crash) -> Result {
    if let Some(status) = subject::wait_until_gone(child)? {
        check::equal("wait status", status, crash.dumped())?;
    }
    let told = info(child.pidfd()?, InfoMask::EXIT | InfoMask::COREDUMP)?;
    let got = (told.given().contains(InfoMask::COREDUMP), told.coredump());
    let expected = (true, CoredumpMask::COREDUMPED | CoredumpMask::USER);
    check::equal("COREDUMP bit and coredump_mask of a process that has dumped", got, expected)?;
    check::equal("exit_code", Status(told.exit_code), crash.dumped())
}

case! {
    /// The core dump of a process in a child pid namespace is recorded like any other.
    pidfd_info_coredump_in_pid_namespace: Must,
    needs [ExitInfo, CoredumpMask, PidNamespace, Root, Ptrace, GlobalChanges],
    source "include/uapi/linux/pidfd.h, PIDFD_INFO_COREDUMP; fs/pidfs.c pidfs_coredump()",
}
fn pidfd_info_coredump_in_pid_namespace() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        for call in [call.clone(), call.with(Flags::CLONE_NEWPID)] {
            let child = call.spawn(|| Crash::Unmapped.now())?;
            server.take_dump_of(child.pidfd()?).context(&call)?;
            has_dumped(&child, Crash::Unmapped).context(&call)?;
        }
        Ok(())
    })
}

case! {
    /// If the last thread of a process dumps core after the leader has exited with a code of its own, exit_code in PIDFD_GET_INFO
    /// says that the process ended by that crash and dumped core, as waitpid's status does.
    pidfd_info_coredump_leader_gone: Must, needs [ExitInfo, CoredumpMask, Root, Proc, GlobalChanges],
    source "kernel selftest pidfd_info_test (\"waitpid format\"); wait(2), WCOREDUMP; kernel/exit.c release_task()",
}
fn pidfd_info_coredump_leader_gone() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let child = threads::leaderless(&call, 3, || Crash::Unmapped.now())?;
        child.let_go()?;
        server.take_dump_of(child.pidfd()?)?;
        has_dumped(&child, Crash::Unmapped).context(&call)
    })
}

case! {
    /// With kernel.core_pipe_limit set, an auto-reaped child that dumped core stays until the coredump helper is done with it, like
    /// an ordinary one: it has not exited, is not reaped, and is visible in /proc.
    autoreap_waits_for_dump_helper: Must, needs [Autoreap, ExitInfo, CoredumpMask, Root, Proc, GlobalChanges],
    source "core(5), core_pipe_limit (\"without waiting for the user-mode helper\"); fs/coredump.c wait_for_dump_helpers()",
}
fn autoreap_waits_for_dump_helper() -> Result {
    let server = Server::start()?;
    let helpers = server.to_lingering_helpers()?;
    subject::each(|call| {
        // The dump cannot finish before the helper has started.
        let child = call.spawn(|| Crash::Unmapped.with_large_core())?;
        let helper = helpers.take_dump_of(child.pidfd()?).context(&call)?;
        helper.is_waited_for(child.pidfd()?, child.pid()).context(&call)?;
        helper.dismiss()?;
        has_dumped(&child, Crash::Unmapped).context(&call)
    })
}

case! {
    /// The file handle of a process that has dumped core and is gone is stale (ESTALE), even while its pid is still the id of a
    /// process group.
    pidfd_handle_of_dumped_is_stale: Is, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "fs/pidfs.c pidfs_ino_get_pid(); open_by_handle_at(2), ESTALE",
    since "7.0",
}
fn pidfd_handle_of_dumped_is_stale() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let child = Held::running(&call, || Crash::Unmapped.now())?;
        let (group, member) = (Pid::from_raw(child.pid()), Clone3::fork().spawn(park)?);
        setpgid(group, group)?;
        setpgid(Pid::from_raw(member.pid()), group)?;
        let handle = Handle::of(child.pidfd()?)?;
        check::succeeds("control: open_by_handle_at while it lives", handle.open(child.pidfd()?, 0))?;
        child.let_go()?;
        server.take_dump_of(child.pidfd()?)?;
        has_dumped(&child, Crash::Unmapped)?;
        let opened = handle.open(child.pidfd()?, 0).map(drop);
        check::refused("open_by_handle_at of a group's leader that has dumped core", opened, Errno::ESTALE)?;
        member.clear_away()
    })
}
