//! PING: an exact oracle for "alive" and "dead", without a timeout.
//!
//! The child echoes bytes between two pipes of which the parent keeps only its own ends. A byte that comes
//! back says "alive"; the end of the stream says "dead". It is exact for auto-kill because the kernel queues
//! SIGKILL before close(2) returns, so a doomed child never runs another instruction of its own. It is not
//! valid where the last reference goes away asynchronously (io_uring, UNIX garbage collection): wait for
//! POLLHUP there.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::check::{self, Context as _, Failure, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::Channel;
use crate::kit::channel::read_byte;
use crate::kit::helper::{self, Command};
use crate::kit::process::spawn_once_free;
use crate::{note, procfs};

/// What a ping found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// The child answered.
    Alive,
    /// The child's ends of the pipes are closed.
    Dead,
}

/// The parent's ends of the pipes to an echoing child.
#[derive(Debug)]
pub struct Line {
    to: OwnedFd,
    from: OwnedFd,
}

/// The child's ends.
#[derive(Debug)]
pub struct Echoer {
    from: OwnedFd,
    to: OwnedFd,
}

/// A pair of pipes, made before the child.
pub fn line() -> Result<(Line, Echoer)> {
    let (from_parent, to_child) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_child, to_parent) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Line { to: to_child, from: from_child }, Echoer { from: from_parent, to: to_parent }))
}

/// In a freshly forked child: closes its copies of descriptors of the parent's.
fn close_copies(fds: [&OwnedFd; 2]) {
    for fd in fds {
        // SAFETY: this copy of the descriptor belongs to the child, which never uses or drops its owner.
        unsafe { rustix::io::close(fd.as_raw_fd()) };
    }
}

impl Line {
    /// In a freshly forked child: closes its copies of the parent's ends.
    pub fn close_in_child(&self) {
        close_copies([&self.to, &self.from]);
    }

    /// The process `pid` at the other end must be found like this.
    #[track_caller]
    fn is(&self, expected: Pulse, pid: i32, when: &str) -> Result {
        let got = self.ping().map_err(|failure| {
            failure.within(format_args!("child {pid} {when} ({})", procfs::describe(pid)))
        })?;
        note!("ping {pid} {when}: {got:?}");
        if got == expected {
            return Ok(());
        }
        let now = procfs::describe(pid);
        check::equal(format_args!("child {pid} {when} ({now})"), got, expected)
    }

    /// The process `pid` at the other end must answer.
    #[track_caller]
    pub fn is_alive(&self, pid: i32, when: &str) -> Result {
        self.is(Pulse::Alive, pid, when)
    }

    /// The process `pid` at the other end must be dead: it must not answer once more.
    #[track_caller]
    pub fn is_dead(&self, pid: i32, when: &str) -> Result {
        self.is(Pulse::Dead, pid, when)
    }

    /// Sends a byte and waits for it to come back, or for the end of the stream.
    #[track_caller]
    pub fn ping(&self) -> Result<Pulse> {
        match rustix::io::write(&self.to, b"p") {
            Ok(_) => {}
            Err(rustix::io::Errno::PIPE) => return Ok(Pulse::Dead),
            Err(errno) => return Err(errno.into()),
        }
        let answer = read_byte(&self.from).context("the child is neither running nor dead")?;
        Ok(if answer.is_some() { Pulse::Alive } else { Pulse::Dead })
    }
}

impl Echoer {
    /// In a process that made the echoing child: closes its copies of the child's ends.
    pub fn close_in_child(&self) {
        close_copies([&self.from, &self.to]);
    }

    /// Echoes until the parent closes its end. Two system calls a round, safe after any clone.
    pub fn serve(&self) -> i32 {
        let mut byte = [0_u8; 1];
        while rustix::io::read(&self.from, &mut byte) == Ok(1) {
            if rustix::io::write(&self.to, &byte) != Ok(1) {
                break;
            }
        }
        0
    }

