//! What the pidfd and /proc of an auto-reaped child show while it lives, as it ends, and afterwards.

use clone3_conformance::abi::{Flags, Namespace};
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::epoll::Watch;
use clone3_conformance::kit::filtered_calls::{NO_SUCH_PID, is_filtered, no_pidfd};
use clone3_conformance::kit::process::{capget, sched_getscheduler, states_until_reaped, tgkill_nothing};
use clone3_conformance::kit::processors::{Lookout, stay_on};
use clone3_conformance::kit::subject::{self, reaped};
use clone3_conformance::kit::{Echo, Held, threads};
use clone3_conformance::need::rounds;
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::procfs::{self, Task};
use clone3_conformance::wait::{self, Event, Status};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sched::{CloneFlags, sched_getaffinity, setns};
use nix::sys::signal::kill;
use nix::unistd::{Pid, getpgid, getsid};
use rustix::event::epoll::EventFlags;
use rustix::process::{Resource, getpriority_process, getrlimit, prlimit};

fn raw(pid: Pid) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(pid.as_raw())
}

/// A query about a process, by pid or by pidfd. Only whether the process exists matters.
type Question = fn(Pid, &Pidfd) -> std::result::Result<(), Errno>;

const QUESTIONS: [(&str, Question); 15] = [
    ("kill(pid, 0)", |pid, _| kill(pid, None)),
    ("tgkill(pid, pid, 0)", |pid, _| tgkill_nothing(pid.as_raw(), pid.as_raw())),
    ("pidfd_open(pid)", |pid, _| Pidfd::try_open(pid.as_raw()).map(drop)),
    ("getpgid(pid)", |pid, _| getpgid(Some(pid)).map(drop)),
    ("getsid(pid)", |pid, _| getsid(Some(pid)).map(drop)),
    ("capget(pid)", |pid, _| capget(pid.as_raw())),
    ("sched_getaffinity(pid)", |pid, _| sched_getaffinity(pid).map(drop)),
    ("sched_getscheduler(pid)", |pid, _| sched_getscheduler(pid.as_raw()).map(drop)),
    ("getpriority(pid)", |pid, _| getpriority_process(raw(pid)).map(drop).map_err(check::errno_of)),
    ("prlimit(pid)", |pid, _| {
        let same = getrlimit(Resource::Core);
        prlimit(raw(pid), Resource::Core, same).map(drop).map_err(check::errno_of)
    }),
    ("pidfd_send_signal(0)", |_, pidfd| pidfd.send_raw_signal(0)),
    ("pidfd_getfd", |_, pidfd| pidfd.getfd(0).map(drop)),
    ("setns(pidfd)", |_, pidfd| setns(pidfd, CloneFlags::CLONE_NEWNS)),
    ("process_madvise", |_, pidfd| pidfd.madvise_nothing()),
    ("PIDFD_GET_PID_NAMESPACE", |_, pidfd| pidfd.namespace(Namespace::Pid).map(drop)),
];

case! {
    /// After POLLHUP an auto-reaped child is gone and not merely hidden: calls that ask for it by pid or by
    /// pidfd say ESRCH, /proc has no entry of it, and fdinfo shows no pid.
    autoreap_pid_really_gone: Must, needs [Autoreap, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/exit.c release_task()",
}
fn autoreap_pid_really_gone() -> Result {
    subject::each_reaped(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let (pid, pidfd) = (Pid::from_raw(child.pid()), child.pidfd()?);
        let mut applicable = Vec::new();
        let no_pidfd = no_pidfd()?;
        // Leaves out calls that this kernel was built without or that a filter refuses.
        for (name, ask) in QUESTIONS.into_iter().filter(|(_, ask)| !is_filtered(&ask(NO_SUCH_PID, &no_pidfd)))
        {
            let there = ask(pid, pidfd) != Err(Errno::ESRCH);
            check::holds(there, format_args!("control: {name} of a live child: got ESRCH"))?;
            applicable.push((name, ask));
        }
        check::equal(
            "control: the pid in fdinfo of a live child",
            pidfd.pid_in_fdinfo(),
            Some(pid.as_raw()),
        )?;
        check::holds(Task::of(pid.as_raw()).is_some(), "control: a live child is not in /proc")?;

        child.let_go()?;
        pidfd.wait_reaped()?;
        for (name, ask) in applicable {
            check::refused(format_args!("{name} after POLLHUP"), ask(pid, pidfd), Errno::ESRCH)?;
        }
        check::equal("the pid in fdinfo after POLLHUP", pidfd.pid_in_fdinfo(), Some(-1))?;
        let now = procfs::describe(pid.as_raw());
        check::holds(Task::of(pid.as_raw()).is_none(), format_args!("after POLLHUP, /proc still says: {now}"))
    })
}

