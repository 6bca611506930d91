//! PIDFD_GET_INFO as it depends on the caller: its namespaces, its permissions, and the size of its structure.

use clone3_conformance::abi::{CoredumpMask, Flags, InfoMask, Namespace, PidfdInfo};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::helper::Command;
use clone3_conformance::kit::namespace::{self, Outside};
use clone3_conformance::kit::process::{in_child, own_pid};
use clone3_conformance::kit::{Actor, Cgroup, Channel, Echo, Gate, Held, privilege, subject, threads};
use clone3_conformance::note;
use clone3_conformance::pidfd::{Pidfd, info};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::fstat;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Returns the eight ids: users, then groups.
fn ids(info: &PidfdInfo) -> [u32; 8] {
    [info.ruid, info.euid, info.suid, info.fsuid, info.rgid, info.egid, info.sgid, info.fsgid]
}

case! {
    /// The ids in PIDFD_GET_INFO are those in the caller's user namespace at the time of the call, not in the one in which the
    /// pidfd was opened; ids that are not mapped there are the overflow ids.
    pidfd_info_credentials_of_askers_namespace: Must, needs [PidfdInfo, UserNamespaces, Unprivileged, Proc],
    source "fs/pidfs.c pidfd_info(), from_kuid_munged(current_user_ns()); user_namespaces(7), on unmapped ids",
}
fn pidfd_info_credentials_of_askers_namespace() -> Result {
    let (uid, gid) = (namespace::overflow_id("overflowuid")?, namespace::overflow_id("overflowgid")?);
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let (user, group) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let pidfd = child.pidfd()?;
        let seen = |what: &str, users, groups| -> Result {
            let expected = [users, users, users, users, groups, groups, groups, groups];
            check::equal(
                format_args!("ids of a child of {call}, {what}"),
                ids(&info(pidfd, InfoMask::CREDS)?),
                expected,
            )
        };
        in_child(|| {
            seen("control: in its user namespace", user, group)?;
            let outside = Outside::here();
            privilege::unshare_user_namespace()?;
            seen("asked in a user namespace without a mapping", uid, gid)?;
            outside.becomes_root()?;
            seen("asked in a user namespace that maps its user to root", 0, 0)
        })?;
        child.into_child().clear_away()
    })
}

case! {
    /// A process that has unshared the pid namespace for its next children still gets information about the processes of its own pid
    /// namespace, and may signal them. Its own pid namespace does not change; the one for its children does.
    pidfd_info_after_unshare_pidns: Must, needs [PidfdInfo, PidNamespace],
    source "pid_namespaces(7), on unshare(2); pidfd_info() (\"caller's pid namespace hierarchy\"); pidfd_send_signal(2)",
}
fn pidfd_info_after_unshare_pidns() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let mover = Actor::spawn(&call, |()| {
            namespace::unshare_pid()?;
            let told = info(child.pidfd()?, InfoMask::PID)?;
            check::equal("pid, asked after unshare(CLONE_NEWPID)", told.pid, child.pid() as u32)?;
            let sent = child.pidfd()?.send_raw_signal(0);
            check::succeeds("pidfd_send_signal(0) after unshare(CLONE_NEWPID)", sent)
        })?;
        let pidfd = mover.child().pidfd()?;
        let number = |kind| -> Result<u64> {
            let opened = check::succeeds(format_args!("{kind:?} namespace"), pidfd.namespace(kind))?;
            Ok(fstat(opened)?.st_ino)
        };
        let before = number(Namespace::Pid)?;
        check::equal("control: PidForChildren before unshare", number(Namespace::PidForChildren)?, before)?;
        mover.ask(())?;
        check::equal("Pid after unshare(CLONE_NEWPID)", number(Namespace::Pid)?, before)?;
        let separate = number(Namespace::PidForChildren)? != before;
        check::holds(
            separate,
            "PidForChildren after unshare(CLONE_NEWPID): expected another, got the caller's",
        )?;
        subject::wait_until_gone(&mover.let_go()?)?;
        child.into_child().clear_away()
    })
}

