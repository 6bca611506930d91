//! Mounts as children made with the new flags have them: shared like those of an ordinary child, and moved like its own.

use std::fs;
use std::os::unix::fs::MetadataExt;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result, errno_of};
use clone3_conformance::kit::outcome::outcome_in_child_of;
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::{Actor, Place, namespace, subject};
use clone3_conformance::wait::Status;
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

case! {
    /// The mounts of a child in a new mount namespace (CLONE_NEWNS) are peers of its creator's shared ones, whichever of the new
    /// flags the child is made with: none of them makes the mounts slaves, or private.
    abi_mounts_stay_peers: Must, needs [Autoreap, Nnp, Autokill, SysAdmin, Proc],
    source "mount_namespaces(7) (\"Shared subtrees\"), on a mount namespace that is made by clone(2); proc_pid_mountinfo(5)",
}
fn abi_mounts_stay_peers() -> Result {
    in_child(|| {
        namespace::unshare_mounts()?;
        let shared = mount_change("/", MountPropagationFlags::SHARED).map_err(errno_of);
        check::permitted("mount with a change of propagation", shared)?;
        let group = root_propagation()?;
        if !group.starts_with("shared:") {
            return Err(Failure::blocked(format!("needs a shared mount at /, this one is {group:?}")));
        }
        subject::each(|call| {
            let call = call.with(Flags::CLONE_NEWNS);
            let (child, its) = child_reporting(&call, root_propagation)?;
            child.ends_with(Status::exited(0))?;
            check::equal(format_args!("propagation of the root mount in a child of {call}"), &its, &group)
        })
    })
}

/// Returns the optional fields of the topmost mount at the caller's root directory, such as `shared:1`.
fn root_propagation() -> Result<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let at_root = |line: &&str| line.split(' ').nth(4) == Some("/");
    let line = mounts.lines().rfind(at_root).ok_or_else(|| Failure::blocked("nothing is mounted at /"))?;
    let optional = line.split(' ').skip(6).take_while(|field| *field != "-");
    Ok(optional.collect::<Vec<_>>().join(" "))
}

case! {
    /// A child in a new mount namespace (CLONE_NEWNS) can unmount what its creator has mounted, whichever of the new flags the child is
    /// made with: only a new user namespace locks the mounts.
    abi_mounts_not_locked: Must, needs [Autoreap, Nnp, Autokill, SysAdmin],
    source "mount_namespaces(7), restrictions on mount namespaces (\"less privileged\"); umount(2)",
}
fn abi_mounts_not_locked() -> Result {
    let place = Place::new()?;
    in_child(|| {
        namespace::unshare_mounts()?;
        mount_tmpfs(&place.path().display().to_string())?;
        for call in subject::every_kind() {
            let call = call.with(Flags::CLONE_NEWNS);
            let unmounted = outcome_in_child_of(&call, || {
                Ok(unmount(place.path(), UnmountFlags::empty()).map_err(errno_of))
            })?;
            check::succeeds(format_args!("umount by a child of {call}"), unmounted)?;
        }
        Ok(())
    })
}

case! {
    /// What a child mounts is mounted with the flags that it asks for, whichever of the new flags the child is made with: CLONE_NNP does
    /// not make it nosuid, which would change it for every process in the mount namespace.
    abi_mounts_as_asked: Must, needs [Autoreap, Nnp, Autokill, SysAdmin],
    source "mount(2), MS_NOSUID; statvfs(3), ST_NOSUID; PR_SET_NO_NEW_PRIVS(2const), which restricts execve(2)",
}
fn abi_mounts_as_asked() -> Result {
    let place = Place::new()?;
    let at = place.path();
    in_child(|| {
        namespace::unshare_mounts()?;
        mount_tmpfs(&at.display().to_string())?;
        for call in subject::every_kind() {
            let call = call.with(Flags::CLONE_NEWNS);
            for (asked, expected) in
                [(MountFlags::empty(), false), (MountFlags::NOSUID, true), (MountFlags::NODEV, false)]
            {
                let (child, nosuid) = child_reporting(&call, || {
                    let mounted = mount("tmpfs", at, "tmpfs", asked, None).map_err(errno_of);
                    check::succeeds(format_args!("mount with {asked:?} by a child of {call}"), mounted)?;
                    Ok(statvfs(at)?.f_flag.contains(StatVfsMountFlags::NOSUID))
                })?;
                child.ends_with(Status::exited(0))?;
                let what = format!("nosuid of what a child of {call} has mounted with {asked:?}");
                check::equal(what, nosuid, expected)?;
            }
        }
        Ok(())
    })
}

/// Mounts a tmpfs there.
fn mount_tmpfs(at: &str) -> Result {
    fs::create_dir_all(at)?;
    let mounted = mount("tmpfs", at, "tmpfs", MountFlags::empty(), None).map_err(errno_of);
    check::permitted("mount of a tmpfs", mounted)
}

/// Returns the device number of the caller's root directory and of its working directory.
fn devices() -> Result<[u64; 2]> {
    Ok([fs::metadata("/")?.dev(), fs::metadata(".")?.dev()])
}

case! {
    /// pivot_root(2) by a process moves the root and the working directory of another process that has both at the old root, auto-reaped
    /// or not.
    autoreap_moved_by_pivot_root: Is, needs [Autoreap, SysAdmin],
    source "pivot_root(2), on other processes that use the old root; fs/fs_struct.c chroot_fs_refs()",
}
fn autoreap_moved_by_pivot_root() -> Result {
    let place = Place::new()?;
    subject::each(|call| {
        in_child(|| {
            namespace::unshare_mounts()?;
            // The root that the system started with cannot be exchanged, but one that is mounted can.
            mount_tmpfs(&place.path().display().to_string())?;
            check::permitted("chroot", nix::unistd::chroot(place.path()))?;
            std::env::set_current_dir("/")?;
            mount_tmpfs("/new")?;
            fs::create_dir("/new/old")?;
            let other = Actor::spawn(&call, |()| devices())?;
            check::permitted("pivot_root", nix::unistd::pivot_root("/new", "/new/old"))?;
            let what = format!("devices of root and working directory of a child of {call} after pivot_root");
            check::equal(what, other.ask(())?, devices()?)?;
            other.dismiss()
        })
    })
}
