//! What an auto-reaped child gives back when it ends, and what it does not add to its parent's accounts.

use clone3_conformance::abi::InfoMask;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::privilege::become_lonely_user;
use clone3_conformance::kit::process::{reap_all, spawn_once_free};
use clone3_conformance::kit::subject::{leaves_zombie, reaped};
use clone3_conformance::kit::{Cgroup, Gate, Held, Orphan};
use clone3_conformance::need::rounds;
use clone3_conformance::procfs::Stat;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::resource::{Resource, Usage, UsageWho, getrusage, setrlimit};
use nix::sys::signal::Signal;

/// In microseconds.
const CPU_TIME: i64 = 10_000;

/// Uses as much CPU time, as far as accounts are kept of it.
fn burn() -> i32 {
    let used = || getrusage(UsageWho::RUSAGE_SELF).map(|usage| cpu_time(&usage));
    while used().is_ok_and(|time| time < CPU_TIME) {}
    0
}

/// User and system time, in microseconds.
fn cpu_time(usage: &Usage) -> i64 {
    let (user, system) = (usage.user_time(), usage.system_time());
    (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec()
}

/// What RUSAGE_CHILDREN says: CPU time in microseconds, the greatest resident set, minor page faults.
fn used_by_children() -> Result<(i64, i64, i64)> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((cpu_time(&usage), usage.max_rss(), usage.minor_page_faults()))
}

case! {
    /// CPU time, resident set and page faults of an auto-reaped child are not added to the parent's
    /// RUSAGE_CHILDREN.
    autoreap_rusage_not_accumulated: Is, needs [Autoreap, ExitInfo],
    source "kernel/exit.c wait_task_zombie(), which alone adds them; wait(2) for ignored SIGCHLD",
}
fn autoreap_rusage_not_accumulated() -> Result {
    let before = used_by_children()?;
    let child = reaped().spawn(burn)?;
    child.pidfd()?.reaped_with(Status::exited(0))?;
    let what = "RUSAGE_CHILDREN as (µs, maxrss, faults) after an auto-reaped child";
    check::equal(what, used_by_children()?, before)?;

    let control = leaves_zombie().spawn(burn)?;
    control.reap_expecting(Status::exited(0))?;
    let after = used_by_children()?;
    // A millisecond is left for rounding.
    let added = after.0 - before.0 >= CPU_TIME - 1000 && after.1 > 0 && after.2 > before.2;
    check::holds(
        added,
        format_args!("control: {after:?} after a child that was waited for, {before:?} before"),
    )
}

/// What a child adopted from its dead parent adds to the adopter's RUSAGE_CHILDREN when it is gone, by `reap`.
fn added_by_adopted(call: &Clone3, reap: impl FnOnce(&Orphan) -> Result) -> Result<(i64, i64)> {
    let child = Orphan::running(call, burn)?;
    // Its parent has been waited for by now, and counts no more.
    let before = used_by_children()?;
    child.let_go()?;
    reap(&child)?;
    let after = used_by_children()?;
    Ok((after.0 - before.0, after.2 - before.2))
}

case! {
    /// CPU time and page faults of an auto-reaped child that was reparented, and so has the exit signal SIGCHLD, are not added to
    /// the RUSAGE_CHILDREN of its new parent; an ordinary child's are.
    autoreap_rusage_not_accumulated_by_adopter: Is, needs [Autoreap, ExitInfo],
    source "kernel/exit.c wait_task_zombie(), which alone adds them; commit \"clone: add CLONE_AUTOREAP\" (reparenting)",
}
fn autoreap_rusage_not_accumulated_by_adopter() -> Result {
    let (time, faults) =
        added_by_adopted(&leaves_zombie(), |child| wait::reap_expecting(child.pid, Status::exited(0)))?;
    let added = time >= CPU_TIME - 1000 && faults > 0;
    check::holds(added, format_args!("control: {time} µs and {faults} faults added by an ordinary child"))?;
    let added = added_by_adopted(&reaped(), |child| child.pidfd.reaped_with(Status::exited(0)))?;
    check::equal("µs and page faults added to RUSAGE_CHILDREN by an auto-reaped child", added, (0, 0))
}

case! {
    /// An auto-reaped child no longer counts against RLIMIT_NPROC once it has ended, where an unreaped zombie
    /// does.
    autoreap_releases_rlimit_nproc: Must, needs [Autoreap],
    source "commit \"clone: add CLONE_AUTOREAP\" (never a zombie); kernel/exit.c release_task()",
}
fn autoreap_releases_rlimit_nproc() -> Result {
    const LIMIT: u32 = 4;
    become_lonely_user()?;
    setrlimit(Resource::RLIMIT_NPROC, LIMIT.into(), LIMIT.into())?;
    let zombies: Vec<_> = (0..LIMIT).map(|_| leaves_zombie().try_spawn(|| 0)).collect();
    if zombies.iter().all(std::result::Result::is_ok) {
        return Err(Failure::blocked("RLIMIT_NPROC does not limit this user"));
    }
    let last = zombies.into_iter().next_back().map_or(Ok(0), |last| last.map(|child| child.pid()));
    check::refused(format_args!("control: zombie number {LIMIT}"), last, Errno::EAGAIN)?;
    reap_all()?;
    for _ in rounds(5 * LIMIT) {
        reaped().spawn(|| 0)?.pidfd()?.wait_reaped()?;
    }
    Ok(())
}

