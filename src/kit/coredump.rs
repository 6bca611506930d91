//! Core dumps, received by the case over a socket (`core_pattern` `@/path`, Linux 6.16) or by a helper program (`|/path %F`).

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use linkme::distributed_slice;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{getsockopt, sockopt};

use crate::abi::{CoredumpMask, Flags, InfoMask};
use crate::check::{self, Context as _, Failure, Result};
use crate::clone3::Clone3;
use crate::kit::Place;
use crate::kit::crash::Crash;
use crate::kit::helper::{self, HELPERS, Helper};
use crate::kit::programs::{fd, or_wrong};
use crate::kit::subject;
use crate::kit::sysctl::{Changed, Sysctl};
use crate::pidfd::Pidfd;
use crate::procfs::Task;
use crate::{note, sandbox, wait};

/// A core dump server: while it exists, it receives every core dump of the system.
#[derive(Debug)]
pub struct Server {
    // Dropped first, so that no dump goes to a socket that is gone.
    pattern: Changed,
    listener: UnixListener,
    place: Place,
}

impl Server {
    /// Starts the server and checks that it receives the core dumps of ordinary children. Call this before anything is made
    /// whose last close is awaited, as for [`Sysctl::set`].
    ///
    /// # Errors
    /// `blocked` if it does not.
    #[track_caller]
    pub fn start() -> Result<Server> {
        let place = Place::new()?;
        let socket = place.of("socket");
        let listener = place.listen("socket")?;
        // A connection that poll reports may be gone when it is accepted.
        listener.set_nonblocking(true)?;
        let server = Server { pattern: Sysctl::CorePattern.set(&format!("@{socket}"))?, listener, place };
        let child = Clone3::fork().with(Flags::PIDFD).spawn(|| Crash::Abort.now())?;
        let came = server.accept(child.pidfd()?)?;
        let arrived = came.is_some();
        came.map_or(Ok(()), Dump::take)?;
        let status = subject::wait_until_gone(&child)?;
        if !arrived {
            let how = status.map_or_else(String::new, |status| format!(": a child {status} without one"));
            return Err(Failure::blocked(format!("core dumps do not come to a socket here{how}")));
        }
        check::equal(
            "control: wait status of a child that dumped core",
            status,
            Some(Crash::Abort.dumped()),
        )?;
        Ok(server)
    }

