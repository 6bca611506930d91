//! Detection of kernel objects that are left of processes which are gone.
//!
//! No interface reports them directly. But a struct pid keeps its pid namespace alive, a task or an open file keeps its
//! user namespace alive through its credentials, and each user namespace can limit the number of namespaces. With a limit
//! of one, the next namespace can be made only when nothing keeps the last one alive: even a single leaked reference is
//! detected reliably.

use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::abi::Flags;
use crate::check::{self, Context as _, Failure, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::eventually::eventually;
use crate::kit::process::{child_reporting, in_child};
use crate::kit::{namespace, privilege};
use crate::sandbox;
use crate::wait::Status;

/// Runs `body` in new namespaces, as their root and init, and checks that nothing of its processes is left in the kernel
/// after they have all exited.
///
/// Inside, `/proc` is still the one of the case, in which processes have other pids.
///
/// # Errors
/// `blocked` if the environment forbids user namespaces or setting their limits, or if the kernel does not clean up after
/// an ordinary child in time either.
#[track_caller]
pub fn none_in(body: impl FnOnce() -> Result) -> Result {
    find(body)?.map_or(Ok(()), Err)
}

/// Like [`none_in`], but returns the failure if something is left.
#[track_caller]
pub fn find(body: impl FnOnce() -> Result) -> Result<Option<Failure>> {
    let patience = sandbox::patience() / 2;
    let Some(kept) = in_child(|| room_after(&with_pidfd(), body, patience))? else { return Ok(None) };
    // The control uses no pidfd at all, so that leftovers of pidfds do not excuse a failure.
    let ordinary = || Clone3::fork().spawn(|| 0)?.reap_expecting(Status::exited(0));
    match in_child(|| room_after(&Clone3::fork(), ordinary, patience / 2)).context("control")? {
        None => Ok(Some(kept.still(patience))),
        Some(_) => {
            Err(Failure::blocked("this kernel keeps the namespaces of ordinary processes, too, for long"))
        }
    }
}

/// Returns the call for an init whose exit can be awaited with a timeout.
fn with_pidfd() -> Clone3 {
    Clone3::fork().with(Flags::PIDFD)
}

/// Runs `body` in an init made by this call and returns what still has no room this long after its end. Moves the caller
/// into a user namespace.
fn room_after(init: &Clone3, body: impl FnOnce() -> Result, patience: Duration) -> Result<Option<Kept>> {
    let room = Room::make()?;
    room.used_by(init, body)?;
    room.full_after(patience)
}

/// Makes a child in a new namespace as soon as a limit permits it; the kernel may notice late that there is room again.
///
/// # Errors
/// `blocked` if the kernel has no such namespaces.
#[track_caller]
pub fn spawn_once_there_is_room(call: &Clone3, mut body: impl FnMut() -> i32) -> Result<Child> {
    let made = eventually(sandbox::patience() / 2, || match call.try_spawn(&mut body) {
        Err(Errno::ENOSPC) => Ok(None),
        outcome => Ok(Some(outcome)),
    })?;
    match made {
        Some(Err(Errno::EINVAL)) => Err(Failure::blocked(format!("the kernel has no namespaces for {call}"))),
        outcome => check::succeeds(call, outcome.unwrap_or(Err(Errno::ENOSPC))),
    }
}

/// A namespace that leftovers of a process keep alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// The pid namespace, kept by a struct pid.
    PidNamespace,
    /// The user namespace, kept by a task or an open file.
    UserNamespace,
}

/// The order in which they are tried: a process in a new user namespace would have a separate limit for pid namespaces.
const ALL: &[Kept] = &[Kept::PidNamespace, Kept::UserNamespace];

impl Kept {
    fn flag(self) -> CloneFlags {
        match self {
            Kept::PidNamespace => CloneFlags::CLONE_NEWPID,
            Kept::UserNamespace => CloneFlags::CLONE_NEWUSER,
        }
    }