case! {
    /// PIDFD_GET_INFO requires no permission over the process except the pidfd. Opening its namespaces requires ptrace permission
    /// (EACCES).
    pidfd_info_without_permission: Must, needs [PidfdInfo, Unprivileged],
    source "fs/pidfs.c pidfd_ioctl() (\"filesystem cred ptrace check\"), pidfd_info()",
}
fn pidfd_info_without_permission() -> Result {
    let own = Pidfd::open(own_pid())?;
    // Not every kernel has every kind.
    let mut kinds = vec![Namespace::Mount, Namespace::User];
    kinds.retain(|&kind| own.namespace(kind).err() != Some(Errno::EOPNOTSUPP));
    // Permission to kill a child does not include permission to inspect it.
    let calls = subject::by_flag().into_iter().map(|call| call.with(Flags::PIDFD));
    check::each(calls, |call| {
        for (how, expected) in
            [(DumpableBehavior::Dumpable, Ok(())), (DumpableBehavior::NotDumpable, Err(Errno::EACCES))]
        {
            let child = Echo::prepared(&call, || Ok(set_dumpable_behavior(how)?))?;
            let told = info(child.pidfd()?, InfoMask::PID | InfoMask::CREDS)?;
            let of = format!("of a child of {call} that is {how:?}");
            check::equal(format_args!("pid {of}"), told.pid, child.pid() as u32)?;
            for &kind in &kinds {
                let got = child.pidfd()?.namespace(kind).map(drop);
                check::equal(format_args!("{kind:?} namespace {of}"), got, expected)?;
            }
            child.into_child().clear_away()?;
        }
        Ok(())
    })
}

case! {
    /// A namespace that was refused (EACCES) leaves the process as it was: its exec, which needs the same lock, is not held up.
    pidfd_refused_namespace_does_not_hold_up_exec: Must, needs [PidfdInfo, Unprivileged],
    source "execve(2); fs/pidfs.c pidfd_ioctl(); kernel/ptrace.c ptrace_may_access()",
}
fn pidfd_refused_namespace_does_not_hold_up_exec() -> Result {
    let command = Command::new("exit", &[])?.number(4);
    subject::each(|call| {
        let (ready, gate) = (Channel::<bool>::new()?, Gate::new()?);
        let child = call.spawn(|| {
            let done = set_dumpable_behavior(DumpableBehavior::NotDumpable);
            let _ = ready.send(&done.is_ok());
            gate.wait();
            note!("exec in the child: {:?}", command.exec());
            98
        })?;
        check::equal("whether a child has become undumpable", ready.recv_from(&child)?, true)?;
        let refused = child.pidfd()?.namespace(Namespace::Mount).map(drop);
        check::refused(
            format_args!("Mount namespace of an undumpable child of {call}"),
            refused,
            Errno::EACCES,
        )?;
        gate.open()?;
        child.ends_with(Status::exited(4)).context("after a namespace was refused")
    })
}

case! {
    /// PIDFD_GET_INFO accepts a structure larger than a page and zeroes the part that it does not know.
    pidfd_info_larger_than_page: Must, needs [PidfdInfo],
    source "fs/pidfs.c pidfd_info(), which is extended by size; Documentation/process/adding-syscalls.rst (a size argument)",
}
fn pidfd_info_larger_than_page() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        for size in [4096, 4097, 16383] {
            let mut buffer = vec![0xff; size];
            buffer[..8].copy_from_slice(&InfoMask::PID.bits().to_ne_bytes());
            let got = child.pidfd()?.info_sized(&mut buffer, size);
            check::succeeds(format_args!("PIDFD_GET_INFO with {size} bytes"), got)?;
            let pid = u32::from_ne_bytes([buffer[16], buffer[17], buffer[18], buffer[19]]);
            check::equal(format_args!("pid in {size} bytes"), pid, child.pid() as u32)?;
            let rest = buffer[256..].iter().all(|byte| *byte == 0);
            check::holds(rest, format_args!("the end of {size} bytes: expected zeroes"))?;
        }
        child.into_child().clear_away()
    })
}

case! {
    /// PIDFD_GET_INFO returns the same cgroupid in every cgroup namespace, even for a process outside of it.
    pidfd_info_cgroup_outside_namespace: Is, needs [PidfdInfo, Cgroup2],
    source "fs/pidfs.c pidfd_info(), cgroup_id()",
}
fn pidfd_info_cgroup_outside_namespace() -> Result {
    let (outer, inner) = (Cgroup::create(&[])?, Cgroup::create(&[])?);
    subject::each(|call| {
        let child = Held::exiting_with(&call.into_cgroup(outer.dir()), 0)?;
        let id = |when: &str| -> Result {
            let told = info(child.pidfd()?, InfoMask::CGROUPID)?.cgroupid;
            check::equal(format_args!("cgroupid, asked {when}"), told, outer.id()?)
        };
        id("in the initial cgroup namespace")?;
        in_child(|| {
            inner.admit(0)?;
            unshare(CloneFlags::CLONE_NEWCGROUP)?;
            id("in a cgroup namespace that the process is outside of")
        })?;
        child.into_child().clear_away()?;
        Ok(())
    })?;
    outer.remove()?;
    inner.remove()
}

