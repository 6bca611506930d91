//! PIDFD_GET_INFO: what a pidfd reports about a process, alive and dead.

use clone3_conformance::abi::{Flags, InfoMask, PidfdInfo};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::{Cgroup, ExitRace, Held, processors, subject};
use clone3_conformance::need::rounds;
use clone3_conformance::pidfd::{IDENTITY, Pidfd, given, info};
use clone3_conformance::procfs::Task;
use clone3_conformance::sandbox;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::poll::PollTimeout;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getresgid, getresuid};

/// Creates a child by `call`, which exits with `code` and is reaped when this returns.
fn dead(call: &Clone3, code: i32) -> Result<Child> {
    let child = call.spawn(|| code)?;
    subject::wait_until_gone(&child)?;
    Ok(child)
}

case! {
    /// For a live process PIDFD_GET_INFO returns the process identifiers and credentials, even if nothing is requested, and no exit
    /// information.
    pidfd_info_live: Must, needs [PidfdInfo],
    source "include/uapi/linux/pidfd.h (\"Always returned, even if not requested\")",
}
fn pidfd_info_live() -> Result {
    let (user, group) = (getresuid()?, getresgid()?);
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        for request in [InfoMask::empty(), InfoMask::EXIT] {
            let info = info(child.pidfd()?, request)?;
            let what = format!("PIDFD_GET_INFO({request}) on a live child of {call}");
            check::equal(format_args!("{what}: mask without CGROUPID"), given(&info), IDENTITY)?;
            let pid = child.pid() as u32;
            let family = (pid, pid, getpid().as_raw() as u32);
            check::equal(format_args!("{what}: pid, tgid, ppid"), (info.pid, info.tgid, info.ppid), family)?;
            let uids = [info.ruid, info.euid, info.suid, info.fsuid];
            let expected = [user.real, user.effective, user.saved, user.effective].map(|id| id.as_raw());
            check::equal(format_args!("{what}: ruid, euid, suid, fsuid"), uids, expected)?;
            let gids = [info.rgid, info.egid, info.sgid, info.fsgid];
            let expected = [group.real, group.effective, group.saved, group.effective].map(|id| id.as_raw());
            check::equal(format_args!("{what}: rgid, egid, sgid, fsgid"), gids, expected)?;
        }
        child.into_child().clear_away()
    })
}

/// Repeats PIDFD_GET_INFO until the kernel says that the process is gone.
fn ask_until_gone(child: &Child) -> Result {
    let pid = child.pid() as u32;
    while sandbox::time_left() != PollTimeout::ZERO {
        match child.pidfd()?.info(InfoMask::PID) {
            Err(Errno::ESRCH) => return Ok(()),
            answer => {
                let info = check::succeeds("PIDFD_GET_INFO on a dying child", answer)?;
                let told = (given(&info), info.pid, info.tgid);
                check::equal(
                    "mask without CGROUPID, pid, tgid of a dying child",
                    told,
                    (IDENTITY, pid, pid),
                )?;
            }
        }
    }
    Err(Failure::fail("PIDFD_GET_INFO(PID) never said ESRCH of a child that was let go"))
}

case! {
    /// PIDFD_GET_INFO on a dying auto-reaped child returns all that it returns for a live one, or ESRCH: never an answer without
    /// the process.
    pidfd_info_dying_whole_or_esrch: Must, needs [Autoreap, PidfdInfo],
    source "fs/pidfs.c pidfd_info() (\"to avoid providing incomplete information\")",
}
fn pidfd_info_dying_whole_or_esrch() -> Result {
    let there = processors::stay_apart()?;
    for _ in rounds(20) {
        let child = Held::awake(&Clone3::new(Flags::REAPED), 0, there)?;
        child.let_go()?;
        ask_until_gone(&child)?;
        child.pidfd()?.wait_reaped()?;
    }
    Ok(())
}

/// Requests exit information about a child that is about to exit with 7, until it is available.
fn ask_until_exited(child: &Child) -> Result {
    while sandbox::time_left() != PollTimeout::ZERO {
        // Requesting COREDUMP as well gives the child more time to end during the call.
        let answer = child.pidfd()?.info(InfoMask::EXIT | InfoMask::COREDUMP);
        let is_defect = match &answer {
            Err(errno) => *errno == Errno::ESRCH,
            Ok(info) => given(info).is_empty(),
        };
        match alive_or_exited(answer, child.pid() as u32) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(failure) => return Err(if is_defect { failure.as_defect() } else { failure }),
        }
    }
    Err(Failure::fail("PIDFD_GET_INFO(EXIT) never gave exit information of a child that has ended"))
}

