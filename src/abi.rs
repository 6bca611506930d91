//! The kernel constants and structures that libc and rustix do not define yet.
//!
//! Source: `include/uapi/linux/sched.h` and `include/uapi/linux/pidfd.h` of Linux 7.1 and later.

use std::fmt;

bitflags::bitflags! {
    /// The flags of `clone3(2)`: the 64-bit `flags` field of `struct clone_args`.
    ///
    /// libc's constants cannot be used: some overflow its `c_int`, and those added in 7.1 are missing.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// New time namespace. The bit is part of the exit-signal byte, so only clone3 can use it.
        const CLONE_NEWTIME = 0x80;
        /// Share the address space.
        const CLONE_VM = 0x100;
        /// Share root, working directory and umask.
        const CLONE_FS = 0x200;
        /// Share the descriptor table.
        const CLONE_FILES = 0x400;
        /// Share the signal handlers.
        const CLONE_SIGHAND = 0x800;
        /// Return a pidfd for the child.
        const CLONE_PIDFD = 0x1000;
        /// Let a tracer of the caller trace the child.
        const CLONE_PTRACE = 0x2000;
        /// Suspend the caller until the child execs or exits.
        const CLONE_VFORK = 0x4000;
        /// The child's parent is the caller's parent.
        const CLONE_PARENT = 0x8000;
        /// Same thread group.
        const CLONE_THREAD = 0x1_0000;
        /// New mount namespace.
        const CLONE_NEWNS = 0x2_0000;
        /// Share System V semaphore undo.
        const CLONE_SYSVSEM = 0x4_0000;
        /// Set the thread-local storage register.
        const CLONE_SETTLS = 0x8_0000;
        /// Write the child's tid in the parent.
        const CLONE_PARENT_SETTID = 0x10_0000;
        /// Clear the tid in the child when it exits.
        const CLONE_CHILD_CLEARTID = 0x20_0000;
        /// Formerly used; clone3 rejects it.
        const CLONE_DETACHED = 0x40_0000;
        /// A tracer cannot force `CLONE_PTRACE` on the child.
        const CLONE_UNTRACED = 0x80_0000;
        /// Write the child's tid in the child.
        const CLONE_CHILD_SETTID = 0x100_0000;
        /// New cgroup namespace.
        const CLONE_NEWCGROUP = 0x200_0000;
        /// New UTS namespace.
        const CLONE_NEWUTS = 0x400_0000;
        /// New IPC namespace.
        const CLONE_NEWIPC = 0x800_0000;
        /// New user namespace.
        const CLONE_NEWUSER = 0x1000_0000;
        /// New PID namespace.
        const CLONE_NEWPID = 0x2000_0000;
        /// New network namespace.
        const CLONE_NEWNET = 0x4000_0000;
        /// Share the I/O context.
        const CLONE_IO = 0x8000_0000;
        /// Reset caught signals to their default action.
        const CLONE_CLEAR_SIGHAND = 1 << 32;
        /// Create the child in the cgroup given by `clone_args.cgroup`.
        const CLONE_INTO_CGROUP = 1 << 33;
        /// The child never becomes a zombie and sends no exit signal (Linux 7.1).
        const CLONE_AUTOREAP = 1 << 34;
        /// The child starts with no_new_privs set (Linux 7.1).
        const CLONE_NNP = 1 << 35;
        /// The child gets SIGKILL when the last reference to this call's pidfd is dropped (Linux 7.1).
        const CLONE_PIDFD_AUTOKILL = 1 << 36;
        /// New, empty mount namespace (Linux 7.1).
        const CLONE_EMPTY_MNTNS = 1 << 37;

        const _ = !0;
    }
}

