//! Descriptors over UNIX sockets (`SCM_RIGHTS`).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use nix::poll::{PollFlags, PollTimeout};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::check::{Failure, Result};
use crate::pidfd::Pidfd;
use crate::sandbox;

/// Sends one descriptor, along with one byte.
pub fn send(socket: impl AsFd, fd: impl AsFd) -> Result {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Failure::broken("no room for a descriptor in a control message"));
    }
    sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one descriptor, close-on-exec.
pub fn receive(socket: impl AsFd) -> Result<OwnedFd> {
    receive_with(socket, RecvFlags::CMSG_CLOEXEC)
}

/// Receives one descriptor with these flags; `RecvFlags::PEEK` leaves the message where it is.
pub fn receive_with(socket: impl AsFd, flags: RecvFlags) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| Failure::broken("no descriptor came over the socket"))
}

/// A connected pair of stream sockets.
///
/// Make it *after* an auto-kill child: a child that inherits a socket in which its own pidfd is in flight keeps
/// itself alive.
pub fn pair() -> Result<(UnixStream, UnixStream)> {
    Ok(UnixStream::pair()?)
}

/// A connected pair of datagram sockets. Make it after an auto-kill child, as [`pair`].
pub fn datagram_pair() -> Result<(UnixDatagram, UnixDatagram)> {
    Ok(UnixDatagram::pair()?)
}

/// Receives the byte that came with a descriptor, with no room for the descriptor itself. Gives whether the
/// kernel says that control data was cut off (`MSG_CTRUNC`).
pub fn receive_without_room(socket: impl AsFd) -> Result<bool> {
    let mut byte = [0];
    let mut none = RecvAncillaryBuffer::default();
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut none, RecvFlags::empty())?;
    Ok(got.flags.contains(ReturnFlags::CTRUNC))
}

/// Has the kernel collect the garbage among UNIX sockets until that reaps the process of this pidfd.
///
/// Every release of a socket asks for a collection, unless one is under way that may have come too early. No
/// event says that one has run, so sockets are made and released within the patience of the case.
#[track_caller]
pub fn collect_garbage_until_reaped(observer: &Pidfd) -> Result {
    while observer.poll_now(PollFlags::empty())? != PollFlags::POLLHUP {
        if sandbox::time_left() == PollTimeout::ZERO {
            return observer.wait_reaped();
        }
        drop(pair()?);
    }
    Ok(())
}
