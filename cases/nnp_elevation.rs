//! What a child made with CLONE_NNP cannot gain by exec, and what it may therefore do unprivileged.

use std::os::fd::{AsFd, BorrowedFd};

use caps::{CapSet, Capability};
use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::outcome::{Outcome, outcome_in_child, outcome_in_nnp_children};
use clone3_conformance::kit::privilege::{self, Caps, ORDINARY};
use clone3_conformance::kit::process::{child_reporting, in_child, own_pid};
use clone3_conformance::kit::sandboxing::{self, Landlock};
use clone3_conformance::kit::setuid::{self, Credentials, credentials_after_exec};
use clone3_conformance::kit::{Channel, helper, namespace, subject, tracer};
use clone3_conformance::need::Setting;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace::Options;
use nix::unistd::Gid;

/// Returns the credentials of an ordinary child of the caller after it execs `program`: the control of all cases here.
fn without_nnp(program: BorrowedFd<'_>) -> Result<Credentials> {
    credentials_after_exec(&Clone3::fork(), program, || Ok(()))
}

/// Returns the credentials of a CLONE_NNP child after it execs `program`, and checks that an auto-reaped one has the same.
fn with_nnp(program: BorrowedFd<'_>) -> Result<Credentials> {
    let found = credentials_after_exec(&Clone3::fork().with(Flags::NNP), program, || Ok(()))?;
    check::equal("no_new_privs after exec", found.no_new_privs, true)?;
    if Setting::get().probe.features.autoreap {
        let call = Clone3::new(Flags::REAPED | Flags::NNP);
        let reaped = credentials_after_exec(&call, program, || Ok(()))?;
        check::equal(format_args!("what the child of {call} is after exec"), &reaped, &found)?;
    }
    Ok(found)
}

