//! Pidfds of zombies, and pidfds that are first requested when the process is gone.

use std::os::fd::OwnedFd;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::handles::Handle;
use clone3_conformance::kit::process::child_reporting;
use clone3_conformance::kit::tracer::Tracer;
use clone3_conformance::kit::{Cgroup, Held, fdpass, sigchld, subject, threads};
use clone3_conformance::need::Setting;
use clone3_conformance::pidfd::{Pidfd, info, pidfd_open};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};

fn ordinary() -> Clone3 {
    Clone3::fork().with(Flags::PIDFD)
}

fn zombie() -> Result<Child> {
    let child = ordinary().spawn(|| 5)?;
    wait::find_zombie(child.pid())?;
    Ok(child)
}

case! {
    /// A signal sent to a zombie through its pidfd succeeds and does nothing.
    pidfd_zombie_signal: Must, needs [],
    source "kill(2) and pidfd_send_signal(2): ESRCH only when the process has been waited for",
}
fn pidfd_zombie_signal() -> Result {
    let zombie = zombie()?;
    let pidfd = zombie.pidfd()?;
    check::succeeds("pidfd_send_signal(0) to a zombie", pidfd.send_raw_signal(0))?;
    check::succeeds("pidfd_send_signal(SIGKILL) to a zombie", pidfd.send_signal(Signal::SIGKILL))?;
    wait::reap_expecting(zombie.pid(), Status::exited(5))?;
    check::refused("pidfd_send_signal(0) afterwards", pidfd.send_raw_signal(0), Errno::ESRCH)
}

case! {
    /// pidfd_open opens a zombie, as a process and, since Linux 6.9, as a thread (PIDFD_THREAD), and is ESRCH once the zombie has
    /// been waited for.
    pidfd_open_zombie: Must, needs [],
    source "pidfd_open(2), on processes that have ended and have not been waited for; kernel/fork.c pidfd_prepare()",
}
fn pidfd_open_zombie() -> Result {
    let zombie = zombie()?;
    let mut calls = vec![("pidfd_open(0)", 0)];
    // A kernel with PIDFD_GET_INFO has the older PIDFD_THREAD, too.
    if Setting::get().probe.features.pidfd_info {
        calls.push(("pidfd_open(PIDFD_THREAD)", libc::PIDFD_THREAD));
    }
    for &(call, flags) in &calls {
        let opened = check::succeeds(format_args!("{call} of a zombie"), pidfd_open(zombie.pid(), flags))?;
        let events = opened.poll_now(PollFlags::POLLIN)?;
        check::equal(format_args!("poll on what {call} of a zombie gave"), events, PollFlags::POLLIN)?;
    }
    wait::reap_expecting(zombie.pid(), Status::exited(5))?;
    for (call, flags) in calls {
        check::refused(format_args!("{call} after the wait"), pidfd_open(zombie.pid(), flags), Errno::ESRCH)?;
    }
    Ok(())
}

case! {
    /// A pidfd that is opened when its process is a zombie, and is the first one of that process, has the exit information once the
    /// process has been reaped. So has that of an auto-reaped process that is its tracer's zombie.
    pidfd_opened_on_zombie_tells: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "include/uapi/linux/pidfd.h (PIDFD_INFO_EXIT); fs/pidfs.c pidfs_exit()",
}
fn pidfd_opened_on_zombie_tells() -> Result {
    sigchld::block()?;
    for call in subject::unrestricted() {
        let call = call.without(Flags::PIDFD);
        let child = Held::traceable(&call, 5)?;
        // The tracer is another process, so that the zombie is not the caller's.
        let tracer = Tracer::of(child.pid())?;
        child.let_go()?;
        tracer.find_zombie()?;
        let late = check::succeeds("pidfd_open of a zombie", pidfd_open(child.pid(), 0))?;
        tracer.reap()?;
        if !child.reaps_itself() {
            wait::reap_expecting(child.pid(), Status::exited(5))?;
        }
        late.reaped_with(Status::exited(5)).context(format_args!("of a child of {call}"))?;
        // That of an ordinary child.
        sigchld::take();
        tracer.dismiss()?;
    }
    Ok(())
}

case! {
    /// pidfd_getfd is ESRCH for a zombie, as for a process that is gone; for a live process it gives the descriptor.
    pidfd_getfd_zombie: Is, needs [PidfdInfo, Ptrace],
    source "kernel/pid.c pidfd_getfd(), __pidfd_fget() (\"In case 3 we get EBADF, but that really means ESRCH\")",
}
fn pidfd_getfd_zombie() -> Result {
    let child = Held::exiting_with(&ordinary(), 5)?;
    child.pidfd()?.getfd_of_child(0).context("control: of a live child")?;
    child.let_go()?;
    wait::find_zombie(child.pid())?;
    check::refused("pidfd_getfd from a zombie", child.pidfd()?.getfd(0), Errno::ESRCH)?;
    wait::reap_expecting(child.pid(), Status::exited(5))?;
    check::refused("pidfd_getfd after the wait", child.pidfd()?.getfd(0), Errno::ESRCH)
}

