//! Closing the last reference kills the child, whatever the closing process is permitted to do.

use std::os::fd::{AsFd, AsRawFd};

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::privilege::{self, ORDINARY};
use clone3_conformance::kit::sandboxing::{self, Landlock};
use clone3_conformance::kit::seccomp::{self, Refusal};
use clone3_conformance::kit::{Actor, Echo, namespace, setuid};
use clone3_conformance::pidfd::{Pidfd, fdinfo};
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{
    DumpableBehavior, parent_process_death_signal, set_dumpable_behavior, set_parent_process_death_signal,
};

/// Closes the last reference to the child's pidfd in a process made by `call`, after `restrain` made sure that this process
/// may not signal the child. The child must die all the same.
#[track_caller]
fn last_close_by(call: &Clone3, mut child: Echo, restrain: impl Fn(&Pidfd) -> Result) -> Result {
    let observer = child.observe()?;
    // The closer's closure owns the descriptor, so the copy in this process is closed once the closer exists.
    let mut held = Some(child.take_pidfd()?);
    let closer = Actor::spawn(call, move |()| {
        let pidfd = held.take().ok_or_else(|| Failure::broken("closed already"))?;
        restrain(&pidfd)?;
        pidfd.close()
    })?;
    child.is_alive("while the closer has the last reference")?;
    closer.ask(())?;
    child.is_dead("after the last close, by a process that may not signal it")?;
    observer.gone_with(child.pid(), Status::killed(Signal::SIGKILL))?;
    closer.dismiss()
}

/// Sends signal 0 by pid and by pidfd, and returns both results.
fn may_signal(child: &Pidfd) -> Result<[std::result::Result<(), Errno>; 2]> {
    let pid = child.pid_in_fdinfo().filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(|| Failure::broken("no pid of the child in its pidfd's fdinfo"))?;
    Ok([kill(Pid::from_raw(pid), None), child.send_raw_signal(0)])
}

fn may_not_signal(child: &Pidfd) -> Result {
    let [by_pid, by_pidfd] = may_signal(child)?;
    check::refused("kill(child, 0) by the closer", by_pid, Errno::EPERM)?;
    check::refused("pidfd_send_signal(0) by the closer", by_pidfd, Errno::EPERM)
}

/// Makes the closer an ordinary user other than the one that children become.
fn as_a_stranger(child: &Pidfd) -> Result {
    privilege::become_user(2000)?;
    may_not_signal(child)
}

/// Likewise, but with all capabilities in a user namespace that the child is not in.
fn as_a_stranger_in_a_user_namespace(child: &Pidfd) -> Result {
    privilege::become_user(3000)?;
    privilege::unshare_user_namespace()?;
    may_not_signal(child)
}

/// Checks the real, effective and saved user ids of the child.
fn has_uids(child: &Echo, expected: [u32; 3]) -> Result {
    let info = check::succeeds("PIDFD_GET_INFO(CREDS)", child.pidfd()?.info(InfoMask::CREDS))?;
    check::equal("real, effective and saved uid of the child", [info.ruid, info.euid, info.suid], expected)
}

case! {
    /// The last close kills the child even if the closer is another user, or in a user namespace of its own, and may not signal the
    /// child.
    autokill_closer_without_permission: Must,
    needs [Autoreap, Nnp, Autokill, ExitInfo, Root, UserNamespaces, Proc],
    source "LKML, Christian Brauner 2026-02-17 (\"ruthlessly enforce\"); kernel, do_send_sig_info() checks no permission",
}
fn autokill_closer_without_permission() -> Result {
    for restrain in [as_a_stranger, as_a_stranger_in_a_user_namespace] {
        last_close_by(&Clone3::fork(), Echo::spawn(&Clone3::new(Flags::KILLED_NNP))?, restrain)?;
    }
    Ok(())
}

case! {
    /// The last close kills the child even if the closer is in a Landlock domain that forbids it to signal the child.
    autokill_closer_in_landlock_domain: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "LKML, Christian Brauner 2026-02-17 (\"ruthlessly enforce\"); kernel, do_send_sig_info() checks no permission",
}
fn autokill_closer_in_landlock_domain() -> Result {
    Landlock::Signals.exists()?;
    last_close_by(&Clone3::fork(), Echo::spawn(&Clone3::new(Flags::KILLED_NNP))?, |child| {
        check::equal(
            "control: signal 0 before landlock_restrict_self",
            may_signal(child)?,
            [Ok(()), Ok(())],
        )?;
        rustix::thread::set_no_new_privs(true)?;
        Landlock::Signals.restrict_self()?;
        may_not_signal(child)
    })
}

case! {
    /// The last close kills the child even if the closer is in a pid namespace where the child has no pid, and where
    /// pidfd_send_signal on the pidfd is EINVAL.
    autokill_closer_in_other_pidns: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, PidNamespace],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; pidfd_send_signal(2) (EINVAL); kernel, pidfs_file_release() goes by struct pid",
}
fn autokill_closer_in_other_pidns() -> Result {
    let child = Echo::spawn(&Clone3::new(Flags::KILLED_NNP | Flags::CLONE_NEWPID))?;
    check::succeeds("control: pidfd_send_signal(0) by the creator", child.pidfd()?.send_raw_signal(0))?;
    last_close_by(&Clone3::fork().with(Flags::CLONE_NEWPID), child, |child| {
        check::refused("pidfd_send_signal(0) by the closer", child.send_raw_signal(0), Errno::EINVAL)
    })
}

