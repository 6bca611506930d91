//! Uses of pidfds, auto-kill or not, blocking or not: wait calls, namespaces, memory advice.

use clone3_conformance::abi::{Flags, Namespace};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Named, Result};
use clone3_conformance::clone3::{Child, Clone3, Stack, park};
use clone3_conformance::kit::filtered_calls::{no_pidfd, reaches_kernel};
use clone3_conformance::kit::leaks::spawn_once_there_is_room;
use clone3_conformance::kit::pair::Pair;
use clone3_conformance::kit::process::{child_reporting, in_child, own_pid};
use clone3_conformance::kit::uring::Ring;
use clone3_conformance::kit::{
    Blocked, Channel, Echo, Held, WaitCall, errands, inherited, namespace, privilege, subject, threads,
    tracer,
};
use clone3_conformance::pidfd::{Pidfd, pidfd_open};
use clone3_conformance::wait::{self, Status, Who};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::ptrace::Options;
use nix::sys::signal::Signal;
use rustix::fs::{fstat, stat};
use rustix::pipe::{PipeFlags, pipe_with};

const ENDED: i32 = libc::WEXITED | libc::__WALL;

/// `CLONE_NEWTIME`, which nix does not name.
const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

case! {
    /// pidfd_open with PIDFD_NONBLOCK gives a non-blocking pidfd: waitid(P_PIDFD) on it is EAGAIN while the child lives, and with
    /// WNOHANG it is 0, as on a blocking one.
    pidfd_nonblocking_waitid: Must, needs [],
    source "pidfd_open(2), PIDFD_NONBLOCK; waitid(2), EAGAIN and WNOHANG",
    since "5.10",
}
fn pidfd_nonblocking_waitid() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let patient = child.observe()?;
        let hasty = pidfd_open(child.pid(), libc::O_NONBLOCK as u32);
        let hasty = check::succeeds("pidfd_open(PIDFD_NONBLOCK)", hasty)?;
        for (pidfd, expected) in [(&patient, 0), (&hasty, libc::O_NONBLOCK)] {
            let shown = pidfd.status_flags()? & libc::O_NONBLOCK;
            check::equal(format_args!("O_NONBLOCK in F_GETFL of {pidfd}"), shown, expected)?;
            let got = wait::waitid(Who::pidfd(pidfd), ENDED | libc::WNOHANG);
            check::equal(format_args!("waitid(P_PIDFD, WNOHANG) with flags {expected:#x}"), got, Ok(None))?;
        }
        for (name, more) in [("", 0), (", WNOWAIT", libc::WNOWAIT)] {
            let got = wait::waitid(Who::pidfd(&hasty), ENDED | more);
            check::equal(format_args!("waitid(P_PIDFD{name}) with PIDFD_NONBLOCK"), got, Err(Errno::EAGAIN))?;
        }
        child.into_child().clear_away()
    })
}

case! {
    /// On a pidfd that was opened with PIDFD_NONBLOCK, waitid(P_PIDFD) blocks once O_NONBLOCK has been taken from it (F_SETFL).
    pidfd_blocks_without_nonblock: Must, needs [Proc],
    source "pidfd_open(2), PIDFD_NONBLOCK; F_SETFL(2const); waitid(2), EAGAIN",
    since "5.10",
}
fn pidfd_blocks_without_nonblock() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let opened = pidfd_open(child.pid(), libc::O_NONBLOCK as u32);
        let pidfd = check::succeeds("pidfd_open(PIDFD_NONBLOCK)", opened)?;
        pidfd.set_status_flags(OFlag::empty())?;
        let waiter = Blocked::in_call(WaitCall::pidfd(&pidfd, ENDED))?;
        child.let_go()?;
        let expected = if child.reaps_itself() { Err(Errno::ECHILD) } else { Ok(Some(child.pid())) };
        check::equal(format_args!("waitid(P_PIDFD) for a child of {call}"), waiter.join()?, expected)?;
        // Pidfds of older kernels have no POLLHUP.
        if child.reaps_itself() { child.pidfd()?.wait_reaped() } else { Ok(()) }
    })
}

