//! Processes that are gone leave nothing behind in the kernel.

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Clone3, NOWHERE, lowest_free_fd, park};
use clone3_conformance::kit::epoll::Watch;
use clone3_conformance::kit::handles::Handle;
use clone3_conformance::kit::leaks::{self, Kept, Room};
use clone3_conformance::kit::process::{in_child, reap_all};
use clone3_conformance::kit::tracer::Tracer;
use clone3_conformance::kit::{
    AutokillChild, Held, Orphan, fdpass, limits, namespace, privilege, sigchld, subject, tracer,
};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::ptrace::Options;
use nix::sys::signal::Signal;
use rustix::event::epoll::EventFlags;
use rustix::process::Resource;

case! {
    /// A pidfd keeps alive the pid namespace of a process that is gone, but only while the pidfd is open: a leaked struct pid would
    /// be seen.
    pidfd_keeps_pid_namespace: Is, needs [PidfdInfo, UserNamespaces, PidNamespace, Proc],
    source "kernel/pid.c put_pid(), which lets go of the namespace",
}
fn pidfd_keeps_pid_namespace() -> Result {
    let room = Room::with_pid_namespaces(2)?;
    // Created before the pidfd, which it would otherwise inherit.
    let other = Held::exiting_with(&namespace::init(), 0)?;
    let mut child = namespace::init().with(Flags::PIDFD).spawn(|| 0)?;
    let pidfd = child.take_pidfd()?;
    child.reap_expecting(Status::exited(0))?;
    // Deferred releases for the child are done once the kernel has done those for later processes, one after the other.
    for _ in 0..3 {
        let next = leaks::spawn_once_there_is_room(&Clone3::fork().with(Flags::CLONE_NEWUSER), || 0)?;
        next.reap_expecting(Status::exited(0))?;
    }
    let what = "room for a third pid namespace, beside that of another process and that of a pidfd whose process is gone";
    check::equal(what, room.has_space(Kept::PidNamespace)?, false)?;
    pidfd.close()?;
    room.empties().context("when the pidfd is closed")?;
    other.into_child().clear_away()
}

case! {
    /// Nothing is left of the pid namespace of an init when it is gone and its pidfd is closed, auto-reaped or not.
    autoreap_init_leaves_no_pid_namespace: Must, needs [Autoreap, ExitInfo, UserNamespaces, PidNamespace, Proc],
    source "pid_namespaces(7); kernel/exit.c release_task(); kernel/pid.c put_pid()",
}
fn autoreap_init_leaves_no_pid_namespace() -> Result {
    subject::each(|call| {
        in_child(|| {
            let room = Room::make()?;
            let init = Held::exiting_with(&call.with(Flags::CLONE_NEWPID), 0)?;
            let what = "control: room for a second pid namespace beside that of an init";
            check::equal(what, room.has_space(Kept::PidNamespace)?, false)?;
            init.end(false)?;
            drop(init);
            room.empties()
        })
    })
}