    /// Waits until this process begins to dump core; returns `None` if it ends without a dump.
    #[track_caller]
    pub fn accept(&self, process: &Pidfd) -> Result<Option<Dump>> {
        loop {
            // The order matters: a process that is seen dead has either connected by then or never will.
            let ended = self.wait_for_news(process)?;
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let dump = Dump { stream };
                    if dump.is_of(process)? {
                        return Ok(Some(dump));
                    }
                    note!("a core dump of some other process, refused");
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ended {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Like [`Server::accept`], for a process that must dump core.
    #[track_caller]
    pub fn begin_dump_of(&self, process: &Pidfd) -> Result<Dump> {
        match self.accept(process)? {
            Some(dump) => Ok(dump),
            None => Err(Failure::fail("the child ended without dumping core, where the control did")),
        }
    }

    /// Like [`Server::begin_dump_of`], but reads the whole dump.
    #[track_caller]
    pub fn take_dump_of(&self, process: &Pidfd) -> Result {
        self.begin_dump_of(process)?.take()
    }

    /// Blocks until there is a connection or `process` has ended; returns whether it has ended.
    #[track_caller]
    fn wait_for_news(&self, process: &Pidfd) -> Result<bool> {
        let ended = PollFd::new(process.as_fd(), PollFlags::POLLIN);
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN), ended];
        if !sandbox::wait_for(&mut fds)? {
            let waited = sandbox::patience();
            return Err(Failure::fail(format!(
                "neither a core dump nor the child's end within {waited:.1?}"
            )));
        }
        Ok(fds[1].any().unwrap_or(false))
    }

    /// Sends dumps to a socket without a listener.
    pub fn to_nobody(&self) -> Result {
        self.pattern.change(&format!("@{}", self.place.of("nobody")))
    }

    /// Has the kernel ask the server how to make each dump (`@@/path`, Linux 6.17): see [`Dump::answer`].
    pub fn to_asked_server(&self) -> Result {
        self.pattern.change(&format!("@@{}", self.place.of("socket")))
    }

    /// Sends dumps to a regular file. The dumping process must allow large ones: see [`allow_core_files`].
    pub fn to_file(&self) -> Result {
        self.pattern.change(&self.place.of("core"))
    }

    /// Sends dumps to a helper program that reads them to the end; with `pidfd`, the helper gets a pidfd (`%F`).
    pub fn to_helper(&self, pidfd: bool) -> Result {
        let name = self.helper()?;
        self.pattern.change(&format!("|{name} drain{}", if pidfd { " %F" } else { "" }))
    }

    /// Sends dumps to a helper program that queries its pidfd before it reads them.
    pub fn to_asking_helper(&self) -> Result {
        let name = self.helper()?;
        self.pattern.change(&format!("|{name} ask %F {}", self.place.of("told")))
    }

    /// Sends dumps to helper programs that stay after they have read them, and makes the dumping processes wait for them.
    /// Checks that the dump of an ordinary child starts such a helper.
    ///
    /// # Errors
    /// `blocked` if it does not.
    #[track_caller]
    pub fn to_lingering_helpers(&self) -> Result<Lingering> {
        let (name, socket) = (self.helper()?, self.place.of("lingering"));
        let listener = self.place.listen("lingering")?;
        let limit = Sysctl::CorePipeLimit.set("4")?;
        self.pattern.change(&format!("|{name} linger %F {socket}"))?;
        let child = Clone3::fork().with(Flags::PIDFD).spawn(|| Crash::Abort.with_large_core())?;
        drop(accept_before_end(&listener, child.pidfd()?)?);
        child.reap_expecting(Crash::Abort.dumped())?;
        Ok(Lingering { _limit: limit, listener })
    }

    /// Returns what the pidfd reported to the helper of the last dump: `coredump_mask`, and `coredump_signal` by its name.
    /// Call this once per dump.
    ///
    /// # Errors
    /// The error that the helper got, for example if its pidfd could not be queried; `broken` if it left no answer.
    #[track_caller]
    pub fn told(&self) -> Result<(CoredumpMask, String)> {
        let file = self.place.of("told");
        let text = fs::read(&file).map_err(|error| {
            Failure::broken(format!("the helper that core_pattern names has left no answer: {error}"))
        })?;
        fs::remove_file(file)?;
        let answer: Result<(u32, u32)> = serde_json::from_slice(&text)
            .map_err(|error| Failure::broken(format!("the helper's answer: {error}")))?;
        let (mask, signal) = answer.context("the helper of the core dump")?;
        Ok((CoredumpMask::from_bits_retain(mask), wait::signal_name(signal as i32)))
    }

    /// Returns the path of a helper program: a symbolic link to this program, because the kernel looks the helper up by its path.
    fn helper(&self) -> Result<String> {
        let program = fs::read_link("/proc/self/exe")?;
        let name = self.place.of(helper::NAME);
        if let Err(error) = std::os::unix::fs::symlink(program, &name)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error.into());
        }
        Ok(name)
    }
}

/// The socket to which helper programs connect that stay after they have read a dump.
#[derive(Debug)]
pub struct Lingering {
    _limit: Changed,
    listener: UnixListener,
}

impl Lingering {
    /// Waits until a helper has read the whole dump of this process, which waits for the helper from then on.
    #[track_caller]
    pub fn take_dump_of(&self, process: &Pidfd) -> Result<Lingerer> {
        let helper = accept_before_end(&self.listener, process).map_err(Failure::after_control)?;
        let helper = Lingerer(helper);
        match rustix::io::read(&helper.0, &mut [0_u8; 1])? {
            0 => Err(Failure::broken("the helper ended before it had read the dump")),
            _ => Ok(helper),
        }
    }
}

