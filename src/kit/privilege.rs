//! Dropping privileges, or gaining some in a user namespace.

use std::hash::{BuildHasher as _, RandomState};

use caps::{CapSet, Capability, CapsHashSet};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use crate::check::{Failure, Named, Result};
use crate::kit::namespace;
use crate::need::Setting;
use crate::note;

/// The uid and gid of the unprivileged user that cases become if root started them.
pub const ORDINARY: u32 = 1000;

/// Returns a random id from a range far away from assigned ids, so that no user or group has it and no other running case
/// uses it.
pub fn unused_id() -> u32 {
    const BASE: u64 = 1 << 30;
    // Forked processes share the random state; only their pids differ.
    (BASE | (RandomState::new().hash_one(std::process::id()) & (BASE - 1))) as u32
}

/// Becomes an unprivileged user for good: no uid 0 to return to, no groups, no capabilities.
pub fn become_ordinary_user() -> Result {
    become_user(ORDINARY)
}

/// Becomes an unprivileged user for good if the caller is root, and drops any capabilities that an unprivileged user may
/// have been given.
pub fn become_unprivileged() -> Result {
    if nix::unistd::geteuid().is_root() {
        become_ordinary_user()?;
    }
    drop_capabilities()
}

/// Becomes this user for good, with the group of the same number.
///
/// The process stays dumpable, like one that always belonged to this user, so `/proc/self` remains accessible to it.
///
/// # Errors
/// `blocked` if the caller may not do this, or if the user does not exist in its user namespace.
pub fn become_user(id: u32) -> Result {
    become_member(id, &[])
}

/// Like [`become_user`], but also as a member of these groups.
pub fn become_member(id: u32, groups: &[Gid]) -> Result {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    setgroups(groups)
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|errno| Failure::blocked(format!("becoming uid {id} fails with {}", Named(errno))))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
    note!("became uid {id}");
    Ok(())
}

/// Moves into a new user namespace as its root: the caller is mapped to uid and gid 0.
///
/// # Errors
/// `blocked` if the system forbids user namespaces.
pub fn enter_user_namespace() -> Result {
    namespace::enter_user_namespace_as(0, 0)
}

/// Becomes a user that has no other process and to which RLIMIT_NPROC applies.
pub fn become_unused_user() -> Result {
    if Setting::get().probe.privileges.root {
        become_user(unused_id())
    } else {
        // The kernel counts processes per user and user namespace.
        enter_user_namespace()
    }
}

/// Moves into a new user namespace in which the caller is not mapped.
///
/// # Errors
/// `blocked` if the system forbids user namespaces, perhaps only to the caller's current user.
pub fn unshare_user_namespace() -> Result {
    unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(|errno| Failure::blocked(format!("unshare(CLONE_NEWUSER) fails with {}", Named(errno))))
}

fn caps_error(error: caps::errors::CapsError) -> Failure {
    Failure::broken(format!("capabilities: {error}"))
}

/// Makes exactly these capabilities effective; the permitted set is unchanged.
pub fn set_effective(wanted: &[Capability]) -> Result {
    let set: CapsHashSet = wanted.iter().copied().collect();
    caps::set(None, CapSet::Effective, &set).map_err(caps_error)
}

/// Returns the permitted capabilities.
pub fn permitted() -> Result<Vec<Capability>> {
    Ok(caps::read(None, CapSet::Permitted).map_err(caps_error)?.into_iter().collect())
}

/// Clears one of the caller's sets (effective or ambient), tries to raise a permitted capability in it, and returns the
/// resulting set.
pub fn emptied_and_raised(set: CapSet, capability: Capability) -> Result<Caps> {
    caps::clear(None, set).map_err(caps_error)?;
    if matches!(set, CapSet::Ambient) {
        // An ambient capability must also be inheritable.
        caps::set(None, CapSet::Inheritable, &[capability].into()).map_err(caps_error)?;
    }
    let raised = caps::raise(None, set, capability);
    note!("raising {capability} in the {set:?} set: {raised:?}");
    Caps::own(set)
}

/// Drops all capabilities, whatever the uid. An exec as uid 0 gives them back.
pub fn drop_capabilities() -> Result {
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::clear(None, set).map_err(caps_error)?;
    }
    note!("dropped all capabilities");
    Ok(())
}

/// Drops this capability for good, if the caller has it.
pub fn drop_capability(capability: Capability) -> Result {
    // The order matters: effective capabilities must be permitted.
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::drop(None, set, capability).map_err(caps_error)?;
    }
    note!("dropped {capability}");
    Ok(())
}

/// Becomes this user for good, but keeps one capability: permitted, effective and ambient, so that it survives the exec of
/// an ordinary program.
pub fn become_user_with(id: u32, capability: Capability) -> Result {
    let one: CapsHashSet = [capability].into();
    caps::securebits::set_keepcaps(true).map_err(caps_error)?;
    become_user(id)?;
    // The order matters: each set must be a subset of another one.
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
        caps::set(None, set, &one).map_err(caps_error)?;
    }
    note!("kept {capability}");
    Ok(())
}

/// Becomes this user for good, with one capability in the inheritable set only.
pub fn become_user_inheriting(id: u32, capability: Capability) -> Result {
    caps::set(None, CapSet::Inheritable, &[capability].into()).map_err(caps_error)?;
    become_user(id)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(caps_error)?;
    }
    note!("has {capability} inheritable");
    Ok(())
}

/// A set of capabilities in the kernel's representation: bit N is capability N.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps(u64);

impl Caps {
    /// No capability.
    pub const NONE: Caps = Caps(0);

    /// Returns the set of exactly these capabilities.
    pub fn of(capabilities: &[Capability]) -> Caps {
        Caps(capabilities.iter().fold(0, |bits, capability| bits | capability.bitmask()))
    }

    /// Returns one of the caller's own sets.
    pub fn own(set: CapSet) -> Result<Caps> {
        let found: Vec<Capability> = caps::read(None, set).map_err(caps_error)?.into_iter().collect();
        Ok(Caps::of(&found))
    }

    /// Returns the caller's permitted and effective sets.
    pub fn own_permitted_and_effective() -> Result<[Caps; 2]> {
        Ok([Caps::own(CapSet::Permitted)?, Caps::own(CapSet::Effective)?])
    }

    /// Returns the set as a number.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Returns whether the set contains this capability.
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & capability.bitmask() != 0
    }
}

/// Formats the set as `/proc/PID/status` shows it, with names if there are only a few.
impl std::fmt::Debug for Caps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut names: Vec<String> =
            caps::all().into_iter().filter(|one| self.contains(*one)).map(|one| one.to_string()).collect();
        names.sort();
        match names.len() {
            0 => f.write_str("no capability"),
            1..=4 => write!(f, "{:#x} ({})", self.0, names.join("|")),
            many => write!(f, "{:#x} ({many} capabilities)", self.0),
        }
    }
}
