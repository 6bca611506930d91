//! The older fields of `struct clone_args`: whatever new flags are set, invalid values are refused and valid ones do what they did.

use clone3_conformance::abi::{CLONE_ARGS_SIZES, Flags};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Clone3, NOWHERE, NoStack, Stack, Unmapped};
use clone3_conformance::kit::{Cgroup, Held, errands, privilege, subject};
use clone3_conformance::wait::Status;
use nix::errno::Errno;

/// Returns copies of a well-formed call, each with an ill-formed field.
type IllFormed = fn(&Clone3) -> Vec<Clone3>;

/// `MAX_PID_NS_LEVEL`.
const MOST: u64 = 32;
static PIDS: [i32; MOST as usize + 1] = [1; MOST as usize + 1];

fn set_tid_invalid(call: &Clone3) -> Vec<Clone3> {
    vec![
        call.clone().set_tid_without_size(&PIDS),
        call.clone().set_tid_unmapped(Unmapped::Null, 1),
        call.clone().set_tid(&PIDS),
        call.clone().set_tid_unmapped(NOWHERE, MOST + 1),
    ]
}

fn set_tid_unreadable(call: &Clone3) -> Vec<Clone3> {
    [1, MOST].map(|count| call.clone().set_tid_unmapped(NOWHERE, count)).into()
}

fn stack_invalid(call: &Clone3) -> Vec<Clone3> {
    NoStack::ALL.map(|which| call.clone().no_stack(which)).into()
}

fn cgroup_invalid(call: &Clone3) -> Vec<Clone3> {
    let [_, without_cgroup, _] = CLONE_ARGS_SIZES;
    vec![
        call.clone().into_cgroup_raw(i32::MAX as u64 + 1),
        call.clone().into_cgroup_raw(u64::MAX),
        call.clone().into_cgroup_raw(0).size(without_cgroup),
    ]
}

/// Checks that a well-formed call of each kind is accepted, and that its ill-formed copies fail with `errno`.
fn refused(errno: Errno, ill_formed: IllFormed) -> Result {
    for call in subject::by_flag() {
        call.accepted()?;
        ill_formed(&call).iter().try_for_each(|call| call.refused(errno))?;
    }
    Ok(())
}

case! {
    /// A set_tid without a size, a size without set_tid, and more than 32 pids are EINVAL, and an unreadable set_tid address is
    /// EFAULT.
    abi_set_tid_ill_formed: Must, needs [CheckpointRestore],
    source "clone(2), ERRORS; kernel/fork.c copy_clone_args_from_user()", since "5.5",
}
fn abi_set_tid_ill_formed() -> Result {
    refused(Errno::EINVAL, set_tid_invalid)?;
    refused(Errno::EFAULT, set_tid_unreadable)
}

case! {
    /// A stack without a size, a size without a stack, and a stack outside the user half of the address space are EINVAL.
    abi_stack_ill_formed: Must, needs [],
    source "clone(2), ERRORS; kernel/fork.c clone3_stack_valid()",
}
fn abi_stack_ill_formed() -> Result {
    refused(Errno::EINVAL, stack_invalid)
}

case! {
    /// CLONE_INTO_CGROUP with a value too large for a descriptor, or in a structure too short to contain one, is EINVAL.
    abi_cgroup_ill_formed: Must, needs [],
    source "clone(2), ERRORS; kernel/fork.c copy_clone_args_from_user()", since "5.7",
}
fn abi_cgroup_ill_formed() -> Result {
    refused(Errno::EINVAL, cgroup_invalid)
}

case! {
    /// What lies in memory behind a structure that is too short to contain set_tid is not read, with and without the new flags.
    abi_beyond_size_not_read: Must, needs [],
    source "clone(2) (\"size\"); include/linux/uaccess.h copy_struct_from_user()", since "5.5",
}
fn abi_beyond_size_not_read() -> Result {
    let [without_set_tid, _, whole] = CLONE_ARGS_SIZES;
    for call in subject::by_flag() {
        let call = call.set_tid_unmapped(NOWHERE, MOST + 1);
        call.clone().size(whole).refused(Errno::EINVAL)?;
        call.size(without_set_tid).accepted()?;
    }
    Ok(())
}

