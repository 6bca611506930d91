//! What a process can only do to itself with no_new_privs or a privilege: seccomp filters and Landlock.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::check::{Failure, Result};
use crate::note;

/// Makes sure that the kernel has seccomp filters.
///
/// # Errors
/// `blocked` where it has not.
pub fn seccomp_filters_exist() -> Result {
    const GET_ACTION_AVAIL: libc::c_uint = 2;
    let action = libc::SECCOMP_RET_ALLOW;
    // SAFETY: the kernel reads the four bytes of `action`, which is live.
    let known = unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) };
    match Errno::result(known) {
        Ok(_) => Ok(()),
        Err(errno) => Err(Failure::blocked(format!("seccomp filters (CONFIG_SECCOMP_FILTER): {errno:?}"))),
    }
}

/// `seccomp(SECCOMP_SET_MODE_FILTER)` with a filter that allows everything.
pub fn install_seccomp_filter() -> std::result::Result<(), Errno> {
    let ret = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut allow = libc::sock_filter { code: ret, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let filter = libc::sock_fprog { len: 1, filter: &raw mut allow };
    // SAFETY: the kernel copies the one instruction that `filter` speaks of; both are live.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    note!("seccomp(SECCOMP_SET_MODE_FILTER) = {done}");
    Errno::result(done).map(drop)
}

/// `struct landlock_ruleset_attr` of `linux/landlock.h`, as of ABI 6 (Linux 6.12).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct LandlockRulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// What a Landlock domain takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// Executing files. Any Landlock can do this.
    Execute,
    /// Sending signals to processes outside the domain (ABI 6).
    Signals,
}

impl Landlock {
    fn first_abi(self) -> i32 {
        match self {
            Landlock::Execute => 1,
            Landlock::Signals => 6,
        }
    }

    fn attributes(self) -> (LandlockRulesetAttr, usize) {
        const ACCESS_FS_EXECUTE: u64 = 1;
        const SCOPE_SIGNAL: u64 = 1 << 1;
        let none = LandlockRulesetAttr::default();
        match self {
            // Older kernels know the first word alone.
            Landlock::Execute => (LandlockRulesetAttr { handled_access_fs: ACCESS_FS_EXECUTE, ..none }, 8),
            Landlock::Signals => (LandlockRulesetAttr { scoped: SCOPE_SIGNAL, ..none }, 24),
        }
    }

    /// Makes sure that the kernel can restrict this.
    ///
    /// # Errors
    /// `blocked` where it cannot.
    pub fn exists(self) -> Result {
        const CREATE_RULESET_VERSION: u32 = 1;
        let none: *const LandlockRulesetAttr = std::ptr::null();
        // SAFETY: with this flag the call takes no structure, and gives a number.
        let abi = unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, CREATE_RULESET_VERSION)
        };
        match Errno::result(abi) {
            Ok(abi) if abi as i32 >= self.first_abi() => Ok(()),
            Ok(abi) => {
                let wanted = self.first_abi();
                Err(Failure::blocked(format!("Landlock ABI {wanted}, this kernel has {abi}")))
            }
            Err(errno) => Err(Failure::blocked(format!("Landlock (CONFIG_SECURITY_LANDLOCK): {errno:?}"))),
        }
    }

    /// Puts the calling thread into a new domain: `landlock_restrict_self(2)`.
    pub fn restrict_self(self) -> std::result::Result<(), Errno> {
        let ruleset = self.ruleset()?;
        // SAFETY: no pointers are passed.
        let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) };
        note!("landlock_restrict_self({self:?}) = {done}");
        Errno::result(done).map(drop)
    }

    fn ruleset(self) -> std::result::Result<OwnedFd, Errno> {
        let (attributes, size) = self.attributes();
        // SAFETY: the structure is live and at least `size` bytes long.
        let fd =
            unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0_u32) };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel just made this descriptor, and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}
