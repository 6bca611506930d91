//! System calls as a 32-bit program makes them, with the system call numbers of i386.
//!
//! The arguments are 32 bits wide, so memory that is passed to the kernel must be below 4 GiB.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use crate::abi::{self, CloneArgs, Flags, InfoMask, PidfdInfo};
use crate::check::{Failure, Result};
use crate::clone3::{PIDFD_UNTOUCHED, exit_child};
use crate::kit::process::own_pid;
use crate::kit::threads::own_tid;
use crate::kit::{fds, process};
use crate::pidfd::Pidfd;
use crate::wait::Status;
use crate::{arch, note};

const SYS_CLOSE: u32 = 6;
const SYS_GETPID: u32 = 20;
const SYS_IOCTL: u32 = 54;
const SYS_SET_ROBUST_LIST: u32 = 311;
const SYS_RECVMSG: u32 = 372;
const SYS_CLONE3: u32 = 435;

/// Returns `blocked` unless this kernel accepts system calls of 32-bit programs.
#[track_caller]
pub fn required() -> Result {
    let works = || {
        // If the kernel disables the 32-bit entry, this crashes; do not dump core then.
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        // SAFETY: getpid has no arguments.
        let pid = unsafe { arch::call_as_32_bit(SYS_GETPID, [0; 3]) };
        i32::from(pid != own_pid())
    };
    match process::ending_of(works) {
        Some(ending) if ending == Status::exited(0) => return Ok(()),
        Some(_) => {}
        None => {
            return Err(Failure::blocked("cannot fork to try a 32-bit system call (a limit on processes)"));
        }
    }
    Err(Failure::blocked(arch::NEEDED_FOR_32_BIT))
}

/// The memory that the call reads and writes, at addresses that fit in 32 bits.
#[repr(C)]
struct Low {
    args: CloneArgs,
    pidfd: i32,
}

/// Calls `clone3(2)` with these flags and `CLONE_PIDFD`. The child runs `body` and exits with the result.
///
/// # Errors
/// The outer error is one of the suite, the inner one is the kernel's.
#[track_caller]
pub fn clone3(
    flags: Flags,
    exit_signal: u64,
    body: impl FnOnce() -> i32,
) -> Result<std::result::Result<(i32, Pidfd), Errno>> {
    let low = low::<Low>(MapFlags::PRIVATE)?;
    let flags = flags | Flags::PIDFD;
    assert!(!flags.contains(Flags::CLONE_VM), "a child that shares memory needs a stack of its own");
    assert!(!flags.contains(Flags::CLONE_SETTLS), "a body needs the thread-local storage that it knows");
    // SAFETY: this only computes addresses, within a mapping that is page-aligned and large enough.
    let (args, pidfd) = unsafe { (&raw mut (*low).args, &raw mut (*low).pidfd) };
    // SAFETY: both are aligned and writable, and nothing else refers to them. The child works on a copy.
    let pid = unsafe {
        args.write(CloneArgs {
            flags: flags.bits(),
            pidfd: pidfd as u64,
            exit_signal,
            ..CloneArgs::default()
        });
        pidfd.write(PIDFD_UNTOUCHED);
        arch::call_as_32_bit(SYS_CLONE3, [args as u32, size_of::<CloneArgs>() as u32, 0])
    };
    if pid == 0 {
        exit_child(body);
    }
    note!("32-bit clone3({flags}, exit_signal {exit_signal}) = {pid}");
    if pid < 0 {
        return Ok(Err(Errno::from_raw(-pid)));
    }
    // SAFETY: as above.
    let pidfd = unsafe { pidfd.read() };
    if pidfd < 0 {
        return Err(Failure::fail(format!("32-bit clone3({flags}): {pid}, and no pidfd was written")));
    }
    // SAFETY: on success the kernel wrote a new descriptor that nothing else owns.
    Ok(Ok((pid, Pidfd::from(unsafe { fds::adopt(pidfd) }))))
}

/// Calls `close(2)`.
pub fn close(fd: impl Into<OwnedFd>) -> std::result::Result<(), Errno> {
    let fd: RawFd = std::os::fd::IntoRawFd::into_raw_fd(fd.into());
    // SAFETY: the descriptor was owned, and ownership is given up here.
    let closed = unsafe { arch::call_as_32_bit(SYS_CLOSE, [fd as u32, 0, 0]) };
    note!("32-bit close({fd}) = {closed}");
    if closed < 0 { Err(Errno::from_raw(-closed)) } else { Ok(()) }
}

