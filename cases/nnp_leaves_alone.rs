//! What a process with no_new_privs may do like any other, what it may do because of it, and what it still may not do.

use std::sync::mpsc;

use caps::{CapSet, Capability};
use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Named, Result, errno_of};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::outcome::{
    Outcome, allowed_as_ever, outcome_in_child, outcome_in_child_of, outcome_in_nnp_children,
};
use clone3_conformance::kit::privilege::{self, Caps};
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::sandboxing::{self, Landlock};
use clone3_conformance::kit::{Held, Place, fdpass, fds, setuid, subject, threads};
use clone3_conformance::need::Setting;
use clone3_conformance::version::Version;
use clone3_conformance::wait::Status;
use clone3_conformance::{note, procfs};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Pid, Uid};
use rustix::fs::{MemfdFlags, Mode, memfd_create};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use rustix::thread::{CapabilitiesSecureBits, set_no_new_privs};

fn set_securebits() -> Result<Outcome> {
    Ok(rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_ROOT).map_err(check::errno_of))
}

fn set_groups() -> Result<Outcome> {
    Ok(nix::unistd::setgroups(&[Gid::from_raw(5)]))
}

/// Creates a mount that is attached nowhere and disappears with its descriptor.
fn mount_nowhere() -> Result<Outcome> {
    use rustix::mount::{fsconfig_create, fsmount, fsopen};
    let mount = || {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(drop)
    };
    Ok(mount().map_err(check::errno_of))
}

fn drop_from_bounding_set() -> Result<Outcome> {
    Ok(caps::drop(None, CapSet::Bounding, Capability::CAP_SYS_BOOT).map_err(|_| Errno::last()))
}

fn make_device() -> Result<Outcome> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let place = Place::new()?;
    Ok(mknod(&place.path().join("null"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)))
}

/// Gives a file capabilities, as setcap(8) does.
fn give_file_capabilities() -> Result<Outcome> {
    let file = memfd_create("program", MemfdFlags::CLOEXEC)?;
    Ok(setuid::give_capabilities(file, &[Capability::CAP_CHOWN]))
}

case! {
    /// A CLONE_NNP child of root can use its capabilities like an ordinary child: set securebits, change its groups, mount, drop
    /// capabilities from its bounding set, make a device file, and give a file capabilities.
    nnp_uses_capabilities: Must, needs [Nnp, Root],
    source "Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn nnp_uses_capabilities() -> Result {
    allowed_as_ever("prctl(PR_SET_SECUREBITS)", set_securebits)?;
    allowed_as_ever("setgroups", set_groups)?;
    allowed_as_ever("fsmount", mount_nowhere)?;
    allowed_as_ever("prctl(PR_CAPBSET_DROP)", drop_from_bounding_set)?;
    allowed_as_ever("mknod of a device", make_device)?;
    allowed_as_ever("setxattr(security.capability)", give_file_capabilities)
}

fn seize_own_child() -> Result<Outcome> {
    let child = Held::exiting_with(&Clone3::fork(), 0)?;
    let seized = ptrace::seize(Pid::from_raw(child.pid()), Options::empty());
    child.into_child().clear_away()?;
    Ok(seized)
}

case! {
    /// A CLONE_NNP child may trace a child of its own, as an ordinary one may.
    nnp_traces: Must, needs [Nnp, Ptrace],
    source "Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented; ptrace(2)",
}
fn nnp_traces() -> Result {
    allowed_as_ever("ptrace(PTRACE_SEIZE) of a child", seize_own_child)
}

/// Returns what stays permitted, in a child of this call, when root becomes an ordinary user after PR_SET_KEEPCAPS.
fn kept_capabilities(call: &Clone3) -> Result<Caps> {
    let (child, kept) = child_reporting(call, || {
        rustix::thread::set_keep_capabilities(true)?;
        let user = Uid::from_raw(privilege::ORDINARY);
        nix::unistd::setresuid(user, user, user)?;
        Caps::own(CapSet::Permitted)
    })?;
    child.reap_expecting(Status::exited(0))?;
    Ok(kept)
}