case! {
    /// waitid(P_PIDFD) on an auto-kill pidfd blocks until the child has ended, and is ECHILD then.
    autokill_waitid_blocks: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "waitid(2); commit \"clone: add CLONE_AUTOREAP\"",
}
fn autokill_waitid_blocks() -> Result {
    let child = Held::exiting_with(&Clone3::new(Flags::KILLED_NNP), 3)?;
    let waiter = Blocked::in_call(WaitCall::pidfd(child.pidfd()?, ENDED))?;
    child.let_go()?;
    check::equal("waitid(P_PIDFD) on an auto-kill pidfd", waiter.join()?, Err(Errno::ECHILD))?;
    child.pidfd()?.reaped_with(Status::exited(3))
}

/// Returns the inode number of a namespace opened by a pidfd; `None` if the kernel was built without this kind.
fn number(pidfd: &Pidfd, kind: Namespace) -> Result<Option<u64>> {
    match pidfd.namespace(kind) {
        Err(Errno::EOPNOTSUPP) => Ok(None),
        got => Ok(Some(fstat(check::succeeds(format_args!("{kind:?} namespace"), got)?)?.st_ino)),
    }
}

case! {
    /// The ioctls that open the namespaces of a process take no argument: one other than 0 is EINVAL.
    pidfd_ns_ioctl_argument: Is, needs [PidfdInfo],
    source "fs/pidfs.c pidfd_ioctl()",
}
fn pidfd_ns_ioctl_argument() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        for kind in Namespace::ALL {
            if number(child.pidfd()?, kind)?.is_some() {
                let got = child.pidfd()?.namespace_with(kind, 1);
                check::refused(format_args!("{kind:?} namespace with argument 1"), got, Errno::EINVAL)?;
            }
        }
        child.into_child().clear_away()
    })
}

case! {
    /// The ioctls of an auto-kill pidfd open the namespaces of its child.
    autokill_ns_ioctls: Must, needs [Autoreap, Nnp, Autokill],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; pull request vfs-6.11.pidfs",
}
fn autokill_ns_ioctls() -> Result {
    let child = Held::exiting_with(&Clone3::new(Flags::KILLED_NNP), 0)?;
    let plain = child.observe()?;
    for kind in Namespace::ALL {
        let what = format!("{kind:?} namespace, by clone3's pidfd and by pidfd_open's");
        check::equal(what, number(child.pidfd()?, kind)?, number(&plain, kind)?)?;
    }
    child.into_child().clear_away()
}

case! {
    /// The pidfd of a thread opens the thread's own namespaces, which may differ from those of its process.
    pidfd_ns_ioctl_of_thread: Must, needs [PidfdInfo, SysAdmin],
    source "pidfd_open(2), PIDFD_THREAD; pull request vfs-6.11.pidfs; unshare(2), which is about the calling thread",
}
fn pidfd_ns_ioctl_of_thread() -> Result {
    in_child(|| {
        let leader = Pidfd::open(own_pid())?;
        let shared = number(&leader, Namespace::Mount)?;
        threads::in_a_thread(|| {
            let own = threads::own_pidfd()?;
            check::equal("Mount namespace of a thread", number(&own, Namespace::Mount)?, shared)?;
            nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
            check::equal("Mount namespace of its process", number(&leader, Namespace::Mount)?, shared)?;
            let separate = number(&own, Namespace::Mount)? != shared;
            check::holds(
                separate,
                "Mount namespace of a thread after unshare: expected another than its process's",
            )
        })
    })
}

