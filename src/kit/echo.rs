//! Ping: an exact test of whether a child is alive, without a timeout.
//!
//! The child echoes bytes between two pipes, of which the parent keeps only its own ends. If a byte comes back, the child
//! is alive; at the end of the stream, it is dead. This is exact for auto-kill on Linux, which queues SIGKILL before close(2)
//! returns, so that the child, which is blocked in read(2), never returns to user mode. No document promises that: without
//! `--strict`, a kernel may also kill soon afterwards. It is not valid where Linux itself drops the last reference
//! asynchronously (io_uring, UNIX garbage collection): wait for POLLHUP there.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::check::{self, Context as _, Failure, Kind, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::Channel;
use crate::kit::channel::read_byte;
use crate::kit::helper::{self, Command};
use crate::kit::process::spawn_once_free;
use crate::need::Setting;
use crate::{note, procfs, sandbox};

/// Milliseconds after a last close in which a kernel may still kill the child, without `--strict`.
const DELAY: u16 = 500;

/// The result of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulse {
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

/// The child's ends of the pipes.
#[derive(Debug)]
pub struct Echoer {
    from: OwnedFd,
    to: OwnedFd,
}

/// Makes the two pipes. Call this before the child is made.
pub fn line() -> Result<(Line, Echoer)> {
    let (from_parent, to_child) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_child, to_parent) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Line { to: to_child, from: from_child }, Echoer { from: from_parent, to: to_parent }))
}

/// In a freshly forked child: closes its copies of the parent's descriptors.
fn close_copies(fds: [&OwnedFd; 2]) {
    for fd in fds {
        // SAFETY: this copy of the descriptor belongs to the child, which never uses or drops its `OwnedFd`.
        unsafe { rustix::io::close(fd.as_raw_fd()) };
    }
}

impl Line {
    /// In a freshly forked child: closes its copies of the parent's ends.
    pub fn close_in_child(&self) {
        close_copies([&self.to, &self.from]);
    }

    /// Fails unless a ping finds the process `pid` at the other end as expected.
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

    /// Fails unless the process `pid` at the other end answers.
    #[track_caller]
    pub fn is_alive(&self, pid: i32, when: &str) -> Result {
        self.is(Pulse::Alive, pid, when)
    }

    /// Fails unless the process `pid` at the other end is dead. Without `--strict` it may answer once more, if it is dead soon
    /// afterwards.
    #[track_caller]
    pub fn is_dead(&self, pid: i32, when: &str) -> Result {
        match self.is_dead_at_once(pid, when) {
            Err(answered) if answered.kind == Kind::Fail && !Setting::get().strict && self.ends_soon()? => {
                note!("child {pid} is dead now");
                Ok(())
            }
            is_dead => is_dead,
        }
    }

    /// Fails unless the process `pid` at the other end is dead; it must not answer even once more.
    #[track_caller]
    pub fn is_dead_at_once(&self, pid: i32, when: &str) -> Result {
        self.is(Pulse::Dead, pid, when)
    }

    /// Returns whether the stream ends within [`DELAY`], without another answer.
    fn ends_soon(&self) -> Result<bool> {
        let mut end = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
        Ok(sandbox::wait_within(&mut end, PollTimeout::from(DELAY))?
            && end[0].revents() == Some(PollFlags::POLLHUP))
    }

    /// Sends a byte and waits for it to come back, or for the end of the stream.
    #[track_caller]
    fn ping(&self) -> Result<Pulse> {
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
    /// In the process that made the echoing child: closes its copies of the child's ends.
    pub fn close_in_child(&self) {
        close_copies([&self.from, &self.to]);
    }

    /// Echoes until the parent closes its end. Makes two system calls per round; safe after any clone.
    pub fn serve(&self) -> i32 {
        let mut byte = [0_u8; 1];
        while retry_on_intr(|| rustix::io::read(&self.from, &mut byte)) == Ok(1) {
            if retry_on_intr(|| rustix::io::write(&self.to, &byte)) != Ok(1) {
                break;
            }
        }
        0
    }

    /// Makes an echoer from descriptors that a helper inherited.
    pub fn adopt(from: OwnedFd, to: OwnedFd) -> Echoer {
        Echoer { from, to }
    }

    /// Returns the command line of the program `echo`, which inherits these ends.
    pub fn command(&self) -> Result<Command> {
        Ok(Command::new("echo", &[])?.with_fd(&self.from).with_fd(&self.to))
    }
}

/// An echoing child.
#[derive(Debug)]
pub struct Echo {
    child: Child,
    line: Line,
}

impl Echo {
    /// Makes an echoing child and checks that it answers.
    #[track_caller]
    pub fn spawn(call: &Clone3) -> Result<Echo> {
        Echo::serving(call, Echoer::serve)
    }

