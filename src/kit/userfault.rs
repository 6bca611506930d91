//! Processes that are blocked in a page fault (userfaultfd(2)).

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use rustix::mm::{MapFlags, ProtFlags, UserfaultfdFlags, mmap_anonymous, userfaultfd};
use rustix::param::page_size;

use crate::abi::Flags;
use crate::check::{Failure, Named, Result, errno_of};
use crate::clone3::{Address, Child, Clone3, Stack};
use crate::errand::Errand;
use crate::kit::diagnosis;
use crate::kit::process::own_pid;
use crate::{note, sandbox};

/// `struct uffdio_api` of linux/userfaultfd.h.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register` of the same file.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_zeropage` of the same file.
#[repr(C)]
struct ZeroPage {
    start: u64,
    len: u64,
    mode: u64,
    filled: i64,
}

const UFFD_API: u64 = 0xAA;
/// `_IOWR(0xAA, 0x3F, struct uffdio_api)`
const UFFDIO_API: libc::Ioctl = 0xC018_AA3F_u32 as libc::Ioctl;
/// `_IOWR(0xAA, 0x00, struct uffdio_register)`
const UFFDIO_REGISTER: libc::Ioctl = 0xC020_AA00_u32 as libc::Ioctl;
/// `_IOWR(0xAA, 0x04, struct uffdio_zeropage)`
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xC020_AA04_u32 as libc::Ioctl;
const MODE_MISSING: u64 = 1;
/// `UFFD_USER_MODE_ONLY` (Linux 5.11), which unprivileged users may request.
const USER_MODE_ONLY: UserfaultfdFlags = UserfaultfdFlags::from_bits_retain(1);

/// A page that blocks any thread that accesses it.
#[derive(Debug)]
pub struct Trap {
    uffd: OwnedFd,
    page: usize,
}

impl Trap {
    /// Makes a trap.
    ///
    /// # Errors
    /// `blocked` if the kernel has no userfaultfd, or denies it to the caller.
    pub fn lay() -> Result<Trap> {
        Trap::laid_with(USER_MODE_ONLY)
    }

    /// Like [`Trap::lay`], but the page also blocks the kernel when it writes there on behalf of a thread.
    ///
    /// # Errors
    /// `blocked` also if the caller lacks the privilege.
    pub fn lay_for_kernel() -> Result<Trap> {
        Trap::laid_with(UserfaultfdFlags::empty())
    }

    fn laid_with(flags: UserfaultfdFlags) -> Result<Trap> {
        // poll(2) reports no faults on a blocking descriptor.
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK | flags;
        // SAFETY: the descriptor is used only for a mapping of this module.
        let uffd = unsafe { userfaultfd(flags) };
        let uffd = uffd.map_err(|errno| {
            let errno = errno_of(errno);
            Failure::blocked(format!(
                "userfaultfd fails with {} (CONFIG_USERFAULTFD, vm.unprivileged_userfaultfd)",
                Named(errno)
            ))
        })?;
        let (length, access) = (page_size(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let page =
            unsafe { mmap_anonymous(std::ptr::null_mut(), length, access, MapFlags::PRIVATE)? } as usize;
        let mut api = Api { api: UFFD_API, features: 0, ioctls: 0 };
        // SAFETY: `api` is the live structure that this request takes.
        Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, &raw mut api) })?;
        let mut register = Register { start: page as u64, len: length as u64, mode: MODE_MISSING, ioctls: 0 };
        // SAFETY: `register` is the live structure that this request takes; the page belongs to this module.
        Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) })?;
        Ok(Trap { uffd, page })
    }

    /// Makes a child by `call`, with `CLONE_VM`, that accesses the page and is blocked there when this returns.
    #[track_caller]
    pub fn catch(&self, call: &Clone3) -> Result<Child> {
        // SAFETY: it makes no call, and the page is never unmapped.
        let touch = unsafe { Errand::small(touch, self.page) };
        let child = call.clone().with(Flags::CLONE_VM).spawn_on(&Stack::new()?, touch)?;
        self.wait_for_someone().map_err(|failure| diagnosis::explained(&child, failure))?;
        note!("child {} is blocked in a page fault", child.pid());
        Ok(child)
    }

    /// Returns its address, for a system call that writes there.
    pub fn address(&self) -> Address {
        // SAFETY: the page is never unmapped, and this module only reads from it, in children.
        unsafe { Address::of_number(self.page as u64) }
    }

    /// Blocks until a thread is blocked in the trap.
    #[track_caller]
    pub fn wait_for_someone(&self) -> Result {
        let mut fds = [PollFd::new(self.uffd.as_fd(), PollFlags::POLLIN)];
        if !sandbox::wait_for(&mut fds)? {
            let (waited, doing) = (sandbox::patience(), sandbox::describe(own_pid()));
            return Err(Failure::fail(format!(
                "no page fault came to userfaultfd within {waited:.1?}; {doing}"
            )));
        }
        match fds[0].revents() {
            Some(PollFlags::POLLIN) => Ok(()),
            events => Err(Failure::broken(format!("poll on a userfaultfd returns {events:?}"))),
        }
    }

    /// Provides the page, so that all blocked threads continue.
    pub fn open(&self) -> Result {
        let mut zeroes = ZeroPage { start: self.page as u64, len: page_size() as u64, mode: 0, filled: 0 };
        // SAFETY: `zeroes` is the live structure that this request takes; the page belongs to this module, and is empty.
        Errno::result(unsafe { libc::ioctl(self.uffd.as_raw_fd(), UFFDIO_ZEROPAGE, &raw mut zeroes) })?;
        note!("the page has its memory");
        Ok(())
    }
}

/// Reads a byte of the page. Runs in a child that shares this memory: no call, no allocation.
extern "C" fn touch(page: usize) -> c_int {
    // SAFETY: the page is mapped readable and is never unmapped.
    unsafe { std::ptr::read_volatile(page as *const u8) }.into()
}