/// Returns whether the answer has exit information: alone, or with the identity of a child that is just being reaped.
/// Identity alone is the only other valid answer.
#[track_caller]
fn alive_or_exited(answer: std::result::Result<PidfdInfo, Errno>, pid: u32) -> Result<bool> {
    let info = check::succeeds("PIDFD_GET_INFO(EXIT|COREDUMP) on a dying child", answer)?;
    let told = (given(&info) - InfoMask::COREDUMP, info.pid, info.tgid, Status(info.exit_code));
    let exited = [(InfoMask::EXIT, 0), (InfoMask::EXIT | IDENTITY, pid)];
    if exited.map(|(mask, pid)| (mask, pid, pid, Status::exited(7))).contains(&told) {
        return Ok(true);
    }
    let what =
        "mask without CGROUPID and COREDUMP, pid, tgid, exit_code of a dying child that has not exited";
    check::equal(what, told, (IDENTITY, pid, pid, Status(0))).map(|()| false)
}

case! {
    /// If an auto-reaped child ends during a PIDFD_GET_INFO call that requests exit information, the call reports the live process,
    /// or its exit, or both: never nothing, and never ESRCH.
    pidfd_info_dying_alive_or_exited: Must, needs [Autoreap, ExitInfo],
    source "include/uapi/linux/pidfd.h, PIDFD_INFO_PID (\"Always returned, even if not requested\"); fs/pidfs.c pidfd_info() \
        (\"if the task is gone the information is there\")",
    rare_defect "7.1 to 7.3-rc7: the process is looked for after its exit information, so that one which ends in between has neither",
    fixed "7.3.4",
}
fn pidfd_info_dying_alive_or_exited() -> Result {
    ExitRace::each(rounds(10), 7, ask_until_exited)
}

case! {
    /// A zombie has no exit information until it is reaped.
    pidfd_info_exit_not_before_reap: Is, needs [ExitInfo],
    source "pidfs_exit(), called by release_task()",
}
fn pidfd_info_exit_not_before_reap() -> Result {
    let child = Clone3::fork().with(Flags::PIDFD).spawn(|| 7)?;
    wait::find_zombie(child.pid())?;
    let zombie = info(child.pidfd()?, InfoMask::EXIT)?;
    check::equal("mask (without CGROUPID) for a zombie", given(&zombie), IDENTITY)?;
    wait::reap_expecting(child.pid(), Status::exited(7))?;
    let reaped = info(child.pidfd()?, InfoMask::EXIT)?;
    check::equal("mask (without CGROUPID) once it is reaped", given(&reaped), InfoMask::EXIT)?;
    check::equal("exit_code", Status(reaped.exit_code), Status::exited(7))
}

case! {
    /// For a reaped process PIDFD_GET_INFO returns the exit status and the cgroup, as often as it is called, and nothing else: pids
    /// and credentials are zero.
    pidfd_info_exit_after_reap: Is, needs [ExitInfo],
    source "pidfd_info(), \"only exit information is available\"",
}
fn pidfd_info_exit_after_reap() -> Result {
    subject::each(|call| {
        let child = dead(&call, 7)?;
        for time in ["once", "again"] {
            let info = info(child.pidfd()?, InfoMask::EXIT)?;
            let what = format!("PIDFD_GET_INFO(EXIT), {time}, on a reaped child of {call}");
            check::equal(format_args!("{what}: mask without CGROUPID"), given(&info), InfoMask::EXIT)?;
            let (mask, cgroupid, exit_code) = (info.mask, info.cgroupid, Status::exited(7).0);
            check::equal(what, info, PidfdInfo { mask, cgroupid, exit_code, ..PidfdInfo::default() })?;
        }
        Ok(())
    })
}

case! {
    /// The COREDUMP bit means that there is coredump information: for a reaped process that dumped no core it is not returned, even
    /// if requested.
    pidfd_info_coredump_bit_means_dump: Is, needs [ExitInfo, CoredumpMask],
    source "include/uapi/linux/pidfd.h (\"Only valid if PIDFD_INFO_COREDUMP is set in @mask\"); pidfd_info()", since "6.19",
}
fn pidfd_info_coredump_bit_means_dump() -> Result {
    subject::each(|call| {
        let killed = Held::exiting_with(&call, 0)?;
        killed.kill(Signal::SIGKILL)?;
        subject::wait_until_gone(&killed)?;
        for child in [dead(&call, 7)?, killed.into_child()] {
            let info = info(child.pidfd()?, InfoMask::EXIT | InfoMask::COREDUMP)?;
            let what =
                format!("mask (without CGROUPID) of a child of {call} that {}", Status(info.exit_code));
            check::equal(what, given(&info), InfoMask::EXIT)?;
        }
        Ok(())
    })
}

