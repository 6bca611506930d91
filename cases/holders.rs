//! CLONE_PIDFD_AUTOKILL: what happens to the child when the process that holds its pidfd ends.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::{Clone3, Stack, exit_thread, lowest_free_fd, park};
use clone3_conformance::kit::coredump::Server;
use clone3_conformance::kit::crash::Crash;
use clone3_conformance::kit::meeting::{Meeting, parent_and_child};
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::{
    AutokillChild, Echo, End, Gate, Holder, Orphan, channel, errands, fdpass, sigchld, threads,
};
use clone3_conformance::pidfd::{Pidfd, pid_in_fdinfo};
use clone3_conformance::wait::{self, Status};
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use nix::unistd::close;
use rustix::pipe::{PipeFlags, pipe_with};

case! {
    /// An auto-kill child dies when the only process that holds its pidfd ends by _exit, a thread's exit_group, abort, SIGSEGV or
    /// SIGKILL.
    autokill_holder_sigkill_sigsegv_abort_exit: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "pull request vfs-7.1-rc1.pidfs (\"the child must die if the parent crashes\")",
}
fn autokill_holder_sigkill_sigsegv_abort_exit() -> Result {
    for end in End::ALL {
        let (holder, _, child) = AutokillChild::elsewhere()?;
        holder.end(end)?;
        child.dies(&format!("after its only holder ended: {end:?}"))?;
    }
    Ok(())
}

case! {
    /// An auto-kill child dies when the only process that holds its pidfd has dumped core.
    autokill_holder_dumps_core: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "pull request vfs-7.1-rc1.pidfs (\"the child must die if the parent crashes\"); core(5)",
}
fn autokill_holder_dumps_core() -> Result {
    let server = Server::start()?;
    let meeting = Meeting::arrange()?;
    let holder = Clone3::fork().with(Flags::PIDFD).spawn(|| {
        let child = Clone3::new(Flags::KILLED_NNP).spawn(|| meeting.attend());
        if meeting.announce(&child) { Crash::Abort.with_large_core() } else { 97 }
    })?;
    let child = meeting.meet_child_of(&holder)?;
    server.take_dump_of(holder.pidfd()?)?;
    holder.reap_expecting(Crash::Abort.dumped())?;
    child.dies("after its only holder dumped core")
}

case! {
    /// A hundred auto-kill children die with their parent. Each pidfd but the last is inherited by the younger siblings, whose
    /// deaths release it in turn.
    autokill_100_children_parent_killed: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "pull request vfs-7.1-rc1.pidfs (\"the child must die if the parent crashes\")",
}
fn autokill_100_children_parent_killed() -> Result {
    let (silent, _open) = pipe_with(PipeFlags::CLOEXEC)?;
    let (parent, pids) = Holder::running(|| {
        // They share the parent's memory, which makes them cheap, but not its descriptors.
        let call = Clone3::new(Flags::KILLED_NNP | Flags::CLONE_VM);
        let mut pids = Vec::new();
        for _ in 0..100 {
            let mut child = call.spawn_on(&Stack::new()?, errands::wait_for_input(&silent))?;
            std::mem::forget(child.take_pidfd()?);
            pids.push(child.pid());
        }
        Ok(pids)
    })?;
    let observers = pids.iter().map(|pid| Pidfd::open(*pid)).collect::<Result<Vec<_>>>()?;
    for child in &observers {
        check::equal("poll while the parent lives", child.poll_now(PollFlags::POLLIN)?, PollFlags::empty())?;
    }
    parent.end(End::Killed)?;
    observers.iter().try_for_each(|child| child.reaped_with(Status::SIGKILLED))?;
    wait::no_children()
}

case! {
    /// The exit of the holder's leader thread alone releases nothing: the child lives until the holder's last thread is gone.
    autokill_holder_leader_thread_exit: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"when the last reference … is closed\"); files_struct is shared by all threads",
}
fn autokill_holder_leader_thread_exit() -> Result {
    let meeting = Meeting::arrange()?;
    let holder = Clone3::fork().spawn(|| {
        let child = Clone3::new(Flags::KILLED_NNP).spawn(|| meeting.attend());
        if !meeting.announce(&child) {
            return 97;
        }
        std::thread::scope(|scope| {
            scope.spawn(park);
            exit_thread(0)
        })
    })?;
    let child = meeting.meet_child_of(&holder)?;
    threads::wait_for_dead_leader(holder.pid())?;
    child.lives("after the holder's leader thread ended and another lives")?;
    holder.kill(Signal::SIGKILL)?;
    holder.reap_expecting(Status::SIGKILLED)?;
    child.dies("after the holder's last thread was killed")
}

