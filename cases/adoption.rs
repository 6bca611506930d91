//! Reparenting around auto-reaped children: which orphans they adopt, which process adopts them, and how often.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::helper::{HELPERS, Helper};
use clone3_conformance::kit::process::{child_reporting, in_child, own_pid};
use clone3_conformance::kit::programs::or_wrong;
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::{
    Actor, Channel, Gate, Grandchild, Orphan, fdpass, orphan, outsider, programs, sigchld, subject, tracer,
};
use clone3_conformance::linkme::distributed_slice;
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Event, Status};
use nix::errno::Errno;

/// Makes the caller a subreaper, or makes it stop being one.
fn be_subreaper(yes: bool) -> Result {
    Ok(rustix::process::set_child_subreaper(yes.then(rustix::process::getpid))?)
}

/// Creates a child that waits at this gate, after an exec if `execs`, and then exits with 5.
fn waiting_at(gate: &Gate, call: &Clone3, execs: bool) -> Result<Child> {
    let ready = Channel::<Result>::new()?;
    let hold = programs::hold(&ready, gate, 5)?;
    let child = call.spawn(|| {
        // The receiver sees a failed send as the end of the stream.
        let _ = ready.send(&if execs { Err(hold.exec()) } else { Ok(()) });
        gate.wait();
        5
    })?;
    ready.recv_from(&child)??;
    Ok(child)
}

case! {
    /// An auto-reaped child that is reparented twice, to a subreaper and, once that has ended, to the next one, is gone without a
    /// wait, whether it has called exec or not; an ordinary one becomes a zombie of its last parent.
    autoreap_adopted_twice: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (reparenting); kernel/exit.c reparent_leader()",
}
fn autoreap_adopted_twice() -> Result {
    subject::each(|call| {
        for execs in [false, true] {
            let (gate, (ours, theirs)) = (Gate::new()?, fdpass::pair()?);
            let pid = in_child(|| {
                be_subreaper(true)?;
                let pid = in_child(|| {
                    let child = waiting_at(&gate, &call, execs)?;
                    fdpass::send(&theirs, child.pidfd()?)?;
                    Ok(child.pid())
                })?;
                let pidfd = Pidfd::from(fdpass::receive(&ours)?);
                check::equal("its parent after one adoption", orphan::parent_of(&pidfd)?, own_pid())?;
                fdpass::send(&theirs, &pidfd)?;
                Ok(pid)
            })?;
            let pidfd = Pidfd::from(fdpass::receive(&ours)?);
            check::equal("its parent after two adoptions", orphan::parent_of(&pidfd)?, own_pid())?;
            gate.open()?;
            ends_by_its_kind(&call, pid, &pidfd, Status::exited(5))?;
        }
        Ok(())
    })
}

case! {
    /// An auto-reaped child that is reparented to its tracer and then detached is gone without a wait when it ends; an ordinary one
    /// becomes a zombie of its new parent.
    autoreap_adopted_by_its_tracer: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\" (reparenting); kernel/exit.c forget_original_parent(); ptrace(2), PTRACE_DETACH",
}
fn autoreap_adopted_by_its_tracer() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let child = Grandchild::traceable(&call, 5)?;
        tracer::attach(child.pid)?;
        let orphan = child.orphan()?;
        check::equal("its parent, which traces it", orphan.parent()?, own_pid())?;
        check::succeeds("PTRACE_DETACH", tracer::detach(orphan.pid))?;
        orphan.let_go()?;
        ends_by_its_kind(&call, orphan.pid, &orphan.pidfd, Status::exited(5))
    })
}

case! {
    /// Orphans below an auto-reaped process that is a subreaper are reparented to it, as to an ordinary one; if it is not a
    /// subreaper, they go to the next one.
    autoreap_subreaper_adopts: Must, needs [Autoreap, ExitInfo],
    source "PR_SET_CHILD_SUBREAPER(2const); kernel/exit.c find_new_reaper()",
}
fn autoreap_subreaper_adopts() -> Result {
    let above = own_pid();
    subject::each(|call| {
        for subreaper in [false, true] {
            let (child, ()) = child_reporting(&call, || {
                be_subreaper(subreaper)?;
                let orphan = Orphan::exiting_with(&Clone3::new(Flags::REAPED), 3)?;
                let expected = if subreaper { own_pid() } else { above };
                let what = format!("who adopts below a child of {call}, subreaper: {subreaper}");
                check::equal(what, orphan.parent()?, expected)?;
                orphan.let_go()?;
                orphan.pidfd.reaped_with(Status::exited(3))
            })?;
            subject::wait_until_gone(&child)?;
        }
        Ok(())
    })
}

