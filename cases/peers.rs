//! Pidfds of the processes at the other end of UNIX sockets, and of the senders of messages, which may be gone.

use std::os::fd::OwnedFd;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Address, Child, Clone3, Unmapped, is_cloexec, lowest_free_fd};
use clone3_conformance::kit::process::child_reporting;
use clone3_conformance::kit::{Held, fdpass, namespace, subject, threads};
use clone3_conformance::pidfd::{Pidfd, info};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, listen, recv, socketpair};

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
            ("a listener that another has made", connection_to_heir),
            ("a pair for packets", packets_of),
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

/// Likewise, for a child that listens on a socket on which its creator, from whom it has the socket, has listened before.
fn connection_to_heir(call: &Clone3) -> Result<(Held, OwnedFd)> {
    let listener = listener()?;
    let child = Held::prepared(call, 9, || Ok(listen(&listener, 1)?))?;
    Ok((child, UnixStream::connect_addr(&listener.local_addr()?)?.into()))
}

/// Returns a socket for packets of a pair that a child of this call has made, and the child.
fn packets_of(call: &Clone3) -> Result<(Held, OwnedFd)> {
    let (ours, theirs) = fdpass::pair()?;
    let child = Held::prepared(call, 9, || {
        let made = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        fdpass::send(&theirs, &made.0)
    })?;
    Ok((child, fdpass::receive(&ours)?))
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
    /// SO_PEERPIDFD whose number cannot be written fails with EFAULT, and leaves no descriptor behind and no number in use.
    pidfd_peer_at_bad_address: Must, needs [PidfdInfo],
    source "getsockopt(2), EFAULT; unix(7), SO_PEERPIDFD",
}
fn pidfd_peer_at_bad_address() -> Result {
    subject::each(|call| {
        let (child, socket) = pair_of(&call)?;
        let peer = check::succeeds("control: SO_PEERPIDFD", getsockopt(&socket, sockopt::PeerPidfd))?;
        drop(peer);
        for at in [Address::from(Unmapped::Nowhere), Address::from(Unmapped::Last), Address::read_only()] {
            let free = lowest_free_fd()?;
            let what = format!("SO_PEERPIDFD to {at:?}, of a child of {call}");
            check::refused(&what, fdpass::ask_for_peer_at(&socket, at), Errno::EFAULT)?;
            check::equal(format_args!("lowest free descriptor after {what}"), lowest_free_fd()?, free)?;
        }
        child.into_child().clear_away()
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

case! {
    /// SCM_CREDENTIALS of a message whose sender is gone, auto-reaped or not, still has the sender's pid.
    autoreap_credentials_of_dead_sender: Must, needs [Autoreap, ExitInfo],
    source "unix(7), SCM_CREDENTIALS, SO_PASSCRED (\"credentials of the sending process\")",
}
fn autoreap_credentials_of_dead_sender() -> Result {
    subject::each(|call| {
        let (ours, theirs) = fdpass::pair()?;
        setsockopt(&ours, sockopt::PassCred, &true)?;
        let child = call.spawn(|| if rustix::io::write(&theirs, b"m") == Ok(1) { 9 } else { 98 })?;
        ends_with_9(&call, &child)?;
        let what = format!("pid in SCM_CREDENTIALS of a message by a child of {call} that is gone");
        check::equal(what, fdpass::receive_senders_pid(&ours)?, Some(child.pid()))
    })
}

case! {
    /// A message with explicit credentials (SCM_CREDENTIALS, sent by root) comes with a pidfd of the process that they name, even if
    /// that is gone and never had a pidfd.
    pidfd_message_of_dead_with_credentials: Must, needs [ExitInfo, Root],
    source "unix(7), SCM_CREDENTIALS, SCM_PIDFD; net/core/scm.c __scm_send() (pidfs_register_pid())",
    since "6.17",
}
fn pidfd_message_of_dead_with_credentials() -> Result {
    for call in with_and_without_pidfd() {
        let (ours, theirs) = fdpass::pair()?;
        fdpass::ask_for_pidfds(&ours)?;
        let child = Held::exiting_with(&call, 9)?;
        fdpass::send_in_the_name_of(&theirs, child.pid())?;
        child.let_go()?;
        ends_with_9(&call, &child)?;
        let pidfd = Pidfd::from(fdpass::receive_pidfd(&ours)?);
        pidfd
            .reaped_with(Status::exited(9))
            .context(format_args!("of a child of {call}, named in a message"))?;
    }
    Ok(())
}

case! {
    /// A message that was sent before the connection was accepted comes with a pidfd of its sender, if the receiver asks for it on the
    /// accepted socket (SO_PASSPIDFD), even if the sender is gone.
    pidfd_message_sent_before_accept: Is, needs [ExitInfo],
    source "unix(7), SCM_PIDFD; net/unix/af_unix.c unix_maybe_add_creds()",
    since "6.17",
}
fn pidfd_message_sent_before_accept() -> Result {
    for call in with_and_without_pidfd() {
        let listener = listener()?;
        let address = listener.local_addr()?;
        let child = call.spawn(|| {
            let sent =
                UnixStream::connect_addr(&address).is_ok_and(|to| rustix::io::write(&to, b"m") == Ok(1));
            if sent { 9 } else { 98 }
        })?;
        ends_with_9(&call, &child)?;
        let socket = listener.accept()?.0;
        fdpass::ask_for_pidfds(&socket)?;
        let pidfd = Pidfd::from(fdpass::receive_pidfd(&socket)?);
        pidfd
            .reaped_with(Status::exited(9))
            .context(format_args!("of a child of {call}, which connected"))?;
    }
    Ok(())
}

/// Creates a child that has written this to a socket, and returns it with the other end, which asks for pidfds.
fn writer(call: &Clone3, bytes: &[u8]) -> Result<(Held, UnixStream)> {
    let (ours, theirs) = fdpass::pair()?;
    fdpass::ask_for_pidfds(&ours)?;
    let child = Held::prepared(call, 0, || Ok(rustix::io::write(&theirs, bytes).map(drop)?))?;
    Ok((child, ours))
}

case! {
    /// The pidfd of a message's sender needs no more room than its control message has (CMSG_LEN).
    pidfd_message_in_least_room: Must, needs [PidfdInfo],
    source "cmsg(3), CMSG_LEN and CMSG_SPACE; unix(7), SCM_PIDFD",
}
fn pidfd_message_in_least_room() -> Result {
    subject::each(|call| {
        let (child, ours) = writer(&call, b"m")?;
        let (_, pidfd) = fdpass::receive_with_pidfd(&ours, 1, fdpass::LEAST_ROOM)?;
        let sender = info(&Pidfd::from(pidfd), InfoMask::PID)?;
        check::equal(format_args!("pid of the sender, a child of {call}"), sender.pid, child.pid() as u32)?;
        child.into_child().clear_away()
    })
}

case! {
    /// The pidfd of a message's sender is close-on-exec, even if the receiver does not ask for that (MSG_CMSG_CLOEXEC), and so is that
    /// of SO_PEERPIDFD.
    pidfd_message_pidfd_is_cloexec: Must, needs [PidfdInfo],
    source "pidfd_open(2) (\"The close-on-exec flag is set on the file descriptor\"); net/core/scm.c scm_pidfd_recv()",
}
fn pidfd_message_pidfd_is_cloexec() -> Result {
    subject::each(|call| {
        let (child, ours) = writer(&call, b"m")?;
        let pidfds = [fdpass::receive_pidfd(&ours)?, getsockopt(&ours, sockopt::PeerPidfd)?];
        for (which, pidfd) in ["SCM_PIDFD", "SO_PEERPIDFD"].into_iter().zip(pidfds) {
            check::equal(format_args!("close-on-exec of {which}"), is_cloexec(pidfd)?, true)?;
        }
        child.into_child().clear_away()
    })
}

case! {
    /// A receiver in a pid namespace in which the sender has no number gets the sender's pidfd all the same: PIDFD_GET_INFO on it is
    /// EREMOTE there.
    pidfd_message_to_foreign_namespace: Must, needs [ExitInfo, PidNamespace],
    source "unix(7), SCM_PIDFD; fs/pidfs.c pidfd_info() (\"Restrict information retrieval\")",
    since "6.18",
}
fn pidfd_message_to_foreign_namespace() -> Result {
    subject::each(|call| {
        let (child, ours) = writer(&call, b"m")?;
        namespace::as_init(|| {
            let told = Pidfd::from(fdpass::receive_pidfd(&ours)?).info(InfoMask::PID).map(drop);
            let what = format!("PIDFD_GET_INFO on the pidfd of a sender outside, a child of {call}");
            check::refused(what, told, Errno::EREMOTE)
        })?;
        child.into_child().clear_away()
    })
}

case! {
    /// What a process writes to a stream socket comes with its pidfd as often as it is looked at (MSG_PEEK), and in however many parts it
    /// is received.
    pidfd_message_received_in_parts: Is, needs [PidfdInfo],
    source "unix(7), SCM_PIDFD; recv(2), MSG_PEEK; net/unix/af_unix.c unix_stream_read_generic(), unix_skb_to_scm()",
}
fn pidfd_message_received_in_parts() -> Result {
    subject::each(|call| {
        let (child, ours) = writer(&call, b"parts")?;
        for part in ["the first", "the second"] {
            recv(&ours, &mut [0_u8; 1], RecvFlags::PEEK)?;
            let (_, pidfd) = fdpass::receive_with_pidfd(&ours, 1, fdpass::ROOM)?;
            let told = info(&Pidfd::from(pidfd), InfoMask::PID)?;
            let what = format!("pid of the sender of {part} byte, a child of {call}");
            check::equal(what, told.pid, child.pid() as u32)?;
        }
        child.into_child().clear_away()
    })
}

case! {
    /// SO_PEERPIDFD on a socket that a thread other than the leader has made gives a pidfd of its process, auto-reaped or not.
    pidfd_peer_of_thread: Must, needs [PidfdInfo],
    source "unix(7), SO_PEERPIDFD, SO_PEERCRED, whose pid is that of the process; net/unix/af_unix.c prepare_peercred()",
}
fn pidfd_peer_of_thread() -> Result {
    subject::each(|call| {
        let (ours, theirs) = fdpass::pair()?;
        let child =
            Held::prepared(&call, 0, || threads::in_a_thread(|| fdpass::send(&theirs, &fdpass::pair()?.0)))?;
        let peer = getsockopt(&fdpass::receive(&ours)?, sockopt::PeerPidfd)?;
        let told = info(&Pidfd::from(peer), InfoMask::PID)?;
        let what = format!("pid and tgid of the maker of a socket, a thread of a child of {call}");
        check::equal(what, [told.pid, told.tgid], [child.pid() as u32; 2])?;
        child.into_child().clear_away()
    })
}

case! {
    /// What two processes write to one stream socket is received by two calls, each with the pidfd of its sender, even if there is room
    /// for all of it.
    pidfd_messages_of_two_senders: Is, needs [PidfdInfo],
    source "unix(7), SCM_PIDFD; net/unix/af_unix.c unix_stream_read_generic() (\"Never glue messages from different writers\")",
}
fn pidfd_messages_of_two_senders() -> Result {
    subject::each(|call| {
        let (ours, theirs) = fdpass::pair()?;
        fdpass::ask_for_pidfds(&ours)?;
        let write = || Ok(rustix::io::write(&theirs, b"m").map(drop)?);
        let senders = [Held::prepared(&call, 0, write)?, Held::prepared(&call, 0, write)?];
        for sender in &senders {
            let (bytes, pidfd) = fdpass::receive_with_pidfd(&ours, 16, fdpass::ROOM)?;
            let told = info(&Pidfd::from(pidfd), InfoMask::PID)?;
            let what = format!("bytes and sender of a message, by a child of {call}");
            check::equal(what, (bytes, told.pid), (1, sender.pid() as u32))?;
        }
        senders.into_iter().try_for_each(|sender| sender.into_child().clear_away())
    })
}