/// What pids.current says after a child in this cgroup has ended.
fn charge_of(group: &Cgroup, child: &Child, end: fn(&Child) -> Result) -> Result<String> {
    end(child)?;
    group.wait_for("populated 0")?;
    Ok(group.read("pids.current")?.trim_end().to_owned())
}

case! {
    /// An auto-reaped child that has ended is no longer charged to its cgroup (pids.current); a zombie is.
    autoreap_releases_cgroup: Must, needs [Autoreap, Cgroup2],
    source "commit \"clone: add CLONE_AUTOREAP\" (never a zombie); kernel/cgroup/pids.c pids_release()",
}
fn autoreap_releases_cgroup() -> Result {
    let group = Cgroup::create(&["pids"])?;
    let zombie = leaves_zombie().into_cgroup(group.dir()).spawn(|| 0)?;
    let charge = charge_of(&group, &zombie, |child| wait::find_zombie(child.pid()).map(drop))?;
    check::equal("control: pids.current with a zombie", &charge[..], "1")?;
    wait::reap(zombie.pid())?;

    let child = reaped().into_cgroup(group.dir()).spawn(|| 0)?;
    let charge = charge_of(&group, &child, |child| child.pidfd()?.wait_reaped())?;
    check::equal("pids.current after an auto-reaped child", &charge[..], "0")?;
    group.remove()
}

case! {
    /// The pid of an auto-reaped child that has ended can be reused, unlike a zombie's; the old pidfd still refers to the dead
    /// process.
    autoreap_pid_reusable: Must, needs [Autoreap, ExitInfo, CheckpointRestore],
    source "commit \"clone: add CLONE_AUTOREAP\" (never a zombie); kernel/pid.c free_pid()",
}
fn autoreap_pid_reusable() -> Result {
    let zombie = leaves_zombie().spawn(|| 0)?;
    wait::find_zombie(zombie.pid())?;
    leaves_zombie().set_tid(&[zombie.pid()]).refused(Errno::EEXIST)?;
    wait::reap(zombie.pid())?;

    let old = reaped().spawn(|| 42)?;
    let pidfd = old.pidfd()?;
    pidfd.reaped_with(Status::exited(42))?;
    let gate = Gate::new()?;
    let new = spawn_once_free(&reaped().set_tid(&[old.pid()]), || {
        gate.wait();
        7
    })?;
    check::equal("the pid that set_tid asked for", new.pid(), old.pid())?;
    check::refused("pidfd_send_signal(0) on the old pidfd", pidfd.send_raw_signal(0), Errno::ESRCH)?;
    check::equal(
        "poll on the old pidfd",
        pidfd.poll_now(PollFlags::POLLIN)?,
        PollFlags::POLLIN | PollFlags::POLLHUP,
    )?;
    let info = check::succeeds("PIDFD_GET_INFO(EXIT) on the old pidfd", pidfd.info(InfoMask::EXIT))?;
    check::equal(
        "exit_code in PIDFD_GET_INFO(EXIT) on the old pidfd",
        Status(info.exit_code),
        Status::exited(42),
    )?;
    check::equal("poll on the new pidfd", new.pidfd()?.poll_now(PollFlags::POLLIN)?, PollFlags::empty())?;
    gate.open()?;
    new.pidfd()?.reaped_with(Status::exited(7))
}

fn exit_signal_of(pid: i32) -> Result<Option<Signal>> {
    let stat = Stat::of(pid).ok_or_else(|| Failure::broken(format!("no /proc/{pid}/stat")))?;
    Ok(Signal::try_from(stat.exit_signal).ok())
}

case! {
    /// The exit signal in /proc/PID/stat of an auto-reaped child is 0 at birth, and SIGCHLD after its exec or
    /// after it was reparented.
    autoreap_exit_signal_field: Is, needs [Autoreap, Proc],
    source "fs/exec.c de_thread(); kernel/exit.c reparent_leader(); proc_pid_stat(5)",
}
fn autoreap_exit_signal_field() -> Result {
    let ordinary = Held::exiting_with(&Clone3::fork(), 0)?;
    check::equal(
        "control: exit signal in /proc/PID/stat of an ordinary child",
        exit_signal_of(ordinary.pid())?,
        Some(Signal::SIGCHLD),
    )?;
    ordinary.into_child().clear_away()?;

    let field = |when| format!("exit signal in /proc/PID/stat of an auto-reaped child {when}");
    let born = Held::exiting_with(&reaped(), 0)?;
    check::equal(field("at its birth"), exit_signal_of(born.pid())?, None)?;
    born.into_child().clear_away()?;
    let execed = Held::execed(&reaped(), 0)?;
    check::equal(field("after its exec"), exit_signal_of(execed.pid())?, Some(Signal::SIGCHLD))?;
    execed.into_child().clear_away()?;
    let orphan = Orphan::exiting_with(&reaped(), 0)?;
    check::equal(field("after it was reparented"), exit_signal_of(orphan.pid)?, Some(Signal::SIGCHLD))?;
    orphan.let_go()?;
    orphan.pidfd.wait_reaped()
}
