//! Calls that fail late: what the caller would have shared with the child, and what it used up for it, is as before.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result, errno_of};
use clone3_conformance::clone3::{Clone3, NOWHERE, Stack, park};
use clone3_conformance::kit::channel::read_byte;
use clone3_conformance::kit::eventually::eventually;
use clone3_conformance::kit::leaks::{Kept, Room};
use clone3_conformance::kit::mapping::Mappable;
use clone3_conformance::kit::outcome::outcome_in_child;
use clone3_conformance::kit::privilege::become_unused_user;
use clone3_conformance::kit::process::{in_child, own_pid, reap_all};
use clone3_conformance::kit::semaphore::Semaphore;
use clone3_conformance::kit::userfault::Trap;
use clone3_conformance::kit::{Cgroup, Channel, Gate, Held, errands, namespace, privilege, subject};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::sandbox;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::poll::PollTimeout;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use rustix::fs::{FlockOperation, MemfdFlags, fcntl_lock, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};

/// Checks that calls with the new flags, these flags and an invalid pidfd address fail, which is after everything else is
/// done.
fn refused_late(flags: Flags) -> Result {
    for call in [Clone3::new(Flags::REAPED), Clone3::new(Flags::KILLED_NNP)] {
        call.with(flags).pidfd_address(NOWHERE).refused(Errno::EFAULT)?;
    }
    Ok(())
}

case! {
    /// A call that fails, because its flags exclude each other or late, does not count against the caller's RLIMIT_NPROC.
    abi_refusal_keeps_no_process_count: Must, needs [Autoreap, Nnp, Autokill],
    source "getrlimit(2), RLIMIT_NPROC; kernel/fork.c copy_process() (bad_fork_cleanup_count)",
}
fn abi_refusal_keeps_no_process_count() -> Result {
    const LIMIT: u32 = 4;
    become_unused_user()?;
    setrlimit(Resource::RLIMIT_NPROC, LIMIT.into(), LIMIT.into())?;
    let room = || -> Result<usize> {
        let made = (0..LIMIT).filter(|_| Clone3::fork().try_spawn(|| 0).is_ok()).count();
        reap_all()?;
        Ok(made)
    };
    let before = room()?;
    if before == LIMIT as usize {
        return Err(Failure::blocked("RLIMIT_NPROC does not limit this user"));
    }
    let invalid =
        [Flags::THREAD | Flags::NNP, Flags::THREAD | Flags::AUTOREAP, Flags::CLONE_PARENT | Flags::AUTOREAP];
    for _ in 0..LIMIT {
        refused_late(Flags::empty())?;
        invalid.iter().try_for_each(|flags| Clone3::new(*flags).refused(Errno::EINVAL))?;
    }
    check::equal("processes that RLIMIT_NPROC allows after calls that failed", room()?, before)
}

case! {
    /// Nothing is left of the user namespace that was made for a call that failed late.
    abi_refusal_keeps_no_user_namespace: Must, needs [Autoreap, Nnp, Autokill, UserNamespaces, PidNamespace, Proc],
    source "user_namespaces(7), limits; kernel/fork.c copy_process() (bad_fork_cleanup_count)",
}
fn abi_refusal_keeps_no_user_namespace() -> Result {
    // In a separate room: the space taken by a namespace is not free again immediately.
    in_child(|| {
        let room = Room::make()?;
        let child = Held::exiting_with(&Clone3::fork().with(Flags::CLONE_NEWUSER), 0)?;
        check::equal(
            "control: room beside a child that has one",
            room.has_space(Kept::UserNamespace)?,
            false,
        )?;
        child.into_child().clear_away()
    })?;
    let room = Room::make()?;
    Clone3::new(Flags::REAPED | Flags::CLONE_NEWUSER).pidfd_address(NOWHERE).refused(Errno::EFAULT)?;
    room.empties()
}

