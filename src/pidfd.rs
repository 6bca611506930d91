//! Pidfds: waiting on them, and asking them.
//!
//! Two events are told apart everywhere. *Exited* (POLLIN): the process is a zombie or past it; wait calls on
//! an auto-reaped child say ECHILD from here on, but its exit information may not be recorded yet. *Reaped*
//! (POLLHUP): it is unhashed; exit information is there, the pid is free. Never read exit information of an
//! auto-reaped child after POLLIN alone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::abi::{self, InfoMask, Namespace, PidfdInfo};
use crate::check::{self, Failure, Result};
use crate::need::Setting;
use crate::wait::{self, Status, Who};
use crate::{note, procfs, sandbox};

/// A pidfd that closes itself.
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

/// `pidfd_open(2)` with raw flags.
pub fn pidfd_open(pid: i32, flags: u32) -> std::result::Result<Pidfd, Errno> {
    // SAFETY: no pointers are passed.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })?;
    // SAFETY: the kernel just made this descriptor, and nobody else owns it.
    Ok(Pidfd(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}

fn pidfd_send_signal(
    number: i32,
    signal: i32,
    info: Option<&libc::siginfo_t>,
    flags: u32,
) -> std::result::Result<(), Errno> {
    let address = info.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: a null siginfo is allowed, another one is live, and no other pointer is passed.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, number, signal, address, flags) };
    let said = info.map_or_else(String::new, |info| format!("si_code {}, ", info.si_code));
    note!("pidfd_send_signal({number}, {signal}, {said}{flags}) = {sent}");
    Errno::result(sent).map(drop)
}

/// What stands for the caller itself in the place of a pidfd (`linux/fcntl.h` as of Linux 6.17; the numbers were others before).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oneself {
    /// `PIDFD_SELF`: the calling thread.
    Thread = -10000,
    /// `PIDFD_SELF_PROCESS`: its process.
    Process = -10001,
}

impl Oneself {
    /// `pidfd_send_signal(2)`.
    pub fn send_signal(self, signal: Signal) -> std::result::Result<(), Errno> {
        pidfd_send_signal(self as i32, signal as i32, None, 0)
    }
}

impl Pidfd {
    /// `pidfd_open(pid, 0)`.
    pub fn try_open(pid: i32) -> std::result::Result<Pidfd, Errno> {
        pidfd_open(pid, 0)
    }

    /// `pidfd_open(pid, 0)` of a process that is known to be there.
    #[track_caller]
    pub fn open(pid: i32) -> Result<Pidfd> {
        check::succeeds(format_args!("pidfd_open({pid}, 0)"), Pidfd::try_open(pid))
    }

    /// `pidfd_open(tid, PIDFD_THREAD)` of a thread that is known to be there.
    #[track_caller]
    pub fn of_thread(tid: i32) -> Result<Pidfd> {
        check::succeeds(format_args!("pidfd_open({tid}, PIDFD_THREAD)"), pidfd_open(tid, abi::PIDFD_THREAD))
    }

    /// Another descriptor for the same open file, close-on-exec: a reference of its own.
    pub fn try_clone(&self) -> Result<Pidfd> {
        Ok(Pidfd(self.0.try_clone()?))
    }

    /// Closes it, checking that close(2) says success. The last close of an auto-kill pidfd kills.
    #[track_caller]
    pub fn close(self) -> Result {
        let fd = self.0.as_raw_fd();
        let owned = std::mem::ManuallyDrop::new(self.0);
        // SAFETY: `owned` will not be dropped, so this is the only close of the descriptor.
        let closed = Errno::result(unsafe { libc::close(owned.as_raw_fd()) });
        note!("close({fd}) = {}", check::outcome_of(&closed));
        check::succeeds(format_args!("close({fd})"), closed).map(drop)
    }

    /// Gives up ownership: the number alone, which something else must close.
    pub fn into_number(self) -> i32 {
        self.0.into_raw_fd()
    }

    /// What poll(2) reports at this moment for `events`.
    #[track_caller]
    pub fn poll_now(&self, events: PollFlags) -> Result<PollFlags> {
        let mut fds = [PollFd::new(self.as_fd(), events)];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        check::succeeds(format_args!("poll on {self} for {events:?}, timeout 0"), polled)?;
        Ok(fds[0].revents().unwrap_or(PollFlags::empty()))
    }

