//! Fewer privileges, or more of them in a user namespace.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid, setgroups, setresgid, setresuid};

use crate::check::{Failure, Result};
use crate::note;

/// The uid and gid of an ordinary user, as cases that were started by root become it.
pub const ORDINARY: u32 = 1000;

/// Becomes an ordinary user for good: no uid 0 to go back to, no groups, no capabilities.
pub fn become_ordinary_user() -> Result {
    become_user(ORDINARY)
}

/// Becomes this user for good, with the group of the same number.
///
/// The process stays dumpable, as one that was always this user's would be: `/proc/self` stays its own.
pub fn become_user(id: u32) -> Result {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
    note!("became uid {id}");
    Ok(())
}

/// Moves into a new user namespace, as its root, with the caller mapped to uid and gid 0.
///
/// # Errors
/// `blocked` where the system forbids user namespaces.
pub fn enter_user_namespace() -> Result {
    let (uid, gid) = (geteuid(), getegid());
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWUSER) {
        return Err(Failure::blocked(format!("unshare(CLONE_NEWUSER) says {errno:?}")));
    }
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    note!("entered a user namespace as its root");
    Ok(())
}

fn caps_error(error: caps::errors::CapsError) -> Failure {
    Failure::broken(format!("capabilities: {error}"))
}

/// Makes exactly these capabilities effective; what is permitted stays.
pub fn set_effective(wanted: &[Capability]) -> Result {
    let set: CapsHashSet = wanted.iter().copied().collect();
    caps::set(None, CapSet::Effective, &set).map_err(caps_error)
}

/// What is permitted now.
pub fn permitted() -> Result<Vec<Capability>> {
    Ok(caps::read(None, CapSet::Permitted).map_err(caps_error)?.into_iter().collect())
}

/// Gives up all capabilities for good, whatever the uid.
pub fn drop_capabilities() -> Result {
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::clear(None, set).map_err(caps_error)?;
    }
    note!("dropped all capabilities");
    Ok(())
}
