//! Calls that take a reference to clone3's own pidfd and fail, or need it for a while: they give it back, neither more nor less.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result, errno_of};
use clone3_conformance::clone3::{Clone3, NOWHERE, lowest_free_fd, park};
use clone3_conformance::kit::process::{in_child, own_pid};
use clone3_conformance::kit::{
    AutokillChild, Gate, Held, aio, cgroup, fdpass, fds, limits, mapping, privilege, threads,
};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::socket::MsgFlags;
use nix::unistd::execveat;
use rustix::fs::{FlockOperation, MemfdFlags, Mode, OFlags, RawDir, flock, memfd_create};
use rustix::mount::{FsOpenFlags, fsconfig_set_fd, fsopen};
use rustix::process::Resource;

/// Checks that a call that fails leaves the references to a child's pidfd alone: the child lives on, and its last close kills it.
fn leaves_references(what: &str, call: impl FnOnce(&Pidfd) -> Result) -> Result {
    let mut child = AutokillChild::new()?;
    call(child.pidfd()?)?;
    child.lives(&format!("after {what}"))?;
    child.close()?;
    child.dies(&format!("after the last close of its pidfd, and before that {what}"))
}

case! {
    /// A copy of the pidfd that cannot be made because no descriptor is free (EMFILE from dup, F_DUPFD and F_DUPFD_CLOEXEC) is no
    /// reference to it.
    autokill_failed_copy_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\"); dup(2), fcntl(2) (EMFILE)",
}
fn autokill_failed_copy_does_not_hold() -> Result {
    type Copy = fn(&Pidfd) -> std::result::Result<OwnedFd, Errno>;
    let ways: [(&str, Copy); 3] = [
        ("dup", |pidfd| rustix::io::dup(pidfd).map_err(errno_of)),
        ("F_DUPFD", |pidfd| fds::dupfd(pidfd)),
        ("F_DUPFD_CLOEXEC", |pidfd| rustix::io::fcntl_dupfd_cloexec(pidfd, 0).map_err(errno_of)),
    ];
    for (call, copy) in ways {
        leaves_references(&format!("{call} of it failed"), |pidfd| {
            let copied = with_no_free_descriptor(|| copy(pidfd))?;
            check::refused(format_args!("{call} with no free descriptor"), copied, Errno::EMFILE)
        })?;
    }
    Ok(())
}

fn with_no_free_descriptor<T>(body: impl FnOnce() -> T) -> Result<T> {
    limits::lowered(Resource::Nofile, lowest_free_fd()? as u64, body)
}

case! {
    /// A copy of the pidfd that pidfd_getfd cannot make because no descriptor is free (EMFILE) is no reference to it.
    autokill_failed_getfd_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\"); pidfd_getfd(2) (EMFILE)",
}
fn autokill_failed_getfd_does_not_hold() -> Result {
    let own = Pidfd::open(own_pid())?;
    leaves_references("pidfd_getfd of it failed", |pidfd| {
        check::permitted("pidfd_getfd", own.getfd(pidfd.as_raw_fd()))?;
        let copied = with_no_free_descriptor(|| own.getfd(pidfd.as_raw_fd()))?;
        check::refused("pidfd_getfd with no free descriptor", copied, Errno::EMFILE)
    })
}

case! {
    /// A pidfd in a message that is not sent (EBADF for another descriptor in it, EAGAIN for a full buffer, EPERM if the receiver
    /// takes no descriptors) has no more references than before.
    autokill_failed_send_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\"); unix(7), SCM_RIGHTS; sendmsg(2)",
}
fn autokill_failed_send_does_not_hold() -> Result {
    let send = |socket: &UnixStream, fds: &[RawFd]| {
        fdpass::send_groups(socket, b"f", &[fds], MsgFlags::MSG_DONTWAIT)
    };
    leaves_references("a message with it and a closed descriptor was not sent", |pidfd| {
        let (here, _there) = fdpass::pair()?;
        let sent = send(&here, &[pidfd.as_raw_fd(), lowest_free_fd()?]);
        check::refused("sendmsg with a closed descriptor", sent, Errno::EBADF)
    })?;
    leaves_references("a message with it was not sent to a full socket", |pidfd| {
        let (here, _there) = fdpass::pair()?;
        while rustix::net::send(&here, &[0; 4096], rustix::net::SendFlags::DONTWAIT).is_ok() {}
        check::refused("sendmsg to a full socket", send(&here, &[pidfd.as_raw_fd()]), Errno::EAGAIN)
    })
}

