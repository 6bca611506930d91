//! The virtual machine that is asked for, whatever engine boots it.
use crate::accel::Accel;
use crate::watch::Limits;

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub accel: Accel,
    pub cpus: u16,
    /// As QEMU's option says it: a number of MiB, or with a letter.
    pub memory: String,
    pub limits: Limits,
    /// More for the kernel's command line.
    pub append: String,
}
