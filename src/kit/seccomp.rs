//! Seccomp filters for one system call, such as a hardened host or a container installs. For tests of the suite in such
//! environments.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::ioctl::{Ioctl, Opcode, Updater, ioctl};

use crate::check::{Failure, Named, Result, errno_of};
use crate::clone3::{Child, Clone3};
use crate::kit::{Channel, fdpass};
use crate::{note, sandbox};

/// The result of the system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It fails.
    Errno(Errno),
    /// SIGSYS kills the process.
    KillProcess,
    /// SIGSYS kills the thread, and the process if that is its only thread.
    KillThread,
    /// The thread gets SIGSYS.
    Trap,
}

impl Refusal {
    fn action(self) -> u32 {
        match self {
            Refusal::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
            Refusal::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Refusal::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Refusal::Trap => libc::SECCOMP_RET_TRAP,
        }
    }
}

/// Refuses this system call to the calling process and its descendants, permanently. Needs no_new_privs or CAP_SYS_ADMIN.
pub fn refuse(syscall: libc::c_long, refusal: Refusal) -> std::result::Result<(), Errno> {
    install(syscall, refusal.action(), 0).map(drop)
}

/// Like [`refuse`], but each call is reported to a supervisor, the process that holds the returned descriptor.
pub fn ask_supervisor(syscall: libc::c_long) -> std::result::Result<OwnedFd, Errno> {
    let fd = install(syscall, libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: with this flag the kernel returns a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Like [`ask_supervisor`], but sends the descriptor to the supervisor at the other end of `line` and keeps none.
///
/// # Errors
/// `blocked` if there can be no such filter.
pub fn hand_to_supervisor(syscall: libc::c_long, line: impl AsFd) -> Result {
    rustix::thread::set_no_new_privs(true)?;
    let listener = ask_supervisor(syscall).map_err(|errno| {
        Failure::blocked(format!("a filter with a supervisor fails with {}", Named(errno)))
    })?;
    fdpass::send(line, listener)
}

/// Makes a child by `call` whose sched_yield(2) is reported to the returned supervisor. The child runs `body` and exits with the result.
///
/// # Errors
/// `blocked` if there can be no such filter.
#[track_caller]
pub fn supervised(call: &Clone3, body: impl FnOnce() -> i32) -> Result<(Child, Supervisor)> {
    let (ours, theirs) = fdpass::pair()?;
    let told = Channel::<Result>::new()?;
    let child = call.spawn(|| {
        // The receiver sees a failed send as the end of the stream.
        let _ = told.send(&hand_to_supervisor(libc::SYS_sched_yield, &theirs));
        body()
    })?;
    told.recv_from(&child)??;
    Ok((child, Supervisor::new(fdpass::receive(&ours)?)))
}

/// Installs a filter of four instructions: load the number of the system call, compare it, and return one of two actions.
fn install(
    syscall: libc::c_long,
    action: u32,
    flags: libc::c_ulong,
) -> std::result::Result<libc::c_long, Errno> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        // The number is at the beginning of struct seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, syscall as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the instructions that `filter` points to; both are live.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    Errno::result(done)
}

const RECEIVE: Opcode = libc::SECCOMP_IOCTL_NOTIF_RECV as Opcode;
const SEND: Opcode = libc::SECCOMP_IOCTL_NOTIF_SEND as Opcode;

/// A system call that waits for its supervisor.
pub struct Call(libc::seccomp_notif);

impl Call {
    /// Returns its arguments.
    pub fn arguments(&self) -> [u64; 6] {
        self.0.data.args
    }

    /// Reads a word of the caller's memory.
    pub fn word_at(&self, address: u64) -> std::io::Result<u64> {
        let mut word = [0; 8];
        std::fs::File::open(format!("/proc/{}/mem", self.0.pid))?.read_exact_at(&mut word, address)?;
        Ok(u64::from_ne_bytes(word))
    }
}

/// The supervisor of the system calls behind a descriptor of [`ask_supervisor`].
#[derive(Debug)]
pub struct Supervisor(OwnedFd);

impl Supervisor {
    /// Makes a supervisor from this descriptor.
    pub fn new(listener: OwnedFd) -> Supervisor {
        Supervisor(listener)
    }

    /// Waits for the next system call; returns `None` when no process is left that could make one.
    #[track_caller]
    pub fn next(&self) -> std::result::Result<Option<Call>, Errno> {
        loop {
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            sandbox::wait_within(&mut fds, PollTimeout::NONE)?;
            if !fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
                return Ok(None);
            }
            // SAFETY: plain numbers, all of which may be zero; the kernel requires that they are.
            let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the kernel reads and writes this structure, which has the layout of the request.
            match self.control(unsafe { Updater::<RECEIVE, _>::new(&mut call) }) {
                Ok(()) => return Ok(Some(Call(call))),
                // The caller has been killed meanwhile.
                Err(Errno::ENOENT | Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Like [`Supervisor::next`], within the time limit of the case.
    #[track_caller]
    pub fn next_in_time(&self) -> Result<Option<Call>> {
        if sandbox::wait_for(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)])? {
            return Ok(self.next()?);
        }
        let waited = sandbox::patience();
        Err(Failure::fail(format!("no system call came to its supervisor within {waited:.1?}")))
    }

    /// Answers a system call with an error, or lets the kernel execute it.
    pub fn answer(&self, call: &Call, error: Option<Errno>) -> std::result::Result<(), Errno> {
        let (error, flags) = match error {
            Some(errno) => (-(errno as i32), 0),
            None => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        };
        let mut answer = libc::seccomp_notif_resp { id: call.0.id, val: 0, error, flags };
        // SAFETY: as in `next`.
        match self.control(unsafe { Updater::<SEND, _>::new(&mut answer) }) {
            Err(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Makes a descriptor of this file in the calling process, at any free number, and answers the system call with that number
    /// (`SECCOMP_ADDFD_FLAG_SEND`, Linux 5.14).
    pub fn answer_with_file(&self, call: &Call, file: impl AsFd) -> std::result::Result<RawFd, Errno> {
        self.add_fd(call, file, libc::SECCOMP_ADDFD_FLAG_SEND, 0)
    }

    /// Replaces this descriptor of the calling process, as dup2(2) does (`SECCOMP_ADDFD_FLAG_SETFD`). The call still waits.
    pub fn replace_file(&self, call: &Call, file: impl AsFd, fd: RawFd) -> std::result::Result<(), Errno> {
        self.add_fd(call, file, libc::SECCOMP_ADDFD_FLAG_SETFD, fd as u32).map(drop)
    }

    fn add_fd(
        &self,
        call: &Call,
        file: impl AsFd,
        flags: libc::c_ulong,
        newfd: u32,
    ) -> std::result::Result<RawFd, Errno> {
        let srcfd = file.as_fd().as_raw_fd();
        let request = libc::seccomp_notif_addfd {
            id: call.0.id,
            flags: flags as u32,
            srcfd: srcfd as u32,
            newfd,
            newfd_flags: 0,
        };
        // SAFETY: the kernel reads this live structure, which has the layout of the request.
        let fd =
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request) };
        note!("SECCOMP_IOCTL_NOTIF_ADDFD of descriptor {srcfd}, flags {flags:#x} = {fd}");
        Errno::result(fd)
    }

    fn control<T>(&self, operation: impl Ioctl<Output = T>) -> std::result::Result<T, Errno> {
        // SAFETY: the operations above are valid for this kind of descriptor.
        unsafe { ioctl(&self.0, operation) }.map_err(errno_of)
    }
}