case! {
    /// Once the pidfd of an auto-reaped child reports POLLHUP, PIDFD_GET_INFO always gives its exit information.
    autoreap_pollhup_implies_exit_info: Must, needs [Autoreap, ExitInfo],
    source "include/uapi/linux/pidfd.h, PIDFD_INFO_EXIT; fs/pidfs.c pidfs_exit(), which runs before the pid is unhashed",
}
fn autoreap_pollhup_implies_exit_info() -> Result {
    subject::each_reaped(|call| {
        for _ in rounds(10) {
            let child = call.spawn(|| 42)?;
            child.pidfd()?.reaped_with(Status::exited(42))?;
        }
        // A process with many entries in the /proc cache takes long to release after its pid is free. The lookout wakes in the
        // middle of that.
        let lookout = Lookout::take()?;
        for _ in rounds(2) {
            let child = Held::slow_to_release(&call, 42, lookout.there)?;
            child.let_go()?;
            lookout.see_reaped(child.pidfd()?)?;
            let recorded = child.pidfd()?.recorded_exit_status()?;
            check::equal("the exit status at POLLHUP", recorded, Status::exited(42))?;
        }
        Ok(())
    })
}

case! {
    /// Once the pidfd of an untraced auto-reaped child reports POLLIN, wait calls are ECHILD, whether it reports POLLHUP yet or
    /// not.
    autoreap_pollin_implies_echild: Is, needs [Autoreap, ExitInfo, Untraced],
    source "kernel/exit.c exit_notify() (from zombie to dead under one tasklist_lock)",
}
fn autoreap_pollin_implies_echild() -> Result {
    subject::each_reaped(|call| {
        let control = Clone3::new(Flags::PIDFD).spawn(|| 0)?;
        control.pidfd()?.wait_exited()?;
        check::equal("control", wait::find_zombie(control.pid())?, Event::exited(control.pid(), 0))?;
        control.reap_expecting(Status::exited(0))?;
        for _ in rounds(25) {
            let child = call.spawn(|| 0)?;
            child.pidfd()?.wait_exited()?;
            wait::no_child(child.pid())?;
            // Nothing may be left when the case ends.
            child.pidfd()?.wait_reaped()?;
        }
        // A process that sleeps while exiting, and a watcher in a busy loop.
        threads::can_delay_exit()?;
        let child = call.spawn(|| threads::delay_exit().map_or(93, |()| 0))?;
        child.pidfd()?.spin_until_exited()?;
        wait::no_child(child.pid())?;
        child.is_gone_with(Status::exited(0))
    })
}

case! {
    /// Between the end of an untraced auto-reaped child (POLLIN on its pidfd) and its release, wait calls are ECHILD, even if the
    /// last of its other threads releases its leader.
    autoreap_dead_before_released: Is, needs [Autoreap, Untraced, Proc],
    source "kernel/exit.c exit_notify(), release_task() (EXIT_DEAD, under one tasklist_lock)",
}
fn autoreap_dead_before_released() -> Result {
    subject::each_reaped(|call| {
        let leaderless = |there| threads::leaderless(&call, 0, move || stay_on(there).map_or(93, |()| 0));
        let several = |there| rounds(2).map(|_| leaderless(there)).collect::<Result<Vec<_>>>();
        let (lookout, leaderless) = Lookout::take_after(several)?;
        let alone = rounds(2).map(|_| Held::awake(&call, 0, lookout.there));
        for child in leaderless.into_iter().map(Ok).chain(alone) {
            let child = child?;
            child.let_go()?;
            lookout.see_exited(child.pidfd()?)?;
            wait::no_child(child.pid())?;
            child.pidfd()?.wait_reaped()?;
        }
        Ok(())
    })
}

case! {
    /// poll on the pidfd of an auto-reaped child reports nothing while it lives, then POLLIN and POLLHUP, and POLLHUP even if no
    /// events are requested. For a zombie it reports POLLIN alone until the zombie is waited for.
    autoreap_poll_bits: Is, needs [Autoreap],
    source "fs/pidfs.c pidfd_poll(); pidfd_open(2) (POLLIN)",
}
fn autoreap_poll_bits() -> Result {
    subject::each_reaped(|call| {
        const IN: PollFlags = PollFlags::POLLIN;
        const NORMAL: PollFlags = PollFlags::POLLRDNORM;
        const HUP: PollFlags = PollFlags::POLLHUP;
        let none = PollFlags::empty();
        let zombie = Held::exiting_with(&Clone3::new(Flags::PIDFD), 0)?;
        let watch = Watch::new(zombie.pidfd()?, EventFlags::RDNORM)?;
        zombie.let_go()?;
        check::equal("epoll(EPOLLRDNORM) as a zombie comes to be", watch.next()?, EventFlags::RDNORM)?;
        wait::find_zombie(zombie.pid())?;
        for asked in [IN, IN | NORMAL] {
            let what = format!("poll({asked:?}) on a zombie's pidfd");
            check::equal(what, zombie.pidfd()?.poll_now(asked)?, asked)?;
        }
        wait::reap(zombie.pid())?;
        check::equal("poll(POLLIN) after the wait", zombie.pidfd()?.poll_now(IN)?, IN | HUP)?;

        let child = Held::exiting_with(&call, 0)?;
        let pidfd = child.pidfd()?;
        let watch = Watch::new(pidfd, EventFlags::empty())?;
        for asked in [none, IN, IN | NORMAL | PollFlags::POLLOUT] {
            check::equal(format_args!("poll({asked:?}), alive"), pidfd.poll_now(asked)?, none)?;
        }
        check::equal("epoll, alive", watch.now()?, None)?;
        child.let_go()?;
        check::equal("epoll with no events asked for", watch.next()?, EventFlags::HUP)?;
        for (asked, expected) in [(none, HUP), (IN, IN | HUP), (IN | NORMAL, IN | NORMAL | HUP)] {
            check::equal(format_args!("poll({asked:?}), reaped"), pidfd.poll_now(asked)?, expected)?;
        }
        Ok(())
    })
}

