//! CLONE_PIDFD_AUTOKILL: the child dies whatever it is doing.

use std::sync::atomic::AtomicU32;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Kind, Result};
use clone3_conformance::clone3::{Child, Clone3, exit_thread, park};
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::exec_race::{
    ExecLine, about_to_exec, about_to_exec_slowly, leader_about_to_exec_slowly,
};
use clone3_conformance::kit::meeting::parent_and_child;
use clone3_conformance::kit::process::own_pid;
use clone3_conformance::kit::uring::Ring;
use clone3_conformance::kit::userfault::Trap;
use clone3_conformance::kit::{
    AutokillChild, Cgroup, Channel, Echo, Gate, channel, limits, orphan, shared, threads,
};
use clone3_conformance::need::rounds;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn call() -> Clone3 {
    Clone3::new(Flags::KILLED_NNP)
}

case! {
    /// The last close of its pidfd kills a child stopped by SIGSTOP.
    autokill_stopped_child: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; signal(7): SIGKILL ends stopped processes",
}
fn autokill_stopped_child() -> Result {
    let mut child = AutokillChild::new()?;
    check::succeeds("pidfd_send_signal(SIGSTOP)", child.observer().send_signal(Signal::SIGSTOP))?;
    wait::stops(child.pid(), Signal::SIGSTOP)?;
    child.close()?;
    child.dies("stopped, after the last close of its pidfd")
}

case! {
    /// The last close kills a child that blocks and ignores every signal, or catches every one; no handler runs.
    autokill_signals_blocked_ignored: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; signal(7): SIGKILL cannot be caught, blocked or ignored",
}
fn autokill_signals_blocked_ignored() -> Result {
    let mut deaf = AutokillChild::prepared(&call(), || {
        disposition::set_all(Disposition::Ignored);
        // The parent-death signal that it requests makes no difference.
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
        Ok(SigSet::all().thread_block()?)
    })?;
    check::succeeds("pidfd_send_signal(SIGTERM)", deaf.observer().send_signal(Signal::SIGTERM))?;
    deaf.lives("after a SIGTERM that it blocks and ignores")?;
    deaf.close()?;
    deaf.dies("with all signals blocked and ignored, after the last close of its pidfd")?;

    let (caught, wire) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut catcher = AutokillChild::prepared(&call(), || {
        disposition::report_all(&wire);
        Ok(())
    })?;
    drop(wire);
    check::succeeds("pidfd_send_signal(SIGTERM)", catcher.observer().send_signal(Signal::SIGTERM))?;
    check::equal("control: the handler ran for SIGTERM", channel::read_byte(&caught)?, Some(b's'))?;
    catcher.close()?;
    catcher.dies("with all signals caught, after the last close of its pidfd")?;
    check::equal("what a handler wrote when it was killed", channel::read_byte(&caught)?, None)
}

case! {
    /// The last close kills a child that makes no system call: the kill interrupts it in user mode.
    autokill_busy_child: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; signal_wake_up()",
}
fn autokill_busy_child() -> Result {
    let busy = Gate::new()?;
    let mut child = call().spawn(|| {
        let _ = busy.open();
        loop {
            std::hint::spin_loop();
        }
    })?;
    let observer = child.observe()?;
    busy.wait_for(&observer)?;
    child.close_pidfd()?;
    observer.reaped_with(Status::SIGKILLED)
}

case! {
    /// The last close kills a child that vfork suspends, and that child alone: its own child lives on with a new parent.
    autokill_child_in_vfork_wait: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "pull request vfs-7.1-rc1.pidfs; wait_for_vfork_done() is killable",
}
fn autokill_child_in_vfork_wait() -> Result {
    let (mut child, grandchild) = parent_and_child(&call(), |meeting| {
        Clone3::fork().with(Flags::CLONE_VFORK).spawn(|| meeting.attend())
    })?;
    let observer = child.observe()?;
    threads::wait_until_process_is_blocked(child.pid())?;
    child.close_pidfd()?;
    observer.reaped_with(Status::SIGKILLED)?;
    grandchild.lives("after the death of the parent that it suspended")?;
    let parent = orphan::parent_of(grandchild.observer())?;
    check::equal("the grandchild's parent", parent, own_pid())?;
    check::succeeds("pidfd_send_signal(SIGKILL)", grandchild.observer().send_signal(Signal::SIGKILL))?;
    wait::reap_expecting(grandchild.pid(), Status::SIGKILLED)
}

