//! Auto-reaped processes with several threads, and parents with several threads.

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Clone3, exit_now, exit_thread, park};
use clone3_conformance::kit::process::{child_reporting, own_pid};
use clone3_conformance::kit::threads::is_not_over;
use clone3_conformance::kit::{Channel, Gate, Held, Orphan, orphan, sigchld, subject, threads, timer};
use clone3_conformance::need;
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::procfs::{Stat, Task};
use clone3_conformance::wait::{self, Event, Status};
use nix::errno::Errno;
use nix::sys::signal::Signal;

case! {
    /// A process whose leader has ended, auto-reaped or not, is not over while another thread lives: poll reports nothing, wait
    /// finds it alive, its pid is taken and it has no exit information, although `/proc` shows its leader as a zombie.
    autoreap_leader_exits_first: Must, needs [Autoreap, ExitInfo, Proc],
    source "selftest autoreap_multithreaded (\"only after all threads have exited\"); kernel/exit.c exit_notify()",
}
fn autoreap_leader_exits_first() -> Result {
    subject::each_reaped(|call| {
        let ordinary = threads::leaderless(&Clone3::new(Flags::PIDFD), 11, || 22)?;
        is_not_over(&ordinary)?;
        ordinary.let_go()?;
        ordinary.into_child().reap_expecting(Status::exited(22))?;

        let child = threads::leaderless(&call, 11, || 22)?;
        is_not_over(&child)?;
        child.let_go()?;
        child.is_gone_with(Status::exited(22))
    })
}

case! {
    /// The exec of a thread other than the leader ends neither an auto-reaped process nor its auto-reaping: pid and pidfd stay, and
    /// its end leaves neither a zombie nor a SIGCHLD.
    autoreap_exec_by_nonleader: Must, needs [Autoreap, ExitInfo],
    source "execve(2), on threads; fs/exec.c de_thread(); commit \"clone: add CLONE_AUTOREAP\"",
}
fn autoreap_exec_by_nonleader() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let ordinary = Held::execed_by_thread(&Clone3::new(Flags::PIDFD), 66)?;
        is_not_over(&ordinary)?;
        ordinary.let_go()?;
        wait::reap_expecting(ordinary.pid(), Status::exited(66))?;
        sigchld::pending_for(ordinary.pid(), libc::CLD_EXITED)?;

        let child = Held::execed_by_thread(&call, 66)?;
        is_not_over(&child)?;
        child.let_go()?;
        child.is_gone_with(Status::exited(66))?;
        sigchld::none_pending()
    })
}

/// What the last thread of a process does, and the process's resulting status.
type Ending = (fn() -> i32, Status);

case! {
    /// However the last thread of an auto-reaped process without its leader ends (by itself, by exit_group, by a signal), the
    /// process is reaped then, with the status that wait gives for an ordinary process.
    autoreap_multithreaded_endings: Must, needs [Autoreap, ExitInfo, Proc],
    source "selftest autoreap_multithreaded (\"only after all threads have exited\"); kernel/exit.c release_task()",
}
fn autoreap_multithreaded_endings() -> Result {
    let endings: [Ending; 3] = [
        (|| 22, Status::exited(22)),
        (|| exit_now(99), Status::exited(99)),
        (die_of_sigkill, Status::SIGKILLED),
    ];
    for (ending, status) in endings {
        let ordinary = threads::leaderless(&Clone3::new(Flags::PIDFD), 11, ending)?;
        ordinary.let_go()?;
        ordinary.into_child().reap_expecting(status)?;

        let child = threads::leaderless(&Clone3::new(Flags::REAPED), 11, ending)?;
        child.let_go()?;
        child.is_gone_with(status)?;
    }
    Ok(())
}

fn die_of_sigkill() -> i32 {
    // The signal ends the process before kill(2) returns.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), Signal::SIGKILL);
    park()
}

case! {
    /// When a thread other than the leader of an auto-reaped process calls exit_group, the process is reaped with the status given
    /// to exit_group.
    autoreap_mt_exit_group_from_thread: Must, needs [Autoreap, ExitInfo],
    source "exit_group(2); commit \"clone: add CLONE_AUTOREAP\"",
}
fn autoreap_mt_exit_group_from_thread() -> Result {
    subject::each_reaped(|call| {
        let body = || {
            std::thread::scope(|scope| {
                scope.spawn(|| exit_now(99));
                park()
            })
        };
        let ordinary = Clone3::new(Flags::PIDFD).spawn(body)?;
        ordinary.reap_expecting(Status::exited(99))?;
        let child = call.spawn(body)?;
        child.is_gone_with(Status::exited(99))
    })
}

