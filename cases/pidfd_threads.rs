//! Pidfds of threads (PIDFD_THREAD): what they report, and when.

use std::os::fd::IntoRawFd;

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Clone3, Stack, exit_now, park};
use clone3_conformance::kit::epoll::Watch;
use clone3_conformance::kit::handles::Handle;
use clone3_conformance::kit::helper::Command;
use clone3_conformance::kit::pair::{OTHER, Pair, beside_idle_thread};
use clone3_conformance::kit::process::child_reporting;
use clone3_conformance::kit::{Channel, Gate, Held, WaitCall, errands, subject, threads, tracer};
use clone3_conformance::pidfd::{Pidfd, PidfdSelf, info, pidfd_open};
use clone3_conformance::procfs::{self, Pending};
use clone3_conformance::wait::{self, Event, Status};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace::Options;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use rustix::event::epoll::EventFlags;
use rustix::fs::fstat;

case! {
    /// poll on the PIDFD_THREAD pidfd of a leader does not report POLLIN when the leader ends while another thread runs, but only
    /// when the process has ended.
    pidfd_thread_leader_poll: Must, needs [ExitInfo, Proc],
    source "commit \"pidfs: improve multi-threaded exec and premature thread-group leader exit polling\"; pidfd_open(2), PIDFD_THREAD",
}
fn pidfd_thread_leader_poll() -> Result {
    subject::each(|call| {
        let pair = Pair::new(&call)?;
        let leader = Pidfd::of_thread(pair.child.pid())?;
        check::equal(
            "control: poll while the leader lives",
            leader.poll_now(PollFlags::POLLIN)?,
            PollFlags::empty(),
        )?;
        pair.end_leader()?;
        let got = leader.poll_now(PollFlags::POLLIN)?;
        check::equal("poll when the leader has ended and another thread runs", got, PollFlags::empty())?;
        pair.let_other_go()?;
        leader.wait_exited()?;
        subject::wait_until_gone(&pair.child)?;
        Ok(())
    })
}

case! {
    /// The PIDFD_THREAD pidfd of a process's leader gives the exit information of the process.
    pidfd_thread_leader_exit: Must, needs [ExitInfo],
    source "fs/pidfs.c pidfs_exit(); include/uapi/linux/pidfd.h (PIDFD_INFO_EXIT)",
}
fn pidfd_thread_leader_exit() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 7)?;
        let leader = Pidfd::of_thread(child.pid())?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        leader.reaped_with(Status::exited(7))
    })
}

case! {
    /// epoll on the pidfd of a traced thread reports the end of the thread before its tracer has waited for it.
    pidfd_thread_traced_end_reported: Must, needs [ExitInfo, Ptrace],
    source "pidfd_open(2), on poll and PIDFD_THREAD; kernel/signal.c do_notify_pidfd()",
    since "6.16",
}
fn pidfd_thread_traced_end_reported() -> Result {
    subject::each(|call| {
        let pair = Pair::new(&call)?;
        let other = Pidfd::of_thread(pair.other)?;
        tracer::seize(pair.other, Options::empty())?;
        let watch = Watch::new(&other, EventFlags::IN)?;
        check::equal("epoll while the thread lives", watch.now()?, None)?;
        pair.let_other_go()?;
        check::equal(
            "what its tracer finds",
            wait::find_zombie(pair.other)?,
            Event::exited(pair.other, OTHER),
        )?;
        check::equal("epoll when the traced thread has ended", watch.next()?, EventFlags::IN)?;
        wait::reap(pair.other)?;
        other.wait_reaped()?;
        pair.child.clear_away()
    })
}

