//! Details of pidfds: in which namespace their pids are given, which waiters they wake, and which processes they signal.

use std::os::fd::AsRawFd;

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Clone3, park};
use clone3_conformance::kit::epoll::Watch;
use clone3_conformance::kit::process::{in_child, own_pid};
use clone3_conformance::kit::replacing::Replacing;
use clone3_conformance::kit::sleeper::{self, Sleeper};
use clone3_conformance::kit::{Actor, AutokillChild, Echo, Held, limits, privilege, subject, threads};
use clone3_conformance::need::rounds;
use clone3_conformance::pidfd::{Pidfd, info};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, setpgid};
use rustix::event::epoll::EventFlags;

case! {
    /// The tgid in PIDFD_GET_INFO, like the pid, is the process's number in the caller's pid namespace, even for the init of a
    /// child pid namespace, which is 1 to itself.
    pidfd_info_tgid_is_the_callers: Must, needs [PidfdInfo, PidNamespace],
    source "fs/pidfs.c pidfd_info(), task_tgid_vnr(); pid_namespaces(7), on pids that system calls return",
}
fn pidfd_info_tgid_is_the_callers() -> Result {
    subject::each(|call| {
        let init = call.clone().with(Flags::CLONE_NEWPID).spawn(park)?;
        for (whose, child) in
            [("a child in the caller's pid namespace", call.spawn(park)?), ("an init", init)]
        {
            let (told, pid) = (info(child.pidfd()?, InfoMask::PID)?, child.pid() as u32);
            let what = format!("pid and tgid in PIDFD_GET_INFO of {whose}, {call}");
            check::equal(what, (told.pid, told.tgid), (pid, pid))?;
            child.clear_away()?;
        }
        Ok(())
    })
}

/// Two threads that sleep in epoll_wait(2) for this event of a pidfd, each with EPOLLEXCLUSIVE.
struct ExclusiveWatchers {
    event: EventFlags,
    sleepers: [Sleeper<Result<EventFlags>>; 2],
}

impl ExclusiveWatchers {
    fn of(pidfd: &Pidfd, event: EventFlags) -> Result<ExclusiveWatchers> {
        let sleeper = || {
            let watch = Watch::new(pidfd, event | EventFlags::EXCLUSIVE)?;
            check::equal("control: epoll, before anything happens", watch.now()?, None)?;
            Sleeper::start(move || watch.block())
        };
        Ok(ExclusiveWatchers { event, sleepers: [sleeper()?, sleeper()?] })
    }

    #[track_caller]
    fn are_woken(self, call: &Clone3) -> Result {
        for (sleeper, which) in self.sleepers.into_iter().zip(["first", "second"]) {
            let what = format!("the {which} of two threads in epoll_wait with EPOLLEXCLUSIVE, {call}");
            let (got, wanted) = (sleeper.join()?.context(&what)?, self.event);
            check::holds(got.contains(wanted), format_args!("{what}: expected {wanted:?}, got {got:?}"))?;
        }
        Ok(())
    }
}

case! {
    /// The end of a process wakes every thread that sleeps in epoll_wait(2) on its pidfd, even if each uses EPOLLEXCLUSIVE: no
    /// single waiter takes the event. The process need not be waited for: a zombie suffices.
    pidfd_wakes_all_exclusive_watchers: Is, needs [PidfdInfo, Proc],
    source "kernel/signal.c do_notify_pidfd(), which wakes all; epoll_ctl(2), EPOLLEXCLUSIVE (\"one or more\")",
}
fn pidfd_wakes_all_exclusive_watchers() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 5)?;
        let watchers = ExclusiveWatchers::of(child.pidfd()?, EventFlags::IN)?;
        child.let_go()?;
        watchers.are_woken(&call)?;
        if !child.reaps_itself() {
            let zombie = wait::Event::exited(child.pid(), 5);
            check::equal("control: nobody has waited for it", wait::find_zombie(child.pid())?, zombie)?;
        }
        subject::wait_until_gone(&child)?;
        Ok(())
    })
}

