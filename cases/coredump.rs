//! PIDFD_GET_INFO of processes that dump core: signal, si_code and exit status outlive the process, whether it is auto-reaped
//! or not.

use clone3_conformance::abi::{CoredumpMask, Flags, InfoMask, PidfdInfo};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3, park};
use clone3_conformance::elf;
use clone3_conformance::kit::coredump::{Server, allow_core_files};
use clone3_conformance::kit::crash::{self, Crash};
use clone3_conformance::kit::handles::Handle;
use clone3_conformance::kit::sysctl::Sysctl;
use clone3_conformance::kit::{Echo, Held, Orphan, privilege, sigchld, subject};
use clone3_conformance::need::{Setting, rounds};
use clone3_conformance::pidfd::{IDENTITY, Pidfd, given, info};
use clone3_conformance::wait::{self, Event, Status, Who, signal_name};
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use nix::unistd::{Uid, setresuid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Requests everything there is about a dead process.
const REQUEST: InfoMask = InfoMask::EXIT.union(InfoMask::COREDUMP);

/// Returns the mask bits that this kernel sets for a core dump.
fn coredump_bits() -> InfoMask {
    let has = &Setting::get().probe.features;
    let signal = if has.coredump_signal { InfoMask::COREDUMP_SIGNAL } else { InfoMask::empty() };
    let code = if has.coredump_code { InfoMask::COREDUMP_CODE } else { InfoMask::empty() };
    InfoMask::COREDUMP | signal | code
}

/// Returns what this kernel records of a dump with the user's rights: coredump_mask, signal and si_code.
fn recorded(signal: Signal, code: i32) -> (CoredumpMask, String, i32) {
    let bits = coredump_bits();
    let when = |bit, value| if bits.contains(bit) { value } else { 0 };
    (
        CoredumpMask::COREDUMPED | CoredumpMask::USER,
        signal_name(when(InfoMask::COREDUMP_SIGNAL, signal as i32)),
        when(InfoMask::COREDUMP_CODE, code),
    )
}

fn of(info: &PidfdInfo) -> (CoredumpMask, String, i32) {
    (info.coredump(), signal_name(info.coredump_signal as i32), info.coredump_code as i32)
}

/// Returns what is reported with this mask if no dump was made.
fn of_no_dump(mask: CoredumpMask) -> (CoredumpMask, String, i32) {
    (mask, signal_name(0), 0)
}

/// Checks that the pidfd of a reaped child reports a core dump by this signal.
#[track_caller]
fn tells_of_dump(child: &Child, signal: Signal, code: i32) -> Result<PidfdInfo> {
    let info = info(child.pidfd()?, REQUEST)?;
    check::equal("mask without CGROUPID", given(&info), InfoMask::EXIT | coredump_bits())?;
    check::equal("coredump_mask, coredump_signal, coredump_code", of(&info), recorded(signal, code))?;
    // Kernels without coredump_code have supported_mask at its offset.
    if Setting::get().probe.features.coredump_code {
        let with_supported = child.pidfd()?.info(REQUEST | InfoMask::SUPPORTED_MASK)?;
        check::equal("these, asked for with SUPPORTED_MASK", of(&with_supported), recorded(signal, code))?;
    }
    Ok(info)
}

/// Checks that the pidfd of a reaped child reports no core dump.
///
/// Kernels before 6.19 set the COREDUMP bit for any process, with nothing behind it.
#[track_caller]
fn tells_of_none(child: &Child, status: Status) -> Result {
    let info = info(child.pidfd()?, REQUEST)?;
    let exact = Setting::get().probe.features.coredump_signal;
    let bits = if exact { given(&info) } else { given(&info) - InfoMask::COREDUMP };
    check::equal("mask without CGROUPID", bits, InfoMask::EXIT)?;
    check::equal("coredump fields", of(&info), of_no_dump(CoredumpMask::empty()))?;
    check::equal("exit_code", Status(info.exit_code), status)
}

case! {
    /// For a live process PIDFD_INFO_COREDUMP says how a dump would be made: with the user's rights, or not at all once
    /// PR_SET_DUMPABLE is 0. It gives no signal yet.
    pidfd_info_coredump_live: Is, needs [CoredumpMask],
    source "pidfd_info() (\"No coredump actually took place, so no coredump signal\")",
}
fn pidfd_info_coredump_live() -> Result {
    let ways = [
        (DumpableBehavior::Dumpable, CoredumpMask::USER),
        (DumpableBehavior::NotDumpable, CoredumpMask::SKIP),
    ];
    subject::each(|call| {
        for (behavior, expected) in ways {
            let child = Echo::prepared(&call, || Ok(set_dumpable_behavior(behavior)?))?;
            let info = info(child.pidfd()?, REQUEST)?;
            let what = format!("of a live child of {call} that is {behavior:?}");
            check::equal(format_args!("mask {what}"), given(&info), IDENTITY | InfoMask::COREDUMP)?;
            check::equal(format_args!("coredump fields {what}"), of(&info), of_no_dump(expected))?;
            child.into_child().clear_away()?;
        }
        Ok(())
    })
}

/// Becomes another user, so that fs.suid_dumpable sets the dumpable attribute. Runs in a child that SIGQUIT will end.
fn change_user() -> Result {
    let user = Uid::from_raw(privilege::ORDINARY);
    crash::expect_death_by(Signal::SIGQUIT);
    Ok(setresuid(user, user, user)?)
}

case! {
    /// For a live process that changed its user id, PIDFD_INFO_COREDUMP follows fs.suid_dumpable: no dump (0), a dump with the
    /// user's rights (1), or a dump as root (2). A dump as root is still reported as such when the process is gone.
    pidfd_info_coredump_root: Must, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "uapi linux/pidfd.h (\"coredump was done as root\"); proc_sys_fs(5), suid_dumpable; pidfs_coredump_mask()",
}
fn pidfd_info_coredump_root() -> Result {
    let server = Server::start()?;
    let suid_dumpable = Sysctl::SuidDumpable.set("0")?;
    let ways = [("0", CoredumpMask::SKIP), ("1", CoredumpMask::USER), ("2", CoredumpMask::ROOT)];
    subject::each(|call| {
        for (value, expected) in ways {
            suid_dumpable.change(value)?;
            let child = Echo::prepared(&call, change_user)?;
            let live = info(child.pidfd()?, REQUEST)?;
            let what =
                format!("of a live child of {call} that changed its user id, fs.suid_dumpable {value}");
            check::equal(format_args!("coredump fields {what}"), of(&live), of_no_dump(expected))?;
            child.into_child().clear_away()?;
        }
        // The last of the values is still set.
        let child = Echo::prepared(&call, change_user)?;
        child.kill(Signal::SIGQUIT)?;
        server.take_dump_of(child.pidfd()?)?;
        subject::wait_until_gone(&child)?;
        let told = info(child.pidfd()?, REQUEST)?;
        let (found, mask) =
            ((told.coredump(), Status(told.exit_code)), CoredumpMask::COREDUMPED | CoredumpMask::ROOT);
        let what = format_args!("coredump_mask and exit_code of a dump as root, {call}");
        check::equal(what, found, (mask, Status::dumped(Signal::SIGQUIT)))
    })
}

case! {
    /// After a child crashes, PIDFD_GET_INFO reports its core dump, the signal and the si_code, even once it is reaped, whether a
    /// socket or a helper with %F took the core. For a child killed by a signal without a core it reports none of these.
    pidfd_info_coredump_sigsegv: Must, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "pull request vfs-7.1-rc1.pidfs (coredump_code); pidfs_coredump(); kernel selftest coredump_socket_test",
}
fn pidfd_info_coredump_sigsegv() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        child.kill(Signal::SIGTERM)?;
        subject::wait_until_gone(&child)?;
        tells_of_none(&child, Status::killed(Signal::SIGTERM)).context("control: SIGTERM")?;

        let child = call.spawn(|| Crash::Unmapped.now())?;
        server.take_dump_of(child.pidfd()?)?;
        dumped_by_sigsegv(&child).context(format_args!("socket, {call}"))?;
        Ok(())
    })?;
    server.to_helper(true)?;
    subject::each(|call| {
        let child = call.spawn(|| Crash::Unmapped.now())?;
        dumped_by_sigsegv(&child).context(format_args!("helper with %F, {call}"))
    })
}

