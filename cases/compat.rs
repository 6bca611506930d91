//! What a 32-bit program on a 64-bit kernel gets: the same as a 64-bit one.

use clone3_conformance::abi::{AUTOKILL_MARK, Flags, InfoMask, PIDFD_INFO_SIZES};
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::park;
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::{AutokillChild, Held, compat, privilege, subject};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::procfs::status_field;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

case! {
    /// clone3 works the same for a 32-bit caller: an auto-kill child dies at the last close of its pidfd, and calls that are EINVAL
    /// for a 64-bit caller are EINVAL.
    abi_compat_i386: Is, needs [Autoreap, Nnp, Autokill],
    source "arch/x86/entry/syscalls/syscall_32.tbl (sys_clone3)",
}
fn abi_compat_i386() -> Result {
    compat::required()?;
    let made = compat::clone3(Flags::KILLED_NNP, 0, park)?;
    let (pid, pidfd) = check::succeeds("32-bit clone3", made)?;
    check::equal("F_GETFL of the pidfd", pidfd.status_flags()? & AUTOKILL_MARK, AUTOKILL_MARK)?;
    let observer = Pidfd::open(pid)?;
    check::succeeds("32-bit close", compat::close(pidfd))?;
    observer.wait_reaped()?;
    wait::no_child(pid)?;
    let signalling = compat::clone3(Flags::AUTOREAP, libc::SIGCHLD as u64, || 99)?;
    check::refused("32-bit clone3(CLONE_AUTOREAP, exit_signal SIGCHLD)", signalling, Errno::EINVAL)?;
    let unprotected = compat::clone3(Flags::AUTOKILL, 0, || 99)?;
    check::refused("32-bit clone3(CLONE_PIDFD_AUTOKILL) without CLONE_AUTOREAP", unprotected, Errno::EINVAL)
}

case! {
    /// A pidfd that a 32-bit process receives over a UNIX socket is the same auto-kill pidfd, and the only reference left.
    autokill_scm_compat_i386: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "net/compat.c scm_detach_fds_compat()",
}
fn autokill_scm_compat_i386() -> Result {
    compat::required()?;
    let (child, _here, there) = AutokillChild::in_flight()?;
    let received = compat::receive(&there)?;
    child.lives("with its pidfd received by a 32-bit recvmsg")?;
    Pidfd::from(received).close()?;
    child.dies("after the close of its pidfd, received by a 32-bit recvmsg")
}

case! {
    /// A child that a 32-bit caller makes with CLONE_NNP has no_new_privs.
    nnp_compat_i386: Is, needs [Nnp, NotYetNnp, Proc],
    source "arch/x86/entry/syscalls/syscall_32.tbl (sys_clone3); commit \"clone: add CLONE_NNP\"",
}
fn nnp_compat_i386() -> Result {
    compat::required()?;
    for (flags, expected) in [(Flags::empty(), "0"), (Flags::NNP, "1")] {
        let made = compat::clone3(flags, libc::SIGCHLD as u64, park)?;
        let (pid, _pidfd) = check::succeeds("32-bit clone3", made)?;
        let found = status_field(&pid.to_string(), "NoNewPrivs");
        check::equal(
            format_args!("NoNewPrivs of a child of a 32-bit clone3({flags})"),
            found.as_deref(),
            Some(expected),
        )?;
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        wait::reap_expecting(pid, Status::SIGKILLED)?;
    }
    Ok(())
}

case! {
    /// For a 32-bit caller, too, CLONE_PIDFD_AUTOKILL without CLONE_NNP requires CAP_SYS_ADMIN (EPERM).
    autokill_compat_i386_needs_cap: Is, needs [Autoreap, Nnp, Autokill],
    source "arch/x86/entry/syscalls/syscall_32.tbl (sys_clone3); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"",
}
fn autokill_compat_i386_needs_cap() -> Result {
    compat::required()?;
    in_child(|| {
        privilege::drop_capabilities()?;
        let made = compat::clone3(Flags::KILLED_NNP, 0, park)?;
        let (pid, pidfd) = check::succeeds("control: 32-bit clone3 with CLONE_NNP", made)?;
        let observer = Pidfd::open(pid)?;
        pidfd.close()?;
        observer.wait_reaped()?;
        let armed = compat::clone3(Flags::KILLED, 0, || 99)?;
        check::refused(
            "32-bit clone3(CLONE_PIDFD_AUTOKILL) without CLONE_NNP and without capabilities",
            armed,
            Errno::EPERM,
        )
    })
}

case! {
    /// PIDFD_GET_INFO returns the same to a 32-bit caller as to a 64-bit one, with a structure of any size published.
    pidfd_info_compat_i386: Is, needs [ExitInfo],
    source "fs/pidfs.c pidfs_file_operations (compat_ioctl)",
}
fn pidfd_info_compat_i386() -> Result {
    compat::required()?;
    subject::each(|call| {
        let child = Held::exiting_with(&call, 42)?;
        alike(child.pidfd()?, "alive")?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        alike(child.pidfd()?, "gone")
    })
}

#[track_caller]
fn alike(pidfd: &Pidfd, when: &str) -> Result {
    let request = InfoMask::EXIT | InfoMask::CGROUPID;
    let expected = check::succeeds("PIDFD_GET_INFO", pidfd.info(request))?;
    for size in PIDFD_INFO_SIZES {
        let what = format!("32-bit PIDFD_GET_INFO with {size} bytes of a child that is {when}");
        let found = check::succeeds(&what, compat::info(pidfd, request, size)?)?;
        // What was requested is in the smallest structure, too.
        check::equal(what, found, expected)?;
    }
    Ok(())
}
