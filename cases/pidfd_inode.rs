//! The file behind a pidfd: its inode, the inode's file handle, and its extended attributes.

use std::os::fd::AsRawFd;

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result, errno_of};
use clone3_conformance::clone3::{Clone3, park};
use clone3_conformance::kit::handles::Handle;
use clone3_conformance::kit::process::{own_pid, spawn_once_free};
use clone3_conformance::kit::{Held, namespace, subject};
use clone3_conformance::pidfd::{Pidfd, info};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr, fstat, fstatfs};

/// Returns the device and inode number.
fn inode(pidfd: &Pidfd) -> Result<(u64, u64)> {
    let stat = fstat(pidfd)?;
    Ok((stat.st_dev, stat.st_ino))
}

case! {
    /// The inode number of a pidfd stays the same when all pidfds of the process are closed and another one is opened.
    pidfd_inode_stays: Must, needs [],
    source "commit \"pidfd: add pidfs\" (\"unique inode number for each struct pid\"); kernel selftest pidfd_test",
    since "6.9",
}
fn pidfd_inode_stays() -> Result {
    subject::each_unrestricted(|call| {
        let mut child = Held::exiting_with(&call, 0)?;
        let first = inode(child.pidfd()?)?;
        child.close_pidfd()?;
        let second = child.observe()?;
        check::equal(format_args!("(st_dev, st_ino) of a child of {call}"), inode(&second)?, first)?;
        second.close()?;
        let third = child.observe()?;
        check::equal(format_args!("(st_dev, st_ino) of a child of {call}, again"), inode(&third)?, first)?;
        child.into_child().clear_away()
    })
}

case! {
    /// The pidfds of two processes have different inode numbers, even if each process is pid 1 in its pid namespace.
    pidfd_inode_differs: Must, needs [PidNamespace],
    source "commit \"pidfd: add pidfs\" (\"unique inode number for each struct pid\")",
    since "6.9",
}
fn pidfd_inode_differs() -> Result {
    subject::each(|call| {
        let init = call.with(Flags::CLONE_NEWPID);
        let (one, other) = (init.spawn(park)?, init.spawn(park)?);
        let (first, second) = (inode(one.pidfd()?)?, inode(other.pidfd()?)?);
        let same =
            format!("two children of {init}: expected two inodes, got (st_dev, st_ino) {first:?} of both");
        check::holds(first != second, same)?;
        one.clear_away()?;
        other.clear_away()
    })
}

case! {
    /// The pidfds of a process that is gone and of a later process with the same pid have different inode numbers, auto-reaped or
    /// not. The former keeps its exit information, and its file handle (ESTALE) does not open the latter.
    pidfd_inode_differs_for_reused_pid: Must, needs [ExitInfo, CheckpointRestore],
    source "commit \"pidfd: add pidfs\" (\"unique inode number for each struct pid\"); clone(2), set_tid",
}
fn pidfd_inode_differs_for_reused_pid() -> Result {
    subject::each(|call| {
        let first = Held::exiting_with(&call, 5)?;
        let (number, observer) = (first.pid(), first.observe()?);
        let (before, handle) = (inode(&observer)?, Handle::of(&observer)?);
        first.end(false)?;
        let second = spawn_once_free(&call.clone().set_tid(&[number]), park)?;
        check::equal("control: the number of the second child", second.pid(), number)?;
        let same = format!(
            "two processes with number {number}, one after the other: expected two inodes, got {before:?} of both"
        );
        check::holds(inode(second.pidfd()?)? != before, same)?;
        let what = format!("recorded exit status of a child of {call} while another has its number");
        check::equal(what, observer.recorded_exit_status()?, Status::exited(5))?;
        let opened = handle.open(second.pidfd()?, 0).map(drop);
        let what = format!("open_by_handle_at of a child of {call} while another has its number");
        check::refused(what, opened, Errno::ESTALE)?;
        second.clear_away()
    })
}