case! {
    /// setns(2) with the pidfd of a thread moves the caller into the thread's own namespaces.
    pidfd_setns_to_thread: Must, needs [PidfdInfo, SysAdmin],
    source "setns(2), on pidfds; pidfd_open(2), PIDFD_THREAD; unshare(2), which is about the calling thread",
}
fn pidfd_setns_to_thread() -> Result {
    let unshare = || namespace::made("unshare(CLONE_NEWUTS)", nix::sched::unshare(CloneFlags::CLONE_NEWUTS));
    in_child(|| {
        threads::in_a_thread(|| {
            unshare()?;
            let there = threads::own_pidfd()?;
            threads::in_a_thread(|| {
                let own = threads::own_pidfd()?;
                unshare()?;
                let (here, wanted) = (number(&own, Namespace::Uts)?, number(&there, Namespace::Uts)?);
                check::holds(here != wanted, "control: unshare(CLONE_NEWUTS) has done nothing")?;
                let moved = setns(&there, CloneFlags::CLONE_NEWUTS);
                check::succeeds("setns(CLONE_NEWUTS) with the pidfd of a thread", moved)?;
                check::equal("UTS namespace after setns to a thread", number(&own, Namespace::Uts)?, wanted)
            })
        })
    })
}

case! {
    /// A namespace of a child that was opened through its pidfd, and closed again, ends with the child: it does not count against
    /// user.max_uts_namespaces any more. Auto-reaped or not.
    pidfd_ns_ioctl_keeps_nothing: Must, needs [PidfdInfo, UserNamespaces, Proc],
    source "namespaces(7), namespace lifetime; proc_sys_user(5), max_uts_namespaces",
}
fn pidfd_ns_ioctl_keeps_nothing() -> Result {
    const LIMIT: &str = "/proc/sys/user/max_uts_namespaces";
    subject::each(|call| {
        in_child(|| {
            privilege::unshare_user_namespace()?;
            std::fs::write(LIMIT, "1")
                .map_err(|error| Failure::blocked(format!("writing 1 to {LIMIT} fails: {error}")))?;
            let call = call.clone().with(Flags::CLONE_NEWUTS);
            let child = namespace::made(&call, call.try_spawn(park))?;
            check::refused("control: a second UTS namespace", call.try_spawn(park).map(drop), Errno::ENOSPC)?;
            drop(check::succeeds("PIDFD_GET_UTS_NAMESPACE", child.pidfd()?.namespace(Namespace::Uts))?);
            child.clear_away()?;
            let second = spawn_once_there_is_room(&call, || 0);
            let second = second.context(format_args!("when the first child of {call} is gone"))?;
            second.ends_with(Status::exited(0))
        })
    })
}

case! {
    /// PIDFD_GET_USER_NAMESPACE opens the user namespace of the process, and not the caller's.
    pidfd_ns_ioctl_user: Must, needs [PidfdInfo, UserNamespaces, Proc],
    source "include/uapi/linux/pidfd.h; pull request vfs-6.11.pidfs",
}
fn pidfd_ns_ioctl_user() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call.with(Flags::CLONE_NEWUSER), 0)?;
        let of = |who: &str| -> Result<u64> { Ok(stat(format!("/proc/{who}/ns/user"))?.st_ino) };
        let (theirs, own) = (of(&child.pid().to_string())?, of("self")?);
        check::holds(theirs != own, "control: CLONE_NEWUSER made no user namespace")?;
        check::equal("User namespace of the child", number(child.pidfd()?, Namespace::User)?, Some(theirs))?;
        child.into_child().clear_away()
    })
}

case! {
    /// setns with an auto-kill pidfd moves the caller into two namespaces of the child at once, as with any pidfd, and with its working
    /// directory; without namespace flags it is EINVAL.
    autokill_setns_two: Must, needs [Autoreap, Nnp, Autokill, SysAdmin],
    source "setns(2), on a pidfd and several CLONE_NEW* flags",
}
fn autokill_setns_two() -> Result {
    let new = Flags::CLONE_NEWNS | Flags::CLONE_NEWUTS;
    match Clone3::fork().with(new).try_spawn(|| 0) {
        Ok(ordinary) => ordinary.reap_expecting(Status::exited(0))?,
        // This is about the number of processes, not about namespaces.
        Err(Errno::EAGAIN) => return Err(Errno::EAGAIN.into()),
        Err(errno) => {
            return Err(Failure::blocked(format!("{new} fails with {} (CONFIG_UTS_NS?)", Named(errno))));
        }
    }
    for flags in [Flags::REAPED, Flags::KILLED_NNP] {
        let call = Clone3::new(flags | new);
        let child = Held::exiting_with(&call, 0)?;
        in_child(|| joins_mount_and_uts(&child, &call))?;
        child.into_child().clear_away()?;
    }
    Ok(())
}