case! {
    /// For a reaped process only exit information is available: a request without PIDFD_INFO_EXIT is ESRCH.
    pidfd_info_esrch_without_exit: Must, needs [ExitInfo],
    source "pidfd_info(); kernel selftest pidfd_info_test",
}
fn pidfd_info_esrch_without_exit() -> Result {
    subject::each(|call| {
        let child = dead(&call, 0)?;
        info(child.pidfd()?, InfoMask::EXIT)?;
        for request in requests_without_exit() {
            let what = format!("PIDFD_GET_INFO({request}) on a reaped child of {call}");
            check::refused(what, child.pidfd()?.info(request), Errno::ESRCH)?;
        }
        Ok(())
    })
}

/// Returns requests without PIDFD_INFO_EXIT.
fn requests_without_exit() -> [InfoMask; 5] {
    [
        InfoMask::empty(),
        IDENTITY | InfoMask::CGROUPID,
        InfoMask::COREDUMP,
        InfoMask::SUPPORTED_MASK,
        InfoMask::all() - InfoMask::EXIT,
    ]
}

case! {
    /// PIDFD_GET_INFO without PIDFD_INFO_EXIT on a reaped process, which is ESRCH, does not modify the caller's structure.
    pidfd_info_esrch_writes_nothing: Is, needs [ExitInfo],
    source "fs/pidfs.c pidfd_info(), which returns before it copies anything out",
}
fn pidfd_info_esrch_writes_nothing() -> Result {
    subject::each(|call| {
        let child = dead(&call, 0)?;
        let ask = |request: InfoMask| -> Result<(std::result::Result<(), Errno>, bool)> {
            let mut buffer = [0xAA; size_of::<PidfdInfo>()];
            buffer[..8].copy_from_slice(&request.bits().to_ne_bytes());
            let before = buffer;
            let got = child.pidfd()?.info_sized(&mut buffer, size_of::<PidfdInfo>());
            Ok((got, buffer != before))
        };
        let what = "result of PIDFD_GET_INFO, and whether it wrote to the structure";
        check::equal(format_args!("control: {what}: EXIT"), ask(InfoMask::EXIT)?, (Ok(()), true))?;
        for request in requests_without_exit() {
            let what = format!("{what}: {request}, on a reaped child of {call}");
            check::equal(what, ask(request)?, (Err(Errno::ESRCH), false))?;
        }
        Ok(())
    })
}

case! {
    /// The exit_code of PIDFD_GET_INFO is a wait status: the low eight bits of the exit code, or the number of
    /// the signal.
    pidfd_info_exit_codes: Must, needs [ExitInfo],
    source "kernel selftest pidfd_info_test (\"waitpid format\"); wait(2)",
}
fn pidfd_info_exit_codes() -> Result {
    subject::each(|call| {
        for code in [0, 1, 42, 127, 128, 255, 259, -1] {
            let child = call.spawn(|| code)?;
            ended_as(&child, Status::exited(code))?;
        }
        for signal in [libc::SIGHUP, libc::SIGKILL, libc::SIGALRM, libc::SIGTERM, libc::SIGRTMIN() + 1] {
            let child = Held::exiting_with(&call, 0)?;
            check::succeeds("pidfd_send_signal", child.pidfd()?.send_raw_signal(signal))?;
            ended_as(&child, Status(signal))?;
        }
        Ok(())
    })
}

/// Checks that the pidfd, and waitpid, report this status.
#[track_caller]
fn ended_as(child: &Child, expected: Status) -> Result {
    if let Some(status) = subject::wait_until_gone(child)? {
        check::equal("wait status", status, expected)?;
    }
    check::equal("exit_code in PIDFD_GET_INFO", child.pidfd()?.exit_status()?, expected)
}