case! {
    /// A thread's pidfd stays a thread's pidfd whatever F_SETFL sets, and is one with PIDFD_NONBLOCK: pidfd_send_signal through it
    /// signals that thread alone.
    pidfd_thread_stays_one_after_setfl: Must, needs [ExitInfo, Proc],
    source "pidfd_open(2), PIDFD_THREAD; F_SETFL(2const), which changes O_APPEND, O_ASYNC, O_DIRECT, O_NOATIME and O_NONBLOCK alone",
}
fn pidfd_thread_stays_one_after_setfl() -> Result {
    let signals = [(OFlag::empty(), Signal::SIGUSR1), (OFlag::O_NONBLOCK, Signal::SIGUSR2)];
    let there = Pending { process: false, thread: true };
    // In both threads, so that a signal to the process stays pending for the process.
    let all = signals.iter().map(|(_, signal)| *signal).chain([Signal::SIGURG]);
    all.collect::<SigSet>().thread_block()?;
    threads::in_a_thread(|| {
        for (set, signal) in signals {
            let own = Pidfd::of_thread(threads::own_tid())?;
            own.set_status_flags(set)?;
            check::succeeds("pidfd_send_signal", own.send_signal(signal))?;
            let what = format!("{signal} pending, sent by a thread's pidfd after F_SETFL({set:?})");
            check::equal(what, Pending::of("thread-self", signal)?, there)?;
        }
        let nonblocking = pidfd_open(threads::own_tid(), libc::PIDFD_THREAD | libc::PIDFD_NONBLOCK);
        let own = check::succeeds("pidfd_open(PIDFD_THREAD|PIDFD_NONBLOCK)", nonblocking)?;
        let flags = own.status_flags()? & (libc::O_EXCL | libc::O_NONBLOCK);
        check::equal("these two in F_GETFL", flags, libc::O_EXCL | libc::O_NONBLOCK)?;
        check::succeeds("pidfd_send_signal", own.send_signal(Signal::SIGURG))?;
        let what = "SIGURG pending, sent by a thread's pidfd with PIDFD_NONBLOCK";
        check::equal(what, Pending::of("thread-self", Signal::SIGURG)?, there)
    })
}

case! {
    /// A process's pidfd and one of its leader thread (PIDFD_THREAD) may be opened in any order: each is what was asked for.
    pidfd_kinds_of_one_process: Must, needs [PidfdInfo],
    source "pidfd_open(2), PIDFD_THREAD; kernel selftest pidfd_test; fs/pidfs.c pidfs_alloc_file()",
}
fn pidfd_kinds_of_one_process() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        for flag in [0, libc::PIDFD_THREAD, 0, libc::PIDFD_THREAD, 0] {
            let opened = check::succeeds("pidfd_open", pidfd_open(child.pid(), flag))?;
            let what = format!("PIDFD_THREAD in F_GETFL after pidfd_open({flag:#x}) of a child of {call}");
            check::equal(what, opened.status_flags()? & libc::O_EXCL, flag as i32)?;
        }
        child.into_child().clear_away()
    })
}

case! {
    /// A waiter for EPOLLHUP alone on the pidfd of a thread is woken when that thread is gone, although its process lives on; the
    /// thread's exit information is then available.
    pidfd_thread_hangup: Must, needs [ExitInfo],
    source "pidfd_open(2), on poll and PIDFD_THREAD; kernel/exit.c __unhash_process()",
    since "6.16",
}
fn pidfd_thread_hangup() -> Result {
    subject::each(|call| {
        let pair = Pair::new(&call)?;
        let other = Pidfd::of_thread(pair.other)?;
        let watch = Watch::new(&other, EventFlags::empty())?;
        check::equal("epoll on the pidfd of a thread that lives", watch.now()?, None)?;
        pair.let_other_go()?;
        check::equal("epoll on the pidfd of a thread", watch.next()?, EventFlags::HUP)?;
        other.reaped_with(Status::exited(OTHER))?;
        let process = pair.child.pidfd()?.poll_now(PollFlags::POLLIN)?;
        check::equal("poll on the pidfd of its process", process, PollFlags::empty())?;
        pair.child.clear_away()
    })
}

case! {
    /// A thread that another thread's exec ends leaves exit information with its pidfd.
    pidfd_thread_ended_by_exec: Must, needs [ExitInfo],
    source "include/uapi/linux/pidfd.h (PIDFD_INFO_EXIT); fs/pidfs.c pidfs_exit(); execve(2), on other threads",
    since "6.16",
}
fn pidfd_thread_ended_by_exec() -> Result {
    subject::each(|call| status_of_thread_ended_by_exec(&call).map(drop))
}