case! {
    /// Nothing is left of the UTS namespace that was made for a call that failed late.
    abi_refusal_keeps_no_uts_namespace: Must, needs [Autoreap, Nnp, Autokill, UserNamespaces, Proc],
    source "namespaces(7), max_uts_namespaces; kernel/fork.c copy_process() (bad_fork_cleanup_namespaces)",
}
fn abi_refusal_keeps_no_uts_namespace() -> Result {
    const LIMIT: &str = "/proc/sys/user/max_uts_namespaces";
    privilege::enter_user_namespace()?;
    std::fs::write(LIMIT, "1")
        .map_err(|error| Failure::blocked(format!("writing to {LIMIT} fails: {error}")))?;
    // Some are released a moment later, without any notification.
    let room = || -> Result<bool> {
        loop {
            match outcome_in_child(|| Ok(unshare(CloneFlags::CLONE_NEWUTS)))? {
                Ok(()) => return Ok(true),
                Err(errno) if errno != Errno::ENOSPC => {
                    return namespace::made("unshare(CLONE_NEWUTS)", Err(errno));
                }
                Err(_) if sandbox::time_left() == PollTimeout::ZERO => return Ok(false),
                Err(_) => std::thread::yield_now(),
            }
        }
    };
    check::equal("control: room before the call", room()?, true)?;
    Clone3::new(Flags::REAPED | Flags::CLONE_NEWUTS).pidfd_address(NOWHERE).refused(Errno::EFAULT)?;
    check::equal("room for one UTS namespace after the call", room()?, true)
}

case! {
    /// The descriptors of a caller whose call with CLONE_FILES failed late are closed when the caller ends.
    abi_refusal_keeps_no_descriptors: Must, needs [Autoreap, Nnp, Autokill],
    source "clone(2): no child process is created on failure; kernel/fork.c copy_process() (bad_fork_cleanup_files)",
}
fn abi_refusal_keeps_no_descriptors() -> Result {
    let (from, to) = pipe_with(PipeFlags::CLOEXEC)?;
    in_child(|| refused_late(Flags::CLONE_FILES))?;
    drop(to);
    check::equal("read from a pipe whose writers have ended", read_byte(&from)?, None)
}

/// Returns whether the caller, in namespaces of its own, may enter its mount namespace, for which it must not share its
/// directories with any process.
fn may_enter_mount_namespace() -> Result<std::result::Result<(), Errno>> {
    Ok(setns(Pidfd::open(own_pid())?, CloneFlags::CLONE_NEWNS))
}

case! {
    /// A caller whose call with CLONE_FS failed late shares its directories with nobody: it may enter a mount namespace, which is
    /// EINVAL while a child shares them.
    abi_refusal_keeps_no_directories: Must, needs [Autoreap, Nnp, Autokill, UserNamespaces],
    source "setns(2), EINVAL; kernel/fork.c copy_process() (bad_fork_cleanup_fs)",
}
fn abi_refusal_keeps_no_directories() -> Result {
    in_child(|| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        let child = Held::exiting_with(&Clone3::fork().with(Flags::CLONE_FS), 0)?;
        check::refused(
            "control: setns beside a child that shares",
            may_enter_mount_namespace()?,
            Errno::EINVAL,
        )?;
        child.into_child().clear_away()?;
        check::succeeds("control: setns without one", may_enter_mount_namespace()?)?;
        refused_late(Flags::CLONE_FS)?;
        check::succeeds("setns after a call with CLONE_FS that failed", may_enter_mount_namespace()?)
    })
}

case! {
    /// The memory of a caller whose call with CLONE_VM failed late is gone when the caller has ended: nothing that it mapped is
    /// still mapped.
    abi_refusal_keeps_no_memory: Must, needs [Autoreap, Nnp, Autokill],
    source "clone(2): no child process is created on failure; kernel/fork.c copy_process() (bad_fork_cleanup_mm); F_ADD_SEALS(2const), EBUSY",
}
fn abi_refusal_keeps_no_memory() -> Result {
    let file = Mappable::new()?;
    in_child(|| {
        file.map()?;
        check::equal("control: mapped while the caller lives", file.is_mapped()?, true)?;
        refused_late(Flags::CLONE_VM)
    })?;
    check::equal("mapped when the caller has ended", file.is_mapped()?, false)
}

