//! Privilege for CLONE_PIDFD_AUTOKILL: CAP_SYS_ADMIN in the caller's user namespace, or CLONE_NNP.

use std::sync::mpsc;

use caps::Capability;
use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::{Echo, privilege, threads};
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::sys::signal::Signal;

const ADMIN: Capability = Capability::CAP_SYS_ADMIN;

/// Returns the call that requires CAP_SYS_ADMIN.
fn privileged() -> Clone3 {
    Clone3::new(Flags::KILLED)
}

/// Returns the call that requires no privilege.
fn with_nnp() -> Clone3 {
    Clone3::new(Flags::KILLED_NNP)
}

/// Checks that the caller is refused without CLONE_NNP, and only for lack of the capability: with CLONE_NNP it is not.
fn is_refused() -> Result {
    with_nnp().accepted()?;
    privileged().refused(Errno::EPERM)
}

/// Checks that this child's pidfd is armed: its last close kills.
fn is_armed(mut child: Echo) -> Result {
    let observer = child.observe()?;
    child.close_pidfd()?;
    child.is_dead("after the last close of its pidfd")?;
    observer.gone_with(child.pid(), Status::killed(Signal::SIGKILL))
}

case! {
    /// CLONE_PIDFD_AUTOKILL with CLONE_NNP needs no privilege at all, and the pidfd is armed.
    autokill_nnp_unprivileged_ok: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Unprivileged],
    source "pull request vfs-7.1-rc1.pidfs",
}
fn autokill_nnp_unprivileged_ok() -> Result {
    is_refused()?;
    is_armed(Echo::spawn(&with_nnp())?)
}

case! {
    /// For CLONE_PIDFD_AUTOKILL without CLONE_NNP, CAP_SYS_ADMIN must be in the effective set: having it permitted only is EPERM.
    autokill_cap_must_be_effective: Must, needs [Autoreap, Nnp, Autokill, SysAdmin],
    source "pull request vfs-7.1-rc1.pidfs; kernel, ns_capable()",
}
fn autokill_cap_must_be_effective() -> Result {
    let permitted = privilege::permitted()?;
    privilege::set_effective(&permitted)?;
    privileged().accepted()?;
    privilege::set_effective(&[])?;
    is_refused()?;
    privilege::set_effective(&permitted)?;
    privileged().accepted()
}

case! {
    /// For CLONE_PIDFD_AUTOKILL without CLONE_NNP, CAP_SYS_ADMIN alone is enough, and all other capabilities together are not.
    autokill_only_sys_admin_counts: Must, needs [Autoreap, Nnp, Autokill, SysAdmin],
    source "pull request vfs-7.1-rc1.pidfs",
}
fn autokill_only_sys_admin_counts() -> Result {
    let others: Vec<Capability> = privilege::permitted()?.into_iter().filter(|one| *one != ADMIN).collect();
    privilege::set_effective(&[ADMIN])?;
    privileged().accepted()?;
    privilege::set_effective(&others)?;
    is_refused()
}

case! {
    /// User id 0 without capabilities is not enough for CLONE_PIDFD_AUTOKILL without CLONE_NNP (EPERM).
    autokill_uid0_without_caps: Must, needs [Autoreap, Nnp, Autokill, Root],
    source "pull request vfs-7.1-rc1.pidfs; kernel, ns_capable()",
}
fn autokill_uid0_without_caps() -> Result {
    privileged().accepted()?;
    privilege::drop_capabilities()?;
    check::equal("effective uid", nix::unistd::geteuid().as_raw(), 0)?;
    is_refused()
}

case! {
    /// For CLONE_PIDFD_AUTOKILL without CLONE_NNP, CAP_SYS_ADMIN in the caller's own user namespace is enough, and the pidfd is
    /// armed.
    autokill_userns_cap_ok: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Unprivileged, UserNamespaces, Proc],
    source "pull request vfs-7.1-rc1.pidfs (\"CAP_SYS_ADMIN in its user namespace\")",
}
fn autokill_userns_cap_ok() -> Result {
    is_refused()?;
    privilege::enter_user_namespace()?;
    is_armed(Echo::spawn(&privileged())?)
}