case! {
    /// An unprivileged caller's CLONE_NNP child that execs a set-user-ID root program keeps its user ids, gains no capability, and
    /// has AT_SECURE 0. Without the flag it becomes root.
    nnp_setuid_exec_no_elevation: Must, needs [Nnp, Root, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\"; Documentation/userspace-api/no_new_privs.rst",
}
fn nnp_setuid_exec_no_elevation() -> Result {
    let all = Caps::own(CapSet::Permitted)?;
    let program = setuid::file_with_mode(0o4755)?;
    privilege::become_ordinary_user()?;
    let root = without_nnp(program.as_fd())?;
    check::equal("control: real, effective and saved uid", root.uids, [ORDINARY, 0, 0])?;
    check::equal("control: CapPrm and AT_SECURE", (root.permitted, root.at_secure), (all, true))?;

    let found = with_nnp(program.as_fd())?;
    check::equal("real, effective and saved uid", found.uids, [ORDINARY; 3])?;
    check::equal("CapPrm and AT_SECURE", (found.permitted, found.at_secure), (Caps::NONE, false))
}

/// Returns the credentials of a child of this call after it execs `program` as an ordinary user, traced by a tracer with all
/// capabilities.
fn traced_by_root(call: &Clone3, program: BorrowedFd<'_>) -> Result<Credentials> {
    let (known, seized) = (Channel::<i32>::new()?, Channel::<Result>::new()?);
    let tracer = Clone3::fork().spawn(|| {
        let trace = || -> Result {
            let tracee = known.recv()?;
            seized.send(&tracer::seize(tracee, Options::empty()))?;
            wait::reap_expecting(tracee, Status::exited(0))
        };
        i32::from(trace().is_err())
    })?;
    let found = credentials_after_exec(call, program, || {
        tracer::let_anyone_trace_me();
        known.send(&own_pid())?;
        seized.recv()??;
        privilege::become_ordinary_user()
    })?;
    tracer.reap_expecting(Status::exited(0))?;
    Ok(found)
}

case! {
    /// A CLONE_NNP child that is traced by a tracer with all capabilities keeps its user ids when it execs a set-user-ID root
    /// program. Without the flag it becomes root, as its tracer could make it anyway.
    nnp_setuid_exec_traced_by_root: Must, needs [Nnp, Root, NotYetNnp, Ptrace],
    source "execve(2), on set-user-ID, no_new_privs and ptrace; security/commoncap.c cap_bprm_creds_from_file()",
}
fn nnp_setuid_exec_traced_by_root() -> Result {
    let program = setuid::file_with_mode(0o4755)?;
    for (flags, effective) in [(Flags::empty(), 0), (Flags::NNP, ORDINARY)] {
        let call = Clone3::fork().with(flags);
        let found = traced_by_root(&call, program.as_fd())?;
        let what = format!("real, effective and saved uid of the traced child of {call}");
        check::equal(what, found.uids, [ORDINARY, effective, effective])?;
        let what = format!("no_new_privs of the traced child of {call} after its exec");
        check::equal(what, found.no_new_privs, flags.contains(Flags::NNP))?;
    }
    Ok(())
}

case! {
    /// An ordinary user's CLONE_NNP child that execs a set-group-ID program keeps its group ids, whether it is a member of the
    /// program's group or not, and AT_SECURE is 0. Without the flag it gets the program's group.
    nnp_setgid_exec_no_elevation: Must, needs [Nnp, Root, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\"; Documentation/userspace-api/no_new_privs.rst; fs/exec.c bprm_fill_uid()",
}
fn nnp_setgid_exec_no_elevation() -> Result {
    let program = setuid::file_with_mode(0o2755)?;
    for groups in [&[][..], &[Gid::from_raw(0)]] {
        let after_exec = |call: &Clone3| {
            credentials_after_exec(call, program.as_fd(), || privilege::become_member(ORDINARY, groups))
        };
        let what = format!("real, effective and saved gid, AT_SECURE of a member of {groups:?}");
        let root = after_exec(&Clone3::fork())?;
        check::equal(format_args!("control: {what}"), (root.gids, root.at_secure), ([ORDINARY, 0, 0], true))?;
        subject::each_with_nnp(|call| {
            let found = after_exec(&call)?;
            check::equal(&what, (found.gids, found.at_secure), ([ORDINARY; 3], false))
        })?;
    }
    Ok(())
}

/// Two capabilities that an ordinary user cannot get in any other way.
const GRANTED: [Capability; 2] = [Capability::CAP_NET_RAW, Capability::CAP_SYS_ADMIN];

case! {
    /// An unprivileged caller's CLONE_NNP child does not gain the file capabilities of a program that it
    /// execs. Without the flag it does.
    nnp_file_caps_exec_no_elevation: Must, needs [Nnp, Root, NotYetNnp],
    source "Documentation/userspace-api/no_new_privs.rst; kernel, cap_bprm_creds_from_file()",
}
fn nnp_file_caps_exec_no_elevation() -> Result {
    let program = setuid::file_with_capabilities(&GRANTED)?;
    privilege::become_ordinary_user()?;
    let control = without_nnp(program.as_fd())?;
    let granted = Caps::of(&GRANTED);
    check::equal("control: CapPrm and CapEff", (control.permitted, control.effective), (granted, granted))?;
    let found = with_nnp(program.as_fd())?;
    check::equal("CapPrm and CapEff", (found.permitted, found.effective), (Caps::NONE, Caps::NONE))
}

case! {
    /// An unprivileged caller's CLONE_NNP child does not gain file capabilities that a program would have to raise (permitted and
    /// not effective) either. Without the flag they are permitted.
    nnp_file_caps_not_effective: Must, needs [Nnp, Root, NotYetNnp],
    source "Documentation/userspace-api/no_new_privs.rst; capabilities(7), file effective bit",
}
fn nnp_file_caps_not_effective() -> Result {
    let program = setuid::file_with_permitted(&GRANTED)?;
    privilege::become_ordinary_user()?;
    let control = without_nnp(program.as_fd())?;
    let expected = (Caps::of(&GRANTED), Caps::NONE);
    check::equal("control: CapPrm and CapEff", (control.permitted, control.effective), expected)?;
    let found = with_nnp(program.as_fd())?;
    check::equal("CapPrm and CapEff", (found.permitted, found.effective), (Caps::NONE, Caps::NONE))
}

case! {
    /// Though a CLONE_NNP child gains nothing from a program with file capabilities, the exec counts as a
    /// privileged one: AT_SECURE is 1, and ambient capabilities are cleared while permitted ones are kept.
    nnp_file_caps_at_secure: Is, needs [Nnp, Root, NotYetNnp],
    source "kernel, cap_bprm_creds_from_file()",
}
fn nnp_file_caps_at_secure() -> Result {
    let program = setuid::file_with_capabilities(&GRANTED)?;
    privilege::become_user_with(ORDINARY, Capability::CAP_NET_RAW)?;
    let own = Caps::of(&[Capability::CAP_NET_RAW]);
    let plain = with_nnp(helper::program()?)?;
    check::equal(
        "control, a plain program: AT_SECURE and CapAmb",
        (plain.at_secure, plain.ambient),
        (false, own),
    )?;
    let found = with_nnp(program.as_fd())?;
    check::equal("AT_SECURE and CapAmb", (found.at_secure, found.ambient), (true, Caps::NONE))?;
    check::equal("CapPrm", found.permitted, own)
}

case! {
    /// A CLONE_NNP child keeps its ambient capabilities across the exec of a plain program, and of a
    /// set-user-ID one too, which without the flag clears them.
    nnp_ambient_caps_kept: Is, needs [Nnp, Root, NotYetNnp],
    source "capabilities(7), \"Ambient\"; kernel, cap_bprm_creds_from_file()",
}
fn nnp_ambient_caps_kept() -> Result {
    let set_user_id = setuid::file_with_mode(0o4755)?;
    let plain = helper::program()?;
    privilege::become_user_with(ORDINARY, Capability::CAP_NET_RAW)?;
    let own = Caps::of(&[Capability::CAP_NET_RAW]);
    check::equal("control: CapAmb after a plain exec", without_nnp(plain)?.ambient, own)?;
    let cleared = without_nnp(set_user_id.as_fd())?.ambient;
    check::equal("control: CapAmb after a set-user-ID exec", cleared, Caps::NONE)?;

    check::equal("CapAmb after a plain exec", with_nnp(plain)?.ambient, own)?;
    check::equal("CapAmb after a set-user-ID exec", with_nnp(set_user_id.as_fd())?.ambient, own)
}

case! {
    /// CLONE_NNP takes nothing away: root's child has all of root's capabilities after an exec.
    nnp_root_keeps_caps_on_exec: Must, needs [Nnp, Root],
    source "Documentation/userspace-api/no_new_privs.rst: only what execve would grant is refused",
}
fn nnp_root_keeps_caps_on_exec() -> Result {
    let all = Caps::own(CapSet::Effective)?;
    let found = with_nnp(helper::program()?)?;
    check::equal("CapPrm and CapEff after exec", (found.permitted, found.effective), (all, all))
}

case! {
    /// A CLONE_NNP child of root that becomes an ordinary user cannot regain root through a set-user-ID root program. Without the
    /// flag it can.
    nnp_drop_then_setuid_exec: Must, needs [Nnp, Root, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\"; Documentation/userspace-api/no_new_privs.rst",
}
fn nnp_drop_then_setuid_exec() -> Result {
    let program = setuid::file_with_mode(0o4755)?;
    let uids = |call: &Clone3| -> Result<[u32; 3]> {
        Ok(credentials_after_exec(call, program.as_fd(), privilege::become_ordinary_user)?.uids)
    };
    let without = uids(&Clone3::fork())?;
    check::equal("control: real, effective and saved uid without CLONE_NNP", without, [ORDINARY, 0, 0])?;
    subject::each_with_nnp(|call| {
        let with = uids(&call).map_err(Failure::after_control)?;
        check::equal("real, effective and saved uid with CLONE_NNP", with, [ORDINARY; 3])
    })
}

case! {
    /// CLONE_NNP restrains exec alone: root's child may still change its user id and make a user namespace.
    nnp_setresuid_still_allowed: Must, needs [Nnp, Root, UserNamespaces],
    source "Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn nnp_setresuid_still_allowed() -> Result {
    // Control: an ordinary user may create a user namespace.
    in_child(|| {
        privilege::become_ordinary_user()?;
        privilege::unshare_user_namespace()
    })?;
    let (child, ()) = child_reporting(&Clone3::fork().with(Flags::NNP), || {
        let uid = nix::unistd::Uid::from_raw(ORDINARY);
        check::succeeds("setresuid(1000, 1000, 1000) by root", nix::unistd::setresuid(uid, uid, uid))?;
        let found = Credentials::own()?;
        check::equal("uids and no_new_privs", (found.uids, found.no_new_privs), ([ORDINARY; 3], true))?;
        check::succeeds("unshare(CLONE_NEWUSER)", unshare(CloneFlags::CLONE_NEWUSER))
    })?;
    child.reap_expecting(Status::exited(0))
}

/// Returns the results of `call` in an ordinary child and in one with CLONE_NNP.
fn in_both(call: impl Fn() -> Outcome) -> Result<[Outcome; 2]> {
    Ok([outcome_in_child(|| Ok(call()))?, outcome_in_nnp_children(|| Ok(call()))?])
}

case! {
    /// An unprivileged CLONE_NNP child may install a seccomp filter. Without the flag that is EACCES.
    nnp_seccomp_filter_unprivileged: Must, needs [Nnp, Unprivileged, NotYetNnp],
    source "seccomp(2), SECCOMP_SET_MODE_FILTER",
}
fn nnp_seccomp_filter_unprivileged() -> Result {
    sandboxing::seccomp_filters_exist()?;
    let [without, with] = in_both(sandboxing::install_seccomp_filter)?;
    check::refused("control: seccomp(SECCOMP_SET_MODE_FILTER) without CLONE_NNP", without, Errno::EACCES)?;
    check::succeeds("seccomp(SECCOMP_SET_MODE_FILTER) in a child with CLONE_NNP", with)
}

case! {
    /// An unprivileged CLONE_NNP child may put itself into a Landlock domain. Without the flag that is EPERM.
    nnp_landlock_unprivileged: Must, needs [Nnp, Unprivileged, NotYetNnp],
    source "landlock(7); landlock_restrict_self(2)",
}
fn nnp_landlock_unprivileged() -> Result {
    Landlock::Execute.exists()?;
    let [without, with] = in_both(|| Landlock::Execute.restrict_self())?;
    check::refused("control: landlock_restrict_self without CLONE_NNP", without, Errno::EPERM)?;
    check::succeeds("landlock_restrict_self in a child with CLONE_NNP", with)
}

case! {
    /// CLONE_NNP with CLONE_NEWUSER by an unprivileged caller gives a child with all capabilities inside the
    /// new user namespace, as without CLONE_NNP, none outside of it, and no_new_privs.
    nnp_newuser_has_full_caps_inside: Is, needs [Nnp, Unprivileged, UserNamespaces, NotYetNnp],
    source "kernel, create_user_ns(); user_namespaces(7)",
}
fn nnp_newuser_has_full_caps_inside() -> Result {
    let host = nix::unistd::gethostname()?;
    let look = |flags| -> Result<Credentials> {
        let call = Clone3::fork().with(Flags::CLONE_NEWUSER | flags);
        let (child, found) = child_reporting(&call, || {
            // The name does not change, so a kernel that allows this does no harm.
            let outside = nix::unistd::sethostname(&host);
            check::refused("sethostname in the host's UTS namespace", outside, Errno::EPERM)?;
            namespace::made("unshare(CLONE_NEWUTS)", unshare(CloneFlags::CLONE_NEWUTS))?;
            let inside = nix::unistd::sethostname(&host);
            // EPERM from a filter looks the same as from the kernel, which checks the capability before all else.
            if inside == Err(Errno::EPERM) && Setting::get().probe.privileges.seccomp == 2 {
                return Err(Failure::blocked(
                    "sethostname fails with EPERM, and a seccomp filter may refuse it",
                ));
            }
            check::succeeds("sethostname in its own UTS namespace", inside)?;
            Credentials::own()
        })?;
        child.reap_expecting(Status::exited(0))?;
        Ok(found)
    };
    let (without, with) = (look(Flags::empty())?, look(Flags::NNP).map_err(Failure::after_control)?);
    check::equal(
        "no_new_privs without and with the flag",
        (without.no_new_privs, with.no_new_privs),
        (false, true),
    )?;
    check::holds(
        without.effective.contains(Capability::CAP_SYS_ADMIN),
        "control: expected CAP_SYS_ADMIN inside",
    )?;
    check::equal("CapEff inside", with.effective, without.effective)
}
