//! What an auto-reaped process may create, what its children inherit, and what persists across exec.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::disposition::Disposition;
use clone3_conformance::kit::helper::Command;
use clone3_conformance::kit::process::{
    child_reporting, choose_timer_ids, in_child, in_grandchild, reap_all,
};
use clone3_conformance::kit::programs::{CloneParentReport, try_clone_parent};
use clone3_conformance::kit::subject::{self, reaped};
use clone3_conformance::kit::{Channel, Held, Orphan, disposition, legacy, privilege, sigchld, threads};
use clone3_conformance::procfs::Task;
use clone3_conformance::wait::{self, Event, Status};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::process::{DumpableBehavior, getpid, set_child_subreaper, set_dumpable_behavior};

/// Checks that every use of CLONE_PARENT ended as `expected`: 0, or an errno.
fn all_ended(who: &str, report: &CloneParentReport, expected: i32) -> Result {
    let name = |number| if number == 0 { "success".to_owned() } else { Errno::from_raw(number).to_string() };
    for (call, got) in report {
        check::equal(format_args!("{call} by {who}"), name(*got), name(expected))?;
    }
    Ok(())
}

/// Creates a child by `call` that execs a program which tries CLONE_PARENT.
fn try_after_exec(call: &Clone3) -> Result<(Child, CloneParentReport)> {
    let report = Channel::<Result<CloneParentReport>>::new()?;
    let program = Command::new("clone-parent", &[])?.with_fd(&report.sending_end()?);
    let child = call.spawn(|| i32::from(report.send(&Err(program.exec())).is_err()))?;
    let told = report.recv_from(&child)??;
    Ok((child, told))
}

case! {
    /// An auto-reaped process may not use CLONE_PARENT at all: clone3, the older clone, and CLONE_PARENT for a
    /// thread are all EINVAL.
    autoreap_caller_clone_parent_rejected: Is, needs [Autoreap, ExitInfo],
    source "kernel/fork.c copy_process(); LKML, Oleg Nesterov 2026-02-28, Christian Brauner 2026-03-02",
}
fn autoreap_caller_clone_parent_rejected() -> Result {
    subject::each_reaped(|call| {
        let control = in_grandchild(try_clone_parent)?;
        all_ended("an ordinary process", &control, 0)?;
        let in_a_thread = || threads::in_a_thread(try_clone_parent);
        let control = in_grandchild(in_a_thread)?;
        all_ended("another thread of an ordinary process", &control, 0)?;
        let (child, report) = child_reporting(&call, try_clone_parent)?;
        all_ended("an auto-reaped process", &report, libc::EINVAL)?;
        child.pidfd()?.reaped_with(Status::exited(0))?;
        let (child, report) = child_reporting(&call, in_a_thread)?;
        all_ended("another thread of an auto-reaped process", &report, libc::EINVAL)?;
        child.pidfd()?.reaped_with(Status::exited(0))
    })
}

/// Has a process made by `call` try CLONE_PARENT after its parent has died; the children that it creates are the caller's.
fn try_as_orphan(call: &Clone3) -> Result<(Orphan, CloneParentReport)> {
    let report = Channel::<Result<CloneParentReport>>::new()?;
    let orphan = Orphan::running(call, || i32::from(report.send(&try_clone_parent()).is_err()))?;
    orphan.let_go()?;
    let told = report.recv()??;
    Ok((orphan, told))
}

case! {
    /// An auto-reaped process may not use CLONE_PARENT after its parent's death either, though its exit signal is
    /// SIGCHLD then.
    autoreap_caller_clone_parent_rejected_after_reparent: Is, needs [Autoreap, ExitInfo],
    source "kernel/fork.c copy_process(); LKML, Oleg Nesterov 2026-02-28, Christian Brauner 2026-03-02",
}
fn autoreap_caller_clone_parent_rejected_after_reparent() -> Result {
    subject::each_reaped(|call| {
        let (_, control) = try_as_orphan(&Clone3::new(Flags::PIDFD))?;
        reap_all()?;
        all_ended("an ordinary orphan", &control, 0)?;
        let (orphan, report) = try_as_orphan(&call)?;
        all_ended("an auto-reaped orphan", &report, libc::EINVAL)?;
        orphan.pidfd.reaped_with(Status::exited(0))?;
        wait::no_children()
    })
}

