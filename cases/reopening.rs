//! Other open files of the same pidfs inode: they are not references to clone3's own pidfd.

use std::os::fd::{AsRawFd, OwnedFd};

use clone3_conformance::abi::{AUTOKILL_MARK, Flags};
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::handles::Handle;
use clone3_conformance::kit::process::own_pid;
use clone3_conformance::kit::processors::Lookout;
use clone3_conformance::kit::{AutokillChild, Held, namespace};
use clone3_conformance::need::rounds;
use clone3_conformance::pidfd::Pidfd;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// Reopens the file of one of our descriptors through /proc, if that is permitted: the inodes belong to root.
fn reopen(path: &str, flags: OFlag) -> Result<OwnedFd> {
    match open(path, flags | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::EACCES) => {
            Err(Failure::blocked("opening a pidfd through /proc fails with EACCES: needs root"))
        }
        opened => check::succeeds(format_args!("open({path}, {flags:?})"), opened),
    }
}

/// Returns the paths in /proc of one of our descriptors.
fn names(fd: &Pidfd) -> [String; 2] {
    let number = fd.as_raw_fd();
    [format!("/proc/self/fd/{number}"), format!("/proc/{}/fd/{number}", std::process::id())]
}

case! {
    /// An O_PATH descriptor of the pidfd's inode is another open file and does not keep the child alive.
    autokill_o_path_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"only the specific struct file from clone3() has this property\")",
}
fn autokill_o_path_does_not_hold() -> Result {
    let mut child = AutokillChild::new()?;
    let _path = reopen(&names(child.pidfd()?)[0], OFlag::O_PATH)?;
    child.close()?;
    child.dies("after the last close of its pidfd, with an O_PATH descriptor of it open")
}

case! {
    /// Opening the pidfd anew through /proc gives a second, plain pidfd: it can be used, it does not kill when
    /// it is closed, and it does not keep the child alive.
    autokill_proc_reopen: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"only the specific struct file from clone3() has this property\")",
}
fn autokill_proc_reopen() -> Result {
    for (name, flags) in [(0, OFlag::O_RDONLY), (1, OFlag::O_RDWR)] {
        let reopened = |pidfd: &Pidfd| reopen(&names(pidfd)[name], flags).map(Pidfd::from);
        AutokillChild::new()?.is_not_tied_to("a pidfd opened through /proc", reopened)?;
    }
    Ok(())
}

case! {
    /// Reopening an auto-kill pidfd with O_TRUNC, the flag that marks one, is EOPNOTSUPP, as is truncating it in any other way, and
    /// none of this kills.
    autokill_proc_reopen_o_trunc: Is, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "fs/pidfs.c pidfs_setattr(), fs/anon_inodes.c anon_inode_setattr()",
}
fn autokill_proc_reopen_o_trunc() -> Result {
    let mut child = AutokillChild::new()?;
    let name = names(child.pidfd()?)[0].clone();
    reopen(&name, OFlag::O_RDWR)?;
    let pidfd = child.pidfd()?;
    for (what, got) in [
        (
            "open(O_RDWR|O_TRUNC)",
            open(name.as_str(), OFlag::O_RDWR | OFlag::O_TRUNC, Mode::empty()).map(drop),
        ),
        ("truncate", nix::unistd::truncate(name.as_str(), 0)),
        ("ftruncate", nix::unistd::ftruncate(pidfd, 0)),
        ("fchmod", nix::sys::stat::fchmod(pidfd, Mode::S_IRUSR)),
        ("fchown", nix::unistd::fchown(pidfd, Some(nix::unistd::getuid()), None)),
    ] {
        check::refused(format_args!("{what} of the pidfd"), got, Errno::EOPNOTSUPP)?;
    }
    child.lives("after the refused calls")?;
    child.close()?;
    child.dies("after the last close of its pidfd")
}

case! {
    /// Opening the file handle of the pidfd, by way of any pidfd or of FD_PIDFS_ROOT, gives a plain pidfd: closing it does not kill
    /// the child, and it does not keep the child alive.
    autokill_handle_open_not_armed: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"open_by_handle_at() are distinct struct files\")",
}
fn autokill_handle_open_not_armed() -> Result {
    AutokillChild::new()?.is_not_tied_to("a pidfd opened by its handle", |pidfd| {
        Ok(Handle::of(pidfd)?.open(pidfd, 0)?.into())
    })?;
    AutokillChild::new()?.is_not_tied_to("a pidfd opened by its handle at FD_PIDFS_ROOT", |pidfd| {
        Ok(Handle::of(pidfd)?.open_at_root(0)?.into())
    })
}

