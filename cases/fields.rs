//! The older fields of `struct clone_args`: invalid values are refused whatever new flags are set.

use clone3_conformance::abi::{CLONE_ARGS_SIZES, Flags};
use clone3_conformance::case;
use clone3_conformance::check::Result;
use clone3_conformance::clone3::{Clone3, NOWHERE, NoStack, Unmapped};
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::{privilege, subject};
use clone3_conformance::need::Setting;
use nix::errno::Errno;

/// Checks that each of these changes makes a well-formed call fail with `errno`: also with all new flags, and before the
/// check for the capability that CLONE_PIDFD_AUTOKILL requires without CLONE_NNP.
fn refused(errno: Errno, changes: &[&dyn Fn(Clone3) -> Clone3]) -> Result {
    let all_of = |call: &Clone3| changes.iter().try_for_each(|change| change(call.clone()).refused(errno));
    for call in subject::kinds() {
        call.accepted()?;
        all_of(&call)?;
    }
    if !Setting::get().probe.features.autokill {
        return Ok(());
    }
    in_child(|| {
        let call = Clone3::new(Flags::KILLED);
        privilege::drop_capabilities()?;
        call.refused(Errno::EPERM)?;
        all_of(&call)
    })
}

case! {
    /// A set_tid without a size, a size without set_tid, and more than 32 pids are EINVAL, and an unreadable set_tid address is
    /// EFAULT, before the permission to choose pids is checked.
    abi_set_tid_ill_formed: Must, needs [],
    source "clone(2), ERRORS; kernel/fork.c copy_clone_args_from_user()", since "5.5",
}
fn abi_set_tid_ill_formed() -> Result {
    /// `MAX_PID_NS_LEVEL`.
    const MOST: u64 = 32;
    static PIDS: [i32; MOST as usize + 1] = [1; MOST as usize + 1];
    refused(
        Errno::EINVAL,
        &[
            &|call| call.set_tid_without_size(&PIDS),
            &|call| call.set_tid_unmapped(Unmapped::Null, 1),
            &|call| call.set_tid(&PIDS),
            &|call| call.set_tid_unmapped(NOWHERE, MOST + 1),
        ],
    )?;
    refused(
        Errno::EFAULT,
        &[&|call| call.set_tid_unmapped(NOWHERE, 1), &|call| call.set_tid_unmapped(NOWHERE, MOST)],
    )
}

case! {
    /// A stack without a size, a size without a stack, and a stack outside the user half of the address space are EINVAL.
    abi_stack_ill_formed: Must, needs [],
    source "clone(2), ERRORS; kernel/fork.c clone3_stack_valid()",
}
fn abi_stack_ill_formed() -> Result {
    NoStack::ALL.into_iter().try_for_each(|which| refused(Errno::EINVAL, &[&|call| call.no_stack(which)]))
}

case! {
    /// CLONE_INTO_CGROUP with a value too large for a descriptor, or in a structure too short to contain one, is EINVAL.
    abi_cgroup_ill_formed: Must, needs [],
    source "clone(2), ERRORS; kernel/fork.c copy_clone_args_from_user()", since "5.7",
}
fn abi_cgroup_ill_formed() -> Result {
    let [_, without_cgroup, _] = CLONE_ARGS_SIZES;
    refused(
        Errno::EINVAL,
        &[
            &|call| call.into_cgroup_raw(i32::MAX as u64 + 1),
            &|call| call.into_cgroup_raw(u64::MAX),
            &|call| call.into_cgroup_raw(0).size(without_cgroup),
        ],
    )
}

case! {
    /// CLONE_SIGHAND and CLONE_CLEAR_SIGHAND together are EINVAL, where each alone is accepted.
    abi_sighand_shared_and_cleared: Must, needs [],
    source "clone(2), ERRORS; kernel/fork.c clone3_args_valid()", since "5.5",
}
fn abi_sighand_shared_and_cleared() -> Result {
    let shared = Flags::CLONE_VM | Flags::CLONE_SIGHAND;
    for call in subject::kinds() {
        call.clone().with(shared).accepted()?;
        call.clone().with(Flags::CLONE_VM | Flags::CLONE_CLEAR_SIGHAND).accepted()?;
        call.with(shared | Flags::CLONE_CLEAR_SIGHAND).refused(Errno::EINVAL)?;
    }
    Ok(())
}
