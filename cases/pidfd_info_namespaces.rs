//! PIDFD_GET_INFO across pid namespaces, and the pidfd ioctls that open namespaces.

use clone3_conformance::abi::{Flags, InfoMask, Namespace};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, park};
use clone3_conformance::kit::meeting::parent_and_child;
use clone3_conformance::kit::process::{in_child, own_pid};
use clone3_conformance::kit::{Channel, ExitRace, Gate, Handover, Held, namespace, subject, threads};
use clone3_conformance::need::rounds;
use clone3_conformance::pidfd::{Pidfd, fdinfo, info};
use clone3_conformance::procfs::status_field;
use clone3_conformance::sandbox;
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::unistd::getpid;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::os::fd::AsRawFd as _;

case! {
    /// From a pid namespace that does not contain the process, PIDFD_GET_INFO is EREMOTE, whether the process lives or not and
    /// whatever is requested; poll works there all the same.
    pidfd_info_eremote: Must, needs [ExitInfo, PidNamespace],
    source "pidfd_info() (\"Restrict information retrieval to tasks within the caller's pid namespace hierarchy\")",
    since "6.18",
}
fn pidfd_info_eremote() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let pidfd = child.pidfd()?;
        info(pidfd, InfoMask::EXIT)?;
        namespace::as_init(|| foreign(pidfd, PollFlags::empty()))?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        info(pidfd, InfoMask::EXIT)?;
        namespace::as_init(|| foreign(pidfd, PollFlags::POLLIN | PollFlags::POLLHUP))
    })
}

case! {
    /// From a pid namespace that does not contain the process PIDFD_GET_INFO is EREMOTE and pidfd_send_signal EINVAL, even if the
    /// process is in one that is nested more deeply.
    pidfd_info_eremote_of_deeper: Must, needs [ExitInfo, PidNamespace],
    source "pidfd_info() (\"Restrict information retrieval to tasks within the caller's pid namespace hierarchy\"); pidfd_send_signal(2), EINVAL",
    since "6.18",
}
fn pidfd_info_eremote_of_deeper() -> Result {
    subject::each(|call| {
        let deepest = call.with(Flags::CLONE_NEWPID);
        let (init, child) = parent_and_child(&namespace::init(), |meeting| {
            namespace::init().spawn(|| match deepest.spawn(|| meeting.attend()) {
                Ok(_deepest) => park(),
                Err(failure) => meeting.call_off(failure),
            })
        })?;
        info(child.observer(), InfoMask::EXIT).context("control: from the pid namespace around both")?;
        namespace::as_init(|| {
            foreign(child.observer(), PollFlags::empty())?;
            let sent = child.observer().send_signal(Signal::SIGCONT);
            check::refused("pidfd_send_signal from another pid namespace", sent, Errno::EINVAL)
        })?;
        init.clear_away()
    })
}

fn foreign(pidfd: &Pidfd, events: PollFlags) -> Result {
    for request in
        [InfoMask::empty(), InfoMask::EXIT, InfoMask::COREDUMP, InfoMask::SUPPORTED_MASK, InfoMask::all()]
    {
        let what = format!("PIDFD_GET_INFO({request}) from another pid namespace");
        check::refused(what, pidfd.info(request), Errno::EREMOTE)?;
    }
    check::equal("poll from another pid namespace", pidfd.poll_now(PollFlags::POLLIN)?, events)
}

