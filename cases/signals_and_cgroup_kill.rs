//! Auto-reaped children are reached by what reaches any child: signals to all, cgroup.kill, setpgid, lists of children.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, park};
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::programs::end_seen_after_parents_exec;
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::threads::{in_a_thread, own_tid};
use clone3_conformance::kit::{Cgroup, Channel, Held, Orphan, namespace, subject, tracer};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::ptrace::Options;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid, setpgid};
use rustix::fs::AtFlags;

case! {
    /// kill(-1) reaches auto-reaped children as it does ordinary ones.
    autoreap_reached_by_kill_all: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "kill(2), pid -1; kernel/signal.c kill_something_info()",
}
fn autoreap_reached_by_kill_all() -> Result {
    subject::each_reaped(|call| {
        // In its own pid namespace, "all" means the children created here.
        namespace::as_init(|| {
            let ordinary = Held::exiting_with(&Clone3::fork(), 0)?;
            let child = Held::exiting_with(&call, 0)?;
            check::succeeds("kill(-1, SIGTERM)", kill(Pid::from_raw(-1), Signal::SIGTERM))?;
            let killed = Status::killed(Signal::SIGTERM);
            ordinary.into_child().reap_expecting(killed).context("control")?;
            child.is_gone_with(killed)
        })
    })
}

case! {
    /// cgroup.kill kills the auto-reaped processes of a cgroup as it does ordinary ones.
    autoreap_reached_by_cgroup_kill: Must, needs [Autoreap, ExitInfo, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.kill",
}
fn autoreap_reached_by_cgroup_kill() -> Result {
    let group = Cgroup::create(&[])?;
    let ordinary = Held::exiting_with(&Clone3::fork().into_cgroup(group.dir()), 0)?;
    let child = Held::exiting_with(&Clone3::new(Flags::REAPED).into_cgroup(group.dir()), 0)?;
    group.write("cgroup.kill", "1")?;
    let killed = Status::SIGKILLED;
    ordinary.into_child().reap_expecting(killed).context("control")?;
    child.is_gone_with(killed)?;
    group.remove()
}

case! {
    /// cgroup.kill kills the processes that are in the cgroup then. A child that clone3 puts there later (CLONE_INTO_CGROUP) lives,
    /// auto-reaped or not.
    abi_into_cgroup_killed_before: Must, needs [Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.kill; kernel/cgroup/cgroup.c cgroup_css_set_fork() (kill_seq)",
    since "5.14",
    known_defect "6.16 to 7.2: how often a cgroup was killed is compared with the creator's cgroup, in place of the child's",
    fixed "7.2.13",
}
fn abi_into_cgroup_killed_before() -> Result {
    let group = Cgroup::create(&[])?;
    let there = rustix::fs::statat(group.dir(), "cgroup.kill", AtFlags::empty());
    if there.is_err_and(|errno| errno == rustix::io::Errno::NOENT) {
        return Err(Failure::unsupported("cgroups have no cgroup.kill (Linux 5.14)"));
    }
    let inhabitant = Held::exiting_with(&Clone3::fork().into_cgroup(group.dir()), 0)?;
    group.write("cgroup.kill", "1")?;
    let killed = inhabitant.into_child().reap_expecting(Status::SIGKILLED);
    killed.context("control: the process in the cgroup when cgroup.kill is written")?;
    subject::each(|call| {
        let call = call.into_cgroup(group.dir());
        let child = call.spawn(|| 5)?;
        let told =
            if child.reaps_itself() { child.pidfd()?.exit_status()? } else { wait::reap(child.pid())? };
        let what = format!("how a child of {call} ended, in a cgroup that was killed before its birth");
        check::equal_or_defect(what, told, Status::exited(5), Status::SIGKILLED)
    })?;
    group.remove()
}

case! {
    /// cgroup.kill kills an auto-reaped process that is stopped, by a signal or by its tracer, as it does an ordinary one.
    autoreap_stopped_reached_by_cgroup_kill: Must, needs [Autoreap, ExitInfo, Cgroup2, Ptrace],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.kill",
}
fn autoreap_stopped_reached_by_cgroup_kill() -> Result {
    subject::each(|call| {
        let group = Cgroup::create(&[])?;
        let call = call.into_cgroup(group.dir());
        let stopped = Held::exiting_with(&call, 0)?;
        stopped.kill(Signal::SIGSTOP)?;
        wait::stops(stopped.pid(), Signal::SIGSTOP)?;
        let traced = Held::exiting_with(&call, 0)?;
        tracer::attach(traced.pid())?;

        group.write("cgroup.kill", "1")?;
        ends_by_its_kind(&call, stopped.pid(), stopped.pidfd()?, Status::SIGKILLED)?;
        wait::reap_expecting(traced.pid(), Status::SIGKILLED).context("the stopped tracee")?;
        traced.pidfd()?.gone_with(traced.pid(), Status::SIGKILLED)?;
        group.remove()
    })
}

/// Returns the pids in /proc/self/task/TID/children of the calling thread.
fn listed_children() -> Result<Vec<i32>> {
    let path = format!("/proc/self/task/{}/children", own_tid());
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Failure::blocked(format!("needs {path} (CONFIG_PROC_CHILDREN): {error}")))?;
    Ok(text.split_whitespace().filter_map(|number| number.parse().ok()).collect())
}

case! {
    /// /proc/PID/task/TID/children lists the auto-reaped children of a thread among the others, as long as they live.
    autoreap_listed_among_children: Must, needs [Autoreap, ExitInfo, Proc],
    source "proc_pid_task(5), children; fs/proc/array.c get_children_pid()",
}
fn autoreap_listed_among_children() -> Result {
    // At the head of the list and within it, which the kernel looks up in different ways.
    let (reaped, ordinary) = (Clone3::new(Flags::REAPED), Clone3::fork());
    let mut children = Vec::new();
    for call in [&reaped, &ordinary, &reaped, &ordinary] {
        children.push(Held::exiting_with(call, 5)?);
    }
    let all: Vec<i32> = children.iter().map(|child| child.pid()).collect();
    check::equal("children of this thread", listed_children()?, all.clone())?;
    check::equal("children of another thread", in_a_thread(listed_children)?, vec![])?;
    for child in children.iter().filter(|child| child.reaps_itself()) {
        child.let_go()?;
        child.is_gone_with(Status::exited(5))?;
    }
    check::equal("children when the auto-reaped ones are gone", listed_children()?, vec![all[1], all[3]])?;
    for child in children.into_iter().filter(|child| !child.reaps_itself()) {
        child.into_child().clear_away()?;
    }
    Ok(())
}

case! {
    /// A parent may put its auto-reaped child into a process group, but no longer once the child has called exec (EACCES), like any
    /// child.
    autoreap_put_into_group: Must, needs [Autoreap],
    source "setpgid(2)",
}
fn autoreap_put_into_group() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let pid = Pid::from_raw(child.pid());
        check::succeeds(format_args!("setpgid of a child of {call}"), setpgid(pid, pid))?;
        check::equal("its process group", getpgid(Some(pid)), Ok(pid))?;
        child.into_child().clear_away()?;

        let execed = Held::execed(&call, 0)?;
        let pid = Pid::from_raw(execed.pid());
        check::refused(
            format_args!("setpgid after exec of a child of {call}"),
            setpgid(pid, pid),
            Errno::EACCES,
        )?;
        execed.into_child().clear_away()
    })
}

