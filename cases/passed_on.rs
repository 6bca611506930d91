//! What a creator has set or registered for its children also applies to those made with the new flags.

use std::fs;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Named, Result};
use clone3_conformance::clone3::{Clone3, Stack};
use clone3_conformance::kit::process::{child_reporting, in_child, sched_getscheduler, set_scheduler};
use clone3_conformance::kit::{Held, errands, oom_score_adj, privilege, rseq, subject};
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Uid, getpriority_process, setpriority_process, setpriority_user};

case! {
    /// If the creator has SCHED_RESET_ON_FORK, its child inherits neither its real-time policy nor its negative nice value, nor the
    /// flag, auto-reaped or not.
    autoreap_scheduling_reset_on_fork: Must, needs [Autoreap, Root],
    source "sched(7), resetting scheduling policy for child processes; kernel/sched/core.c sched_fork()",
}
fn autoreap_scheduling_reset_on_fork() -> Result {
    let forbidden =
        |what: &str, errno: Errno| Failure::blocked(format!("{what} fails with {}", Named(errno)));
    // Not by nice(2), which is relative to the value that this process has inherited.
    setpriority_process(None, -5).map_err(|errno| forbidden("setpriority(-5)", check::errno_of(errno)))?;
    set_scheduler(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1)
        .map_err(|errno| forbidden("sched_setscheduler(SCHED_FIFO|SCHED_RESET_ON_FORK)", errno))?;
    policy_and_nice_are("real-time", (SCHED_OTHER, 0))?;
    set_scheduler(libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, 0)?;
    policy_and_nice_are("with a negative nice value", (SCHED_OTHER, 0))?;
    set_scheduler(libc::SCHED_OTHER, 0)?;
    policy_and_nice_are("without SCHED_RESET_ON_FORK: control", (SCHED_OTHER, -5))
}

/// The default policy, as named by [`policy_name`].
const SCHED_OTHER: &str = "SCHED_OTHER";

fn policy_name(policy: i32) -> String {
    match policy {
        libc::SCHED_OTHER => SCHED_OTHER.to_owned(),
        libc::SCHED_FIFO => "SCHED_FIFO".to_owned(),
        other => format!("policy {other:#x}"),
    }
}

/// Checks the policy and nice value of a child of such a creator.
fn policy_and_nice_are(creator: &str, expected: (&str, i32)) -> Result {
    subject::each(|call| {
        let (child, (policy, nice)) =
            child_reporting(&call, || Ok((sched_getscheduler(0)?, getpriority_process(None)?)))?;
        child.ends_with(Status::exited(0))?;
        let what = format!("(policy, nice value) of a child of {call} by a creator {creator}");
        check::equal(what, (policy_name(policy).as_str(), nice), expected)
    })
}

case! {
    /// A child that does not share memory inherits its creator's rseq(2) registration, auto-reaped or not: it cannot register
    /// another area.
    autoreap_rseq_registration_inherited: Must, needs [Autoreap, ExitInfo],
    source "Documentation/userspace-api/rseq.rst; kernel/rseq.c rseq(); include/linux/rseq.h rseq_fork(), which clears it with CLONE_VM alone",
}
fn autoreap_rseq_registration_inherited() -> Result {
    register_area()?;
    check::refused("control: rseq of another area, by the creator", rseq::register(), Errno::EINVAL)?;
    subject::each(|call| {
        let (child, got) = child_reporting(&call, || Ok(rseq::register().map_err(|errno| errno as i32)))?;
        child.ends_with(Status::exited(0))?;
        let what = format!("rseq of an area that its creator has not registered, by a child of {call}");
        check::refused(what, got.map_err(Errno::from_raw), Errno::EINVAL)
    })
}

/// Makes sure that the caller has an area for restartable sequences.
///
/// # Errors
/// `blocked` if the kernel has none.
fn register_area() -> Result {
    match rseq::register() {
        // EINVAL: the C library has registered an area already.
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(Errno::ENOSYS) => {
            Err(Failure::blocked("rseq fails with ENOSYS: CONFIG_RSEQ is off, or a filter"))
        }
        Err(errno) => Err(errno.into()),
    }
}

case! {
    /// A child that shares memory (CLONE_VM) has no rseq(2) registration, auto-reaped or not: the area of its creator is not its own,
    /// and it can register another.
    autoreap_rseq_registration_not_shared: Must, needs [Autoreap, ExitInfo],
    source "Documentation/userspace-api/rseq.rst; include/linux/rseq.h rseq_fork() (\"Unregister rseq for a clone with CLONE_VM set\")",
}
fn autoreap_rseq_registration_not_shared() -> Result {
    register_area()?;
    subject::each(|call| {
        let call = call.with(Flags::CLONE_VM | Flags::CLONE_VFORK);
        let child = call.spawn_on(&Stack::new()?, errands::register_rseq())?;
        child
            .ends_with(Status::exited(0))
            .context("a child that exits with the errno of rseq, 0: it succeeds")
    })
}

