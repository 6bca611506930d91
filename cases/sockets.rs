//! References to clone3's own pidfd: descriptors in flight over UNIX sockets, and pidfds of peers.

use std::mem::forget;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Clone3, park};
use clone3_conformance::kit::{AutokillChild, Channel, Gate, Held, fdpass, subject};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, getsockopt, sockopt};
use rustix::net::RecvFlags;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with};

case! {
    /// A pidfd in flight over a UNIX socket keeps the child alive, and is the same auto-kill pidfd when it is
    /// received: its close kills.
    autokill_scm_in_flight_holds: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "unix(7), SCM_RIGHTS; commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_scm_in_flight_holds() -> Result {
    let mut child = AutokillChild::new()?;
    let (here, there) = fdpass::pair()?;
    let flags = child.pidfd()?.status_flags()?;
    fdpass::send(&here, child.pidfd()?)?;
    child.close()?;
    child.lives("with its pidfd in flight")?;
    let received = Pidfd::from(fdpass::receive(&there)?);
    drop((here, there));
    check::equal("F_GETFL of what was received", received.status_flags()?, flags)?;
    child.lives("with its pidfd received")?;
    received.close()?;
    child.dies("after the close of the received pidfd")
}

case! {
    /// Closing the sockets between which the last reference is in flight kills the child, with streams and with
    /// datagrams; closing the sending end alone does not.
    autokill_scm_sockets_closed: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; unix(7), SCM_RIGHTS; net/unix/af_unix.c unix_release_sock(), which drops what was not received",
}
fn autokill_scm_sockets_closed() -> Result {
    for kind in ["stream", "datagram"] {
        let mut child = AutokillChild::new()?;
        let (sender, receiver): (OwnedFd, OwnedFd) = match kind {
            "stream" => fdpass::pair().map(|(one, other)| (one.into(), other.into()))?,
            _ => fdpass::datagram_pair().map(|(one, other)| (one.into(), other.into()))?,
        };
        fdpass::send(&sender, child.pidfd()?)?;
        child.close()?;
        drop(sender);
        child.lives(&format!("after the close of the sending {kind} socket"))?;
        drop(receiver);
        child.dies(&format!("after the close of the receiving {kind} socket"))?;
    }
    Ok(())
}

case! {
    /// A pidfd sent over a connection that nobody accepts keeps the child alive as long as the listening socket is open, and no
    /// longer.
    autokill_scm_connection_not_accepted: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "unix(7), SCM_RIGHTS; net/unix/af_unix.c unix_release_sock(), which releases the connections that were not accepted",
}
fn autokill_scm_connection_not_accepted() -> Result {
    let mut child = AutokillChild::new()?;
    let (listener, client) = fdpass::connection_not_accepted()?;
    fdpass::send(&client, child.pidfd()?)?;
    child.close()?;
    child.lives("with its pidfd in flight over a connection that was not accepted")?;
    drop(client);
    child.lives("after the close of the sending socket")?;
    drop(listener);
    child.dies("after the close of the listening socket")
}

case! {
    /// Receiving the data without the descriptor drops the reference and kills the child: with read(2), and
    /// with recvmsg(2) without a control buffer, which says MSG_CTRUNC.
    autokill_scm_dropped_on_receive: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "unix(7), on a truncated control message (\"closed in the receiving process\"); net/core/scm.c",
}
fn autokill_scm_dropped_on_receive() -> Result {
    for call in ["read", "recvmsg without a control buffer"] {
        let (child, _here, there) = AutokillChild::in_flight()?;
        match call {
            "read" => check::equal("bytes read", rustix::io::read(&there, &mut [0])?, 1)?,
            _ => check::equal("MSG_CTRUNC", fdpass::receive_without_room(&there)?, true)?,
        }
        child.dies(&format!("after {call} took the data that its pidfd was in flight with"))?;
    }
    Ok(())
}

