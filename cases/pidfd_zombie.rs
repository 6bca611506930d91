//! Pidfds of zombies.

use clone3_conformance::abi::{Flags, InfoMask, Namespace};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::handles::Handle;
use clone3_conformance::kit::tracer::Tracer;
use clone3_conformance::kit::{Cgroup, Held, sigchld, subject};
use clone3_conformance::need::Setting;
use clone3_conformance::pidfd::{Pidfd, info, pidfd_open};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;

fn ordinary() -> Clone3 {
    Clone3::fork().with(Flags::PIDFD)
}

fn zombie() -> Result<Child> {
    let child = ordinary().spawn(|| 5)?;
    wait::find_zombie(child.pid())?;
    Ok(child)
}

case! {
    /// A signal sent to a zombie through its pidfd succeeds and does nothing.
    pidfd_zombie_signal: Must, needs [],
    source "kill(2) and pidfd_send_signal(2): ESRCH only when the process has been waited for",
}
fn pidfd_zombie_signal() -> Result {
    let zombie = zombie()?;
    let pidfd = zombie.pidfd()?;
    check::succeeds("pidfd_send_signal(0) to a zombie", pidfd.send_raw_signal(0))?;
    check::succeeds("pidfd_send_signal(SIGKILL) to a zombie", pidfd.send_signal(Signal::SIGKILL))?;
    wait::reap_expecting(zombie.pid(), Status::exited(5))?;
    check::refused("pidfd_send_signal(0) afterwards", pidfd.send_raw_signal(0), Errno::ESRCH)
}

case! {
    /// pidfd_open opens a zombie, as a process and, since Linux 6.9, as a thread (PIDFD_THREAD), and is ESRCH once the zombie has
    /// been waited for.
    pidfd_open_zombie: Must, needs [],
    source "pidfd_open(2), on processes that have ended and have not been waited for; kernel/fork.c pidfd_prepare()",
}
fn pidfd_open_zombie() -> Result {
    let zombie = zombie()?;
    let mut calls = vec![("pidfd_open(0)", 0)];
    // A kernel with PIDFD_GET_INFO has the older PIDFD_THREAD, too.
    if Setting::get().probe.features.pidfd_info {
        calls.push(("pidfd_open(PIDFD_THREAD)", libc::PIDFD_THREAD));
    }
    for &(call, flags) in &calls {
        let opened = check::succeeds(format_args!("{call} of a zombie"), pidfd_open(zombie.pid(), flags))?;
        let events = opened.poll_now(PollFlags::POLLIN)?;
        check::equal(format_args!("poll on what {call} of a zombie gave"), events, PollFlags::POLLIN)?;
    }
    wait::reap_expecting(zombie.pid(), Status::exited(5))?;
    for (call, flags) in calls {
        check::refused(format_args!("{call} after the wait"), pidfd_open(zombie.pid(), flags), Errno::ESRCH)?;
    }
    Ok(())
}

case! {
    /// A pidfd that is opened when its process is a zombie, and is the first one of that process, has the exit information once the
    /// process has been reaped. So has that of an auto-reaped process that is its tracer's zombie.
    pidfd_opened_on_zombie_tells: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "include/uapi/linux/pidfd.h (PIDFD_INFO_EXIT); fs/pidfs.c pidfs_exit()",
}
fn pidfd_opened_on_zombie_tells() -> Result {
    sigchld::block()?;
    for call in subject::unrestricted() {
        let call = call.without(Flags::PIDFD);
        let child = Held::traceable(&call, 5)?;
        // The tracer is another process, so that the zombie is not the caller's.
        let tracer = Tracer::of(child.pid())?;
        child.let_go()?;
        tracer.find_zombie()?;
        let late = check::succeeds("pidfd_open of a zombie", pidfd_open(child.pid(), 0))?;
        tracer.reap()?;
        if !child.reaps_itself() {
            wait::reap_expecting(child.pid(), Status::exited(5))?;
        }
        late.reaped_with(Status::exited(5)).context(format_args!("of a child of {call}"))?;
        // That of an ordinary child.
        sigchld::take();
        tracer.dismiss()?;
    }
    Ok(())
}

case! {
    /// pidfd_getfd is ESRCH for a zombie, as for a process that is gone; for a live process it gives the descriptor.
    pidfd_getfd_zombie: Is, needs [PidfdInfo, Ptrace],
    source "kernel/pid.c pidfd_getfd(), __pidfd_fget() (\"In case 3 we get EBADF, but that really means ESRCH\")",
}
fn pidfd_getfd_zombie() -> Result {
    let child = Held::exiting_with(&ordinary(), 5)?;
    child.pidfd()?.getfd_of_child(0).context("control: of a live child")?;
    child.let_go()?;
    wait::find_zombie(child.pid())?;
    check::refused("pidfd_getfd from a zombie", child.pidfd()?.getfd(0), Errno::ESRCH)?;
    wait::reap_expecting(child.pid(), Status::exited(5))?;
    check::refused("pidfd_getfd after the wait", child.pidfd()?.getfd(0), Errno::ESRCH)
}