case! {
    /// PIDFD_INFO_COREDUMP says how a process would dump even if its leader thread has ended while another runs.
    pidfd_info_coredump_leaderless: Is, needs [CoredumpMask, Proc],
    source "fs/pidfs.c pidfd_info(), task_exec_state_get_dumpable()",
    since "7.2",
}
fn pidfd_info_coredump_leaderless() -> Result {
    // A program that the caller may not read would not be dumpable.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    subject::each(|call| {
        let child = threads::leaderless(&call, 11, || 0)?;
        let told = info(child.pidfd()?, InfoMask::COREDUMP)?;
        let what = format!("COREDUMP bit and coredump_mask of a leaderless child of {call}");
        let got = (told.given().contains(InfoMask::COREDUMP), told.coredump());
        check::equal(what, got, (true, CoredumpMask::USER))?;
        child.into_child().clear_away()
    })
}

case! {
    /// PIDFD_INFO_COREDUMP of a zombie that was not dumpable says that no dump was made.
    pidfd_info_coredump_zombie: Is, needs [CoredumpMask],
    source "fs/pidfs.c pidfd_info(), task_exec_state_get_dumpable()",
    since "7.2",
}
fn pidfd_info_coredump_zombie() -> Result {
    for (how, expected) in [
        (DumpableBehavior::Dumpable, CoredumpMask::USER),
        (DumpableBehavior::NotDumpable, CoredumpMask::SKIP),
    ] {
        let child =
            Clone3::fork().with(Flags::PIDFD).spawn(|| i32::from(set_dumpable_behavior(how).is_err()))?;
        wait::find_zombie(child.pid())?;
        let told = info(child.pidfd()?, InfoMask::COREDUMP)?;
        let got = (told.given().contains(InfoMask::COREDUMP), told.coredump());
        check::equal(
            format_args!("COREDUMP bit and coredump_mask of a zombie that was {how:?}"),
            got,
            (true, expected),
        )?;
        child.reap_expecting(Status::exited(0))?;
    }
    Ok(())
}

case! {
    /// Through the pidfd of a thread, PIDFD_GET_INFO gives the parent of its process.
    pidfd_info_thread_ppid: Must, needs [PidfdInfo],
    source "getppid(2): all threads have the parent of their process; fs/pidfs.c pidfd_info()",
}
fn pidfd_info_thread_ppid() -> Result {
    let parent = nix::unistd::getppid().as_raw() as u32;
    threads::in_a_thread(|| {
        let told = info(&threads::own_pidfd()?, InfoMask::PID)?;
        let expected = (threads::own_tid() as u32, std::process::id(), parent);
        check::equal("pid, tgid, ppid of a thread", (told.pid, told.tgid, told.ppid), expected)
    })
}

case! {
    /// Through the pidfd of a thread, PIDFD_GET_INFO returns the thread's own ids, which may differ from those of other threads.
    pidfd_info_thread_credentials: Must, needs [PidfdInfo, Root],
    source "credentials(7) (\"at the kernel level, user IDs and group IDs are a per-thread attribute\"); fs/pidfs.c pidfd_info()",
}
fn pidfd_info_thread_credentials() -> Result {
    use rustix::process::{Uid, getpid};
    in_child(|| {
        let leader = Pidfd::open(getpid().as_raw_nonzero().get())?;
        threads::in_a_thread(|| {
            let [real, effective, saved] = [1001, 1002, 1003].map(Uid::from_raw);
            rustix::thread::set_thread_res_uid(real, effective, saved)?;
            let own = ids(&info(&threads::own_pidfd()?, InfoMask::CREDS)?);
            check::equal("user ids of a thread", &own[..4], &[1001, 1002, 1003, 1002][..])?;
            let others = ids(&info(&leader, InfoMask::CREDS)?);
            check::equal("user ids of its process", &others[..4], &[0; 4][..])
        })
    })
}
