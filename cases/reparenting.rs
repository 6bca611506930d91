//! Auto-reaped children whose parent dies, and pid namespaces with their init.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, park};
use clone3_conformance::kit::child_of_init::ChildOfInit;
use clone3_conformance::kit::process::{in_child, own_pid};
use clone3_conformance::kit::{Halted, Handover, Orphan, fdpass, namespace, orphan, sigchld, subject};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Event, Status};
use nix::poll::PollFlags;
use nix::sys::signal::Signal;

/// Checks, as a control, that the caller can wait for an orphan made without CLONE_AUTOREAP and gets its SIGCHLD.
#[track_caller]
fn an_ordinary_orphan_is_waited_for() -> Result {
    let orphan = Orphan::exiting_with(&Clone3::new(Flags::PIDFD), 3)?;
    check::equal("waitid of the new parent", orphan.wait_now(), Ok(None)).context("control")?;
    check::succeeds("pidfd_send_signal(SIGKILL)", orphan.pidfd.send_signal(Signal::SIGKILL))?;
    wait::reap_expecting(orphan.pid, Status::SIGKILLED).context("control")?;
    sigchld::pending_for(orphan.pid, libc::CLD_KILLED).context("control")
}

/// Checks that an auto-reaped orphan is the caller's child while it lives, but not once it is killed. Its exit signal is
/// SIGCHLD by then, so a wait without `__WALL` would find it, too.
#[track_caller]
fn an_auto_reaped_orphan_vanishes() -> Result {
    let orphan = Orphan::exiting_with(&Clone3::new(Flags::REAPED), 3)?;
    check::equal("waitid of the new parent, before the end", orphan.wait_now(), Ok(None))?;
    check::succeeds("pidfd_send_signal(SIGKILL)", orphan.pidfd.send_signal(Signal::SIGKILL))?;
    orphan.pidfd.reaped_with(Status::SIGKILLED)?;
    wait::no_such_child("waitid of the new parent, after the end", orphan.wait_now())?;
    wait::no_child(orphan.pid)?;
    wait::pid_is_free(orphan.pid)?;
    sigchld::none_pending()
}

case! {
    /// An auto-reaped child that is killed after a subreaper became its parent leaves the subreaper neither a
    /// zombie nor a SIGCHLD, where an ordinary one leaves both.
    autoreap_reparent_subreaper: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\"; selftest autoreap_reparent",
}
fn autoreap_reparent_subreaper() -> Result {
    sigchld::block()?;
    an_ordinary_orphan_is_waited_for()?;
    an_auto_reaped_orphan_vanishes()
}

case! {
    /// An auto-reaped child that is killed after the init of a pid namespace became its parent leaves init
    /// neither a zombie nor a SIGCHLD, where an ordinary one leaves both.
    autoreap_reparent_pidns_init: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "commit \"clone: add CLONE_AUTOREAP\"; pid_namespaces(7)",
}
fn autoreap_reparent_pidns_init() -> Result {
    namespace::as_init(|| {
        sigchld::block()?;
        an_ordinary_orphan_is_waited_for()?;
        an_auto_reaped_orphan_vanishes()
    })
}

case! {
    /// Without a subreaper an orphan's parent is pid 1. An auto-reaped orphan is gone when it ends although pid 1 does not wait; an
    /// ordinary one is a zombie until pid 1 waits.
    autoreap_reparent_init: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "commit \"clone: add CLONE_AUTOREAP\"; PR_SET_CHILD_SUBREAPER(2const)",
}
fn autoreap_reparent_init() -> Result {
    subject::each_reaped(|reaped| {
        // The process that in_child() makes is no subreaper, and the search for one stops at the namespace.
        let orphan_of_init = |call: Clone3| -> Result<Orphan> {
            let orphan = Orphan::exiting_with(&call, 3)?;
            check::equal("ppid of the orphan", orphan.parent()?, 1)?;
            orphan.let_go()?;
            Ok(orphan)
        };
        namespace::as_init(|| {
            let zombie = in_child(|| {
                let orphan = orphan_of_init(Clone3::new(Flags::PIDFD))?;
                orphan.pidfd.wait_exited()?;
                Ok(orphan.pid)
            })?;
            check::equal("control", wait::find_zombie(zombie)?, Event::exited(zombie, 3))?;
            wait::reap_expecting(zombie, Status::exited(3))?;
            in_child(|| {
                let orphan = orphan_of_init(reaped.clone())?;
                orphan.pidfd.reaped_with(Status::exited(3))?;
                wait::pid_is_free(orphan.pid)
            })?;
            wait::no_children()
        })
    })
}

case! {
    /// An auto-reaped child that was reparented to the init of the whole system is gone without a wait when it ends: init does not
    /// find it as a zombie, as it does an ordinary one.
    autoreap_reparent_global_init: Must, needs [Autoreap, ExitInfo, Root, Proc, Ptrace, GlobalChanges],
    source "commit \"clone: add CLONE_AUTOREAP\"; PR_SET_CHILD_SUBREAPER(2const)",
}
fn autoreap_reparent_global_init() -> Result {
    let ordinary = ChildOfInit::made_with(Flags::PIDFD)?;
    let child = ChildOfInit::made_with(Flags::REAPED)?;
    // While init is halted, it waits for no child.
    let init = Halted::process(1)?;
    ordinary.let_go()?;
    ordinary.pidfd.wait_exited()?;
    child.let_go()?;
    child.pidfd.reaped_with(Status::exited(3))?;
    let state = ordinary.pidfd.poll_now(PollFlags::POLLIN)?;
    drop(init);
    if state != PollFlags::POLLIN {
        let why = "pid 1 waits for children that it adopted although its first thread is halted";
        return Err(Failure::blocked(why));
    }
    Ok(())
}

