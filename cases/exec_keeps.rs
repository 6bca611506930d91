//! Exec of auto-reaped children: what it preserves, and what it does not grant.

use clone3_conformance::abi::{Flags, Namespace};
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Named, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::process::own_pid;
use clone3_conformance::kit::setuid::credentials_after_exec;
use clone3_conformance::kit::tracer::{Instruction, follow};
use clone3_conformance::kit::{Actor, Held, inherited, legacy, privilege, programs, setuid, subject, tracer};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::procfs;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use std::os::fd::AsFd;

const USER: u32 = privilege::ORDINARY;

case! {
    /// An ordinary user's auto-reaped child that shares its root directory with its creator (CLONE_FS) does not become root by exec
    /// of a set-user-ID program, and neither does an ordinary child; one that shares it with nobody does.
    autoreap_setuid_program_with_shared_fs: Must, needs [Autoreap, ExitInfo, Root, NotYetNnp],
    source "fs/exec.c check_unsafe_exec() (\"If another task is sharing our fs, we cannot safely suid exec\"); security/commoncap.c cap_bprm_creds_from_file()",
}
fn autoreap_setuid_program_with_shared_fs() -> Result {
    let program = setuid::file_with_mode(0o4755)?;
    privilege::become_ordinary_user()?;
    subject::each_unrestricted(|call| {
        for (flags, effective) in [(Flags::empty(), 0), (Flags::CLONE_FS, USER)] {
            let call = call.clone().with(flags);
            let found = credentials_after_exec(&call, program.as_fd(), || Ok(()))?;
            let what = format!("user ids after exec of a set-user-ID program in a child of {call}");
            check::equal(what, found.uids, [USER, effective, effective])?;
        }
        Ok(())
    })
}

case! {
    /// An ordinary user's auto-reaped child that is traced by another process of that user does not become root by exec of a
    /// set-user-ID program, and neither does an ordinary child; an untraced one does.
    autoreap_setuid_program_while_traced: Must, needs [Autoreap, ExitInfo, Root, Ptrace, NotYetNnp],
    source "execve(2) (\"the calling process is being ptraced\"); security/commoncap.c cap_bprm_creds_from_file()",
}
fn autoreap_setuid_program_while_traced() -> Result {
    let program = setuid::file_with_mode(0o4755)?;
    privilege::become_ordinary_user()?;
    let tracer = Actor::spawn(&Clone3::fork(), follow)?;
    subject::each_unrestricted(|call| {
        for (traced, effective) in [(false, 0), (true, USER)] {
            let found = credentials_after_exec(&call, program.as_fd(), || {
                if traced {
                    let own = own_pid();
                    tracer::let_anyone_trace_me();
                    tracer.ask(Instruction::SeizeAsOrdinaryUser(own))?;
                    // The parent can wait for the child only once the tracer has.
                    tracer.tell(Instruction::Reap(own))?;
                }
                Ok(())
            })?;
            if traced {
                tracer.answer()?;
            }
            let what = format!(
                "user ids after exec of a set-user-ID program in a child of {call}, traced: {traced}"
            );
            check::equal(what, found.uids, [USER, effective, effective])?;
        }
        Ok(())
    })?;
    tracer.dismiss()
}

case! {
    /// CLONE_NEWIPC together with CLONE_SYSVSEM is refused with EINVAL, with CLONE_AUTOREAP as without.
    abi_newipc_with_sysvsem_einval: Must, needs [Autoreap, SysAdmin],
    source "clone(2), EINVAL (\"both CLONE_NEWIPC and CLONE_SYSVSEM were specified\")",
}
fn abi_newipc_with_sysvsem_einval() -> Result {
    subject::each(|call| {
        let alone = call.clone().with(Flags::CLONE_NEWIPC);
        match alone.try_spawn(|| 0) {
            Err(Errno::EINVAL) => return Err(Failure::blocked("needs IPC namespaces (CONFIG_IPC_NS)")),
            outcome => check::succeeds(&alone, outcome)?.clear_away()?,
        }
        alone.with(Flags::CLONE_SYSVSEM).refused(Errno::EINVAL)?;
        Ok(())
    })
}

/// Returns the inode of a process's namespace.
fn inode(pidfd: &Pidfd, kind: Namespace) -> Result<u64> {
    let namespace = check::succeeds(format_args!("{kind:?} namespace"), pidfd.namespace(kind))?;
    Ok(rustix::fs::fstat(namespace)?.st_ino)
}