/// Moves the caller into the mount and the UTS namespace of a child of this call, and checks that it is there.
fn joins_mount_and_uts(child: &Held, call: &Clone3) -> Result {
    let (own, its) = (Pidfd::open(own_pid())?, child.pidfd()?);
    let kinds = [Namespace::Mount, Namespace::Uts];
    for kind in kinds {
        check::holds(
            number(&own, kind)? != number(its, kind)?,
            format_args!(
                "control: {kind:?} namespace of a child of {call}: expected another than the caller's"
            ),
        )?;
    }
    let moved_nowhere = setns(its, CloneFlags::empty());
    check::refused(format_args!("setns(0) to a child of {call}"), moved_nowhere, Errno::EINVAL)?;
    std::env::set_current_dir("/")?;
    let moved = setns(its, CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS);
    check::succeeds(format_args!("setns(CLONE_NEWNS|CLONE_NEWUTS) to a child of {call}"), moved)?;
    let what = format!("whether root and working directory are one mount after setns to a child of {call}");
    check::equal(what, inherited::is_cwd_on_root_mount()?, true)?;
    for kind in kinds {
        check::equal(
            format_args!("{kind:?} namespace of the caller after setns to a child of {call}"),
            number(&own, kind)?,
            number(its, kind)?,
        )?;
    }
    Ok(())
}

case! {
    /// process_madvise and process_mrelease return the same for an auto-kill pidfd as for a plain one.
    autokill_memory_calls: Must, needs [Autoreap, Nnp, Autokill],
    source "process_madvise(2); process_mrelease(2): EINVAL, the process is not exiting",
}
fn autokill_memory_calls() -> Result {
    let child = Held::exiting_with(&Clone3::new(Flags::KILLED_NNP), 0)?;
    let (armed, plain) = (child.pidfd()?, child.observe()?);
    type Call = fn(&Pidfd) -> std::result::Result<(), Errno>;
    let (madvise, mrelease): (Call, Call) = (Pidfd::madvise_nothing, Pidfd::mrelease);
    for (name, call) in [("process_madvise", madvise), ("process_mrelease", mrelease)] {
        reaches_kernel(name, call(&no_pidfd()?))?;
        // The result depends on the caller's privileges.
        let control = call(&plain);
        check::holds(
            control != Err(Errno::EBADF),
            format_args!("control: {name} by a plain pidfd is EBADF"),
        )?;
        check::equal(format_args!("{name} by an auto-kill pidfd"), call(armed), control)?;
    }
    child.into_child().clear_away()
}

/// Checks that the caller may call process_mrelease.
///
/// # Errors
/// `blocked` if not.
fn may_be_released(pidfd: &Pidfd) -> Result {
    match pidfd.mrelease() {
        Err(errno @ (Errno::ENOSYS | Errno::EPERM)) => {
            Err(Failure::blocked(format!("process_mrelease fails with {}", Named(errno))))
        }
        _ => Ok(()),
    }
}

