//! no_new_privs and what its process does to itself: entering namespaces, giving up capabilities, changing its user id.

use caps::CapSet;
use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::outcome::allowed_as_ever;
use clone3_conformance::kit::privilege::{Caps, ORDINARY};
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::setuid::credentials_after_exec;
use clone3_conformance::kit::sysctl::became_undumpable;
use clone3_conformance::kit::{helper, namespace, privilege, subject};
use clone3_conformance::wait::Status;
use nix::unistd::{Gid, Uid, setegid, seteuid, setgid, setresgid, setresuid, setuid};
use rustix::thread::CapabilitiesSecureBits;
use serde::{Deserialize, Serialize};

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

case! {
    /// When root's CLONE_NNP child becomes another user by seteuid(2) it loses its effective capabilities, and when it becomes root
    /// again it has them again, like an ordinary child.
    nnp_effective_capabilities_come_back: Must, needs [Nnp, Root],
    source "capabilities(7), \"Effect of user ID changes on capabilities\"; Documentation/userspace-api/no_new_privs.rst",
}
fn nnp_effective_capabilities_come_back() -> Result {
    let all = Caps::own(CapSet::Effective)?;
    let calls = subject::with_nnp().into_iter().chain([Clone3::fork()]);
    for call in calls {
        let (child, [away, back]) = child_reporting(&call, || {
            seteuid(USER)?;
            let away = Caps::own(CapSet::Effective)?;
            seteuid(Uid::from_raw(0))?;
            Ok([away, Caps::own(CapSet::Effective)?])
        })?;
        child.ends_with(Status::exited(0))?;
        check::equal(format_args!("CapEff of a child of {call} that is another user"), away, Caps::NONE)?;
        check::equal(format_args!("CapEff of a child of {call} that is root again"), back, all)?;
    }
    Ok(())
}

/// What clone(2) copies of a process's credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Credentials {
    /// Real, effective and saved.
    users: [u32; 3],
    /// Real, effective and saved.
    groups: [u32; 3],
    supplementary: Vec<u32>,
    securebits: u32,
    keeps_capabilities: bool,
    permitted_and_effective: [Caps; 2],
}

impl Credentials {
    fn own() -> Result<Credentials> {
        let (user, group) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
        Ok(Credentials {
            users: [user.real, user.effective, user.saved].map(Uid::as_raw),
            groups: [group.real, group.effective, group.saved].map(Gid::as_raw),
            supplementary: nix::unistd::getgroups()?.into_iter().map(Gid::as_raw).collect(),
            securebits: rustix::thread::capabilities_secure_bits()?.bits(),
            keeps_capabilities: rustix::thread::get_keep_capabilities()?,
            permitted_and_effective: Caps::own_permitted_and_effective()?,
        })
    }
}

case! {
    /// A CLONE_NNP child has its creator's credentials, like an ordinary child: user and group ids, the saved ones among them,
    /// groups, securebits and capabilities.
    nnp_child_has_creators_credentials: Must, needs [Nnp, Root],
    source "credentials(7) (\"a child process created by fork(2) inherits copies of its parent's user and group IDs\"); \
        capabilities(7), securebits; commit \"clone: add CLONE_NNP\", which sets one bit",
}
fn nnp_child_has_creators_credentials() -> Result {
    rustix::thread::set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_SETUID_FIXUP | CapabilitiesSecureBits::NO_ROOT,
    )?;
    nix::unistd::setgroups(&[GROUP, Gid::from_raw(5)])?;
    setresgid(GROUP, Gid::from_raw(ORDINARY), Gid::from_raw(3))?;
    setresuid(USER, Uid::from_raw(ORDINARY), Uid::from_raw(0))?;
    let own = Credentials::own()?;
    for call in subject::with_nnp().into_iter().chain([Clone3::fork()]) {
        let (child, found) = child_reporting(&call, Credentials::own)?;
        child.ends_with(Status::exited(0))?;
        check::equal(format_args!("credentials of a child of {call}"), found, own.clone())?;
    }
    Ok(())
}
