//! Combinations, privileges and limits for which clone3 refuses or grants the same with the new flags as without them.

use std::sync::atomic::{AtomicU32, Ordering};

use clone3_conformance::abi::Flags;
use clone3_conformance::check::{self, Context as _, Failure, Named, Result};
use clone3_conformance::clone3::{Clone3, Stack};
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::privilege::become_unused_user;
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::{
    Cgroup, Channel, Gate, Held, errands, limits, namespace, privilege, subject, threads, tracer, uring,
};
use clone3_conformance::wait::{self, Status};
use clone3_conformance::{case, note};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace::Options;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

case! {
    /// Flags that exclude each other (EINVAL) still do with the new flags: CLONE_SIGHAND without CLONE_VM; CLONE_FS with a new
    /// user or mount namespace.
    abi_exclusive_flags_stay_exclusive: Must, needs [Autoreap, Nnp, Autokill],
    source "clone(2), EINVAL; kernel/fork.c copy_process()",
}
fn abi_exclusive_flags_stay_exclusive() -> Result {
    for call in subject::by_flag() {
        for accepted in [Flags::CLONE_SIGHAND | Flags::CLONE_VM, Flags::CLONE_FS] {
            call.clone().with(accepted).accepted()?;
        }
        call.with(Flags::CLONE_SIGHAND).refused(Errno::EINVAL)?;
    }
    for namespace in [Flags::CLONE_NEWUSER, Flags::CLONE_NEWNS] {
        if !is_known(namespace) {
            note!("{namespace} alone is EINVAL, so that CLONE_FS is not why it is refused");
            continue;
        }
        for call in subject::by_flag() {
            call.with(Flags::CLONE_FS | namespace).refused(Errno::EINVAL)?;
        }
    }
    Ok(())
}

/// Returns whether the kernel knows this namespace flag: one without that kind of namespace refuses it with EINVAL.
fn is_known(namespace: Flags) -> bool {
    match Clone3::fork().with(namespace).try_spawn(|| 0) {
        Ok(child) => wait::reap(child.pid()).is_ok(),
        Err(errno) => errno != Errno::EINVAL,
    }
}

case! {
    /// Creating a namespace other than a user namespace requires CAP_SYS_ADMIN (EPERM), with CLONE_NNP as without it: a child that
    /// cannot gain privileges is no substitute for the capability.
    nnp_namespaces_need_capability: Must, needs [Autoreap, Nnp, Autokill, Unprivileged],
    source "clone(2), EPERM; commit \"clone: add CLONE_NNP\"; kernel/nsproxy.c copy_namespaces()",
}
fn nnp_namespaces_need_capability() -> Result {
    const NAMESPACES: [Flags; 7] = [
        Flags::CLONE_NEWNS,
        Flags::CLONE_NEWUTS,
        Flags::CLONE_NEWIPC,
        Flags::CLONE_NEWNET,
        Flags::CLONE_NEWPID,
        Flags::CLONE_NEWCGROUP,
        Flags::CLONE_NEWTIME,
    ];
    let known: Vec<_> = NAMESPACES.into_iter().filter(|namespace| is_known(*namespace)).collect();
    if known.is_empty() {
        return Err(Failure::blocked("no kind of namespace is known: needs namespaces (CONFIG_NAMESPACES)"));
    }
    note!("kinds of namespaces that are known: {known:?}");
    for namespace in known {
        for call in subject::by_flag() {
            call.with(namespace).refused(Errno::EPERM)?;
        }
    }
    subject::by_flag().iter().try_for_each(Clone3::accepted)
}

case! {
    /// After a process has unshared its time namespace, its next child is in the new one, auto-reaped or not.
    autoreap_child_enters_time_namespace: Must, needs [Autoreap, SysAdmin, Proc],
    source "time_namespaces(7) (\"subsequently created children\"); kernel/nsproxy.c copy_namespaces()",
}
fn autoreap_child_enters_time_namespace() -> Result {
    let namespace = |of: &str, kind: &str| std::fs::read_link(format!("/proc/{of}/ns/{kind}"));
    unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)).map_err(|errno| {
        Failure::blocked(format!(
            "needs time namespaces (CONFIG_TIME_NS): unshare fails with {}",
            Named(errno)
        ))
    })?;
    let (own, childrens) = (namespace("self", "time")?, namespace("self", "time_for_children")?);
    check::holds(own != childrens, format_args!("control: own namespace and children's are both {own:?}"))?;
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let its = namespace(&child.pid().to_string(), "time")?;
        check::equal(format_args!("time namespace of a child of {call}"), its, childrens.clone())?;
        child.into_child().clear_away()
    })
}