case! {
    /// A caller whose call with CLONE_SIGHAND failed late shares its signal handlers with nobody: unshare(CLONE_SIGHAND) succeeds, which
    /// is EINVAL while a child shares them.
    abi_refusal_keeps_no_handlers: Must, needs [Autoreap, Nnp, Autokill],
    source "unshare(2), CLONE_SIGHAND, EINVAL; kernel/fork.c copy_process() (bad_fork_cleanup_sighand)",
}
fn abi_refusal_keeps_no_handlers() -> Result {
    let shared = Flags::CLONE_VM | Flags::CLONE_SIGHAND;
    let unshare_handlers = || unshare(CloneFlags::CLONE_SIGHAND);
    check::permitted("unshare(CLONE_SIGHAND)", unshare_handlers())?;
    let gate: &Gate = Box::leak(Box::new(Gate::new()?));
    let child = Clone3::fork().with(shared).spawn_on(&Stack::new()?, errands::wait_at(gate))?;
    check::refused("control: unshare beside a child that shares", unshare_handlers(), Errno::EINVAL)?;
    gate.open()?;
    child.reap_expecting(Status::exited(0))?;
    check::succeeds("control: unshare without one", unshare_handlers())?;
    refused_late(shared)?;
    check::succeeds("unshare after a call with CLONE_SIGHAND that failed", unshare_handlers())
}

case! {
    /// A call that fails after the descriptors have been copied for the child does not release the caller's record locks.
    abi_refusal_keeps_record_locks: Must, needs [Autoreap, Nnp, Autokill],
    source "fcntl_locking(2); clone(2): no child process is created on failure; kernel/fork.c copy_process() (bad_fork_cleanup_files)",
}
fn abi_refusal_keeps_record_locks() -> Result {
    let file = memfd_create("locked", MemfdFlags::CLOEXEC)?;
    let lock = || fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(errno_of);
    let lock_by_another = || outcome_in_child(|| Ok(lock()));
    check::succeeds("control: a lock by another process", lock_by_another()?)?;
    check::succeeds("a lock", lock())?;
    check::refused(
        "control: a lock by another process of what is locked",
        lock_by_another()?,
        Errno::EAGAIN,
    )?;
    refused_late(Flags::empty())?;
    check::refused("a lock by another process after calls that failed", lock_by_another()?, Errno::EAGAIN)
}