    /// Blocks until poll(2) reports something, asking for `events`; `None` when `patience` has passed.
    #[track_caller]
    fn poll_for(&self, events: PollFlags, patience: PollTimeout) -> Result<Option<PollFlags>> {
        loop {
            let mut fds = [PollFd::new(self.as_fd(), events)];
            match poll(&mut fds, patience) {
                Err(Errno::EINTR) => {}
                polled => {
                    let ready = check::succeeds(format_args!("poll on {self} for {events:?}"), polled)?;
                    return Ok(if ready == 0 { None } else { fds[0].revents() });
                }
            }
        }
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
    /// not be there yet.
    #[track_caller]
    pub fn wait_exited(&self) -> Result {
        match self.poll_for(PollFlags::POLLIN, sandbox::time_left())? {
            Some(got) if got.contains(PollFlags::POLLIN) => Ok(()),
            Some(got) => Err(Failure::fail(format!("poll for POLLIN (exited) on {self}: got {got:?}"))),
            None => Err(self.never("POLLIN (exited)")),
        }
    }

    /// As [`Pidfd::wait_exited`], but looks all the time and so sees what would wake nobody.
    #[track_caller]
    pub fn spin_until_exited(&self) -> Result {
        self.spin_until(PollFlags::POLLIN, "POLLIN (exited)")
    }

    /// As [`Pidfd::wait_reaped`], but looks all the time and so is there at once.
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

    /// Blocks until the process is reaped (POLLHUP): unhashed, its exit information recorded, its pid free.
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

    /// From POLLIN to POLLHUP. Where the exited process is a zombie that this very process could wait for, it is
    /// given a shorter time: such a zombie hardly ever goes away by itself, and a kernel that makes many of them
    /// should not take hours to be told so.
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

    /// `PIDFD_GET_INFO` with this request.
    pub fn info(&self, request: InfoMask) -> std::result::Result<PidfdInfo, Errno> {
        let mut info = PidfdInfo { mask: request.bits(), ..PidfdInfo::default() };
        // SAFETY: `info` is a live structure of exactly the size that the request number states.
        unsafe { self.raw_info(size_of::<PidfdInfo>(), (&raw mut info) as usize)? };
        Ok(info)
    }

    /// `PIDFD_GET_INFO` into a buffer of any size, whose first eight bytes are the request.
    pub fn info_sized(&self, buffer: &mut [u8], size: usize) -> std::result::Result<(), Errno> {
        assert!(buffer.len() >= size, "the buffer is smaller than the size claimed");
        // SAFETY: the buffer has at least the `size` bytes that the request number states.
        unsafe { self.raw_info(size, buffer.as_mut_ptr() as usize) }
    }

    /// `PIDFD_GET_INFO` with an address in the first page, where nothing can be: the kernel has to say so.
    pub fn info_at(&self, address: u8) -> std::result::Result<(), Errno> {
        // SAFETY: no process of ours maps its first page.
        unsafe { self.raw_info(size_of::<PidfdInfo>(), address.into()) }
    }

    /// The ioctl that opens one of the process's namespaces.
    pub fn namespace(&self, kind: Namespace) -> std::result::Result<OwnedFd, Errno> {
        self.namespace_with(kind, 0)
    }

    /// As [`Pidfd::namespace`], with an argument, which the kernel must not take for an address.
    pub fn namespace_with(&self, kind: Namespace, argument: u8) -> std::result::Result<OwnedFd, Errno> {
        // SAFETY: the request takes no pointer; were it taken for one, nothing is mapped there.
        let fd = unsafe {
            libc::ioctl(self.as_raw_fd(), kind.request() as libc::Ioctl, libc::c_ulong::from(argument))
        };
        // SAFETY: on success the kernel just made this descriptor, and nobody else owns it.
        Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// `FS_IOC_GETVERSION`: the generation of its inode.
    pub fn generation(&self) -> std::result::Result<u32, Errno> {
        // _IOR('v', 1, long), of which the kernel writes an int.
        const REQUEST: u32 = 0x8008_7601;
        let mut generation = 0_u64;
        // SAFETY: the argument is a live word, as large as the request states.
        let done = unsafe { libc::ioctl(self.as_raw_fd(), REQUEST as libc::Ioctl, &raw mut generation) };
        Errno::result(done).map(|_| generation as u32)
    }

    /// The ioctl itself.
    ///
    /// # Safety
    /// `address` must be unmapped (the kernel then says so), or `size` bytes that the caller may change.
    pub(crate) unsafe fn raw_info(&self, size: usize, address: usize) -> std::result::Result<(), Errno> {
        let request = abi::pidfd_get_info_request(size);
        // SAFETY: passed on to the caller.
        let done = unsafe { libc::ioctl(self.as_raw_fd(), request as libc::Ioctl, address) };
        Errno::result(done).map(drop)
    }

    /// Waits until the process is reaped, and gives the status that PIDFD_INFO_EXIT recorded.
    #[track_caller]
    pub fn exit_status(&self) -> Result<Status> {
        self.wait_reaped()?;
        self.recorded_exit_status()
    }

    /// The status that PIDFD_INFO_EXIT recorded, of a process that is reaped.
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

    /// The process must be reaped without a wait, having ended as `expected`.
    #[track_caller]
    pub fn reaped_with(&self, expected: Status) -> Result {
        let got = self.exit_status()?;
        check::equal(format_args!("exit information on {self}"), got, expected)
    }

    /// As [`Pidfd::reaped_with`]; and nothing else may be left of the process, whose pid this was: no child of the
    /// caller's, and nobody has the pid.
    #[track_caller]
    pub fn gone_with(&self, pid: i32, expected: Status) -> Result {
        self.reaped_with(expected)?;
        wait::no_child(pid)?;
        wait::pid_is_free(pid)
    }

    /// `pidfd_send_signal(2)`.
    pub fn send_signal(&self, signal: Signal) -> std::result::Result<(), Errno> {
        self.send_raw_signal(signal as i32)
    }

    /// `pidfd_send_signal(2)` with any number; 0 only asks whether one could.
    pub fn send_raw_signal(&self, signal: i32) -> std::result::Result<(), Errno> {
        self.send(signal, 0)
    }

    /// `pidfd_send_signal(2)` with flags, which say whom to signal.
    pub fn send_signal_to(&self, signal: Signal, flags: u32) -> std::result::Result<(), Errno> {
        self.send(signal as i32, flags)
    }

    /// `pidfd_send_signal(2)` with information that says where the signal came from (`si_code`), and with flags.
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

    /// `pidfd_getfd(2)`.
    pub fn getfd(&self, target: i32) -> std::result::Result<OwnedFd, Errno> {
        // SAFETY: no pointers are passed.
        let fd =
            Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.as_raw_fd(), target, 0_u32) })?;
        // SAFETY: the kernel just made this descriptor, and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    /// As [`Pidfd::getfd`], from a child of the caller, who may trace it.
    ///
    /// # Errors
    /// `blocked` where it may be the environment that refuses: where nobody may trace, or a filter says what may be called.
    #[track_caller]
    pub fn getfd_of_child(&self, target: i32) -> Result<OwnedFd> {
        let may = &Setting::get().probe.privileges;
        match self.getfd(target) {
            Err(errno @ (Errno::EPERM | Errno::ENOSYS)) if !may.ptrace || may.seccomp == 2 => {
                let why = if may.ptrace { "a seccomp filter?" } else { "Yama?" };
                Err(Failure::blocked(format!("pidfd_getfd from an own child is refused ({why}): {errno:?}")))
            }
            taken => check::succeeds("pidfd_getfd from an own child", taken),
        }
    }