case! {
    /// The last close of its pidfd kills an auto-kill child that was reparented to the init of a pid namespace.
    autokill_orphan_of_init: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, PidNamespace],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; pid_namespaces(7)",
}
fn autokill_orphan_of_init() -> Result {
    namespace::as_init(|| {
        let mut orphan = Orphan::exiting_with(&Clone3::new(Flags::KILLED_NNP), 3)?;
        check::equal("ppid of the orphan", orphan.parent()?, 1)?;
        let observer = Pidfd::open(orphan.pid)?;
        std::mem::replace(&mut orphan.pidfd, observer).close()?;
        orphan.pidfd.reaped_with(Status::SIGKILLED)
    })
}

case! {
    /// The last close of its pidfd kills an auto-kill child that was reparented to the init of the whole system, as the children of a
    /// program are that passed the pidfd on and ended.
    autokill_orphan_of_global_init: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Root, Proc, GlobalChanges],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"when the last reference … is closed\")",
}
fn autokill_orphan_of_global_init() -> Result {
    let mut child = ChildOfInit::made_with(Flags::KILLED_NNP)?;
    let pid = child.pidfd.pid_in_fdinfo().ok_or_else(|| Failure::broken("no pid in fdinfo"))?;
    let observer = Pidfd::open(pid)?;
    check::equal("POLLIN before the close", observer.poll_now(PollFlags::POLLIN)?, PollFlags::empty())?;
    std::mem::replace(&mut child.pidfd, observer).close()?;
    child.pidfd.reaped_with(Status::SIGKILLED).context("a child of pid 1 after the last close of its pidfd")
}

case! {
    /// PIDFD_GET_INFO gives the current parent of an auto-reaped child: its creator, and after the creator's death the subreaper.
    autoreap_ppid_follows_reparent: Is, needs [Autoreap, PidfdInfo],
    source "fs/pidfs.c pidfd_info(), which asks for the parent as getppid(2) does",
}
fn autoreap_ppid_follows_reparent() -> Result {
    subject::each_reaped(|call| {
        let (ours, theirs) = fdpass::pair()?;
        let (before, creator) = in_child(|| {
            let child = call.spawn(park)?;
            fdpass::send(&theirs, child.pidfd()?)?;
            Ok((orphan::parent_of(child.pidfd()?)?, own_pid()))
        })?;
        check::equal("ppid while the creator lives", before, creator)?;
        let orphan = Pidfd::from(fdpass::receive(&ours)?);
        check::equal("ppid after the creator's death", orphan::parent_of(&orphan)?, own_pid())?;
        check::succeeds("pidfd_send_signal(SIGKILL)", orphan.send_signal(Signal::SIGKILL))?;
        orphan.wait_reaped()
    })
}

/// Creates the init of a pid namespace by `call`, which exits with 44 while its child, made by `inner`, is alive. Returns
/// that child's pidfd, too.
#[track_caller]
fn init_that_leaves(call: &Clone3, inner: &Clone3) -> Result<(Child, Pidfd)> {
    let handover = Handover::arrange()?;
    let init = call.clone().with(Flags::CLONE_NEWPID).spawn(|| {
        handover.give(inner.spawn(park));
        44
    })?;
    let inner = handover.take_from(&init)?;
    Ok((init, inner))
}

case! {
    /// The init of a pid namespace may itself be auto-reaped: its namespace ends with it, and its parent gets neither a zombie nor
    /// a SIGCHLD.
    autoreap_pidns_init: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "commit \"clone: add CLONE_AUTOREAP\"; pid_namespaces(7)",
}
fn autoreap_pidns_init() -> Result {
    sigchld::block()?;
    let inner = Clone3::new(Flags::PIDFD);
    let (ordinary, member) = init_that_leaves(&Clone3::new(Flags::PIDFD), &inner)?;
    check::equal("control", wait::find_zombie(ordinary.pid())?, Event::exited(ordinary.pid(), 44))?;
    ordinary.reap_expecting(Status::exited(44))?;
    member.reaped_with(Status::SIGKILLED)?;

    let (init, member) = init_that_leaves(&Clone3::new(Flags::REAPED), &inner)?;
    init.pidfd()?.reaped_with(Status::exited(44))?;
    member.reaped_with(Status::SIGKILLED)?;
    wait::no_child(init.pid())?;
    wait::pid_is_free(init.pid())?;
    sigchld::none_pending()
}

case! {
    /// Live auto-reaped children of a pid namespace's init do not keep it from ending: they are killed, and init can be waited for.
    autoreap_pidns_teardown: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "pid_namespaces(7); kernel/pid_namespace.c zap_pid_ns_processes()",
}
fn autoreap_pidns_teardown() -> Result {
    for inner in [Clone3::new(Flags::PIDFD), Clone3::new(Flags::REAPED)] {
        let (init, member) = init_that_leaves(&Clone3::fork(), &inner)?;
        init.reap_expecting(Status::exited(44)).context(&inner)?;
        member.reaped_with(Status::SIGKILLED).context(&inner)?;
    }
    Ok(())
}
