//! Auto-reaped children that a process other than their parent traces with ptrace(2).

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::epoll::Watch;
use clone3_conformance::kit::meeting::parent_and_child;
use clone3_conformance::kit::process::{in_child, own_pid};
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::tracer::Tracer;
use clone3_conformance::kit::{
    Blocked, Echo, Grandchild, Held, Orphan, WaitCall, namespace, orphan, sigchld, subject, tracer,
};
use clone3_conformance::wait::{self, Event, Status, Who};
use nix::errno::Errno;
use nix::sys::ptrace::Options;
use nix::sys::signal::Signal;
use rustix::event::epoll::EventFlags;

/// Creates a child that has exited and is a zombie to its tracer, a sibling; returns both.
#[track_caller]
fn zombie_of_a_sibling(call: &Clone3, code: i32) -> Result<(Child, Tracer)> {
    let child = Held::traceable(call, code)?;
    let tracer = Tracer::of(child.pid())?;
    child.let_go()?;
    check::equal("what the tracer finds", tracer.find_zombie()?, Event::exited(child.pid(), code))?;
    Ok((child.into_child(), tracer))
}

/// Returns what the parent finds of a child, without blocking.
fn parent_sees(child: &Child) -> nix::Result<Option<Event>> {
    wait::waitid(Who::Pid(child.pid()), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL)
}

/// Checks, as a control, that the parent can wait for an ordinary child now that the tracer is done with it.
#[track_caller]
fn parent_gets_the_zombie(child: Child, code: i32) -> Result {
    let zombie = wait::find_zombie(child.pid()).context("control without CLONE_AUTOREAP")?;
    check::equal("control without CLONE_AUTOREAP", zombie, Event::exited(child.pid(), code))?;
    child.reap_expecting(Status::exited(code))
}

#[track_caller]
fn is_gone_with(child: &Child, expected: Status) -> Result {
    child.is_gone_with(expected)?;
    sigchld::none_pending()
}

case! {
    /// An auto-reaped child that exits while another process traces it is a zombie for the tracer alone, which gets SIGCHLD; for
    /// the parent's wait it is still alive, and the parent gets no SIGCHLD.
    autoreap_ptrace_other_tracer_zombie: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2); kernel/exit.c wait_consider_task(), exit_notify()",
}
fn autoreap_ptrace_other_tracer_zombie() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let (child, tracer) = zombie_of_a_sibling(&call, 16)?;
        check::equal("the parent's waitid(WEXITED|WNOHANG|__WALL)", parent_sees(&child), Ok(None))?;
        sigchld::none_pending()?;
        let heard = Some(Event::exited(child.pid(), 16));
        check::equal("SIGCHLD of the tracer", tracer.take_sigchld()?, heard)?;
        check::equal("the tracer's wait", tracer.reap()?, Status::exited(16))?;
        is_gone_with(&child, Status::exited(16))?;
        tracer.dismiss()
    })
}

case! {
    /// A tracer that is blocked in a wait for another process's auto-reaped child gets the child when it exits, as it gets an
    /// ordinary one.
    autoreap_ptrace_blocked_tracer_woken: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "ptrace(2) (\"Death under ptrace\"); kernel/signal.c do_notify_parent() (__wake_up_parent)",
}
fn autoreap_ptrace_blocked_tracer_woken() -> Result {
    subject::each_reaped(|reaped| {
        sigchld::block()?;
        for call in [Clone3::new(Flags::PIDFD), reaped.clone()] {
            let child = Grandchild::traceable(&call, 16)?;
            tracer::seize(child.pid, Options::empty())?;
            let wait = WaitCall::Pid(child.pid, libc::WEXITED | libc::__WALL);
            let tracer = Blocked::in_call(wait)?;
            child.let_go()?;
            let found = tracer.join()?;
            check::equal(
                format_args!("{wait} of the tracer of a child of {call}"),
                found,
                Ok(Some(child.pid)),
            )?;
            sigchld::pending_for(child.pid, libc::CLD_EXITED)?;
            let orphan = child.orphan()?;
            ends_by_its_kind(&call, orphan.pid, &orphan.pidfd, Status::exited(16))?;
        }
        Ok(())
    })
}

