//! Namespaces, and the init of a pid namespace.
//!
//! Cases that make namespaces declare [`Need::PidNamespace`](crate::need::Need::PidNamespace) (or `SysAdmin`): for an
//! unprivileged user, such a case starts as root of its own user namespace, where it may make them.

use std::fmt::Display;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::abi::Flags;
use crate::check::{self, Failure, Named, Result, errno_of};
use crate::clone3::{Child, Clone3, park};
use crate::kit::process::child_reporting;
use crate::kit::{Actor, privilege};
use crate::note;
use crate::wait::Status;

/// Returns the call for the init of a new pid namespace, which is otherwise an ordinary child.
pub fn init() -> Clone3 {
    Clone3::fork().with(Flags::CLONE_NEWPID)
}

/// Runs `body` as the init of a new pid namespace, which ends with it, and returns the result.
#[track_caller]
pub fn as_init<T: Serialize + DeserializeOwned>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let (child, value) = init_reporting(&init(), body)?;
    child.reap_expecting(Status::exited(0))?;
    Ok(value)
}

/// Runs `body` as an init made by `call` with `CLONE_NEWPID`, and returns the child, which exits with 0 right after, and
/// the result of `body`.
#[track_caller]
pub fn init_reporting<T: Serialize + DeserializeOwned>(
    call: &Clone3,
    body: impl FnOnce() -> Result<T>,
) -> Result<(Child, T)> {
    child_reporting(&call.clone().with(Flags::CLONE_NEWPID), || {
        check_that_this_is_init()?;
        body()
    })
}

/// Moves the caller into a new mount namespace from which nothing propagates to the one that it was copied from.
///
/// # Errors
/// `blocked` if the environment forbids it.
#[track_caller]
pub fn unshare_mounts() -> Result {
    use rustix::mount::{MountPropagationFlags, mount_change};
    made("unshare(CLONE_NEWNS)", unshare(CloneFlags::CLONE_NEWNS))?;
    let private = mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC);
    check::permitted("mount with a change of propagation", private.map_err(errno_of))
}

/// Mounts the `/proc` of the caller's pid namespace over the existing one. The caller must be in its own mount namespace.
///
/// # Errors
/// `blocked` if the environment forbids it, as do containers that hide a part of `/proc`.
pub fn mount_proc() -> Result {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    // Keep later mounts from propagating outside.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .and_then(|()| mount("proc", "/proc", "proc", MountFlags::empty(), None))
        .map_err(|errno| {
            Failure::blocked(format!(
                "a /proc of another pid namespace cannot be mounted: {}",
                Named(errno_of(errno))
            ))
        })
}

#[track_caller]
fn check_that_this_is_init() -> Result {
    check::equal("the pid of a pid namespace's first process", std::process::id(), 1)
}

/// Moves the *future* children of the calling process into a new pid namespace; the first one is its init.
pub fn unshare_pid() -> Result {
    unshare(CloneFlags::CLONE_NEWPID)
        .map_err(|errno| Failure::blocked(format!("unshare(CLONE_NEWPID) fails with {}", Named(errno))))
}

/// Returns the result of a call that makes a namespace for a caller who has the privilege to do so.
///
/// # Errors
/// `blocked` if the kernel is built without namespaces of that kind (EINVAL), or has a limit on them (ENOSPC, the sysctls
/// `user.max_*_namespaces`).
#[track_caller]
pub fn made<T>(call: impl Display, result: std::result::Result<T, Errno>) -> Result<T> {
    match result {
        Err(errno @ (Errno::EINVAL | Errno::ENOSPC)) => {
            Err(Failure::blocked(format!("{call} fails with {}", Named(errno))))
        }
        result => check::succeeds(call, result),
    }
}

