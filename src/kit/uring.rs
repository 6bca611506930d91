//! An io_uring with the few requests that take or drop references to a descriptor.
//!
//! A ring drops its references some time after the call that requested it: wait for POLLHUP, do not use a ping.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use io_uring::{IoUring, opcode, squeue, types};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use crate::check::{self, Failure, Result};
use crate::clone3::lowest_free_fd;
use crate::wait::Who;
use crate::{note, sandbox};

/// The user data of a pending poll.
const POLL: u64 = 1;
/// The user data of a pending wait.
const WAIT: u64 = 3;
/// The user data of any other request.
const OTHER: u64 = 2;

/// `struct io_uring_rsrc_register` of linux/io_uring.h.
#[repr(C)]
struct TaggedFiles {
    count: u32,
    flags: u32,
    spare: u64,
    fds: u64,
    tags: u64,
}

/// A ring. Make it *after* an auto-kill child, which would inherit it.
pub struct Ring(IoUring);

/// Makes a ring that a kernel thread serves (`IORING_SETUP_SQPOLL`), runs `meanwhile`, and drops the ring.
///
/// # Errors
/// `blocked` if there is no io_uring or if it is forbidden.
#[track_caller]
pub fn is_served_by_kernel(meanwhile: impl FnOnce() -> Result) -> Result {
    let ring = Ring::served_by_kernel()?;
    meanwhile()?;
    drop(ring);
    Ok(())
}

/// Returns why there is no ring: the errno, unless the environment is the cause.
fn not_set_up(error: io::Error) -> Result<Errno> {
    let why = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => "ENOSYS: CONFIG_IO_URING is off, or a filter",
        Some(Errno::EPERM) => "EPERM: the sysctl io_uring_disabled, or a filter",
        Some(Errno::EACCES) => "EACCES: a security module",
        Some(Errno::ENOMEM) => "ENOMEM: RLIMIT_MEMLOCK, or no memory",
        Some(errno) => return Ok(errno),
        None => return Err(error.into()),
    };
    Err(Failure::blocked(format!("io_uring_setup fails with {why}")))
}

impl Ring {
    /// Makes a new ring.
    ///
    /// # Errors
    /// `blocked` if there is no io_uring or if it is forbidden.
    pub fn new() -> Result<Ring> {
        IoUring::new(4)
            .map(Ring)
            .or_else(|error| Err(Failure::from(not_set_up(error)?).within("io_uring_setup")))
    }

    /// Makes a new ring whose requests a kernel thread takes and executes (`IORING_SETUP_SQPOLL`).
    ///
    /// # Errors
    /// As [`Ring::new`].
    #[track_caller]
    pub fn served_by_kernel() -> Result<Ring> {
        // The kernel thread polls for requests for at most a millisecond before it sleeps.
        match IoUring::builder().setup_sqpoll(1).build(4) {
            Ok(ring) => Ok(Ring(ring)),
            Err(error) => check::succeeds("io_uring_setup(IORING_SETUP_SQPOLL)", Err(not_set_up(error)?)),
        }
    }

    /// Registers this file as the ring's only fixed file.
    pub fn register_file(&self, fd: impl AsFd) -> Result {
        let fd = fd.as_fd().as_raw_fd();
        note!("IORING_REGISTER_FILES of descriptor {fd}");
        Ok(self.0.submitter().register_files(&[fd])?)
    }