case! {
    /// An auto-reaped process may not use CLONE_PARENT after an exec either, though its exit signal is SIGCHLD
    /// then.
    autoreap_caller_clone_parent_rejected_after_exec: Is, needs [Autoreap, ExitInfo],
    source "kernel/fork.c copy_process(); LKML, Oleg Nesterov 2026-02-28, Christian Brauner 2026-03-02",
}
fn autoreap_caller_clone_parent_rejected_after_exec() -> Result {
    subject::each_reaped(|call| {
        let control = in_child(|| {
            let (_, report) = try_after_exec(&Clone3::fork())?;
            reap_all()?;
            Ok(report)
        })?;
        all_ended("an ordinary process after its exec", &control, 0)?;
        let (child, report) = try_after_exec(&call)?;
        all_ended("an auto-reaped process after its exec", &report, libc::EINVAL)?;
        child.pidfd()?.reaped_with(Status::exited(0))
    })
}

case! {
    /// An ordinary child of an auto-reaped process may use CLONE_PARENT: the restriction is not inherited.
    autoreap_child_of_autoreap_may_clone_parent: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"not inherited\")",
}
fn autoreap_child_of_autoreap_may_clone_parent() -> Result {
    subject::each_reaped(|call| {
        let (child, report) = child_reporting(&call, || {
            let own = try_clone_parent()?;
            let of_child = in_child(try_clone_parent)?;
            reap_all()?;
            Ok((own, of_child))
        })?;
        all_ended("an auto-reaped process, the control", &report.0, libc::EINVAL)?;
        all_ended("an ordinary child of an auto-reaped process", &report.1, 0)?;
        child.pidfd()?.reaped_with(Status::exited(0))
    })
}

case! {
    /// If an ordinary child of an auto-reaped process uses CLONE_PARENT, the new process is an ordinary child of the auto-reaped
    /// one: a zombie until it is waited for.
    autoreap_not_inherited_by_clone_parent: Must, needs [Autoreap, ExitInfo, Untraced],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"not inherited\"); clone(2), CLONE_PARENT",
}
fn autoreap_not_inherited_by_clone_parent() -> Result {
    subject::each_reaped(|call| {
        let (child, ()) = child_reporting(&call, || {
            let (between, made) =
                child_reporting(&Clone3::fork(), || Ok(Clone3::new(Flags::CLONE_PARENT).spawn(|| 8)?.pid()))?;
            between.reap_expecting(Status::exited(0))?;
            check::equal(
                "the child that was made with CLONE_PARENT, ended",
                wait::find_zombie(made)?,
                Event::exited(made, 8),
            )?;
            wait::reap_expecting(made, Status::exited(8))
        })?;
        child.is_gone_with(Status::exited(0))
    })
}

/// Creates a child that exits with 77, and returns its pid.
type Maker = fn() -> std::result::Result<i32, Errno>;

