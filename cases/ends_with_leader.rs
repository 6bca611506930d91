//! Processes whose leader thread ends first: what belongs to the process outlives the leader.

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, park};
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::echo::line;
use clone3_conformance::kit::pair::{self, Pair};
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::terminal::Terminal;
use clone3_conformance::kit::tracer::Tracer;
use clone3_conformance::kit::{Channel, Gate, fdpass, sigchld, subject, threads};
use clone3_conformance::pidfd::{self, Pidfd};
use clone3_conformance::procfs::Task;
use clone3_conformance::wait::{self, Event, Status};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Pid, alarm, setpgid, setsid};

/// Creates a child of this call whose leader runs `prepare` and ends. Another thread lives on until `gate` opens; it then
/// runs `last` and ends the process with 6. Returns the child and the result of `prepare`.
fn leaderless<T: serde::Serialize + serde::de::DeserializeOwned>(
    gate: &Gate,
    call: &Clone3,
    prepare: impl FnOnce() -> Result<T>,
    last: impl FnOnce() + Send,
) -> Result<(Child, T)> {
    let ready = Channel::<Result<T>>::new()?;
    let child = call.spawn(|| {
        let found = prepare();
        let failed = found.is_err();
        // The receiver sees a failed send as the end of the stream.
        let _ = ready.send(&found);
        if failed {
            return 98;
        }
        threads::leave_to_another(gate, 5, || {
            last();
            6
        })
    })?;
    let found = ready.recv_from(&child)??;
    let leader_ended = threads::wait_for_dead_leader(child.pid());
    let news = child.pidfd()?.poll_now(PollFlags::POLLIN)?;
    let over =
        format!("a child of {call} is over, where only its leader thread has ended: poll returns {news:?}");
    check::holds(news.is_empty(), over)?;
    leader_ended?;
    Ok((child, found))
}

case! {
    /// The pid namespace of an init whose thread-group leader has exited lives until init's last thread ends; then its members are
    /// killed, and init is gone. Auto-reaped or not.
    autoreap_init_outlives_its_leader: Must, needs [Autoreap, ExitInfo, PidNamespace, Proc],
    source "pid_namespaces(7), the namespace init process; kernel/exit.c find_child_reaper(), kernel/pid_namespace.c zap_pid_ns_processes()",
}
fn autoreap_init_outlives_its_leader() -> Result {
    subject::each(|call| {
        let call = call.with(Flags::CLONE_NEWPID);
        let (gate, (line, echoer), (ours, theirs)) = (Gate::new()?, line()?, fdpass::pair()?);
        let make_member = || {
            let member = Clone3::fork().with(Flags::PIDFD).spawn(|| {
                line.close_in_child();
                echoer.serve()
            })?;
            echoer.close_in_child();
            fdpass::send(&theirs, member.pidfd()?)
        };
        let (init, ()) = leaderless(&gate, &call, make_member, || ())?;
        drop(echoer);
        // Init knows its pid in the new namespace only.
        let member = Pidfd::from(fdpass::receive(&ours)?);
        let member = pidfd::info(&member, InfoMask::PID)?.pid as i32;
        line.is_alive(member, "in the pid namespace of an init whose leader thread has ended")?;
        gate.open()?;
        init.ends_with(Status::exited(6)).context(format_args!("init made by {call}"))?;
        line.is_dead(member, "in a pid namespace whose init has ended")?;
        Ok(())
    })
}

case! {
    /// A session leader, auto-reaped or not, keeps its controlling terminal if its thread-group leader exits while another thread
    /// lives; another session can take the terminal once the process has ended.
    autoreap_terminal_outlives_leader: Must, needs [Autoreap, ExitInfo, Proc],
    source "ioctl_tty(2), TIOCSCTTY; kernel/exit.c do_exit() (disassociate_ctty())",
}
fn autoreap_terminal_outlives_leader() -> Result {
    subject::each(|call| {
        let (gate, terminal) = (Gate::new()?, Terminal::new()?);
        let take = || {
            disposition::set(Signal::SIGHUP, Disposition::Ignored)?;
            setsid()?;
            check::succeeds("TIOCSCTTY by a session leader", terminal.take())
        };
        let (child, ()) = leaderless(&gate, &call, take, || ())?;
        let what =
            format!("TIOCSCTTY by another, while only the leader thread of a child of {call} has ended");
        check::equal(what, terminal.taken_by_another()?, Err(Errno::EPERM))?;
        gate.open()?;
        subject::wait_until_gone(&child)?;
        let what = "control: TIOCSCTTY by another when the process has ended";
        check::equal(what, terminal.taken_by_another()?, Ok(()))
    })
}