    /// `process_madvise(2)` about no memory at all.
    pub fn madvise_nothing(&self) -> std::result::Result<(), Errno> {
        let none: *const libc::iovec = std::ptr::null();
        // SAFETY: an array of no elements is not read.
        let done = unsafe {
            libc::syscall(libc::SYS_process_madvise, self.as_raw_fd(), none, 0, libc::MADV_COLD, 0)
        };
        Errno::result(done).map(drop)
    }

    /// `process_mrelease(2)`.
    pub fn mrelease(&self) -> std::result::Result<(), Errno> {
        // SAFETY: no pointers are passed.
        Errno::result(unsafe { libc::syscall(libc::SYS_process_mrelease, self.as_raw_fd(), 0) }).map(drop)
    }

    /// `F_GETFL`: the file status flags.
    #[track_caller]
    pub fn status_flags(&self) -> Result<i32> {
        let flags = fcntl(self, FcntlArg::F_GETFL);
        check::succeeds(format_args!("F_GETFL on {self}"), flags)
    }

    /// `F_SETFL`: changes those file status flags that can be changed.
    #[track_caller]
    pub fn set_status_flags(&self, flags: OFlag) -> Result {
        let set = fcntl(self, FcntlArg::F_SETFL(flags)).map(drop);
        check::succeeds(format_args!("F_SETFL({flags:?}) on {self}"), set)
    }

    /// The `Pid:` line of `/proc/self/fdinfo`: 0 in a foreign namespace, -1 once the process is gone.
    pub fn pid_in_fdinfo(&self) -> Option<i32> {
        pid_in_fdinfo(self.as_raw_fd())
    }
}

/// Given for every live process, asked for or not, along with CGROUPID where the kernel has cgroups.
pub const IDENTITY: InfoMask = InfoMask::PID.union(InfoMask::CREDS);

/// What the kernel gives for this request, which it must not refuse.
#[track_caller]
pub fn info(pidfd: &Pidfd, request: InfoMask) -> Result<PidfdInfo> {
    check::succeeds(format_args!("PIDFD_GET_INFO({request})"), pidfd.info(request))
}

/// The returned mask but for CGROUPID, which depends on the kernel's configuration.
pub fn given(info: &PidfdInfo) -> InfoMask {
    info.given() - InfoMask::CGROUPID
}

/// An ioctl with the number of `PIDFD_GET_INFO`, and direction, type and size as one likes, on any descriptor
/// of which no driver knows that number: `_IOC(direction, kind, 11, 88)`.
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

/// `/proc/self/fdinfo/FD`.
pub fn fdinfo(fd: i32) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
}

/// As [`Pidfd::pid_in_fdinfo`], of the descriptor with this number; `None` if that is no pidfd.
pub fn pid_in_fdinfo(fd: i32) -> Option<i32> {
    let text = fdinfo(fd).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}
