//! A child and processes around it that may not access each other: of different users, in different user namespaces, not
//! dumpable. Their relation does not depend on that.

use caps::Capability;
use clone3_conformance::abi::{Flags, InfoMask, Namespace};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, park};
use clone3_conformance::kit::outcome::outcome_in_child;
use clone3_conformance::kit::process::{in_child, own_pid};
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::{Channel, Echo, Gate, Held, Orphan, privilege, subject, threads, tracer};
use clone3_conformance::procfs;
use clone3_conformance::wait::{self, Event, Status, Who};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::ptrace::Options;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, setresuid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::os::fd::AsFd as _;

case! {
    /// An unprivileged process may send SIGCONT, and no other signal, to another user's process of its session, whichever of the new
    /// flags that is made with.
    abi_continued_by_session: Must, needs [Autoreap, Nnp, Autokill, Root],
    source "kill(2) (\"In the case of SIGCONT, it suffices when the sending and receiving processes belong to the same session\")",
}
fn abi_continued_by_session() -> Result {
    let other = Uid::from_raw(privilege::unused_id());
    for call in subject::every_kind() {
        let child = Held::prepared(&call, 0, || Ok(setresuid(other, other, other)?))?;
        let sent = |signal| {
            outcome_in_child(|| {
                privilege::become_ordinary_user()?;
                Ok(kill(Pid::from_raw(child.pid()), signal))
            })
        };
        let whom = format!("another user's process of the session, a child of {call}");
        check::refused(format_args!("control: SIGURG to {whom}"), sent(Signal::SIGURG)?, Errno::EPERM)?;
        check::succeeds(format_args!("SIGCONT to {whom}"), sent(Signal::SIGCONT)?)?;
        child.into_child().clear_away()?;
    }
    Ok(())
}

case! {
    /// Orphans are reparented to the nearest subreaper even if they, or the parent that they lose, are in another user namespace
    /// than it; an auto-reaped orphan leaves no zombie there either.
    autoreap_orphan_of_other_user_namespace: Must, needs [Autoreap, ExitInfo, UserNamespaces],
    source "PR_SET_CHILD_SUBREAPER(2const); user_namespaces(7); kernel/exit.c find_new_reaper(), reparent_leader()",
}
fn autoreap_orphan_of_other_user_namespace() -> Result {
    subject::each(|call| {
        let gate = Gate::new()?;
        let leaves_one = |call: &Clone3| {
            call.spawn(|| {
                gate.wait();
                7
            })
        };
        let inside = call.clone().with(Flags::CLONE_NEWUSER);
        let orphans = [
            ("the orphan", Orphan::left_by(|| leaves_one(&inside))?),
            (
                "its parent",
                Orphan::left_by(|| {
                    privilege::enter_user_namespace()?;
                    leaves_one(&call)
                })?,
            ),
        ];
        for (who, orphan) in &orphans {
            let what = format!("the new parent of an orphan of {call}, with {who} in another user namespace");
            check::equal(what, orphan.parent()?, own_pid())?;
        }
        orphans.iter().try_for_each(|_| gate.open())?;
        for (who, orphan) in &orphans {
            let ended = ends_by_its_kind(&call, orphan.pid, &orphan.pidfd, Status::exited(7));
            ended.context(format_args!("with {who} in another user namespace"))?;
        }
        Ok(())
    })
}

/// Checks what a parent learns about a live child through its pidfd, even if it may not trace the child.
#[track_caller]
fn is_known_to_its_parent(child: &Child) -> Result {
    let pidfd = child.pidfd()?;
    child.observe()?;
    let told = check::succeeds("PIDFD_GET_INFO", pidfd.info(InfoMask::PID))?;
    let expected = (child.pid() as u32, std::process::id(), rustix::process::getuid().as_raw());
    check::equal("pid, ppid and ruid in PIDFD_GET_INFO", (told.pid, told.ppid, told.ruid), expected)?;
    check::equal(
        "poll for POLLIN on the pidfd of a live child",
        pidfd.poll_now(PollFlags::POLLIN)?,
        PollFlags::empty(),
    )?;
    let found = wait::waitid(Who::Pidfd(pidfd.as_fd()), libc::WEXITED | libc::WNOHANG | libc::__WALL);
    check::equal("waitid(P_PIDFD, WEXITED|WNOHANG|__WALL)", found, Ok(None))
}