case! {
    /// When another process that traced an auto-reaped child until its end waits for it, the child is gone at once: its parent gets
    /// neither a zombie nor a SIGCHLD; for an ordinary child it gets both.
    autoreap_ptrace_other_tracer_wait_then_gone: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"without ever becoming a zombie\"); kernel/exit.c wait_task_zombie()",
}
fn autoreap_ptrace_other_tracer_wait_then_gone() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let (ordinary, tracer) = zombie_of_a_sibling(&Clone3::fork().with(Flags::PIDFD), 16)?;
        check::equal("the tracer's wait", tracer.reap()?, Status::exited(16))?;
        sigchld::pending_for(ordinary.pid(), libc::CLD_EXITED).context("control without CLONE_AUTOREAP")?;
        parent_gets_the_zombie(ordinary, 16)?;
        tracer.dismiss()?;

        let (child, tracer) = zombie_of_a_sibling(&call, 16)?;
        check::equal("the tracer's wait", tracer.reap()?, Status::exited(16))?;
        is_gone_with(&child, Status::exited(16))?;
        tracer.dismiss()
    })
}

case! {
    /// An auto-reaped child that exits while another process traces it is a zombie of the tracer even if the tracer ignores
    /// SIGCHLD, which would keep its own children from becoming zombies.
    autoreap_ptrace_tracer_ignores_sigchld: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "kernel/signal.c do_notify_parent(), which heeds SIG_IGN only where nobody traces",
}
fn autoreap_ptrace_tracer_ignores_sigchld() -> Result {
    subject::each(|call| {
        let child = Held::traceable(&call, 16)?;
        in_child(|| {
            disposition::set(Signal::SIGCHLD, Disposition::Ignored)?;
            tracer::seize(child.pid(), Options::empty())?;
            child.let_go()?;
            let found = wait::find_zombie(child.pid())?;
            check::equal("what the tracer finds", found, Event::exited(child.pid(), 16))?;
            wait::reap_expecting(child.pid(), Status::exited(16))
        })?;
        let child = child.into_child();
        match child.reaps_itself() {
            true => child.is_gone_with(Status::exited(16))?,
            false => parent_gets_the_zombie(child, 16)?,
        }
        Ok(())
    })
}

case! {
    /// epoll on the pidfd of an auto-reaped child that is a zombie to its tracer reports POLLIN, and POLLHUP once the
    /// tracer has waited.
    autoreap_ptrace_zombie_wakes_pollers: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "kernel/signal.c do_notify_pidfd(); pidfd_open(2)",
}
fn autoreap_ptrace_zombie_wakes_pollers() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let child = Held::traceable(&call, 16)?;
        let tracer = Tracer::of(child.pid())?;
        // Edge-triggered: reports new events only, not the current state.
        let watch = Watch::new(child.pidfd()?, EventFlags::IN | EventFlags::ET)?;
        child.let_go()?;
        tracer.find_zombie()?;
        check::equal("epoll_wait at the child's death", watch.next()?, EventFlags::IN)?;
        check::equal("the tracer's wait", tracer.reap()?, Status::exited(16))?;
        check::equal("epoll_wait at its end", watch.next()?, EventFlags::IN | EventFlags::HUP)?;
        is_gone_with(&child, Status::exited(16))?;
        tracer.dismiss()
    })
}

case! {
    /// The ppid in PIDFD_GET_INFO is the parent's pid, even while another process traces the child.
    pidfd_info_ppid_of_traced_child: Must, needs [PidfdInfo, Ptrace],
    source "fs/pidfs.c pidfd_info(), which asks for the parent as getppid(2) does; ptrace(2)",
}
fn pidfd_info_ppid_of_traced_child() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let child = Held::traceable(&call, 0)?;
        let tracer = Tracer::of(child.pid())?;
        let parent = orphan::parent_of(child.pidfd()?)?;
        check::equal(format_args!("ppid of the traced child of {call}"), parent, own_pid())?;
        tracer.dismiss()?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        // Discards the SIGCHLD of an ordinary child.
        let _ = sigchld::take();
        Ok(())
    })
}

