//! Pidfds: waiting for events on them and querying them.
//!
//! Two events are distinguished everywhere. *Exited* (POLLIN): the process is a zombie or already reaped.
//! From here on wait calls for an auto-reaped child fail with ECHILD, but its exit information may not be
//! recorded yet. *Reaped* (POLLHUP): the process is unhashed, its exit information is recorded, and its pid
//! is free. Never read the exit information of an auto-reaped child after POLLIN alone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use rustix::process::PidfdGetfdFlags;

use crate::abi::{self, InfoMask, Namespace, PidfdInfo};
use crate::check::{self, Failure, Result};
use crate::need::Setting;
use crate::wait::{self, Status, Who, signal_name};
use crate::{note, procfs, sandbox};

/// A pidfd that is closed on drop.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl From<OwnedFd> for Pidfd {
    fn from(fd: OwnedFd) -> Pidfd {
        Pidfd(fd)
    }
}

impl From<Pidfd> for OwnedFd {
    fn from(pidfd: Pidfd) -> OwnedFd {
        pidfd.0
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Calls `pidfd_open(2)` with raw flags.
pub fn pidfd_open(pid: i32, flags: u32) -> std::result::Result<Pidfd, Errno> {
    // SAFETY: no pointers are passed.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })?;
    // SAFETY: the kernel just created this descriptor, and nothing else owns it.
    Ok(Pidfd(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}

fn pidfd_send_signal(
    number: i32,
    signal: i32,
    info: Option<&libc::siginfo_t>,
    flags: u32,
) -> std::result::Result<(), Errno> {
    let address = info.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: a null siginfo is allowed, a non-null one is live, and no other pointer is passed.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, number, signal, address, flags) };
    let sent = Errno::result(sent).map(drop);
    let said = info.map_or_else(String::new, |info| format!("si_code {}, ", info.si_code));
    let signal = signal_name(signal);
    note!("pidfd_send_signal({number}, {signal}, {said}{flags}) = {}", check::outcome_of(&sent));
    sent
}

/// The values that refer to the caller itself in place of a pidfd (`linux/fcntl.h` as of Linux 6.17; they had
/// other numbers before).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidfdSelf {
    /// `PIDFD_SELF`: the calling thread.
    Thread = -10000,
    /// `PIDFD_SELF_PROCESS`: its process.
    Process = -10001,
}

impl PidfdSelf {
    /// Calls `pidfd_send_signal(2)`.
    pub fn send_signal(self, signal: Signal) -> std::result::Result<(), Errno> {
        pidfd_send_signal(self as i32, signal as i32, None, 0)
    }
}

impl Pidfd {
    /// Calls `pidfd_open(pid, 0)`.
    pub fn try_open(pid: i32) -> std::result::Result<Pidfd, Errno> {
        pidfd_open(pid, 0)
    }

    /// Calls `pidfd_open(pid, 0)` for a process that is known to exist.
    #[track_caller]
    pub fn open(pid: i32) -> Result<Pidfd> {
        check::succeeds(format_args!("pidfd_open({pid}, 0)"), Pidfd::try_open(pid))
    }

    /// Calls `pidfd_open(tid, PIDFD_THREAD)` for a thread that is known to exist.
    #[track_caller]
    pub fn of_thread(tid: i32) -> Result<Pidfd> {
        check::succeeds(format_args!("pidfd_open({tid}, PIDFD_THREAD)"), pidfd_open(tid, libc::PIDFD_THREAD))
    }

    /// Returns another close-on-exec descriptor for the same open file, which is a reference of its own.
    pub fn try_clone(&self) -> Result<Pidfd> {
        Ok(Pidfd(self.0.try_clone()?))
    }

    /// Closes the pidfd and checks that close(2) succeeds. The last close of an auto-kill pidfd kills the
    /// child.
    #[track_caller]
    pub fn close(self) -> Result {
        let fd = self.0.as_raw_fd();
        let owned = std::mem::ManuallyDrop::new(self.0);
        // SAFETY: `owned` will not be dropped, so this is the only close of the descriptor.
        let closed = Errno::result(unsafe { libc::close(owned.as_raw_fd()) });
        note!("close({fd}) = {}", check::outcome_of(&closed));
        check::succeeds(format_args!("close({fd})"), closed).map(drop)
    }

