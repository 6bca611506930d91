//! CLONE_PIDFD_AUTOKILL: which processes die with the child, and which do not.

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3, Stack, park};
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::echo::line;
use clone3_conformance::kit::meeting::parent_and_child;
use clone3_conformance::kit::process::{in_child, own_pid, reap_all};
use clone3_conformance::kit::{AutokillChild, Channel, Gate, Handover, errands, fdpass, orphan};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Status};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::OnceLock;

/// Creates an auto-kill child, and a child of its own made by `call`, which answers pings.
fn with_child(call: &Clone3) -> Result<(Child, AutokillChild)> {
    parent_and_child(&Clone3::new(Flags::KILLED_NNP), |meeting| call.spawn(|| meeting.attend()))
}

/// Kills an ordinary process that was reparented to the case, and reaps it.
fn kill_and_reap(adopted: &AutokillChild) -> Result {
    check::succeeds("pidfd_send_signal(SIGKILL)", adopted.observer().send_signal(Signal::SIGKILL))?;
    wait::reap_expecting(adopted.pid(), Status::SIGKILLED)
}

case! {
    /// Only the auto-kill child itself dies: its own children, ordinary or auto-reaped, live on and are reparented to the next
    /// subreaper.
    autokill_grandchildren_survive: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "pull request vfs-7.1-rc1.pidfs; LKML, Jann Horn and Christian Brauner 2026-02-18 (killing a whole tree is future work)",
}
fn autokill_grandchildren_survive() -> Result {
    for call in [Clone3::fork(), Clone3::new(Flags::AUTOREAP)] {
        let (mut child, grandchild) = with_child(&call)?;
        let observer = child.observe()?;
        child.close_pidfd()?;
        observer.reaped_with(Status::SIGKILLED)?;
        grandchild.lives("after the death of its auto-kill parent")?;
        let parent = orphan::parent_of(grandchild.observer())?;
        check::equal("the grandchild's parent", parent, own_pid())?;
        if call.flags().contains(Flags::AUTOREAP) {
            grandchild.clear_away()?;
        } else {
            kill_and_reap(&grandchild)?;
        }
    }
    Ok(())
}

/// Gate at which a child waits that shares its creator's memory.
static SHARED_GATE: OnceLock<Gate> = OnceLock::new();

case! {
    /// A child that an auto-kill child has made with CLONE_VM is a process of its own, and lives on when its parent is killed.
    autokill_spares_sharer_of_memory: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; fs/pidfs.c pidfs_file_release(), PIDTYPE_TGID",
}
fn autokill_spares_sharer_of_memory() -> Result {
    let new = Gate::new()?;
    let gate = SHARED_GATE.get_or_init(|| new);
    let handover = Handover::arrange()?;
    let mut child = Clone3::new(Flags::KILLED_NNP).spawn(|| {
        let call = Clone3::fork().with(Flags::PIDFD | Flags::CLONE_VM);
        let sharer = Stack::new().and_then(|stack| call.spawn_on(&stack, errands::wait_at(gate)));
        if handover.give(sharer) { park() } else { 98 }
    })?;
    let observer = child.observe()?;
    let sharer = handover.take_from(&child)?;
    let pid = check::succeeds("PIDFD_GET_INFO", sharer.info(InfoMask::PID))?.pid;
    child.close_pidfd()?;
    observer.reaped_with(Status::SIGKILLED)?;
    gate.open()?;
    let what = "the child with which the killed process shared its memory";
    wait::reap_expecting(pid as i32, Status::exited(0)).context(what)
}

case! {
    /// A grandchild that asked for a signal at its parent's death gets it when that parent is auto-killed.
    autokill_grandchild_pdeathsig: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "PR_SET_PDEATHSIG(2const); forget_original_parent()",
}
fn autokill_grandchild_pdeathsig() -> Result {
    for asks in [false, true] {
        let (mut child, grandchild) = parent_and_child(&Clone3::new(Flags::KILLED_NNP), |meeting| {
            Clone3::new(Flags::AUTOREAP).spawn(|| {
                let signal = asks.then_some(rustix::process::Signal::KILL);
                match rustix::process::set_parent_process_death_signal(signal) {
                    Ok(()) => meeting.attend(),
                    Err(_) => 98,
                }
            })
        })?;
        let observer = child.observe()?;
        child.close_pidfd()?;
        observer.reaped_with(Status::SIGKILLED)?;
        if asks {
            grandchild.dies("after the death of its auto-kill parent, at which it asked for SIGKILL")?;
        } else {
            grandchild
                .lives("after the death of its auto-kill parent (control, without PR_SET_PDEATHSIG)")?;
            grandchild.clear_away()?;
        }
    }
    Ok(())
}

case! {
    /// If an auto-kill child holds the last reference to the pidfd of an auto-kill child of its own, one close kills both.
    autokill_cascade: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"when the last reference … is closed\"); exit_files()",
}
fn autokill_cascade() -> Result {
    let (mut child, grandchild) = with_child(&Clone3::new(Flags::KILLED_NNP))?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    observer.reaped_with(Status::SIGKILLED)?;
    grandchild.dies_in_time("after the death of its auto-kill parent, its only holder")
}

