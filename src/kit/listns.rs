//! The user namespaces that the kernel lists as active: listns(2), since Linux 6.19.

use std::fs::File;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use crate::check::{Failure, Named, Result};
use crate::kit::eventually::eventually;
use crate::sandbox;

const SYS_LISTNS: libc::c_long = 470;

/// `_IOR(0xb7, 13, __u64)` of `linux/nsfs.h`.
const NS_GET_ID: u32 = 0x8008_b70d;

/// Selects those that the caller's user namespace owns (`LISTNS_CURRENT_USER`).
const OF_CALLERS_USER_NAMESPACE: u64 = u64::MAX;

/// `struct ns_id_req` of `linux/nsfs.h`.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    after: u64,
    kind: u32,
    spare2: u32,
    owner: u64,
}

/// Returns the id of the user namespace of a process. Leaves no descriptor open that would keep the namespace active.
///
/// # Errors
/// `blocked` if /proc shows none.
pub fn user_namespace_of(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/ns/user");
    let file = File::open(&path).map_err(|error| Failure::blocked(format!("{path}: {error}")))?;
    let mut id = 0_u64;
    // SAFETY: the argument is a live word of the size in the request number.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_ID as libc::Ioctl, &raw mut id) })?;
    Ok(id)
}

/// Returns whether this user namespace, a child of the caller's, is listed. Requires root in the initial pid namespace.
///
/// # Errors
/// `blocked` if the system call is not available.
pub fn is_listed(id: u64) -> Result<bool> {
    // Linux 7.1 and 7.2 continue a list only after an id that is in it, so this requests the whole list at once.
    let mut numbers = [0_u64; 4096];
    let request = Request {
        size: size_of::<Request>() as u32,
        spare: 0,
        after: 0,
        kind: libc::CLONE_NEWUSER as u32,
        spare2: 0,
        owner: OF_CALLERS_USER_NAMESPACE,
    };
    // SAFETY: the request is live and of the size that it states, and so are the numbers.
    let found = Errno::result(unsafe {
        libc::syscall(SYS_LISTNS, &raw const request, numbers.as_mut_ptr(), numbers.len(), 0_u32)
    });
    match found {
        Ok(found) => Ok(numbers.iter().take(found as usize).any(|&number| number == id)),
        Err(errno) => Err(Failure::blocked(format!("listns(2) fails with {}", Named(errno)))),
    }
}

/// Waits until the namespace is no longer listed; returns false if that takes too long. The kernel sends no notification.
pub fn vanishes(id: u64) -> Result<bool> {
    let gone = || Ok((!is_listed(id)?).then_some(()));
    Ok(eventually(sandbox::patience() / 2, gone)?.is_some())
}
