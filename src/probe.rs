//! Probing of what this kernel supports and what this environment allows, before any test case runs.
//!
//! Features are not detected by version number, because a kernel with backports may have more than its
//! version says. (Versions decide which claims are ahead of a kernel, which known defects it may have, and
//! whether a filter rather than the kernel rejects a flag.) The flags are probed without creating a child: a
//! call with `CLONE_PIDFD` and an unwritable address fails with EFAULT once all flags have been accepted, and
//! with EINVAL if a flag is unknown.

use std::fmt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::{Uid, geteuid};
use serde::{Deserialize, Serialize};

use crate::abi::{Flags, InfoMask, Namespace};
use crate::clone3::{Clone3, NOWHERE};
use crate::need::Need;
use crate::pidfd::Pidfd;
use crate::version::Version;
use crate::wait::Status;

/// What the kernel says to `clone3` itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Clone3State {
    /// It works.
    Works,
    /// The kernel is older than clone3 (5.3).
    Missing,
    /// Something between us and the kernel refuses it.
    Blocked(String),
}

/// Which of the kernel's features are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Features {
    /// `CLONE_AUTOREAP`.
    pub autoreap: bool,
    /// `CLONE_NNP`.
    pub nnp: bool,
    /// `CLONE_PIDFD_AUTOKILL`.
    pub autokill: bool,
    /// `PIDFD_GET_INFO` itself.
    pub pidfd_info: bool,
    /// `PIDFD_INFO_EXIT`.
    pub exit_info: bool,
    /// `PIDFD_INFO_COREDUMP`.
    pub coredump_mask: bool,
    /// `PIDFD_INFO_SUPPORTED_MASK`.
    pub supported_mask: bool,
    /// `PIDFD_INFO_COREDUMP_SIGNAL`.
    pub coredump_signal: bool,
    /// `PIDFD_INFO_COREDUMP_CODE`.
    pub coredump_code: bool,
}

/// What the caller may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Privileges {
    /// The effective uid.
    pub euid: u32,
    /// All capabilities, in the initial user namespace.
    pub root: bool,
    /// CAP_SYS_ADMIN in the caller's user namespace.
    pub sys_admin: bool,
    /// Whether the caller is, or can become, an ordinary user: no uid 0 to go back to, and no capabilities.
    pub ordinary_user: bool,
    /// CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN over the pid namespace, which set_tid asks for.
    pub checkpoint_restore: bool,
    /// Whether a user namespace can be made.
    pub user_namespaces: bool,
    /// Whether an ordinary user, as the caller is or can become, can make one too: it may be left to root.
    #[serde(default)]
    pub ordinary_user_namespaces: bool,
    /// Whether a pid namespace can be made, by way of a user namespace if need be.
    pub pid_namespaces: bool,
    /// Whether ptrace(2) may be used on one's own processes.
    pub ptrace: bool,
    /// Whether the caller's children are traced by nobody.
    #[serde(default)]
    pub untraced: bool,
    /// no_new_privs is set already.
    pub no_new_privs: bool,
    /// The Seccomp mode of the caller: 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
}

/// The result of the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `uname -m`.
    pub machine: String,
    /// Whether the CPU is emulated (QEMU's TCG), so that everything takes longer.
    pub emulated: bool,
    /// Whether clone3 itself works.
    pub clone3: Clone3State,
    /// The kernel's features.
    pub features: Features,
    /// The caller's privileges.
    pub privileges: Privileges,
}

impl Probe {
    /// Probes the running kernel. Call it while the program has only one thread, because it forks.
    pub fn run() -> Probe {
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let release = release();
        let seccomp = rustix::thread::secure_computing_mode().map_or(0, |mode| mode as u32);
        let clone3 = clone3_state(&release, seccomp);
        let features = Features::find(clone3 == Clone3State::Works);
        Probe {
            version: text(uname.version()),
            machine: text(uname.machine()),
            release,
            emulated: crate::arch::is_emulated(),
            privileges: Privileges::find(seccomp, clone3 == Clone3State::Works),
            features,
            clone3,
        }
    }
}

impl Features {
    fn find(clone3_works: bool) -> Features {
        let knows = |call: Clone3| clone3_works && is_known(&call);
        let info = info_features();
        Features {
            autoreap: knows(Clone3::new(Flags::REAPED)),
            nnp: knows(Clone3::fork().with(Flags::PIDFD | Flags::NNP)),
            autokill: knows(Clone3::new(Flags::KILLED_NNP)) || knows(Clone3::new(Flags::KILLED)),
            pidfd_info: info.is_some(),
            exit_info: info.is_some_and(|mask| mask.contains(InfoMask::EXIT)),
            coredump_mask: info.is_some_and(|mask| mask.contains(InfoMask::COREDUMP)),
            supported_mask: info.is_some_and(|mask| mask.contains(InfoMask::SUPPORTED_MASK)),
            coredump_signal: info.is_some_and(|mask| mask.contains(InfoMask::COREDUMP_SIGNAL)),
            coredump_code: info.is_some_and(|mask| mask.contains(InfoMask::COREDUMP_CODE)),
        }
    }