case! {
    /// Processes that share memory (CLONE_VM) have one oom_score_adj, auto-reaped or not: what is written for one is read for
    /// the other.
    autoreap_shares_oom_adjustment_with_memory: Must, needs [Autoreap, ExitInfo, Proc],
    source "proc_pid_oom_score_adj(5); fs/proc/base.c __set_oom_adj(); kernel/fork.c copy_oom_score_adj()",
}
fn autoreap_shares_oom_adjustment_with_memory() -> Result {
    subject::each(|call| {
        let call = call.with(Flags::CLONE_VM);
        // In a new process, whose memory was never shared: the kernel remembers that it may have been.
        in_child(|| adjustment_is_shared(&call))?;
        Ok(())
    })
}

fn adjustment_is_shared(call: &Clone3) -> Result {
    let higher = oom_score_adj::own_raised_by(1)?;
    if higher == oom_score_adj::own()? {
        return Err(Failure::blocked(format!("{} is the highest already, {higher}", oom_score_adj::OWN)));
    }
    let (from, to) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = call.spawn_on(&Stack::new()?, errands::wait_for_input(&from))?;
    let childs = format!("/proc/{}/oom_score_adj", child.pid());
    fs::write(&childs, higher.to_string())?;
    let what = format!("{} of the creator of {call}, after it was written for the child", oom_score_adj::OWN);
    check::equal(what, oom_score_adj::own()?, higher)?;
    let higher = oom_score_adj::own_raised_by(1)?;
    fs::write(oom_score_adj::OWN, higher.to_string())?;
    let what = format!("{childs}, of the child of {call}, after it was written for the creator");
    check::equal(what, fs::read_to_string(&childs)?.trim(), higher.to_string().as_str())?;
    drop(to);
    child.clear_away()
}

/// Writes the caller's OOM score adjustment.
fn adjust_own(value: i32) -> std::result::Result<(), Errno> {
    fs::write(oom_score_adj::OWN, value.to_string())
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
}

case! {
    /// A child made as by vfork(2) (CLONE_VM and CLONE_VFORK) has an oom_score_adj of its own, auto-reaped or not: what it sets before
    /// its exec is not its creator's.
    autoreap_vfork_child_has_own_oom_adjustment: Is, needs [Autoreap, ExitInfo, Proc],
    source "proc_pid_oom_score_adj(5); fs/proc/base.c __set_oom_adj() (\"vfork_done\")",
}
fn autoreap_vfork_child_has_own_oom_adjustment() -> Result {
    subject::each(|call| {
        let call = call.with(Flags::CLONE_VM | Flags::CLONE_VFORK);
        in_child(|| {
            let before = oom_score_adj::own()?;
            let child = call.spawn_on(&Stack::new()?, errands::raise_oom_score_adj())?;
            child.ends_with(Status::exited(0))?;
            let what =
                format!("{} of the creator when a child of {call} has raised its own", oom_score_adj::OWN);
            check::equal(what, oom_score_adj::own()?, before)
        })
    })
}

case! {
    /// setpriority(PRIO_USER) changes the nice value of all processes of the user, auto-reaped or not.
    autoreap_renice_of_user: Must, needs [Autoreap, Root],
    source "setpriority(2), PRIO_USER; kernel/sys.c sys_setpriority()",
}
fn autoreap_renice_of_user() -> Result {
    const NICE: i32 = 7;
    // One that has no other processes.
    let user = privilege::unused_id();
    subject::each(|call| {
        let uid = nix::unistd::Uid::from_raw(user);
        let child = Held::prepared(&call, 0, || Ok(nix::unistd::setresuid(uid, uid, uid)?))?;
        setpriority_user(Uid::from_raw(user), NICE)?;
        let found = getpriority_process(Pid::from_raw(child.pid()))?;
        let what = format!("nice value of a child of {call} after setpriority(PRIO_USER)");
        check::equal(what, found, NICE)?;
        child.into_child().clear_away()
    })
}

case! {
    /// An unprivileged child may raise its oom_score_adj, but not lower it below the value that a privileged process last set for
    /// its creator, with the new flags as without.
    nnp_inherits_least_oom_adjustment: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Root, Proc],
    source "proc_pid_oom_score_adj(5); kernel/fork.c copy_signal() (oom_score_adj_min)",
}
fn nnp_inherits_least_oom_adjustment() -> Result {
    let set = oom_score_adj::own_raised_by(10)?;
    adjust_own(set)?;
    if oom_score_adj::own_raised_by(1)? == set {
        return Err(Failure::blocked(format!("{} is the highest already, {set}", oom_score_adj::OWN)));
    }
    let attempts = |call: Clone3| {
        let (child, got) = child_reporting(&call, || {
            privilege::become_ordinary_user()?;
            let number = |attempt: std::result::Result<(), Errno>| attempt.map_err(|errno| errno as i32);
            Ok((number(adjust_own(set + 1)), number(adjust_own(set - 1))))
        })?;
        child.ends_with(Status::exited(0))?;
        let what = |verb| format!("an oom_score_adj {verb} by an unprivileged child of {call}");
        check::succeeds(what("raised"), got.0.map_err(Errno::from_raw))?;
        check::refused(what("lowered"), got.1.map_err(Errno::from_raw), Errno::EACCES)
    };
    subject::each(attempts)?;
    subject::each_with_nnp(attempts)
}