case! {
    /// A file handle of a pidfd cannot be opened with O_TRUNC, which would be the mark of an auto-kill pidfd,
    /// nor with O_CREAT or O_PATH: EINVAL. O_RDWR, O_NONBLOCK and O_EXCL are accepted, and do not arm.
    autokill_handle_open_o_trunc_einval: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fs/pidfs.c VALID_FILE_HANDLE_OPEN_FLAGS (\"Make sure that we reject any nonsensical flags\")",
}
fn autokill_handle_open_o_trunc_einval() -> Result {
    let child = AutokillChild::new()?;
    let pidfd = child.pidfd()?;
    let handle = Handle::of(pidfd)?;
    for flags in [0, libc::O_RDWR, libc::O_NONBLOCK, libc::O_EXCL] {
        let opened =
            check::succeeds(format_args!("open_by_handle_at({flags:#x})"), handle.open(pidfd, flags))?;
        let mark = Pidfd::from(opened).status_flags()? & AUTOKILL_MARK;
        check::equal(format_args!("mark of an auto-kill pidfd, opened with {flags:#x}"), mark, 0)?;
    }
    for flags in [libc::O_TRUNC, libc::O_RDWR | libc::O_TRUNC, libc::O_CREAT, libc::O_PATH] {
        check::refused(
            format_args!("open_by_handle_at({flags:#x})"),
            handle.open(pidfd, flags),
            Errno::EINVAL,
        )?;
    }
    child.lives("after all that")?;
    child.clear_away()
}

case! {
    /// Opened with O_EXCL, the file handle of an auto-kill pidfd gives a thread's pidfd, whose F_GETFL shows the O_EXCL of
    /// PIDFD_THREAD. It is a plain one: closing it does not kill.
    autokill_handle_open_o_excl_thread: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fs/pidfs.c pidfs_export_open()", since "7.2",
}
fn autokill_handle_open_o_excl_thread() -> Result {
    let child = AutokillChild::new()?;
    let pidfd = child.pidfd()?;
    let handle = Handle::of(pidfd)?;
    for (flags, expected) in [(0, libc::O_RDWR), (libc::O_EXCL, libc::O_RDWR | libc::O_EXCL)] {
        let what = format!("open_by_handle_at({flags:#x})");
        let opened = Pidfd::from(check::succeeds(&what, handle.open(pidfd, flags))?);
        check::equal(format_args!("F_GETFL after {what}"), opened.status_flags()?, expected)?;
        opened.close()?;
        child.lives(&format!("after the close of what {what} gave"))?;
    }
    child.clear_away()
}

case! {
    /// Once the child is reaped, the file handle of its pidfd is stale: ESTALE.
    autokill_handle_dead_estale: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fs/pidfs.c pidfs_ino_get_pid(); open_by_handle_at(2)",
}
fn autokill_handle_dead_estale() -> Result {
    let mut child = AutokillChild::new()?;
    let handle = Handle::of(child.pidfd()?)?;
    check::succeeds("open_by_handle_at of a live child", handle.open(child.observer(), 0))?;
    child.close()?;
    child.dies("after the last close of its pidfd")?;
    let alive = Pidfd::open(own_pid())?;
    check::refused("open_by_handle_at of a dead child", handle.open(&alive, 0), Errno::ESTALE)?;
    let lookout = Lookout::take()?;
    for _ in rounds(3) {
        let child = Held::slow_to_release(&Clone3::new(Flags::REAPED), 0, lookout.there)?;
        let handle = Handle::of(child.pidfd()?)?;
        child.let_go()?;
        lookout.see_reaped(child.pidfd()?)?;
        check::refused("open_by_handle_at right after POLLHUP", handle.open(&alive, 0), Errno::ESTALE)?;
    }
    Ok(())
}

case! {
    /// From a pid namespace that does not contain the child, the file handle of its pidfd cannot be opened: ESTALE.
    autokill_handle_foreign_estale: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, PidNamespace],
    source "fs/pidfs.c pidfs_ino_get_pid() (\"Within our pid namespace hierarchy?\"); open_by_handle_at(2)",
}
fn autokill_handle_foreign_estale() -> Result {
    let child = AutokillChild::new()?;
    let handle = Handle::of(child.pidfd()?)?;
    check::succeeds("open_by_handle_at in the child's pid namespace", handle.open(child.observer(), 0))?;
    namespace::as_init(|| {
        let own = Pidfd::open(1)?;
        check::succeeds("open_by_handle_at of init's own handle", Handle::of(&own)?.open(&own, 0))?;
        check::refused("open_by_handle_at in another pid namespace", handle.open(&own, 0), Errno::ESTALE)
    })?;
    child.lives("after all that")?;
    child.clear_away()
}
