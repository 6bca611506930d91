//! Passing descriptors over UNIX sockets (`SCM_RIGHTS`).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname,
    listen, recvmsg, sendmsg, socket_with,
};

use crate::address::Address;
use crate::check::{Failure, Named, Result, errno_of};
use crate::kit::fds;
use crate::note;
use crate::pidfd::Pidfd;
use crate::sandbox;

/// Sends one descriptor with one byte.
pub fn send(socket: impl AsFd, fd: impl AsFd) -> Result {
    Ok(try_send(socket, fd)?)
}

/// Like [`send`], for tests of whether the descriptor may be sent; returns the errno.
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

/// Sends this data with one control message for each group of descriptors, in one call. The numbers need not be open. Returns
/// how much of the data was sent, in bytes.
pub fn send_groups(
    socket: impl AsFd,
    data: &[u8],
    groups: &[&[RawFd]],
    flags: MsgFlags,
) -> std::result::Result<usize, Errno> {
    let messages: Vec<_> = groups.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
    let socket = socket.as_fd().as_raw_fd();
    let sent = nix::sys::socket::sendmsg::<()>(
        socket,
        &[IoSlice::new(data)],
        &messages,
        flags | MsgFlags::MSG_NOSIGNAL,
        None,
    );
    note!("sendmsg({socket}, {data:?}, SCM_RIGHTS {groups:?}, {flags:?}) = {sent:?}");
    sent
}

/// Receives one descriptor, close-on-exec.
#[track_caller]
pub fn receive(socket: impl AsFd) -> Result<OwnedFd> {
    receive_with(socket, RecvFlags::CMSG_CLOEXEC)
}

/// Receives one descriptor with these flags; `RecvFlags::PEEK` leaves the message in the queue.
#[track_caller]
pub fn receive_with(socket: impl AsFd, flags: RecvFlags) -> Result<OwnedFd> {
    match receive_all(socket, flags)?.pop() {
        Some(fd) => Ok(fd),
        None => Err(Failure::broken("no descriptor came over the socket")),
    }
}

/// Receives one byte, with the descriptors that came with it, at most four.
#[track_caller]
pub fn receive_all(socket: impl AsFd, flags: RecvFlags) -> Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

/// Makes a connected pair of stream sockets.
///
/// Make it *after* an auto-kill child: a child that inherits a socket with its own pidfd in flight keeps itself alive.
pub fn pair() -> Result<(UnixStream, UnixStream)> {
    Ok(UnixStream::pair()?)
}

/// Makes a connected pair of datagram sockets. Make it after an auto-kill child, as for [`pair`].
pub fn datagram_pair() -> Result<(UnixDatagram, UnixDatagram)> {
    Ok(UnixDatagram::pair()?)
}

/// Makes a listening socket, and one that is connected to it although the connection has not been accepted. Make them after an
/// auto-kill child, as for [`pair`].
pub fn connection_not_accepted() -> Result<(OwnedFd, OwnedFd)> {
    let made = || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (listener, client) = (made()?, made()?);
    // Without a name, the kernel chooses one that nobody has.
    bind(&listener, &SocketAddrUnix::new_unnamed())?;
    listen(&listener, 1)?;
    connect(&client, &getsockname(&listener)?)?;
    Ok((listener, client))
}

/// Receives the byte that came with a descriptor, without buffer space for the descriptor. Returns whether the kernel
/// reports truncated control data (`MSG_CTRUNC`).
#[track_caller]
pub fn receive_without_room(socket: impl AsFd) -> Result<bool> {
    let mut byte = [0];
    let mut none = RecvAncillaryBuffer::default();
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut none, RecvFlags::empty())?;
    Ok(got.flags.contains(ReturnFlags::CTRUNC))
}

/// `SO_PASSRIGHTS` of `include/uapi/asm-generic/socket.h` (Linux 6.16).
const SO_PASSRIGHTS: libc::c_int = 83;

/// Makes this socket refuse descriptors from now on.
///
/// # Errors
/// `unsupported` if the kernel has no `SO_PASSRIGHTS`.
pub fn refuse_descriptors(socket: impl AsFd) -> Result {
    match set_option(socket, SO_PASSRIGHTS, 0) {
        Err(Errno::ENOPROTOOPT) => Err(Failure::unsupported("the kernel has no SO_PASSRIGHTS (Linux 6.16)")),
        set => Ok(set?),
    }
}

/// Makes this socket drop every message that arrives (`SO_ATTACH_FILTER`).
pub fn drop_what_arrives(socket: impl AsFd) -> Result {
    // "Keep no bytes of the packet".
    let mut program = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    Ok(set_option(socket, libc::SO_ATTACH_FILTER, filter)?)
}