fn dumped_by_sigsegv(child: &Child) -> Result {
    if let Some(status) = subject::wait_until_gone(child)? {
        check::equal("wait status", status, Crash::Unmapped.dumped())?;
    }
    for time in ["once", "again"] {
        let info = tells_of_dump(child, Signal::SIGSEGV, Crash::Unmapped.code()).context(time)?;
        check::equal("exit_code", Status(info.exit_code), Crash::Unmapped.dumped()).context(time)?;
    }
    Ok(())
}

case! {
    /// coredump_code is the si_code of the signal that caused the dump: SEGV_ACCERR, ILL_ILLOPC and the like for the faults and
    /// traps of the processor, SI_KERNEL (128, too large for eight bits with a sign) for a handler without a stack, SI_TKILL for
    /// abort, SI_USER for kill by another process. It stays so when others have dumped since.
    pidfd_info_coredump_code_values: Must, needs [ExitInfo, CoredumpCode, Root, GlobalChanges],
    source "pull request vfs-7.1-rc1.pidfs (coredump_code); sigaction(2)",
}
fn pidfd_info_coredump_code_values() -> Result {
    const SI_USER: i32 = 0;
    let server = Server::start()?;
    subject::each(|call| {
        let mut earlier = Vec::new();
        for crash in Crash::all() {
            let child = call.spawn(|| crash.now())?;
            server.take_dump_of(child.pidfd()?)?;
            subject::wait_until_gone(&child)?;
            earlier.push((child, crash));
            for (child, crash) in &earlier {
                tells_of_dump(child, crash.signal(), crash.code()).context(format_args!("{crash:?}"))?;
            }
        }
        let child = Echo::prepared(&call, || {
            crash::expect_death_by(Signal::SIGQUIT);
            Ok(())
        })?;
        child.kill(Signal::SIGQUIT)?;
        server.take_dump_of(child.pidfd()?)?;
        subject::wait_until_gone(&child)?;
        tells_of_dump(&child, Signal::SIGQUIT, SI_USER).context("kill(SIGQUIT) by the parent")?;
        Ok(())
    })
}