    /// Returns what poll(2) reports for `events` right now.
    #[track_caller]
    pub fn poll_now(&self, events: PollFlags) -> Result<PollFlags> {
        let mut fds = [PollFd::new(self.as_fd(), events)];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        check::succeeds(format_args!("poll on {self} for {events:?}, timeout 0"), polled)?;
        Ok(fds[0].revents().unwrap_or(PollFlags::empty()))
    }

    /// Blocks until poll(2) reports an event while asking for `events`. Returns `None` after `patience` has
    /// passed.
    #[track_caller]
    fn poll_for(&self, events: PollFlags, patience: PollTimeout) -> Result<Option<PollFlags>> {
        let mut fds = [PollFd::new(self.as_fd(), events)];
        let polled = sandbox::wait_within(&mut fds, patience);
        let ready = check::succeeds(format_args!("poll on {self} for {events:?}"), polled)?;
        Ok(if ready { fds[0].revents() } else { None })
    }

    #[track_caller]
    fn never(&self, what: &str) -> Failure {
        let waited = sandbox::patience();
        let now = match self.pid_in_fdinfo() {
            Some(pid) if pid > 0 => procfs::describe(pid),
            _ => "the process is gone".to_owned(),
        };
        Failure::fail(format!("{self} did not report {what} within {waited:.1?}; now: {now}"))
    }

    /// Blocks until the process has exited (POLLIN). It may still be a zombie, and its exit information may
    /// not be recorded yet.
    #[track_caller]
    pub fn wait_exited(&self) -> Result {
        match self.poll_for(PollFlags::POLLIN, sandbox::time_left())? {
            Some(got) if got.contains(PollFlags::POLLIN) => Ok(()),
            Some(got) => Err(Failure::fail(format!("poll for POLLIN (exited) on {self}: got {got:?}"))),
            None => Err(self.never("POLLIN (exited)")),
        }
    }

    /// Like [`Pidfd::wait_exited`], but in a busy loop, which also sees an exit that wakes no poller.
    #[track_caller]
    pub fn spin_until_exited(&self) -> Result {
        self.spin_until(PollFlags::POLLIN, "POLLIN (exited)")
    }

    /// Like [`Pidfd::wait_reaped`], but in a busy loop, which returns without the delay of a wakeup.
    #[track_caller]
    pub fn spin_until_reaped(&self) -> Result {
        self.spin_until(PollFlags::POLLHUP, "POLLHUP (reaped)")
    }