case! {
    /// When a process is gone (EPOLLHUP alone), every thread that sleeps in epoll_wait(2) on its pidfd with EPOLLEXCLUSIVE is
    /// woken.
    pidfd_wakes_all_exclusive_watchers_of_hangup: Is, needs [ExitInfo, Proc],
    source "kernel/exit.c __unhash_process(), which wakes all; epoll_ctl(2), EPOLLEXCLUSIVE (\"one or more\")",
}
fn pidfd_wakes_all_exclusive_watchers_of_hangup() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 5)?;
        if child.reaps_itself() {
            let watchers = ExclusiveWatchers::of(child.pidfd()?, EventFlags::HUP)?;
            child.let_go()?;
            watchers.are_woken(&call)?;
        } else {
            child.let_go()?;
            wait::find_zombie(child.pid())?;
            // The zombie exists before the watchers, so only its release can wake them.
            let watchers = ExclusiveWatchers::of(child.pidfd()?, EventFlags::HUP)?;
            wait::reap_expecting(child.pid(), Status::exited(5))?;
            watchers.are_woken(&call)?;
        }
        Ok(())
    })
}

/// Scopes that `pidfd_send_signal(2)` can be given as flags.
const SCOPES: [(&str, u32); 3] = [
    ("PIDFD_SIGNAL_THREAD", libc::PIDFD_SIGNAL_THREAD),
    ("PIDFD_SIGNAL_THREAD_GROUP", libc::PIDFD_SIGNAL_THREAD_GROUP),
    ("PIDFD_SIGNAL_PROCESS_GROUP", libc::PIDFD_SIGNAL_PROCESS_GROUP),
];

case! {
    /// pidfd_send_signal with PIDFD_SIGNAL_THREAD, PIDFD_SIGNAL_THREAD_GROUP and PIDFD_SIGNAL_PROCESS_GROUP works through an
    /// auto-kill pidfd as through an ordinary pidfd of the same process.
    autokill_pidfd_signals_by_scope: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "pidfd_send_signal(2), flags (Linux 6.9); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\", which speaks of the last close alone",
}
fn autokill_pidfd_signals_by_scope() -> Result {
    let lead_a_group = || Ok(setpgid(Pid::from_raw(0), Pid::from_raw(0))?);
    for (name, scope) in SCOPES {
        for armed in [false, true] {
            let child = AutokillChild::prepared(&Clone3::new(Flags::KILLED_NNP), lead_a_group)?;
            let pidfd: &Pidfd = if armed { child.pidfd()? } else { child.observer() };
            let sent = pidfd.send_signal_to(Signal::SIGTERM, scope);
            let which = if armed { "an auto-kill pidfd" } else { "control: an ordinary pidfd" };
            check::succeeds(format_args!("pidfd_send_signal(SIGTERM, {name}) through {which}"), sent)?;
            child.observer().gone_with(child.pid(), Status::killed(Signal::SIGTERM)).context(name)?;
        }
    }
    Ok(())
}

case! {
    /// With pidfd_send_signal, a thread may set si_code SI_USER or SI_TKILL only for a signal to itself: to another process,
    /// auto-reaped or not, to its own process if it is not the leader, and to a process group that is EPERM.
    pidfd_signal_not_forged: Is, needs [PidfdInfo],
    source "pidfd_send_signal(2), EPERM (\"the pidfd doesn't refer to the calling process, and info.si_code is invalid\"); kernel/signal.c do_pidfd_send_signal()",
}
fn pidfd_signal_not_forged() -> Result {
    // SIGURG is ignored by default.
    const SIGNAL: Signal = Signal::SIGURG;
    let own = Pidfd::open(own_pid())?;
    for code in [libc::SI_USER, libc::SI_TKILL] {
        check::succeeds(
            format_args!("to the own process, si_code {code}"),
            own.send_signal_as(SIGNAL, code, 0),
        )?;
        let to_group = own.send_signal_as(SIGNAL, code, libc::PIDFD_SIGNAL_PROCESS_GROUP);
        check::refused(
            format_args!("to the group that the process leads, si_code {code}"),
            to_group,
            Errno::EPERM,
        )?;
        let (to_process, to_itself) = threads::in_a_thread(|| {
            Ok((own.send_signal_as(SIGNAL, code, 0), threads::own_pidfd()?.send_signal_as(SIGNAL, code, 0)))
        })?;
        check::refused(format_args!("by another thread, si_code {code}"), to_process, Errno::EPERM)?;
        check::succeeds(format_args!("by another thread to itself, si_code {code}"), to_itself)?;
        subject::each(|call| {
            let child = Held::exiting_with(&call, 0)?;
            let sent = child.pidfd()?.send_signal_as(SIGNAL, code, 0);
            check::refused(format_args!("to a child of {call}, si_code {code}"), sent, Errno::EPERM)?;
            let queued = child.pidfd()?.send_signal_as(SIGNAL, libc::SI_QUEUE, 0);
            check::succeeds(format_args!("control: to a child of {call}, SI_QUEUE"), queued)?;
            child.into_child().clear_away()?;
            Ok(())
        })?;
    }
    Ok(())
}