case! {
    /// PR_SET_KEEPCAPS keeps the permitted capabilities of root's CLONE_NNP child when it gives up user id 0, as for an ordinary
    /// child.
    nnp_keepcaps: Must, needs [Nnp, Root],
    source "PR_SET_KEEPCAPS(2const); Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn nnp_keepcaps() -> Result {
    let ordinary = kept_capabilities(&Clone3::fork())?;
    check::holds(
        ordinary.contains(Capability::CAP_SYS_ADMIN),
        format_args!("control without CLONE_NNP: kept {ordinary:?}"),
    )?;
    let kept = kept_capabilities(&Clone3::fork().with(Flags::NNP))?;
    check::equal("CapPrm after setresuid with PR_SET_KEEPCAPS, with CLONE_NNP", kept, ordinary)
}

case! {
    /// no_new_privs does not allow chroot(2) without CAP_SYS_CHROOT (EPERM).
    nnp_chroot_needs_capability: Must, needs [Nnp, Root],
    source "chroot(2); commit \"clone: add CLONE_NNP\" grants nothing but what no_new_privs always did",
}
fn nnp_chroot_needs_capability() -> Result {
    check::permitted("chroot(\"/\") by root", outcome_in_child(|| Ok(nix::unistd::chroot("/")))?)?;
    let control = outcome_in_nnp_children(|| Ok(nix::unistd::chroot("/")))?;
    check::succeeds("control: chroot(\"/\") by root with CLONE_NNP", control)?;
    let refused = outcome_in_nnp_children(|| {
        privilege::become_ordinary_user()?;
        Ok(nix::unistd::chroot("/"))
    })?;
    check::refused("chroot(\"/\") by an ordinary user with CLONE_NNP", refused, Errno::EPERM)
}