case! {
    /// The signal and its si_code come only with PIDFD_INFO_COREDUMP: a request for exit information, even with the bits of these
    /// two, returns nothing about the dump.
    pidfd_info_coredump_needs_request: Is, needs [ExitInfo, CoredumpSignal, Root, GlobalChanges],
    source "pidfd_info()",
}
fn pidfd_info_coredump_needs_request() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let child = call.spawn(|| Crash::Unmapped.now())?;
        server.take_dump_of(child.pidfd()?)?;
        subject::wait_until_gone(&child)?;
        tells_of_dump(&child, Signal::SIGSEGV, Crash::Unmapped.code())?;
        let alone = InfoMask::COREDUMP_SIGNAL | InfoMask::COREDUMP_CODE;
        for request in [InfoMask::EXIT, InfoMask::EXIT | alone] {
            let info = info(child.pidfd()?, request)?;
            let what = format!("PIDFD_GET_INFO({request})");
            check::equal(format_args!("{what}: mask without CGROUPID"), given(&info), InfoMask::EXIT)?;
            check::equal(
                format_args!("{what}: coredump fields"),
                of(&info),
                of_no_dump(CoredumpMask::empty()),
            )?;
        }
        Ok(())
    })
}

case! {
    /// An auto-reaped child that dumps core after it was reparented, which made SIGCHLD its exit signal, sends its new parent no
    /// SIGCHLD; an ordinary one sends SIGCHLD with CLD_DUMPED.
    autoreap_no_sigchld_after_core_dump: Must, needs [Autoreap, ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"no exit signal is delivered\")",
}
fn autoreap_no_sigchld_after_core_dump() -> Result {
    subject::each_reaped(|reaped| {
        sigchld::block()?;
        let server = Server::start()?;
        while sigchld::take().is_some() {}
        let crashed = |call: &Clone3| -> Result<Orphan> {
            let orphan = Orphan::running(call, || Crash::Unmapped.now())?;
            orphan.let_go()?;
            server.take_dump_of(&orphan.pidfd)?;
            Ok(orphan)
        };
        let ordinary = crashed(&Clone3::new(Flags::PIDFD))?;
        wait::reap_expecting(ordinary.pid, Crash::Unmapped.dumped())?;
        sigchld::pending_for(ordinary.pid, libc::CLD_DUMPED).context("control")?;
        let child = crashed(&reaped)?;
        child.pidfd.reaped_with(Crash::Unmapped.dumped())?;
        sigchld::none_pending()
    })
}

case! {
    /// A wait with WNOWAIT reports that core was dumped (CLD_DUMPED), and the signal, as does the wait that then reaps the zombie.
    abi_core_dump_reported_by_every_wait: Must, needs [CoredumpMask, Root, GlobalChanges],
    source "waitid(2), si_code, WNOWAIT; kernel/exit.c wait_task_zombie()",
}
fn abi_core_dump_reported_by_every_wait() -> Result {
    let server = Server::start()?;
    let child = Clone3::fork().with(Flags::PIDFD).spawn(|| Crash::Unmapped.now())?;
    server.take_dump_of(child.pidfd()?)?;
    let dumped = Event { pid: child.pid(), code: libc::CLD_DUMPED, status: Crash::Unmapped.signal() as i32 };
    check::equal("waitid(WEXITED|WNOWAIT|__WALL)", wait::find_zombie(child.pid())?, dumped)?;
    let told = wait::waitid(Who::Pid(child.pid()), libc::WEXITED | libc::__WALL);
    check::equal("waitid(WEXITED|__WALL)", told, Ok(Some(dumped)))
}

/// Crashes the process in a thread other than the leader.
fn crash_in_thread(crash: Crash) -> i32 {
    std::thread::scope(|scope| {
        scope.spawn(|| crash.now());
        park()
    })
}

case! {
    /// A crash of a thread other than the leader leaves the same coredump information as a crash of the leader.
    pidfd_info_coredump_thread_crash: Must, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "include/uapi/linux/pidfd.h, PIDFD_INFO_COREDUMP; fs/coredump.c coredump_parse(), coredump_sock_connect(): the pid of the thread group",
}
fn pidfd_info_coredump_thread_crash() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let child = call.spawn(|| crash_in_thread(Crash::Unmapped))?;
        server.take_dump_of(child.pidfd()?)?;
        tells_of_threads_dump(&child).context(format_args!("socket, {call}"))?;
        Ok(())
    })?;
    server.to_helper(true)?;
    subject::each(|call| {
        let child = call.spawn(|| crash_in_thread(Crash::Unmapped))?;
        tells_of_threads_dump(&child).context(format_args!("helper with %F, {call}"))
    })
}