case! {
    /// A signal from pidfd_send_signal to a process or a process group has si_code SI_USER, as from kill(2); one to a thread has
    /// SI_TKILL, as from tgkill(2).
    pidfd_signal_says_how_it_was_sent: Is, needs [PidfdInfo],
    source "sigaction(2), si_code; pidfd_send_signal(2); kernel/signal.c prepare_kill_siginfo()",
}
fn pidfd_signal_says_how_it_was_sent() -> Result {
    // The si_code of a signal is kept in its queue entry.
    limits::signals_can_be_queued()?;
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    set.thread_block()?;
    let pending = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let own = Pidfd::open(own_pid())?;
    for (scope, flags) in SCOPES.into_iter().chain([("no flags", 0)]) {
        let sent = own.send_signal_to(Signal::SIGUSR1, flags);
        check::succeeds(format_args!("pidfd_send_signal to itself, {scope}"), sent)?;
        let code = pending.read_signal()?.map(|info| info.ssi_code);
        let expected = if flags == libc::PIDFD_SIGNAL_THREAD { libc::SI_TKILL } else { libc::SI_USER };
        check::equal(format_args!("si_code of a signal sent with {scope}"), code, Some(expected))?;
    }
    Ok(())
}

case! {
    /// When a thread other than the leader execs, it takes the leader's tid. The PIDFD_THREAD pidfd of its old tid then says that
    /// the thread is gone, with exit information, while the process's pidfd says that the process lives. Who sleeps in a poll of the
    /// former is woken.
    pidfd_thread_that_execs: Must, needs [ExitInfo, Proc],
    source "include/uapi/linux/pidfd.h (PIDFD_INFO_EXIT); fs/exec.c de_thread(); execve(2), on other threads",
    since "6.16",
}
fn pidfd_thread_that_execs() -> Result {
    subject::each(|call| {
        let replacing = Replacing::new(&call, 0, park)?;
        let thread = Pidfd::of_thread(replacing.other)?;
        let (fd, [(_, poll), ..]) = (thread.as_raw_fd(), sleeper::CALLS);
        let watcher = Sleeper::start(move || poll(fd))?;
        replacing.exec().context("control: the exec")?;
        let child = replacing.into_held();
        let woken = watcher.join()?;
        check::equal("poll(2) that slept on the old number of a thread that called exec", woken, Ok(1))?;
        thread.exit_status().context("the old number of a thread that called exec")?;
        let process = info(child.pidfd()?, InfoMask::EXIT)?;
        check::equal(
            "control: EXIT bit of the process, alive",
            process.given().contains(InfoMask::EXIT),
            false,
        )?;
        child.let_go()?;
        if let Some(status) = subject::wait_until_gone(&child)? {
            check::equal("control: wait status of the process", status, Status::exited(0))?;
        }
        Ok(())
    })
}

case! {
    /// Two threads that call PIDFD_GET_INFO at the same time, each for another process, are told about their own.
    pidfd_info_of_two_at_once: Must, needs [PidfdInfo],
    source "include/uapi/linux/pidfd.h (struct pidfd_info)",
}
fn pidfd_info_of_two_at_once() -> Result {
    subject::each(|call| {
        let children = [Held::exiting_with(&call, 0)?, Held::exiting_with(&call, 0)?];
        let look = |child: &Held| {
            for _ in rounds(500) {
                let told = info(child.pidfd()?, InfoMask::PID)?;
                let what = "pid and ppid of a process, while another thread asks for another";
                check::equal(what, (told.pid, told.ppid), (child.pid() as u32, own_pid() as u32))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| look(&children[0]));
            look(&children[1]).and(threads::join(other))
        })?;
        children.into_iter().try_for_each(|child| child.into_child().clear_away())
    })
}

/// Creates a process that blocks SIGUSR1, takes it on request, and returns the sender's pid.
fn sender_of_usr1(call: &Clone3) -> Result<Actor<(), u32>> {
    let set = SigSet::from(Signal::SIGUSR1);
    set.thread_block()?;
    Actor::spawn(call, |()| {
        let taken = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?.read_signal()?;
        Ok(taken.map_or(u32::MAX, |info| info.ssi_pid))
    })
}