case! {
    /// Children that an auto-reaped process makes by fork, vfork or clone3 are ordinary: they are zombies until they are waited
    /// for, and are announced by their exit signal, if they have one.
    autoreap_no_inherit_fork: Must, needs [Autoreap, ExitInfo, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"not inherited\")",
}
fn autoreap_no_inherit_fork() -> Result {
    subject::each_reaped(|call| {
        let (child, ()) = child_reporting(&call, || {
            sigchld::block()?;
            let ways: [(&str, Maker, bool); 4] = [
                ("fork", || legacy::fork(77), true),
                ("vfork", || legacy::vfork(77), true),
                ("clone3", || Ok(Clone3::fork().try_spawn(|| 77)?.pid()), true),
                (
                    "clone3 with exit_signal 0",
                    || Ok(Clone3::new(Flags::empty()).try_spawn(|| 77)?.pid()),
                    false,
                ),
            ];
            for (way, make, announced) in ways {
                let pid = check::succeeds(way, make())?;
                let zombie = wait::find_zombie(pid)?;
                check::equal(format_args!("what {way} made"), zombie, Event::exited(pid, 77))?;
                let state = Task::of(pid).map(|task| task.state);
                check::equal(format_args!("state of what {way} made"), state, Some('Z'))?;
                if announced {
                    sigchld::pending_for(pid, libc::CLD_EXITED)?;
                }
                wait::reap_expecting(pid, Status::exited(77))?;
            }
            let own = call.spawn(|| 77)?;
            own.is_gone_with(Status::exited(77))?;
            sigchld::none_pending()
        })?;
        child.pidfd()?.reaped_with(Status::exited(0))
    })
}

case! {
    /// An auto-reaped process can make auto-reaped children of its own.
    autoreap_nested: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (each such child must be created explicitly)",
}
fn autoreap_nested() -> Result {
    subject::each_reaped(|call| {
        let (child, ()) = child_reporting(&call, || {
            let inner = call.spawn(|| 9)?;
            inner.is_gone_with(Status::exited(9))
        })?;
        child.is_gone_with(Status::exited(0))
    })
}

case! {
    /// Zombies that an auto-reaped process leaves when it ends are reparented to the subreaper as usual, which gets their status.
    autoreap_orphaned_zombies_still_reparent: Must, needs [Autoreap, ExitInfo],
    source "kernel/exit.c forget_original_parent(); PR_SET_CHILD_SUBREAPER(2const)",
}
fn autoreap_orphaned_zombies_still_reparent() -> Result {
    subject::each_reaped(|call| {
        let (child, orphan) = child_reporting(&call, || {
            let zombie = Clone3::fork().spawn(|| 55)?;
            wait::find_zombie(zombie.pid())?;
            Ok(zombie.pid())
        })?;
        child.pidfd()?.reaped_with(Status::exited(0))?;
        check::equal("the orphan", wait::find_zombie(orphan)?, Event::exited(orphan, 55))?;
        wait::reap_expecting(orphan, Status::exited(55))?;
        wait::no_children()
    })
}

/// A change that a process makes to itself, with its name.
type Change = (&'static str, fn() -> Result);

case! {
    /// An auto-reaped child inherits that its creator ignores SIGCHLD, as an ordinary child does: its own children leave no zombies.
    autoreap_inherits_ignored_sigchld: Must, needs [Autoreap, ExitInfo],
    source "signal(7) (\"a child created via fork(2) inherits a copy of its parent's signal dispositions\"); wait(2), ERRORS",
}
fn autoreap_inherits_ignored_sigchld() -> Result {
    disposition::set(Signal::SIGCHLD, Disposition::Ignored)?;
    subject::each(|call| {
        let (child, found) = child_reporting(&call, || {
            let other = Clone3::fork().spawn(|| 0)?;
            let waited = wait::waitpid(other.pid(), libc::__WALL);
            Ok((disposition::of(Signal::SIGCHLD)?, waited.err().map(|errno| errno as i32)))
        })?;
        let what = format!("what a child of {call} does with SIGCHLD, and the errno of its waitpid()");
        check::equal(what, found, (Disposition::Ignored, Some(libc::ECHILD)))?;
        child.pidfd()?.wait_reaped()
    })
}

/// Checks that an auto-reaped child that makes this change is gone when it ends, without a SIGCHLD.
fn survives(reaped: &Clone3, change: fn() -> Result) -> Result {
    let (child, ()) = child_reporting(reaped, change)?;
    child.is_gone_with(Status::exited(0))?;
    sigchld::none_pending()
}

/// Like [`survives`], for a child that then execs.
fn survives_before_exec(reaped: &Clone3, change: fn() -> Result) -> Result {
    let child = Held::execed_after(reaped, 62, 1, change)?;
    child.let_go()?;
    child.is_gone_with(Status::exited(62))?;
    sigchld::none_pending()
}

case! {
    /// Auto-reaping persists across what the child does to itself, with or without an exec afterwards: setpgid, unshare(CLONE_FS),
    /// PR_SET_PDEATHSIG, becoming undumpable, setting no_new_privs, PR_SET_CHILD_SUBREAPER and PR_TIMER_CREATE_RESTORE_IDS,
    /// ignoring SIGCHLD, fork, running a thread.
    autoreap_survives_own_changes: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (the property is the child's own)",
}
fn autoreap_survives_own_changes() -> Result {
    sigchld::block()?;
    let changes: [Change; 10] = [
        ("setpgid", || Ok(nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?)),
        ("unshare(CLONE_FS)", || Ok(unshare(CloneFlags::CLONE_FS)?)),
        ("PR_SET_PDEATHSIG", || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?)),
        ("PR_SET_DUMPABLE", || Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)),
        ("PR_SET_NO_NEW_PRIVS", || Ok(rustix::thread::set_no_new_privs(true)?)),
        ("PR_SET_CHILD_SUBREAPER", || Ok(set_child_subreaper(Some(getpid()))?)),
        ("PR_TIMER_CREATE_RESTORE_IDS", || {
            choose_timer_ids();
            Ok(())
        }),
        ("fork", || in_child(|| Ok(()))),
        ("a thread", || threads::in_a_thread(|| Ok(()))),
        // Must be last: a process that ignores SIGCHLD cannot wait for its children.
        ("SIGCHLD ignored", || disposition::set(Signal::SIGCHLD, Disposition::Ignored)),
    ];
    // Without this flag, a child would have nothing for its unshare to undo.
    let sharing = |call: Clone3| call.with(Flags::CLONE_FS);
    let ordinary = sharing(Clone3::new(Flags::PIDFD));
    let all_of_them = || changes.iter().try_for_each(|(_, change)| change());
    let (child, ()) = child_reporting(&ordinary, all_of_them)?;
    child.is_a_zombie(0).context("control without CLONE_AUTOREAP")?;
    child.reap_expecting(Status::exited(0))?;
    let child = Held::execed_after(&ordinary, 62, 1, all_of_them)?;
    child.let_go()?;
    child.into_child().reap_expecting(Status::exited(62))?;
    check::holds(sigchld::take().is_some(), "control: no SIGCHLD from an ordinary child that has execed")?;

    let reaped = sharing(reaped());
    for (what, change) in changes {
        survives(&reaped, change).context(what)?;
        survives_before_exec(&reaped, change).context(format_args!("{what}, then exec"))?;
    }
    Ok(())
}

case! {
    /// Auto-reaping persists across setsid, becoming a subreaper, setresuid and repeated exec.
    autoreap_survives_exec_setsid_setuid: Must, needs [Autoreap, ExitInfo, Root],
    source "commit \"clone: add CLONE_AUTOREAP\" (the property is the child's own)",
}
fn autoreap_survives_exec_setsid_setuid() -> Result {
    sigchld::block()?;
    let changes = || {
        nix::unistd::setsid()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        privilege::become_ordinary_user()
    };
    let control = Held::execed_after(&Clone3::new(Flags::PIDFD), 61, 1, changes)?;
    control.let_go()?;
    control.into_child().reap_expecting(Status::exited(61))?;
    check::holds(sigchld::take().is_some(), "control: no SIGCHLD from an ordinary child that has execed")?;

    let child = Held::execed_after(&reaped(), 61, 3, changes)?;
    child.let_go()?;
    child.is_gone_with(Status::exited(61))?;
    sigchld::none_pending()
}