case! {
    /// An alarm(2) belongs to the process: it keeps running after the thread-group leader has exited while another thread lives,
    /// auto-reaped or not.
    autoreap_alarm_outlives_leader: Must, needs [Autoreap, ExitInfo, Proc],
    source "alarm(2); kernel/exit.c do_exit() (hrtimer_cancel(), exit_itimers())",
}
fn autoreap_alarm_outlives_leader() -> Result {
    const LONG: u32 = 10_000;
    subject::each(|call| {
        let (gate, told) = (Gate::new()?, Channel::<Option<u32>>::new()?);
        let set = || match alarm::set(LONG) {
            // How the C library returns an error.
            Some(u32::MAX) => Err(Failure::blocked("needs alarm(2) (CONFIG_POSIX_TIMERS)")),
            before => Ok(before),
        };
        let tell = || {
            // The receiver sees a failed send as the end of the stream.
            let _ = told.send(&alarm::cancel());
        };
        let (child, before) = leaderless(&gate, &call, set, tell)?;
        check::equal("control: seconds left of an alarm before one was set", before, None)?;
        gate.open()?;
        let left = told.recv_from(&child)?;
        let what =
            format!("seconds left of an alarm after {LONG}, when the leader of a child of {call} has ended");
        check::holds(left.is_some_and(|left| left > LONG / 2), format_args!("{what}: got {left:?}"))?;
        child.ends_with(Status::exited(6))
    })
}

case! {
    /// A process keeps its process group from being orphaned while any of its threads lives: a stopped member stays stopped when
    /// the leader thread exits, and gets SIGHUP when the process ends. Auto-reaped or not.
    autoreap_group_orphaned_by_last_thread: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "setpgid(2) (orphaned process groups); kernel/exit.c exit_notify(), kill_orphaned_pgrp()",
}
fn autoreap_group_orphaned_by_last_thread() -> Result {
    subject::each(|call| {
        let member = in_child(|| {
            setsid()?;
            let gate = Gate::new()?;
            let (child, member) = leaderless(&gate, &call, stopped_member_of_own_group, || ())?;
            let state = Task::of(member).map(|task| task.state);
            let what =
                format!("state of a stopped process, when only the leader of a child of {call} has ended");
            check::equal(what, state, Some('T'))?;
            gate.open()?;
            subject::wait_until_gone(&child)?;
            Ok(member)
        })?;
        let hung_up = Status::killed(Signal::SIGHUP);
        wait::reap_expecting(member, hung_up).context("control: in a group that an end orphaned")
    })
}

/// Makes the caller lead a process group, and returns the pid of a child in it that has stopped.
fn stopped_member_of_own_group() -> Result<i32> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    let member = Clone3::fork().spawn(|| raise(Signal::SIGSTOP).map_or(98, |()| park()))?;
    let told = wait::waitpid(member.pid(), libc::WUNTRACED)?.map(|(_, status)| status);
    check::equal(
        "control: wait status of a child that stops itself",
        told,
        Some(Status::stopped(Signal::SIGSTOP)),
    )?;
    Ok(member.pid())
}

case! {
    /// An auto-reaped process whose leader has exited, and whose last thread is a zombie of its tracer, is gone once the tracer has
    /// waited for that thread. An ordinary one is then a zombie of its parent.
    autoreap_ptrace_last_thread_waited_for: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/exit.c release_task() (zap_leader)",
}
fn autoreap_ptrace_last_thread_waited_for() -> Result {
    const LAST: i32 = pair::LEADER;
    sigchld::block()?;
    subject::each(|call| {
        let pair = Pair::new(&call)?;
        let tracer = Tracer::of(pair.other)?;
        pair.let_other_go()?;
        tracer.find_zombie()?;
        pair.end_leader()?;
        check::equal(
            "control: whether anything is told of the process before the wait",
            pair.child.pidfd()?.poll_now(PollFlags::POLLIN)?,
            PollFlags::empty(),
        )?;
        tracer.reap()?;
        if pair.child.reaps_itself() {
            pair.child
                .is_gone_with(Status::exited(LAST))
                .context("after a tracer's wait for its last thread")?;
        } else {
            let zombie = wait::find_zombie(pair.child.pid())?;
            check::equal(
                "control: the zombie of an ordinary process without a leader",
                zombie,
                Event::exited(pair.child.pid(), LAST),
            )?;
            wait::reap_expecting(pair.child.pid(), Status::exited(LAST))?;
            sigchld::pending_for(pair.child.pid(), libc::CLD_EXITED)?;
        }
        tracer.dismiss()
    })
}
