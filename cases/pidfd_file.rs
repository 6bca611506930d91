//! The auto-kill pidfd as a file: its flags, its inode, and everything that it can do like any pidfd.

use std::os::fd::AsRawFd;

use clone3_conformance::abi::{AUTOKILL_MARK, Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::process::spawn_once_free;
use clone3_conformance::kit::{AutokillChild, Channel, Echo, Gate, Held, fds};
use clone3_conformance::pidfd::{Pidfd, fdinfo};
use clone3_conformance::wait::{self, Status, Who};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::sys::stat::fstat;

case! {
    /// In all other respects an auto-kill pidfd is an ordinary one: pidfd_send_signal, pidfd_getfd, setns, waitid(P_PIDFD), poll
    /// and O_NONBLOCK work on it, and it can be closed after the child has died of a signal sent through it.
    autokill_fd_as_ordinary_pidfd: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, SysAdmin],
    source "pidfd_open(2), on what a pidfd can be used for",
}
fn autokill_fd_as_ordinary_pidfd() -> Result {
    let call = Clone3::new(Flags::KILLED_NNP | Flags::CLONE_NEWNS);
    let child = Held::exiting_with(&call, 0)?;
    let pidfd = child.pidfd()?;
    check::succeeds("pidfd_send_signal(0)", pidfd.send_raw_signal(0))?;
    child.observe()?.getfd_of_child(0).context("control: an ordinary pidfd")?;
    check::succeeds("pidfd_getfd", pidfd.getfd(0))?;
    check::succeeds("setns(CLONE_NEWNS)", setns(pidfd, CloneFlags::CLONE_NEWNS))?;
    check::equal("poll", pidfd.poll_now(PollFlags::POLLIN)?, PollFlags::empty())?;
    let waitid = |options| wait::waitid(Who::pidfd(pidfd), libc::WEXITED | libc::__WALL | options);
    check::equal("waitid(P_PIDFD, WNOHANG)", waitid(libc::WNOHANG), Ok(None))?;
    pidfd.set_status_flags(OFlag::O_NONBLOCK)?;
    check::equal("waitid(P_PIDFD) with O_NONBLOCK", waitid(0), Err(Errno::EAGAIN))?;
    check::succeeds("pidfd_send_signal(SIGTERM)", pidfd.send_signal(Signal::SIGTERM))?;
    pidfd.reaped_with(Status::killed(Signal::SIGTERM))?;
    check::equal("waitid(P_PIDFD) of the reaped child", waitid(0), Err(Errno::ECHILD))?;
    child.into_child().close_pidfd()
}

case! {
    /// An auto-kill pidfd and one from pidfd_open have the same inode, but are two open file descriptions; a dup shares the
    /// description of the original.
    autokill_same_inode: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"only the specific struct file from clone3() has this property\")",
}
fn autokill_same_inode() -> Result {
    let child = AutokillChild::new()?;
    let (own, plain) = (child.pidfd()?, child.observer());
    let inode = |fd: &Pidfd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    check::equal("(st_dev, st_ino) of clone3's pidfd and of pidfd_open's", inode(own)?, inode(plain)?)?;
    check::equal("whether a dup is one open file", fds::are_one_file(own, own.try_clone()?)?, true)?;
    check::equal("whether pidfd_open's is one open file with it", fds::are_one_file(own, plain)?, false)?;
    child.clear_away()
}

case! {
    /// F_GETFL of an auto-kill pidfd shows the kernel's mark, which is O_TRUNC, beside O_RDWR; so do the flags
    /// in fdinfo, and F_SETFL does not clear it. A pidfd without the flag shows O_RDWR alone.
    autokill_fcntl_getfl: Is, needs [Autoreap, Nnp, Autokill, Proc],
    source "fs/pidfs.c, which keeps PIDFD_AUTOKILL (O_TRUNC) in f_flags",
}
fn autokill_fcntl_getfl() -> Result {
    for (flags, expected) in
        [(Flags::REAPED, libc::O_RDWR), (Flags::KILLED_NNP, libc::O_RDWR | AUTOKILL_MARK)]
    {
        let child = Held::exiting_with(&Clone3::new(flags), 0)?;
        let pidfd = child.pidfd()?;
        let named = OFlag::from_bits_retain;
        let (shown, wanted) = (named(pidfd.status_flags()?), named(expected));
        check::equal(format_args!("F_GETFL of the pidfd of {flags}"), shown, wanted)?;
        let text = fdinfo(pidfd.as_raw_fd())?;
        let shown = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default().trim();
        let octal = format!("0{:o}", expected | libc::O_CLOEXEC);
        check::equal(format_args!("flags in fdinfo of the pidfd of {flags}"), shown, &octal)?;
        for set in [OFlag::O_NONBLOCK, OFlag::empty()] {
            pidfd.set_status_flags(set)?;
            let what = format!("F_GETFL of the pidfd of {flags} after F_SETFL({set:?})");
            check::equal(what, named(pidfd.status_flags()?), wanted | set)?;
        }
        child.into_child().clear_away()?;
    }
    Ok(())
}