case! {
    /// The descriptor of the cgroup for CLONE_INTO_CGROUP may have the number 0, with and without the new flags.
    abi_cgroup_descriptor_zero: Must, needs [Cgroup2],
    source "clone(2), CLONE_INTO_CGROUP", since "5.7",
}
fn abi_cgroup_descriptor_zero() -> Result {
    let cgroup = Cgroup::create(&[])?;
    rustix::stdio::dup2_stdin(cgroup.dir())?;
    for call in subject::by_flag() {
        let call = call.with(Flags::PIDFD).into_cgroup_raw(0);
        let child = Held::exiting_with(&call, 0)?;
        let within = cgroup.read("cgroup.procs")?;
        check::equal(
            format_args!("cgroup.procs with a child of {call}"),
            within,
            format!("{}\n", child.pid()),
        )?;
        child.into_child().clear_away()?;
        cgroup.wait_for("populated 0")?;
    }
    cgroup.remove()
}

case! {
    /// A child that does not share its creator's memory runs on the stack that it is given, too, with and without the new flags.
    abi_stack_without_shared_memory: Must, needs [],
    source "clone(2) (\"stack\")",
}
fn abi_stack_without_shared_memory() -> Result {
    for call in subject::by_flag() {
        for sharing in [Flags::PIDFD, Flags::PIDFD | Flags::CLONE_VM] {
            let (call, stack) = (call.clone().with(sharing), Stack::new()?);
            let child = call.spawn_on(&stack, errands::tell_whether_on(&stack))?;
            let what = format!("whether a child of {call} runs on its stack, as its exit status");
            child.ends_with(Status::exited(1)).context(what)?;
        }
    }
    Ok(())
}

case! {
    /// What is EINVAL or EFAULT in abi_set_tid_ill_formed, abi_stack_ill_formed and abi_cgroup_ill_formed is so before the
    /// capabilities are checked that CLONE_PIDFD_AUTOKILL without CLONE_NNP, and choosing a pid, require.
    abi_ill_formed_fields_beat_eperm: Is, needs [Autoreap, Nnp, Autokill],
    source "kernel/fork.c copy_clone_args_from_user(), clone3_args_valid()",
}
fn abi_ill_formed_fields_beat_eperm() -> Result {
    let call = Clone3::new(Flags::KILLED);
    privilege::drop_capabilities()?;
    Clone3::new(Flags::KILLED_NNP).accepted()?;
    call.refused(Errno::EPERM)?;
    Clone3::fork().set_tid(&[1]).refused(Errno::EPERM)?;
    let fields: [(Errno, IllFormed); 4] = [
        (Errno::EINVAL, set_tid_invalid),
        (Errno::EFAULT, set_tid_unreadable),
        (Errno::EINVAL, stack_invalid),
        (Errno::EINVAL, cgroup_invalid),
    ];
    for (errno, ill_formed) in fields {
        ill_formed(&call).iter().try_for_each(|call| call.refused(errno))?;
    }
    Ok(())
}

case! {
    /// CLONE_SIGHAND and CLONE_CLEAR_SIGHAND together are EINVAL, where each alone is accepted.
    abi_sighand_shared_and_cleared: Must, needs [],
    source "clone(2), ERRORS; kernel/fork.c clone3_args_valid()", since "5.5",
}
fn abi_sighand_shared_and_cleared() -> Result {
    let shared = Flags::CLONE_VM | Flags::CLONE_SIGHAND;
    for call in subject::by_flag() {
        call.clone().with(shared).accepted()?;
        call.clone().with(Flags::CLONE_VM | Flags::CLONE_CLEAR_SIGHAND).accepted()?;
        call.with(shared | Flags::CLONE_CLEAR_SIGHAND).refused(Errno::EINVAL)?;
    }
    Ok(())
}