case! {
    /// After an exec of its parent, which may be auto-reaped itself, an ordinary child sends SIGCHLD in place of its exit signal.
    abi_exit_signal_after_parent_exec: Is, needs [],
    source "kernel/signal.c do_notify_parent() (parent_exec_id)",
}
fn abi_exit_signal_after_parent_exec() -> Result {
    // SIGURG is ignored by default: it is not found pending, and does not end the program.
    let call = Clone3::new(Flags::empty()).exit_signal(libc::SIGURG as u64);
    subject::each(|parent| {
        let (event, signal) = end_seen_after_parents_exec(&parent, &call)?;
        let ended = event.map(|event| (event.code, event.status));
        let what = format!("event of a child of a child of {parent}, which has called exec");
        check::equal(what, ended, Some((libc::CLD_EXITED, 5)))?;
        check::equal(format_args!("SIGCHLD to a child of {parent}, which has called exec"), signal, event)
    })
}

case! {
    /// If the parent ignores SIGCHLD, the zombie of a child that a thread of the parent traced is gone when that thread ends,
    /// auto-reaped or not.
    autoreap_ptrace_tracer_thread_exits_ignoring: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "kernel/ptrace.c __ptrace_detach(), ignoring_children(); wait(2) for ignored SIGCHLD",
}
fn autoreap_ptrace_tracer_thread_exits_ignoring() -> Result {
    disposition::set(Signal::SIGCHLD, Disposition::Ignored)?;
    subject::each(|call| {
        let child = Held::exiting_with(&call, 5)?;
        in_a_thread(|| {
            tracer::seize(child.pid(), Options::empty())?;
            child.let_go()?;
            child.is_a_zombie(5).context("control: while it is traced")
        })?;
        child.pidfd()?.wait_reaped().context(format_args!("a child of {call}, when its tracer has ended"))?;
        wait::no_child(child.pid())
    })
}

/// Requests SIGKILL at the parent's end, for this thread.
fn die_with_the_parent() -> Result {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

/// Creates a child with a second thread, which requests SIGKILL at the parent's end if `asks`.
fn with_another_thread(call: &Clone3, asks: bool) -> Result<Child> {
    let ready = Channel::<Result>::new()?;
    let child = call.spawn(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let asked = if asks { die_with_the_parent() } else { Ok(()) };
                // The receiver sees a failed send as the end of the stream.
                let _ = ready.send(&asked);
                park()
            });
            park()
        })
    })?;
    ready.recv_from(&child)??;
    Ok(child)
}

case! {
    /// An auto-reaped process in which a thread other than the leader has set PR_SET_PDEATHSIG gets that signal when its parent
    /// ends, like an ordinary one; without it, it lives on.
    autoreap_pdeathsig_of_a_thread: Must, needs [Autoreap, ExitInfo],
    source "PR_SET_PDEATHSIG(2const); kernel/exit.c forget_original_parent()",
}
fn autoreap_pdeathsig_of_a_thread() -> Result {
    subject::each(|call| {
        let lives = Orphan::left_by(|| with_another_thread(&call, false))?;
        // If SIGKILL had been sent before, the process would end by it.
        check::succeeds("control: pidfd_send_signal(SIGTERM)", lives.pidfd.send_signal(Signal::SIGTERM))?;
        ends_by_its_kind(&call, lives.pid, &lives.pidfd, Status::killed(Signal::SIGTERM))?;

        let dies = Orphan::left_by(|| with_another_thread(&call, true))?;
        dies.pidfd.wait_exited().context(format_args!("a child of {call}, at the end of its parent"))?;
        ends_by_its_kind(&call, dies.pid, &dies.pidfd, Status::SIGKILLED)
    })
}