case! {
    /// An auto-reaped child made like vfork(2) (CLONE_VM and CLONE_VFORK) is, after its exec, in the time namespace that its
    /// creator has unshared for its children, like an ordinary one.
    autoreap_vfork_exec_enters_time_namespace: Must, needs [Autoreap, ExitInfo, SysAdmin],
    source "time_namespaces(7); kernel/nsproxy.c exec_task_namespaces()",
}
fn autoreap_vfork_exec_enters_time_namespace() -> Result {
    legacy::unshare(libc::CLONE_NEWTIME as u64)
        .map_err(|errno| Failure::blocked(format!("unshare(CLONE_NEWTIME) fails with {}", Named(errno))))?;
    let own = Pidfd::open(own_pid())?;
    let expected = inode(&own, Namespace::TimeForChildren)?;
    check::holds(
        inode(&own, Namespace::Time)? != expected,
        "control: unshare(CLONE_NEWTIME) has done nothing",
    )?;
    subject::each(|call| {
        let child = Held::execed_as_by_vfork(&call, 0)?;
        let found = inode(child.pidfd()?, Namespace::Time)?;
        check::equal(
            format_args!("inode of the time namespace of a child of {call}, as by vfork, after its exec"),
            found,
            expected,
        )?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        Ok(())
    })
}

case! {
    /// Exec keeps an alarm(2) that was set before, in an auto-reaped child as in an ordinary one.
    autoreap_exec_keeps_alarm: Must, needs [Autoreap, ExitInfo],
    source "alarm(2) (\"preserved across execve(2)\"); execve(2)",
}
fn autoreap_exec_keeps_alarm() -> Result {
    /// In seconds: longer than any case.
    const LONG: u32 = 100_000;
    subject::each(|call| {
        let left = programs::alarm_after_exec(&call, LONG)?;
        let what = format!("seconds left of an alarm after {LONG}, set by a child of {call} before its exec");
        check::holds(left.is_some_and(|left| left > LONG / 2), format_args!("{what}: got {left:?}"))
    })
}

case! {
    /// Exec keeps and resets the same attributes of a process, auto-reaped, with no_new_privs or neither: it keeps pending signals,
    /// limits, priorities, timers that count CPU time, the peak of its memory and being a subreaper, and resets signal handlers, POSIX
    /// timers, the alternate stack and PR_SET_KEEPCAPS.
    abi_exec_treats_attributes_alike: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "execve(2), effect on process attributes; PR_SET_KEEPCAPS(2const); PR_SET_CHILD_SUBREAPER(2const)",
}
fn abi_exec_treats_attributes_alike() -> Result {
    let ordinary = programs::attributes_after_exec(&Clone3::fork())?;
    for call in [Clone3::new(Flags::REAPED), Clone3::fork().with(Flags::NNP), Clone3::new(Flags::KILLED_NNP)]
    {
        let differences = inherited::differences(&programs::attributes_after_exec(&call)?, &ordinary);
        check::holds(
            differences.is_empty(),
            format_args!(
                "after its exec, a child of {call} differs from an ordinary one: {}",
                differences.join("; ")
            ),
        )?;
    }
    Ok(())
}

case! {
    /// Exec keeps what a process ignores and blocks, and resets what it catches to the default, in an auto-reaped child as in an
    /// ordinary one.
    autoreap_exec_resets_caught_signals_only: Must, needs [Autoreap, ExitInfo, Proc],
    source "execve(2); signal(7), signal dispositions and signal mask; fs/exec.c begin_new_exec() (flush_signal_handlers())",
}
fn autoreap_exec_resets_caught_signals_only() -> Result {
    let (ignored, caught, blocked) = (Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGURG);
    subject::each(|call| {
        let child = Held::execed_after(&call, 0, 1, || {
            disposition::set(ignored, Disposition::Ignored)?;
            disposition::set(caught, Disposition::Caught)?;
            Ok(SigSet::from(blocked).thread_block()?)
        })?;
        let pid = child.pid().to_string();
        for (field, signal, expected) in [
            ("SigIgn", ignored, true),
            ("SigCgt", caught, false),
            ("SigIgn", caught, false),
            ("SigBlk", blocked, true),
        ] {
            let what = format!("whether {signal} is in {field} of a child of {call} that has called exec");
            check::equal(what, procfs::has_signal(&pid, field, signal)?, expected)?;
        }
        child.let_go()?;
        subject::wait_until_gone(&child).map(drop)
    })
}
