//! Restrictions that a process may impose on itself only with no_new_privs or a privilege, such as seccomp filters and Landlock.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::check::{Failure, Named, Result};
use crate::note;

/// Checks that the kernel has seccomp filters.
///
/// # Errors
/// `blocked` if it does not.
pub fn seccomp_filters_exist() -> Result {
    let action = libc::SECCOMP_RET_ALLOW;
    // SAFETY: the kernel reads the four bytes of `action`, which is live.
    let known =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    match Errno::result(known) {
        Ok(_) => Ok(()),
        Err(errno) => {
            Err(Failure::blocked(format!("needs seccomp filters (CONFIG_SECCOMP_FILTER): {}", Named(errno))))
        }
    }
}

/// Calls `seccomp(SECCOMP_SET_MODE_FILTER)` with a filter that allows everything.
pub fn install_seccomp_filter() -> std::result::Result<(), Errno> {
    seccomp_filter_with(0)
}

/// Like [`install_seccomp_filter`], for all threads of the process: `SECCOMP_FILTER_FLAG_TSYNC`.
pub fn install_seccomp_filter_for_all_threads() -> std::result::Result<(), Errno> {
    seccomp_filter_with(libc::SECCOMP_FILTER_FLAG_TSYNC)
}

fn seccomp_filter_with(flags: libc::c_ulong) -> std::result::Result<(), Errno> {
    let mut allow = allow_everything();
    let filter = libc::sock_fprog { len: 1, filter: &raw mut allow };
    // SAFETY: the kernel copies the one instruction that `filter` points to; both are live.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    note!("seccomp(SECCOMP_SET_MODE_FILTER, {flags}) = {done}");
    Errno::result(done).map(drop)
}

/// Calls `prctl(PR_SET_SECCOMP)` with a filter that allows everything.
pub fn install_seccomp_filter_by_prctl() -> std::result::Result<(), Errno> {
    let mut allow = allow_everything();
    let filter = libc::sock_fprog { len: 1, filter: &raw mut allow };
    let mode = libc::SECCOMP_MODE_FILTER as libc::c_ulong;
    // SAFETY: the kernel copies the one instruction that `filter` points to; both are live.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter, 0_u64, 0_u64) };
    note!("prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER) = {done}");
    Errno::result(done).map(drop)
}

fn allow_everything() -> libc::sock_filter {
    let ret = (libc::BPF_RET | libc::BPF_K) as u16;
    libc::sock_filter { code: ret, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }
}

/// `struct io_uring_task_restriction` of `linux/io_uring.h`, followed by one `struct io_uring_restriction`.
#[repr(C)]
#[derive(Default)]
struct RingRestriction {
    flags: u16,
    count: u16,
    spare: [u32; 3],
    kind: u16,
    operation: u8,
    spare2: u8,
    spare3: [u32; 3],
}

/// Calls `io_uring_register(IORING_REGISTER_RESTRICTIONS)` without a ring: from then on, rings of the calling thread allow
/// only `IORING_OP_NOP`. If the thread has restrictions already, the call fails with EPERM.
pub fn restrict_own_rings() -> std::result::Result<(), Errno> {
    const REGISTER_RESTRICTIONS: libc::c_uint = 11;
    const RESTRICTION_SQE_OP: u16 = 1;
    let only_nop = RingRestriction { count: 1, kind: RESTRICTION_SQE_OP, ..RingRestriction::default() };
    // SAFETY: the kernel reads the live structure, which contains its length.
    let done = unsafe {
        libc::syscall(libc::SYS_io_uring_register, -1, REGISTER_RESTRICTIONS, &raw const only_nop, 1_u32)
    };
    note!("io_uring_register(-1, IORING_REGISTER_RESTRICTIONS) = {done}");
    Errno::result(done).map(drop)
}

/// Calls `fchroot(2)` with this descriptor.
fn fchroot(fd: i32) -> std::result::Result<(), Errno> {
    const SYS_FCHROOT: libc::c_long = 472;
    // SAFETY: no pointers are passed.
    let done = unsafe { libc::syscall(SYS_FCHROOT, fd, 0_u32) };
    note!("fchroot({fd}) = {done}");
    Errno::result(done).map(drop)
}

/// Returns whether the kernel has fchroot(2) and no filter refuses it.
pub fn fchroot_exists() -> bool {
    fchroot(-1) == Err(Errno::EBADF)
}

/// Calls `fchroot(FD_FAILFS_ROOT)` (Linux 7.3): from then on, no path resolves for the caller.
pub fn give_up_root_directory() -> std::result::Result<(), Errno> {
    const FAILFS_ROOT: i32 = -10004;
    fchroot(FAILFS_ROOT)
}

/// `struct landlock_ruleset_attr` of `linux/landlock.h`, as of ABI 6 (Linux 6.12).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct LandlockRulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// What a Landlock domain forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// Executing files (every ABI).
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
            // Older kernels know only the first word.
            Landlock::Execute => (LandlockRulesetAttr { handled_access_fs: ACCESS_FS_EXECUTE, ..none }, 8),
            Landlock::Signals => (LandlockRulesetAttr { scoped: SCOPE_SIGNAL, ..none }, 24),
        }
    }

    /// Checks that the kernel supports this restriction.
    ///
    /// # Errors
    /// `blocked` if it does not.
    pub fn exists(self) -> Result {
        const CREATE_RULESET_VERSION: u32 = 1;
        let none: *const LandlockRulesetAttr = std::ptr::null();
        // SAFETY: with this flag the call takes no structure and returns a number.
        let abi = unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, CREATE_RULESET_VERSION)
        };
        match Errno::result(abi) {
            Ok(abi) if abi as i32 >= self.first_abi() => Ok(()),
            Ok(abi) => {
                let wanted = self.first_abi();
                Err(Failure::blocked(format!("needs Landlock ABI {wanted}; this kernel has {abi}")))
            }
            Err(errno) => {
                Err(Failure::blocked(format!("needs Landlock (CONFIG_SECURITY_LANDLOCK): {}", Named(errno))))
            }
        }
    }

    /// Puts the calling thread into a new domain: `landlock_restrict_self(2)`.
    pub fn restrict_self(self) -> std::result::Result<(), Errno> {
        self.restrict_with(0)
    }

    /// Puts all threads of the process into a new domain: `LANDLOCK_RESTRICT_SELF_TSYNC` (ABI 8). Older kernels return EINVAL.
    pub fn restrict_all_threads(self) -> std::result::Result<(), Errno> {
        const RESTRICT_SELF_TSYNC: u32 = 1 << 3;
        self.restrict_with(RESTRICT_SELF_TSYNC)
    }

    fn restrict_with(self, flags: u32) -> std::result::Result<(), Errno> {
        let ruleset = self.ruleset()?;
        // SAFETY: no pointers are passed.
        let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), flags) };
        note!("landlock_restrict_self({self:?}, {flags:#x}) = {done}");
        Errno::result(done).map(drop)
    }

    fn ruleset(self) -> std::result::Result<OwnedFd, Errno> {
        let (attributes, size) = self.attributes();
        // SAFETY: the structure is live and at least `size` bytes long.
        let fd =
            unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0_u32) };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}