/// A restriction: its name, the call, and the errno that an ordinary user without no_new_privs gets.
type Restriction = (&'static str, fn() -> Outcome, Errno);

fn restrict_all_threads() -> Outcome {
    Landlock::Execute.restrict_all_threads()
}

/// Restrictions that no_new_privs alone lets an ordinary user impose on itself. Not every kernel has all of them.
const RESTRICTIONS: [Restriction; 4] = [
    (
        "seccomp with SECCOMP_FILTER_FLAG_TSYNC",
        sandboxing::install_seccomp_filter_for_all_threads,
        Errno::EACCES,
    ),
    ("prctl(PR_SET_SECCOMP)", sandboxing::install_seccomp_filter_by_prctl, Errno::EACCES),
    ("landlock_restrict_self with LANDLOCK_RESTRICT_SELF_TSYNC", restrict_all_threads, Errno::EPERM),
    ("io_uring_register(-1, IORING_REGISTER_RESTRICTIONS)", sandboxing::restrict_own_rings, Errno::EACCES),
];

case! {
    /// An unprivileged CLONE_NNP child may use each of these restrictions that the kernel has: a seccomp filter for all its threads
    /// or through prctl, a Landlock domain for all its threads, and io_uring restrictions. Without the flag each is refused.
    nnp_unprivileged_restrictions: Must, needs [Nnp, Unprivileged, NotYetNnp],
    source "seccomp(2); PR_SET_SECCOMP(2const); landlock_restrict_self(2); io_uring_register(2); \
        commit \"clone: add CLONE_NNP\"",
}
fn nnp_unprivileged_restrictions() -> Result {
    let mut tried = 0;
    for (what, restrict, refusal) in RESTRICTIONS {
        let possible = outcome_in_child(|| {
            rustix::thread::set_no_new_privs(true)?;
            Ok(restrict())
        })?;
        if let Err(errno) = possible {
            note!(
                "{what}: not even with no_new_privs of one's own, {errno:?}: not in this kernel, or a filter"
            );
            continue;
        }
        let without = outcome_in_child(|| Ok(restrict()))?;
        check::refused(format_args!("control: {what} without CLONE_NNP"), without, refusal)?;
        let with = outcome_in_nnp_children(|| Ok(restrict()))?;
        check::succeeds(format_args!("{what} in a child with CLONE_NNP"), with)?;
        tried += 1;
    }
    match tried {
        0 => Err(Failure::blocked("an ordinary user can restrict himself in no way here")),
        _ => Ok(()),
    }
}

case! {
    /// An unprivileged CLONE_NNP child may give up its root directory for good (fchroot). Without the flag that is EPERM; while the
    /// child shares its root directory with its creator (CLONE_FS), which may lack no_new_privs, it is EINVAL.
    nnp_gives_up_root_directory: Must, needs [Nnp, Unprivileged, NotYetNnp, UserNamespaces],
    source "fs/open.c fchroot() (\"A shared fs_struct lets a sibling exec setuid past the check above\")",
    since "7.3",
}
fn nnp_gives_up_root_directory() -> Result {
    if !sandboxing::fchroot_exists() {
        let older = Version::of(&Setting::get().judged_as).is_before("7.3");
        let blames = if older { Failure::fail } else { Failure::blocked };
        return Err(blames("fchroot(2) of no descriptor is not EBADF: there is none, or a filter"));
    }
    let ways = [
        (Clone3::fork(), Some(Errno::EPERM)),
        (Clone3::fork().with(Flags::NNP | Flags::CLONE_FS), Some(Errno::EINVAL)),
    ];
    let allowed = subject::with_nnp().into_iter().map(|call| (call, None));
    for (call, expected) in ways.into_iter().chain(allowed) {
        // The child's creator is a separate process: with CLONE_FS it may lose its root directory with the child.
        let errno = in_child(|| {
            let outcome = outcome_in_child_of(&call, || Ok(sandboxing::give_up_root_directory()))?;
            Ok(outcome.err().map(|errno| errno as i32))
        })?;
        let what = format!("fchroot(FD_FAILFS_ROOT) in a child of {call} (None: it succeeds)");
        check::equal(what, errno.map(Errno::from_raw), expected)?;
    }
    Ok(())
}

case! {
    /// A CLONE_NNP child may make a file of its own set-user-ID and set-group-ID (chmod), like an ordinary child.
    nnp_sets_setid_bits: Must, needs [Nnp],
    source "chmod(2); Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn nnp_sets_setid_bits() -> Result {
    // Without execute permission: the kernel may forbid that for files in memory.
    const SET_ID: u32 = 0o6644;
    let mode = |call: &Clone3| {
        let file = memfd_create("set-id", MemfdFlags::CLOEXEC)?;
        let (child, mode) = child_reporting(call, || {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(SET_ID))?;
            Ok(rustix::fs::fstat(&file)?.st_mode & 0o7777)
        })?;
        child.ends_with(Status::exited(0))?;
        Ok::<_, Failure>(mode)
    };
    for call in [vec![Clone3::fork()], subject::with_nnp()].concat() {
        let what = format!("mode after chmod(06644) in a child of {call}");
        check::equal(what, format!("{:#o}", mode(&call)?), format!("{SET_ID:#o}"))?;
    }
    Ok(())
}

case! {
    /// An ordinary user without no_new_privs may read and lower the limits of a CLONE_NNP child of his (prlimit), like those of an
    /// ordinary child.
    nnp_limits_set_by_creator: Must, needs [Nnp, Unprivileged, NotYetNnp],
    source "prlimit(2), on permissions; kernel/sys.c check_prlimit_permission()",
}
fn nnp_limits_set_by_creator() -> Result {
    let lower = Rlimit { current: Some(7), ..getrlimit(Resource::Nofile) };
    let ordinary = Held::exiting_with(&Clone3::fork(), 0)?;
    let pid = rustix::process::Pid::from_raw(ordinary.pid());
    let set = prlimit(pid, Resource::Nofile, lower).map_err(errno_of);
    check::permitted("prlimit of an ordinary child", set)?;
    ordinary.into_child().clear_away()?;
    for call in subject::with_nnp() {
        let child = Held::exiting_with(&call, 0)?;
        let pid = rustix::process::Pid::from_raw(child.pid());
        let what = format!("prlimit of a child of {call}");
        check::succeeds(&what, prlimit(pid, Resource::Nofile, lower).map_err(errno_of))?;
        let now = check::succeeds(&what, prlimit(pid, Resource::Nofile, lower).map_err(errno_of))?;
        check::equal(format_args!("RLIMIT_NOFILE of a child of {call}"), now.current, lower.current)?;
        child.into_child().clear_away()?;
    }
    Ok(())
}