case! {
    /// Nothing is left of a cgroup that is removed after its limit has refused a child to be made in it (EAGAIN).
    abi_refusal_keeps_no_cgroup: Must, needs [Autoreap, Nnp, Autokill, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.stat (nr_dying_descendants); kernel/cgroup/cgroup.c cgroup_css_set_put_fork()",
}
fn abi_refusal_keeps_no_cgroup() -> Result {
    let above = Cgroup::create(&["pids"])?;
    above.write("cgroup.subtree_control", "+pids")?;
    // A removed cgroup goes away a moment later, without any notification.
    let goes_away = || -> Result<bool> {
        let gone = || above.read("cgroup.stat").map(|stat| stat.contains("nr_dying_descendants 0\n"));
        Ok(eventually(sandbox::patience() / 2, || Ok(gone()?.then_some(())))?.is_some())
    };
    for (number, call) in subject::by_flag().into_iter().enumerate() {
        let cgroup = above.create_below(&format!("full{number}"))?;
        let call = call.into_cgroup(cgroup.dir());
        call.accepted()?;
        cgroup.write("pids.max", "0")?;
        call.refused(Errno::EAGAIN)?;
        cgroup.remove()?;
        check::equal(format_args!("a removed cgroup that refused {call} goes away"), goes_away()?, true)?;
    }
    above.remove()
}

case! {
    /// A caller's semaphore operations with SEM_UNDO are undone when it ends, even if it made a call with CLONE_SYSVSEM that failed
    /// late.
    abi_refusal_keeps_no_semaphore_undo: Must, needs [Autoreap, Nnp, Autokill],
    source "semop(2), SEM_UNDO; kernel/fork.c copy_process() (bad_fork_cleanup_semundo)",
}
fn abi_refusal_keeps_no_semaphore_undo() -> Result {
    let semaphore = Semaphore::new()?;
    in_child(|| {
        semaphore.take()?;
        check::equal("control: the semaphore that the caller has taken", semaphore.value()?, 0)?;
        refused_late(Flags::CLONE_SYSVSEM)
    })?;
    check::equal("the semaphore when the caller has ended", semaphore.value()?, 1)
}

case! {
    /// A call that makes an auto-reaped child in a pid namespace whose init dies meanwhile fails with ENOMEM, as for an ordinary
    /// child; init ends.
    autoreap_refused_in_dying_pid_namespace: Must, needs [Autoreap, ExitInfo, Root, PidNamespace],
    source "pid_namespaces(7), ENOMEM; kernel/fork.c copy_process() (PIDNS_ADDING)",
}
fn autoreap_refused_in_dying_pid_namespace() -> Result {
    subject::each(|call| in_child(|| refused_while_init_dies(&call)))
}

/// Checks that the call fails in a pid namespace whose init dies meanwhile.
fn refused_while_init_dies(call: &Clone3) -> Result {
    let init = namespace::init().with(Flags::PIDFD).spawn(park)?;
    let enter = || Ok::<_, Failure>(setns(init.pidfd()?, CloneFlags::CLONE_NEWPID)?);
    // The kernel writes the pidfd after it has allocated the pid and before it looks whether init lives.
    let trap = Trap::lay_for_kernel()?;
    let told = Channel::<Result>::new()?;
    let killer = Clone3::fork().spawn(|| {
        let kill = || {
            enter()?;
            trap.wait_for_someone()?;
            let killed = init.pidfd()?.send_signal(Signal::SIGKILL);
            check::succeeds("pidfd_send_signal(SIGKILL)", killed)?;
            wait_until_closed_to_children()
        };
        // The call has to go on in any case.
        let killed = kill();
        i32::from(told.send(&trap.open().and(killed)).is_err())
    })?;
    enter()?;
    let made = call.clone().pidfd_address(trap.address()).try_spawn(park);
    told.recv_from(&killer)??;
    killer.reap_expecting(Status::exited(0))?;
    check::refused(format_args!("{call} while its pid namespace's init dies"), made, Errno::ENOMEM)?;
    init.ends_with(Status::SIGKILLED)
}

case! {
    /// A call that fails because its pid namespace's init dies meanwhile (ENOMEM) does not count as a process of its cgroup.
    autoreap_refusal_keeps_no_pids_charge: Must, needs [Autoreap, ExitInfo, Root, PidNamespace, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, pids.current; kernel/fork.c copy_process() (bad_fork_cancel_cgroup)",
}
fn autoreap_refusal_keeps_no_pids_charge() -> Result {
    subject::each(|call| {
        let cgroup = Cgroup::create(&["pids"])?;
        in_child(|| {
            cgroup.admit(0)?;
            refused_while_init_dies(&call)
        })?;
        cgroup.wait_for("populated 0")?;
        // A dead process is uncharged a moment later, without any notification.
        let empty = || Ok((cgroup.read("pids.current")?.trim() == "0").then_some(()));
        let emptied = eventually(sandbox::patience() / 2, empty)?.is_some();
        check::equal(format_args!("pids.current becomes 0 after {call} has failed"), emptied, true)?;
        cgroup.remove()
    })
}

/// Makes children until that fails with ENOMEM.
fn wait_until_closed_to_children() -> Result {
    loop {
        match Clone3::fork().try_spawn(|| 0) {
            Ok(child) => wait::reap(child.pid()).map(drop)?,
            Err(Errno::ENOMEM) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        if sandbox::time_left() == PollTimeout::ZERO {
            return Err(Failure::fail("a pid namespace takes children although its init was killed"));
        }
    }
}