case! {
    /// An ordinary orphan that an auto-reaped subreaper adopts is ordinary still: a zombie until its new parent waits for it, and
    /// announced by SIGCHLD.
    autoreap_adopts_ordinary_orphans: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"not inherited\"); PR_SET_CHILD_SUBREAPER(2const)",
}
fn autoreap_adopts_ordinary_orphans() -> Result {
    subject::each(|call| {
        let (child, ()) = child_reporting(&call, || {
            be_subreaper(true)?;
            let orphan = Orphan::exiting_with(&Clone3::fork().with(Flags::PIDFD), 3)?;
            sigchld::block()?;
            orphan.let_go()?;
            wait::reap_expecting(orphan.pid, Status::exited(3))?;
            let told = Some(Event::exited(orphan.pid, 3));
            check::equal("SIGCHLD at the end of an adopted orphan", sigchld::take(), told)
        })?;
        subject::wait_until_gone(&child).map(drop)
    })
}

case! {
    /// A process that becomes a subreaper adopts the orphans left by auto-reaped or auto-kill children that it already had, as it
    /// adopts those of ordinary ones; an auto-reaped orphan does not become a zombie. Before that, it adopts none.
    autoreap_late_subreaper_adopts: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Root, Proc, GlobalChanges],
    source "PR_SET_CHILD_SUBREAPER(2const); kernel/sys.c propagate_has_child_subreaper()",
}
fn autoreap_late_subreaper_adopts() -> Result {
    // Descendants of a case are born below a subreaper and thereby already marked, so a process outside it does this.
    for flags in [Flags::PIDFD, Flags::REAPED, Flags::KILLED_NNP] {
        outsider::ask::<()>("late-subreaper", &flags.bits().to_string())?;
    }
    Ok(())
}

#[distributed_slice(HELPERS)]
static LATE_SUBREAPER: Helper =
    Helper { name: "late-subreaper", main: |arguments| or_wrong(outsider::report(arguments, adopt_late)) };

/// Becomes a subreaper when a descendant three generations below exists already, and checks that it adopts that descendant
/// once its parent ends. The generation in between, `between`, stays.
fn adopt_from_further_down(call: &Clone3) -> Result {
    be_subreaper(false)?;
    let mut below = None;
    let between = Actor::spawn(&Clone3::fork(), |()| match below.take() {
        None => {
            below = Some(Grandchild::below(call, call, 5)?);
            Ok((0, 0))
        }
        Some(descendant) => {
            let orphan = descendant.orphan()?;
            let parent = orphan.parent()?;
            orphan.let_go()?;
            Ok((orphan.pid, parent))
        }
    })?;
    between.ask(())?;
    be_subreaper(true)?;
    let (pid, parent) = between.ask(())?;
    check::equal(format_args!("who adopts what a grandchild by {call} leaves"), parent, own_pid())?;
    match call.flags().contains(Flags::AUTOREAP) {
        true => {
            let what = format!("waitpid by who has adopted what a grandchild by {call} left");
            check::equal(what, wait::waitpid(pid, libc::__WALL), Err(Errno::ECHILD))?;
        }
        false => wait::reap_expecting(pid, Status::exited(5))?,
    }
    between.dismiss()
}

/// `late-subreaper FLAGS SOCKET`: creates descendants with these flags and becomes a subreaper afterwards.
fn adopt_late(flags: &str) -> Result {
    let call = Clone3::new(Flags::from_bits_retain(flags.parse().unwrap_or_default()));
    adopt_from_further_down(&call)?;
    for subreaper in [false, true] {
        let descendant = Grandchild::below(&call, &call, 5)?;
        be_subreaper(subreaper)?;
        let orphan = descendant.orphan()?;
        let expected = if subreaper { own_pid() } else { 1 };
        let what = format!("who adopts what a child of {call} leaves, subreaper since: {subreaper}");
        check::equal(what, orphan.parent()?, expected)?;
        orphan.let_go()?;
        match subreaper {
            true => ends_by_its_kind(&call, orphan.pid, &orphan.pidfd, Status::exited(5))?,
            // Init reaps it if necessary.
            false => orphan.pidfd.wait_exited()?,
        }
    }
    Ok(())
}
