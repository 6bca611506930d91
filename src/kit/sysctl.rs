//! Settings of the whole system (`/proc/sys`), changed for the time of one case.
//!
//! They are global, so they are put back whatever becomes of the case: by the case itself when it ends or fails, by
//! its lane when the case dies, and by a guard process when the lane dies too. Cases that change one declare
//! [`Need::GlobalChanges`](crate::need::Need::GlobalChanges): nothing else runs meanwhile.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use crate::check::{Failure, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::process::own_pid;
use crate::note;
use crate::pidfd::Pidfd;

/// A setting that some case changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sysctl {
    /// Where core dumps go, see core(5).
    CorePattern,
    /// How many core dumps a helper may take at once; with any but 0 the process that dumped waits for its helper, see core(5).
    CorePipeLimit,
    /// Who may read the core of a process that changed its credentials, see `proc_sys_fs(5)`.
    SuidDumpable,
    /// How many threads there may be in all, see `proc_sys_kernel(5)`.
    ThreadsMax,
}

impl Sysctl {
    const ALL: [Sysctl; 4] =
        [Sysctl::CorePattern, Sysctl::CorePipeLimit, Sysctl::SuidDumpable, Sysctl::ThreadsMax];

    fn name(self) -> &'static str {
        match self {
            Sysctl::CorePattern => "kernel.core_pattern",
            Sysctl::CorePipeLimit => "kernel.core_pipe_limit",
            Sysctl::SuidDumpable => "fs.suid_dumpable",
            Sysctl::ThreadsMax => "kernel.threads-max",
        }
    }

    fn file(self) -> String {
        format!("/proc/sys/{}", self.name().replace('.', "/"))
    }

    /// The value as it is, or `None` where there is none: no `/proc`, or a kernel that never dumps core.
    pub fn read(self) -> Option<String> {
        let text = std::fs::read_to_string(self.file()).ok()?;
        Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    /// One write of a whole line: an empty value would otherwise be no write at all.
    fn write(self, value: &str) -> std::io::Result<()> {
        std::fs::write(self.file(), format!("{value}\n"))
    }

    /// Puts a value back, if another one is in force.
    fn put_back(self, value: &str) {
        if self.read().is_some_and(|now| now != value) {
            // There is nobody to be told of an error.
            let _ = self.write(value);
        }
    }

    /// Puts `value` in force, until what this gives is dropped.
    ///
    /// # Errors
    /// `blocked` where the kernel takes none, or not this one: a socket's path as core_pattern, outside the initial
    /// mount namespace.
    pub fn set(self, value: &str) -> Result<Changed> {
        let before = self.read().ok_or_else(|| Failure::blocked(format!("cannot read {}", self.file())))?;
        let guard = Some(guard(self, &before)?);
        let in_force = Changed { setting: self, before, guard, owner: std::process::id() };
        in_force.change(value)?;
        Ok(in_force)
    }
}

/// All settings that a case may change, with their values, for whoever outlives the case.
#[derive(Debug, Default)]
pub(crate) struct Snapshot(Vec<(Sysctl, String)>);

impl Snapshot {
    /// What they are now.
    pub(crate) fn take() -> Snapshot {
        Snapshot(Sysctl::ALL.into_iter().filter_map(|setting| Some((setting, setting.read()?))).collect())
    }

    /// Makes them so again.
    pub(crate) fn put_back(&self) {
        for (setting, value) in &self.0 {
            setting.put_back(value);
        }
    }
}

/// A setting that has another value until this is dropped.
#[derive(Debug)]
pub struct Changed {
    setting: Sysctl,
    before: String,
    /// Taken when it is dismissed.
    guard: Option<Child>,
    /// The process that changed the setting: forked copies do not put it back.
    owner: u32,
}

impl Changed {
    /// Puts another value in force.
    pub fn change(&self, value: &str) -> Result {
        let name = self.setting.name();
        note!("{name} := {value:?}");
        self.setting.write(value).map_err(|error| {
            let is_socket = value.starts_with('@') && error.kind() == std::io::ErrorKind::InvalidInput;
            let why = if is_socket { " (a socket is taken in the initial mount namespace only)" } else { "" };
            Failure::blocked(format!("cannot set {name} to {value:?}: {error}{why}"))
        })?;
        match self.setting.read() {
            Some(now) if now != value => {
                Err(Failure::blocked(format!("cannot set {name} to {value:?}: it is {now:?} then")))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        if std::process::id() != self.owner {
            return;
        }
        self.setting.put_back(&self.before);
        if let Some(guard) = self.guard.take() {
            // Its task is done; should this fail, the census finds it.
            let _ = guard.clear_away();
        }
    }
}

/// A process in a session of its own that waits for the death of the caller, and then puts `value` back.
fn guard(setting: Sysctl, value: &str) -> Result<Child> {
    let case = Pidfd::open(own_pid())?;
    Clone3::fork().spawn(|| {
        let _ = rustix::process::setsid();
        let _ = nix::sys::signal::SigSet::all().thread_block();
        let mut fds = [PollFd::new(case.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE).is_err() {}
        setting.put_back(value);
        0
    })
}