case! {
    /// When a child made with CLONE_VM and without CLONE_CHILD_CLEARTID ends, the kernel does not clear the address that its
    /// creator has set with set_tid_address(2).
    autoreap_inherits_no_word_to_clear: Must, needs [Autoreap, ExitInfo],
    source "set_tid_address(2); clone(2), CLONE_CHILD_CLEARTID; kernel/fork.c copy_process()",
}
fn autoreap_inherits_no_word_to_clear() -> Result {
    static WORD: AtomicU32 = AtomicU32::new(1);
    threads::have_cleared_at_exit(&WORD);
    subject::each(|call| {
        let call = call.with(Flags::CLONE_VM);
        let (named, joinable) = (Stack::new()?, Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
        subject::wait_until_gone(&call.clone().with(joinable).spawn_on(&named, errands::exit(0))?)?;
        named.join().context("control")?;
        subject::wait_until_gone(&call.spawn_on(&Stack::new()?, errands::exit(0))?)?;
        let what = format!("the word of the creator of {call}, which has ended");
        check::equal(what, WORD.load(Ordering::Acquire), 1)
    })
}

case! {
    /// clone3 beyond the user's RLIMIT_NPROC is EAGAIN and makes no child, with each of the new flags as without them, whatever the
    /// caller itself was made with.
    abi_rlimit_nproc_holds_for_each_flag: Must, needs [Autoreap, Nnp, Autokill],
    source "clone(2), EAGAIN; getrlimit(2), RLIMIT_NPROC; kernel/fork.c copy_process()",
}
fn abi_rlimit_nproc_holds_for_each_flag() -> Result {
    subject::each(|caller| {
        let (child, ()) = child_reporting(&caller, limited_processes_are_refused)?;
        child.ends_with(Status::exited(0))
    })
}

fn limited_processes_are_refused() -> Result {
    become_unused_user()?;
    subject::by_flag().iter().try_for_each(Clone3::accepted)?;
    setrlimit(Resource::RLIMIT_NPROC, 1, 1)?;
    let beyond = Clone3::fork().try_spawn(|| 0);
    if let Ok(child) = beyond {
        child.clear_away()?;
        return Err(Failure::blocked("RLIMIT_NPROC does not limit this user"));
    }
    subject::by_flag().iter().try_for_each(|call| call.refused(Errno::EAGAIN))
}

case! {
    /// clone3 beyond the pids.max of the caller's cgroup is EAGAIN, whatever the caller was made with.
    autoreap_caller_bound_by_pids_max: Must, needs [Autoreap, ExitInfo, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, PID; clone(2), EAGAIN; kernel/cgroup/pids.c pids_can_fork()",
}
fn autoreap_caller_bound_by_pids_max() -> Result {
    subject::each(|caller| {
        let group = Cgroup::create(&["pids"])?;
        group.write("pids.max", "2")?;
        let (child, ()) = child_reporting(&caller.into_cgroup(group.dir()), || {
            let second = Held::exiting_with(&Clone3::fork(), 0)?;
            Clone3::fork().refused(Errno::EAGAIN)?;
            second.let_go()?;
            second.into_child().reap_expecting(Status::exited(0))?;
            Clone3::fork().accepted().context("control: when the other child has gone")
        })?;
        child.ends_with(Status::exited(0))?;
        group.remove()
    })
}

case! {
    /// The root of the cgroup namespace that CLONE_NEWCGROUP makes is the cgroup in which CLONE_INTO_CGROUP puts the child,
    /// auto-reaped or not.
    autoreap_cgroup_namespace_of_own_cgroup: Must, needs [Autoreap, ExitInfo, Cgroup2, SysAdmin, Proc],
    source "cgroup_namespaces(7); clone(2), CLONE_INTO_CGROUP; kernel/cgroup/cgroup.c cgroup_post_fork()",
}
fn autoreap_cgroup_namespace_of_own_cgroup() -> Result {
    subject::each(|call| {
        let group = Cgroup::create(&[])?;
        let call = call.with(Flags::CLONE_NEWCGROUP).into_cgroup(group.dir());
        let own_path = || {
            let text = std::fs::read_to_string("/proc/self/cgroup")?;
            Ok(text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned))
        };
        let (child, path) = child_reporting(&call, own_path)?;
        child.ends_with(Status::exited(0))?;
        check::equal(
            format_args!("cgroup that a child of {call} finds itself in"),
            path.as_deref(),
            Some("/"),
        )?;
        group.remove()
    })
}

case! {
    /// CLONE_INTO_CGROUP requires permission to move processes into that cgroup (EACCES), with CLONE_NNP as without it.
    nnp_into_cgroup_needs_its_permission: Must, needs [Autoreap, Nnp, Autokill, Root, Cgroup2],
    source "clone(2), CLONE_INTO_CGROUP, EACCES; kernel/cgroup/cgroup.c cgroup_css_set_fork()",
}
fn nnp_into_cgroup_needs_its_permission() -> Result {
    let above = Cgroup::create(&[])?;
    above.give_to(privilege::ORDINARY)?;
    let (given, not_given) = (above.create_below("given")?, above.create_below("not-given")?);
    given.give_to(privilege::ORDINARY)?;
    in_child(|| {
        // Only a process that is in this subtree already may move a process within it.
        above.admit(0)?;
        privilege::become_ordinary_user()?;
        for call in subject::by_flag() {
            call.clone().into_cgroup(given.dir()).accepted()?;
            call.into_cgroup(not_given.dir()).refused(Errno::EACCES)?;
        }
        Ok(())
    })?;
    given.remove()?;
    not_given.remove()?;
    above.remove()
}

case! {
    /// An auto-reaped process can have an io_uring that a kernel thread serves (IORING_SETUP_SQPOLL); the thread belongs to the
    /// process and is not its child.
    autoreap_io_uring_thread: Must, needs [Autoreap, ExitInfo],
    source "io_uring_setup(2), IORING_SETUP_SQPOLL; kernel/fork.c create_io_thread()",
}
fn autoreap_io_uring_thread() -> Result {
    uring::is_served_by_kernel(|| Ok(())).context("control, in the creator")?;
    subject::each(|call| {
        let (child, ()) = child_reporting(&call, || uring::is_served_by_kernel(wait::no_children))
            .map_err(Failure::after_control)
            .context(&call)?;
        child.ends_with(Status::exited(0))
    })
}

/// Returns whether the next ordinary child in a new pid namespace, whose first child, of this call, could not be made for lack of a
/// descriptor, is pid 1 there, or the errno.
fn is_init_after_failed_first_child(call: &Clone3) -> Result<std::result::Result<bool, i32>> {
    in_child(|| {
        namespace::unshare_pid()?;
        let full = rustix::process::Resource::Nofile;
        let made = limits::lowered(full, 0, || call.try_spawn(|| 0).map(|child| child.pid()))?;
        check::refused(format_args!("{call} without a free descriptor"), made, Errno::EMFILE)?;
        let next = Clone3::fork().try_spawn(|| i32::from(rustix::process::getpid().is_init()));
        match next {
            Ok(child) => Ok(Ok(wait::reap(child.pid())? == Status::exited(1))),
            Err(errno) => Ok(Err(errno as i32)),
        }
    })
}

case! {
    /// If the first child in a new pid namespace could not be made for lack of a descriptor for its pidfd, the namespace is as
    /// usable afterwards with the new flags as without them.
    abi_failed_first_child_of_pid_namespace: Is, needs [Autoreap, Nnp, Autokill, PidNamespace],
    source "kernel/fork.c copy_process() (bad_fork_free_pid); kernel/pid.c free_pid() (\"Only possible if the 1st fork fails\")",
}
fn abi_failed_first_child_of_pid_namespace() -> Result {
    let expected = is_init_after_failed_first_child(&Clone3::fork().with(Flags::PIDFD))?;
    note!("after an ordinary call: {expected:?} (whether the next child is pid 1)");
    for call in [Flags::REAPED, Flags::NNP | Flags::PIDFD, Flags::KILLED_NNP].map(Clone3::new) {
        let what =
            format!("whether the child after a failed {call}, the first in its pid namespace, is pid 1");
        check::equal(what, is_init_after_failed_first_child(&call)?, expected)?;
    }
    Ok(())
}

case! {
    /// clone3 that makes an auto-reaped child is restarted after a signal that arrives before the child exists, even if the signal's
    /// handler does not ask for that (SA_RESTART), as for an ordinary child. The child has what the handler has changed.
    autoreap_clone_restarts_after_signal: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "kernel/fork.c copy_process() (ERESTARTNOINTR)",
}
fn autoreap_clone_restarts_after_signal() -> Result {
    subject::each(|call| {
        let (gate, told) = (Gate::new()?, Channel::<Result<i32>>::new()?);
        let creator = Clone3::fork().spawn(|| {
            let make = || {
                disposition::catch_once(Signal::SIGUSR1)?;
                gate.wait();
                let handled =
                    || disposition::of(Signal::SIGUSR1).is_ok_and(|now| now == Disposition::Default);
                let made = call.try_spawn(|| if handled() { 7 } else { 8 });
                let errno = made.as_ref().map_or_else(|errno| *errno as i32, |_| 0);
                made.ok().map_or(Ok(()), |child| child.ends_with(Status::exited(7)))?;
                Ok(errno)
            };
            i32::from(told.send(&make()).is_err())
        })?;
        let pid = creator.pid();
        tracer::seize(pid, Options::PTRACE_O_TRACESYSGOOD)?;
        tracer::interrupt(pid)?;
        gate.open()?;
        tracer::stop_before_call(pid, libc::SYS_clone3)?;
        creator.kill(Signal::SIGUSR1)?;
        tracer::detach(pid)?;
        let errno = told.recv_from(&creator)??;
        creator.reap_expecting(Status::exited(0))?;
        let made = if errno == 0 { Ok(()) } else { Err(Errno::from_raw(errno)) };
        check::succeeds(format_args!("{call} when a signal is pending"), made)
    })
}
