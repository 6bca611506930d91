//! PIDFD_GET_INFO of zombies, and the cgroup and the namespaces that pidfds report for a process and its threads.

use clone3_conformance::abi::{Flags, InfoMask, Namespace, PidfdInfo};
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, is_cloexec, park};
use clone3_conformance::kit::pair::Pair;
use clone3_conformance::kit::tracer::Tracer;
use clone3_conformance::kit::{Actor, Cgroup, Held, legacy, sigchld, subject, tracer};
use clone3_conformance::note;
use clone3_conformance::pidfd::{Pidfd, info};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use rustix::fs::{fstat, stat};

/// Returns the fields that identify a process, its parent and its user.
fn identity(info: &PidfdInfo) -> [u32; 11] {
    let PidfdInfo { pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid, .. } = *info;
    [pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid]
}

case! {
    /// For a zombie PIDFD_GET_INFO returns the same pids, parent, ids and cgroup as while it lived, even if it is asked for exit
    /// information: for an ordinary child, and for an auto-reaped one that its parent has traced until it ended.
    pidfd_info_zombie_identity: Must, needs [ExitInfo, Ptrace, Unprivileged],
    source "include/uapi/linux/pidfd.h (\"Always returned\", and \"correct … at the time the work was performed\"); fs/pidfs.c pidfd_info(): a zombie has its credentials and its parent until it is waited for",
}
fn pidfd_info_zombie_identity() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 5)?;
        tracer::seize_as_ordinary_user(child.pid())?;
        let request = InfoMask::PID | InfoMask::CREDS | InfoMask::CGROUPID | InfoMask::EXIT;
        let alive = info(child.pidfd()?, request)?;
        child.let_go()?;
        child.is_a_zombie(5)?;
        let zombie = info(child.pidfd()?, request)?;
        let what = format!(
            "pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid of a child of {call} that is a zombie"
        );
        check::equal(what, identity(&zombie), identity(&alive))?;
        let what = format!("mask and cgroupid of a child of {call} that is a zombie");
        check::equal(what, (zombie.given(), zombie.cgroupid), (alive.given(), alive.cgroupid))?;
        wait::reap_expecting(child.pid(), Status::exited(5))
    })
}

/// Creates a threaded cgroup.
fn threaded_cgroup() -> Result<Cgroup> {
    let group = Cgroup::create(&[])?;
    let threaded = group.write("cgroup.type", "threaded");
    threaded.map_err(|failure| Failure::blocked(format!("a threaded cgroup: {}", failure.message)))?;
    Ok(group)
}

case! {
    /// For a thread in a threaded cgroup, PIDFD_GET_INFO returns the id of that cgroup, not of its leader's, while the thread lives
    /// and after it has ended.
    pidfd_info_cgroup_of_thread: Must, needs [ExitInfo, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, Threads; fs/pidfs.c pidfd_info(), pidfs_exit()",
}
fn pidfd_info_cgroup_of_thread() -> Result {
    subject::each(|call| {
        let (leaders, others) = (threaded_cgroup()?, threaded_cgroup()?);
        let pair = Pair::new(&call)?;
        leaders.admit(pair.child.pid())?;
        others.write("cgroup.threads", &pair.other.to_string())?;
        let thread = Pidfd::of_thread(pair.other)?;
        let found = info(pair.child.pidfd()?, InfoMask::CGROUPID)?.cgroupid;
        check::equal(format_args!("cgroupid of a child of {call}"), found, leaders.id()?)?;
        let what = format!("cgroupid of a thread of a child of {call}, in another cgroup than its leader");
        check::equal(&what, info(&thread, InfoMask::CGROUPID)?.cgroupid, others.id()?)?;
        pair.let_other_go()?;
        thread.wait_reaped()?;
        let found = info(&thread, InfoMask::EXIT | InfoMask::CGROUPID)?.cgroupid;
        check::equal(format_args!("{what}, when it has ended"), found, others.id()?)?;
        pair.child.clear_away()?;
        leaders.remove()?;
        others.remove()
    })
}

case! {
    /// The cgroup in the exit information is that of the process that has ended, not that of the tracer whose wait released it.
    pidfd_info_exit_cgroup_not_of_tracer: Must, needs [ExitInfo, Cgroup2, Ptrace],
    source "include/uapi/linux/pidfd.h (PIDFD_INFO_CGROUPID); fs/pidfs.c pidfs_exit()",
    since "6.16",
}
fn pidfd_info_exit_cgroup_not_of_tracer() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let group = Cgroup::create(&[])?;
        let call = call.into_cgroup(group.dir());
        let child = Held::traceable(&call, 5)?;
        let tracer = Tracer::of(child.pid())?;
        child.let_go()?;
        tracer.reap()?;
        subject::wait_until_gone(&child)?;
        // Discards the SIGCHLD of an ordinary child.
        let _ = sigchld::take();
        let found = info(child.pidfd()?, InfoMask::EXIT | InfoMask::CGROUPID)?.cgroupid;
        check::equal(
            format_args!("cgroupid of a child of {call}, reaped by its tracer"),
            found,
            group.id()?,
        )?;
        tracer.dismiss()?;
        group.remove()
    })
}