case! {
    /// The pid in PIDFD_GET_INFO is the process's pid in the caller's pid namespace: the init of a pid namespace is 1 to itself and
    /// another pid to its parent.
    pidfd_info_nested_pids: Must, needs [PidfdInfo, PidNamespace],
    source "pid_namespaces(7); fs/pidfs.c pidfd_info(): pid_vnr(), task_tgid_vnr()",
}
fn pidfd_info_nested_pids() -> Result {
    let gate = Gate::new()?;
    let inside = Channel::<Result<(u32, u32, u32)>>::new()?;
    let child = Clone3::fork().with(Flags::PIDFD | Flags::CLONE_NEWPID).spawn(|| {
        let own = Pidfd::open(1).and_then(|own| info(&own, InfoMask::empty()));
        let sent = inside.send(&own.map(|info| (info.pid, info.tgid, info.ppid)));
        gate.wait();
        i32::from(sent.is_err())
    })?;
    check::equal("pid, tgid and ppid of init, seen by itself", inside.recv_from(&child)??, (1, 1, 0))?;
    let outside = info(child.pidfd()?, InfoMask::empty())?;
    let expected = (child.pid() as u32, std::process::id());
    check::equal("pid and ppid of that init, seen by its parent", (outside.pid, outside.ppid), expected)?;
    gate.open()?;
    child.reap_expecting(Status::exited(0))
}

case! {
    /// The NSpid lines in a pidfd's fdinfo and in /proc/PID/status give the process's pid here, and then its pids in the child pid
    /// namespaces: 1 for the init of a new one.
    pidfd_info_fdinfo_nspid: Must, needs [PidNamespace, Proc],
    source "proc_pid_fdinfo(5), NSpid; fs/pidfs.c pidfd_show_fdinfo()",
}
fn pidfd_info_fdinfo_nspid() -> Result {
    subject::each(|call| {
        let here = call.spawn(park)?;
        let init = call.clone().with(Flags::CLONE_NEWPID).spawn(park)?;
        let line = |child: &Child, below: &str| -> Result {
            let expected = format!("\t{}{below}", child.pid());
            check::equal(format_args!("NSpid of a child of {call}"), &*nspid(child.pidfd()?)?, &*expected)?;
            let in_status = status_field(&child.pid().to_string(), "NSpid");
            let what = format!("NSpid in /proc/PID/status of a child of {call}");
            check::equal(what, in_status.as_deref(), Some(expected.trim_start()))
        };
        line(&here, "")?;
        line(&init, "\t1")?;
        here.clear_away()?;
        init.clear_away()
    })
}

case! {
    /// In the /proc of a pid namespace that does not contain the process, the NSpid line is 0 and nothing else, even for a process
    /// that has pids in more namespaces than the reader. Outside it gives all of them, the innermost last.
    pidfd_info_fdinfo_foreign_nspid: Must, needs [PidNamespace, Proc],
    source "proc_pid_fdinfo(5), NSpid; fs/pidfs.c pidfd_show_fdinfo()",
}
fn pidfd_info_fdinfo_foreign_nspid() -> Result {
    subject::each(|call| {
        let handover = Handover::arrange()?;
        // The creator is an init: a direct child would have only two pids, as many as the reader.
        let between = namespace::init().with(Flags::PIDFD).spawn(|| {
            handover.give(call.clone().with(Flags::CLONE_NEWPID).spawn(park));
            park()
        })?;
        let pidfd = handover.take_from(&between)?;
        let numbers = || Ok(nspid(&pidfd)?.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let all = numbers()?;
        check::equal("control: of how many numbers NSpid tells here", all.len(), 3)?;
        let what = format!("last two pids in NSpid of an init's child of {call}, in a namespace of its own");
        check::equal(what, &all[1..], &["2".to_owned(), "1".to_owned()][..])?;
        let elsewhere = Clone3::fork().with(Flags::CLONE_NEWNS);
        let (init, there) = namespace::init_reporting(&elsewhere, || {
            namespace::mount_proc()?;
            numbers()
        })?;
        init.reap_expecting(Status::exited(0))?;
        check::equal(
            format_args!("NSpid of a child of {call}, elsewhere"),
            &there[..],
            &["0".to_owned()][..],
        )?;
        between.clear_away()
    })
}

/// Returns the NSpid line in fdinfo.
fn nspid(pidfd: &Pidfd) -> Result<String> {
    let text = fdinfo(pidfd.as_raw_fd())?;
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.map(str::to_owned)
        .ok_or_else(|| Failure::fail(format!("no NSpid line in fdinfo of a pidfd: {text:?}")))
}

case! {
    /// Once the process is reaped, its pidfd no longer opens any of its namespaces: ESRCH.
    pidfd_info_ns_ioctls_dead_esrch: Must, needs [PidfdInfo],
    source "pidfd_ioctl(); pull request vfs-6.11.pidfs",
}
fn pidfd_info_ns_ioctls_dead_esrch() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let pidfd = child.pidfd()?;
        for kind in Namespace::ALL {
            match pidfd.namespace(kind) {
                // The kernel was built without this kind.
                Err(Errno::EOPNOTSUPP) => {}
                got => drop(check::succeeds(format_args!("{kind:?} namespace of a live process"), got)?),
            }
        }
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        for kind in Namespace::ALL {
            let what = format!("{kind:?} namespace of a reaped process");
            check::refused(what, pidfd.namespace(kind), Errno::ESRCH)?;
        }
        Ok(())
    })
}

