//! Process groups with auto-reaped members: signals to the group reach them, and they keep it from being orphaned.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::userfault::Trap;
use clone3_conformance::kit::{AutokillChild, Held, subject, threads};
use clone3_conformance::wait::{self, Event, Status, Who};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpgrp, setpgid, setsid};

const SIGTERMED: Status = Status::killed(Signal::SIGTERM);
/// For setpgid(2): the caller, or a new group.
const OWN: Pid = Pid::from_raw(0);

/// Creates a child in this process group that SIGTERM kills, whatever the disposition in its parent.
fn member(call: &Clone3, group: Pid) -> Result<Held> {
    let child = Held::prepared(call, 0, || disposition::set(Signal::SIGTERM, Disposition::Default))?;
    setpgid(Pid::from_raw(child.pid()), group)?;
    Ok(child)
}

/// Checks that both members have been killed; the ordinary one is the control.
#[track_caller]
fn are_killed(ordinary: Held, reaped: &Held) -> Result {
    ordinary.into_child().reap_expecting(SIGTERMED).context("control, the ordinary member")?;
    reaped.is_gone_with(SIGTERMED).context("the auto-reaped member")
}

case! {
    /// A signal sent to a process group with kill(-PGID) or, by one of its members, with kill(0), reaches auto-reaped members like
    /// ordinary ones.
    autoreap_reached_by_kill_of_group: Must, needs [Autoreap, ExitInfo],
    source "kill(2); kernel/signal.c __kill_pgrp_info()",
}
fn autoreap_reached_by_kill_of_group() -> Result {
    subject::each_reaped(|reaped| {
        let ordinary = Clone3::fork();
        let leader = member(&ordinary, OWN)?;
        let child = member(&reaped, Pid::from_raw(leader.pid()))?;
        check::succeeds("kill(-PGID, SIGTERM)", kill(Pid::from_raw(-leader.pid()), Signal::SIGTERM))?;
        are_killed(leader, &child).context("after kill(-PGID, SIGTERM)")?;
        in_child(|| {
            setpgid(OWN, OWN)?;
            disposition::set(Signal::SIGTERM, Disposition::Ignored)?;
            let (other, child) = (member(&ordinary, getpgrp())?, member(&reaped, getpgrp())?);
            check::succeeds("kill(0, SIGTERM)", kill(OWN, Signal::SIGTERM))?;
            are_killed(other, &child).context("after kill(0, SIGTERM)")
        })
    })
}

case! {
    /// The last close of an auto-kill pidfd kills its process, and not the process group that it leads.
    autokill_spares_group: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; fs/pidfs.c pidfs_file_release(), PIDTYPE_TGID",
}
fn autokill_spares_group() -> Result {
    // Created before the leader, so that it does not inherit the leader's pidfd.
    let other = member(&Clone3::fork(), OWN)?;
    let mut leader = AutokillChild::new()?;
    setpgid(Pid::from_raw(leader.pid()), OWN)?;
    setpgid(Pid::from_raw(other.pid()), Pid::from_raw(leader.pid()))?;
    leader.close()?;
    leader.dies("leader of a process group, after the last close of its pidfd")?;
    other.let_go()?;
    let rest = "another member of the group that the killed child led";
    other.into_child().reap_expecting(Status::exited(0)).context(rest)
}

case! {
    /// pidfd_send_signal(PIDFD_SIGNAL_PROCESS_GROUP) reaches auto-reaped members of the group like ordinary ones, whether an
    /// auto-reaped or an ordinary process leads it.
    autoreap_reached_by_pidfd_signal_to_group: Must, needs [Autoreap, ExitInfo],
    source "pidfd_send_signal(2), PIDFD_SIGNAL_PROCESS_GROUP; kernel/signal.c __kill_pgrp_info()",
}
fn autoreap_reached_by_pidfd_signal_to_group() -> Result {
    subject::each_reaped(|reaped| {
        let ordinary = Clone3::fork().with(Flags::PIDFD);
        for (leads, follows) in [(&ordinary, &reaped), (&reaped, &ordinary)] {
            let leader = member(leads, OWN)?;
            let other = member(follows, Pid::from_raw(leader.pid()))?;
            let what = "pidfd_send_signal(SIGTERM, PIDFD_SIGNAL_PROCESS_GROUP)";
            check::succeeds(
                what,
                leader.pidfd()?.send_signal_to(Signal::SIGTERM, libc::PIDFD_SIGNAL_PROCESS_GROUP),
            )?;
            let (killed, vanished) = if leader.reaps_itself() { (other, leader) } else { (leader, other) };
            are_killed(killed, &vanished).context(format_args!("after {what}, led by a child of {leads}"))?;
        }
        Ok(())
    })
}