/// Gives the caller all capabilities in a new user namespace, and enters the mount namespace of a child through its pidfd
/// (`setns(2)`).
///
/// # Errors
/// `blocked` if the environment forbids a namespace.
#[track_caller]
pub fn enter_mount_namespace_of_a_child() -> Result {
    privilege::unshare_user_namespace()?;
    let call = Clone3::fork().with(Flags::PIDFD | Flags::CLONE_NEWNS);
    let child = made(&call, call.try_spawn(park))?;
    let entered = setns(child.pidfd()?, CloneFlags::CLONE_NEWNS);
    check::succeeds("setns(CLONE_NEWNS) with the pidfd of a child", entered)?;
    child.clear_away()
}

/// The caller's ids outside a user namespace, taken before it enters the namespace: inside, they are not mapped yet.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    uid: Uid,
    gid: Gid,
}

impl Outside {
    /// Returns the caller's ids in the current user namespace.
    pub fn here() -> Outside {
        Outside { uid: geteuid(), gid: getegid() }
    }

    /// In a user namespace just entered: becomes its root, the only mapping that an unprivileged user can write there.
    pub fn becomes_root(self) -> Result {
        self.becomes(0, 0)
    }

    /// In a user namespace just entered: becomes the user and group with these ids.
    fn becomes(self, user: u32, group: u32) -> Result {
        let Outside { uid, gid } = self;
        if !crate::procfs::is_mounted() {
            return Err(Failure::blocked("needs /proc to become the root of a user namespace"));
        }
        // Some security modules allow any user to make a user namespace, but not to do anything in it.
        let write = |file: &str, text: String| {
            std::fs::write(format!("/proc/self/{file}"), text).map_err(|error| {
                Failure::blocked(format!(
                    "a new user namespace cannot be used: writing its {file} fails: {error}"
                ))
            })
        };
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("{user} {uid} 1"))?;
        write("gid_map", format!("{group} {gid} 1"))?;
        note!("user {user}, group {group} of a new user namespace");
        Ok(())
    }
}

/// Moves into a new user namespace in which the caller is the user and group with these ids.
///
/// # Errors
/// `blocked` if the environment forbids it.
pub fn enter_user_namespace_as(user: u32, group: u32) -> Result {
    let outside = Outside::here();
    privilege::unshare_user_namespace()?;
    outside.becomes(user, group)
}

/// Moves real root into a new user namespace in which these user and group ids are mapped to themselves.
///
/// # Errors
/// `blocked` if the environment forbids it.
#[track_caller]
pub fn enter_user_namespace_with(ids: &[u32]) -> Result {
    let map: String = ids.iter().map(|id| format!("{id} {id} 1\n")).collect();
    // Only a process outside can map more than one id.
    let outside = Actor::spawn(&Clone3::fork(), |pid: u32| {
        for file in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{pid}/{file}"), &map).map_err(|error| {
                Failure::blocked(format!("writing {file} of a user namespace from outside: {error}"))
            })?;
        }
        Ok(())
    })?;
    privilege::unshare_user_namespace()?;
    outside.ask(std::process::id())?;
    outside.dismiss()
}

/// Checks whether the caller can make a pid namespace, if necessary in a new user namespace. This changes the caller, so
/// call it in a process that does nothing else.
pub(crate) fn try_pid_namespace() -> Result {
    if unshare(CloneFlags::CLONE_NEWPID).is_err() {
        try_user_namespace()?;
        unshare_pid()?;
    }
    Ok(())
}

/// Checks whether the caller can make a user namespace and map an id in it. Without `/proc` no id can be mapped, and only
/// the former is checked. This changes the caller, so call it in a process that does nothing else.
pub(crate) fn try_user_namespace() -> Result {
    match crate::procfs::is_mounted() {
        true => privilege::enter_user_namespace(),
        false => Ok(unshare(CloneFlags::CLONE_NEWUSER)?),
    }
}

/// Returns the id that stands for ids that are not mapped in a user namespace: `overflowuid` or `overflowgid` of
/// proc_sys_kernel(5).
pub fn overflow_id(file: &str) -> Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/{file}"))?;
    text.trim().parse().map_err(|_| Failure::broken(format!("{file} contains {text:?}")))
}