#[track_caller]
fn tells_of_threads_dump(child: &Child) -> Result {
    if let Some(status) = subject::wait_until_gone(child)? {
        check::equal("wait status", status, Crash::Unmapped.dumped())?;
    }
    let info = tells_of_dump(child, Signal::SIGSEGV, Crash::Unmapped.code())?;
    let signal = Status(info.exit_code).term_signal();
    check::equal("signal in the exit_code", signal, Some(Signal::SIGSEGV as i32))
}

case! {
    /// The core dump of a process has the registers of all its threads, not only of the one that crashed, auto-reaped or not.
    autoreap_core_has_all_threads: Must, needs [Autoreap, ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "core(5); elf(5), NT_PRSTATUS; fs/coredump.c zap_threads()",
}
fn autoreap_core_has_all_threads() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let child = call.spawn(|| crash_in_thread(Crash::Unmapped))?;
        let core = server.begin_dump_of(child.pidfd()?)?.read()?;
        subject::wait_until_gone(&child)?;
        let threads = elf::notes(&core, "CORE", libc::NT_PRSTATUS as u32);
        check::equal(format_args!("threads in the core dump of a child of {call} with two"), threads, Some(2))
    })
}

case! {
    /// When a thread other than the leader crashes, the exit_code in PIDFD_GET_INFO says that core was dumped,
    /// as waitpid's status does: for an auto-reaped process there is no other place to learn it.
    pidfd_info_coredump_thread_crash_exit_code: Must, needs [ExitInfo, Root, GlobalChanges],
    source "kernel selftest pidfd_info_test (\"waitpid format\"); wait(2), WCOREDUMP",
    known_defect "6.16 to 7.3: the leader takes its exit code before the dump is over, so the bit for \"core dumped\" is mostly missing",
}
fn pidfd_info_coredump_thread_crash_exit_code() -> Result {
    let server = Server::start()?;
    let (dumped, without_core) = (Crash::Unmapped.dumped(), Status::killed(Signal::SIGSEGV));
    for _ in rounds(5) {
        subject::each(|call| {
            let child = call.spawn(|| crash_in_thread(Crash::Unmapped))?;
            server.take_dump_of(child.pidfd()?)?;
            if let Some(status) = subject::wait_until_gone(&child)? {
                check::equal("wait status", status, dumped)?;
            }
            let what = format_args!("exit_code in PIDFD_GET_INFO of a child of {call}");
            check::equal_or_defect(what, child.pidfd()?.exit_status()?, dumped, without_core)
        })?;
    }
    Ok(())
}