case! {
    /// fdinfo gives the pid of a zombie, and -1 once it has been waited for.
    pidfd_zombie_fdinfo: Must, needs [Proc],
    source "proc_pid_fdinfo(5) (\"-1: the process has been reaped\"); fs/pidfs.c pidfd_show_fdinfo()",
}
fn pidfd_zombie_fdinfo() -> Result {
    let zombie = zombie()?;
    check::equal("Pid in fdinfo of a zombie", zombie.pidfd()?.pid_in_fdinfo(), Some(zombie.pid()))?;
    wait::reap_expecting(zombie.pid(), Status::exited(5))?;
    check::equal("Pid in fdinfo after the wait", zombie.pidfd()?.pid_in_fdinfo(), Some(-1))
}

case! {
    /// The file handle of a zombie's pidfd can be opened.
    pidfd_zombie_handle: Is, needs [ExitInfo],
    source "fs/pidfs.c pidfs_ino_get_pid(); open_by_handle_at(2)",
}
fn pidfd_zombie_handle() -> Result {
    let zombie = zombie()?;
    let handle = Handle::of(zombie.pidfd()?)?;
    let opened = check::succeeds("open_by_handle_at of a zombie", handle.open(zombie.pidfd()?, 0))?;
    let told = info(&Pidfd::from(opened), InfoMask::PID)?;
    check::equal("pid of what was opened", told.pid, zombie.pid() as u32)?;
    wait::reap_expecting(zombie.pid(), Status::exited(5))
}

case! {
    /// PIDFD_GET_INFO gives the cgroup of a zombie: that in which it lived.
    pidfd_zombie_cgroup: Must, needs [PidfdInfo, Cgroup2],
    source "include/uapi/linux/pidfd.h (PIDFD_INFO_CGROUPID \"Always returned if available\"); cgroups(7), on zombies",
}
fn pidfd_zombie_cgroup() -> Result {
    // Its own, because the id of the root cgroup is always 1.
    let cgroup = Cgroup::create(&[])?;
    let call = ordinary().into_cgroup(cgroup.dir());
    let child = Held::exiting_with(&call, 5)?;
    let expected = (true, cgroup.id()?);
    let told = || -> Result<(bool, u64)> {
        let told = info(child.pidfd()?, InfoMask::CGROUPID)?;
        Ok((told.given().contains(InfoMask::CGROUPID), told.cgroupid))
    };
    check::equal(
        format_args!("control: CGROUPID bit and cgroupid of a live child of {call}"),
        told()?,
        expected,
    )?;
    child.let_go()?;
    wait::find_zombie(child.pid())?;
    check::equal(format_args!("CGROUPID bit and cgroupid of a zombie of {call}"), told()?, expected)?;
    wait::reap_expecting(child.pid(), Status::exited(5))?;
    cgroup.remove()
}

case! {
    /// The exit information of a process whose cgroup was removed while it was a zombie has the id of that cgroup.
    pidfd_info_exit_cgroup_removed_before_wait: Is, needs [ExitInfo, Cgroup2],
    source "fs/pidfs.c pidfs_exit(); include/uapi/linux/pidfd.h (PIDFD_INFO_CGROUPID \"Always returned if available\")",
}
fn pidfd_info_exit_cgroup_removed_before_wait() -> Result {
    let above = Cgroup::create(&[])?;
    let cgroup = above.create_below("removed")?;
    let id = cgroup.id()?;
    let child = ordinary().into_cgroup(cgroup.dir()).spawn(|| 5)?;
    wait::find_zombie(child.pid())?;
    cgroup.remove()?;
    wait::reap_expecting(child.pid(), Status::exited(5))?;
    let told = info(child.pidfd()?, InfoMask::EXIT | InfoMask::CGROUPID)?;
    check::equal(
        "cgroupid in the exit information of a process whose cgroup was removed",
        told.cgroupid,
        id,
    )?;
    above.remove()
}

/// Returns the calls that make children with a pidfd, and the same without.
fn with_and_without_pidfd() -> Vec<Clone3> {
    let with = subject::unrestricted();
    let without: Vec<Clone3> = with.iter().map(|call| call.clone().without(Flags::PIDFD)).collect();
    [with, without].concat()
}

/// Waits for the end of this child without using a pidfd.
#[track_caller]
fn ends_with_9(call: &Clone3, child: &Child) -> Result {
    let ended = wait::waitpid(child.pid(), libc::__WALL);
    let expected = match child.reaps_itself() {
        true => Err(Errno::ECHILD),
        false => Ok(Some((child.pid(), Status::exited(9)))),
    };
    check::equal(format_args!("waitpid of a child of {call}"), ended, expected)
}