case! {
    /// process_mrelease on a process whose leader has ended before another thread is EINVAL before it is killed, succeeds once it
    /// is killed and not gone yet, and is ESRCH when it is gone: for an ordinary, an auto-reaped and an auto-kill child.
    autokill_mrelease_without_leader: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Ptrace, Proc],
    source "process_mrelease(2); kernel/pid.c pidfd_get_task(); mm/oom_kill.c process_mrelease()",
}
fn autokill_mrelease_without_leader() -> Result {
    for call in
        [Clone3::fork().with(Flags::PIDFD), Clone3::new(Flags::REAPED), Clone3::new(Flags::KILLED_NNP)]
    {
        let mut pair = Pair::new(&call)?;
        let observer = pair.child.observe()?;
        may_be_released(&observer)?;
        let mrelease = |when: &str, expected: std::result::Result<(), Errno>| {
            let what = format!("process_mrelease of a child of {call}, {when}");
            check::equal(what, observer.mrelease(), expected)
        };
        mrelease("both of whose threads live", Err(Errno::EINVAL))?;
        tracer::seize(pair.other, Options::PTRACE_O_TRACEEXIT)?;
        pair.end_leader()?;
        mrelease("whose leader has ended", Err(Errno::EINVAL))?;
        if call.flags().contains(Flags::AUTOKILL) {
            pair.child.close_pidfd()?;
        } else {
            check::succeeds("pidfd_send_signal(SIGKILL)", observer.send_signal(Signal::SIGKILL))?;
        }
        // Killed, and stopped by its tracer before it releases its memory.
        let held_up = Status::ptrace_event(libc::PTRACE_EVENT_EXIT, Signal::SIGTRAP);
        wait::reap_expecting(pair.other, held_up)?;
        mrelease("whose leader had ended when it was killed", Ok(()))?;
        tracer::go_on(pair.other, None)?;
        wait::reap_expecting(pair.other, Status::SIGKILLED)?;
        match pair.child.reaps_itself() {
            true => observer.gone_with(pair.child.pid(), Status::SIGKILLED)?,
            false => pair.child.reap_expecting(Status::SIGKILLED)?,
        }
        mrelease("which is gone", Err(Errno::ESRCH))?;
    }
    Ok(())
}

case! {
    /// process_mrelease on a killed process whose memory a live auto-reaped child shares (CLONE_VM) is EINVAL. It succeeds when the
    /// child is gone.
    autoreap_sharer_keeps_memory_from_mrelease: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "process_mrelease(2), EINVAL; mm/oom_kill.c task_will_free_mem() (\"Make sure that all tasks which share the mm with the given tasks are dying as well\")",
}
fn autoreap_sharer_keeps_memory_from_mrelease() -> Result {
    let (nothing, _open) = pipe_with(PipeFlags::CLOEXEC)?;
    subject::each_reaped(|call| {
        let (told, call) = (Channel::<Result<i32>>::new()?, call.with(Flags::CLONE_VM));
        let creator = Clone3::fork().with(Flags::PIDFD).spawn(|| {
            let child =
                Stack::new().and_then(|stack| call.spawn_on(&stack, errands::wait_for_input(&nothing)));
            let said = told.send(&child.as_ref().map(Child::pid).map_err(Failure::clone));
            // Its pidfd stays open, so that it lives.
            std::mem::forget(child);
            if said.is_ok() { park() } else { 97 }
        })?;
        let sharer = Pidfd::open(told.recv_from(&creator)??)?;
        let killed = creator.observe()?;
        may_be_released(&killed)?;
        tracer::seize(creator.pid(), Options::PTRACE_O_TRACEEXIT)?;
        creator.kill(Signal::SIGKILL)?;
        // Stopped by its tracer before it releases its memory.
        let held_up = Status::ptrace_event(libc::PTRACE_EVENT_EXIT, Signal::SIGTRAP);
        wait::reap_expecting(creator.pid(), held_up)?;
        let what =
            format!("process_mrelease of a killed process that shares its memory with a child of {call}");
        check::refused(&what, killed.mrelease(), Errno::EINVAL)?;
        check::succeeds("pidfd_send_signal(SIGKILL)", sharer.send_signal(Signal::SIGKILL))?;
        sharer.wait_reaped()?;
        check::succeeds(format_args!("{what} which is gone"), killed.mrelease())?;
        tracer::go_on(creator.pid(), None)?;
        creator.reap_expecting(Status::SIGKILLED)
    })
}

case! {
    /// IORING_OP_WAITID for the caller's last child completes with ECHILD when that child, an auto-reaped one, has ended. For an
    /// ordinary child it completes with success.
    autoreap_io_uring_waitid: Must, needs [Autoreap, ExitInfo],
    source "io_uring_enter(2), IORING_OP_WAITID; commit \"clone: add CLONE_AUTOREAP\"",
}
fn autoreap_io_uring_waitid() -> Result {
    subject::each_reaped(|reaped| {
        for (call, expected) in [(Clone3::fork().with(Flags::PIDFD), 0), (reaped.clone(), -libc::ECHILD)] {
            let child = Held::exiting_with(&call, 4)?;
            let mut ring = Ring::new()?;
            ring.start_wait(Who::Any)?;
            check::holds(ring.is_idle(), "IORING_OP_WAITID for a child that lives is over")?;
            child.let_go()?;
            let got = ring.finish_wait()?;
            check::equal(
                format_args!("result of IORING_OP_WAITID for a child of {call}"),
                got,
                Some(expected),
            )?;
            child.pidfd()?.reaped_with(Status::exited(4))?;
        }
        Ok(())
    })
}