    /// Whether one of [`Need::FEATURES`] is there; what is no feature of a kernel is not.
    pub fn has(&self, feature: Need) -> bool {
        match feature {
            Need::Autoreap => self.autoreap,
            Need::Nnp => self.nnp,
            Need::Autokill => self.autokill,
            Need::PidfdInfo => self.pidfd_info,
            Need::ExitInfo => self.exit_info,
            Need::CoredumpMask => self.coredump_mask,
            Need::SupportedMask => self.supported_mask,
            Need::CoredumpSignal => self.coredump_signal,
            Need::CoredumpCode => self.coredump_code,
            _ => false,
        }
    }
}

impl Privileges {
    /// Tries the privileges out in child processes. Call it while the program has only one thread.
    ///
    /// `seccomp` is the caller's mode. If clone3 does not work, what depends on it is not tried.
    pub fn find(seccomp: u32, clone3_works: bool) -> Privileges {
        use crate::kit::process::answers;
        use caps::{CapSet, Capability};
        let has = |cap| caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false);
        let sys_admin = has(Capability::CAP_SYS_ADMIN);
        let all = caps::runtime::procfs_all_supported(None)
            .unwrap_or_else(|_| caps::runtime::thread_all_supported());
        let full = all.into_iter().all(has);
        let ptrace = answers(crate::kit::tracer::try_tracing);
        Privileges {
            euid: geteuid().as_raw(),
            root: geteuid() == Uid::from_raw(0) && full && in_initial_user_namespace() && has_no_securebits(),
            sys_admin,
            ordinary_user: geteuid() != Uid::from_raw(0)
                || answers(|| crate::kit::privilege::become_ordinary_user().is_ok()),
            checkpoint_restore: clone3_works && may_set_tid(),
            user_namespaces: answers(|| crate::kit::namespace::try_user_namespace().is_ok()),
            ordinary_user_namespaces: answers(|| {
                let ordinary = crate::kit::privilege::become_unprivileged();
                ordinary.and_then(|()| crate::kit::namespace::try_user_namespace()).is_ok()
            }),
            pid_namespaces: answers(|| crate::kit::namespace::try_pid_namespace().is_ok()),
            ptrace,
            // A process that can be traced has no tracer. Where tracing is not permitted, /proc shows whether
            // there is one.
            untraced: ptrace
                || answers(|| crate::procfs::status_field("self", "TracerPid").is_some_and(|pid| pid == "0")),
            no_new_privs: rustix::thread::no_new_privs().unwrap_or(false),
            seccomp,
        }
    }
}

/// Returns whether the kernel accepts the call's flags. No child is created: if they are accepted, the
/// address is rejected.
///
/// EPERM, EAGAIN and ENOMEM are returned after the check of the flags, so they too mean that the flags are
/// known.
fn is_known(call: &Clone3) -> bool {
    match call.clone().pidfd_address(NOWHERE).try_spawn(|| 0) {
        Err(Errno::EINVAL) => false,
        Err(_) => true,
        Ok(child) => {
            // A kernel that ignores the address created a child, which must not be left behind.
            let _ = child.clear_away();
            true
        }
    }
}

/// The kernel series that introduced clone3.
const CLONE3: &str = "5.3";

/// Returns whether the caller may choose the pids of its children. No child is created: pid 1 exists in every
/// pid namespace.
fn may_set_tid() -> bool {
    matches!(Clone3::fork().set_tid(&[1]).try_spawn(|| 0), Err(Errno::EEXIST))
}

/// Distinguishes a kernel without clone3 from a filter that rejects it. Runs in a child process, because a
/// filter may kill the caller.
fn clone3_state(release: &str, seccomp: u32) -> Clone3State {
    let plain = Clone3::fork().with(Flags::PIDFD).pidfd_address(NOWHERE);
    let ask = || match plain.try_spawn(|| 0) {
        Err(errno @ (Errno::ENOSYS | Errno::EPERM)) => errno as i32,
        _ => 0,
    };
    let answer = match crate::kit::process::ending_of(ask) {
        Some(ending) if ending == Status::exited(Errno::ENOSYS as i32) => {
            if Version::of(release).is_before(CLONE3) {
                return Clone3State::Missing;
            }
            "answers ENOSYS"
        }
        Some(ending) if ending == Status::exited(Errno::EPERM as i32) => "answers EPERM",
        Some(ending) if ending.term_signal() == Some(libc::SIGSYS) => "is answered with SIGSYS",
        // If not even fork succeeds, the test cases will report it.
        _ => return Clone3State::Works,
    };
    let filter = filter_name(seccomp);
    Clone3State::Blocked(format!("clone3 {answer} though Linux {release} has it: {filter} refuses it"))
}

/// Describes what may have rejected something that the kernel accepts.
fn filter_name(seccomp: u32) -> &'static str {
    if seccomp == 2 { "a seccomp filter" } else { "something in front of the kernel" }
}

/// Returns `uname -r`.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