/// Waits for a helper to connect, or for the end of the process that dumps core.
#[track_caller]
pub(super) fn accept_before_end(listener: &UnixListener, process: &Pidfd) -> Result<UnixStream> {
    let ended = PollFd::new(process.as_fd(), PollFlags::POLLIN);
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN), ended];
    if !sandbox::wait_for(&mut fds)? {
        let waited = sandbox::patience();
        return Err(Failure::fail(format!(
            "neither a helper for the core dump nor the child's end within {waited:.1?}"
        )));
    }
    match fds[0].any() {
        Some(true) => Ok(listener.accept()?.0),
        _ => Err(Failure::blocked("a core dump starts no helper here")),
    }
}

/// A helper program that has read a core dump and stays.
#[derive(Debug)]
pub struct Lingerer(UnixStream);

impl Lingerer {
    /// Fails unless the process whose dump it read waits for it and has not exited.
    #[track_caller]
    pub fn is_waited_for(&self, process: &Pidfd, pid: i32) -> Result {
        sleeps(
            process,
            pid,
            "the helper that took its core dump still looks at it, with kernel.core_pipe_limit not 0",
        )
    }

    /// Lets it exit.
    pub fn dismiss(self) -> Result {
        rustix::io::write(&self.0, b"g")?;
        Ok(())
    }
}