case! {
    /// The exit information of a thread that another thread's exec ends says that it exited with 0, not that it was killed.
    pidfd_thread_ended_by_exec_exit_code: Is, needs [ExitInfo],
    source "kernel/exit.c do_group_exit() (group_exec_task)",
    since "6.16",
}
fn pidfd_thread_ended_by_exec_exit_code() -> Result {
    subject::each(|call| {
        let told = status_of_thread_ended_by_exec(&call)?;
        let what = format!("exit information of a thread of a child of {call}, of which another called exec");
        check::equal(what, told, Status::exited(0))
    })
}

case! {
    /// The exit information of a thread that another thread's exit_group(2) ends is the status given to exit_group(2).
    pidfd_thread_ended_by_exit_group_exit_code: Is, needs [ExitInfo],
    source "kernel/exit.c do_group_exit() (group_exit_code)",
    since "6.16",
}
fn pidfd_thread_ended_by_exit_group_exit_code() -> Result {
    subject::each(|call| {
        let told = status_of_thread_ended_by(&call, || exit_now(7))?;
        let what = format!(
            "exit information of a thread of a child of {call}, of which another called exit_group(7)"
        );
        check::equal(what, told, Status::exited(7))
    })
}

/// Returns the exit information of a thread in a child whose leader execs and exits with 7.
fn status_of_thread_ended_by_exec(call: &Clone3) -> Result<Status> {
    let command = Command::new("exit", &["7"])?;
    status_of_thread_ended_by(call, || {
        command.exec();
        exit_now(98)
    })
}

/// Returns the exit information of a thread in a child whose leader runs `act`, which makes the process exit with 7.
fn status_of_thread_ended_by(call: &Clone3, act: impl Fn() -> i32) -> Result<Status> {
    let gate = Gate::new()?;
    let (child, other) = beside_idle_thread(call, &gate, act)?;
    let thread = Pidfd::of_thread(other)?;
    gate.open()?;
    let told = thread.exit_status()?;
    match subject::wait_until_gone(&child)? {
        Some(status) => check::equal("control: wait status of the process", status, Status::exited(7))?,
        None => child.pidfd()?.reaped_with(Status::exited(7)).context("control: the process")?,
    }
    Ok(told)
}

case! {
    /// The Pid line in the fdinfo of a live thread's pidfd is the tid of the thread.
    pidfd_thread_fdinfo: Must, needs [PidfdInfo, Proc],
    source "proc_pid_fdinfo(5), Pid; pidfd_open(2), PIDFD_THREAD",
}
fn pidfd_thread_fdinfo() -> Result {
    subject::each(|call| {
        let pair = Pair::new(&call)?;
        let other = Pidfd::of_thread(pair.other)?;
        check::equal("Pid in fdinfo of a thread's pidfd", other.pid_in_fdinfo(), Some(pair.other))?;
        pair.child.clear_away()
    })
}

case! {
    /// The file handle of a thread's pidfd can be opened with O_EXCL, which gives a pidfd for the same thread.
    pidfd_thread_handle: Is, needs [PidfdInfo],
    source "open_by_handle_at(2); fs/pidfs.c pidfs_ino_get_pid(), pidfs_export_open()",
    since "6.14",
}
fn pidfd_thread_handle() -> Result {
    subject::each(|call| {
        let pair = Pair::new(&call)?;
        let other = Pidfd::of_thread(pair.other)?;
        let opened = Handle::of(&other)?.open(&other, libc::O_EXCL);
        let opened = Pidfd::from(check::succeeds("open_by_handle_at(O_EXCL) of a thread's handle", opened)?);
        let (own, its) = (fstat(&other)?.st_ino, fstat(&opened)?.st_ino);
        check::equal("st_ino of the pidfd that was opened by its handle", its, own)?;
        pair.let_other_go()?;
        opened.wait_reaped()?;
        pair.child.clear_away()
    })
}