case! {
    /// No fcntl disarms an auto-kill pidfd, nor FIONBIO: not F_SETFL with no flags, with O_NONBLOCK or with O_ASYNC, and not F_SETSIG,
    /// which does not choose the signal that kills either.
    autokill_fcntl_cannot_disarm: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fs/fcntl.c SETFL_MASK; LKML, Christian Brauner 2026-02-17 (\"kill-on-close contract cannot be flaunted\")",
}
fn autokill_fcntl_cannot_disarm() -> Result {
    for change in ["F_SETFL(0)", "F_SETFL(O_NONBLOCK)", "F_SETFL(O_ASYNC)", "F_SETSIG(SIGURG)", "FIONBIO"] {
        let mut child = AutokillChild::new()?;
        let pidfd = child.pidfd()?;
        match change {
            "FIONBIO" => rustix::io::ioctl_fionbio(pidfd, true)?,
            "F_SETFL(0)" => pidfd.set_status_flags(OFlag::empty())?,
            "F_SETFL(O_ASYNC)" => pidfd.set_status_flags(OFlag::O_ASYNC)?,
            // Ignored, unless there is a handler.
            "F_SETSIG(SIGURG)" => fds::ask_for_signal(pidfd, Signal::SIGURG)?,
            _ => pidfd.set_status_flags(OFlag::O_NONBLOCK)?,
        }
        child.lives(&format!("after {change} on its pidfd"))?;
        child.close()?;
        child.dies(&format!("after {change} on its pidfd and the last close of it"))?;
    }
    Ok(())
}

case! {
    /// F_SETFL with O_TRUNC, the mark of an auto-kill pidfd, does not arm a plain pidfd: the flag is ignored, and
    /// the close does not kill.
    autokill_fcntl_cannot_arm: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fs/fcntl.c SETFL_MASK; fs/pidfs.c pidfs_export_open() (\"only be done at task creation\")",
}
fn autokill_fcntl_cannot_arm() -> Result {
    AutokillChild::control()?;
    let mut child = Echo::spawn(&Clone3::new(Flags::REAPED))?;
    let opened = child.observe()?;
    for pidfd in [child.take_pidfd()?, opened] {
        pidfd.set_status_flags(OFlag::O_TRUNC)?;
        check::equal(format_args!("mark on {pidfd} in F_GETFL"), pidfd.status_flags()? & AUTOKILL_MARK, 0)?;
        pidfd.close()?;
        child.is_alive("after F_SETFL(O_TRUNC) on a plain pidfd and its close")?;
    }
    child.into_child().clear_away()
}

case! {
    /// After an auto-kill, PIDFD_GET_INFO through another pidfd gives exit information, SIGKILL without a core
    /// dump, and nothing about a core dump although it was asked for.
    autokill_info_after_kill: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, CoredumpMask, SupportedMask],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; include/uapi/linux/pidfd.h, PIDFD_INFO_EXIT; fs/pidfs.c pidfs_exit(), pidfd_info()",
}
fn autokill_info_after_kill() -> Result {
    let mut child = AutokillChild::new()?;
    child.close()?;
    child.dies("after the last close of its pidfd")?;
    let about_dumps = InfoMask::COREDUMP | InfoMask::COREDUMP_SIGNAL | InfoMask::COREDUMP_CODE;
    for request in [InfoMask::EXIT, InfoMask::EXIT | InfoMask::SUPPORTED_MASK] {
        let what = format!("PIDFD_GET_INFO({request}|COREDUMP…) after the kill");
        let info = check::succeeds(&what, child.observer().info(request | about_dumps))?;
        // A kernel without cgroups gives no CGROUPID.
        check::equal(
            format_args!("{what}: mask but for CGROUPID"),
            info.given() - InfoMask::CGROUPID,
            request,
        )?;
        check::equal("exit_code", Status(info.exit_code), Status::SIGKILLED)?;
    }
    Ok(())
}

case! {
    /// Closing the pidfd of an auto-kill child that has exited changes nothing: the close succeeds and the exit
    /// code stays what it was.
    autokill_close_after_exit: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "include/uapi/linux/pidfd.h, PIDFD_INFO_EXIT; fs/pidfs.c pidfs_file_release(), which finds no task",
}
fn autokill_close_after_exit() -> Result {
    AutokillChild::control()?;
    let mut child = Held::exiting_with(&Clone3::new(Flags::KILLED_NNP), 7)?;
    let observer = child.observe()?;
    child.let_go()?;
    observer.reaped_with(Status::exited(7))?;
    child.close_pidfd()?;
    observer.reaped_with(Status::exited(7))
}

case! {
    /// Closing the pidfd of a dead auto-kill child does not kill the process that now has its pid.
    autokill_pid_reuse_safe: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, CheckpointRestore],
    source "pidfd_open(2): a pidfd refers to a process, not to a number; fs/pidfs.c",
}
fn autokill_pid_reuse_safe() -> Result {
    AutokillChild::control()?;
    let mut stale = AutokillChild::new()?;
    let pid = stale.pid();
    check::succeeds("pidfd_send_signal(SIGKILL)", stale.observer().send_signal(Signal::SIGKILL))?;
    stale.dies("of a SIGKILL that was sent")?;
    let (ready, gate) = (Channel::<()>::new()?, Gate::new()?);
    let heir = spawn_once_free(&Clone3::new(Flags::REAPED).set_tid(&[pid]), || {
        // Otherwise the close below would not be the last.
        let closed = stale.close().and_then(|()| ready.send(&()));
        gate.wait();
        if closed.is_ok() { 7 } else { 98 }
    })?;
    ready.recv_from(&heir)?;
    check::equal("pid of the process after set_tid", heir.pid(), pid)?;
    stale.close()?;
    gate.open()?;
    heir.is_gone_with(Status::exited(7)).context("the heir, after the last close of the dead process's pidfd")
}
