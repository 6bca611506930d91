//! PIDFD_GET_INFO of zombies, and the cgroup and the namespaces that pidfds report for a process and its threads.

use clone3_conformance::abi::{Flags, InfoMask, Namespace, PidfdInfo};
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::is_cloexec;
use clone3_conformance::kit::pair::Pair;
use clone3_conformance::kit::tracer::Tracer;
use clone3_conformance::kit::{Cgroup, Held, legacy, sigchld, subject, tracer};
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

/// Namespaces that are cheap to create: the one that the child is born in, and those that it enters or creates for its
/// children.
const BORN_IN: Flags = Flags::CLONE_NEWPID;
const ENTERED: [i32; 4] =
    [libc::CLONE_NEWCGROUP, libc::CLONE_NEWTIME, libc::CLONE_NEWUTS, libc::CLONE_NEWIPC];

case! {
    /// A pidfd's ioctls open the namespaces that the process is in and those that its children will be in, as `/proc` shows them:
    /// not the caller's, and not one kind in place of another.
    pidfd_info_ns_ioctls_open_its_own: Must, needs [PidfdInfo, SysAdmin, PidNamespace, Proc],
    source "pidfd_ioctl(); pull request vfs-6.11.pidfs; namespaces(7), time_namespaces(7)",
}
fn pidfd_info_ns_ioctls_open_its_own() -> Result {
    subject::each(|call| {
        let call = call.with(BORN_IN);
        let child = Held::prepared(&call, 0, || {
            // Not every kernel has every kind.
            for flag in ENTERED {
                let _ = legacy::unshare(flag as u64);
            }
            Ok(())
        })?;
        let mut differing = 0;
        for kind in Namespace::ALL {
            let name = name_in_proc(kind);
            let opened = match child.pidfd()?.namespace(kind) {
                // The kernel was built without this kind.
                Err(Errno::EOPNOTSUPP) => continue,
                opened => check::succeeds(format_args!("{kind:?} namespace"), opened)?,
            };
            let its = stat(format!("/proc/{}/ns/{name}", child.pid()))?.st_ino;
            check::equal(
                format_args!("close-on-exec of the {kind:?} namespace"),
                is_cloexec(&opened)?,
                true,
            )?;
            let what =
                format!("inode of what the pidfd of a child of {call} opens as its {kind:?} namespace");
            check::equal(what, fstat(opened)?.st_ino, its)?;
            differing += usize::from(stat(format!("/proc/self/ns/{name}"))?.st_ino != its);
        }
        check::holds(differing > 1, "control: the child is in the caller's namespaces")?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        Ok(())
    })
}