case! {
    /// PIDFD_INFO_SUPPORTED_MASK, if requested, names everything that the kernel returns, for live and reaped processes alike. It
    /// is not returned unless requested.
    pidfd_info_supported_mask: Must, needs [SupportedMask, ExitInfo],
    source "include/uapi/linux/pidfd.h (\"Want/got supported mask flags\"); PIDFD_INFO_SUPPORTED in fs/pidfs.c",
}
fn pidfd_info_supported_mask() -> Result {
    let always = IDENTITY | InfoMask::CGROUPID | InfoMask::EXIT | InfoMask::SUPPORTED_MASK;
    let asked = |pidfd: &Pidfd| -> Result<InfoMask> {
        let silent = info(pidfd, InfoMask::EXIT)?;
        check::holds(
            !silent.given().contains(InfoMask::SUPPORTED_MASK) && silent.supported().is_empty(),
            format_args!("the mask of what is supported was given unasked: {silent:x?}"),
        )?;
        let all = info(pidfd, InfoMask::all())?;
        let names = all.given() | always;
        check::equal("supported_mask lacks", names - all.supported(), InfoMask::empty())?;
        Ok(all.supported())
    };
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let alive = asked(child.pidfd()?).context("a live process")?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        let reaped = asked(child.pidfd()?).context("a reaped process")?;
        check::equal("supported_mask of a reaped process, and of the same one alive", reaped, alive)
    })
}

case! {
    /// Request bits that the kernel does not know are ignored, and never given back.
    pidfd_info_unknown_request_bits: Must, needs [ExitInfo],
    source "include/uapi/linux/pidfd.h (\"will ignore bits that it does not know about\")",
}
fn pidfd_info_unknown_request_bits() -> Result {
    let only_known = |pidfd: &Pidfd, expected: InfoMask| -> Result {
        let info = info(pidfd, InfoMask::from_bits_retain(!0))?;
        let known = match info.given().contains(InfoMask::SUPPORTED_MASK) {
            true => info.supported(),
            false => InfoMask::from_bits_retain(0xff),
        };
        check::equal("bits given that the kernel does not know", info.given() - known, InfoMask::empty())?;
        check::equal("bits asked for and not given", expected - info.given(), InfoMask::empty())
    };
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        only_known(child.pidfd()?, IDENTITY).context("a live process")?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        only_known(child.pidfd()?, InfoMask::EXIT).context("a reaped process")
    })
}

case! {
    /// The cgroupid in PIDFD_GET_INFO is that of the process's cgroup v2: after a move, that of the new cgroup; for a reaped
    /// process, that of its last cgroup, even if that has been removed.
    pidfd_info_cgroupid: Must, needs [ExitInfo, Cgroup2],
    source "include/uapi/linux/pidfd.h; pidfd_info(), pidfs_exit()",
}
fn pidfd_info_cgroupid() -> Result {
    subject::each(|call| {
        let (first, last) = (Cgroup::create(&[])?, Cgroup::create(&[])?);
        let last_id = last.id()?;
        let child = Held::exiting_with(&call.clone().into_cgroup(first.dir()), 0)?;
        let pidfd = child.pidfd()?;
        check::equal("cgroupid at birth", cgroupid(pidfd, InfoMask::empty())?, Some(first.id()?))?;
        last.admit(child.pid())?;
        check::equal("cgroupid after a move", cgroupid(pidfd, InfoMask::empty())?, Some(last_id))?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        check::equal("cgroupid once reaped", cgroupid(pidfd, InfoMask::EXIT)?, Some(last_id))?;
        last.remove()?;
        check::equal("cgroupid once that is removed", cgroupid(pidfd, InfoMask::EXIT)?, Some(last_id))
    })
}

/// Returns the cgroupid, if the mask says that there is one.
fn cgroupid(pidfd: &Pidfd, request: InfoMask) -> Result<Option<u64>> {
    let info = info(pidfd, request)?;
    Ok(info.given().contains(InfoMask::CGROUPID).then_some(info.cgroupid))
}

case! {
    /// PIDFD_GET_INFO also answers about a kernel thread: about kthreadd, with pid and tgid 2 and no parent.
    pidfd_info_of_kernel_thread: Is, needs [PidfdInfo, Proc],
    source "fs/pidfs.c pidfd_info(), which asks nothing about the kind of task",
}
fn pidfd_info_of_kernel_thread() -> Result {
    const KTHREADD: i32 = 2;
    let name = Task::of(KTHREADD).map(|task| task.comm);
    if name.as_deref() != Some("kthreadd") {
        return Err(Failure::blocked(format!(
            "process 2 is {name:?}, and not kthreadd: another pid namespace?"
        )));
    }
    let info = check::succeeds("PIDFD_GET_INFO of kthreadd", Pidfd::open(KTHREADD)?.info(InfoMask::PID))?;
    check::equal("pid, tgid and ppid of kthreadd", [info.pid, info.tgid, info.ppid], [2, 2, 0])
}