case! {
    /// fdinfo shows the child's pid in the pid namespace that `/proc` was mounted in, whoever reads it; if the child has no pid
    /// there, Pid and NSpid are 0, with no further pids.
    autokill_closer_in_other_pidns_fdinfo: Is, needs [Autoreap, Nnp, Autokill, SysAdmin, PidNamespace, Proc],
    source "fs/pidfs.c pidfd_show_fdinfo(); proc_pid_fdinfo(5), NSpid",
}
fn autokill_closer_in_other_pidns_fdinfo() -> Result {
    let child = Echo::spawn(&Clone3::new(Flags::KILLED_NNP))?;
    let lines = || -> Result<Vec<String>> {
        let text = fdinfo(child.pidfd()?.as_raw_fd())?;
        let about_numbers = |line: &&str| line.starts_with("Pid:") || line.starts_with("NSpid:");
        Ok(text.lines().filter(about_numbers).map(str::to_owned).collect())
    };
    let expected = |pid| [format!("Pid:\t{pid}"), format!("NSpid:\t{pid}")];
    check::equal("control: fdinfo here", &lines()?[..], &expected(child.pid())[..])?;
    let elsewhere = namespace::init().with(Flags::CLONE_NEWNS);
    let (init, seen) = namespace::init_reporting(&elsewhere, || {
        let creators = lines()?;
        namespace::mount_proc()?;
        Ok([creators, lines()?])
    })?;
    init.reap_expecting(Status::exited(0))?;
    let [creators, own] = seen;
    check::equal("fdinfo there, in the creator's /proc", &creators[..], &expected(child.pid())[..])?;
    check::equal("fdinfo there, in a /proc of its own", &own[..], &expected(0)[..])?;
    child.into_child().clear_away()
}

case! {
    /// An auto-kill child that changes its user id and is no longer dumpable stays armed, although its parent-death signal is
    /// cleared: the last close kills it, even by a process that may not signal it.
    autokill_after_setuid: Must, needs [Autoreap, Autokill, ExitInfo, Root, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"a deliberate departure from the pdeath_signal model\")",
}
fn autokill_after_setuid() -> Result {
    let child = Echo::prepared(&Clone3::new(Flags::KILLED), || {
        set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        privilege::become_ordinary_user()?;
        check::equal("control: the parent-death signal", parent_process_death_signal()?, None)?;
        Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
    })?;
    has_uids(&child, [ORDINARY; 3])?;
    last_close_by(&Clone3::fork(), child, as_a_stranger)
}

case! {
    /// A privileged caller's auto-kill child that becomes root by a set-user-ID exec stays armed: the last close kills it, even by
    /// an unprivileged process that may not signal it. This is why creating such a child requires CAP_SYS_ADMIN.
    autokill_setuid_exec_child: Must, needs [Autoreap, Autokill, ExitInfo, Root, NotYetNnp, Proc],
    source "LKML, Linus Torvalds 2026-02-17; pull request vfs-7.1-rc1.pidfs",
}
fn autokill_setuid_exec_child() -> Result {
    let program = setuid::file_with_mode(0o4755)?;
    let child =
        Echo::execed_from(&Clone3::new(Flags::KILLED), program.as_fd(), privilege::become_ordinary_user)?;
    has_uids(&child, [ORDINARY, 0, 0])?;
    last_close_by(&Clone3::fork(), child, as_a_stranger)
}

case! {
    /// An unprivileged caller's auto-kill child gains nothing from a set-user-ID root program, which makes an ordinary child root.
    /// So the last close kills no process that the caller could not kill anyway.
    autokill_unprivileged_setuid_exec: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Root, NotYetNnp, Proc],
    source "LKML, Linus Torvalds 2026-02-17; pull request vfs-7.1-rc1.pidfs",
}
fn autokill_unprivileged_setuid_exec() -> Result {
    let program = setuid::file_with_mode(0o4755)?;
    privilege::become_ordinary_user()?;
    let ordinary = setuid::credentials_after_exec(&Clone3::fork(), program.as_fd(), || Ok(()))?;
    let what = "control: real, effective and saved uid of an ordinary child after its exec";
    check::equal(what, ordinary.uids, [ORDINARY, 0, 0])?;

    let mut child = Echo::execed_from(&Clone3::new(Flags::KILLED_NNP), program.as_fd(), || Ok(()))?;
    has_uids(&child, [ORDINARY; 3])?;
    check::equal("signal 0 by pid and by pidfd", may_signal(child.pidfd()?)?, [Ok(()), Ok(())])?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    child.is_dead("after the last close of its pidfd")?;
    observer.reaped_with(Status::killed(Signal::SIGKILL))
}

case! {
    /// The last close kills the child even if a seccomp filter forbids the closer to call kill(2) and pidfd_send_signal(2).
    autokill_closer_with_seccomp_filter: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "LKML, Christian Brauner 2026-02-17 (\"ruthlessly enforce\"); seccomp(2)",
}
fn autokill_closer_with_seccomp_filter() -> Result {
    sandboxing::seccomp_filters_exist()?;
    last_close_by(&Clone3::fork(), Echo::spawn(&Clone3::new(Flags::KILLED_NNP))?, |child| {
        let before = may_signal(child)?;
        check::equal("control: signal 0 before the filters", before, [Ok(()), Ok(())])?;
        rustix::thread::set_no_new_privs(true)?;
        for call in [libc::SYS_kill, libc::SYS_pidfd_send_signal] {
            let refused = seccomp::refuse(call, Refusal::Errno(Errno::EPERM));
            check::succeeds("seccomp(SECCOMP_SET_MODE_FILTER)", refused)?;
        }
        may_not_signal(child)
    })
}