case! {
    /// A core written to a plain file, or piped to a helper that gets no pidfd, leaves no coredump information in PIDFD_GET_INFO;
    /// only exit_code says that core was dumped.
    pidfd_info_coredump_file_pattern_none: Is, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "pidfs_coredump(), called for %F and for sockets only",
}
fn pidfd_info_coredump_file_pattern_none() -> Result {
    let server = Server::start()?;
    let crashed = |call: &Clone3| -> Result<Child> {
        let child = call.spawn(|| allow_core_files().map_or(93, |()| Crash::Unmapped.now()))?;
        subject::wait_until_gone(&child)?;
        Ok(child)
    };
    subject::each(|call| {
        server.to_helper(true)?;
        let control = crashed(&call)?;
        tells_of_dump(&control, Signal::SIGSEGV, Crash::Unmapped.code())
            .context("control: helper with %F")?;
        server.to_helper(false)?;
        tells_of_none(&crashed(&call)?, Crash::Unmapped.dumped()).context("helper without %F")?;
        server.to_file()?;
        tells_of_none(&crashed(&call)?, Crash::Unmapped.dumped()).context("plain file")
    })
}

case! {
    /// A process that is not dumpable dumps no core when it crashes, and leaves no coredump information.
    pidfd_info_coredump_nondumpable: Must, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "coredump_skip(); PR_SET_DUMPABLE(2const)",
}
fn pidfd_info_coredump_nondumpable() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let child = Echo::prepared(&call, || {
            crash::expect_death_by(Signal::SIGSEGV);
            Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
        })?;
        child.kill(Signal::SIGSEGV)?;
        let came = server.accept(child.pidfd()?)?;
        check::holds(came.is_none(), "a process that is not dumpable dumps core")?;
        subject::wait_until_gone(&child)?;
        tells_of_none(&child, Status::killed(Signal::SIGSEGV))
    })
}