case! {
    /// An edge-triggered epoll registration of an auto-reaped child's pidfd reports its end as EPOLLIN.
    autoreap_epoll_event: Is, needs [Autoreap],
    source "kernel/signal.c do_notify_pidfd(); fs/pidfs.c pidfd_poll()",
}
fn autoreap_epoll_event() -> Result {
    subject::each_reaped(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let watch = Watch::new(child.pidfd()?, EventFlags::IN | EventFlags::ET)?;
        check::equal("epoll, alive", watch.now()?, None)?;
        child.let_go()?;
        let first = watch.next()?;
        check::holds(first.contains(EventFlags::IN), format_args!("expected EPOLLIN first, got {first:?}"))?;
        // Leaves open whether POLLHUP is part of this edge, an edge of its own, or neither.
        child.pidfd()?.wait_reaped()
    })
}

case! {
    /// An EPOLLONESHOT registration of an auto-reaped child's pidfd reports the child's end again when it is rearmed with
    /// EPOLL_CTL_MOD, even if nothing more happens.
    autoreap_epoll_armed_anew: Must, needs [Autoreap],
    source "epoll_ctl(2), EPOLLONESHOT; pidfd_open(2), on poll",
}
fn autoreap_epoll_armed_anew() -> Result {
    subject::each_reaped(|call| {
        let once = EventFlags::IN | EventFlags::ONESHOT;
        let child = Held::exiting_with(&call, 0)?;
        let watch = Watch::new(child.pidfd()?, once)?;
        child.let_go()?;
        watch.next()?;
        child.pidfd()?.wait_reaped()?;
        check::equal("control: epoll when the event has been taken", watch.now()?, None)?;
        watch.modify(child.pidfd()?, once)?;
        let again = watch.now()?;
        check::equal("epoll after EPOLL_CTL_MOD", again, Some(EventFlags::IN | EventFlags::HUP))
    })
}

case! {
    /// Closing the pidfd of an auto-reaped child made without CLONE_PIDFD_AUTOKILL does nothing to the child.
    autoreap_close_pidfd_no_kill: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"",
}
fn autoreap_close_pidfd_no_kill() -> Result {
    let mut control = Echo::spawn(&Clone3::new(Flags::KILLED_NNP))?;
    let observer = control.observe()?;
    control.close_pidfd()?;
    control.is_dead("control: after the last close of an auto-kill pidfd")?;
    observer.wait_reaped()?;

    let mut child = Echo::spawn(&reaped())?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    child.is_alive("after the last close of its pidfd, without CLONE_PIDFD_AUTOKILL")?;
    drop(child.into_child());
    observer.reaped_with(Status::exited(0))
}

/// Returns how far a state in /proc is on the way from alive to gone.
fn stage(state: char) -> u32 {
    match state {
        'Z' => 1,
        'X' => 2,
        _ => 0,
    }
}

case! {
    /// The states that /proc shows of an exiting auto-reaped child go one way: alive, then perhaps a zombie for an instant, perhaps
    /// dead, and then no entry, at POLLHUP at the latest.
    autoreap_transient_proc_z: Is, needs [Autoreap, Proc, Untraced],
    source "kernel/exit.c exit_notify() (EXIT_ZOMBIE is stored before EXIT_DEAD)",
}
fn autoreap_transient_proc_z() -> Result {
    subject::each_reaped(|call| {
        for _ in rounds(10) {
            let child = Held::exiting_with(&call, 0)?;
            let alive = Task::of(child.pid()).map_or('?', |task| task.state);
            check::holds("RSD".contains(alive), format_args!("control: a live child is in state {alive}"))?;
            child.let_go()?;
            let seen = states_until_reaped(&child)?;
            let one_way = seen.chars().is_sorted_by_key(stage);
            let known = seen.chars().all(|state| "RSDZX".contains(state));
            check::holds(one_way && known, format_args!("expected R, S or D, then Z, then X; got {seen}"))?;
            let now = procfs::describe(child.pid());
            check::holds(
                Task::of(child.pid()).is_none(),
                format_args!("after POLLHUP, /proc still says: {now}"),
            )?;
        }
        Ok(())
    })
}