case! {
    /// An auto-kill child survives the exit of the thread that created it; a child with PR_SET_PDEATHSIG, which is tied to that
    /// thread, does not.
    autokill_creating_thread_exit: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"ties the child's lifetime to the pidfd file\"); PR_SET_PDEATHSIG(2const)",
}
fn autokill_creating_thread_exit() -> Result {
    let (mut child, control) = threads::in_a_thread(|| {
        let control = Echo::prepared(&Clone3::new(Flags::REAPED), || {
            let signal = Some(rustix::process::Signal::KILL);
            Ok(rustix::process::set_parent_process_death_signal(signal)?)
        })?;
        Ok((AutokillChild::new()?, control))
    })?;
    // Its death also shows that the thread is gone, which a join does not.
    control.pidfd()?.reaped_with(Status::SIGKILLED)?;
    child.lives("after the exit of the thread that created it")?;
    child.close()?;
    child.dies("after the last close of its pidfd")
}

case! {
    /// An auto-kill child whose creator passed the pidfd on and ended lives; when the receiving process closes the pidfd, the child
    /// dies and is reaped there without a zombie or a SIGCHLD.
    autokill_creator_dead_fd_elsewhere: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"when the last reference … is closed\")",
}
fn autokill_creator_dead_fd_elsewhere() -> Result {
    sigchld::block()?;
    let meeting = Meeting::arrange()?;
    let orphan = Orphan::left_by(|| Clone3::new(Flags::KILLED_NNP).spawn(|| meeting.attend()))?;
    let child = meeting.meet()?;
    child.lives("after its creator passed the pidfd on and ended")?;
    orphan.pidfd.close()?;
    child.dies("after the close by the process that the pidfd was passed to")?;
    sigchld::none_pending()?;

    // This creator still has its own copy open when it ends.
    let (meeting, (ours, theirs)) = (Meeting::arrange()?, fdpass::pair()?);
    in_child(|| {
        let child = Clone3::new(Flags::KILLED_NNP).spawn(|| meeting.attend())?;
        fdpass::send(&theirs, child.pidfd()?)?;
        std::mem::forget(child);
        Ok(())
    })?;
    let child = meeting.meet()?;
    let passed_on = Pidfd::from(fdpass::receive(&ours)?);
    child.lives("after its creator ended with a copy of the pidfd open")?;
    passed_on.close()?;
    child.dies("after the close by the process that the pidfd was passed to")
}

case! {
    /// With CLONE_VFORK the pidfd is there before the caller is suspended: another thread can close it, which
    /// kills the child, and clone3 returns the child's pid.
    autokill_vfork_fd_live_early: Is, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "kernel_clone(): fd_install() in copy_process() precedes wait_for_vfork_done()",
}
fn autokill_vfork_fd_live_early() -> Result {
    let (running, other) = pipe_with(PipeFlags::CLOEXEC)?;
    let gate = Gate::new()?;
    // No other thread opens a file meanwhile, so clone3 will use this number for the pidfd.
    let fd = lowest_free_fd()?;
    std::thread::scope(|scope| {
        let creator = scope.spawn(|| {
            Clone3::new(Flags::KILLED_NNP | Flags::CLONE_VFORK).spawn(|| {
                let _ = rustix::io::write(&other, b"r");
                gate.wait();
                0
            })
        });
        let closed = channel::read_byte(&running).and_then(|_| close_under_way(fd, || creator.is_finished()));
        // The creator is suspended while the child lives, and after a failure the child may be alive.
        gate.open()?;
        let mut child = threads::join(creator)?;
        // The descriptor is closed already.
        std::mem::forget(child.take_pidfd());
        check::equal("what clone3(CLONE_VFORK) returned", child.pid(), closed?)
    })
}

/// Closes the pidfd that a pending clone3(CLONE_VFORK) has put here, checks that this kills the child, and returns the
/// child's pid.
fn close_under_way(fd: i32, has_returned: impl Fn() -> bool) -> Result<i32> {
    let pid = pid_in_fdinfo(fd).ok_or_else(|| {
        Failure::fail(format!("no pidfd at descriptor {fd} while clone3(CLONE_VFORK) is under way"))
    })?;
    let observer = Pidfd::open(pid)?;
    check::equal("clone3 has returned while its child runs", has_returned(), false)?;
    close(fd)?;
    observer.reaped_with(Status::SIGKILLED)?;
    Ok(pid)
}

case! {
    /// Killing a process that CLONE_VFORK suspends until its auto-kill child execs or exits kills that child.
    autokill_vfork_parent_killed: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "pull request vfs-7.1-rc1.pidfs (\"the child must die if the parent crashes\"); wait_for_vfork_done() is killable",
}
fn autokill_vfork_parent_killed() -> Result {
    let (parent, child) = parent_and_child(&Clone3::fork(), |meeting| {
        Clone3::new(Flags::KILLED_NNP | Flags::CLONE_VFORK).spawn(|| meeting.attend())
    })?;
    threads::wait_until_process_is_blocked(parent.pid())?;
    parent.kill(Signal::SIGKILL)?;
    parent.reap_expecting(Status::SIGKILLED)?;
    child.dies("after the death of the parent that it suspended")
}