/// Sets an option of `SOL_SOCKET`. The value is plain data that the kernel reads during the call.
fn set_option<T>(socket: impl AsFd, option: libc::c_int, value: T) -> std::result::Result<(), Errno> {
    let (fd, size) = (socket.as_fd().as_raw_fd(), size_of::<T>() as u32);
    // SAFETY: the value is live and has the given size.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const value).cast(), size) };
    Errno::result(set).map(drop)
}

/// `SCM_PIDFD` of `include/linux/socket.h` (Linux 6.5).
const SCM_PIDFD: libc::c_int = 4;

/// Makes every message that this socket receives from now on carry a pidfd of its sender.
///
/// # Errors
/// `unsupported` if the kernel has no `SO_PASSPIDFD`.
pub fn ask_for_pidfds(socket: impl AsFd) -> Result {
    match set_option(socket, libc::SO_PASSPIDFD, 1) {
        Err(Errno::ENOPROTOOPT) => Err(Failure::unsupported("the kernel has no SO_PASSPIDFD (Linux 6.5)")),
        set => Ok(set?),
    }
}

/// Has the kernel write the number of a pidfd of the socket's peer (`SO_PEERPIDFD`) to this address.
pub fn ask_for_peer_at(socket: impl AsFd, at: Address) -> std::result::Result<(), Errno> {
    let mut length = size_of::<RawFd>() as libc::socklen_t;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: an Address may be written to at any time, or cannot be written; `length` is live.
    Errno::result(unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            at.number() as *mut libc::c_void,
            &mut length,
        )
    })
    .map(drop)
}

/// Sends a byte with the credentials of another process, for which root is needed: the pid and root's own ids.
pub fn send_in_the_name_of(socket: impl AsFd, pid: i32) -> Result {
    let credentials = UnixCredentials::from(libc::ucred { pid, uid: 0, gid: 0 });
    let named = [ControlMessage::ScmCredentials(&credentials)];
    let to = socket.as_fd().as_raw_fd();
    nix::sys::socket::sendmsg::<()>(to, &[IoSlice::new(b"m")], &named, MsgFlags::empty(), None)?;
    Ok(())
}

/// Receives a byte; returns the pid in the credentials (SCM_CREDENTIALS) that came with it.
pub fn receive_senders_pid(socket: impl AsFd) -> Result<Option<i32>> {
    let mut room = nix::cmsg_space!(UnixCredentials);
    let mut byte = [0_u8; 1];
    let mut data = [IoSliceMut::new(&mut byte)];
    let from = socket.as_fd().as_raw_fd();
    let message = nix::sys::socket::recvmsg::<()>(from, &mut data, Some(&mut room), MsgFlags::empty())?;
    let pid = message.cmsgs()?.find_map(|one| match one {
        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
        _ => None,
    });
    Ok(pid)
}

/// Room for control messages, in bytes: enough for more than one pidfd.
pub const ROOM: usize = 64;
/// The room that one pidfd needs: `CMSG_LEN(sizeof(int))`.
pub const LEAST_ROOM: usize = size_of::<libc::cmsghdr>() + size_of::<libc::c_int>();

/// Receives a byte from a socket that [asked](ask_for_pidfds), and returns the pidfd that came with it.
#[track_caller]
pub fn receive_pidfd(socket: impl AsFd) -> Result<OwnedFd> {
    receive_with_pidfd(socket, 1, ROOM).map(|(_, pidfd)| pidfd)
}

/// Likewise, up to `most` bytes, with so much room for control messages, which is at most [`ROOM`]. Returns how many bytes came.
#[track_caller]
pub fn receive_with_pidfd(socket: impl AsFd, most: usize, room: usize) -> Result<(usize, OwnedFd)> {
    let mut bytes = vec![0_u8; most];
    let mut data = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // An array of words, because control messages are word-aligned.
    let mut control = [0_usize; ROOM / size_of::<usize>()];
    // SAFETY: plain data for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = room.min(ROOM);
    // Without MSG_CMSG_CLOEXEC, as a pidfd is close-on-exec all the same.
    //
    // SAFETY: the message points to live buffers of the given sizes.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut message, 0) };
    let got = Errno::result(got)? as usize;
    // SAFETY: recvmsg left a valid message, whose control data the macros walk.
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
    // SAFETY: the kernel has just created the descriptor for the receiver of the message.
    Ok((got, unsafe { fds::adopt(number) }))
}

/// Triggers the garbage collection of UNIX sockets until it has killed the process of this pidfd and the process is reaped.
///
/// Every release of a socket requests a collection, except during a running collection, which may have started too early.
/// No event reports the end of a collection, so this makes and releases sockets until the time limit of the case.
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