case! {
    /// With a socket in core_pattern on which nobody listens, no core is dumped, and exit_code says so; PIDFD_GET_INFO gives the
    /// coredump information all the same.
    pidfd_info_coredump_socket_no_listener: Is, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "coredump_sock_connect(): pidfs_coredump() comes before kernel_connect()",
}
fn pidfd_info_coredump_socket_no_listener() -> Result {
    let server = Server::start()?;
    server.to_nobody()?;
    subject::each(|call| {
        let child = call.spawn(|| Crash::Unmapped.now())?;
        if let Some(status) = subject::wait_until_gone(&child)? {
            check::equal("wait status", status, Status::killed(Signal::SIGSEGV))?;
        }
        let info = tells_of_dump(&child, Signal::SIGSEGV, Crash::Unmapped.code())?;
        check::equal("exit_code", Status(info.exit_code), Status::killed(Signal::SIGSEGV))
    })
}

case! {
    /// The coredump server sees the signal and its si_code through SO_PEERPIDFD while the process is still dumping; meanwhile the
    /// process's own pidfd reports no exit.
    pidfd_info_coredump_visible_during_dump: Must, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "coredump_sock_connect() (\"so userspace has it available after connect()\")",
}
fn pidfd_info_coredump_visible_during_dump() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let child = call.spawn(|| Crash::Unmapped.with_large_core())?;
        let dump = server.begin_dump_of(child.pidfd()?)?;
        let during = info(&dump.peer()?, REQUEST)?;
        let now = child.pidfd()?.poll_now(PollFlags::POLLIN)?;
        check::equal("mask (without CGROUPID) meanwhile", given(&during), IDENTITY | coredump_bits())?;
        let expected = recorded(Signal::SIGSEGV, Crash::Unmapped.code());
        check::equal("coredump fields meanwhile", of(&during), expected)?;
        check::equal("pid meanwhile", during.pid as i32, child.pid())?;
        check::equal("poll on the pidfd meanwhile", now, PollFlags::empty())?;
        dump.take()?;
        dumped_by_sigsegv(&child)
    })
}

case! {
    /// A process that is dumping core is not dead yet: its pidfd can be opened by its file handle.
    pidfd_handle_during_dump: Must, needs [ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "commit \"pidfs: implement file handle support\": a handle is stale once the process is gone",
}
fn pidfd_handle_during_dump() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let child = call.spawn(|| Crash::Unmapped.with_large_core())?;
        let handle = Handle::of(child.pidfd()?)?;
        let dump = server.begin_dump_of(child.pidfd()?)?;
        let what = format!("open_by_handle_at of a child of {call} that is dumping core");
        let opened = Pidfd::from(check::succeeds(&what, handle.open(child.pidfd()?, 0))?);
        check::equal(
            "pid in PIDFD_GET_INFO on what was opened",
            opened.info(InfoMask::PID)?.pid as i32,
            child.pid(),
        )?;
        dump.take()?;
        dumped_by_sigsegv(&child)
    })
}

case! {
    /// The last close of an auto-kill pidfd aborts a core dump that the child is making: the status is SIGKILL without a core,
    /// while the coredump information keeps the signal that caused the dump.
    autokill_during_core_dump: Is, needs [Autoreap, Nnp, Autokill, CoredumpCode, ExitInfo, Root, GlobalChanges],
    source "coredump_wait(), prepare_signal(): a dump can be killed; pidfs_coredump() has run by then",
}
fn autokill_during_core_dump() -> Result {
    let server = Server::start()?;
    for kills in [false, true] {
        let mut child = Clone3::new(Flags::KILLED_NNP).spawn(|| Crash::Unmapped.with_large_core())?;
        let observer = child.observe()?;
        let dump = server.begin_dump_of(child.pidfd()?)?;
        let status = if kills {
            child.close_pidfd()?;
            Status::SIGKILLED
        } else {
            dump.take()?;
            Crash::Unmapped.dumped()
        };
        observer.reaped_with(status)?;
        let info = info(&observer, REQUEST)?;
        let expected = recorded(Signal::SIGSEGV, Crash::Unmapped.code());
        check::equal("coredump_mask, coredump_signal, coredump_code", of(&info), expected)?;
    }
    Ok(())
}