case! {
    /// A pidfd in a message to a receiver that takes no descriptors (SO_PASSRIGHTS off: EPERM) has no more references than before.
    autokill_refused_send_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\"); commit \"af_unix: Introduce SO_PASSRIGHTS.\"",
}
fn autokill_refused_send_does_not_hold() -> Result {
    leaves_references("a message with it was refused by the receiver", |pidfd| {
        let (here, there) = fdpass::pair()?;
        fdpass::refuse_descriptors(&there)?;
        check::refused(
            "sendmsg to a socket without SO_PASSRIGHTS",
            fdpass::try_send(&here, pidfd),
            Errno::EPERM,
        )
    })
}

case! {
    /// A pidfd cannot be mapped (ENODEV), and the attempt is no reference to it.
    autokill_failed_map_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "mmap(2) (ENODEV); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_failed_map_does_not_hold() -> Result {
    leaves_references("an mmap of it failed", |pidfd| {
        check::refused("mmap of a pidfd", mapping::try_map(pidfd), Errno::ENODEV)
    })
}

case! {
    /// A pidfd cannot be read asynchronously (EINVAL from io_submit), and the attempt is no reference to it.
    autokill_failed_aio_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "io_submit(2); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_failed_aio_does_not_hold() -> Result {
    let file = memfd_create("readable", MemfdFlags::CLOEXEC)?;
    check::succeeds("control: io_submit of a read from a file in memory", aio::submit_read(&file)?)?;
    leaves_references("an io_submit for it failed", |pidfd| {
        check::refused("io_submit of a read from a pidfd", aio::submit_read(pidfd)?, Errno::EINVAL)
    })
}

case! {
    /// A filesystem that has no use for a pidfd refuses it (EINVAL from fsconfig(FSCONFIG_SET_FD)) and keeps no reference to it.
    autokill_failed_fsconfig_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Root],
    source "fsconfig(2); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_failed_fsconfig_does_not_hold() -> Result {
    let filesystem = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    leaves_references("fsconfig refused it", |pidfd| {
        let set = fsconfig_set_fd(&filesystem, "no such option", pidfd).map_err(errno_of);
        check::refused("fsconfig(FSCONFIG_SET_FD, a pidfd)", set, Errno::EINVAL)
    })
}

case! {
    /// Calls that are given the pidfd and fail are no references to it: pidfd_getfd of a descriptor that the child has not (EBADF),
    /// pidfd_send_signal of a signal that there is not (EINVAL), and clone3 with it as a cgroup (EBADF).
    autokill_refused_use_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\"); pidfd_getfd(2), pidfd_send_signal(2), clone(2)",
}
fn autokill_refused_use_does_not_hold() -> Result {
    leaves_references("pidfd_getfd failed", |pidfd| {
        pidfd.getfd_of_child(0).context("control")?;
        check::refused("pidfd_getfd of a closed descriptor", pidfd.getfd(i32::MAX), Errno::EBADF)
    })?;
    leaves_references("pidfd_send_signal failed", |pidfd| {
        check::refused("pidfd_send_signal(65)", pidfd.send_raw_signal(65), Errno::EINVAL)
    })?;
    cgroup::is_built_in()?;
    leaves_references("clone3 did not take it for a cgroup", |pidfd| {
        Clone3::fork().into_cgroup(pidfd).refused(Errno::EBADF)
    })
}

