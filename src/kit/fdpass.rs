//! Descriptors over UNIX sockets (`SCM_RIGHTS`).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::check::{Failure, Named, Result, errno_of};
use crate::kit::fds;
use crate::pidfd::Pidfd;
use crate::sandbox;

/// Sends one descriptor, along with one byte.
pub fn send(socket: impl AsFd, fd: impl AsFd) -> Result {
    Ok(try_send(socket, fd)?)
}

/// As [`send`], where whether it may be sent is the question.
pub fn try_send(socket: impl AsFd, fd: impl AsFd) -> std::result::Result<(), Errno> {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::ENOBUFS);
    }
    let sent = sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::NOSIGNAL);
    sent.map(drop).map_err(errno_of)
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

/// `SO_PASSPIDFD` and `SCM_PIDFD` of `include/linux/socket.h` (Linux 6.5).
const SO_PASSPIDFD: libc::c_int = 76;
const SCM_PIDFD: libc::c_int = 4;

/// Has every message that this socket receives from now on come with a pidfd of its sender.
///
/// # Errors
/// `unsupported` where the kernel knows nothing of it.
pub fn ask_for_pidfds(socket: impl AsFd) -> Result {
    let (fd, on) = (socket.as_fd().as_raw_fd(), 1_i32);
    // SAFETY: the option's value is a live int of the size that is stated.
    let set = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, SO_PASSPIDFD, (&raw const on).cast(), size_of::<i32>() as u32)
    };
    match Errno::result(set) {
        Err(Errno::ENOPROTOOPT) => Err(Failure::unsupported("the kernel has no SO_PASSPIDFD (Linux 6.5)")),
        set => Ok(set.map(drop)?),
    }
}

/// Receives a byte from a socket that [asked](ask_for_pidfds), and gives the pidfd that came with it.
pub fn receive_pidfd(socket: impl AsFd) -> Result<OwnedFd> {
    let mut byte = [0_u8; 1];
    let mut data = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // Words, as control messages are aligned to them.
    let mut control = [0_usize; 8];
    // SAFETY: plain data for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to live buffers of the sizes that it states.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
    Errno::result(got)?;
    // SAFETY: recvmsg left a valid message, whose control part the macros walk.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message).as_ref() };
    let Some(one) = header.filter(|one| (one.cmsg_level, one.cmsg_type) == (libc::SOL_SOCKET, SCM_PIDFD))
    else {
        return Err(Failure::fail("no SCM_PIDFD came with the message"));
    };
    // SAFETY: the data of this kind of control message is an int.
    let number = unsafe { libc::CMSG_DATA(one).cast::<i32>().read_unaligned() };
    if number < 0 {
        let errno = Named(Errno::from_raw(-number));
        return Err(Failure::fail(format!("SCM_PIDFD of the message: expected a descriptor, got {errno}")));
    }
    // SAFETY: the kernel has just made the descriptor, for whoever receives the message.
    Ok(unsafe { fds::adopt(number) })
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