case! {
    /// pidfd_send_signal(PIDFD_SIGNAL_PROCESS_GROUP) signals the group that the process leads: through the pidfd of a member that
    /// leads no group it is ESRCH, auto-reaped or not.
    pidfd_signal_to_group_of_no_leader: Must, needs [PidfdInfo],
    source "pidfd_send_signal(2), PIDFD_SIGNAL_PROCESS_GROUP; kernel/signal.c do_pidfd_send_signal()",
}
fn pidfd_signal_to_group_of_no_leader() -> Result {
    subject::each(|call| {
        let leader = member(&call, OWN)?;
        let other = member(&call, Pid::from_raw(leader.pid()))?;
        // SIGURG is ignored by default.
        let signal = |to: &Held| {
            to.pidfd().map(|it| it.send_signal_to(Signal::SIGURG, libc::PIDFD_SIGNAL_PROCESS_GROUP))
        };
        check::succeeds("control: PIDFD_SIGNAL_PROCESS_GROUP by the leader's pidfd", signal(&leader)?)?;
        let what = format!("PIDFD_SIGNAL_PROCESS_GROUP by the pidfd of another member, a child of {call}");
        check::refused(what, signal(&other)?, Errno::ESRCH)?;
        other.into_child().clear_away()?;
        leader.into_child().clear_away()
    })
}

/// Creates a child by `call` that runs `prepare` and sends itself SIGTSTP. Returns whether it stops or exits with 5; `None`
/// if it is gone.
fn on_sigtstp(call: &Clone3, prepare: impl FnOnce() -> nix::Result<()>) -> Result<Option<Event>> {
    let child = call.spawn(|| {
        let prepared = disposition::set(Signal::SIGTSTP, Disposition::Default).is_ok() && prepare().is_ok();
        if prepared && raise(Signal::SIGTSTP).is_ok() { 5 } else { 98 }
    })?;
    let look = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | libc::__WALL;
    let seen = match wait::waitid(Who::Pid(child.pid()), look) {
        Err(Errno::ECHILD) if child.reaps_itself() => None,
        seen => check::succeeds("waitid(WSTOPPED|WEXITED|WNOWAIT|__WALL)", seen)?,
    };
    child.clear_away()?;
    Ok(seen.map(|event| Event { pid: 0, ..event }))
}

case! {
    /// An auto-reaped child whose parent is in the same session keeps its process group from being orphaned, like any child:
    /// SIGTSTP stops it in a group of its own. In an orphaned group that signal does nothing.
    autoreap_keeps_group_from_being_orphaned: Must, needs [Autoreap],
    source "setpgid(2) and signal(7) (orphaned process groups); kernel/exit.c will_become_orphaned_pgrp()",
}
fn autoreap_keeps_group_from_being_orphaned() -> Result {
    let alone = on_sigtstp(&Clone3::fork(), || setsid().map(drop))?;
    check::equal("control: SIGTSTP in an orphaned process group", alone, Some(Event::exited(0, 5)))?;
    let stopped = Event { pid: 0, code: libc::CLD_STOPPED, status: libc::SIGTSTP };
    subject::each(|call| {
        let seen = on_sigtstp(&call, || setpgid(OWN, OWN))?;
        let what = format!("child of {call} after SIGTSTP in a process group of its own (None: it is gone)");
        check::equal(what, seen, Some(stopped))
    })
}

case! {
    /// A process group outlives its auto-reaped leader, as it does an ordinary one: its members can be waited for (waitpid(-PGID),
    /// waitid(P_PGID)), and others can join it.
    autoreap_group_outlives_leader: Must, needs [Autoreap, ExitInfo],
    source "setpgid(2), waitpid(2); POSIX, Process Group Lifetime",
}
fn autoreap_group_outlives_leader() -> Result {
    subject::each(|call| {
        let leader = member(&call, OWN)?;
        let group = Pid::from_raw(leader.pid());
        let other = member(&Clone3::fork(), group)?;
        leader.let_go()?;
        subject::wait_until_gone(&leader)?;
        let of = format!("a process group whose leader, a child of {call}, is gone");
        let found = wait::waitpid(-group.as_raw(), libc::WNOHANG | libc::__WALL);
        check::equal(format_args!("waitpid(-PGID, WNOHANG|__WALL) in {of}"), found, Ok(None))?;
        let found = wait::waitid(Who::Group(group.as_raw()), libc::WEXITED | libc::WNOHANG);
        check::equal(format_args!("waitid(P_PGID, WEXITED|WNOHANG) in {of}"), found, Ok(None))?;
        let third = Held::exiting_with(&Clone3::fork(), 0)?;
        check::succeeds(format_args!("setpgid into {of}"), setpgid(Pid::from_raw(third.pid()), group))?;
        third.into_child().clear_away()?;
        other.into_child().clear_away()
    })
}

