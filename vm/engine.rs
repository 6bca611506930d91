//! The two engines that boot a kernel, virtme-ng and QEMU alone, behind one interface.
use std::path::{Path, PathBuf};

use anyhow::Result;
use clone3_conformance::guest::Plan;

use crate::interrupt::Interrupts;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::watch::{Listener, Session};
use crate::{qemu, virtme};

/// What to boot and run.
pub struct Job<'a> {
    pub kernel: &'a Kernel,
    pub machine: &'a Machine,
    pub plan: &'a Plan,
    /// The suite's static binary.
    pub binary: &'a Path,
    /// Other files to put beside it, with an engine whose guest sees no files of the host.
    pub carried: &'a [PathBuf],
    pub interrupts: &'a Interrupts,
}

impl Job<'_> {
    /// Returns the image to boot.
    pub fn image(&self) -> &Path {
        self.uncompressed().unwrap_or(&self.kernel.image)
    }

    /// Returns the uncompressed kernel, if the machine boots that one to save an emulator time.
    pub fn uncompressed(&self) -> Option<&Path> {
        self.kernel.uncompressed.as_deref().filter(|_| self.machine.boots_fast())
    }
}

/// The program that boots the kernel.
pub enum Engine {
    /// virtme-ng: the guest's root is a folder of the host, read-only.
    Virtme(virtme::Tools),
    /// QEMU alone: the guest has no files but the suite.
    Qemu,
}

impl Engine {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Virtme(_) => "virtme-ng",
            Self::Qemu => "QEMU",
        }
    }

    /// Boots the kernel, and follows the suite in it, passing its output to the listener.
    pub fn boot(&self, job: &Job, listener: &mut dyn Listener) -> Result<Session> {
        match self {
            Self::Virtme(tools) => tools.boot(job, listener),
            Self::Qemu => qemu::boot(job, listener),
        }
    }
}