case! {
    /// SO_PEERPIDFD on a socket that was made by a process that is gone, or that it connected to, or that was connected to the socket
    /// on which it listened, gives a pidfd with its exit information, as often as it is asked, even if the process never had a pidfd,
    /// or none was open when it ended.
    pidfd_peer_of_dead: Must, needs [ExitInfo],
    source "commit \"net, pidfs: prepare for handing out pidfds for reaped sk->sk_peer_pid\"; unix(7), SO_PEERPIDFD",
    since "6.16",
}
fn pidfd_peer_of_dead() -> Result {
    for call in with_and_without_pidfd() {
        let sockets = [
            ("a pair", pair_of as fn(&Clone3) -> _),
            ("a connection", connection_of),
            ("a listener", connection_to),
        ];
        for (how, socket_of) in sockets {
            let (mut child, socket) = socket_of(&call)?;
            if call.flags().contains(Flags::PIDFD) {
                child.close_pidfd()?;
            }
            child.let_go()?;
            ends_with_9(&call, &child)?;
            tells_of_dead_peer(&socket).context(format_args!("{how} of a child of {call}"))?;
        }
    }
    Ok(())
}

/// Returns a socket of a pair that a child of this call has made, who is the peer at both ends, and the child.
fn pair_of(call: &Clone3) -> Result<(Held, OwnedFd)> {
    let (ours, theirs) = fdpass::pair()?;
    let child = Held::prepared(call, 9, || fdpass::send(&theirs, &fdpass::pair()?.0))?;
    Ok((child, fdpass::receive(&ours)?))
}

/// Makes a listening socket whose name nobody has.
fn listener() -> Result<UnixListener> {
    // Without a name, the kernel chooses one.
    Ok(UnixListener::bind_addr(&SocketAddr::from_pathname("")?)?)
}

/// Returns a socket that is connected to the one on which a child of this call listens, and the child. The child connects to nothing
/// itself, which would register it with the kernel as a peer all the same.
fn connection_to(call: &Clone3) -> Result<(Held, OwnedFd)> {
    let (ours, theirs) = fdpass::pair()?;
    let child = Held::prepared(call, 9, || fdpass::send(&theirs, &listener()?))?;
    let listener = UnixListener::from(fdpass::receive(&ours)?);
    Ok((child, UnixStream::connect_addr(&listener.local_addr()?)?.into()))
}

/// Returns a socket to which a child of this call has connected, and the child.
fn connection_of(call: &Clone3) -> Result<(Held, OwnedFd)> {
    let listener = listener()?;
    let address = listener.local_addr()?;
    let child = Held::prepared(call, 9, || Ok(UnixStream::connect_addr(&address).map(drop)?))?;
    Ok((child, listener.accept()?.0.into()))
}

/// Checks the exit information of the peer of this socket, which exited with 9.
fn tells_of_dead_peer(socket: &OwnedFd) -> Result {
    let ask = |how: &str| -> Result {
        let what = format!("SO_PEERPIDFD when the peer is gone, {how}");
        let late = Pidfd::from(check::succeeds(&what, getsockopt(socket, sockopt::PeerPidfd))?);
        late.reaped_with(Status::exited(9)).context(what)
    };
    // The second pidfd is requested after the close of the first, which was the only one.
    ask("once")?;
    ask("again")?;
    subject::each(|asking| {
        let (asking, ()) = child_reporting(&asking, || ask("by another child"))?;
        asking.ends_with(Status::exited(0))
    })
}

case! {
    /// With SO_PASSPIDFD, a message that a thread other than the leader has sent comes with a pidfd of its process, auto-reaped or not.
    pidfd_message_of_thread: Must, needs [PidfdInfo],
    source "unix(7), SCM_PIDFD; SCM_CREDENTIALS, whose pid is that of the process",
}
fn pidfd_message_of_thread() -> Result {
    subject::each(|call| {
        let (ours, theirs) = fdpass::pair()?;
        fdpass::ask_for_pidfds(&ours)?;
        let child = Held::prepared(&call, 0, || {
            threads::in_a_thread(|| Ok(rustix::io::write(&theirs, b"m").map(drop)?))
        })?;
        let sender = info(&Pidfd::from(fdpass::receive_pidfd(&ours)?), InfoMask::PID)?;
        let what = format!("pid and tgid of the sender of a message, a thread of a child of {call}");
        check::equal(what, [sender.pid, sender.tgid], [child.pid() as u32; 2])?;
        child.into_child().clear_away()
    })
}

case! {
    /// With SO_PASSPIDFD, a message whose sender is gone comes with a pidfd that has the sender's exit information, even if the
    /// sender never had a pidfd.
    pidfd_message_of_dead: Must, needs [ExitInfo],
    source "commit \"af_unix: introduce and use scm_replace_pid() / stale pidfds\"; unix(7), SCM_PIDFD",
    since "6.17",
}
fn pidfd_message_of_dead() -> Result {
    for call in with_and_without_pidfd() {
        let (ours, theirs) = fdpass::pair()?;
        fdpass::ask_for_pidfds(&ours)?;
        let child = call.spawn(|| if rustix::io::write(&theirs, b"m") == Ok(1) { 9 } else { 98 })?;
        ends_with_9(&call, &child)?;
        let pidfd = Pidfd::from(fdpass::receive_pidfd(&ours)?);
        pidfd.reaped_with(Status::exited(9))?;
    }
    Ok(())
}