    /// Likewise, with a tag: the ring reports when it has dropped the reference.
    pub fn register_file_with_tag(&self, fd: impl AsFd) -> Result {
        const REGISTER_FILES2: libc::c_uint = 13;
        let (fds, tags) = ([fd.as_fd().as_raw_fd()], [OTHER]);
        let (at_fds, at_tags) = (fds.as_ptr() as u64, tags.as_ptr() as u64);
        let files = TaggedFiles { count: 1, flags: 0, spare: 0, fds: at_fds, tags: at_tags };
        // SAFETY: the kernel reads the structure, whose length is passed, and the two arrays; all are live.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.0.as_raw_fd(),
                REGISTER_FILES2,
                &raw const files,
                size_of::<TaggedFiles>(),
            )
        };
        note!("IORING_REGISTER_FILES2 of descriptor {}, with a tag = {done}", fds[0]);
        Ok(Errno::result(done).map(drop)?)
    }

    /// Registers this file and a closed descriptor, which fails with EBADF.
    #[track_caller]
    pub fn register_file_and_none(&self, fd: impl AsFd) -> Result {
        let fds = [fd.as_fd().as_raw_fd(), lowest_free_fd()?];
        note!("IORING_REGISTER_FILES of descriptors {fds:?}");
        let registered = self
            .0
            .submitter()
            .register_files(&fds)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()));
        check::refused("IORING_REGISTER_FILES with a closed descriptor", registered, Errno::EBADF)
    }

    /// Registers this many slots for fixed files, and leaves them empty.
    pub fn register_empty_slots(&self, count: u32) -> Result {
        Ok(self.0.submitter().register_files_sparse(count)?)
    }

    /// Puts this file into the first slot, in place of what is there (`IORING_REGISTER_FILES_UPDATE`).
    #[track_caller]
    pub fn fill_slot(&self, fd: impl AsFd) -> Result {
        self.update_slot(fd.as_fd().as_raw_fd())
    }

    /// Updates the first slot, and leaves it as it is (`IORING_REGISTER_FILES_SKIP`).
    #[track_caller]
    pub fn skip_slot(&self) -> Result {
        const SKIP: i32 = -2;
        self.update_slot(SKIP)
    }

    /// Puts this file into a slot that the kernel chooses (`IORING_OP_FILES_UPDATE` with `IORING_FILE_INDEX_ALLOC`).
    #[track_caller]
    pub fn fill_free_slot(&mut self, fd: impl AsFd) -> Result<std::result::Result<i32, Errno>> {
        const CHOOSE: i32 = -1;
        // The kernel reads the number and writes that of the slot, perhaps later than anybody waits for it.
        let number = &raw mut *Box::leak(Box::new(fd.as_fd().as_raw_fd()));
        let fill = opcode::FilesUpdate::new(number, 1).offset(CHOOSE).build().user_data(OTHER);
        self.push(&fill)?;
        let filled = result_of(&self.completions(1)?)?;
        note!("IORING_OP_FILES_UPDATE of descriptor {}, to a free slot = {filled:?}", fd.as_fd().as_raw_fd());
        // SAFETY: never freed, and the kernel is done with it.
        Ok(filled.map(|_| unsafe { number.read() }))
    }

    /// Tries to splice from the file in the slot to a pipe, and returns the errno.
    #[track_caller]
    pub fn try_splice_from_slot(&mut self, pipe: impl AsFd) -> Result<std::result::Result<i32, Errno>> {
        const FROM_SLOT: u32 = 1 << 31;
        let to = types::Fd(pipe.as_fd().as_raw_fd());
        let splice = opcode::Splice::new(types::Fixed(0), -1, to, -1, 1).flags(FROM_SLOT);
        self.push(&splice.build().user_data(OTHER))?;
        result_of(&self.completions(1)?)
    }

    /// Puts the file of this ring's slot into the other ring's slot, too (`IORING_MSG_SEND_FD`), with or without an event there.
    #[track_caller]
    pub fn pass_file_to(&mut self, other: &Ring, event: bool) -> Result {
        let passed = self.try_pass_file_to(other, event)?;
        check::succeeds("IORING_MSG_SEND_FD", passed).map(drop)
    }

    /// Like [`Ring::pass_file_to`], for tests of whether it is possible; the inner error is the kernel's.
    #[track_caller]
    pub fn try_pass_file_to(&mut self, other: &Ring, event: bool) -> Result<std::result::Result<i32, Errno>> {
        const CQE_SKIP: u32 = 1;
        let to = types::DestinationSlot::try_from_slot_target(0)
            .map_err(|slot| Failure::broken(format!("no slot {slot}")))?;
        let (ring, slot) = (types::Fd(other.0.as_raw_fd()), types::Fixed(0));
        let pass = opcode::MsgRingSendFd::new(ring, slot, to, OTHER);
        let pass = pass.opcode_flags(if event { 0 } else { CQE_SKIP });
        self.push(&pass.build().user_data(OTHER))?;
        let passed = result_of(&self.completions(1)?);
        note!("IORING_MSG_SEND_FD of slot 0 = {passed:?}");
        passed
    }

    /// Makes a descriptor for the file in the slot (`IORING_OP_FIXED_FD_INSTALL`).
    #[track_caller]
    pub fn install_file(&mut self) -> Result<OwnedFd> {
        self.push(&opcode::FixedFdInstall::new(types::Fixed(0), 0).build().user_data(OTHER))?;
        let fd = of(&self.completions(1)?, OTHER).unwrap_or(-1);
        note!("IORING_OP_FIXED_FD_INSTALL = {fd}");
        if fd < 0 {
            return Err(Failure::from(Errno::from_raw(-fd)).within("IORING_OP_FIXED_FD_INSTALL"));
        }
        // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Empties the slot of the fixed file.
    #[track_caller]
    pub fn empty_slot(&self) -> Result {
        self.update_slot(-1)
    }

    #[track_caller]
    fn update_slot(&self, number: RawFd) -> Result {
        note!("IORING_REGISTER_FILES_UPDATE of slot 0 to {number}");
        let updated = self.0.submitter().register_files_update(0, &[number])?;
        check::equal("slots that were updated", updated, 1)
    }

    /// Unregisters the fixed files.
    pub fn unregister_files(&self) -> Result {
        note!("IORING_UNREGISTER_FILES");
        Ok(self.0.submitter().unregister_files()?)
    }

    /// Starts a poll for POLLIN, which stays pending.
    #[track_caller]
    pub fn start_poll(&mut self, fd: impl AsFd) -> Result {
        let fd = fd.as_fd().as_raw_fd();
        note!("IORING_OP_POLL_ADD on descriptor {fd}");
        self.push(&opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).build().user_data(POLL))?;
        self.0.submit()?;
        let early = self.0.completion().next().map(|entry| entry.result());
        check::equal("completion of a poll that nothing has ended yet", early, None)
    }

    /// Cancels the pending poll.
    #[track_caller]
    pub fn cancel_poll(&mut self) -> Result {
        note!("IORING_OP_POLL_REMOVE");
        self.push(&opcode::PollRemove::new(POLL).build().user_data(OTHER))?;
        let results = self.completions(2)?;
        check::equal("results of POLL_REMOVE", of(&results, OTHER), Some(0))?;
        check::equal("result of the removed poll", of(&results, POLL), Some(-libc::ECANCELED))
    }

    /// Starts a wait for one of these children to end (`__WALL`). [`Ring::is_idle`] shows whether it stays pending.
    pub fn start_wait(&mut self, who: Who<'_>) -> Result {
        self.start_wait_for(libc::WEXITED, who)
    }

    /// Likewise, for these events: `WEXITED`, `WSTOPPED`, `WCONTINUED`.
    pub fn start_wait_for(&mut self, events: i32, who: Who<'_>) -> Result {
        note!("IORING_OP_WAITID, {who:?}, {events:#x}|__WALL");
        let (kind, number) = who.as_arguments();
        let wait = opcode::WaitId::new(kind, number, events | libc::__WALL);
        self.push(&wait.build().user_data(WAIT))?;
        self.0.submit()?;
        Ok(())
    }

    /// Returns whether no request has completed yet.
    pub fn is_idle(&mut self) -> bool {
        self.0.completion().is_empty()
    }

    /// Blocks until the pending wait has completed, and returns its result: 0, or a negative errno.
    #[track_caller]
    pub fn finish_wait(&mut self) -> Result<Option<i32>> {
        let results = self.completions(1)?;
        Ok(of(&results, WAIT))
    }

    /// Closes a descriptor through a request on the ring.
    #[track_caller]
    pub fn close(&mut self, fd: impl Into<OwnedFd>) -> Result {
        self.close_with(fd.into(), squeue::Flags::empty())
    }

    /// Likewise, by a worker of the kernel (`IOSQE_ASYNC`).
    #[track_caller]
    pub fn close_in_worker(&mut self, fd: impl Into<OwnedFd>) -> Result {
        self.close_with(fd.into(), squeue::Flags::ASYNC)
    }

    #[track_caller]
    fn close_with(&mut self, fd: OwnedFd, flags: squeue::Flags) -> Result {
        let fd = fd.into_raw_fd();
        note!("IORING_OP_CLOSE of descriptor {fd}, {flags:?}");
        self.push(&opcode::Close::new(types::Fd(fd)).build().flags(flags).user_data(OTHER))?;
        let results = self.completions(1)?;
        check::equal("result of IORING_OP_CLOSE", of(&results, OTHER), Some(0))
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result {
        // SAFETY: the memory that a request above points to is never freed, and the descriptors are open when submitted.
        unsafe { self.0.submission().push(entry) }.map_err(|_| Failure::broken("the ring is full"))
    }

    /// Submits requests and waits for that many completions; returns pairs of user data and result.
    #[track_caller]
    fn completions(&mut self, count: usize) -> Result<Vec<(u64, i32)>> {
        while let Err(error) = self.0.submit() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error.into());
            }
        }
        while self.0.completion().len() < count {
            // SAFETY: the ring's descriptor is open as long as the ring.
            let ring = unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) };
            if !sandbox::wait_for(&mut [PollFd::new(ring, PollFlags::POLLIN)])? {
                let (seen, waited) = (self.0.completion().len(), sandbox::patience());
                return Err(Failure::fail(format!(
                    "io_uring: {seen} of {count} requests completed within {waited:.1?}"
                )));
            }
        }
        Ok(self.0.completion().map(|entry| (entry.user_data(), entry.result())).collect())
    }
}

/// Returns the result of the one request.
fn result_of(results: &[(u64, i32)]) -> Result<std::result::Result<i32, Errno>> {
    match of(results, OTHER) {
        Some(error) if error < 0 => Ok(Err(Errno::from_raw(-error))),
        Some(result) => Ok(Ok(result)),
        None => Err(Failure::broken("the ring reported nothing")),
    }
}

fn of(results: &[(u64, i32)], known_by: u64) -> Option<i32> {
    results.iter().find(|(by, _)| *by == known_by).map(|(_, result)| *result)
}