impl Flags {
    /// Short for `CLONE_PIDFD`.
    pub const PIDFD: Flags = Flags::CLONE_PIDFD;
    /// Short for `CLONE_AUTOREAP`.
    pub const AUTOREAP: Flags = Flags::CLONE_AUTOREAP;
    /// Short for `CLONE_NNP`.
    pub const NNP: Flags = Flags::CLONE_NNP;
    /// Short for `CLONE_PIDFD_AUTOKILL`. The kernel accepts it only with [`Flags::PIDFD`] and
    /// [`Flags::AUTOREAP`].
    pub const AUTOKILL: Flags = Flags::CLONE_PIDFD_AUTOKILL;
    /// The flags that the kernel requires for a thread: `CLONE_THREAD | CLONE_SIGHAND | CLONE_VM`.
    pub const THREAD: Flags = Flags::CLONE_THREAD.union(Flags::CLONE_SIGHAND).union(Flags::CLONE_VM);
    /// An auto-reaped child with a pidfd.
    pub const REAPED: Flags = Flags::PIDFD.union(Flags::AUTOREAP);
    /// An auto-killed child. Creating it needs CAP_SYS_ADMIN.
    pub const KILLED: Flags = Flags::REAPED.union(Flags::AUTOKILL);
    /// An auto-killed child with no_new_privs, which an unprivileged user can create.
    pub const KILLED_NNP: Flags = Flags::KILLED.union(Flags::NNP);
}

/// Formats as `CLONE_A|CLONE_B|0x…`: the named flags first, then the unnamed bits.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.iter_names().map(|(name, _)| name.to_owned()).collect();
        let named = self.iter_names().fold(Flags::empty(), |all, (_, flag)| all | flag);
        let rest = self.bits() & !named.bits();
        if rest != 0 || parts.is_empty() {
            parts.push(format!("{rest:#x}"));
        }
        f.write_str(&parts.join("|"))
    }
}

/// `struct clone_args`: all 88 bytes of version 2 (Linux 5.7).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

/// The published sizes of [`CloneArgs`]: Linux 5.3, 5.5 and 5.7.
pub const CLONE_ARGS_SIZES: [usize; 3] = [64, 80, 88];

bitflags::bitflags! {
    /// The `mask` field of [`PidfdInfo`]: on input what is requested, on output what the kernel filled in.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InfoMask: u64 {
        /// The process IDs; always given for a live process.
        const PID = 0x1;
        /// The credentials; always given for a live process.
        const CREDS = 0x2;
        /// The cgroup ID; always given where the kernel has cgroups.
        const CGROUPID = 0x4;
        /// The exit status (Linux 6.15).
        const EXIT = 0x8;
        /// Information about a core dump (Linux 6.16).
        const COREDUMP = 0x10;
        /// The mask of everything that this kernel can give (Linux 6.19).
        const SUPPORTED_MASK = 0x20;
        /// The signal that caused a core dump (Linux 6.19).
        const COREDUMP_SIGNAL = 0x40;
        /// The `si_code` of that signal (Linux 7.1).
        const COREDUMP_CODE = 0x80;

        const _ = !0;
    }
}

impl InfoMask {
    /// Returns all bits that have a name here.
    pub fn known() -> InfoMask {
        let named = <InfoMask as bitflags::Flags>::FLAGS.iter().filter(|flag| flag.is_named());
        named.map(|flag| *flag.value()).collect()
    }
}

/// Formats as the hexadecimal value followed by the names in parentheses: `0x3 (PID | CREDS)`.
impl fmt::Display for InfoMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} (", self.bits())?;
        bitflags::parser::to_writer(self, &mut *f)?;
        f.write_str(")")
    }
}

bitflags::bitflags! {
    /// The bits of `coredump_mask` in [`PidfdInfo`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CoredumpMask: u32 {
        /// The process dumped core.
        const COREDUMPED = 1;
        /// No dump was attempted.
        const SKIP = 2;
        /// The dump is made with the user's privileges.
        const USER = 4;
        /// The dump is made as root and readable by root only.
        const ROOT = 8;

        const _ = !0;
    }
}

/// `struct pidfd_info`: all 88 bytes that Linux 7.1 knows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PidfdInfo {
    pub mask: u64,
    pub cgroupid: u64,
    pub pid: u32,
    pub tgid: u32,
    pub ppid: u32,
    pub ruid: u32,
    pub rgid: u32,
    pub euid: u32,
    pub egid: u32,
    pub suid: u32,
    pub sgid: u32,
    pub fsuid: u32,
    pub fsgid: u32,
    /// Encoded as a wait status.
    pub exit_code: i32,
    pub coredump_mask: u32,
    pub coredump_signal: u32,
    pub coredump_code: u32,
    pub coredump_pad: u32,
    pub supported_mask: u64,
}