case! {
    /// A parent that is blocked in a wait for an auto-reaped child gets ECHILD when the process that traced the child until its end
    /// waits for it or exits.
    autoreap_ptrace_other_tracer_wakes_parent: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/signal.c do_notify_parent() (\"a blocked sys_wait4 might now return -ECHILD\")",
}
fn autoreap_ptrace_other_tracer_wakes_parent() -> Result {
    subject::each_reaped(|reaped| {
        sigchld::block()?;
        for waits in [true, false] {
            let (child, tracer) = zombie_of_a_sibling(&reaped, 16)?;
            let call = WaitCall::Pid(child.pid(), libc::WEXITED | libc::__WALL);
            let parent = Blocked::in_call(call)?;
            let what = if waits { "its tracer waits for it" } else { "its tracer exits" };
            if waits {
                check::equal("the tracer's wait", tracer.reap()?, Status::exited(16))?;
            }
            tracer.dismiss()?;
            check::equal(
                format_args!("{call} of the parent, when {what}"),
                parent.join()?,
                Err(Errno::ECHILD),
            )?;
            is_gone_with(&child, Status::exited(16))?;
        }
        Ok(())
    })
}

case! {
    /// When another process that traced an auto-reaped child to its end exits without waiting, the child is
    /// gone; an ordinary child is then a zombie to its parent.
    autoreap_ptrace_other_tracer_exits: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\"; kernel/ptrace.c exit_ptrace()",
}
fn autoreap_ptrace_other_tracer_exits() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let (ordinary, tracer) = zombie_of_a_sibling(&Clone3::new(Flags::PIDFD), 16)?;
        tracer.dismiss()?;
        parent_gets_the_zombie(ordinary, 16)?;

        let (child, tracer) = zombie_of_a_sibling(&call, 16)?;
        tracer.dismiss()?;
        is_gone_with(&child, Status::exited(16))
    })
}

case! {
    /// The death of a tracer does nothing to the auto-reaped child that it traced: the child lives on, and is
    /// auto-reaped at its own end.
    autoreap_ptrace_tracer_killed_child_lives: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2): tracees of a tracer that dies go on",
}
fn autoreap_ptrace_tracer_killed_child_lives() -> Result {
    subject::each_reaped(|call| {
        sigchld::block()?;
        let prepare = || {
            tracer::let_anyone_trace_me();
            Ok(())
        };
        let child = Echo::prepared(&call, prepare)?;
        let tracer = Tracer::of(child.pid())?;
        child.is_alive("while it is traced")?;
        tracer.kill()?;
        child.is_alive("after its tracer was killed")?;
        is_gone_with(&child.into_child(), Status::exited(0))
    })
}

case! {
    /// With PTRACE_O_EXITKILL the exit of the tracer kills an auto-reaped child by SIGKILL, and it is reaped.
    autoreap_ptrace_exitkill: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "ptrace(2), PTRACE_O_EXITKILL; commit \"clone: add CLONE_AUTOREAP\"",
}
fn autoreap_ptrace_exitkill() -> Result {
    sigchld::block()?;
    let child = Held::traceable(&Clone3::new(Flags::REAPED), 0)?;
    Tracer::killing_on_exit(child.pid())?.dismiss()?;
    is_gone_with(&child, Status::SIGKILLED)
}

/// Order of the ends of a traced process and its parent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    BeforeItsParent,
    AfterItsParent,
}

/// Creates a process that is a zombie to a tracer and a child of the caller by reparenting; returns both. Checks that,
/// whichever end comes first, the tracer got one SIGCHLD about it, and the caller none.
#[track_caller]
fn traced_orphan(call: &Clone3, ends: Ends) -> Result<(Orphan, Tracer)> {
    let child = Grandchild::traceable(call, 16)?;
    let (pid, tracer) = (child.pid, Tracer::of(child.pid)?);
    let becomes_a_zombie = || {
        check::equal("what the tracer finds", tracer.find_zombie()?, Event::exited(pid, 16))?;
        check::equal("SIGCHLD of the tracer", tracer.take_sigchld()?, Some(Event::exited(pid, 16)))
    };
    if ends == Ends::BeforeItsParent {
        child.let_go()?;
        becomes_a_zombie()?;
    }
    let orphan = child.orphan()?;
    if ends == Ends::AfterItsParent {
        check::equal("ppid of the traced orphan", orphan.parent()?, own_pid())?;
        orphan.let_go()?;
        becomes_a_zombie()?;
    }
    check::equal("SIGCHLD of the tracer, after the one about the exit", tracer.take_sigchld()?, None)?;
    check::equal("waitid of the new parent, while the tracer has not waited", orphan.wait_now(), Ok(None))?;
    check::holds(!orphan.announced, "the new parent got SIGCHLD before the tracer waited")?;
    sigchld::none_pending()?;
    Ok((orphan, tracer))
}