/// Calls `PIDFD_GET_INFO` with the first `size` bytes of its structure; the others remain 0.
///
/// # Errors
/// The outer error is one of the suite, the inner one is the kernel's.
pub fn info(pidfd: &Pidfd, request: InfoMask, size: usize) -> Result<std::result::Result<PidfdInfo, Errno>> {
    assert!(size <= size_of::<PidfdInfo>(), "the structure is smaller than the size claimed");
    let info = low::<PidfdInfo>(MapFlags::PRIVATE)?;
    let number = abi::pidfd_get_info_request(size);
    // SAFETY: `info` is a live structure of at least the size in the request number, and nothing else refers to it.
    unsafe {
        info.write(PidfdInfo { mask: request.bits(), ..PidfdInfo::default() });
        let done = arch::call_as_32_bit(SYS_IOCTL, [pidfd.as_raw_fd() as u32, number, info as u32]);
        note!("32-bit PIDFD_GET_INFO({pidfd}, {request}) = {done}");
        Ok(if done < 0 { Err(Errno::from_raw(-done)) } else { Ok(info.read()) })
    }
}

/// `struct compat_msghdr` of `include/net/compat.h`, and what it points to.
#[repr(C)]
#[derive(Default)]
struct Message {
    name: u32,
    name_length: i32,
    data: u32,
    data_count: u32,
    control: u32,
    control_length: u32,
    flags: u32,
    /// A `struct compat_iovec`.
    piece: [u32; 2],
    byte: u32,
    /// A `struct compat_cmsghdr`, which takes three words, and what follows it.
    message: [u32; 8],
}

/// Calls `recvmsg(2)` for one byte and the descriptor that comes with it, close-on-exec.
pub fn receive(socket: impl AsFd) -> Result<OwnedFd> {
    let low = low::<Message>(MapFlags::PRIVATE)?;
    // SAFETY: this only computes addresses, within a mapping that is page-aligned and large enough.
    let [byte, piece, message] = unsafe {
        [&raw mut (*low).byte as u32, &raw mut (*low).piece as u32, &raw mut (*low).message as u32]
    };
    let control_length = size_of::<[u32; 8]>() as u32;
    let call = Message {
        data: piece,
        data_count: 1,
        control: message,
        control_length,
        piece: [byte, 1],
        ..Message::default()
    };
    let socket = socket.as_fd().as_raw_fd() as u32;
    // SAFETY: the structure is live, describes itself, and nothing else refers to it.
    let (received, [length, level, kind, fd, ..]) = unsafe {
        low.write(call);
        let arguments = [socket, low as u32, libc::MSG_CMSG_CLOEXEC as u32];
        (arch::call_as_32_bit(SYS_RECVMSG, arguments), (*low).message)
    };
    note!("32-bit recvmsg({socket}) = {received}, control message {length} {level} {kind} {fd}");
    if received < 0 {
        return Err(Errno::from_raw(-received).into());
    }
    if (level, kind) != (libc::SOL_SOCKET as u32, libc::SCM_RIGHTS as u32) {
        return Err(Failure::fail("no descriptor came to a 32-bit recvmsg"));
    }
    // SAFETY: the kernel has just created the descriptor for the receiver of the message.
    Ok(unsafe { fds::adopt(fd as RawFd) })
}

/// `struct compat_robust_list_head` of `kernel/futex/futex.h`.
#[repr(C)]
struct RobustList {
    next: u32,
    futex_offset: i32,
    pending: u32,
}

/// Makes a word as [`shared::word`](crate::kit::shared::word) does, at an address that fits in 32 bits.
pub fn shared_word() -> Result<&'static AtomicU32> {
    // SAFETY: the mapping is page-aligned, large enough, zeroed, and never unmapped; every access to it is atomic.
    Ok(unsafe { &*low::<AtomicU32>(MapFlags::SHARED)? })
}

/// Locks this word of [`shared_word()`] as a robust futex of the calling thread, with the list of a 32-bit program.
pub fn take_robustly(word: &'static AtomicU32) -> Result {
    word.store(own_tid() as u32, Ordering::Release);
    let list = low::<RobustList>(MapFlags::PRIVATE)?;
    // An empty list points to itself; the kernel finds the word through the pending entry.
    let head = RobustList { next: list as u32, futex_offset: 0, pending: word.as_ptr() as u32 };
    // SAFETY: the list and the word are never unmapped; the kernel reads the list and writes the word when the thread exits.
    let done = unsafe {
        list.write(head);
        arch::call_as_32_bit(SYS_SET_ROBUST_LIST, [list as u32, size_of::<RobustList>() as u32, 0])
    };
    note!("32-bit set_robust_list() = {done}");
    if done < 0 { Err(Errno::from_raw(-done).into()) } else { Ok(()) }
}

/// Maps zeroed memory for a value at an address that fits in 32 bits, private or shared. It is never unmapped.
fn low<T>(sharing: MapFlags) -> Result<*mut T> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let low_map = sharing | arch::LOW_MEMORY;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    Ok(unsafe { mmap_anonymous(std::ptr::null_mut(), size_of::<T>(), access, low_map)? }.cast())
}