case! {
    /// A parent that may not trace its child, which is not dumpable, can use its pidfd for what does not require that:
    /// PIDFD_GET_INFO, poll, wait, and the exit information.
    pidfd_of_untraceable_child: Must, needs [ExitInfo, Unprivileged],
    source "waitid(2), P_PIDFD; poll(2) of a pidfd, pidfd_open(2); PR_SET_DUMPABLE(2const), which is about ptrace(2) and core dumps",
}
fn pidfd_of_untraceable_child() -> Result {
    subject::each(|call| {
        let child = Echo::prepared(&call, || Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?))?;
        let pidfd = child.pidfd()?;
        check::refused(
            "control: pidfd_getfd of a child that may not be traced",
            pidfd.getfd(0),
            Errno::EPERM,
        )?;
        is_known_to_its_parent(&child).context(&call)?;
        check::succeeds("pidfd_send_signal(SIGKILL)", pidfd.send_signal(Signal::SIGKILL)).context(&call)?;
        pidfd.wait_exited()?;
        if !child.reaps_itself() {
            let found = wait::waitid(Who::Pidfd(pidfd.as_fd()), libc::WEXITED | libc::__WALL);
            let killed = Event::killed(child.pid(), Signal::SIGKILL);
            check::equal(format_args!("waitid(P_PIDFD, WEXITED|__WALL) of {call}"), found, Ok(Some(killed)))?;
        }
        pidfd.reaped_with(Status::SIGKILLED).context(&call)
    })
}

case! {
    /// Anyone who has a pidfd of a process can read its exit information, even a user other than the one who made the pidfd or the
    /// process.
    pidfd_info_exit_for_stranger: Must, needs [ExitInfo, Root],
    source "include/uapi/linux/pidfd.h, PIDFD_INFO_EXIT; fs/pidfs.c pidfd_info(), which asks for no permission",
}
fn pidfd_info_exit_for_stranger() -> Result {
    subject::each(|call| {
        let child = call.spawn(|| 42)?;
        subject::wait_until_gone(&child)?;
        let told = in_child(|| {
            privilege::become_ordinary_user()?;
            child.pidfd()?.exit_status().map(|status| status.0)
        })?;
        check::equal(
            format_args!("exit information of {call} for another user"),
            Status(told),
            Status::exited(42),
        )?;
        Ok(())
    })
}

/// Creates a child by `call` that requests SIGKILL at its parent's end and then waits at the gate.
fn follows_its_parent(call: &Clone3, gate: &Gate) -> Result<Child> {
    let ready = Channel::<Result>::new()?;
    let child = call.spawn(|| {
        let asked = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        // The receiver sees a failed send as the end of the stream.
        let _ = ready.send(&asked.map_err(Failure::from));
        gate.wait();
        7
    })?;
    ready.recv()??;
    Ok(child)
}

case! {
    /// The signal of PR_SET_PDEATHSIG comes from the parent that ends: a child, auto-reaped or not, does not get it from a parent
    /// that may not signal the child, and gets it from one that may.
    autoreap_pdeathsig_of_parent_without_permission: Is, needs [Autoreap, ExitInfo, Root],
    source "kernel/exit.c forget_original_parent(): group_send_sig_info(SEND_SIG_NOINFO), which checks kill(2)'s permission",
}
fn autoreap_pdeathsig_of_parent_without_permission() -> Result {
    subject::each(|call| {
        let gate = Gate::new()?;
        let dies = Orphan::left_by(|| follows_its_parent(&call, &gate))?;
        dies.pidfd
            .wait_exited()
            .context(format_args!("control: a child of {call}, at the end of its parent"))?;
        ends_by_its_kind(&call, dies.pid, &dies.pidfd, Status::SIGKILLED)?;

        let lives = Orphan::left_by(|| {
            let child = follows_its_parent(&call, &gate)?;
            privilege::become_ordinary_user()?;
            Ok(child)
        })?;
        gate.open()?;
        ends_by_its_kind(&call, lives.pid, &lives.pidfd, Status::exited(7))
            .context("root's child, whose parent had become an ordinary user")?;
        Ok(())
    })
}

case! {
    /// Anyone who can see a CLONE_NNP child in /proc sees that it has no_new_privs, even without permission to trace it.
    nnp_shown_to_stranger: Must, needs [Nnp, NotYetNnp, Root, Proc],
    source "proc_pid_status(5), NoNewPrivs; Documentation/userspace-api/no_new_privs.rst",
}
fn nnp_shown_to_stranger() -> Result {
    for (flags, expected) in [(Flags::empty(), "0"), (Flags::NNP, "1")] {
        let child = Held::exiting_with(&Clone3::fork().with(flags), 0)?;
        let pid = child.pid();
        let shown = in_child(|| {
            privilege::become_ordinary_user()?;
            Ok(procfs::status_field(&pid.to_string(), "NoNewPrivs"))
        })?;
        let shown = shown.ok_or_else(|| Failure::blocked("/proc hides the processes of other users"))?;
        check::equal(
            format_args!("NoNewPrivs as another user sees it, clone3({flags})"),
            shown.as_str(),
            expected,
        )?;
        child.let_go()?;
        child.into_child().reap_expecting(Status::exited(0))?;
    }
    Ok(())
}