case! {
    /// A directory that a CLONE_NNP child makes in a set-group-ID directory is set-group-ID as well, as if an ordinary child made it.
    nnp_makes_setgid_directories: Must, needs [Nnp],
    source "mkdir(2), set-group-ID; inode(7), S_ISGID",
}
fn nnp_makes_setgid_directories() -> Result {
    const SET_GROUP_ID: u32 = 0o2000;
    let place = Place::new()?;
    rustix::fs::chmod(place.path(), Mode::from_raw_mode(SET_GROUP_ID | 0o700))?;
    for (number, call) in [vec![Clone3::fork()], subject::with_nnp()].concat().iter().enumerate() {
        let path = place.path().join(number.to_string());
        let (child, ()) = child_reporting(call, || Ok(rustix::fs::mkdir(&path, Mode::RWXU)?))?;
        child.ends_with(Status::exited(0))?;
        let mode = rustix::fs::stat(&path)?.st_mode & SET_GROUP_ID;
        let what = format!("S_ISGID of a directory that a child of {call} made");
        check::equal(what, format!("{mode:#o}"), format!("{SET_GROUP_ID:#o}"))?;
    }
    Ok(())
}

case! {
    /// A CLONE_NNP child gets the signal that it has chosen with F_SETSIG when input becomes possible (O_ASYNC), and not SIGIO.
    nnp_chooses_io_signal: Must, needs [Nnp],
    source "fcntl(2), F_SETSIG; fs/fcntl.c send_sigio_to_task()",
}
fn nnp_chooses_io_signal() -> Result {
    let (chosen, usual) = (Signal::SIGUSR1, Signal::SIGIO);
    let first_signal = || {
        let both = SigSet::from_iter([chosen, usual]);
        both.thread_block()?;
        let (here, there) = fdpass::pair()?;
        fds::ask_for_signal(&here, chosen)?;
        fcntl(&here, FcntlArg::F_SETFL(OFlag::O_ASYNC))?;
        rustix::io::write(&there, b"i")?;
        Ok(both.wait()? as i32)
    };
    for call in [vec![Clone3::fork()], subject::with_nnp()].concat() {
        let (child, signal) = child_reporting(&call, first_signal)?;
        child.ends_with(Status::exited(0))?;
        check::equal(format_args!("signal at input, in a child of {call}"), signal, chosen as i32)?;
    }
    Ok(())
}

case! {
    /// A CLONE_NNP child inherits the io_uring restrictions that its creator has set, like an ordinary child: it cannot set others.
    nnp_inherits_ring_restrictions: Must, needs [Nnp],
    source "io_uring_register(2), IORING_REGISTER_RESTRICTIONS; kernel/fork.c copy_process() (io_uring_fork())",
}
fn nnp_inherits_ring_restrictions() -> Result {
    in_child(|| {
        rustix::thread::set_no_new_privs(true)?;
        sandboxing::restrict_own_rings().map_err(|errno| {
            Failure::blocked(format!(
                "needs restrictions of a thread's rings (CONFIG_IO_URING): {}",
                Named(errno)
            ))
        })?;
        let again = || Ok(sandboxing::restrict_own_rings());
        let what = "IORING_REGISTER_RESTRICTIONS by a child whose creator has done it";
        check::refused(what, outcome_in_child(again)?, Errno::EPERM)?;
        check::refused(format_args!("{what}, with CLONE_NNP"), outcome_in_nnp_children(again)?, Errno::EPERM)
    })
}