    /// Makes an echoing child that first runs `prepare` (which must succeed), and checks that it answers. The call may ask
    /// for the pid of a process that has only just been reaped.
    ///
    /// # Errors
    /// The error of `prepare`, if it fails.
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
            // A copy of the parent's end here would hide the death of the parent and of the child itself.
            line.close_in_child();
            serve(&echoer)
        })?;
        drop(echoer);
        let echo = Echo { child, line };
        echo.is_alive("before anything was done to it")?;
        Ok(echo)
    }

    /// Makes an echoing child that execs first, and checks that the new program answers.
    #[track_caller]
    pub fn execed(call: &Clone3) -> Result<Echo> {
        Echo::execed_from(call, helper::program()?, || Ok(()))
    }

    /// Like [`Echo::execed`], but execs this copy of the program, after running `prepare` (which must succeed).
    ///
    /// # Errors
    /// The error of `prepare` or of the exec, if it fails.
    #[track_caller]
    pub fn execed_from(
        call: &Clone3,
        program: BorrowedFd<'_>,
        prepare: impl FnOnce() -> Result,
    ) -> Result<Echo> {
        let (line, echoer) = line()?;
        let told = Channel::new()?;
        let command = echoer.command()?;
        let child = call.spawn(|| {
            tell(&told, &prepare().map_or_else(|failure| failure, |()| command.exec_file(program)))
        })?;
        drop(echoer);
        let echo = Echo { child, line };
        echo.is_alive("after its exec").map_err(|dead| why(&told, dead))?;
        Ok(echo)
    }

    /// Returns the child only. Dropping its line makes it exit.
    pub fn into_child(self) -> Child {
        self.child
    }

    /// Returns the child and its line.
    pub fn into_parts(self) -> (Child, Line) {
        (self.child, self.line)
    }

    /// Fails unless the child answers.
    #[track_caller]
    pub fn is_alive(&self, when: &str) -> Result {
        self.line.is_alive(self.child.pid(), when)
    }

    /// Fails unless the child is dead, see [`Line::is_dead`].
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

/// In a child that cannot do its work: sends the failure to the parent and returns the exit status.
fn tell(parent: &Channel<Failure>, failure: &Failure) -> i32 {
    note!("in the child: {}", failure.message);
    // If this fails, the parent sees only that the child is dead.
    let _ = parent.send(failure);
    98
}

/// Returns the failure that the child sent, or `dead` if it sent none.
fn why(child: &Channel<Failure>, dead: Failure) -> Failure {
    child.try_recv().ok().flatten().unwrap_or(dead)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kit::process::{answers, raw_fork};

    /// Returns whether a process that answers pings this often, and then ends, counts as dead: at once, and soon enough.
    fn dies_after(answers: usize) -> Result<[bool; 2]> {
        let verdict = |look: fn(&Line, i32) -> Result| -> Result<bool> {
            let (line, echoer) = line()?;
            let Some(pid) = raw_fork()? else {
                line.close_in_child();
                let mut byte = [0_u8; 1];
                for _ in 0..answers {
                    let _ = rustix::io::read(&echoer.from, &mut byte)
                        .and_then(|_| rustix::io::write(&echoer.to, &byte));
                }
                // As if a kernel took that long to kill it.
                std::thread::sleep(Duration::from_millis(50));
                crate::clone3::exit_now(0)
            };
            drop(echoer);
            let is_dead = look(&line, pid);
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            crate::wait::reap(pid)?;
            match is_dead {
                Err(failure) if failure.kind == Kind::Fail => Ok(false),
                other => other.map(|()| true),
            }
        };
        Ok([
            verdict(|line, pid| line.is_dead_at_once(pid, "then"))?,
            verdict(|line, pid| line.is_dead(pid, "then"))?,
        ])
    }

    #[test]
    fn one_more_answer_is_death_only_without_strict() {
        assert!(answers(|| dies_after(0) == Ok([true, true])));
        assert!(answers(|| dies_after(1) == Ok([false, true])));
        assert!(answers(|| dies_after(2) == Ok([false, false])));
    }
}
