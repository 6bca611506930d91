//! Where and when PIDFD_GET_INFO records a core dump: with the process, from the start of the dump.

use clone3_conformance::abi::{CoredumpMask, Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, Stack, park};
use clone3_conformance::kit::coredump::Server;
use clone3_conformance::kit::crash::{self, Crash};
use clone3_conformance::kit::process::own_pid;
use clone3_conformance::kit::sysctl::Sysctl;
use clone3_conformance::kit::{Channel, Gate, errands, privilege, subject, threads};
use clone3_conformance::pidfd::{Pidfd, info};
use clone3_conformance::wait::{self, Status};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Uid, setresuid};

/// Mask of a dump that was made with the user's rights.
const DUMPED: CoredumpMask = CoredumpMask::COREDUMPED.union(CoredumpMask::USER);

#[track_caller]
fn has_dump_on_record(child: &Child) -> Result {
    subject::wait_until_gone(child)?;
    let told = info(child.pidfd()?, InfoMask::EXIT | InfoMask::COREDUMP)?;
    let got = (told.given().contains(InfoMask::COREDUMP), told.coredump());
    check::equal("COREDUMP bit and coredump_mask of a process that has dumped", got, (true, DUMPED))
}

case! {
    /// The core dump of a child that shares its creator's memory (CLONE_VM) is recorded with the child alone.
    pidfd_info_coredump_not_of_sharer: Must, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "include/uapi/linux/pidfd.h (PIDFD_COREDUMPED: \"Did crash and...\"); fs/coredump.c coredump_wait()",
}
fn pidfd_info_coredump_not_of_sharer() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let call = call.with(Flags::CLONE_VM);
        let child = call.spawn_on(&Stack::new()?, errands::crash())?;
        server.take_dump_of(child.pidfd()?)?;
        has_dump_on_record(&child)?;
        let own = info(&Pidfd::open(own_pid())?, InfoMask::COREDUMP)?;
        check::equal(
            format_args!("coredump_mask of the creator of {call}"),
            own.coredump(),
            CoredumpMask::USER,
        )
    })
}

case! {
    /// The core dump of an ordinary child is still on record when all its pidfds have been closed and another is opened on the zombie.
    pidfd_info_coredump_of_zombie: Must, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "include/uapi/linux/pidfd.h (PIDFD_COREDUMPED); commit \"pidfs: persist information\"; pidfd_open(2)",
    since "6.17",
}
fn pidfd_info_coredump_of_zombie() -> Result {
    let server = Server::start()?;
    let mut child = Clone3::fork().with(Flags::PIDFD).spawn(|| Crash::Unmapped.now())?;
    server.take_dump_of(child.pidfd()?)?;
    wait::find_zombie(child.pid())?;
    child.close_pidfd()?;
    let late = Pidfd::open(child.pid())?;
    let told = info(&late, InfoMask::COREDUMP)?.coredump();
    check::equal("coredump_mask of a zombie, by a pidfd opened on it", told, DUMPED)?;
    child.reap_expecting(Crash::Unmapped.dumped())?;
    let told = info(&late, InfoMask::EXIT | InfoMask::COREDUMP)?.coredump();
    check::equal("coredump_mask by the same pidfd after the wait", told, DUMPED)
}

case! {
    /// A core dump caused by a thread is recorded with its process, even if the thread has a pidfd of its own.
    pidfd_info_coredump_thread_with_pidfd: Must, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "coredump_parse(), coredump_sock_connect(): the pid of the thread group; pidfd_open(2), PIDFD_THREAD",
}
fn pidfd_info_coredump_thread_with_pidfd() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let (tid, gate) = (Channel::<i32>::new()?, Gate::new()?);
        let child = call.spawn(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // The receiver sees a failed send as the end of the stream.
                    let _ = tid.send(&threads::own_tid());
                    gate.wait();
                    Crash::Unmapped.now()
                });
                park()
            })
        })?;
        let _thread = Pidfd::of_thread(tid.recv_from(&child)?)?;
        gate.open()?;
        server.take_dump_of(child.pidfd()?)?;
        has_dump_on_record(&child).context(&call)
    })
}

case! {
    /// A coredump helper finds the dump and its signal in PIDFD_GET_INFO on the pidfd that it is given (%F), before it has read any
    /// of the core.
    pidfd_info_coredump_seen_by_helper: Must, needs [ExitInfo, CoredumpMask, CoredumpSignal, Root, GlobalChanges],
    source "commit \"coredump: hand a pidfd to the usermode coredump helper\"; core(5), %F; fs/coredump.c umh_coredump_setup()",
}
fn pidfd_info_coredump_seen_by_helper() -> Result {
    let server = Server::start()?;
    server.to_asking_helper()?;
    subject::each(|call| {
        // The dump cannot finish before the helper reads, nor the child end before the helper has answered.
        let child = call.spawn(|| Crash::Unmapped.with_large_core())?;
        has_dump_on_record(&child).context(&call)?;
        let expected = (DUMPED, Signal::SIGSEGV.to_string());
        check::equal("coredump_mask and coredump_signal that the helper was told", server.told()?, expected)
    })
}

/// Exit code of a child that could not set up its dump.
const NOT_SET_UP: i32 = 97;

/// Becomes another user, so that the core is root's where fs.suid_dumpable is 2, and dumps a large core.
fn dump_as_another_user() -> Result<i32> {
    crash::expect_large_core_by(Signal::SIGQUIT);
    let user = Uid::from_raw(privilege::ORDINARY);
    setresuid(user, user, user)?;
    raise(Signal::SIGQUIT)?;
    Ok(0)
}

case! {
    /// When a process that has changed its user id dumps core with fs.suid_dumpable 2, its helper finds in PIDFD_GET_INFO that the
    /// dump is made as root: how the process is dumped, not how the helper would be.
    pidfd_info_coredump_root_seen_by_helper: Must, needs [ExitInfo, CoredumpMask, CoredumpSignal, Root, GlobalChanges],
    source "uapi linux/pidfd.h (\"coredump was done as root\"); proc_sys_fs(5), suid_dumpable; core(5), %F; pidfs_coredump()",
}
fn pidfd_info_coredump_root_seen_by_helper() -> Result {
    let server = Server::start()?;
    server.to_asking_helper()?;
    let _suid_dumpable = Sysctl::SuidDumpable.set("2")?;
    subject::each(|call| {
        let child = call.spawn(|| dump_as_another_user().unwrap_or(NOT_SET_UP))?;
        subject::wait_until_gone(&child)?;
        if child.pidfd()?.recorded_exit_status()? == Status::exited(NOT_SET_UP) {
            return Err(Failure::broken("the child could not become another user"));
        }
        let mask = CoredumpMask::COREDUMPED | CoredumpMask::ROOT;
        let dumped = info(child.pidfd()?, InfoMask::EXIT | InfoMask::COREDUMP)?.coredump();
        check::equal(format_args!("coredump_mask of a dump as root by a helper, {call}"), dumped, mask)?;
        let what = format_args!("coredump_mask and coredump_signal that this helper was told, {call}");
        check::equal(what, server.told()?, (mask, Signal::SIGQUIT.to_string()))?;
        Ok(())
    })
}