impl Probe {
    /// Returns why the three flags may be missing although the kernel has them. A filter that knows only
    /// older flags rejects every newer one with EINVAL, as if the kernel did not know it.
    pub fn filter_on_flags(&self) -> Option<String> {
        let filtered = self.privileges.seccomp == 2 && !Version::of(&self.release).is_before(FLAGS_SINCE);
        filtered.then(|| {
            let (release, filter) = (&self.release, filter_name(self.privileges.seccomp));
            format!("clone3 answers EINVAL for the flags that Linux {release} has: {filter} may refuse unknown flags")
        })
    }
}

/// The first mainline series with the three flags.
const FLAGS_SINCE: &str = "7.1";

/// Returns a pidfd for the program itself, if one can be opened.
///
/// It stays open: on a kernel that kills at the close of any pidfd, a test case should detect that, rather
/// than the program die of it.
fn own_pidfd() -> Option<&'static Pidfd> {
    static OWN: OnceLock<Option<Pidfd>> = OnceLock::new();
    OWN.get_or_init(|| Pidfd::try_open(rustix::process::getpid().as_raw_nonzero().get()).ok()).as_ref()
}

/// Returns what PIDFD_GET_INFO can give, or `None` if there is no such ioctl.
fn info_features() -> Option<InfoMask> {
    let info = own_pidfd()?.info(InfoMask::COREDUMP | InfoMask::SUPPORTED_MASK).ok()?;
    if info.given().contains(InfoMask::SUPPORTED_MASK) {
        return Some(info.supported());
    }
    let mut found =
        info.given() & (InfoMask::PID | InfoMask::CREDS | InfoMask::CGROUPID | InfoMask::COREDUMP);
    if exit_info_of_a_dead_child().is_some() {
        found |= InfoMask::EXIT;
    }
    Some(found)
}

/// Checks on a dead child whether exit information is kept. Before SUPPORTED_MASK there is no other way to
/// find out.
fn exit_info_of_a_dead_child() -> Option<()> {
    let child = crate::kit::process::raw_fork().ok()?.unwrap_or_else(|| crate::clone3::exit_now(0));
    // The pid of a zombie is not reused.
    let pidfd = Pidfd::try_open(child);
    crate::wait::waitpid(child, libc::__WALL).ok()?;
    let info = pidfd.ok()?.info(InfoMask::EXIT).ok()?;
    info.given().contains(InfoMask::EXIT).then_some(())
}

/// Returns whether user id 0 has its traditional effects, and giving it up drops the capabilities: see capabilities(7), securebits.
fn has_no_securebits() -> bool {
    rustix::thread::capabilities_secure_bits().is_ok_and(|bits| bits.is_empty())
}

/// Returns whether the caller is in the initial user namespace. Its map of IDs does not tell, since another one can be given
/// the same map.
fn in_initial_user_namespace() -> bool {
    /// The inode number of the initial user namespace (PROC_USER_INIT_INO in the kernel).
    const INITIAL: u64 = 0xefff_fffd;
    match own_user_namespace() {
        Some(inode) => inode == INITIAL,
        // A kernel without user namespaces has only the initial one.
        None => crate::procfs::is_mounted(),
    }
}

/// Returns the inode number of the caller's user namespace; newer kernels tell it without `/proc`, too.
fn own_user_namespace() -> Option<u64> {
    let shown = rustix::fs::stat("/proc/self/ns/user").ok().map(|stat| stat.st_ino);
    shown.or_else(|| {
        let namespace = own_pidfd()?.namespace(Namespace::User).ok()?;
        Some(rustix::fs::fstat(namespace).ok()?.st_ino)
    })
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |there: bool| if there { "yes" } else { "no" };
        let Probe { features, privileges: may, .. } = self;
        writeln!(f, "kernel                       Linux {} {} {}", self.release, self.version, self.machine)?;
        let clone3 = match &self.clone3 {
            Clone3State::Works => "yes",
            Clone3State::Missing => "no",
            Clone3State::Blocked(reason) => reason,
        };
        writeln!(f, "clone3                       {clone3}")?;
        let found = Need::FEATURES.map(|feature| (feature.name(), features.has(feature)));
        let surroundings = [
            (Need::Root.name(), may.root),
            (Need::SysAdmin.name(), may.sys_admin),
            ("can become an ordinary user", may.ordinary_user),
            (Need::CheckpointRestore.name(), may.checkpoint_restore),
            (Need::UserNamespaces.name(), may.user_namespaces),
            ("unprivileged user namespaces", may.ordinary_user_namespaces),
            (Need::PidNamespace.name(), may.pid_namespaces),
            ("ptrace(2)", may.ptrace),
            ("not traced", may.untraced),
            ("no_new_privs already set", may.no_new_privs),
            ("seccomp filter", may.seccomp == 2),
            ("emulated CPU", self.emulated),
        ];
        for (name, there) in found.into_iter().chain(surroundings) {
            writeln!(f, "{name:28} {}", yes(there))?;
        }
        write!(f, "{:28} {}", "effective uid", may.euid)
    }
}