case! {
    /// The last close of an auto-kill pidfd kills a child that has become another user and that its creator may not signal: the
    /// creator's permissions, then or now, do not matter.
    autokill_child_that_creator_may_not_signal: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Root],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the kernel sends SIGKILL\"); kill(2), on permission",
}
fn autokill_child_that_creator_may_not_signal() -> Result {
    privilege::become_user_with(privilege::ORDINARY, Capability::CAP_SETUID)?;
    let other = Uid::from_raw(privilege::unused_id());
    let mut child = Echo::prepared(&Clone3::new(Flags::KILLED_NNP), || Ok(setresuid(other, other, other)?))?;
    let observer = child.observe()?;
    let sent = observer.send_signal(Signal::SIGTERM);
    check::refused("control: pidfd_send_signal to a child that is another user's", sent, Errno::EPERM)?;
    child.close_pidfd()?;
    child.is_dead("after the last close of its pidfd by its creator, who may not signal it")?;
    observer.gone_with(child.pid(), Status::SIGKILLED)
}

case! {
    /// Opening a process's namespaces through its pidfd requires the process's permitted capabilities (or CAP_SYS_PTRACE) in the
    /// caller's effective set; having them permitted only is EACCES.
    pidfd_namespace_by_effective_capabilities: Must, needs [PidfdInfo, Root],
    source "ptrace(2), \"Ptrace access mode checking\" (PTRACE_MODE_FSCREDS); fs/pidfs.c pidfd_ioctl()",
}
fn pidfd_namespace_by_effective_capabilities() -> Result {
    let permitted = privilege::permitted()?;
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let open = || child.pidfd().map(|pidfd| pidfd.namespace(Namespace::Mount).map(drop));
        check::succeeds("control: PIDFD_GET_MNT_NAMESPACE", open()?)?;
        privilege::set_effective(&[])?;
        let refused = open()?;
        privilege::set_effective(&permitted)?;
        check::refused("PIDFD_GET_MNT_NAMESPACE without effective capabilities", refused, Errno::EACCES)?;
        child.into_child().clear_away()
    })
}

case! {
    /// A tracee with PTRACE_O_EXITKILL dies when its tracer ends, even if the tracer has by then become a user who may not signal
    /// the tracee.
    autoreap_exitkill_by_tracer_without_permission: Must, needs [Autoreap, ExitInfo, Root, Ptrace],
    source "ptrace(2), PTRACE_O_EXITKILL: a SIGKILL signal is sent to the tracee if the tracer exits",
}
fn autoreap_exitkill_by_tracer_without_permission() -> Result {
    subject::each(|call| {
        let child = call.spawn(park)?;
        in_child(|| {
            tracer::seize(child.pid(), Options::PTRACE_O_EXITKILL)?;
            privilege::become_ordinary_user()
        })?;
        child.pidfd()?.wait_exited().context("at the end of its tracer")?;
        child.ends_with(Status::SIGKILLED)
    })
}

case! {
    /// An auto-reaped child that has become another user, and ends while a thread of its parent traces it, is reaped when that
    /// thread is gone: its parent is left no zombie.
    autoreap_tracee_of_other_user_let_go: Must, needs [Autoreap, ExitInfo, Root, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/ptrace.c __ptrace_detach()",
}
fn autoreap_tracee_of_other_user_let_go() -> Result {
    subject::each_reaped(|call| {
        let other = Uid::from_raw(privilege::unused_id());
        let child = Held::prepared(&call, 5, || Ok(setresuid(other, other, other)?))?;
        threads::in_a_thread(|| {
            tracer::seize(child.pid(), Options::empty())?;
            child.let_go()?;
            let found = wait::find_zombie(child.pid())?;
            check::equal(
                "control: the zombie of the child, to the thread that traces it",
                found,
                Event::exited(child.pid(), 5),
            )
        })?;
        child
            .pidfd()?
            .gone_with(child.pid(), Status::exited(5))
            .context("once its tracer, a thread, has gone")
    })
}