case! {
    /// fstatfs(2) on a pidfd gives the file system magic number PID_FS_MAGIC.
    pidfd_file_system_magic: Must, needs [],
    source "include/uapi/linux/magic.h (PID_FS_MAGIC); statfs(2)",
    since "6.9",
}
fn pidfd_file_system_magic() -> Result {
    const PID_FS_MAGIC: i64 = 0x5049_4446;
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        check::equal("f_type in fstatfs of a pidfd", fstatfs(child.pidfd()?)?.f_type, PID_FS_MAGIC)?;
        child.into_child().clear_away()
    })
}

case! {
    /// The link in /proc/PID/fd of a pidfd says `anon_inode:[pidfd]`, as it did when pidfds were anonymous inodes, and still does when
    /// the process is gone.
    pidfd_link_text: Is, needs [Proc],
    source "fs/pidfs.c pidfs_dname(), for lsof(8), which expects it",
}
fn pidfd_link_text() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let path = format!("/proc/self/fd/{}", child.pidfd()?.as_raw_fd());
        let is_as_ever = |whose: &str| {
            let link = std::fs::read_link(&path)?;
            let what = format!("link in /proc/self/fd of the pidfd of {whose}");
            check::equal(what, &*link.to_string_lossy(), "anon_inode:[pidfd]")
        };
        is_as_ever("a live child")?;
        child.let_go()?;
        // Pidfds of older kernels have no POLLHUP.
        if child.reaps_itself() {
            child.pidfd()?.wait_reaped()?;
        } else {
            wait::reap(child.pid())?;
        }
        is_as_ever("a child that is gone")
    })
}

case! {
    /// FS_IOC_GETVERSION on a pidfd gives the generation of its inode. Inode number and generation together are the same for every
    /// pidfd of a process, also when the process is gone, and differ from those of another live process.
    pidfd_generation: Must, needs [ExitInfo],
    source "commit \"pidfs: implement FS_IOC_GETVERSION\"; ioctl_fs(2)",
}
fn pidfd_generation() -> Result {
    subject::each(|call| {
        let (child, other) = (Held::exiting_with(&call, 0)?, Held::exiting_with(&call, 0)?);
        let first = inode_and_generation(child.pidfd()?, "clone3's pidfd")?;
        let again = inode_and_generation(&child.observe()?, "pidfd_open's pidfd")?;
        check::equal(format_args!("(st_ino, generation) of a child of {call}, again"), again, first)?;
        let second = inode_and_generation(other.pidfd()?, "the pidfd of another child")?;
        let same = format!(
            "two children of {call}: expected two identities, got (st_ino, generation) {first:?} of both"
        );
        check::holds(second != first, same)?;
        child.end(false)?;
        let late = inode_and_generation(child.pidfd()?, "the pidfd of a process that is gone")?;
        check::equal(format_args!("(st_ino, generation) of a child of {call} that is gone"), late, first)?;
        other.into_child().clear_away()
    })
}

/// Returns the inode number and the generation.
fn inode_and_generation(pidfd: &Pidfd, what: &str) -> Result<(u64, u32)> {
    let generation = check::succeeds(format_args!("ioctl(FS_IOC_GETVERSION) of {what}"), pidfd.generation())?;
    Ok((fstat(pidfd)?.st_ino, generation))
}

case! {
    /// The generation of a pidfd's inode is 0 where inode numbers have 64 bits: there the inode number alone tells processes apart.
    pidfd_generation_unused: Is, needs [ExitInfo],
    source "fs/pidfs.c pidfs_gen() (\"On 64 bit the generation number is 0\")",
}
fn pidfd_generation_unused() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        check::equal(
            format_args!("generation of the pidfd of a child of {call}"),
            child.pidfd()?.generation(),
            Ok(0),
        )?;
        child.into_child().clear_away()
    })
}

case! {
    /// fstat of a pidfd gives no file type (S_IFMT is 0), as it did when pidfds were anonymous inodes.
    pidfd_has_no_file_type: Is, needs [],
    source "fs/anon_inodes.c anon_inode_getattr() (\"masking off the format bits\"), which fs/pidfs.c uses",
}
fn pidfd_has_no_file_type() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let kind = fstat(child.pidfd()?)?.st_mode & libc::S_IFMT;
        check::equal(format_args!("st_mode & S_IFMT of the pidfd of a child of {call}"), kind, 0)?;
        child.into_child().clear_away()
    })
}

