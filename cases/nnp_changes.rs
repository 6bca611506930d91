//! no_new_privs and what its process does to itself: entering namespaces, giving up capabilities, changing its user id.

use caps::CapSet;
use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::outcome::allowed_as_ever;
use clone3_conformance::kit::privilege::Caps;
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::setuid::credentials_after_exec;
use clone3_conformance::kit::sysctl::became_undumpable;
use clone3_conformance::kit::{helper, namespace, privilege, subject};
use clone3_conformance::wait::Status;
use nix::unistd::{Gid, Uid, setegid, seteuid, setgid, setresgid, setresuid, setuid};

case! {
    /// A CLONE_NNP child still has no_new_privs after it has entered a namespace; a child made without the flag does not have it.
    nnp_survives_setns: Must, needs [Nnp, UserNamespaces, NotYetNnp],
    source "PR_SET_NO_NEW_PRIVS(2const): once set, the attribute cannot be unset; setns(2)",
}
fn nnp_survives_setns() -> Result {
    let bit_after_setns = |call: &Clone3| -> Result<bool> {
        let (child, bit) = child_reporting(call, || {
            namespace::enter_mount_namespace_of_a_child()?;
            Ok(rustix::thread::no_new_privs()?)
        })?;
        child.ends_with(Status::exited(0))?;
        Ok(bit)
    };
    let what = "no_new_privs after setns of a child";
    check::equal(
        format_args!("control: {what} without CLONE_NNP"),
        bit_after_setns(&Clone3::fork())?,
        false,
    )?;
    subject::each_with_nnp(|call| {
        check::equal(
            format_args!("{what} of {call}"),
            bit_after_setns(&call).map_err(Failure::after_control)?,
            true,
        )
    })
}

case! {
    /// A root process with no_new_privs that has dropped its capabilities does not regain them at exec; without no_new_privs it
    /// regains all of them.
    nnp_root_regains_no_capabilities: Must, needs [Nnp, Root, NotYetNnp],
    source "Documentation/userspace-api/no_new_privs.rst; security/commoncap.c cap_bprm_creds_from_file()",
}
fn nnp_root_regains_no_capabilities() -> Result {
    let all = Caps::own(CapSet::Permitted)?;
    for (flags, expected) in [(Flags::empty(), all), (Flags::NNP, Caps::of(&[]))] {
        let call = Clone3::fork().with(flags);
        let found = credentials_after_exec(&call, helper::program()?, privilege::drop_capabilities)?;
        check::equal(format_args!("CapPrm after exec in the child of {call}"), found.permitted, expected)?;
        check::equal(format_args!("CapEff after exec in the child of {call}"), found.effective, expected)?;
    }
    Ok(())
}

/// A user and a group that no file or process belongs to.
const USER: Uid = Uid::from_raw(1502);
const GROUP: Gid = Gid::from_raw(1502);

/// Returns whether a process that has become another user is dumpable.
fn dumpable_as_another_user() -> Result<bool> {
    in_child(|| {
        setresuid(USER, USER, USER)?;
        Ok(rustix::process::dumpable_behavior()? == rustix::process::DumpableBehavior::Dumpable)
    })
}

case! {
    /// A process that changes its user id is no longer dumpable, with no_new_privs as without it.
    nnp_undumpable_after_setuid: Must, needs [Nnp, Root],
    source "PR_SET_DUMPABLE(2const); kernel/cred.c commit_creds()",
}
fn nnp_undumpable_after_setuid() -> Result {
    became_undumpable(
        "a process that has changed its user id, without no_new_privs,",
        dumpable_as_another_user()?,
    )?;
    let call = Clone3::fork().with(Flags::NNP);
    let (child, dumpable) = child_reporting(&call, dumpable_as_another_user)?;
    child.reap_expecting(Status::exited(0))?;
    check::equal("dumpable after a change of the user id, with no_new_privs", dumpable, false)
}

/// A system call that changes the caller's user or group.
type Change = fn() -> nix::Result<()>;

const CHANGES: [(&str, Change); 6] = [
    ("setuid(1502)", || setuid(USER)),
    ("seteuid(1502)", || seteuid(USER)),
    ("setresuid(1502, 1502, 1502)", || setresuid(USER, USER, USER)),
    ("setgid(1502)", || setgid(GROUP)),
    ("setegid(1502)", || setegid(GROUP)),
    ("setresgid(1502, 1502, 1502)", || setresgid(GROUP, GROUP, GROUP)),
];

case! {
    /// Root's CLONE_NNP child may change its user and its group by each system call that does, like an ordinary child.
    nnp_changes_user_and_group: Must, needs [Nnp, Root],
    source "setuid(2); setgid(2); Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn nnp_changes_user_and_group() -> Result {
    CHANGES.into_iter().try_for_each(|(what, change)| allowed_as_ever(what, || Ok(change())))
}