impl PidfdInfo {
    /// Returns the fields that the kernel says it filled in.
    pub fn given(&self) -> InfoMask {
        InfoMask::from_bits_retain(self.mask)
    }

    /// Returns how the kernel handled, or would handle, a core dump of the process.
    pub fn coredump(&self) -> CoredumpMask {
        CoredumpMask::from_bits_retain(self.coredump_mask)
    }

    /// Returns everything that this kernel can give, if [`InfoMask::SUPPORTED_MASK`] was requested and given.
    ///
    /// The field is at offset 80 since 7.1. In 6.19 and 7.0 it was at offset 72, where `coredump_code` and
    /// its padding are now.
    pub fn supported(&self) -> InfoMask {
        let moved = u64::from(self.coredump_pad) << 32 | u64::from(self.coredump_code);
        InfoMask::from_bits_retain(if self.supported_mask != 0 { self.supported_mask } else { moved })
    }
}

/// The published sizes of [`PidfdInfo`], of Linux 6.13, 6.16, 6.19 and 7.1.
pub const PIDFD_INFO_SIZES: [usize; 4] = [64, 72, 80, 88];

/// The ioctl type byte of pidfds.
pub const PIDFS_IOCTL_MAGIC: u8 = 0xFF;

/// Returns the request number of `PIDFD_GET_INFO` for a structure of `size` bytes: `_IOWR(0xFF, 11, size)`.
pub const fn pidfd_get_info_request(size: usize) -> u32 {
    (3 << 30) | ((size as u32 & 0x3fff) << 16) | ((PIDFS_IOCTL_MAGIC as u32) << 8) | 11
}

/// The namespaces that the ioctls of a pidfd open (Linux 6.11). The values are the request numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Namespace {
    Cgroup = 1,
    Ipc = 2,
    Mount = 3,
    Net = 4,
    Pid = 5,
    PidForChildren = 6,
    Time = 7,
    TimeForChildren = 8,
    User = 9,
    Uts = 10,
}

impl Namespace {
    /// All namespaces.
    pub const ALL: [Namespace; 10] = [
        Namespace::Cgroup,
        Namespace::Ipc,
        Namespace::Mount,
        Namespace::Net,
        Namespace::Pid,
        Namespace::PidForChildren,
        Namespace::Time,
        Namespace::TimeForChildren,
        Namespace::User,
        Namespace::Uts,
    ];

    /// Returns the request number: `_IO(0xFF, n)`.
    pub const fn request(self) -> u32 {
        ((PIDFS_IOCTL_MAGIC as u32) << 8) | self as u32
    }
}

/// The flag that marks an auto-kill pidfd in `F_GETFL`: the kernel stores it in the bit of `O_TRUNC`.
pub const AUTOKILL_MARK: i32 = libc::O_TRUNC;

const _: () = assert!(size_of::<CloneArgs>() == 88);
const _: () = assert!(size_of::<PidfdInfo>() == 88);
const _: () = assert!(std::mem::offset_of!(PidfdInfo, exit_code) == 60);
const _: () = assert!(std::mem::offset_of!(PidfdInfo, supported_mask) == 80);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_shown_by_name() {
        assert_eq!(Flags::KILLED.to_string(), "CLONE_PIDFD|CLONE_AUTOREAP|CLONE_PIDFD_AUTOKILL");
        assert_eq!(Flags::empty().to_string(), "0x0");
        let odd = Flags::NNP | Flags::from_bits_retain(1 << 50);
        assert_eq!(odd.to_string(), "CLONE_NNP|0x4000000000000");
    }

    #[test]
    fn the_request_number_is_the_headers() {
        assert_eq!(pidfd_get_info_request(64), 0xc040_ff0b);
    }
}
