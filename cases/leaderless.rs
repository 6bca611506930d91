//! Processes whose leader thread has ended while another runs: signals, stops, cgroups and orphans still find them.

use std::fs;

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Clone3, exit_now, exit_thread, park};
use clone3_conformance::kit::process::own_pid;
use clone3_conformance::kit::{
    Cgroup, Channel, Gate, Handover, Held, Orphan, fds, namespace, subject, threads,
};
use clone3_conformance::need::rounds;
use clone3_conformance::pidfd::info;
use clone3_conformance::procfs;
use clone3_conformance::wait::{self, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setpgid};

#[track_caller]
fn leaderless(call: &Clone3) -> Result<Held> {
    threads::leaderless(call, 4, || 5)
}

case! {
    /// A signal for a process group reaches an auto-reaped member whose leader thread has ended, as it does an ordinary one.
    autoreap_leaderless_reached_by_kill_of_group: Must, needs [Autoreap, ExitInfo, Proc],
    source "kill(2); POSIX: a process goes on when its first thread ends; kernel/signal.c __kill_pgrp_info()",
}
fn autoreap_leaderless_reached_by_kill_of_group() -> Result {
    subject::each(|call| {
        let child = leaderless(&call)?;
        let group = Pid::from_raw(child.pid());
        setpgid(group, group)?;
        check::succeeds("kill(-PGID, SIGKILL)", kill(Pid::from_raw(-child.pid()), Signal::SIGKILL))?;
        let what = format!("leaderless child of {call} in a process group that got SIGKILL");
        child.pidfd()?.wait_exited().context(&what)?;
        child.into_child().ends_with(Status::SIGKILLED).context(&what)
    })
}

case! {
    /// The parent's wait reports the stop of an auto-reaped child whose leader thread has ended, as it does that of an ordinary
    /// one.
    autoreap_leaderless_stop_waited_for: Must, needs [Autoreap, ExitInfo, Proc],
    source "wait(2), WUNTRACED; kernel/exit.c wait_consider_task() (\"delay_group_leader\")",
}
fn autoreap_leaderless_stop_waited_for() -> Result {
    subject::each(|call| {
        let child = leaderless(&call)?;
        let pid = child.pid();
        child.kill(Signal::SIGSTOP)?;
        wait::stops(pid, Signal::SIGSTOP).context(format_args!("a leaderless child of {call}"))?;
        child.into_child().clear_away()
    })
}

/// Becomes a subreaper and ends its leader thread, while another thread reports the parent that an orphan gets.
fn adopt_without_leader(adopter: &Channel<Result<i32>>) -> Result<i32> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let own = own_pid();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let found = threads::wait_for_dead_leader(own)
                .and_then(|()| Orphan::exiting_with(&Clone3::new(Flags::REAPED), 0))
                .and_then(|orphan| {
                    let parent = orphan.parent()?;
                    orphan.let_go()?;
                    orphan.pidfd.wait_reaped()?;
                    Ok(parent)
                });
            // The receiver sees a failed send as the end of the stream.
            let _ = adopter.send(&found);
            exit_now(5)
        });
        exit_thread(4)
    })
}

case! {
    /// An auto-reaped subreaper whose leader thread has ended adopts the orphans below it, as an ordinary one does.
    autoreap_leaderless_subreaper_adopts: Must, needs [Autoreap, ExitInfo, Proc],
    source "PR_SET_CHILD_SUBREAPER(2const) (the setting is the process's); kernel/exit.c find_new_reaper()",
}
fn autoreap_leaderless_subreaper_adopts() -> Result {
    subject::each(|call| {
        let adopter = Channel::<Result<i32>>::new()?;
        let child = call.spawn(|| adopt_without_leader(&adopter).unwrap_or(98))?;
        let parent = adopter.recv_from(&child)??;
        let what = format!("who adopts below a leaderless subreaper, a child of {call}");
        check::equal(what, parent, child.pid())?;
        subject::wait_until_gone(&child)?;
        Ok(())
    })
}