case! {
    /// The status of an auto-reaped process whose leader has ended is the one that a thread gave to exit_group, even if another
    /// thread, which was exiting by itself at that moment, is the last to go.
    autoreap_mt_exit_group_beats_last_thread: Must, needs [Autoreap, ExitInfo, Proc],
    source "exit_group(2); kernel/exit.c release_task(), which takes group_exit_code",
}
fn autoreap_mt_exit_group_beats_last_thread() -> Result {
    let check = |call: Clone3| {
        let body = || threads::other_exits_last(11, 22, 99);
        Clone3::new(Flags::PIDFD).spawn(body)?.reap_expecting(Status::exited(99))?;
        // The first round nearly always hits; on a delayed vCPU, that thread may end first.
        for _ in need::rounds(4) {
            call.spawn(body)?.is_gone_with(Status::exited(99))?;
        }
        Ok(())
    };
    threads::with_slow_exits(|| subject::each_reaped(check))
}

case! {
    /// The exit information of an auto-reaped process that one of its threads ended by exit_group has the status given to
    /// exit_group, as wait has it for an ordinary process, even if its leader was exiting by itself at that moment.
    autoreap_mt_exit_code_race: Must, needs [Autoreap, ExitInfo],
    source "kernel selftest pidfd_info_test (\"waitpid format\"); exit_group(2); kernel/exit.c wait_task_zombie(), which takes group_exit_code",
    known_defect "7.1 to 7.3: if the leader is the last to go, pidfs_exit() records the leader's own exit code",
}
fn autoreap_mt_exit_code_race() -> Result {
    let check = |call: Clone3| {
        let body = || threads::leader_exits_last(11, 99);
        Clone3::new(Flags::PIDFD).spawn(body)?.reap_expecting(Status::exited(99))?;
        // The first round nearly always hits; on a delayed vCPU, the leader may end first.
        for _ in need::rounds(4) {
            let child = call.spawn(body)?;
            let told = child.pidfd()?.exit_status()?;
            let what = format_args!(
                "exit_code in PIDFD_GET_INFO of a child of {call} whose leader was in exit(11) when another thread called exit_group(99)"
            );
            check::equal_or_defect(what, told, Status::exited(99), Status::exited(11))?;
            child.is_gone_with(told)?;
        }
        Ok(())
    };
    threads::with_slow_exits(|| subject::each_reaped(check))
}

case! {
    /// If another thread calls exit_group long after the leader has ended, its status is the process's, even if it is 0: in the
    /// exit information, auto-reaped or not, and in the SIGCHLD and the wait status of an ordinary process.
    autoreap_mt_exit_group_after_leader: Must, needs [Autoreap, ExitInfo, Proc],
    source "exit_group(2); kernel/exit.c release_task() (SIGNAL_GROUP_EXIT), wait_task_zombie()",
}
fn autoreap_mt_exit_group_after_leader() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        for code in [0, 5] {
            let child = threads::leaderless(&call, 3, || exit_now(code))?;
            child.let_go()?;
            if !child.reaps_itself() {
                check::equal("SIGCHLD", sigchld::next()?, Event::exited(child.pid(), code))?;
                wait::reap_expecting(child.pid(), Status::exited(code))?;
            }
            child.pidfd()?.gone_with(child.pid(), Status::exited(code)).context(&call)?;
        }
        Ok(())
    })?;
    sigchld::none_pending()
}

case! {
    /// An auto-reaped process whose leader has ended and whose parent then dies is still reaped with its last
    /// thread: the new parent finds neither a child nor a SIGCHLD.
    autoreap_mt_leader_dead_reparent: Must, needs [Autoreap, ExitInfo, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/exit.c reparent_leader(), release_task()",
}
fn autoreap_mt_leader_dead_reparent() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let ordinary = Orphan::leaderless(&Clone3::new(Flags::PIDFD), 11, 22)?;
        ordinary.let_go()?;
        wait::reap_expecting(ordinary.pid, Status::exited(22))?;
        sigchld::pending_for(ordinary.pid, libc::CLD_EXITED)?;

        let orphan = Orphan::leaderless(&call, 11, 22)?;
        check::equal("waitid of the new parent, before the end", orphan.wait_now(), Ok(None))?;
        orphan.let_go()?;
        orphan.pidfd.gone_with(orphan.pid, Status::exited(22))?;
        sigchld::none_pending()
    })
}