case! {
    /// Nothing of an auto-reaped child is left in the kernel, however it ended: no pid, no task, no open file.
    autoreap_leaves_nothing: Must, needs [Autoreap, ExitInfo, UserNamespaces, PidNamespace, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/exit.c release_task(), put_task_struct(); kernel/pid.c put_pid()",
}
fn autoreap_leaves_nothing() -> Result {
    subject::each_reaped(|reaped| {
        leaks::none_in(|| {
            for call in [reaped.clone(), Clone3::new(Flags::AUTOREAP)] {
                let exits = call.spawn(|| 1)?;
                let exits_beside_thread = call.spawn(|| {
                    std::thread::spawn(park);
                    2
                })?;
                let killed = call.spawn(park)?;
                killed.kill(Signal::SIGKILL)?;
                reap_all()?;
                // Not before: the close of its pidfd would kill a child of the third kind.
                drop((exits, exits_beside_thread, killed));
            }
            let orphan = Orphan::exiting_with(&reaped, 3)?;
            orphan.let_go()?;
            orphan.pidfd.reaped_with(Status::exited(3))
        })
    })
}

case! {
    /// Nothing of an auto-kill child or of its pidfd is left in the kernel, whether the child was killed by the close or by the end
    /// of the process that held the pidfd, or was dead before.
    autokill_leaves_nothing: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, UserNamespaces, PidNamespace, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; fs/pidfs.c pidfs_file_release()",
}
fn autokill_leaves_nothing() -> Result {
    leaks::none_in(|| {
        let mut closed = AutokillChild::new()?;
        closed.close()?;
        closed.observer().reaped_with(Status::SIGKILLED)?;

        let call = Clone3::new(Flags::KILLED_NNP);
        let holder = Clone3::fork().spawn(|| {
            let held = call.try_spawn(park);
            let code = i32::from(held.is_err());
            // Closed by the end of this process, not before.
            std::mem::forget(held);
            code
        })?;
        holder.reap_expecting(Status::exited(0))?;

        let dead = call.spawn(|| 4)?;
        dead.pidfd()?.reaped_with(Status::exited(4))?;
        drop(dead);
        reap_all()
    })
}

case! {
    /// Nothing of an auto-kill child is left in the kernel after its pidfd was duplicated, watched, reopened by its file handle,
    /// and in flight over a socket, even a socket that the child holds.
    autokill_references_leave_nothing: Must,
    needs [Autoreap, Nnp, Autokill, ExitInfo, UserNamespaces, PidNamespace, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; fs/file_table.c __fput(); net/unix/garbage.c; fs/pidfs.c pidfs_fh_to_dentry()",
}
fn autokill_references_leave_nothing() -> Result {
    leaks::none_in(|| {
        let mut child = AutokillChild::new()?;
        let (here, there) = fdpass::pair()?;
        fdpass::send(&here, child.pidfd()?)?;
        let watch = Watch::new(child.pidfd()?, EventFlags::IN)?;
        let copy = child.pidfd()?.try_clone()?;
        // Other cases check whether it can be opened.
        let reopened = Handle::try_of(child.observer()).and_then(|handle| handle.open(child.observer(), 0));
        child.close()?;
        drop((here, there, watch, copy, reopened));
        child.observer().reaped_with(Status::SIGKILLED)?;

        let (here, there) = fdpass::pair()?;
        let mut holds_itself = AutokillChild::new()?;
        fdpass::send(&here, holds_itself.pidfd()?)?;
        holds_itself.close()?;
        drop((here, there));
        holds_itself.clear_away()
    })
}

case! {
    /// Nothing is left in the kernel of a child with all three flags that execs, from its leader or from another thread, and then
    /// exits or is killed.
    autokill_exec_leaves_nothing: Must,
    needs [Autoreap, Nnp, Autokill, ExitInfo, UserNamespaces, PidNamespace, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; fs/exec.c de_thread(); kernel/exit.c release_task()",
}
fn autokill_exec_leaves_nothing() -> Result {
    leaks::none_in(|| {
        for exec in [Held::execed, Held::execed_by_thread] {
            let exits = exec(&Clone3::new(Flags::KILLED_NNP), 7)?;
            exits.let_go()?;
            exits.pidfd()?.reaped_with(Status::exited(7))?;

            let mut killed = exec(&Clone3::new(Flags::KILLED_NNP), 8)?;
            let observer = killed.observe()?;
            killed.close_pidfd()?;
            observer.reaped_with(Status::SIGKILLED)?;
        }
        Ok(())
    })
}

case! {
    /// Nothing of an auto-reaped child that was traced is left in the kernel, whether its tracer waits for it or
    /// ends while it is a zombie.
    autoreap_ptrace_leaves_nothing: Must, needs [Autoreap, ExitInfo, Ptrace, UserNamespaces, PidNamespace, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/ptrace.c __ptrace_detach(); kernel/exit.c wait_task_zombie()",
}
fn autoreap_ptrace_leaves_nothing() -> Result {
    subject::each_reaped(|call| {
        leaks::none_in(|| {
            sigchld::block()?;
            let awaited = Held::exiting_with(&call, 5)?;
            tracer::seize(awaited.pid(), Options::empty())?;
            awaited.let_go()?;
            wait::reap_expecting(awaited.pid(), Status::exited(5))?;
            awaited.pidfd()?.reaped_with(Status::exited(5))?;

            let abandoned = Held::exiting_with(&call, 6)?;
            let tracer = Tracer::of(abandoned.pid())?;
            abandoned.let_go()?;
            tracer.find_zombie()?;
            tracer.dismiss()?;
            abandoned.pidfd()?.reaped_with(Status::exited(6))
        })
    })
}

case! {
    /// Nothing is left in the kernel of a call that was refused, however far it had come.
    abi_refusal_leaves_nothing: Must, needs [Autoreap, Nnp, Autokill, UserNamespaces, PidNamespace, Proc],
    source "clone(2): no child process is created on failure; kernel/fork.c copy_process() (bad_fork_…)",
}
fn abi_refusal_leaves_nothing() -> Result {
    leaks::none_in(|| {
        for flags in [Flags::REAPED, Flags::KILLED, Flags::KILLED_NNP] {
            let call = Clone3::new(flags);
            call.clone().exit_signal(libc::SIGCHLD as u64).refused(Errno::EINVAL)?;
            call.clone().with(Flags::THREAD).refused(Errno::EINVAL)?;
            call.clone().pidfd_address(NOWHERE).refused(Errno::EFAULT)?;
            let free = lowest_free_fd()?;
            let got = limits::lowered(Resource::Nofile, free as u64, || call.try_spawn(|| 99))?;
            check::refused(&call, got, Errno::EMFILE)?;
        }
        privilege::drop_capabilities()?;
        Clone3::new(Flags::KILLED).refused(Errno::EPERM)
    })
}

/// Calls PIDFD_GET_INFO; other cases check the answers.
fn ask(pidfd: &Pidfd) {
    for request in [InfoMask::empty(), InfoMask::EXIT, InfoMask::all()] {
        let _ = pidfd.info(request);
    }
}

case! {
    /// Nothing is left in the kernel of processes on which PIDFD_GET_INFO was called while they were alive, zombies, and gone.
    pidfd_info_leaves_nothing: Must, needs [ExitInfo, UserNamespaces, PidNamespace, Proc],
    source "fs/pidfs.c pidfd_info(), where get_pid_task() needs a put_task_struct(), as kernel/pid.c says of pidfd_get_task() \
        (\"The caller is responsible for releasing that reference\"): without it any user could use up the kernel's memory",
    known_defect "6.16: each PIDFD_GET_INFO on a process that is not reaped yet leaves its task_struct",
    fixed "6.17.13",
}
fn pidfd_info_leaves_nothing() -> Result {
    let left = leaks::find(|| {
        subject::each(|call| {
            let child = Held::exiting_with(&call, 6)?;
            ask(child.pidfd()?);
            child.let_go()?;
            child.pidfd()?.wait_exited()?;
            ask(child.pidfd()?);
            subject::wait_until_gone(&child)?;
            ask(child.pidfd()?);
            Ok(())
        })
    })?;
    left.map_or(Ok(()), |failure| Err(failure.as_defect()))
}