    /// The echoer whose descriptors a helper inherited.
    pub fn adopt(from: OwnedFd, to: OwnedFd) -> Echoer {
        Echoer { from, to }
    }

    /// The descriptors, for a helper that is to inherit them through exec: input, output.
    pub fn into_fds(self) -> (OwnedFd, OwnedFd) {
        (self.from, self.to)
    }
}

/// An echoing child.
#[derive(Debug)]
pub struct Echo {
    child: Child,
    line: Line,
}

impl Echo {
    /// Makes one, and proves that it answers.
    #[track_caller]
    pub fn spawn(call: &Clone3) -> Result<Echo> {
        Echo::serving(call, Echoer::serve)
    }

    /// Makes one that first runs `prepare` (which must succeed), and proves that it answers. The call may ask for
    /// the pid of a process that is just gone.
    ///
    /// # Errors
    /// That of `prepare`, if it fails.
    #[track_caller]
    pub fn prepared(call: &Clone3, mut prepare: impl FnMut() -> Result) -> Result<Echo> {
        let told = Channel::new()?;
        let echo = Echo::serving(call, |echoer| match prepare() {
            Ok(()) => echoer.serve(),
            Err(failure) => tell(&told, &failure),
        });
        echo.map_err(|dead| why(&told, dead))
    }

    #[track_caller]
    fn serving(call: &Clone3, mut serve: impl FnMut(&Echoer) -> i32) -> Result<Echo> {
        let (line, echoer) = line()?;
        let child = spawn_once_free(call, || {
            // A copy of the parent's end here would hide the parent's death, and the child's own.
            line.close_in_child();
            serve(&echoer)
        })?;
        drop(echoer);
        let echo = Echo { child, line };
        echo.is_alive("before anything was done to it")?;
        Ok(echo)
    }

    /// Makes one that execs first, and proves that it answers from the new program.
    #[track_caller]
    pub fn execed(call: &Clone3) -> Result<Echo> {
        Echo::execed_from(call, helper::program()?, || Ok(()))
    }

    /// As [`Echo::execed`], from this copy of this program, after running `prepare` (which must succeed).
    ///
    /// # Errors
    /// That of `prepare`, or of the exec, if it fails.
    #[track_caller]
    pub fn execed_from(
        call: &Clone3,
        program: BorrowedFd<'_>,
        prepare: impl FnOnce() -> Result,
    ) -> Result<Echo> {
        let (line, echoer) = line()?;
        let told = Channel::new()?;
        let command = Command::new("echo", &[])?.with_fd(&echoer.from).with_fd(&echoer.to);
        let child = call.spawn(|| {
            tell(&told, &prepare().map_or_else(|failure| failure, |()| command.exec_file(program)))
        })?;
        drop(echoer);
        let echo = Echo { child, line };
        echo.is_alive("after its exec").map_err(|dead| why(&told, dead))?;
        Ok(echo)
    }

    /// The child alone; without a line it ends by itself.
    pub fn into_child(self) -> Child {
        self.child
    }

    /// The child, and the line to it.
    pub fn into_parts(self) -> (Child, Line) {
        (self.child, self.line)
    }

    /// The child must answer.
    #[track_caller]
    pub fn is_alive(&self, when: &str) -> Result {
        self.line.is_alive(self.child.pid(), when)
    }

    /// The child must be dead: it must not answer once more.
    #[track_caller]
    pub fn is_dead(&self, when: &str) -> Result {
        self.line.is_dead(self.child.pid(), when)
    }
}

impl Deref for Echo {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Echo {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// In a child that cannot do what it was made for: tells its parent, and gives the exit status.
fn tell(parent: &Channel<Failure>, failure: &Failure) -> i32 {
    note!("in the child: {}", failure.message);
    // Without it the parent sees no more than that the child is dead.
    let _ = parent.send(failure);
    98
}

/// Why the child is dead: what it told, if it did.
fn why(child: &Channel<Failure>, dead: Failure) -> Failure {
    child.try_recv().ok().flatten().unwrap_or(dead)
}
