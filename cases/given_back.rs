//! What the kernel gives back for an auto-reaped child when it ends: nothing that it held stays taken.

use std::fs::File;
use std::sync::atomic::Ordering;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::kit::held_things::{OWNER_DIED, Semaphore, take_robustly};
use clone3_conformance::kit::process::{apart, child_reporting};
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::{Gate, Held, Orphan, fdpass, listed, sandboxing, seccomp, shared, subject};
use clone3_conformance::wait::Status;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

case! {
    /// A robust futex that an auto-reaped child holds when it ends, killed or not, is marked with FUTEX_OWNER_DIED, as for an
    /// ordinary child.
    autoreap_releases_robust_futex: Must, needs [Autoreap, ExitInfo],
    source "get_robust_list(2); kernel/fork.c futex_exit_release()",
}
fn autoreap_releases_robust_futex() -> Result {
    for call in subject::calls() {
        for killed in [false, true] {
            let word = shared::word(0)?;
            let child = Held::prepared(&call, 5, || take_robustly(word))?;
            let held = word.load(Ordering::Acquire);
            check::equal("control: the futex while the child lives", held as i32, child.pid())?;
            if killed {
                child.kill(nix::sys::signal::Signal::SIGKILL)?;
            } else {
                child.let_go()?;
            }
            subject::see_off(&child)?;
            let what = format!("FUTEX_OWNER_DIED after a child of {call}, killed: {killed}");
            check::equal(what, word.load(Ordering::Acquire) & OWNER_DIED, OWNER_DIED)?;
        }
    }
    Ok(())
}

case! {
    /// An auto-reaped child's semaphore operations with SEM_UNDO are undone when it ends, like an ordinary one's.
    autoreap_undoes_semaphores: Must, needs [Autoreap, ExitInfo],
    source "semop(2), SEM_UNDO; ipc/sem.c exit_sem()",
}
fn autoreap_undoes_semaphores() -> Result {
    let semaphore = Semaphore::new()?;
    for call in subject::calls() {
        let (child, taken) = child_reporting(&call, || {
            semaphore.take()?;
            semaphore.value()
        })?;
        check::equal("control: the semaphore that a child has taken", taken, 0)?;
        subject::see_off(&child)?;
        check::equal(format_args!("the semaphore after a child of {call}"), semaphore.value()?, 1)?;
    }
    Ok(())
}

case! {
    /// The user namespace of an auto-reaped child that has ended is not listed by listns, although a file that the child opened
    /// keeps it; that of an ordinary child is listed until the child is reaped.
    autoreap_ends_use_of_user_namespace: Is, needs [Autoreap, ExitInfo, Root, UserNamespaces, Proc],
    source "kernel/exit.c release_task(), kernel/nsproxy.c exit_cred_namespaces(); pull request namespace-6.19",
}
fn autoreap_ends_use_of_user_namespace() -> Result {
    for call in subject::calls() {
        let call = call.with(Flags::CLONE_NEWUSER);
        let (here, there) = fdpass::pair()?;
        let child = Held::prepared(&call, 0, || {
            let file = File::open("/proc")?;
            fdpass::send(&there, file)
        })?;
        let kept = fdpass::receive(&here)?;
        let id = listed::user_namespace_of(child.pid())?;
        if !listed::is_listed(id)? {
            return Err(Failure::blocked("listns(2) does not list the user namespace of a living child"));
        }
        child.let_go()?;
        child.pidfd()?.wait_exited()?;
        if !child.reaps_itself() {
            check::equal("user namespace of a zombie: listed", listed::is_listed(id)?, true)?;
        }
        subject::see_off(&child)?;
        let what = format!(
            "user namespace of a child of {call} that is reaped, while its pidfd is open: gone from the list"
        );
        check::equal(what, listed::vanishes(id)?, true)?;
        drop(kept);
    }
    Ok(())
}

case! {
    /// With CLONE_SYSVSEM, semaphore operations with SEM_UNDO of an auto-reaped child, or of its creator, are undone when both have
    /// ended, and not before, as for an ordinary child. Without it, they are undone when the process that did them ends.
    autoreap_shares_semaphore_undo: Must, needs [Autoreap, ExitInfo],
    source "clone(2), CLONE_SYSVSEM; ipc/sem.c copy_semundo(), exit_sem()",
}
fn autoreap_shares_semaphore_undo() -> Result {
    let semaphore = Semaphore::new()?;
    for call in subject::calls() {
        for (call, expected) in [(call.clone(), 1), (call.with(Flags::CLONE_SYSVSEM), 0)] {
            let after = |what| format!("the semaphore that a child of {call}, or its creator, took, {what}");
            apart(|| {
                let (child, ()) = child_reporting(&call, || semaphore.take())?;
                subject::see_off(&child)?;
                check::equal(after("after the end of the child that did"), semaphore.value()?, expected)
            })?;
            check::equal(after("after the end of both"), semaphore.value()?, 1)?;

            let gate = Gate::new()?;
            let child = Orphan::left_by(|| {
                semaphore.take()?;
                call.spawn(|| {
                    gate.wait();
                    5
                })
            })?;
            check::equal(after("after the end of the creator, who did"), semaphore.value()?, expected)?;
            gate.open()?;
            ends_by_its_kind(&call, child.pid, &child.pidfd, Status::exited(5))?;
            check::equal(after("after the end of both"), semaphore.value()?, 1)?;
        }
    }
    Ok(())
}

case! {
    /// The listener of a seccomp filter that only an auto-reaped child has reports POLLHUP when the child has ended, and not
    /// before.
    autoreap_seccomp_listener_hangs_up: Must, needs [Autoreap, ExitInfo],
    source "seccomp_unotify(2) (POLLHUP: no process uses the filter any more); kernel/exit.c do_exit() (seccomp_filter_release())",
}
fn autoreap_seccomp_listener_hangs_up() -> Result {
    sandboxing::seccomp_filters_exist()?;
    for call in subject::calls() {
        let (ours, theirs) = fdpass::pair()?;
        let filtered = || seccomp::hand_to_supervisor(libc::SYS_sched_yield, &theirs);
        let child = Held::prepared(&call, 5, filtered)?;
        let listener = fdpass::receive(&ours)?;
        let polled =
            |when| format!("POLLHUP of the listener of a seccomp filter that a child of {call} has, {when}");
        let hung_up = || -> Result<bool> {
            let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&listener), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO)?;
            Ok(fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)))
        };
        check::equal(polled("control: while that lives"), hung_up()?, false)?;
        child.let_go()?;
        subject::see_off(&child)?;
        check::equal(polled("when that is gone"), hung_up()?, true)?;
    }
    Ok(())
}