case! {
    /// The last close kills a child blocked in a page fault that userfaultfd handles, although nobody resolves the fault.
    autokill_child_in_user_fault: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "pull request vfs-7.1-rc1.pidfs; handle_userfault() waits killably",
}
fn autokill_child_in_user_fault() -> Result {
    let trap = Trap::lay()?;
    let mut child = trap.catch(&call())?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    observer.gone_with(child.pid(), Status::SIGKILLED)
}

case! {
    /// The last close kills a child in a frozen cgroup without thawing it.
    autokill_frozen_child: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst (\"processes can be killed … frozen\"); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"",
}
fn autokill_frozen_child() -> Result {
    let cgroup = Cgroup::create(&[])?;
    let mut child = AutokillChild::by(&call().into_cgroup(cgroup.dir()))?;
    cgroup.write("cgroup.freeze", "1")?;
    cgroup.wait_for("frozen 1")?;
    child.close()?;
    child.dies("frozen, after the last close of its pidfd")?;
    cgroup.remove()
}

case! {
    /// The last close kills a child for which no signal can be queued, because its user's RLIMIT_SIGPENDING is used up: the kill
    /// takes no place in the queue.
    autokill_sigpending_limit: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; SEND_SIG_PRIV needs no sigqueue",
}
fn autokill_sigpending_limit() -> Result {
    limits::signals_can_be_queued()?;
    let mut child = AutokillChild::prepared(&call(), || {
        SigSet::all().thread_block()?;
        check::succeeds("control: sigqueue before the limit", disposition::queue(libc::SIGRTMAX()))?;
        let maximum = getrlimit(Resource::Sigpending).maximum;
        setrlimit(Resource::Sigpending, Rlimit { current: Some(0), maximum })?;
        check::refused("sigqueue at the limit", disposition::queue(libc::SIGRTMAX()), Errno::EAGAIN)
    })?;
    child.close()?;
    child.dies("with its signal queue full, after the last close of its pidfd")
}

case! {
    /// The last close kills all threads of the child.
    autokill_multithreaded_child: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the kernel sends SIGKILL to the child\"); PIDTYPE_TGID",
}
fn autokill_multithreaded_child() -> Result {
    let started = Channel::<u32>::new()?;
    let mut child = call().spawn(|| {
        std::thread::scope(|scope| {
            for number in 0..5 {
                let started = &started;
                scope.spawn(move || {
                    let _ = started.send(&number);
                    park()
                });
            }
            park()
        })
    })?;
    for _ in 0..5 {
        started.recv_from(&child)?;
    }
    let observer = child.observe()?;
    child.close_pidfd()?;
    observer.reaped_with(Status::SIGKILLED)?;
    check::equal("what the threads sent when they were killed", started.try_recv()?, None)?;
    wait::no_child(child.pid())
}

case! {
    /// The last close kills a child whose leader thread has ended while another thread lives, and its status is SIGKILL's.
    autokill_leader_exited_child: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; fs/pidfs.c pidfs_file_release(): pid_task(PIDTYPE_TGID); complete_signal() picks a live thread",
}
fn autokill_leader_exited_child() -> Result {
    let mut child = threads::leaderless(&call(), 0, || exit_thread(1))?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    observer.gone_with(child.pid(), Status::SIGKILLED)
}

case! {
    /// exec in the child does not disarm its pidfd.
    autokill_after_child_exec: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "LKML, Christian Brauner 2026-02-17 (\"kill-on-close contract cannot be flaunted\")",
}
fn autokill_after_child_exec() -> Result {
    let mut child = Echo::execed(&call())?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    child.is_dead("after its exec and the last close of its pidfd")?;
    observer.reaped_with(Status::SIGKILLED)
}

case! {
    /// The last close kills a child that the kernel has given a thread to serve its io_uring (IORING_SETUP_SQPOLL).
    autokill_child_with_ring_thread: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the kernel sends SIGKILL\"); io_uring_setup(2), IORING_SETUP_SQPOLL",
}
fn autokill_child_with_ring_thread() -> Result {
    let mut child = AutokillChild::prepared(&call(), || {
        std::mem::forget(Ring::served_by_kernel()?);
        Ok(())
    })?;
    child.close()?;
    child.dies("whose io_uring a thread of the kernel serves, after the last close of its pidfd")
}

case! {
    /// exec by a thread other than the leader, which takes over the leader's pid, does not disarm the pidfd.
    autokill_after_nonleader_exec: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "LKML, Christian Brauner 2026-02-17 (\"kill-on-close contract cannot be flaunted\"); de_thread()",
}
fn autokill_after_nonleader_exec() -> Result {
    let gate = Gate::new()?;
    let (mut child, line) = about_to_exec(&gate)?;
    let observer = child.observe()?;
    gate.open()?;
    // Only the new program answers.
    line.is_alive(child.pid(), "after a thread's exec")?;
    child.close_pidfd()?;
    line.is_dead(child.pid(), "after a thread's exec and the last close of its pidfd")?;
    observer.gone_with(child.pid(), Status::SIGKILLED)
}

case! {
    /// The last close kills the child even while a thread other than its leader execs.
    autokill_vs_nonleader_exec_race: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the kernel sends SIGKILL\"); kill_pid_info_type() retries for this reason",
    rare_defect "7.1 to 7.3: pidfs_file_release() ignores ESRCH from do_send_sig_info(), so a kill that meets the change of leaders in de_thread() is lost and the child lives on, tied to nothing; rare",
}
fn autokill_vs_nonleader_exec_race() -> Result {
    for round in rounds(10) {
        let gate = Gate::new()?;
        let (mut child, line) = about_to_exec(&gate)?;
        let observer = child.observe()?;
        gate.open()?;
        // Each round hits the exec at a different moment.
        for _ in 0..round * 1000 {
            std::hint::spin_loop();
        }
        child.close_pidfd()?;
        // Only a program that runs on after the close could answer. The status of a dead one is checked by
        // `pidfd_info_killed_in_exec_exit_code`.
        let is_dead = line.is_dead(child.pid(), &format!("after the close, in round {round}"));
        is_dead.map_err(|failure| match (failure.kind, line.is_alive(child.pid(), "after that")) {
            // It is known that the child may live on; one that neither lives nor dies is something else.
            (Kind::Fail, Ok(())) => failure.as_defect(),
            _ => failure,
        })?;
        observer.wait_reaped()?;
    }
    Ok(())
}

/// Makes a child with an exec that waits for another thread to exit.
type AboutToExec = fn(&Gate, &'static AtomicU32) -> Result<(Child, ExecLine)>;

/// Closes the pidfd in the middle of the exec.
fn killed_during_exec(about_to_exec: AboutToExec) -> Result {
    threads::can_delay_exit()?;
    for _ in rounds(1) {
        let (gate, going) = (Gate::new()?, shared::word(1)?);
        let (mut child, line) = about_to_exec(&gate, going)?;
        let observer = child.observe()?;
        gate.open()?;
        // Only the exec ends that thread.
        shared::spin_until_cleared(going, "the end of the thread that the exec waits for")?;
        child.close_pidfd()?;
        line.is_dead(child.pid(), "after the last close of its pidfd, in the middle of an exec")?;
        observer.wait_reaped()?;
    }
    Ok(())
}

case! {
    /// The last close kills a child in the middle of the exec of its leader, which waits for another thread to exit: the new program
    /// never runs.
    autokill_during_leader_exec: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the kernel sends SIGKILL\"); execve(2); de_thread()",
}
fn autokill_during_leader_exec() -> Result {
    killed_during_exec(leader_about_to_exec_slowly)
}

case! {
    /// The last close kills a child in the middle of the exec of a thread other than its leader, which waits for a third thread to
    /// exit: the new program never runs.
    autokill_during_nonleader_exec: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the kernel sends SIGKILL\"); execve(2); de_thread()",
}
fn autokill_during_nonleader_exec() -> Result {
    killed_during_exec(about_to_exec_slowly)
}

case! {
    /// The last close kills a child that has begun a session of its own, as daemons do, and one that is a subreaper.
    autokill_after_setsid_daemon: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; setsid(2)",
}
fn autokill_after_setsid_daemon() -> Result {
    let mut child = AutokillChild::prepared(&call(), || {
        rustix::process::setsid()?;
        Ok(())
    })?;
    child.close()?;
    child.dies("in a session of its own, after the last close of its pidfd")?;

    let mut subreaper = AutokillChild::prepared(&call(), || {
        Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
    })?;
    subreaper.close()?;
    subreaper.dies("as a subreaper, after the last close of its pidfd")
}