/// Fails unless a process that has dumped core sleeps and has not exited; `reason` says why it should.
#[track_caller]
fn sleeps(process: &Pidfd, pid: i32, reason: &str) -> Result {
    // An exiting process is still visible for a while too, but it does not sleep.
    while Task::of(pid).is_none_or(|task| task.state != 'S') {
        if process.poll_now(PollFlags::POLLIN)?.contains(PollFlags::POLLIN) {
            return Err(Failure::fail(format!("process {pid} has exited while {reason}")));
        }
        if sandbox::time_left() == PollTimeout::ZERO {
            let now = crate::procfs::describe(pid);
            return Err(Failure::fail(format!(
                "process {pid} neither exits nor sleeps while {reason}: {now}"
            )));
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Allows the calling process to write a core file of any size.
pub fn allow_core_files() -> Result {
    use rustix::process::{Resource, Rlimit, setrlimit};
    Ok(setrlimit(Resource::Core, Rlimit { current: None, maximum: None })?)
}

/// How a server that is asked wants a dump to be made: bits of `linux/coredump.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// The kernel writes it (`COREDUMP_KERNEL`).
    FromKernel = 1,
    /// The server generates it (`COREDUMP_USERSPACE`).
    OwnWork = 2,
    /// No dump (`COREDUMP_REJECT`).
    None = 4,
    /// As `OwnWork`, and the process waits until the server has closed the connection (`COREDUMP_WAIT`).
    OwnWorkWithTime = 2 | 8,
}

/// A core dump in progress: the dumping process is at the other end of the connection.
#[derive(Debug)]
pub struct Dump {
    stream: UnixStream,
}

impl Dump {
    /// Returns a pidfd of the dumping process, from the socket.
    #[track_caller]
    pub fn peer(&self) -> Result<Pidfd> {
        let pidfd: std::result::Result<OwnedFd, Errno> = getsockopt(&self.stream, sockopt::PeerPidfd);
        match pidfd {
            Ok(pidfd) => Ok(Pidfd::from(pidfd)),
            Err(errno) => Err(Failure::from(errno).within("SO_PEERPIDFD")),
        }
    }

    /// Reads the kernel's request about how to make the dump, and answers it.
    #[track_caller]
    pub fn answer(&mut self, ack: Ack) -> Result {
        const SIZE: u32 = 16;
        // `struct coredump_req`: two sizes, and the mask of answers that the kernel accepts.
        let (mut question, mut mark) = ([0; SIZE as usize], [0; 4]);
        self.stream.read_exact(&mut question)?;
        // `struct coredump_ack`: its size, a spare field, and the answer.
        let mut answer = [0; SIZE as usize];
        answer[..4].copy_from_slice(&SIZE.to_ne_bytes());
        answer[8..].copy_from_slice(&(ack as u64).to_ne_bytes());
        self.stream.write_all(&answer)?;
        self.stream.read_exact(&mut mark)?;
        note!("asked how to dump core: {question:?}; answered {ack:?}; mark {mark:?}");
        // COREDUMP_MARK_REQACK.
        check::equal("the kernel's mark behind the server's answer", u32::from_ne_bytes(mark), 0)
    }

    /// Fails unless the process waits for the server to close the connection and has not exited.
    #[track_caller]
    pub fn is_waited_for(&self, process: &Pidfd, pid: i32) -> Result {
        sleeps(process, pid, "the server that answered COREDUMP_WAIT has the connection")
    }

    #[track_caller]
    fn is_of(&self, process: &Pidfd) -> Result<bool> {
        // Compares the inodes on pidfs: the process may be dead and reaped by now, without a pid.
        let number = |pidfd: &Pidfd| rustix::fs::fstat(pidfd).map(|stat| stat.st_ino);
        Ok(number(&self.peer()?)? == number(process)?)
    }

    /// Reads the dump to the end, and lets the process continue.
    pub fn take(self) -> Result {
        self.read().map(drop)
    }

    /// Likewise; returns the dump.
    pub fn read(mut self) -> Result<Vec<u8>> {
        let mut core = Vec::with_capacity(128 * 1024);
        self.stream.read_to_end(&mut core)?;
        note!("core dump of {} bytes", core.len());
        Ok(core)
    }
}

#[distributed_slice(HELPERS)]
static DRAIN: Helper = Helper { name: "drain", main: drain };

/// Helper that the kernel starts: reads the core dump to the end.
fn drain(_: &[String]) -> i32 {
    i32::from(io::copy(&mut io::stdin(), &mut io::sink()).is_err())
}

#[distributed_slice(HELPERS)]
static LINGER: Helper = Helper { name: "linger", main: |arguments| or_wrong(linger(arguments)) };

/// `linger PIDFD SOCKET`, started by the kernel: reads the core dump to the end, reports that, and stays until it is told
/// to exit or the connection is closed.
fn linger(arguments: &[String]) -> Result<i32> {
    let line = UnixStream::connect(arguments.get(1).map_or("", String::as_str))?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    rustix::io::write(&line, b"r")?;
    rustix::io::read(&line, &mut [0_u8; 1])?;
    Ok(0)
}

#[distributed_slice(HELPERS)]
static ASK: Helper = Helper { name: "ask", main: |arguments| or_wrong(ask(arguments)) };

/// `ask PIDFD FILE`, started by the kernel: writes to FILE what the pidfd reports about the dump, and then reads the core
/// dump to the end.
fn ask(arguments: &[String]) -> Result<i32> {
    let file = arguments.get(1).ok_or_else(|| Failure::broken("no file for the answer"))?;
    let told = serde_json::to_vec(&dump_as_told_by(arguments))
        .map_err(|error| Failure::broken(format!("the answer: {error}")))?;
    fs::write(file, told)?;
    Ok(drain(&[]))
}

/// Returns what PIDFD_GET_INFO reports about the dump, for the pidfd in the first argument.
fn dump_as_told_by(arguments: &[String]) -> Result<(u32, u32)> {
    let pidfd = Pidfd::from(fd(arguments, 0)?);
    let request = InfoMask::COREDUMP | InfoMask::COREDUMP_SIGNAL;
    let told = check::succeeds("PIDFD_GET_INFO", pidfd.info(request))?;
    Ok((told.coredump_mask, told.coredump_signal))
}