/// Requests the pid namespace of a child that is about to end, until there is none.
fn ask_until_gone(child: &Child) -> Result {
    let what = "PIDFD_GET_PID_NAMESPACE on a dying child";
    while sandbox::time_left() != PollTimeout::ZERO {
        match child.pidfd()?.namespace(Namespace::Pid) {
            Ok(_) => {}
            Err(errno @ Errno::EOPNOTSUPP) => {
                return check::refused(what, Err::<(), _>(errno), Errno::ESRCH).map_err(Failure::as_defect);
            }
            refused => return check::refused(what, refused, Errno::ESRCH),
        }
    }
    Err(Failure::fail(
        "PIDFD_GET_PID_NAMESPACE on a child that was let go succeeded until the case ran out of time",
    ))
}

case! {
    /// Opening the pid namespace of an auto-reaped child that ends during the ioctl succeeds or is ESRCH: not EOPNOTSUPP, as if the
    /// kernel had no pid namespaces.
    pidfd_info_ns_ioctl_dying_esrch: Must, needs [Autoreap, PidfdInfo],
    source "pidfd_ioctl() (\"just pretend it didn't exist\")",
    rare_defect "7.1 to 7.3: a process that is reaped meanwhile has no pid namespace, which is taken for a kernel without them",
}
fn pidfd_info_ns_ioctl_dying_esrch() -> Result {
    if Pidfd::open(getpid().as_raw())?.namespace(Namespace::Pid).err() == Some(Errno::EOPNOTSUPP) {
        return Err(Failure::unsupported("needs pid namespaces (CONFIG_PID_NS)"));
    }
    ExitRace::each(rounds(10), 0, ask_until_gone)
}

case! {
    /// Any thread of an unprivileged process that nobody may trace (PR_SET_DUMPABLE 0) may open the process's namespaces through
    /// its pidfd; another process of the same user may not.
    pidfd_of_own_process_serves_its_threads: Must, needs [PidfdInfo, Unprivileged],
    source "ptrace(2), \"Ptrace access mode checking\" (\"If the calling thread and the target thread are in the same thread group, \
        access is always allowed\"); ioctl_pidfd(2)",
}
fn pidfd_of_own_process_serves_its_threads() -> Result {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let own = Pidfd::open(own_pid())?;
    let ask = || Ok(own.namespace(Namespace::Mount).map(drop));
    // As a number, because in_child() transfers plain data.
    let by_another = in_child(|| Ok(ask()?.map_err(|errno| errno as i32)))?;
    check::equal(
        "control: PIDFD_GET_MNT_NAMESPACE by another process",
        by_another,
        Err(Errno::EACCES as i32),
    )?;
    check::succeeds("PIDFD_GET_MNT_NAMESPACE by the leader", ask()?)?;
    check::succeeds("PIDFD_GET_MNT_NAMESPACE by another thread", threads::in_a_thread(ask)?)
}
