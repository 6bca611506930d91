//! System-wide settings (`/proc/sys`) that are changed during one case.
//!
//! They are global, so they are restored whatever happens to the case: by the case itself when it ends or fails, by its
//! lane when the case dies, and by a guard process when the lane dies too. Cases that change one declare
//! [`Need::GlobalChanges`](crate::need::Need::GlobalChanges): no other case runs at the same time.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use crate::check::{Failure, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::process::own_pid;
use crate::note;
use crate::pidfd::Pidfd;

/// A setting that a case may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sysctl {
    /// The destination of core dumps, see core(5).
    CorePattern,
    /// The maximum number of core dumps that helpers read at once; if it is not 0, the dumping process waits for its
    /// helper, see core(5).
    CorePipeLimit,
    /// Who may read the core of a process that changed its credentials, see `proc_sys_fs(5)`.
    SuidDumpable,
    /// The maximum number of threads in the system, see `proc_sys_kernel(5)`.
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

    /// Returns the current value, or `None` if there is none: no `/proc`, or a kernel without core dumps.
    pub fn read(self) -> Option<String> {
        let text = std::fs::read_to_string(self.file()).ok()?;
        Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    /// Writes a value as one line; without the newline, an empty value would be no write at all.
    fn write(self, value: &str) -> std::io::Result<()> {
        std::fs::write(self.file(), format!("{value}\n"))
    }

    /// Restores a value if the current one differs.
    fn put_back(self, value: &str) {
        if self.read().is_some_and(|now| now != value) {
            // There is no way to report an error.
            let _ = self.write(value);
        }
    }

    /// Sets `value` until the returned object is dropped. Call this before anything is made whose last close is awaited: the
    /// guard process keeps a copy of every descriptor that is open now.
    ///
    /// # Errors
    /// `blocked` if the kernel accepts no value or not this one, for example a socket's path as core_pattern outside the
    /// initial mount namespace.
    pub fn set(self, value: &str) -> Result<Changed> {
        let before = self.read().ok_or_else(|| Failure::blocked(format!("cannot read {}", self.file())))?;
        let guard = Some(guard(self, &before)?);
        let in_force = Changed { setting: self, before, guard, owner: std::process::id() };
        in_force.change(value)?;
        Ok(in_force)
    }
}

/// Checks, as a control, that a process which has changed its credentials is not dumpable; `who` names it.
///
/// # Errors
/// `blocked` if it may be dumpable, because `fs.suid_dumpable` is 1, or if that cannot be read.
#[track_caller]
pub fn became_undumpable(who: &str, dumpable: bool) -> Result {
    if !dumpable {
        return Ok(());
    }
    let what = format!("control: {who} is dumpable");
    match Sysctl::SuidDumpable.read() {
        Some(value) if value != "1" => {
            Err(Failure::fail(format!("{what}, where fs.suid_dumpable is {value}")))
        }
        Some(_) => Err(Failure::blocked(format!("{what}, because fs.suid_dumpable is 1"))),
        None => {
            Err(Failure::blocked(format!("{what}, and fs.suid_dumpable, which may allow it, cannot be read")))
        }
    }
}

/// All settings that a case may change, with their values, for a process that outlives the case.
#[derive(Debug, Default)]
pub(crate) struct Snapshot(Vec<(Sysctl, String)>);

impl Snapshot {
    /// Records the current values.
    pub(crate) fn take() -> Snapshot {
        Snapshot(Sysctl::ALL.into_iter().filter_map(|setting| Some((setting, setting.read()?))).collect())
    }

    /// Restores the recorded values.
    pub(crate) fn put_back(&self) {
        for (setting, value) in &self.0 {
            setting.put_back(value);
        }
    }
}

/// A setting that is changed until this is dropped.
#[derive(Debug)]
pub struct Changed {
    setting: Sysctl,
    before: String,
    /// Taken when the guard is dismissed.
    guard: Option<Child>,
    /// The process that changed the setting: forked copies do not restore it.
    owner: u32,
}

impl Changed {
    /// Sets another value.
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
                Err(Failure::blocked(format!("cannot set {name} to {value:?}: the kernel made it {now:?}")))
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
            // The guard is not needed any more; if this fails, the census finds it.
            let _ = guard.clear_away();
        }
    }
}

/// Makes a process in a new session that waits for the death of the caller and then restores `value`.
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