case! {
    /// A comparison of the pidfd with a descriptor of another process (kcmp(2), KCMP_FILE) is no reference to it.
    autokill_kcmp_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Ptrace],
    source "kcmp(2); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_kcmp_does_not_hold() -> Result {
    // Created before the pidfd, which it would otherwise inherit.
    let other = Held::exiting_with(&Clone3::fork(), 0)?;
    leaves_references("kcmp with a descriptor of another process", |pidfd| {
        let same = check::permitted("kcmp", fds::are_one_file_across(pidfd, other.pid(), 0))?;
        check::equal("whether the pidfd is the other's standard input", same, false)
    })?;
    other.into_child().clear_away()
}

case! {
    /// A lock on the pidfd (flock(2)) is no reference to it.
    autokill_flock_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "flock(2); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_flock_does_not_hold() -> Result {
    for lock in [FlockOperation::LockShared, FlockOperation::LockExclusive] {
        leaves_references(&format!("flock({lock:?}) of it"), |pidfd| Ok(flock(pidfd, lock)?))?;
    }
    Ok(())
}

case! {
    /// Listing the descriptors of its holder, even if the buffer is too small for all of them, is no reference to a pidfd.
    autokill_listed_descriptor_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "proc_pid_fd(5); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_listed_descriptor_does_not_hold() -> Result {
    leaves_references("its holder's descriptors were listed one by one", |_| {
        let list = rustix::fs::open("/proc/self/fd", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // An entry takes 24 bytes if its name has at most four, so that a second one does not fit.
        let mut space = [MaybeUninit::uninit(); 40];
        let mut entries = RawDir::new(list, &mut space);
        while entries.next().transpose()?.is_some() {}
        Ok(())
    })
}

case! {
    /// A clone3 that fails after the holder's descriptors have been copied (EFAULT for the address of a pidfd), and an unshare of
    /// the descriptors together with something that is not permitted (EPERM), leave no reference to a pidfd.
    autokill_failed_fork_does_not_hold: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\"); clone(2), unshare(2)",
}
fn autokill_failed_fork_does_not_hold() -> Result {
    leaves_references("a clone3 of its holder failed", |_| {
        Clone3::new(Flags::PIDFD).pidfd_address(NOWHERE).refused(Errno::EFAULT)
    })?;
    in_child(|| {
        privilege::drop_capabilities()?;
        leaves_references("an unshare of its holder failed", |_| {
            // A thread, because only a table that is shared is copied.
            threads::in_a_thread(|| {
                let unshared = unshare(CloneFlags::CLONE_FILES | CloneFlags::CLONE_NEWUTS);
                check::refused("unshare(CLONE_FILES|CLONE_NEWUTS)", unshared, Errno::EPERM)
            })
        })
    })
}

case! {
    /// An exec that fails, because the file has no known format (ENOEXEC), closes nothing: the child lives on, and its last close
    /// kills it.
    autokill_failed_exec_closes_nothing: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "execve(2) (ENOEXEC); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_failed_exec_closes_nothing() -> Result {
    let file = fds::executable_text(b"not a program\n")?;
    let mut child = AutokillChild::new()?;
    let failed = Gate::new()?;
    // The holder reports even if the exec has closed all that is close-on-exec.
    fds::keep_over_exec(failed.opening_end())?;
    let holder = Clone3::fork().with(Flags::PIDFD).spawn(|| {
        let executed = execveat(&file, c"", &[c"text"], &[] as &[&CStr], AtFlags::AT_EMPTY_PATH);
        let _ = failed.open();
        if executed == Err(Errno::ENOEXEC) { park() } else { 97 }
    })?;
    child.close()?;
    failed.wait_for(holder.pidfd()?)?;
    child.lives("with its pidfd in a process whose exec has failed")?;
    holder.kill(Signal::SIGKILL)?;
    holder.reap_expecting(Status::SIGKILLED)?;
    child.dies("after the end of a process whose exec had failed")
}
