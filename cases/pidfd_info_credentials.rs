//! The user and group ids that PIDFD_GET_INFO gives: which is which, and in which user namespace.

use clone3_conformance::abi::{Flags, InfoMask, PidfdInfo};
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::{Clone3, park};
use clone3_conformance::kit::namespace::{Outside, enter_user_namespace_as};
use clone3_conformance::kit::process::{in_child, own_pid};
use clone3_conformance::kit::{Actor, privilege, subject};
use clone3_conformance::pidfd::{Pidfd, info};
use nix::unistd::{Gid, Uid, getegid, geteuid, getgid, getuid, setfsgid, setfsuid, setresgid, setresuid};
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};

/// Real, effective, saved and filesystem id.
type Ids = [u32; 4];

const USERS: Ids = [1001, 1002, 1003, 1004];
const GROUPS: Ids = [2001, 2002, 2003, 2004];

fn users(info: &PidfdInfo) -> Ids {
    [info.ruid, info.euid, info.suid, info.fsuid]
}

fn groups(info: &PidfdInfo) -> Ids {
    [info.rgid, info.egid, info.sgid, info.fsgid]
}

/// Sets eight ids, all of them different.
fn become_eight() -> Result {
    // Keeps the capabilities of uid 0, which setfsuid needs.
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    let [real, effective, saved, file_system] = GROUPS.map(Gid::from_raw);
    setresgid(real, effective, saved)?;
    setfsgid(file_system);
    let [real, effective, saved, file_system] = USERS.map(Uid::from_raw);
    setresuid(real, effective, saved)?;
    setfsuid(file_system);
    // These two return no error, but the previous id.
    let now = (setfsuid(file_system).as_raw(), setfsgid(Gid::from_raw(GROUPS[3])).as_raw());
    if now == (USERS[3], GROUPS[3]) {
        return Ok(());
    }
    Err(Failure::blocked(format!("setfsuid and setfsgid leave uid and gid {now:?}")))
}

case! {
    /// The eight ids in PIDFD_GET_INFO (real, effective, saved and filesystem uid and gid) are those that the process has at that time,
    /// even if all of them differ, and the ppid is given even if the parent is another user.
    pidfd_info_eight_ids: Must, needs [PidfdInfo, Root],
    source "include/uapi/linux/pidfd.h (PIDFD_INFO_CREDS); credentials(7)",
}
fn pidfd_info_eight_ids() -> Result {
    subject::each(|call| {
        let child = Actor::spawn(&call, |()| become_eight())?;
        let pidfd = child.child().pidfd()?;
        let before = info(pidfd, InfoMask::CREDS)?;
        let own = (getuid().as_raw(), getgid().as_raw());
        check::equal("control: ruid and rgid before", (before.ruid, before.rgid), own)?;
        child.ask(())?;
        let info = info(pidfd, InfoMask::CREDS)?;
        let what = format!("of a child of {call}");
        check::equal(format_args!("ruid, euid, suid, fsuid {what}"), users(&info), USERS)?;
        check::equal(format_args!("rgid, egid, sgid, fsgid {what}"), groups(&info), GROUPS)?;
        check::equal(format_args!("ppid {what}"), info.ppid, std::process::id())?;
        child.dismiss()
    })
}

case! {
    /// The user and group ids in PIDFD_GET_INFO are those in the caller's user namespace, not in the initial one and not in the
    /// process's own.
    pidfd_info_credentials_across_user_namespaces: Must, needs [PidfdInfo, UserNamespaces, Unprivileged, Proc],
    source "fs/pidfs.c pidfd_info(), current_user_ns(); user_namespaces(7)",
}
fn pidfd_info_credentials_across_user_namespaces() -> Result {
    let outside = Outside::here();
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let inside = Actor::spawn(&Clone3::fork().with(Flags::PIDFD), move |()| {
        privilege::unshare_user_namespace()?;
        outside.becomes_root()?;
        let own = info(&Pidfd::open(own_pid())?, InfoMask::CREDS)?;
        Ok((users(&own), groups(&own)))
    })?;
    check::equal("user and group ids, seen by itself", inside.ask(())?, ([0; 4], [0; 4]))?;
    let seen = info(inside.child().pidfd()?, InfoMask::CREDS)?;
    check::equal(
        "user and group ids, seen from outside",
        (users(&seen), groups(&seen)),
        ([uid; 4], [gid; 4]),
    )?;
    inside.dismiss()
}

case! {
    /// The user and group ids in PIDFD_GET_INFO are those in the caller's user namespace for a child in another pid namespace, too, each
    /// by its own map.
    pidfd_info_credentials_across_pid_namespaces: Must, needs [PidfdInfo, UserNamespaces, PidNamespace],
    source "fs/pidfs.c pidfd_info(), current_user_ns(); user_namespaces(7)",
}
fn pidfd_info_credentials_across_pid_namespaces() -> Result {
    in_child(|| {
        // Numbers that the user and its group have in no other namespace.
        const USER: u32 = 77;
        const GROUP: u32 = 78;
        enter_user_namespace_as(USER, GROUP)?;
        subject::each(|call| {
            let call = call.with(Flags::CLONE_NEWPID);
            let init = call.spawn(park)?;
            let seen = info(init.pidfd()?, InfoMask::CREDS)?;
            let what = format!("user and group ids of a child of {call}, in the user namespace of both");
            check::equal(what, (users(&seen), groups(&seen)), ([USER; 4], [GROUP; 4]))?;
            init.clear_away()
        })
    })
}