case! {
    /// A zombie has no namespaces, whether it is its parent's or, auto-reaped, its tracer's: the ioctls that open them are ESRCH, and so
    /// is setns.
    pidfd_zombie_namespaces: Is, needs [Autoreap, PidfdInfo, Ptrace],
    source "fs/pidfs.c pidfd_ioctl() (\"just pretend it didn't exist\"); kernel/nsproxy.c validate_nsset()",
}
fn pidfd_zombie_namespaces() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let child = Held::traceable(&call, 5)?;
        let tracer = Tracer::of(child.pid())?;
        let pidfd = child.pidfd()?;
        let has = |kind: &Namespace| pidfd.namespace(*kind).err() != Some(Errno::EOPNOTSUPP);
        let kinds: Vec<Namespace> = Namespace::ALL.into_iter().filter(has).collect();
        let own = pidfd.namespace(Namespace::Mount).map(drop);
        check::permitted("PIDFD_GET_MNT_NAMESPACE of a live child", own)?;
        // The namespace is the caller's own.
        let join = || setns(pidfd, CloneFlags::CLONE_NEWUTS);
        check::holds(join() != Err(Errno::ESRCH), "control: setns(CLONE_NEWUTS) to a live child is ESRCH")?;
        child.let_go()?;
        tracer.find_zombie()?;
        for kind in kinds {
            let opened = pidfd.namespace(kind).map(drop);
            check::refused(format_args!("{kind:?} namespace of a zombie, {call}"), opened, Errno::ESRCH)?;
        }
        check::refused(format_args!("setns(CLONE_NEWUTS) to a zombie, {call}"), join(), Errno::ESRCH)?;
        tracer.reap()?;
        if !child.reaps_itself() {
            wait::reap_expecting(child.pid(), Status::exited(5))?;
        }
        // That of an ordinary child.
        sigchld::take();
        tracer.dismiss()
    })
}

case! {
    /// fdinfo gives the pid of a zombie, and -1 once it has been waited for.
    pidfd_zombie_fdinfo: Must, needs [Proc],
    source "proc_pid_fdinfo(5) (\"-1: the process has been reaped\"); fs/pidfs.c pidfd_show_fdinfo()",
}
fn pidfd_zombie_fdinfo() -> Result {
    let zombie = zombie()?;
    check::equal("Pid in fdinfo of a zombie", zombie.pidfd()?.pid_in_fdinfo(), Some(zombie.pid()))?;
    wait::reap_expecting(zombie.pid(), Status::exited(5))?;
    check::equal("Pid in fdinfo after the wait", zombie.pidfd()?.pid_in_fdinfo(), Some(-1))
}

case! {
    /// The file handle of a zombie's pidfd can be opened.
    pidfd_zombie_handle: Is, needs [ExitInfo],
    source "fs/pidfs.c pidfs_ino_get_pid(); open_by_handle_at(2)",
}
fn pidfd_zombie_handle() -> Result {
    let zombie = zombie()?;
    let handle = Handle::of(zombie.pidfd()?)?;
    let opened = check::succeeds("open_by_handle_at of a zombie", handle.open(zombie.pidfd()?, 0))?;
    let told = info(&Pidfd::from(opened), InfoMask::PID)?;
    check::equal("pid of what was opened", told.pid, zombie.pid() as u32)?;
    wait::reap_expecting(zombie.pid(), Status::exited(5))
}

case! {
    /// PIDFD_GET_INFO gives the cgroup of a zombie: that in which it lived.
    pidfd_zombie_cgroup: Must, needs [PidfdInfo, Cgroup2],
    source "include/uapi/linux/pidfd.h (PIDFD_INFO_CGROUPID \"Always returned if available\"); cgroups(7), on zombies",
}
fn pidfd_zombie_cgroup() -> Result {
    // Its own, because the id of the root cgroup is always 1.
    let cgroup = Cgroup::create(&[])?;
    let call = ordinary().into_cgroup(cgroup.dir());
    let child = Held::exiting_with(&call, 5)?;
    let expected = (true, cgroup.id()?);
    let told = || -> Result<(bool, u64)> {
        let told = info(child.pidfd()?, InfoMask::CGROUPID)?;
        Ok((told.given().contains(InfoMask::CGROUPID), told.cgroupid))
    };
    check::equal(
        format_args!("control: CGROUPID bit and cgroupid of a live child of {call}"),
        told()?,
        expected,
    )?;
    child.let_go()?;
    wait::find_zombie(child.pid())?;
    check::equal(format_args!("CGROUPID bit and cgroupid of a zombie of {call}"), told()?, expected)?;
    wait::reap_expecting(child.pid(), Status::exited(5))?;
    cgroup.remove()
}

case! {
    /// The exit information of a process whose cgroup was removed while it was a zombie has the id of that cgroup.
    pidfd_info_exit_cgroup_removed_before_wait: Is, needs [ExitInfo, Cgroup2],
    source "fs/pidfs.c pidfs_exit(); include/uapi/linux/pidfd.h (PIDFD_INFO_CGROUPID \"Always returned if available\")",
}
fn pidfd_info_exit_cgroup_removed_before_wait() -> Result {
    let above = Cgroup::create(&[])?;
    let cgroup = above.create_below("removed")?;
    let id = cgroup.id()?;
    let child = ordinary().into_cgroup(cgroup.dir()).spawn(|| 5)?;
    wait::find_zombie(child.pid())?;
    cgroup.remove()?;
    wait::reap_expecting(child.pid(), Status::exited(5))?;
    let told = info(child.pidfd()?, InfoMask::EXIT | InfoMask::CGROUPID)?;
    check::equal(
        "cgroupid in the exit information of a process whose cgroup was removed",
        told.cgroupid,
        id,
    )?;
    above.remove()
}
