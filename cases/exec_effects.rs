//! What exec does to whatever an auto-reaped process holds or shares, besides replacing the program.

use std::ffi::CStr;
use std::sync::atomic::Ordering;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::fds::executable_text;
use clone3_conformance::kit::helper::{self, Command};
use clone3_conformance::kit::perf::FaultCounter;
use clone3_conformance::kit::process::child_reporting;
use clone3_conformance::kit::robust_futex::take_robustly;
use clone3_conformance::kit::semaphore::Semaphore;
use clone3_conformance::kit::setuid::{self, credentials_after_exec};
use clone3_conformance::kit::{Channel, Held, fdpass, privilege, shared, subject};
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::signal::Signal;
use nix::unistd::execveat;
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
use std::os::fd::{AsFd, OwnedFd};

case! {
    /// Semaphore operations with SEM_UNDO are not undone by exec, but when the new program ends, auto-reaped or not.
    autoreap_exec_keeps_semaphore_adjustments: Must, needs [Autoreap, ExitInfo],
    source "semop(2), NOTES, on sem_undo structures (\"they are inherited across an execve(2) system call\")",
}
fn autoreap_exec_keeps_semaphore_adjustments() -> Result {
    let semaphore = Semaphore::new()?;
    subject::each(|call| {
        let child = Held::execed_after(&call, 0, 1, || semaphore.take())?;
        let of = format!("the semaphore that a child of {call} took before its exec");
        check::equal(format_args!("{of}, while the new program runs"), semaphore.value()?, 0)?;
        child.end(false)?;
        check::equal(format_args!("{of}, after its end"), semaphore.value()?, 1)
    })
}

case! {
    /// An auto-reaped process whose exec has failed (ENOEXEC) can share its directories with a new child (CLONE_FS), like an ordinary
    /// one: it is no longer in the middle of an exec.
    autoreap_failed_exec_permits_sharing: Must, needs [Autoreap, ExitInfo],
    source "execve(2) (ENOEXEC); kernel/fork.c copy_fs() (in_exec); fs/exec.c free_bprm()",
}
fn autoreap_failed_exec_permits_sharing() -> Result {
    let file = executable_text(b"not a program\n")?;
    subject::each(|call| {
        let (child, ()) = child_reporting(&call, || {
            let executed = execveat(&file, c"", &[c"text"], &[] as &[&CStr], AtFlags::AT_EMPTY_PATH);
            check::refused("execveat of a text", executed, Errno::ENOEXEC)?;
            Clone3::fork().with(Flags::CLONE_FS).accepted().context("after an exec that failed")
        })?;
        child.ends_with(Status::exited(0))
    })
}

case! {
    /// An exec of a child that shares its creator's memory (CLONE_VM and CLONE_VFORK) leaves the creator as undumpable as it was,
    /// whether the child is auto-reaped or not.
    autoreap_exec_leaves_creator_undumpable: Must, needs [Autoreap, ExitInfo],
    source "PR_SET_DUMPABLE(2const), about the calling process; fs/exec.c begin_new_exec()",
}
fn autoreap_exec_leaves_creator_undumpable() -> Result {
    subject::each(|call| {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        let child = Held::execed_as_by_vfork(&call, 0)?;
        let what = format!("dumpability of the creator after the exec of a child of {call}");
        let found = dumpable_behavior()?;
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        check::equal(what, found, DumpableBehavior::NotDumpable)?;
        child.end(false)
    })
}

case! {
    /// A robust futex that an auto-reaped process holds when it calls exec is marked with FUTEX_OWNER_DIED, as for an ordinary one.
    autoreap_exec_releases_robust_futex: Must, needs [Autoreap, ExitInfo],
    source "get_robust_list(2), set_robust_list(2); kernel/fork.c exec_mm_release()",
}
fn autoreap_exec_releases_robust_futex() -> Result {
    subject::each(|call| {
        let word = shared::word(0)?;
        let child = Held::execed_after(&call, 0, 1, || take_robustly(word))?;
        let died = word.load(Ordering::Acquire) & libc::FUTEX_OWNER_DIED;
        let what = format!("FUTEX_OWNER_DIED of a futex that a child of {call} held at its exec");
        check::equal(what, died, libc::FUTEX_OWNER_DIED)?;
        child.end(false)
    })
}

case! {
    /// A process that execs a program which it may execute and not read is not dumpable, auto-reaped, with no_new_privs or neither:
    /// its user may not read the program from its memory.
    nnp_unreadable_program_is_not_dumpable: Is, needs [Nnp, Root],
    source "fs/exec.c would_dump(), begin_new_exec()",
}
fn nnp_unreadable_program_is_not_dumpable() -> Result {
    let (readable, unreadable) = (setuid::file_with_mode(0o755)?, setuid::file_with_mode(0o711)?);
    let dumpable = |call: &Clone3, program: &OwnedFd| {
        let credentials = credentials_after_exec(call, program.as_fd(), privilege::become_ordinary_user)?;
        Ok::<_, Failure>(credentials.dumpable)
    };
    for call in subject::every_kind() {
        let control = format!("control: dumpable, a child of {call} whose program is readable");
        check::equal(control, dumpable(&call, &readable)?, true)?;
        let what = format!("dumpable, a child of {call} whose program is not readable");
        check::equal(what, dumpable(&call, &unreadable)?, false)?;
    }
    Ok(())
}

case! {
    /// A process whose exec fails when its old program is gone already is killed by SIGSEGV, and is gone without a wait if it is
    /// auto-reaped.
    autoreap_gone_if_exec_fails_late: Must, needs [Autoreap, ExitInfo],
    source "execve(2) (\"failure may occur past the point of no return\"; \"the kernel kills the process with a SIGSEGV\")",
}
fn autoreap_gone_if_exec_fails_late() -> Result {
    let file = helper::program_that_cannot_start()?;
    let command = Command::new("exit", &[])?.number(0);
    subject::each(|call| {
        let failed = Channel::<Failure>::new()?;
        let child = call.spawn(|| i32::from(failed.send(&command.exec_file(file.as_fd())).is_err()))?;
        child.ends_with(Status::killed(Signal::SIGSEGV))
    })
}

case! {
    /// A performance counter that is to start with the exec of a process starts then, auto-reaped or not.
    autoreap_exec_starts_counter: Must, needs [Autoreap, ExitInfo],
    source "perf_event_open(2), enable_on_exec",
}
fn autoreap_exec_starts_counter() -> Result {
    subject::each(|call| {
        let (here, there) = fdpass::pair()?;
        let child = Held::execed_after(&call, 0, 1, || {
            let counter = FaultCounter::from_exec_on()?;
            check::equal("control: page faults counted before the exec", counter.read()?, 0)?;
            fdpass::send(&there, counter)
        })?;
        let counter = FaultCounter::adopt(fdpass::receive(&here)?);
        let count = counter.read()?;
        let what = format!("page faults of a child of {call}, counted from its exec on");
        check::holds(count > 0, format_args!("{what}: {count}"))?;
        child.end(false)
    })
}
