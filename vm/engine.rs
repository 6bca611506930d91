//! What boots a kernel: two ways to the same verdict.
use std::path::{Path, PathBuf};

use anyhow::Result;
use clone3_conformance::guest::Plan;

use crate::interrupt::Interrupts;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::watch::{Listener, Session};
use crate::{qemu, virtme};

/// What is to be done.
pub struct Job<'a> {
    pub kernel: &'a Kernel,
    pub machine: &'a Machine,
    pub plan: &'a Plan,
    /// The suite's static binary.
    pub binary: &'a Path,
    /// What else is put beside it, where the guest has nothing but what it is given.
    pub carried: &'a [PathBuf],
    pub interrupts: &'a Interrupts,
}

impl Job<'_> {
    /// The image to boot.
    pub fn image(&self) -> &Path {
        self.uncompressed().unwrap_or(&self.kernel.image)
    }

    /// The uncompressed kernel, if that is what boots: then in the ways that spare an emulator time.
    pub fn uncompressed(&self) -> Option<&Path> {
        self.kernel.uncompressed.as_deref().filter(|_| self.machine.spares())
    }
}

/// What does it.
pub enum Engine {
    /// virtme-ng: the guest's root is a folder of the host, read-only.
    Virtme(virtme::Tools),
    /// QEMU alone: the guest has nothing but the suite.
    Qemu,
}

impl Engine {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Virtme(_) => "virtme-ng",
            Self::Qemu => "QEMU",
        }
    }

    /// Boots the kernel and follows the suite in it, which the listener hears.
    ///
    /// Beside what was seen of the guest, the result is what the engine itself complained of.
    pub fn boot(&self, job: &Job, listener: &mut dyn Listener) -> Result<(Session, String)> {
        match self {
            Self::Virtme(tools) => tools.boot(job, listener).map(|session| (session, String::new())),
            Self::Qemu => qemu::boot(job, listener),
        }
    }
}