case! {
    /// Auto-kill is not inherited: a child made by an auto-kill child is killed neither by the close that kills its parent nor by
    /// the close of its own pidfd.
    autokill_not_inherited: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; the flag is the pidfd file's, not the process's",
}
fn autokill_not_inherited() -> Result {
    let closed = Gate::new()?;
    let (mut child, grandchild) = parent_and_child(&Clone3::new(Flags::KILLED_NNP), |meeting| {
        let mut grandchild = Clone3::fork().with(Flags::PIDFD).spawn(|| meeting.attend())?;
        grandchild.close_pidfd()?;
        closed.open()?;
        Ok(grandchild)
    })?;
    closed.wait_for(child.pidfd()?)?;
    grandchild.lives("after the last close of its own pidfd, by its auto-kill parent")?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    observer.reaped_with(Status::SIGKILLED)?;
    grandchild.lives("after the death of its auto-kill parent")?;
    kill_and_reap(&grandchild)
}

case! {
    /// An auto-kill child that is the init of a pid namespace dies like any other, although it ignores every signal, and its
    /// namespace dies with it.
    autokill_pidns_init_child: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, PidNamespace],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; pid_namespaces(7)",
}
fn autokill_pidns_init_child() -> Result {
    let (ours, theirs) = fdpass::pair()?;
    let mut init = AutokillChild::prepared(&Clone3::new(Flags::KILLED_NNP | Flags::CLONE_NEWPID), || {
        disposition::set_all(Disposition::Ignored);
        let member = Clone3::fork().with(Flags::PIDFD).spawn(park)?;
        fdpass::send(&theirs, member.pidfd()?)
    })?;
    let member = Pidfd::from(fdpass::receive(&ours)?);
    check::succeeds("pidfd_send_signal(SIGTERM)", init.observer().send_signal(Signal::SIGTERM))?;
    init.lives("after a SIGTERM that it ignores")?;
    init.close()?;
    init.dies("after the last close of its pidfd")?;
    member.reaped_with(Status::SIGKILLED)
}

/// Sends SIGKILL to init from inside its pid namespace, by kill and by pidfd. Both succeed and do not kill it.
fn init_is_immune(pidfd: &Pidfd) -> Result {
    check::succeeds("kill(1, SIGKILL) from inside", kill(Pid::from_raw(1), Signal::SIGKILL))?;
    check::succeeds("pidfd_send_signal(SIGKILL) from inside", pidfd.send_signal(Signal::SIGKILL))
}

case! {
    /// An auto-kill child that is the init of a pid namespace also dies when the last close happens inside the namespace, by init
    /// itself or by another member, where SIGKILL to it is otherwise ignored.
    autokill_pidns_init_killed_from_inside: Is, needs [Autoreap, Nnp, Autokill, ExitInfo, PidNamespace],
    source "pidfs_file_release(): SEND_SIG_PRIV overrides SIGNAL_UNKILLABLE; pid_namespaces(7)",
}
fn autokill_pidns_init_killed_from_inside() -> Result {
    in_child(closed_by_a_member)?;
    closed_by_init()
}

/// Runs in a process of its own, because its later children are in the namespace.
fn closed_by_a_member() -> Result {
    let (gate, report) = (Gate::new()?, Channel::<Result>::new()?);
    let mut init = AutokillChild::by(&Clone3::new(Flags::KILLED_NNP | Flags::CLONE_NEWPID))?;
    setns(init.pidfd()?, CloneFlags::CLONE_NEWPID)?;
    let member = Clone3::fork().spawn(|| {
        let _ = report.send(&init.pidfd().and_then(init_is_immune));
        gate.wait();
        let _ = init.close();
        0
    })?;
    report.recv_from(&member)??;
    init.close()?;
    init.lives("after SIGKILL from inside its pid namespace")?;
    gate.open()?;
    // Whatever the member's status: init's death is not complete before the last member is reaped.
    wait::reap(member.pid())?;
    init.dies("after the last close of its pidfd, inside its pid namespace")
}

fn closed_by_init() -> Result {
    let (gate, report, (ours, theirs)) = (Gate::new()?, Channel::<Result>::new()?, fdpass::pair()?);
    let mut init = Clone3::new(Flags::KILLED_NNP | Flags::CLONE_NEWPID).spawn(|| {
        let Ok(own) = fdpass::receive(&theirs).map(Pidfd::from) else { return 98 };
        let _ = report.send(&init_is_immune(&own));
        gate.wait();
        drop(own);
        0
    })?;
    let observer = init.observe()?;
    fdpass::send(&ours, init.pidfd()?)?;
    init.close_pidfd()?;
    // The report comes from a process that has just sent itself SIGKILL.
    report.recv_from(&init)??;
    gate.open()?;
    observer.gone_with(init.pid(), Status::SIGKILLED)
}

case! {
    /// A child of the auto-kill process that holds the last reference kills its own parent by closing it; the creator's close before
    /// that does not.
    autokill_closed_by_own_child: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\": whoever closes the last reference",
}
fn autokill_closed_by_own_child() -> Result {
    let ((ours, theirs), gate, started) = (fdpass::pair()?, Gate::new()?, Channel::<Result>::new()?);
    let (line, echoer) = line()?;
    let mut doomed = Clone3::new(Flags::KILLED_NNP).spawn(|| {
        line.close_in_child();
        let begin = || -> Result {
            let own = fdpass::receive(&theirs)?;
            // When this closure returns, only the child's copy is left.
            Clone3::fork().spawn(|| {
                echoer.close_in_child();
                gate.wait();
                drop(own);
                0
            })?;
            Ok(())
        };
        let _ = started.send(&begin());
        echoer.serve()
    })?;
    drop(echoer);
    let observer = doomed.observe()?;
    fdpass::send(&ours, doomed.pidfd()?)?;
    started.recv_from(&doomed)??;
    doomed.close_pidfd()?;
    line.is_alive(doomed.pid(), "after its creator's close, while its own child has the last reference")?;
    gate.open()?;
    observer.reaped_with(Status::SIGKILLED)?;
    reap_all()
}