case! {
    /// A message that is thrown away holds its pidfd no longer: disconnecting the datagram socket that it was sent to
    /// (connect(AF_UNSPEC)) kills the child, and so does splice(2), which takes the data without descriptors.
    autokill_scm_thrown_away: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "net/unix/af_unix.c unix_dgram_disconnected(), unix_stream_read_generic()",
}
fn autokill_scm_thrown_away() -> Result {
    let mut child = AutokillChild::new()?;
    let (here, there) = fdpass::datagram_pair()?;
    fdpass::send(&here, child.pidfd()?)?;
    child.close()?;
    child.lives("with its pidfd in flight to a datagram socket")?;
    rustix::net::connect_unspec(&there)?;
    child.dies("after the receiving datagram socket was disconnected")?;

    let (child, _here, there) = AutokillChild::in_flight()?;
    let (_read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let moved = rustix::pipe::splice(&there, None, &write, None, 1, SpliceFlags::empty())?;
    check::equal("bytes spliced", moved, 1)?;
    child.dies("after splice took the data that its pidfd was in flight with")
}

case! {
    /// A pidfd sent with an out-of-band byte keeps the child alive until a read skips that byte.
    autokill_scm_out_of_band: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "net/unix/af_unix.c manage_oob()",
}
fn autokill_scm_out_of_band() -> Result {
    let mut child = AutokillChild::new()?;
    let (here, there) = fdpass::pair()?;
    match fdpass::send_groups(&here, b"o", &[&[child.pidfd()?.as_raw_fd()]], MsgFlags::MSG_OOB) {
        Err(Errno::EOPNOTSUPP) => return Err(Failure::unsupported("the kernel has no CONFIG_AF_UNIX_OOB")),
        sent => check::succeeds("sendmsg(MSG_OOB)", sent)?,
    };
    rustix::io::write(&here, b"n")?;
    child.close()?;
    child.lives("with its pidfd in flight with an out-of-band byte")?;
    let mut byte = [0];
    rustix::io::read(&there, &mut byte)?;
    check::equal("the byte after the out-of-band byte", byte, *b"n")?;
    child.dies("after a read skipped the out-of-band byte that its pidfd was in flight with")
}

case! {
    /// The descriptors of several control messages of one call all arrive, and each is a reference.
    autokill_scm_several_messages: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "net/core/scm.c scm_fp_copy()",
}
fn autokill_scm_several_messages() -> Result {
    let mut child = AutokillChild::new()?;
    let (here, there) = fdpass::pair()?;
    let (pidfd, other) = (child.pidfd()?.as_raw_fd(), here.as_raw_fd());
    fdpass::send_groups(&here, b"f", &[&[pidfd], &[other, pidfd]], MsgFlags::empty())?;
    child.close()?;
    let mut received = fdpass::receive_all(&there, RecvFlags::CMSG_CLOEXEC)?;
    check::equal("descriptors that arrived", received.len(), 3)?;
    received.remove(1);
    while let Some(copy) = received.pop() {
        child.lives("with copies of its pidfd received")?;
        Pidfd::from(copy).close()?;
    }
    child.dies("after the close of all that was received")
}

case! {
    /// The first byte of several takes the descriptors with it: what is left in the queue does not hold the pidfd.
    autokill_scm_partly_read: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "unix(7), SCM_RIGHTS; net/unix/af_unix.c unix_stream_read_generic()",
}
fn autokill_scm_partly_read() -> Result {
    let mut child = AutokillChild::new()?;
    let (here, there) = fdpass::pair()?;
    fdpass::send_groups(&here, b"two", &[&[child.pidfd()?.as_raw_fd()]], MsgFlags::empty())?;
    child.close()?;
    let received = fdpass::receive(&there)?;
    child.lives("with its pidfd received")?;
    Pidfd::from(received).close()?;
    child.dies("after the close of the received pidfd, with a part of the data not read")?;
    check::equal("bytes of the rest", rustix::io::read(&there, &mut [0; 8])?, 2)
}

case! {
    /// A datagram that the receiver's filter (SO_ATTACH_FILTER) drops does not hold the pidfd.
    autokill_scm_filtered: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "net/unix/af_unix.c unix_dgram_sendmsg(), sk_filter()",
}
fn autokill_scm_filtered() -> Result {
    let mut child = AutokillChild::new()?;
    let (here, there) = fdpass::datagram_pair()?;
    fdpass::drop_what_arrives(&there)?;
    fdpass::send(&here, child.pidfd()?)?;
    child.lives("after its pidfd was sent in a datagram that a filter drops")?;
    child.close()?;
    child.dies("after the last close of its pidfd, a copy of which a filter dropped")
}

case! {
    /// A descriptor taken with MSG_PEEK is another reference: it keeps the child alive after the sockets with
    /// the message are gone.
    autokill_scm_peek_dup: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "net/unix/af_unix.c unix_peek_fds()",
}
fn autokill_scm_peek_dup() -> Result {
    let (child, here, there) = AutokillChild::in_flight()?;
    let peeked = fdpass::receive_with(&there, RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC)?;
    drop((here, there));
    child.lives("with only a descriptor taken by MSG_PEEK")?;
    Pidfd::from(peeked).close()?;
    child.dies("after the close of the descriptor taken by MSG_PEEK")
}

case! {
    /// A pidfd in flight in a cycle of sockets that nobody can reach any more keeps the child alive until the
    /// kernel's garbage collector for UNIX sockets finds the cycle, and not longer.
    autokill_scm_garbage_cycle: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "net/unix/garbage.c unix_gc()",
}
fn autokill_scm_garbage_cycle() -> Result {
    let mut child = AutokillChild::new()?;
    let (one, other) = fdpass::pair()?;
    fdpass::send(&one, child.pidfd()?)?;
    fdpass::send(&one, &other)?;
    fdpass::send(&other, &one)?;
    child.close()?;
    drop(one);
    child.lives("with its pidfd in flight in a cycle of sockets of which one is open")?;
    // From here on, any collection may find the cycle, whichever process triggers it.
    drop(other);
    fdpass::collect_garbage_until_reaped(child.observer())?;
    child.dies("after the collection of the unreachable cycle")
}

case! {
    /// A child that inherited the socket in which its own pidfd is in flight holds the reference itself, and is
    /// not killed when everybody else has closed everything.
    autokill_scm_self_hold_trap: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fork(2): the child gets copies of the parent's descriptors; unix(7), SCM_RIGHTS",
}
fn autokill_scm_self_hold_trap() -> Result {
    let alone_with_its_pidfd = |child: &mut AutokillChild, (here, there): (UnixStream, UnixStream)| {
        fdpass::send(&here, child.pidfd()?)?;
        child.close()?;
        drop((here, there));
        Ok::<_, Failure>(())
    };
    let mut control = AutokillChild::new()?;
    alone_with_its_pidfd(&mut control, fdpass::pair()?)?;
    control.dies("after the close of sockets that it did not inherit")?;

    let sockets = fdpass::pair()?;
    let mut child = AutokillChild::new()?;
    alone_with_its_pidfd(&mut child, sockets)?;
    child.lives("with its pidfd in flight in a socket of its own")?;
    child.clear_away()
}

/// Creates a child that is sent its own pidfd over a socket and holds the only reference. When the gate opens, it runs `act`,
/// sends the result through the channel, and exits with it.
fn holding_itself(act: fn(OwnedFd) -> i32) -> Result<(Pidfd, Gate, Channel<i32>)> {
    let (channel, gate) = (Channel::<i32>::new()?, Gate::new()?);
    let (here, there) = fdpass::pair()?;
    let mut child = Clone3::new(Flags::KILLED_NNP).spawn(|| {
        let Ok(own) = fdpass::receive(&there) else { return 1 };
        let _ = channel.send(&0);
        gate.wait();
        let code = act(own);
        let _ = channel.send(&code);
        code
    })?;
    let observer = child.observe()?;
    fdpass::send(&here, child.pidfd()?)?;
    channel.recv_from(&child)?;
    child.close_pidfd()?;
    Ok((observer, gate, channel))
}

case! {
    /// A child that was sent its own pidfd keeps itself alive. It ends as it likes, by exit or by a signal; its
    /// own last close kills it.
    autokill_child_holds_own_fd: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"the last reference to the struct file\")",
}
fn autokill_child_holds_own_fd() -> Result {
    let (child, gate, _) = holding_itself(|own| {
        forget(own);
        5
    })?;
    gate.open()?;
    child.reaped_with(Status::exited(5))?;

    let (child, gate, _) = holding_itself(|own| {
        forget(own);
        park()
    })?;
    gate.open()?;
    check::succeeds("pidfd_send_signal(SIGTERM)", child.send_signal(Signal::SIGTERM))?;
    child.reaped_with(Status::killed(Signal::SIGTERM))?;

    let (child, gate, _) = holding_itself(|own| {
        drop(own);
        park()
    })?;
    gate.open()?;
    child.reaped_with(Status::SIGKILLED).context("a child that has closed its own pidfd")?;
    wait::no_children()
}

case! {
    /// The close(2) by which a child drops the last reference to its own pidfd does not return: the kill comes first.
    autokill_own_close_does_not_return: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "fs/pidfs.c pidfs_file_release()",
}
fn autokill_own_close_does_not_return() -> Result {
    let (child, gate, said) = holding_itself(|own| {
        drop(own);
        6
    })?;
    gate.open()?;
    check::equal("what the child said after the last close of its pidfd", said.try_recv()?, None)?;
    child.reaped_with(Status::SIGKILLED)?;
    wait::no_children()
}

case! {
    /// A pidfd from SO_PEERPIDFD is a plain one: it has no mark, does not kill when it is closed and does not
    /// keep the child alive.
    autokill_so_peerpidfd_plain: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"only the specific struct file from clone3()\"); unix(7)",
}
fn autokill_so_peerpidfd_plain() -> Result {
    let (ours, theirs) = fdpass::pair()?;
    let child = AutokillChild::prepared(&Clone3::new(Flags::KILLED_NNP), || {
        // The process that creates a socket pair is the peer at both ends.
        let (made_by_child, _) = fdpass::pair()?;
        fdpass::send(&theirs, &made_by_child)
    })?;
    let socket = fdpass::receive(&ours)?;
    child.is_not_tied_to("a pidfd from SO_PEERPIDFD", |_| {
        Ok(Pidfd::from(getsockopt(&socket, sockopt::PeerPidfd)?))
    })
}

case! {
    /// SO_PEERCRED still has the pid of the process at the other end when that is gone, auto-reaped or not.
    autoreap_peercred_outlives_peer: Must, needs [Autoreap, ExitInfo],
    source "unix(7), SO_PEERCRED (\"The returned credentials are those that were in effect at the time of the call\")",
}
fn autoreap_peercred_outlives_peer() -> Result {
    subject::each(|call| {
        let (ours, theirs) = fdpass::pair()?;
        let child = Held::prepared(&call, 0, || {
            let (made_by_child, _) = fdpass::pair()?;
            fdpass::send(&theirs, &made_by_child)
        })?;
        let (socket, pid) = (fdpass::receive(&ours)?, child.pid());
        let peer = || getsockopt(&socket, sockopt::PeerCredentials).map(|peer| peer.pid());
        check::equal("control: pid of a living peer", peer(), Ok(pid))?;
        child.end(false)?;
        check::equal(format_args!("pid of a peer that is gone, a child of {call}"), peer(), Ok(pid))
    })
}

case! {
    /// A pidfd that comes with a message for SO_PASSPIDFD is a plain one: it has no mark, does not kill when it is closed and does
    /// not keep the child alive.
    autokill_scm_pidfd_plain: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"only the specific struct file from clone3()\"); unix(7), SCM_PIDFD",
}
fn autokill_scm_pidfd_plain() -> Result {
    let (ours, theirs) = fdpass::pair()?;
    fdpass::ask_for_pidfds(&ours)?;
    let child = AutokillChild::prepared(&Clone3::new(Flags::KILLED_NNP), || {
        // One message for each pidfd that is received.
        (0..2).try_for_each(|_| Ok(rustix::io::write(&theirs, b"m").map(drop)?))
    })?;
    child.is_not_tied_to("a pidfd from SCM_PIDFD", |_| fdpass::receive_pidfd(&ours).map(Pidfd::from))
}