case! {
    /// The exit of the thread that made an auto-reaped child changes nothing for the child: it keeps its
    /// parent and its exit signal 0, and is reaped without a wait and without a SIGCHLD.
    autoreap_creating_thread_exits: Must, needs [Autoreap, ExitInfo, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/exit.c forget_original_parent()",
}
fn autoreap_creating_thread_exits() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let creator = || -> Result<_> {
            let child = Held::exiting_with(&call, 5)?;
            Ok((child, threads::own_pidfd()?))
        };
        let (child, creator) = threads::in_a_thread(creator)?;
        creator.wait_reaped()?;
        let me = own_pid();
        let ppid = Task::of(child.pid()).map(|task| task.ppid);
        check::equal("PPid of the child in /proc after its creator's exit", ppid, Some(me))?;
        let stat = Stat::of(child.pid()).map(|stat| (stat.ppid, stat.exit_signal));
        check::equal("(ppid, exit signal) of the child after its creator's exit", stat, Some((me, 0)))?;
        check::equal("PIDFD_GET_INFO ppid", orphan::parent_of(child.pidfd()?)?, me)?;
        child.let_go()?;
        child.is_gone_with(Status::exited(5))?;
        sigchld::none_pending()
    })
}

case! {
    /// An auto-reaped child is reaped at its exit, without a wait and without a SIGCHLD, although its parent has other
    /// threads; an ordinary child of that parent is a zombie then.
    autoreap_parent_has_threads: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"without ever becoming a zombie\"); kernel/signal.c do_notify_parent()",
}
fn autoreap_parent_has_threads() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let ordinary = Held::exiting_with(&Clone3::new(Flags::PIDFD), 5)?;
        let child = Held::exiting_with(&call, 6)?;
        threads::beside_another(|| {
            ordinary.let_go()?;
            wait::find_zombie(ordinary.pid())?;
            wait::reap_expecting(ordinary.pid(), Status::exited(5))?;
            child.let_go()?;
            child.is_gone_with(Status::exited(6))?;
            sigchld::none_pending()
        })
    })
}

case! {
    /// A pidfd for one thread of an auto-reaped process reports the end of that thread, with its exit code,
    /// while the pidfd of the process reports nothing.
    autoreap_thread_pidfd: Is, needs [Autoreap, ExitInfo],
    source "pidfd_open(2), PIDFD_THREAD; kernel/exit.c release_task()",
}
fn autoreap_thread_pidfd() -> Result {
    subject::each_reaped(|call| {
        let (tid, thread_gate, gate) = (Channel::<i32>::new()?, Gate::new()?, Gate::new()?);
        let child = call.spawn(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _ = tid.send(&threads::own_tid());
                    thread_gate.wait();
                    exit_thread(5)
                });
                gate.wait();
                exit_now(6)
            })
        })?;
        let tid = tid.recv_from(&child)?;
        let thread = Pidfd::of_thread(tid)?;
        check::refused("pidfd_open(tid, 0)", Pidfd::try_open(tid), Errno::ENOENT)?;
        let info = check::succeeds("PIDFD_GET_INFO of the thread", thread.info(InfoMask::PID))?;
        let expected = (tid as u32, child.pid() as u32);
        check::equal("pid and tgid in PIDFD_GET_INFO of the thread", (info.pid, info.tgid), expected)?;
        thread_gate.open()?;
        thread.reaped_with(Status::exited(5))?;
        is_not_over(&child)?;
        gate.open()?;
        child.is_gone_with(Status::exited(6))
    })
}

case! {
    /// A thread of an auto-reaped process can have a timer that signals it (SIGEV_THREAD_ID), whether it is the leader or not, and so
    /// can one of an ordinary process.
    autoreap_timer_signals_thread: Must, needs [Autoreap, ExitInfo],
    source "timer_create(2), SIGEV_THREAD_ID",
}
fn autoreap_timer_signals_thread() -> Result {
    subject::each(|call| {
        let (child, errnos) = child_reporting(&call, || {
            let errno =
                || timer::make_for_thread(threads::own_tid()).map_or_else(|errno| errno as i32, |()| 0);
            Ok([errno(), threads::in_a_thread(|| Ok(errno()))?])
        })?;
        child.ends_with(Status::exited(0))?;
        // Each timer keeps a place for its signal.
        if let [Errno::ENOSYS | Errno::EAGAIN, _] = errnos.map(Errno::from_raw) {
            return Err(Failure::blocked("needs timer_create(2) (CONFIG_POSIX_TIMERS, RLIMIT_SIGPENDING)"));
        }
        check::equal("errno of timer_create for the leader, and for another thread", errnos, [0, 0])
    })
}