/// Returns whether SIGUSR1 is pending for the caller, which blocks it.
fn has_pending(set: &SigSet) -> Result<bool> {
    let pending = SignalFd::with_flags(set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    Ok(pending.read_signal()?.is_some())
}

/// Creates a child by `call`, running `meanwhile` while the call is blocked in the kernel. Returns whether SIGUSR1 is pending
/// for the child.
fn pending_after(call: &Clone3, meanwhile: impl FnOnce() -> Result + Send) -> Result<bool> {
    let set = SigSet::from(Signal::SIGUSR1);
    set.thread_block()?;
    // The kernel writes the pidfd after it has started to collect signals for the new child.
    let trap = Trap::lay_for_kernel()?;
    let child = std::thread::scope(|scope| {
        let event = scope.spawn(|| {
            trap.wait_for_someone()?;
            let done = meanwhile();
            trap.open()?;
            done
        });
        let child = Held::running(&call.clone().pidfd_address(trap.address()), || {
            has_pending(&set).map_or(98, i32::from)
        });
        threads::join(event)?;
        child
    })?;
    let observer = child.observe()?;
    child.let_go()?;
    if !child.reaps_itself() {
        wait::reap(child.pid())?;
    }
    match observer.exit_status()? {
        status if status == Status::exited(0) => Ok(false),
        status => check::equal("the child's own answer", status, Status::exited(1)).map(|()| true),
    }
}

case! {
    /// A signal sent to the process group during a clone3 call that makes an auto-reaped child also reaches that child, as it does
    /// an ordinary one.
    autoreap_group_signal_during_clone: Must, needs [Autoreap, ExitInfo, Root],
    source "POSIX fork() (signals for the process group); kernel/fork.c copy_process() (delayed signals)",
}
fn autoreap_group_signal_during_clone() -> Result {
    subject::each(|call| {
        in_child(|| {
            setpgid(OWN, OWN)?;
            let before = pending_after(&call, || Ok(()))?;
            check::equal(format_args!("control: pending for a child of {call}"), before, false)?;
            let sent = pending_after(&call, || Ok(kill(OWN, Signal::SIGUSR1)?))?;
            let what =
                format!("SIGUSR1, sent to the group in the middle of {call}, is pending for the child");
            check::equal(what, sent, true)
        })?;
        Ok(())
    })
}

case! {
    /// When the auto-reaped leader of a process group is gone, its pidfd still reaches the other members
    /// (PIDFD_SIGNAL_PROCESS_GROUP), although its fdinfo has Pid -1, as after an ordinary leader that has been waited for.
    autoreap_group_reached_through_dead_leader: Is, needs [Autoreap, ExitInfo, Proc],
    source "kernel/signal.c do_pidfd_send_signal(), kill_pgrp_info(); fs/pidfs.c pidfd_show_fdinfo()",
}
fn autoreap_group_reached_through_dead_leader() -> Result {
    subject::each(|call| {
        let other = member(&Clone3::fork(), OWN)?;
        let leader = Held::exiting_with(&call, 5)?;
        setpgid(Pid::from_raw(leader.pid()), OWN)?;
        setpgid(Pid::from_raw(other.pid()), Pid::from_raw(leader.pid()))?;
        leader.let_go()?;
        subject::wait_until_gone(&leader)?;
        let pidfd = leader.pidfd()?;
        check::equal("Pid in fdinfo of a dead group leader", pidfd.pid_in_fdinfo(), Some(-1))?;
        let sent = pidfd.send_signal_to(Signal::SIGTERM, libc::PIDFD_SIGNAL_PROCESS_GROUP);
        check::succeeds("pidfd_send_signal(SIGTERM, PIDFD_SIGNAL_PROCESS_GROUP) by that pidfd", sent)?;
        other.into_child().reap_expecting(SIGTERMED).context("the other member of its group")
    })
}
