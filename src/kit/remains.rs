//! Whether the kernel still keeps something of processes that are gone.
//!
//! Nothing says so outright. But a process number keeps its pid namespace, and a task or an open file keeps, by its credentials,
//! its user namespace; and how many namespaces there may be can be limited, by each user namespace for itself. Where the limit
//! is one, the next can be made only when nothing keeps the last: a single reference that was leaked is seen, and for certain.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::abi::Flags;
use crate::check::{self, Context as _, Failure, Result};
use crate::clone3::Clone3;
use crate::kit::process::{apart, child_reporting};
use crate::kit::{namespace, privilege};
use crate::sandbox;
use crate::wait::Status;

/// Milliseconds between two looks: each is a fork.
const PAUSE: u8 = 3;

/// Runs `body` in namespaces of its own, as their root and init; behind its end, and that of all its processes, nothing of them
/// may be left in the kernel.
///
/// In there, `/proc` is still the one of the case, where processes have other numbers.
///
/// # Errors
/// `blocked` where the environment forbids user namespaces, or limits of its own for them, and where the kernel does not clear up
/// behind an ordinary child in time either.
#[track_caller]
pub fn none_of(body: impl FnOnce() -> Result) -> Result {
    of(body)?.map_or(Ok(()), Err)
}

/// As [`none_of`], but gives the failure that something is left.
#[track_caller]
pub fn of(body: impl FnOnce() -> Result) -> Result<Option<Failure>> {
    let patience = sandbox::patience() / 2;
    let Some(kept) = apart(|| room_after(&with_pidfd(), body, patience))? else { return Ok(None) };
    // Without a pidfd anywhere: what they leave is no excuse.
    let ordinary = || Clone3::fork().spawn(|| 0)?.reap_expecting(Status::exited(0));
    match apart(|| room_after(&Clone3::fork(), ordinary, patience / 2)).context("control")? {
        None => Ok(Some(kept.still(patience))),
        Some(_) => {
            Err(Failure::blocked("this kernel keeps the namespaces of ordinary processes, too, for long"))
        }
    }
}

/// The init of namespaces whose end can be waited for with patience.
fn with_pidfd() -> Clone3 {
    Clone3::fork().with(Flags::PIDFD)
}

/// What has no room, this long after `body` has lived and died in it, in an init made by this call; moves the caller.
fn room_after(init: &Clone3, body: impl FnOnce() -> Result, patience: Duration) -> Result<Option<Kept>> {
    let room = Room::make()?;
    room.used_by(init, body)?;
    room.full_after(patience)
}

/// What is kept alive by what remains of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// The pid namespace: by a process number.
    PidNamespace,
    /// The user namespace: by a task, or an open file.
    UserNamespace,
}

/// The order in which they are tried: a process in a new user namespace would have a limit of its own for the other.
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

    /// It was there for too long.
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

/// A user namespace, now the caller's, with room for one pid namespace and for one user namespace.
#[derive(Debug)]
pub struct Room(());

impl Room {
    /// Makes it, and moves the caller into it.
    pub fn make() -> Result<Room> {
        privilege::enter_user_namespace()?;
        for kept in ALL {
            let limit = kept.limit();
            std::fs::write(limit, "1").map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                Failure::blocked(format!("writing to {limit} says {errno:?}"))
            })?;
        }
        Ok(Room(()))
    }

    /// Runs `body` in the one pid namespace, as the init that this call makes, and in the one user namespace, as its root.
    #[track_caller]
    fn used_by(&self, init: &Clone3, body: impl FnOnce() -> Result) -> Result {
        apart(|| {
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

    /// The control: no second namespace can be had.
    fn is_full(&self) -> Result {
        check::equal("control: what has no room for a second one", self.without_space(ALL)?, ALL.to_vec())
    }

    /// Whether another one could be made now.
    pub fn has_space(&self, kept: Kept) -> Result<bool> {
        Ok(self.without_space(&[kept])?.is_empty())
    }

    /// Of which of these no other one could be made now.
    fn without_space(&self, asked: &[Kept]) -> Result<Vec<Kept>> {
        apart(|| {
            let full = asked.iter().filter_map(|&kept| match unshare(kept.flag()) {
                Ok(()) => None,
                Err(Errno::ENOSPC) => Some(Ok(kept)),
                Err(errno) => Some(Err(Failure::from(errno))),
            });
            full.collect()
        })
    }

    /// Waits until there is room again.
    #[track_caller]
    pub fn empties(&self) -> Result {
        let patience = sandbox::patience() / 2;
        self.full_after(patience)?.map_or(Ok(()), |kept| Err(kept.still(patience)))
    }

    /// Waits until there is room again, or else says for what there was none for so long. The kernel clears up behind the dead at
    /// leisure, and tells nobody.
    fn full_after(&self, patience: Duration) -> Result<Option<Kept>> {
        let start = Instant::now();
        let mut full = ALL.to_vec();
        loop {
            // What has had room is not looked at again: the look itself takes that room for a while.
            full = self.without_space(&full)?;
            match full.first() {
                None => return Ok(None),
                Some(&kept) if start.elapsed() > patience => return Ok(Some(kept)),
                Some(_) => poll(&mut [], PollTimeout::from(PAUSE))?,
            };
        }
    }
}