case! {
    /// The pidfd from CLONE_PIDFD with CLONE_THREAD is a thread's pidfd, like one from PIDFD_THREAD: F_GETFL shows that flag,
    /// O_EXCL. The process may be auto-reaped or not.
    pidfd_of_clone_thread: Is, needs [PidfdInfo],
    source "kernel/fork.c copy_process(); commit \"pidfd: clone: allow CLONE_THREAD | CLONE_PIDFD together\"",
}
fn pidfd_of_clone_thread() -> Result {
    subject::each(|call| {
        let (child, ()) = child_reporting(&call, own_threads_pidfd_says_so)?;
        child.ends_with(Status::exited(0))
    })?;
    let ordinary = Held::exiting_with(&Clone3::fork().with(Flags::PIDFD), 0)?;
    check::equal("control: O_EXCL for a process", ordinary.pidfd()?.status_flags()? & libc::O_EXCL, 0)?;
    ordinary.let_go()?;
    wait::reap_expecting(ordinary.pid(), Status::exited(0))
}

fn own_threads_pidfd_says_so() -> Result {
    let (waits, lets_go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let stack = Stack::new()?;
    let call = Clone3::new(Flags::THREAD | Flags::CLONE_FILES | Flags::PIDFD)
        .with(Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
    let thread = call.spawn_on(&stack, errands::wait_for_input(&waits))?;
    let flags = thread.pidfd()?.status_flags()?;
    check::equal("O_EXCL in F_GETFL", flags & libc::O_EXCL, libc::O_EXCL)?;
    rustix::io::write(&lets_go, b"g")?;
    stack.join()
}

case! {
    /// waitid(P_PIDFD) takes the PIDFD_THREAD pidfd of a child's leader like a pidfd of the child, auto-reaped or not; for that of
    /// another thread it is ECHILD.
    pidfd_thread_waited_for: Is, needs [PidfdInfo],
    source "waitid(2), P_PIDFD; kernel/exit.c kernel_waitid_prepare(), do_wait_pid()",
}
fn pidfd_thread_waited_for() -> Result {
    subject::each(|call| {
        let pair = Pair::new(&call)?;
        let leader = Pidfd::of_thread(pair.child.pid())?;
        let other = Pidfd::of_thread(pair.other)?;
        let wait =
            |thread: &Pidfd| WaitCall::pidfd(thread, libc::WEXITED | libc::WNOHANG | libc::__WALL).make();
        check::equal(format_args!("by the leader's pidfd, a live child of {call}"), wait(&leader), Ok(None))?;
        check::equal("by the pidfd of another thread", wait(&other), Err(Errno::ECHILD))?;
        pair.child.kill(Signal::SIGKILL)?;
        if !pair.child.reaps_itself() {
            wait::find_zombie(pair.child.pid())?;
            check::equal("by the leader's pidfd, a zombie", wait(&leader), Ok(Some(pair.child.pid())))?;
        }
        pair.child.pidfd()?.wait_reaped()?;
        check::equal(
            format_args!("by the leader's pidfd, a child of {call} that is gone"),
            wait(&leader),
            Err(Errno::ECHILD),
        )?;
        Ok(())
    })
}

case! {
    /// poll on the PIDFD_THREAD pidfd of a thread other than the leader reports POLLIN while that thread is a zombie of its tracer,
    /// although its process lives on, and POLLHUP as well when the tracer has waited for it.
    pidfd_thread_zombie_pollin: Must, needs [ExitInfo, Ptrace],
    source "pidfd_open(2), PIDFD_THREAD; ptrace(2); fs/pidfs.c pidfd_poll()",
    since "6.16",
}
fn pidfd_thread_zombie_pollin() -> Result {
    subject::each(|call| {
        let pair = Pair::new(&call)?;
        let thread = Pidfd::of_thread(pair.other)?;
        tracer::seize(pair.other, Options::empty())?;
        check::equal(
            "control: poll while the thread lives",
            thread.poll_now(PollFlags::POLLIN)?,
            PollFlags::empty(),
        )?;
        pair.let_other_go()?;
        wait::find_zombie(pair.other)?;
        let what = format!("poll on the pidfd of a thread of a child of {call}");
        check::equal(
            format_args!("{what}, a zombie"),
            thread.poll_now(PollFlags::POLLIN)?,
            PollFlags::POLLIN,
        )?;
        wait::reap_expecting(pair.other, Status::exited(OTHER))?;
        let gone = PollFlags::POLLIN | PollFlags::POLLHUP;
        check::equal(format_args!("{what}, waited for"), thread.poll_now(PollFlags::POLLIN)?, gone)?;
        pair.child.clear_away()
    })
}

case! {
    /// kill(2) with the tid of a thread other than the leader, and pidfd_send_signal(PIDFD_SIGNAL_THREAD_GROUP) on its PIDFD_THREAD
    /// pidfd, signal its process: the signal is pending for the process, not for the thread. Auto-reaped or not.
    pidfd_thread_signals_its_process: Is, needs [ExitInfo, Proc],
    source "kernel/signal.c kill_pid_info_type() (PIDTYPE_PID); pidfd_send_signal(2), PIDFD_SIGNAL_THREAD_GROUP",
}
fn pidfd_thread_signals_its_process() -> Result {
    subject::each(|call| {
        let (child, ()) = child_reporting(&call, signals_to_own_tid_are_for_the_process)?;
        child.ends_with(Status::exited(0))
    })
}

/// Has a second thread signal its process by its own tid and by its own pidfd, and checks where the signals are pending.
fn signals_to_own_tid_are_for_the_process() -> Result {
    // In both threads, so that a signal to the process stays pending for the process.
    [Signal::SIGUSR1, Signal::SIGUSR2].into_iter().collect::<SigSet>().thread_block()?;
    threads::in_a_thread(|| {
        let tid = threads::own_tid();
        let thread = Pidfd::of_thread(tid)?;
        let there = Pending { process: true, thread: false };
        let by_tid = kill(Pid::from_raw(tid), Signal::SIGUSR1);
        let by_pidfd = thread.send_signal_to(Signal::SIGUSR2, libc::PIDFD_SIGNAL_THREAD_GROUP);
        for (how, signal, sent) in [
            ("kill(2) with a thread's tid", Signal::SIGUSR1, by_tid),
            ("PIDFD_SIGNAL_THREAD_GROUP by a thread's pidfd", Signal::SIGUSR2, by_pidfd),
        ] {
            check::succeeds(how, sent)?;
            check::equal(
                format_args!("{signal} pending, sent by {how}"),
                Pending::of("thread-self", signal)?,
                there,
            )?;
        }
        Ok(())
    })
}

case! {
    /// For pidfd_send_signal, PIDFD_SELF is the calling thread and PIDFD_SELF_PROCESS is its process, even if the thread is not the
    /// leader. Auto-reaped or not.
    pidfd_self_signals: Must, needs [ExitInfo, Proc],
    source "include/uapi/linux/pidfd.h (PIDFD_SELF, PIDFD_SELF_PROCESS); commit \"pidfd: add PIDFD_SELF* sentinels to refer to own thread/process\"",
    since "6.17",
}
fn pidfd_self_signals() -> Result {
    let in_child = || {
        SigSet::all().thread_block()?;
        threads::in_a_thread(|| {
            let pending = |signal| Pending::of("thread-self", signal);
            for (own, signal) in [(PidfdSelf::Thread, Signal::SIGUSR1), (PidfdSelf::Process, Signal::SIGUSR2)]
            {
                let nowhere = Pending { process: false, thread: false };
                check::equal(format_args!("control: {signal} pending"), pending(signal)?, nowhere)?;
                check::succeeds(format_args!("pidfd_send_signal({own:?})"), own.send_signal(signal))?;
                let there = Pending { process: own == PidfdSelf::Process, thread: own == PidfdSelf::Thread };
                check::equal(
                    format_args!("{signal} pending, sent to one's own {own:?}"),
                    pending(signal)?,
                    there,
                )?;
            }
            Ok(())
        })
    };
    subject::each(|call| {
        let (child, ()) = child_reporting(&call, in_child)?;
        subject::wait_until_gone(&child)?;
        let killed = call.spawn(|| {
            PidfdSelf::Process.send_signal(Signal::SIGKILL).map_or_else(|errno| errno as i32, |()| 0)
        })?;
        subject::wait_until_gone(&killed)?;
        let what = format_args!(
            "a child of {call} that sent SIGKILL to PIDFD_SELF_PROCESS (or exited with the errno)"
        );
        killed.pidfd()?.reaped_with(Status::SIGKILLED).context(what)
    })
}

case! {
    /// pidfd_getfd on a PIDFD_THREAD pidfd takes a descriptor of that thread, whose descriptors may differ from those of its
    /// leader. Auto-reaped or not.
    pidfd_thread_getfd: Must, needs [ExitInfo],
    source "pidfd_getfd(2); pidfd_open(2), PIDFD_THREAD; unshare(2), CLONE_FILES, which is about the calling thread",
}
fn pidfd_thread_getfd() -> Result {
    subject::each(|call| {
        let told = Channel::<Result<(i32, i32, u64)>>::new()?;
        let child = call.spawn(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // The receiver sees a failed send as the end of the stream.
                    let _ = told.send(&open_one_of_its_own());
                    park()
                });
                park()
            })
        })?;
        let (tid, number, inode) = told.recv_from(&child)??;
        let thread = Pidfd::of_thread(tid)?;
        let taken = thread.getfd_of_child(number)?;
        check::equal("inode of what pidfd_getfd took from the thread", fstat(taken)?.st_ino, inode)?;
        let from_leader = child.pidfd()?.getfd(number).map(drop);
        check::refused("pidfd_getfd of that number from the process", from_leader, Errno::EBADF)?;
        child.clear_away()
    })
}