/// Checks what the new parent gets when the tracer waits: for an ordinary child the zombie and SIGCHLD, for an auto-reaped
/// one neither.
#[track_caller]
fn new_parent_gets_no_auto_reaped_zombie(ends: Ends) -> Result {
    sigchld::block()?;
    let (ordinary, tracer) = traced_orphan(&Clone3::new(Flags::PIDFD), ends)?;
    check::equal("the tracer's wait", tracer.reap()?, Status::exited(16))?;
    sigchld::pending_for(ordinary.pid, libc::CLD_EXITED).context("control without CLONE_AUTOREAP")?;
    wait::reap_expecting(ordinary.pid, Status::exited(16)).context("control without CLONE_AUTOREAP")?;
    tracer.dismiss()?;

    let (orphan, tracer) = traced_orphan(&Clone3::new(Flags::REAPED), ends)?;
    check::equal("the tracer's wait", tracer.reap()?, Status::exited(16))?;
    orphan.pidfd.reaped_with(Status::exited(16))?;
    wait::no_such_child("waitid of the new parent, after the tracer's wait", orphan.wait_now())?;
    wait::no_child(orphan.pid)?;
    sigchld::none_pending()?;
    tracer.dismiss()
}

case! {
    /// An auto-reaped child whose parent ends while another process traces it stays traced: it becomes a zombie of the tracer
    /// alone, and after the tracer's wait the new parent gets neither a zombie nor SIGCHLD; for an ordinary child it gets both.
    autoreap_ptrace_other_tracer_reparent: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"without ever becoming a zombie\"); kernel/exit.c forget_original_parent()",
}
fn autoreap_ptrace_other_tracer_reparent() -> Result {
    new_parent_gets_no_auto_reaped_zombie(Ends::AfterItsParent)
}

case! {
    /// An auto-reaped child that is a zombie of another process that traces it remains one when its parent ends; after the tracer's
    /// wait the new parent gets neither a zombie nor SIGCHLD; for an ordinary child it gets both.
    autoreap_ptrace_other_tracer_zombie_reparent: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"without ever becoming a zombie\"); kernel/exit.c reparent_leader()",
}
fn autoreap_ptrace_other_tracer_zombie_reparent() -> Result {
    new_parent_gets_no_auto_reaped_zombie(Ends::BeforeItsParent)
}

case! {
    /// If a tracer is outside the pid namespace of an auto-reaped tracee and its parent, the SIGCHLD for the tracee's end gives the
    /// tracee's pid in the tracer's pid namespace, as for an ordinary tracee.
    autoreap_ptrace_sigchld_in_tracers_pidns: Must, needs [Autoreap, ExitInfo, Ptrace, PidNamespace],
    source "pid_namespaces(7); kernel/signal.c do_notify_parent() (task_active_pid_ns(tsk->parent))",
}
fn autoreap_ptrace_sigchld_in_tracers_pidns() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let (init, child) = parent_and_child(&namespace::init(), |meeting| call.spawn(|| meeting.attend()))?;
        tracer::seize(child.pid(), Options::empty())?;
        check::succeeds("pidfd_send_signal(SIGKILL)", child.observer().send_signal(Signal::SIGKILL))?;
        let told = Event::killed(child.pid(), Signal::SIGKILL);
        check::equal(format_args!("the tracer's SIGCHLD about a child of {call}"), sigchld::next()?, told)?;
        wait::reap_expecting(child.pid(), Status::SIGKILLED)?;
        init.clear_away()?;
        while sigchld::take().is_some() {}
        Ok(())
    })
}