case! {
    /// Whether an unprivileged thread may install a seccomp filter depends on its own no_new_privs, not its leader's: a thread that
    /// has it may, even if the leader lacks it; a thread that lacks it gets EACCES, even if the leader has it.
    abi_seccomp_filter_asks_calling_thread: Must, needs [Unprivileged, NotYetNnp],
    source "seccomp(2), SECCOMP_SET_MODE_FILTER (\"the thread must already have the no_new_privs bit set\")",
}
fn abi_seccomp_filter_asks_calling_thread() -> Result {
    sandboxing::seccomp_filters_exist()?;
    let install = sandboxing::install_seccomp_filter;
    let (leader_has_it, wait_for_it) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let late = scope.spawn(move || {
            // Returns once the leader drops the sender, also after a failure.
            let _ = wait_for_it.recv();
            install()
        });
        let by_thread = threads::in_a_thread(|| {
            check::refused("control: by a thread without no_new_privs", install(), Errno::EACCES)?;
            set_no_new_privs(true)?;
            Ok(install())
        })?;
        check::succeeds("a filter by a thread with no_new_privs, whose leader has it not", by_thread)?;
        check::refused("control: by that leader", install(), Errno::EACCES)?;
        set_no_new_privs(true)?;
        check::succeeds("control: by the leader, with no_new_privs", install())?;
        drop(leader_has_it);
        let by_other = late.join().map_err(|_| Failure::broken("a thread panicked"))?;
        check::refused("by a thread without no_new_privs, whose leader has it", by_other, Errno::EACCES)
    })
}

case! {
    /// A CLONE_NNP child has the seccomp filter that its privileged creator installed without no_new_privs, like an ordinary child.
    nnp_inherits_filter: Must, needs [Nnp, SysAdmin, NotYetNnp, Proc],
    source "seccomp(2) (\"if fork(2) or clone(2) is allowed by the filter, any child processes will be constrained to the same \
        system call filters as the parent\")",
}
fn nnp_inherits_filter() -> Result {
    sandboxing::seccomp_filters_exist()?;
    let filters = || {
        let filters = ["Seccomp", "Seccomp_filters"].map(|field| procfs::status_field("self", field));
        Ok(filters.to_vec())
    };
    in_child(|| {
        let before = filters()?;
        check::succeeds("a filter by CAP_SYS_ADMIN", sandboxing::install_seccomp_filter())?;
        let own = filters()?;
        check::holds(
            own != before,
            format_args!("control: {own:?} in /proc with one more filter, as before"),
        )?;
        for call in subject::with_nnp().into_iter().chain([Clone3::fork()]) {
            let (child, found) = child_reporting(&call, filters)?;
            child.ends_with(Status::exited(0))?;
            let what = format!("Seccomp and Seccomp_filters in /proc of a child of {call}");
            check::equal(what, found, own.clone())?;
        }
        Ok(())
    })
}

case! {
    /// A seccomp filter for all threads (SECCOMP_FILTER_FLAG_TSYNC) that a thread with no_new_privs installs gives the other
    /// threads no_new_privs, too, whether they had a filter before or not.
    abi_filter_for_all_threads_passes_nnp: Is, needs [SysAdmin, NotYetNnp, Proc],
    source "kernel/seccomp.c seccomp_sync_threads(); seccomp(2), SECCOMP_FILTER_FLAG_TSYNC",
}
fn abi_filter_for_all_threads_passes_nnp() -> Result {
    sandboxing::seccomp_filters_exist()?;
    for filtered_before in [false, true] {
        in_child(|| {
            if filtered_before {
                check::succeeds("a filter by CAP_SYS_ADMIN", sandboxing::install_seccomp_filter())?;
            }
            threads::in_a_thread(|| {
                set_no_new_privs(true)?;
                let leader = procfs::status_field("self", "NoNewPrivs");
                check::equal("control: NoNewPrivs of the leader before", leader.as_deref(), Some("0"))?;
                let got = sandboxing::install_seccomp_filter_for_all_threads();
                check::succeeds("a filter for all threads, by one with no_new_privs", got)
            })?;
            let what = format!("no_new_privs of a thread that had a filter before: {filtered_before}");
            check::equal(what, rustix::thread::no_new_privs()?, true)
        })?;
    }
    Ok(())
}