/// Returns the name of this kind in `/proc`.
fn name_in_proc(kind: Namespace) -> &'static str {
    match kind {
        Namespace::Cgroup => "cgroup",
        Namespace::Ipc => "ipc",
        Namespace::Mount => "mnt",
        Namespace::Net => "net",
        Namespace::Pid => "pid",
        Namespace::PidForChildren => "pid_for_children",
        Namespace::Time => "time",
        Namespace::TimeForChildren => "time_for_children",
        Namespace::User => "user",
        Namespace::Uts => "uts",
    }
}

/// The namespace that the child is born in.
const BORN_IN: Flags = Flags::CLONE_NEWPID;

/// The namespaces that it then enters or creates for its children. The user namespace comes last, so that the child makes the
/// others with the privileges that the case has.
const ENTERED: [(Flags, Namespace); 8] = [
    (Flags::CLONE_NEWCGROUP, Namespace::Cgroup),
    (Flags::CLONE_NEWTIME, Namespace::TimeForChildren),
    (Flags::CLONE_NEWUTS, Namespace::Uts),
    (Flags::CLONE_NEWIPC, Namespace::Ipc),
    (Flags::CLONE_NEWNS, Namespace::Mount),
    (Flags::CLONE_NEWNET, Namespace::Net),
    (Flags::CLONE_NEWPID, Namespace::PidForChildren),
    (Flags::CLONE_NEWUSER, Namespace::User),
];

/// Enters a new namespace of each of these kinds, and returns the flags of those that could be made, as a number.
fn enter_new_namespaces() -> Result<u64> {
    let mut entered = Flags::empty();
    for (flag, _) in ENTERED {
        match legacy::unshare(flag.bits()) {
            Ok(()) => entered |= flag,
            // The kernel may lack this kind, or the environment refuse it.
            Err(errno) => note!("unshare({flag}) = {errno:?}: nothing new of this kind"),
        }
    }
    if entered.contains(Flags::CLONE_NEWPID) {
        // /proc shows this namespace only when it has an init, which ends with the pid namespace around it.
        Clone3::fork().spawn(park)?;
    }
    Ok(entered.bits())
}

/// Checks that the child's pidfd opens its namespace of this kind, as /proc shows it, which is not the caller's if it is new.
fn opens_its_own(child: &Child, kind: Namespace, is_new: bool) -> Result {
    let opened = match child.pidfd()?.namespace(kind) {
        // The kernel was built without this kind.
        Err(Errno::EOPNOTSUPP) if !is_new => return Ok(()),
        opened => check::succeeds(format_args!("{kind:?} namespace"), opened)?,
    };
    check::equal(format_args!("close-on-exec of the {kind:?} namespace"), is_cloexec(&opened)?, true)?;
    let name = name_in_proc(kind);
    let its = stat(format!("/proc/{}/ns/{name}", child.pid()))?.st_ino;
    let what = format!("inode of what the pidfd opens as the {kind:?} namespace");
    check::equal(what, fstat(opened)?.st_ino, its)?;
    let callers = stat(format!("/proc/self/ns/{name}"))?.st_ino;
    let same =
        format!("control: in /proc, the {kind:?} namespace is the caller's ({its}), but should be new");
    check::holds(!is_new || its != callers, same)
}

case! {
    /// A pidfd's ioctls open the namespaces that the process is in and those that its children will be in, as `/proc` shows them:
    /// not the caller's, and not one kind in place of another.
    pidfd_info_ns_ioctls_open_its_own: Must, needs [PidfdInfo, SysAdmin, PidNamespace, Proc],
    source "pidfd_ioctl(); pull request vfs-6.11.pidfs; namespaces(7), time_namespaces(7)",
}
fn pidfd_info_ns_ioctls_open_its_own() -> Result {
    subject::each(|call| {
        let child = Actor::spawn(&call.with(BORN_IN), |()| enter_new_namespaces())?;
        let entered = Flags::from_bits_retain(child.ask(())?);
        let is_entered =
            |kind: Namespace| ENTERED.iter().any(|(flag, its)| *its == kind && entered.contains(*flag));
        for kind in Namespace::ALL {
            opens_its_own(child.child(), kind, kind == Namespace::Pid || is_entered(kind))?;
        }
        child.dismiss()
    })
}