case! {
    /// An ordinary user can open a pidfd by its file handle, with O_NONBLOCK too, which F_GETFL then shows.
    pidfd_handle_ordinary_user: Must, needs [ExitInfo, Unprivileged],
    source "commit \"pidfs: implement file handle support\"; fs/pidfs.c pidfs_export_permission() (\"No further permission checks are needed\")",
}
fn pidfd_handle_ordinary_user() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let handle = Handle::of(child.pidfd()?)?;
        for flags in [0, libc::O_NONBLOCK] {
            let what = format!("open_by_handle_at({flags:#x}) by an ordinary user");
            let opened = Pidfd::from(check::succeeds(&what, handle.open(child.pidfd()?, flags))?);
            let shown = opened.status_flags()? & libc::O_NONBLOCK;
            check::equal(format_args!("O_NONBLOCK in F_GETFL after {what}"), shown, flags)?;
            let told = check::succeeds("PIDFD_GET_INFO on what was opened", opened.info(InfoMask::PID))?;
            check::equal("pid in PIDFD_GET_INFO on what was opened", told.pid, child.pid() as u32)?;
        }
        child.into_child().clear_away()
    })
}

case! {
    /// A file handle does not lead into a pid namespace that is neither the caller's own nor below it: the handle of a process in a
    /// sibling namespace at the same depth is stale (ESTALE). Auto-reaped or not.
    pidfd_handle_of_foreign_namespace: Must, needs [ExitInfo, PidNamespace],
    source "commit \"pidfs: implement file handle support\"; fs/pidfs.c pidfs_ino_get_pid() (pid_vnr())",
}
fn pidfd_handle_of_foreign_namespace() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call.with(Flags::CLONE_NEWPID), 0)?;
        let (pidfd, handle) = (child.pidfd()?, Handle::of(child.pidfd()?)?);
        let open = || handle.open(pidfd, 0).map(drop);
        check::succeeds("control: open_by_handle_at from the namespace above", open())?;
        namespace::as_init(|| {
            check::refused("open_by_handle_at from another namespace", open(), Errno::ESTALE)
        })?;
        child.into_child().clear_away()
    })
}

case! {
    /// The file handle of a living process's pidfd can be opened when no pidfd of the process is open any more, auto-reaped or not.
    pidfd_handle_outlives_pidfds: Must, needs [ExitInfo],
    source "open_by_handle_at(2); commit \"pidfs: implement file handle support\"; fs/pidfs.c pidfs_ino_get_pid()",
}
fn pidfd_handle_outlives_pidfds() -> Result {
    let own = Pidfd::open(own_pid())?;
    subject::each_unrestricted(|call| {
        let mut child = Held::exiting_with(&call, 0)?;
        let handle = Handle::of(child.pidfd()?)?;
        child.close_pidfd()?;
        let opened = handle.open(&own, 0);
        let what = format!("open_by_handle_at of a child of {call} of which no pidfd is open");
        let opened = Pidfd::from(check::succeeds(&what, opened)?);
        check::equal(
            format_args!("pid after {what}"),
            info(&opened, InfoMask::PID)?.pid,
            child.pid() as u32,
        )?;
        child.let_go()?;
        subject::ends_by_its_kind(&call, child.pid(), &opened, Status::exited(0))
    })
}

case! {
    /// name_to_handle_at(2) on a pidfd fails with EOVERFLOW if there is no room for the handle, and says how much it needs; that is
    /// enough.
    pidfd_handle_fits_its_size: Must, needs [ExitInfo],
    source "name_to_handle_at(2) (\"the call fails with the error EOVERFLOW and handle->handle_bytes is set to indicate the required size\")",
}
fn pidfd_handle_fits_its_size() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        Handle::of(child.pidfd()?)?;
        let (refused, size) = Handle::in_room_of(child.pidfd()?, 0);
        check::refused("name_to_handle_at with handle_bytes 0", refused, Errno::EOVERFLOW)?;
        let (fits, _) = Handle::in_room_of(child.pidfd()?, size);
        let what = format!("name_to_handle_at with the {size} bytes that it asked for, of a child of {call}");
        check::succeeds(what, fits)?;
        child.into_child().clear_away()
    })
}