case! {
    /// A caller that drops CAP_SYS_ADMIN in its own user namespace is refused CLONE_PIDFD_AUTOKILL without CLONE_NNP (EPERM),
    /// whether it is nobody there, root there, or was root in the initial namespace before.
    autokill_userns_cap_dropped: Must, needs [Autoreap, Nnp, Autokill, UserNamespaces, Proc],
    source "pull request vfs-7.1-rc1.pidfs; kernel, ns_capable(current_user_ns())",
}
fn autokill_userns_cap_dropped() -> Result {
    // In this order: becoming root detects a namespace in which a security module allows nothing.
    let enters: [fn() -> Result; 2] = [privilege::enter_user_namespace, privilege::unshare_user_namespace];
    let befores: &[fn() -> Result] = match nix::unistd::geteuid().is_root() {
        true => &[|| Ok(()), privilege::become_ordinary_user],
        false => &[|| Ok(())],
    };
    for before in befores {
        for enter in enters {
            in_child(|| {
                before()?;
                enter()?;
                privileged().accepted()?;
                privilege::drop_capabilities()?;
                is_refused()
            })?;
        }
    }
    Ok(())
}

case! {
    /// CAP_SYS_ADMIN counts in the user namespace that the caller is in, not in one that the same call makes: CLONE_NEWUSER does
    /// not help an unprivileged caller.
    autokill_newuser_in_same_call: Is, needs [Autoreap, Nnp, Autokill, Unprivileged, UserNamespaces],
    source "kernel/fork.c copy_process(): the check precedes copy_creds()",
}
fn autokill_newuser_in_same_call() -> Result {
    with_nnp().with(Flags::CLONE_NEWUSER).accepted()?;
    privileged().with(Flags::CLONE_NEWUSER).refused(Errno::EPERM)
}

case! {
    /// A caller's own no_new_privs does not stand in for CLONE_NNP, although its child would inherit it.
    autokill_parent_nnp_is_not_enough: Is, needs [Autoreap, Nnp, Autokill, Unprivileged],
    source "kernel/fork.c copy_process(): looks at the flag, not at task_no_new_privs(current)",
}
fn autokill_parent_nnp_is_not_enough() -> Result {
    rustix::thread::set_no_new_privs(true)?;
    is_refused()
}

case! {
    /// The root of a user namespace may make an auto-kill child in new user and pid namespaces in the same call; the last close
    /// kills it there too.
    autokill_nested_userns_pidns: Must,
    needs [Autoreap, Autokill, ExitInfo, Unprivileged, UserNamespaces, PidNamespace, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; kernel/fork.c copy_process()",
}
fn autokill_nested_userns_pidns() -> Result {
    privilege::enter_user_namespace()?;
    let nested = Flags::CLONE_NEWUSER | Flags::CLONE_NEWPID;
    Clone3::fork().with(nested).accepted()?;
    is_armed(Echo::spawn(&privileged().with(nested))?)
}

case! {
    /// Whether CLONE_PIDFD_AUTOKILL is allowed without CLONE_NNP depends on the capabilities of the calling thread: a thread that
    /// has dropped them is refused even if its leader has them, and one that has them is allowed even if its leader has not.
    autokill_capability_is_callers: Must, needs [Autoreap, Autokill, ExitInfo, SysAdmin],
    source "pull request vfs-7.1-rc1.pidfs (CAP_SYS_ADMIN); capabilities(7) (\"Capabilities are a per-thread attribute\")",
}
fn autokill_capability_is_callers() -> Result {
    let (leader_has_none, wait_for_it) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let late = scope.spawn(move || {
            // Returns once the leader drops the sender, also after a failure.
            let _ = wait_for_it.recv();
            privileged().accepted().context("by a thread that has CAP_SYS_ADMIN, whose leader has it not")
        });
        threads::in_a_thread(|| {
            privileged().accepted().context("control: by a thread that has CAP_SYS_ADMIN")?;
            privilege::drop_capabilities()?;
            privileged().refused(Errno::EPERM).context("by a thread without it, whose leader has it")
        })?;
        privilege::drop_capabilities()?;
        privileged().refused(Errno::EPERM).context("control: by the leader, without it")?;
        drop(leader_has_none);
        threads::join(late)
    })
}
