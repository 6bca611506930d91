//! Ways to gain privileges other than a set-user-ID program in the initial user namespace: no_new_privs closes them all.

use std::os::fd::{AsFd, BorrowedFd};

use caps::{CapSet, Capability};
use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::privilege::{self, Caps, ORDINARY};
use clone3_conformance::kit::process::{child_reporting, own_pid};
use clone3_conformance::kit::setuid::{self, Script, credentials_after_exec};
use clone3_conformance::kit::tracer::{Instruction, follow};
use clone3_conformance::kit::{Actor, helper, namespace};
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::unistd::{Uid, getuid, setresuid};

/// Has an ordinary user's children exec a file that makes its caller root. Checks that it does so without the flag, giving
/// the first of these capabilities, and that with the flag nothing is gained, leaving the second.
fn only_without_the_flag(what: &str, file: BorrowedFd<'_>, capabilities: [Caps; 2]) -> Result {
    let [all, own] = capabilities;
    for (flags, uids, permitted) in
        [(Flags::empty(), [ORDINARY, 0, 0], all), (Flags::NNP, [ORDINARY; 3], own)]
    {
        let call = Clone3::fork().with(flags);
        let found = credentials_after_exec(&call, file, || Ok(()))?;
        let of = format!("after {what} in the child of {call}");
        check::equal(format_args!("real, effective and saved uid {of}"), found.uids, uids)?;
        check::equal(format_args!("CapPrm {of}"), found.permitted, permitted)?;
        check::equal(format_args!("AT_SECURE {of}"), found.at_secure, flags.is_empty())?;
    }
    Ok(())
}

case! {
    /// An unprivileged caller's CLONE_NNP child that execs a script (`#!`) with a set-user-ID root interpreter keeps its user ids
    /// and gains no capability. Without the flag it becomes root.
    nnp_setuid_interpreter_no_elevation: Must, needs [Nnp, Root, NotYetNnp, Proc],
    source "Documentation/userspace-api/no_new_privs.rst; execve(2), \"Interpreter scripts\"",
}
fn nnp_setuid_interpreter_no_elevation() -> Result {
    let all = Caps::own(CapSet::Permitted)?;
    let script = Script::interpreted_with_mode(0o4755)?;
    privilege::become_ordinary_user()?;
    only_without_the_flag(
        "exec of a script with a set-user-ID interpreter",
        script.as_fd(),
        [all, Caps::NONE],
    )
}

case! {
    /// In a user namespace whose root is the system's root, too, a CLONE_NNP child that execs a set-user-ID root program keeps its
    /// user ids and gains no capability. Without the flag it becomes root.
    nnp_setuid_exec_in_user_namespace: Must, needs [Nnp, Root, NotYetNnp, UserNamespaces, Proc],
    source "Documentation/userspace-api/no_new_privs.rst; user_namespaces(7), \"Set-user-ID and set-group-ID programs\"",
}
fn nnp_setuid_exec_in_user_namespace() -> Result {
    namespace::enter_user_namespace_with(&[0, ORDINARY])?;
    let all = Caps::own(CapSet::Permitted)?;
    let program = setuid::file_with_mode(0o4755)?;
    privilege::become_ordinary_user()?;
    only_without_the_flag(
        "exec of a set-user-ID program in a user namespace",
        program.as_fd(),
        [all, Caps::NONE],
    )
}

case! {
    /// With CAP_SETUID, an ordinary user's CLONE_NNP child can change its user id by setresuid(2), but not by exec of a set-user-ID
    /// program.
    nnp_setuid_exec_with_cap_setuid: Must, needs [Nnp, Root, NotYetNnp, Proc],
    source "Documentation/userspace-api/no_new_privs.rst; security/commoncap.c cap_bprm_creds_from_file()",
}
fn nnp_setuid_exec_with_cap_setuid() -> Result {
    let (all, one) = (Caps::own(CapSet::Permitted)?, Caps::of(&[Capability::CAP_SETUID]));
    let program = setuid::file_with_mode(0o4755)?;
    privilege::become_user_with(ORDINARY, Capability::CAP_SETUID)?;
    let another = Uid::from_raw(privilege::unused_id());
    let call = Clone3::fork().with(Flags::NNP);
    let (child, changed) = child_reporting(&call, || {
        let changed = setresuid(another, another, another);
        Ok((changed.map_err(|errno| errno as i32), getuid().as_raw()))
    })?;
    child.reap_expecting(Status::exited(0))?;
    let (set, got) = changed;
    let what = format!("setresuid({another}) with CAP_SETUID in the child of {call}");
    check::succeeds(&what, set.map_err(Errno::from_raw))?;
    check::equal(format_args!("getuid() after {what}"), got, another.as_raw())?;
    only_without_the_flag(
        "exec of a set-user-ID program by a user with CAP_SETUID",
        program.as_fd(),
        [all, one],
    )
}

case! {
    /// The root of a user namespace that has dropped its capabilities does not regain them at exec in a CLONE_NNP child; without
    /// the flag it regains all of them.
    nnp_user_namespace_root_regains_no_capabilities: Must, needs [Nnp, NotYetNnp, UserNamespaces, Proc],
    source "Documentation/userspace-api/no_new_privs.rst; capabilities(7), \"Capabilities and execution of programs by root\"",
}
fn nnp_user_namespace_root_regains_no_capabilities() -> Result {
    privilege::enter_user_namespace()?;
    let all = Caps::own(CapSet::Permitted)?;
    for (flags, expected) in [(Flags::empty(), all), (Flags::NNP, Caps::NONE)] {
        let call = Clone3::fork().with(flags);
        let found = credentials_after_exec(&call, helper::program()?, privilege::drop_capabilities)?;
        let what = format!("CapPrm and CapEff after exec by root of a user namespace in the child of {call}");
        check::equal(what, (found.permitted, found.effective), (expected, expected))?;
    }
    Ok(())
}

case! {
    /// A tracee whose tracer has all capabilities gains file capabilities at exec; with no_new_privs it gains none.
    nnp_file_caps_traced_by_root: Must, needs [Nnp, Root, NotYetNnp, Ptrace],
    source "Documentation/userspace-api/no_new_privs.rst; ptrace(2), on CAP_SYS_PTRACE and exec; security/commoncap.c cap_bprm_creds_from_file()",
}
fn nnp_file_caps_traced_by_root() -> Result {
    const GRANTED: [Capability; 1] = [Capability::CAP_NET_BIND_SERVICE];
    let program = setuid::file_with_capabilities(&GRANTED)?;
    let tracer = Actor::spawn(&Clone3::fork(), follow)?;
    privilege::become_ordinary_user()?;
    for (flags, permitted) in [(Flags::empty(), Caps::of(&GRANTED)), (Flags::NNP, Caps::NONE)] {
        let call = Clone3::fork().with(flags);
        let found = credentials_after_exec(&call, program.as_fd(), || {
            let own = own_pid();
            tracer.ask(Instruction::SeizeAsOrdinaryUser(own))?;
            // The parent can wait for the child only once the tracer has.
            tracer.tell(Instruction::Reap(own))
        })?;
        tracer.answer()?;
        let what =
            format!("CapPrm after exec of a program with file capabilities in the traced child of {call}");
        check::equal(what, found.permitted, permitted)?;
    }
    tracer.dismiss()
}