    fn limit(self) -> &'static str {
        match self {
            Kept::PidNamespace => "/proc/sys/user/max_pid_namespaces",
            Kept::UserNamespace => "/proc/sys/user/max_user_namespaces",
        }
    }

    /// Returns the failure that the namespace still exists after this time.
    #[track_caller]
    fn still(self, waited: Duration) -> Failure {
        let (what, by) = match self {
            Kept::PidNamespace => ("pid", "a process number (struct pid)"),
            Kept::UserNamespace => ("user", "a task or an open file"),
        };
        Failure::fail(format!(
            "{waited:.1?} after processes have gone, their {what} namespace is still there: the kernel keeps {by}"
        ))
    }
}

/// A user namespace, entered by the caller, with limits for a few pid namespaces and one user namespace.
#[derive(Debug)]
pub struct Room(());

impl Room {
    /// Makes one with room for one of each, and moves the caller into it.
    #[track_caller]
    pub fn make() -> Result<Room> {
        Room::with_pid_namespaces(1)
    }

    /// Makes one with room for one user namespace and `count` pid namespaces, and moves the caller into it.
    #[track_caller]
    pub fn with_pid_namespaces(count: u32) -> Result<Room> {
        // Check this in another process, because the check itself occupies the room for a while.
        in_child(|| {
            privilege::enter_user_namespace()?;
            privilege::unshare_user_namespace()
        })?;
        privilege::enter_user_namespace()?;
        for (kept, count) in [(Kept::PidNamespace, count), (Kept::UserNamespace, 1)] {
            let limit = kept.limit();
            std::fs::write(limit, count.to_string())
                .map_err(|error| Failure::blocked(format!("writing to {limit} fails: {error}")))?;
        }
        Ok(Room(()))
    }

    /// Runs `body` in the one pid namespace, as the init that this call makes, and in the one user namespace, as its root.
    #[track_caller]
    fn used_by(&self, init: &Clone3, body: impl FnOnce() -> Result) -> Result {
        in_child(|| {
            namespace::unshare_pid()?;
            privilege::enter_user_namespace()?;
            let (init, ()) = child_reporting(init, || {
                self.is_full()?;
                body()
            })?;
            let what =
                "the init of a pid namespace, which is blocked in its exit until all numbers there are free";
            if let Ok(pidfd) = init.pidfd() {
                pidfd.wait_exited().context(what)?;
            }
            init.reap_expecting(Status::exited(0))
        })
    }

    /// Checks, as a control, that no second namespace can be made.
    #[track_caller]
    fn is_full(&self) -> Result {
        check::equal("control: what has no room for a second one", self.without_space(ALL)?, ALL.to_vec())
    }

    /// Returns whether another one can be made now.
    #[track_caller]
    pub fn has_space(&self, kept: Kept) -> Result<bool> {
        Ok(self.without_space(&[kept])?.is_empty())
    }

    /// Returns those of which no other one can be made now.
    #[track_caller]
    fn without_space(&self, asked: &[Kept]) -> Result<Vec<Kept>> {
        in_child(|| {
            let full = asked.iter().filter_map(|&kept| match unshare(kept.flag()) {
                Ok(()) => None,
                Err(Errno::ENOSPC) => Some(Ok(kept)),
                Err(errno) => Some(Err(Failure::from(errno))),
            });
            full.collect()
        })
    }

    /// Waits until there is room for one more.
    #[track_caller]
    pub fn empties(&self) -> Result {
        let patience = sandbox::patience() / 2;
        self.full_after(patience)?.map_or(Ok(()), |kept| Err(kept.still(patience)))
    }

    /// Waits until there is room again; after `patience`, returns the namespace that still has no room. The kernel cleans
    /// up asynchronously, without a notification.
    #[track_caller]
    fn full_after(&self, patience: Duration) -> Result<Option<Kept>> {
        let mut full = ALL.to_vec();
        eventually(patience, || {
            // Do not check again what has had room, because the check itself occupies the room for a while.
            full = self.without_space(&full)?;
            Ok(full.is_empty().then_some(()))
        })?;
        Ok(full.first().copied())
    }
}