case! {
    /// A signal sent through a pidfd has si_pid 0 for a receiver in a child pid namespace, where the sender has no pid; in the
    /// sender's own namespace si_pid is the sender's pid. Auto-reaped or not.
    pidfd_signal_from_namespace_above: Must, needs [PidNamespace],
    source "pid_namespaces(7), on si_pid of signals from an ancestor; kernel/signal.c send_signal_locked()",
}
fn pidfd_signal_from_namespace_above() -> Result {
    subject::each(|call| {
        for (flags, expected) in [(Flags::empty(), std::process::id()), (Flags::CLONE_NEWPID, 0)] {
            let call = call.clone().with(flags);
            let receiver = sender_of_usr1(&call)?;
            let sent = receiver.child().pidfd()?.send_signal(Signal::SIGUSR1);
            check::succeeds("pidfd_send_signal(SIGUSR1)", sent)?;
            check::equal(
                format_args!("si_pid of a signal to a child of {call}"),
                receiver.ask(())?,
                expected,
            )?;
            receiver.dismiss()?;
        }
        Ok(())
    })
}

case! {
    /// A signal queued through a pidfd says of its sender what the caller wrote into siginfo_t (si_pid 0 here), and not the caller's
    /// pid. Auto-reaped or not.
    pidfd_signal_keeps_siginfo: Must, needs [PidfdInfo],
    source "pidfd_send_signal(2), info; rt_sigqueueinfo(2), whose caller fills in si_pid and si_uid",
}
fn pidfd_signal_keeps_siginfo() -> Result {
    limits::signals_can_be_queued()?;
    subject::each(|call| {
        let receiver = sender_of_usr1(&call)?;
        let queued = receiver.child().pidfd()?.send_signal_as(Signal::SIGUSR1, libc::SI_QUEUE, 0);
        check::succeeds("pidfd_send_signal(SIGUSR1) with si_code SI_QUEUE and si_pid 0", queued)?;
        check::equal(format_args!("si_pid of that signal to a child of {call}"), receiver.ask(())?, 0)?;
        receiver.dismiss()?;
        Ok(())
    })
}

case! {
    /// pidfd_send_signal(PIDFD_SIGNAL_PROCESS_GROUP) succeeds if the sender may signal at least one member of the group; it reaches
    /// all members that the sender may signal, and no others. Auto-reaped or not.
    pidfd_signal_group_partly_permitted: Must, needs [Root],
    source "pidfd_send_signal(2), PIDFD_SIGNAL_PROCESS_GROUP; kill(2) (\"success if at least one signal was sent\"); kernel/signal.c __kill_pgrp_info()",
    since "6.9",
}
fn pidfd_signal_group_partly_permitted() -> Result {
    subject::each(|call| {
        let leads_a_group = || {
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            privilege::become_ordinary_user()
        };
        // Two members that the sender may signal, and two that it may not.
        let theirs =
            [Echo::prepared(&call, leads_a_group)?, Echo::prepared(&call, privilege::become_ordinary_user)?];
        let own = [Held::exiting_with(&call, 4)?, Held::exiting_with(&call, 4)?];
        // Alternately, because the kernel goes through the members in order.
        for member in [own[0].pid(), theirs[1].pid(), own[1].pid()] {
            setpgid(Pid::from_raw(member), Pid::from_raw(theirs[0].pid()))?;
        }
        let sent = in_child(|| {
            privilege::become_ordinary_user()?;
            check::refused("control: to root's", own[0].pidfd()?.send_signal(Signal::SIGKILL), Errno::EPERM)?;
            let leader = theirs[0].pidfd()?;
            let group = leader.send_signal_to(Signal::SIGKILL, libc::PIDFD_SIGNAL_PROCESS_GROUP);
            Ok(group.map_err(|errno| errno as i32))
        })?;
        check::succeeds("SIGKILL to the process group by an ordinary user", sent.map_err(Errno::from_raw))?;
        for member in theirs {
            member.is_dead("after SIGKILL to its process group by its own user")?;
            subject::wait_until_gone(&member.into_child())?;
        }
        for member in own {
            member.let_go()?;
            member.into_child().ends_with(Status::exited(4))?;
        }
        Ok(())
    })
}