case! {
    /// An auto-reaped process whose leader thread has ended is listed in cgroup.procs, and PIDFD_GET_INFO gives its cgroup, as for
    /// an ordinary one.
    autoreap_leaderless_in_its_cgroup: Must, needs [Autoreap, ExitInfo, Proc, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.procs; fs/pidfs.c pidfd_info()",
}
fn autoreap_leaderless_in_its_cgroup() -> Result {
    subject::each(|call| {
        let group = Cgroup::create(&[])?;
        let call = call.into_cgroup(group.dir());
        let child = leaderless(&call)?;
        let what = format!("leaderless child of {call}");
        let members = group.read("cgroup.procs")?;
        check::equal(format_args!("cgroup.procs with a {what}"), members.trim(), &child.pid().to_string())?;
        let found = info(child.pidfd()?, InfoMask::CGROUPID)?;
        check::equal(format_args!("cgroupid of a {what}"), found.cgroupid, group.id()?)?;
        child.into_child().clear_away()?;
        group.remove()
    })
}

case! {
    /// An auto-reaped process whose leader thread has ended is listed in /proc, and its remaining thread in /proc/PID/task, as for an
    /// ordinary one.
    autoreap_leaderless_listed_in_proc: Must, needs [Autoreap, ExitInfo, Proc],
    source "proc(5), /proc/PID and /proc/PID/task; fs/proc/base.c proc_pid_readdir(), proc_task_readdir()",
}
fn autoreap_leaderless_listed_in_proc() -> Result {
    subject::each(|call| {
        let child = leaderless(&call)?;
        let pid = child.pid();
        let listed = fs::read_dir("/proc")?.flatten().any(|entry| *entry.file_name() == *pid.to_string());
        check::equal(format_args!("whether /proc lists a leaderless child of {call}"), listed, true)?;
        let threads = procfs::threads_of(pid);
        check::holds(
            threads.iter().any(|tid| *tid != pid),
            format_args!("threads of a leaderless child {pid} of {call} in /proc: {threads:?}"),
        )?;
        child.into_child().clear_away()
    })
}

case! {
    /// When the init of a pid namespace ends, an auto-reaped process in it whose leader thread has ended is killed like an ordinary
    /// one, and does not keep init from ending.
    autoreap_leaderless_ends_with_pid_namespace: Must, needs [Autoreap, ExitInfo, PidNamespace, Proc],
    source "pid_namespaces(7); kernel/pid_namespace.c zap_pid_ns_processes()",
}
fn autoreap_leaderless_ends_with_pid_namespace() -> Result {
    subject::each(|call| {
        let handover = Handover::arrange()?;
        let (init, ()) =
            namespace::init_reporting(&Clone3::fork().with(Flags::PIDFD | Flags::CLONE_NEWNS), || {
                namespace::mount_proc()?;
                handover.give(leaderless(&call).map(Held::into_child));
                Ok(())
            })?;
        // Open until init has ended: the close would kill a child of the third kind.
        let pidfd = handover.take_from(&init)?;
        init.pidfd()?.wait_exited().context(format_args!("the init of a leaderless child of {call}"))?;
        init.reap_expecting(Status::exited(0))?;
        pidfd.reaped_with(Status::SIGKILLED).context(format_args!("a leaderless child of {call}"))
    })
}

case! {
    /// The init of a pid namespace whose leader thread has ended can end with its last thread while it has auto-reaped children, as
    /// with ordinary ones.
    autoreap_leaderless_init_ends: Must, needs [Autoreap, ExitInfo, PidNamespace, Proc],
    source "pid_namespaces(7); kernel/pid_namespace.c zap_pid_ns_processes(), on init_pids",
}
fn autoreap_leaderless_init_ends() -> Result {
    // The child has them, too, and so is slow to go.
    let _many = fds::many()?;
    subject::each(|call| rounds(1).try_for_each(|_| leaderless_init_ends_with_its_child(&call)))
}

/// Checks that the last thread of an init without a leader does not miss the end of its child, which it kills.
fn leaderless_init_ends_with_its_child(call: &Clone3) -> Result {
    let (handover, end) = (Handover::arrange()?, Gate::new()?);
    let init = threads::leaderless(&namespace::init().with(Flags::PIDFD), 3, || {
        handover.give(call.spawn(park));
        end.wait();
        5
    })?;
    init.let_go()?;
    // Open until init has ended: the close would kill a child of the third kind.
    let pidfd = handover.take_from(&init)?;
    procfs::look_up_descriptors(info(&pidfd, InfoMask::PID)?.pid as i32);
    end.open()?;
    init.pidfd()?.wait_exited().context(format_args!("a leaderless init with a child of {call}"))?;
    init.into_child().reap_expecting(Status::exited(5))?;
    pidfd.reaped_with(Status::SIGKILLED).context(format_args!("a child of {call} below a leaderless init"))
}

case! {
    /// cgroup.kill kills a process whose leader thread has ended, auto-reaped or not: its other thread does not run on.
    autoreap_leaderless_reached_by_cgroup_kill: Must, needs [Autoreap, ExitInfo, Proc, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.kill (\"all processes located in the affected cgroup tree will be killed\")",
    known_defect "7.1 to 7.3-rc7: the signal is for the leader thread alone, which is dead; the process lives on",
    fixed "7.3.4",
}
fn autoreap_leaderless_reached_by_cgroup_kill() -> Result {
    subject::each(|call| {
        let group = Cgroup::create(&[])?;
        let call = call.into_cgroup(group.dir());
        let child = leaderless(&call)?;
        group.write("cgroup.kill", "1")?;
        // A child that has been sent SIGKILL dies instead of going on.
        child.let_go()?;
        if !child.reaps_itself() {
            wait::reap(child.pid())?;
        }
        let status = child.pidfd()?.exit_status()?;
        group.remove()?;
        let what = format!("how a leaderless child of {call} ended after cgroup.kill");
        check::equal_or_defect(what, status, Status::SIGKILLED, Status::exited(5))
    })
}