case! {
    /// IORING_OP_WAITID for any child stays pending when an auto-reaped child ends and another lives; it completes when the other
    /// ends.
    autoreap_io_uring_waitid_goes_on: Must, needs [Autoreap, ExitInfo],
    source "io_uring_enter(2), IORING_OP_WAITID; commit \"clone: add CLONE_AUTOREAP\"; waitid(2), P_ALL",
}
fn autoreap_io_uring_waitid_goes_on() -> Result {
    subject::each_reaped(|call| {
        let stays = Held::exiting_with(&Clone3::fork().with(Flags::PIDFD), 4)?;
        let ends = Held::exiting_with(&call, 3)?;
        let mut ring = Ring::new()?;
        ring.start_wait(Who::Any)?;
        ends.let_go()?;
        ends.pidfd()?.reaped_with(Status::exited(3))?;
        check::holds(
            ring.is_idle(),
            "IORING_OP_WAITID for any child is over when an auto-reaped one has ended",
        )?;
        stays.let_go()?;
        let what = "result of IORING_OP_WAITID for any child, when one has ended that is waited for";
        check::equal(what, ring.finish_wait()?, Some(0))?;
        stays.pidfd()?.reaped_with(Status::exited(4))
    })
}

case! {
    /// IORING_OP_WAITID with WSTOPPED or WCONTINUED, pending for an auto-reaped child, completes when that child stops or continues,
    /// as for an ordinary one.
    autoreap_io_uring_waitid_for_stop: Must, needs [Autoreap],
    source "io_uring_enter(2), IORING_OP_WAITID; waitid(2), WSTOPPED and WCONTINUED",
}
fn autoreap_io_uring_waitid_for_stop() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        for (signal, events) in [(Signal::SIGSTOP, libc::WSTOPPED), (Signal::SIGCONT, libc::WCONTINUED)] {
            let mut ring = Ring::new()?;
            ring.start_wait_for(events, Who::Pid(child.pid()))?;
            let what = format!("IORING_OP_WAITID for {signal} of a child of {call}");
            check::holds(ring.is_idle(), format_args!("{what} is over before the signal"))?;
            child.kill(signal)?;
            check::equal(format_args!("result of {what}"), ring.finish_wait()?, Some(0))?;
        }
        child.into_child().clear_away()
    })
}

case! {
    /// IORING_OP_WAITID on a non-blocking pidfd of a live child completes at once, with success; on a blocking one it completes
    /// when the child has ended, with ECHILD if the child is auto-reaped.
    autoreap_io_uring_waitid_by_pidfd: Is, needs [Autoreap, ExitInfo],
    source "kernel/exit.c kernel_waitid_prepare() (O_NONBLOCK means WNOHANG); io_uring/waitid.c io_waitid()",
}
fn autoreap_io_uring_waitid_by_pidfd() -> Result {
    subject::each_reaped(|reaped| {
        for (call, expected) in [(Clone3::fork().with(Flags::PIDFD), 0), (reaped.clone(), -libc::ECHILD)] {
            let child = Held::exiting_with(&call, 4)?;
            let hasty = pidfd_open(child.pid(), libc::O_NONBLOCK as u32);
            let hasty = check::succeeds("pidfd_open(PIDFD_NONBLOCK)", hasty)?;
            let mut ring = Ring::new()?;
            ring.start_wait(Who::pidfd(&hasty))?;
            let what =
                format!("result of IORING_OP_WAITID by a non-blocking pidfd of a live child of {call}");
            check::holds(!ring.is_idle(), format_args!("{what}: expected Some(0), still pending"))?;
            check::equal(what, ring.finish_wait()?, Some(0))?;
            ring.start_wait(Who::pidfd(child.pidfd()?))?;
            check::holds(ring.is_idle(), "IORING_OP_WAITID by a pidfd of a child that lives is over")?;
            child.let_go()?;
            let what = format!("result of IORING_OP_WAITID by a pidfd of a child of {call} that ended");
            check::equal(what, ring.finish_wait()?, Some(expected))?;
            child.pidfd()?.reaped_with(Status::exited(4))?;
        }
        Ok(())
    })
}