case! {
    /// The pidfd of a process that is gone still has a file handle, but the handle is stale (ESTALE).
    pidfd_handle_of_dead: Is, needs [ExitInfo],
    source "fs/pidfs.c pidfs_encode_fh(), pidfs_ino_get_pid(); name_to_handle_at(2)",
}
fn pidfd_handle_of_dead() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        Handle::of(child.pidfd()?)?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        let handle = check::succeeds("name_to_handle_at of a dead process", Handle::try_of(child.pidfd()?))?;
        // The pid is freed a few instructions after POLLHUP, but open_by_handle_at looks for the task itself.
        let opened = handle.open(child.pidfd()?, 0).map(drop);
        check::refused("open_by_handle_at of a dead process", opened, Errno::ESTALE)
    })
}

/// Attribute that these cases set, and its value.
const NAME: &str = "trusted.clone3-conformance";
const VALUE: &str = "persona";

fn attribute(pidfd: &Pidfd) -> std::result::Result<String, Errno> {
    let mut value = [0; 16];
    let length = fgetxattr(pidfd, NAME, &mut value[..]);
    length
        .map(|length| String::from_utf8_lossy(&value[..length]).into_owned())
        .map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}

case! {
    /// A trusted extended attribute set on a pidfd is there on every other pidfd of the process, even if no pidfd was open in
    /// between.
    pidfd_xattr_lasts: Must, needs [ExitInfo, Root],
    source "commit \"pidfs: support xattrs on pidfds\"; kernel selftest pidfd_xattr_test, set_get_list_xattr_multiple and set_persistent",
    since "6.18",
}
fn pidfd_xattr_lasts() -> Result {
    subject::each_unrestricted(|call| {
        let (child, _) = with_attribute(&call)?;
        child.into_child().clear_away()
    })
}

case! {
    /// A trusted extended attribute of a pidfd is still there when the process is gone, beside its exit information, and others can still
    /// be set.
    pidfd_xattr_of_dead_process: Is, needs [ExitInfo, Root],
    source "fs/pidfs.c pidfs_xattr_get(), pidfs_free_pid()",
    since "6.18",
}
fn pidfd_xattr_of_dead_process() -> Result {
    subject::each_unrestricted(|call| {
        let (child, later) = with_attribute(&call)?;
        child.let_go()?;
        if !child.reaps_itself() {
            wait::reap(child.pid())?;
        }
        later.wait_reaped()?;
        check::equal("fgetxattr when the process is gone", attribute(&later), Ok(VALUE.to_owned()))?;
        let set = fsetxattr(&later, "trusted.late", b"", XattrFlags::CREATE).map_err(errno_of);
        check::succeeds("fsetxattr when the process is gone", set)?;
        later.reaped_with(Status::exited(0)).context("after another extended attribute was set")
    })
}

/// Creates a child whose attribute was set through a pidfd that is closed by now. Returns it with a pidfd that was opened
/// later and has the attribute.
fn with_attribute(call: &Clone3) -> Result<(Held, Pidfd)> {
    let mut child = Held::exiting_with(call, 0)?;
    // CREATE fails if the attribute exists already.
    let set = fsetxattr(child.pidfd()?, NAME, VALUE.as_bytes(), XattrFlags::CREATE);
    check::succeeds(format_args!("fsetxattr({NAME}) on a pidfd"), set.map_err(errno_of))?;
    child.close_pidfd()?;
    let later = child.observe()?;
    check::equal("fgetxattr on a pidfd opened later", attribute(&later), Ok(VALUE.to_owned()))?;
    Ok((child, later))
}