/// Opens a pipe that no other thread has. Returns the thread's tid, the descriptor and its inode.
fn open_one_of_its_own() -> Result<(i32, i32, u64)> {
    check::permitted("unshare(CLONE_FILES)", unshare(CloneFlags::CLONE_FILES))?;
    let (end, _other) = rustix::pipe::pipe()?;
    let inode = fstat(&end)?.st_ino;
    Ok((threads::own_tid(), end.into_raw_fd(), inode))
}

case! {
    /// PIDFD_GET_INFO on the pidfd of a thread gives the pid of its process as tgid even when the leader thread has ended.
    pidfd_info_tgid_without_leader: Must, needs [PidfdInfo, Proc],
    source "pidfd_open(2), PIDFD_THREAD; fs/pidfs.c pidfd_info(), task_tgid_vnr()",
}
fn pidfd_info_tgid_without_leader() -> Result {
    subject::each(|call| {
        let child = threads::leaderless(&call, 0, || 0)?;
        let other = procfs::threads_of(child.pid()).into_iter().find(|tid| *tid != child.pid());
        let other = other.ok_or_else(|| Failure::broken("a leaderless child has no other thread"))?;
        let seen = info(&Pidfd::of_thread(other)?, InfoMask::PID)?;
        let what = format!("pid and tgid of a thread of a leaderless child of {call}");
        check::equal(what, (seen.pid, seen.tgid), (other as u32, child.pid() as u32))?;
        child.into_child().clear_away()
    })
}

case! {
    /// PIDFD_SIGNAL_THREAD_GROUP on a thread's pidfd sends the signal to its process; without a flag it is for the thread.
    pidfd_thread_group_flag_signals_process: Must, needs [ExitInfo, Proc],
    source "pidfd_send_signal(2), PIDFD_SIGNAL_THREAD_GROUP",
}
fn pidfd_thread_group_flag_signals_process() -> Result {
    let ways = [(libc::PIDFD_SIGNAL_THREAD_GROUP, Signal::SIGUSR1, true), (0, Signal::SIGUSR2, false)];
    // In both threads, so that a signal to the process stays pending for the process.
    ways.iter().map(|(_, signal, _)| *signal).collect::<SigSet>().thread_block()?;
    threads::in_a_thread(|| {
        let own = Pidfd::of_thread(threads::own_tid())?;
        for (flags, signal, process) in ways {
            let what = format!("{signal} pending, sent by a thread's pidfd with flags {flags}");
            check::succeeds(&what, own.send_signal_to(signal, flags))?;
            check::equal(what, Pending::of("thread-self", signal)?, Pending { process, thread: !process })?;
        }
        Ok(())
    })
}