    #[track_caller]
    fn spin_until(&self, event: PollFlags, what: &str) -> Result {
        while !self.poll_now(PollFlags::POLLIN)?.contains(event) {
            if sandbox::time_left() == PollTimeout::ZERO {
                return Err(self.never(what));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Blocks until the process is reaped (POLLHUP): it is unhashed, its exit information is recorded, its
    /// pid is free.
    #[track_caller]
    pub fn wait_reaped(&self) -> Result {
        let Some(exited) = self.poll_for(PollFlags::POLLIN, sandbox::time_left())? else {
            return Err(self.never("POLLHUP (reaped), nor POLLIN (exited)"));
        };
        if !exited.contains(PollFlags::POLLHUP) {
            self.wait_hung_up()?;
        }
        note!("{self} reported POLLHUP");
        Ok(())
    }

    /// Waits from POLLIN to POLLHUP. The timeout is shorter if the exited process is a zombie that the caller
    /// could wait for: such a zombie rarely goes away by itself, and a run on a kernel that leaves many of
    /// them should not take hours.
    #[track_caller]
    fn wait_hung_up(&self) -> Result {
        let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        let zombie = matches!(wait::waitid(Who::pidfd(self), look), Ok(Some(_)));
        let short = PollTimeout::try_from(sandbox::patience() / 4).unwrap_or(PollTimeout::MAX);
        let patience = if zombie { short.min(sandbox::time_left()) } else { sandbox::time_left() };
        match self.poll_for(PollFlags::empty(), patience)? {
            Some(got) if got.contains(PollFlags::POLLHUP) => Ok(()),
            Some(got) => Err(Failure::fail(format!("poll for POLLHUP (reaped) on {self}: got {got:?}"))),
            None if zombie => {
                let pid = self.pid_in_fdinfo().unwrap_or(0);
                let now = procfs::describe(pid);
                Err(Failure::fail(format!(
                    "{self} did not report POLLHUP (reaped): the process is a zombie that wait calls find; now: {now}"
                )))
            }
            None => Err(self.never("POLLHUP (reaped)")),
        }
    }

    /// Calls `PIDFD_GET_INFO` with this request.
    pub fn info(&self, request: InfoMask) -> std::result::Result<PidfdInfo, Errno> {
        let mut info = PidfdInfo { mask: request.bits(), ..PidfdInfo::default() };
        // SAFETY: `info` is a live structure of exactly the size that the request number states.
        unsafe { self.raw_info(size_of::<PidfdInfo>(), (&raw mut info) as usize)? };
        Ok(info)
    }

    /// Calls `PIDFD_GET_INFO` with a buffer of any size, whose first eight bytes are the request.
    pub fn info_sized(&self, buffer: &mut [u8], size: usize) -> std::result::Result<(), Errno> {
        assert!(buffer.len() >= size, "the buffer is smaller than the size claimed");
        // SAFETY: the buffer has at least the `size` bytes that the request number states.
        unsafe { self.raw_info(size, buffer.as_mut_ptr() as usize) }
    }

    /// Calls `PIDFD_GET_INFO` for the exit information, with a constant as the structure: the kernel must report that it cannot write.
    pub fn info_read_only(&self) -> std::result::Result<(), Errno> {
        static REQUEST: [u64; size_of::<PidfdInfo>() / 8] = {
            let mut words = [0; size_of::<PidfdInfo>() / 8];
            words[0] = InfoMask::EXIT.bits();
            words
        };
        // SAFETY: the constant has the size that the request states, and is in memory that nobody can write.
        unsafe { self.raw_info(size_of::<PidfdInfo>(), (&raw const REQUEST) as usize) }
    }

    /// Calls `PIDFD_GET_INFO` with an address in the first page, which is never mapped: the kernel must
    /// report that.
    pub fn info_at(&self, address: u8) -> std::result::Result<(), Errno> {
        // SAFETY: none of our processes maps its first page.
        unsafe { self.raw_info(size_of::<PidfdInfo>(), address.into()) }
    }

    /// Calls the ioctl that opens one of the process's namespaces.
    pub fn namespace(&self, kind: Namespace) -> std::result::Result<OwnedFd, Errno> {
        self.namespace_with(kind, 0)
    }

    /// Like [`Pidfd::namespace`], with an argument, which the kernel must not use as an address.
    pub fn namespace_with(&self, kind: Namespace, argument: u8) -> std::result::Result<OwnedFd, Errno> {
        // SAFETY: the request takes no pointer; if the kernel used it as one, nothing is mapped there.
        let fd = unsafe {
            libc::ioctl(self.as_raw_fd(), kind.request() as libc::Ioctl, libc::c_ulong::from(argument))
        };
        // SAFETY: on success the kernel just created this descriptor, and nothing else owns it.
        Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Calls `FS_IOC_GETVERSION`, which returns the generation of the pidfd's inode.
    pub fn generation(&self) -> std::result::Result<u32, Errno> {
        // The request is defined for a long, but the kernel writes only an int.
        let mut generation = 0_u64;
        // SAFETY: the argument is a live word of the size that the request states.
        let done = unsafe { libc::ioctl(self.as_raw_fd(), libc::FS_IOC_GETVERSION, &raw mut generation) };
        Errno::result(done).map(|_| generation as u32)
    }

    /// Calls the ioctl `PIDFD_GET_INFO`.
    ///
    /// # Safety
    /// `address` must be unmapped (the kernel then reports that), or point to `size` bytes that the caller
    /// may change.
    pub(crate) unsafe fn raw_info(&self, size: usize, address: usize) -> std::result::Result<(), Errno> {
        let request = abi::pidfd_get_info_request(size);
        // SAFETY: the caller guarantees it.
        let done = unsafe { libc::ioctl(self.as_raw_fd(), request as libc::Ioctl, address) };
        Errno::result(done).map(drop)
    }

    /// Waits until the process is reaped, and returns the status that PIDFD_INFO_EXIT recorded.
    #[track_caller]
    pub fn exit_status(&self) -> Result<Status> {
        self.wait_reaped()?;
        self.recorded_exit_status()
    }

    /// Returns the status that PIDFD_INFO_EXIT recorded. The process must be reaped already.
    #[track_caller]
    pub fn recorded_exit_status(&self) -> Result<Status> {
        let info = self.info(InfoMask::EXIT);
        let info = check::succeeds(format_args!("PIDFD_GET_INFO(EXIT) on {self} after POLLHUP"), info)?;
        check::holds(
            info.given().contains(InfoMask::EXIT),
            format_args!(
                "PIDFD_GET_INFO(EXIT) on {self} after POLLHUP: expected the EXIT bit, got mask {}",
                info.given()
            ),
        )?;
        note!("exit information on {self}: {}", Status(info.exit_code));
        Ok(Status(info.exit_code))
    }

    /// Checks that the process is reaped without a wait call and that it ended as `expected`.
    #[track_caller]
    pub fn reaped_with(&self, expected: Status) -> Result {
        let got = self.exit_status()?;
        check::equal(format_args!("exit information on {self}"), got, expected)
    }

    /// Like [`Pidfd::reaped_with`], and checks that nothing else is left of the process with this pid: the
    /// caller has no such child, and no process has the pid.
    #[track_caller]
    pub fn gone_with(&self, pid: i32, expected: Status) -> Result {
        self.reaped_with(expected)?;
        wait::no_child(pid)?;
        wait::pid_is_free(pid)
    }

    /// Calls `pidfd_send_signal(2)`.
    pub fn send_signal(&self, signal: Signal) -> std::result::Result<(), Errno> {
        self.send_raw_signal(signal as i32)
    }

    /// Calls `pidfd_send_signal(2)` with any number. 0 only checks whether a signal could be sent.
    pub fn send_raw_signal(&self, signal: i32) -> std::result::Result<(), Errno> {
        self.send(signal, 0)
    }

    /// Calls `pidfd_send_signal(2)` with flags, which select the target.
    pub fn send_signal_to(&self, signal: Signal, flags: u32) -> std::result::Result<(), Errno> {
        self.send(signal as i32, flags)
    }

    /// Calls `pidfd_send_signal(2)` with a siginfo that says where the signal comes from (`si_code`), and
    /// with flags.
    pub fn send_signal_as(&self, signal: Signal, code: i32, flags: u32) -> std::result::Result<(), Errno> {
        // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        (info.si_signo, info.si_code) = (signal as i32, code);
        self.send_with(signal as i32, Some(&info), flags)
    }

    fn send(&self, signal: i32, flags: u32) -> std::result::Result<(), Errno> {
        self.send_with(signal, None, flags)
    }

    fn send_with(
        &self,
        signal: i32,
        info: Option<&libc::siginfo_t>,
        flags: u32,
    ) -> std::result::Result<(), Errno> {
        pidfd_send_signal(self.as_raw_fd(), signal, info, flags)
    }

    /// Calls `pidfd_getfd(2)`.
    pub fn getfd(&self, target: i32) -> std::result::Result<OwnedFd, Errno> {
        let got = rustix::process::pidfd_getfd(self, target, PidfdGetfdFlags::empty());
        got.map_err(check::errno_of)
    }

    /// Like [`Pidfd::getfd`], for a child of the caller, which may trace it.
    ///
    /// # Errors
    /// `blocked` if the environment may be the cause: tracing is not permitted, or a seccomp filter is
    /// active.
    #[track_caller]
    pub fn getfd_of_child(&self, target: i32) -> Result<OwnedFd> {
        let may = &Setting::get().probe.privileges;
        match self.getfd(target) {
            // A security module may forbid that an open file is passed on.
            Err(errno @ (Errno::EPERM | Errno::EACCES | Errno::ENOSYS))
                if !may.ptrace || may.seccomp == 2 || errno == Errno::EACCES =>
            {
                let why = if may.ptrace { "a filter?" } else { "Yama?" };
                Err(Failure::blocked(format!("pidfd_getfd from an own child is refused ({why}): {errno:?}")))
            }
            taken => check::succeeds("pidfd_getfd from an own child", taken),
        }
    }

    /// Calls `process_madvise(2)` with an empty array of ranges.
    pub fn madvise_nothing(&self) -> std::result::Result<(), Errno> {
        let none: *const libc::iovec = std::ptr::null();
        // SAFETY: the kernel does not read an array of no elements.
        let done = unsafe {
            libc::syscall(libc::SYS_process_madvise, self.as_raw_fd(), none, 0, libc::MADV_COLD, 0)
        };
        Errno::result(done).map(drop)
    }

    /// Calls `process_mrelease(2)`.
    pub fn mrelease(&self) -> std::result::Result<(), Errno> {
        // SAFETY: no pointers are passed.
        Errno::result(unsafe { libc::syscall(libc::SYS_process_mrelease, self.as_raw_fd(), 0) }).map(drop)
    }

    /// Returns the file status flags (`F_GETFL`).
    #[track_caller]
    pub fn status_flags(&self) -> Result<i32> {
        let flags = fcntl(self, FcntlArg::F_GETFL);
        check::succeeds(format_args!("F_GETFL on {self}"), flags)
    }

    /// Sets those file status flags that can be changed (`F_SETFL`).
    #[track_caller]
    pub fn set_status_flags(&self, flags: OFlag) -> Result {
        let set = fcntl(self, FcntlArg::F_SETFL(flags)).map(drop);
        check::succeeds(format_args!("F_SETFL({flags:?}) on {self}"), set)
    }

    /// Returns the `Pid:` line of `/proc/self/fdinfo`: 0 in a foreign namespace, -1 once the process is gone.
    pub fn pid_in_fdinfo(&self) -> Option<i32> {
        pid_in_fdinfo(self.as_raw_fd())
    }
}

/// The fields that are given for every live process, requested or not. CGROUPID is another where the kernel
/// has cgroups.
pub const IDENTITY: InfoMask = InfoMask::PID.union(InfoMask::CREDS);

/// Returns what the kernel gives for this request. The ioctl must succeed.
#[track_caller]
pub fn info(pidfd: &Pidfd, request: InfoMask) -> Result<PidfdInfo> {
    check::succeeds(format_args!("PIDFD_GET_INFO({request})"), pidfd.info(request))
}

/// Returns the mask that the kernel gave, without what it may give unasked: CGROUPID, which depends on its configuration, and
/// what later kernels add.
pub fn given(info: &PidfdInfo) -> InfoMask {
    info.given() & (InfoMask::known() - InfoMask::CGROUPID)
}

/// Calls an ioctl with the command number of `PIDFD_GET_INFO` but any direction and type, on any descriptor
/// whose driver does not know that number: `_IOC(direction, kind, 11, 88)`.
pub fn almost_info(fd: impl AsFd, direction: u32, kind: u8) -> std::result::Result<(), Errno> {
    let mut info = PidfdInfo::default();
    let whole = abi::pidfd_get_info_request(size_of::<PidfdInfo>());
    let request = (whole & 0x3fff_00ff) | direction << 30 | u32::from(kind) << 8;
    // SAFETY: `info` is a live structure of exactly the size that the request states.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as libc::Ioctl, &raw mut info) };
    Errno::result(done).map(drop)
}

impl std::fmt::Display for Pidfd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pidfd {}", self.as_raw_fd())
    }
}

/// Reads `/proc/self/fdinfo/FD`.
pub fn fdinfo(fd: i32) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
}

/// Like [`Pidfd::pid_in_fdinfo`], for the descriptor with this number. Returns `None` if that is not a pidfd.
pub fn pid_in_fdinfo(fd: i32) -> Option<i32> {
    let text = fdinfo(fd).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}
