//! set_tid: which pids may be requested, and by which callers, with the new flags as without.
//!
//! The pids requested here are in use or below 301, the minimum of kernel.pid_max, except where EINVAL is expected: a pid that
//! is not below kernel.pid_max is EINVAL for every caller.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Clone3, park};
use clone3_conformance::kit::process::{child_reporting, in_child, own_pid};
use clone3_conformance::kit::{namespace, privilege, subject};
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use rustix::fs::stat;

case! {
    /// With neither CAP_SYS_ADMIN nor CAP_CHECKPOINT_RESTORE set_tid is EPERM, with and without the new flags.
    abi_set_tid_needs_capability: Must, needs [],
    source "clone(2), set_tid (EPERM)",
}
fn abi_set_tid_needs_capability() -> Result {
    in_child(|| {
        privilege::drop_capabilities()?;
        for call in subject::by_flag() {
            call.accepted()?;
            // A pid below pid_max, as any other is EINVAL before all else; that it is in use would be found last.
            call.set_tid(&[std::process::id() as i32]).refused(Errno::EPERM)?;
        }
        Ok(())
    })
}

case! {
    /// A set_tid with more pids than the child has pid namespaces is EINVAL, with and without the new flags.
    abi_set_tid_too_many: Must, needs [],
    source "clone(2), set_tid (EINVAL)",
}
fn abi_set_tid_too_many() -> Result {
    // As many as the maximum depth of pid namespaces, which no caller here is at.
    let numbers: Vec<i32> = (5000..5032).collect();
    for call in subject::by_flag() {
        call.accepted()?;
        call.clone().set_tid(&numbers).refused(Errno::EINVAL)?;
        if is_in_initial_pid_namespace() {
            two_are_too_many(call)?;
        }
    }
    Ok(())
}

/// Returns whether the caller is in the initial pid namespace, so that its children are in no other one. NSpid would not show
/// that: it begins with the namespace to which /proc belongs. Without /proc, returns false.
fn is_in_initial_pid_namespace() -> bool {
    /// `PID_NS_INIT_INO` of `linux/nsfs.h`.
    const INITIAL: u64 = 0xefff_fffc;
    stat("/proc/self/ns/pid").is_ok_and(|namespace| namespace.st_ino == INITIAL)
}

/// In the initial pid namespace: checks that two pids are too many. Every pid is 1, which is in use in each namespace and which
/// any kernel.pid_max allows, so that without the error for the count there would be another one.
fn two_are_too_many(call: Clone3) -> Result {
    let call = call.set_tid(&[1]);
    let one = call.try_spawn(|| 0);
    check::holds(
        matches!(one, Err(Errno::EEXIST | Errno::EPERM)),
        format_args!("control: {call}: expected EEXIST or EPERM, got {}", check::outcome_of(&one)),
    )?;
    call.set_tid(&[1, 1]).refused(Errno::EINVAL)
}

case! {
    /// With CLONE_NEWPID the second pid in set_tid is the one in the caller's pid namespace, with and without the new flags, whatever
    /// the caller was made with.
    abi_set_tid_in_two_namespaces: Must, needs [PidNamespace],
    source "clone(2), set_tid",
}
fn abi_set_tid_in_two_namespaces() -> Result {
    let choose_from = |first: i32| -> Result {
        for (call, wanted) in subject::by_flag().into_iter().zip(first..) {
            let call = call.with(Flags::CLONE_NEWPID).set_tid(&[1, wanted]);
            let child = call.spawn(park)?;
            check::equal(format_args!("the number of a child of {call}"), child.pid(), wanted)?;
            child.clear_away().context("a child with two numbers")?;
        }
        Ok(())
    };
    namespace::as_init(|| {
        // A pid is not free again immediately, so each caller has numbers of its own.
        let mut first = (140..).step_by(20);
        subject::each(|caller| {
            let numbers = first.next().unwrap_or_default();
            let (caller, ()) = child_reporting(&caller, || choose_from(numbers))?;
            caller.ends_with(Status::exited(0))
        })
    })
}

case! {
    /// A set_tid that fails because one of its pids is in use (EEXIST) leaves the others free, with and without the new flags.
    abi_set_tid_refusal_frees_others: Must, needs [PidNamespace],
    source "clone(2), set_tid (EEXIST); kernel/pid.c alloc_pid()",
}
fn abi_set_tid_refusal_frees_others() -> Result {
    namespace::as_init(|| {
        let outer = own_pid();
        namespace::as_init(|| {
            for (call, number) in subject::by_flag().into_iter().zip(140..) {
                call.clone().set_tid(&[number, outer]).refused(Errno::EEXIST)?;
                let free = call.set_tid(&[number]);
                free.accepted().context("after it was asked for together with one in use")?;
            }
            Ok(())
        })
    })
}

case! {
    /// set_tid requires a capability over each pid namespace in which it asks for a pid: a caller that has it over the innermost
    /// alone may choose a pid there, but not one further out (EPERM). With and without the new flags.
    abi_set_tid_needs_capability_further_out: Must, needs [UserNamespaces, PidNamespace, Proc],
    source "clone(2), set_tid (EPERM: \"in one or more of the user namespaces that own the corresponding PID namespaces\")",
}
fn abi_set_tid_needs_capability_further_out() -> Result {
    in_child(|| {
        privilege::enter_user_namespace()?;
        let outside = std::process::id() as i32;
        namespace::as_init(|| {
            for (call, number) in subject::by_flag().into_iter().zip(140..) {
                call.clone().set_tid(&[number]).accepted().context("in the innermost namespace alone")?;
                call.set_tid(&[number + 50, outside]).refused(Errno::EPERM)?;
            }
            Ok(())
        })
    })
}