case! {
    /// setns(CLONE_NEWTIME) with a pidfd moves the caller into the time namespace of the process, not into one that the process has
    /// unshared for its own children. Auto-reaped or not.
    pidfd_setns_joins_time_namespace_of_target: Must, needs [PidfdInfo, SysAdmin],
    source "setns(2), nstype CLONE_NEWTIME and a pidfd; time_namespaces(7), on unshare; kernel/nsproxy.c validate_nsset()",
}
fn pidfd_setns_joins_time_namespace_of_target() -> Result {
    let of = |pidfd: &Pidfd| {
        Ok::<_, Failure>((number(pidfd, Namespace::Time)?, number(pidfd, Namespace::TimeForChildren)?))
    };
    let own = Pidfd::open(own_pid())?;
    if of(&own)?.0.is_none() {
        return Err(Failure::blocked("needs time namespaces (CONFIG_TIME_NS)"));
    }
    subject::each(|call| {
        let unshare_time = || check::permitted("unshare(CLONE_NEWTIME)", unshare(NEW_TIME));
        // In one of its own, because the initial one is not for the root of a user namespace to join.
        let target = Echo::prepared(&call.clone().with(Flags::CLONE_NEWTIME), unshare_time)?;
        let (its, for_its_children) = of(target.pidfd()?)?;
        check::holds(
            its != for_its_children,
            "control: a process that has unshared a time namespace for its children",
        )?;
        let joined = in_child(|| {
            check::succeeds("setns(CLONE_NEWTIME)", setns(target.pidfd()?, NEW_TIME))?;
            of(&Pidfd::open(own_pid())?)
        })?;
        check::equal(format_args!("time namespaces after setns to a child of {call}"), joined, (its, its))?;
        target.into_child().clear_away()
    })
}

case! {
    /// After setns(CLONE_NEWPID) with the pidfd of a process in another pid namespace, the caller's next child is in that
    /// namespace, not in one that the process has unshared for its own children. Auto-reaped or not.
    pidfd_setns_joins_namespace_of_target: Must, needs [PidfdInfo, Root, PidNamespace],
    source "setns(2), nstype CLONE_NEWPID and a pidfd; pid_namespaces(7), on unshare; kernel/nsproxy.c validate_nsset()",
}
fn pidfd_setns_joins_namespace_of_target() -> Result {
    subject::each(|call| {
        let call = call.with(Flags::CLONE_NEWPID);
        let target = Echo::prepared(&call, namespace::unshare_pid)?;
        let (outside, (inside, joined)) = in_child(|| {
            check::succeeds("setns(CLONE_NEWPID)", setns(target.pidfd()?, CloneFlags::CLONE_NEWPID))?;
            let (child, found) = child_reporting(&Clone3::fork(), || {
                Ok((own_pid(), number(&Pidfd::open(own_pid())?, Namespace::Pid)?))
            })?;
            let outside = child.pid();
            child.reap_expecting(Status::exited(0))?;
            Ok((outside, found))
        })?;
        let whose = format!("a process made after setns to a child of {call} that has unshared another");
        let its = number(target.pidfd()?, Namespace::Pid)?;
        check::equal(format_args!("Pid namespace of {whose}"), joined, its)?;
        // The first process in the unshared namespace would be 1, and in the caller's own it would have one number only.
        check::holds(
            inside != 1 && inside != outside,
            format_args!(
                "getpid() of {whose}: expected neither 1 nor {outside}, its pid outside, got {inside}"
            ),
        )?;
        target.into_child().clear_away()
    })
}
