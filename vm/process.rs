//! Child processes of the driver: each has its own process group, which is killed when the driver ends for any reason.
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clone3_conformance::host::dies_with_parent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpgrp, kill_process, kill_process_group, pidfd_open};

use crate::interrupt::Interrupts;
use crate::note;

/// A running program and everything it started; dropping it kills them all.
pub struct Process {
    child: Child,
    group: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// Starts the program, which receives `signal` if the driver dies first.
    pub fn spawn(command: &mut Command, signal: Signal) -> Result<Self> {
        let name = name(command);
        dies_with_parent(command.process_group(0), signal);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let group = Pid::from_child(&child);
        let pidfd = pidfd_open(group, PidfdFlags::empty())?;
        Ok(Self { child, group, pidfd })
    }

    /// Returns the program's standard output, if it is piped.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits for the program to end, and returns its exit status.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Returns the program's exit status, if it has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for the program to end; there is no exit status if the deadline passes first.
    fn end_by(&mut self, deadline: Option<Instant>, interrupts: &Interrupts) -> Result<Option<ExitStatus>> {
        loop {
            let mut waiting = [PollFd::new(self, PollFlags::IN), PollFd::new(interrupts, PollFlags::IN)];
            wait_until(&mut waiting, deadline)?;
            interrupts.check()?;
            match self.try_wait()? {
                Some(status) => return Ok(Some(status)),
                None if deadline.is_some_and(|deadline| deadline <= Instant::now()) => return Ok(None),
                None => {}
            }
        }
    }

    /// Sends SIGTERM to the program, so that it can clean up, and waits for it to end.
    pub fn ask_to_end(&mut self) -> io::Result<ExitStatus> {
        let _ = kill_process(self.group, Signal::TERM);
        self.child.wait()
    }

    /// Kills the program and everything it started.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        let _ = kill_process_group(self.group, Signal::KILL);
        self.child.wait()
    }
}

impl AsFd for Process {
    /// Readable once the program has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// The argument that makes this executable a supervisor.
pub const SUPERVISE: &str = "supervise";

/// Returns a command that runs `program` under a supervisor.
///
/// The parent-death signal reaches only the driver's own children. A program that starts others needs a supervisor that receives
/// the signal, which must be SIGTERM, and kills them all.
pub fn supervised(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SUPERVISE).arg(program);
    Ok(command)
}

/// Runs the program named by the arguments in this process's own group; kills the whole group when asked to stop.
pub fn supervise(mut arguments: impl Iterator<Item = OsString>) -> Result<u8> {
    let interrupts = Interrupts::keep()?;
    let program = arguments.next().context("no program to supervise")?;
    let cannot_start = || format!("cannot start {}", program.display());
    let mut child = Command::new(&program).args(arguments).spawn().with_context(cannot_start)?;
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    loop {
        wait_until(&mut [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&interrupts, PollFlags::IN)], None)?;
        if interrupts.check().is_err() {
            kill_process_group(getpgrp(), Signal::KILL)?;
        }
        if let Some(status) = child.try_wait()? {
            // A signal's number is passed on as shells do.
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            return Ok(u8::try_from(code).unwrap_or(u8::MAX));
        }
    }
}

/// Runs a program until it exits.
pub fn run(command: &mut Command, interrupts: &Interrupts) -> Result<ExitStatus> {
    run_within(command, None, interrupts)?.context("no deadline was set")
}

/// Runs a program until it exits or the deadline passes, in which case there is no exit status.
pub fn run_within(
    command: &mut Command,
    deadline: Option<Duration>,
    interrupts: &Interrupts,
) -> Result<Option<ExitStatus>> {
    let deadline = deadline.map(|after| Instant::now() + after);
    Process::spawn(command.stdin(Stdio::null()), Signal::TERM)?.end_by(deadline, interrupts)
}

/// Runs a program that reads one file and writes another, until it exits.
pub fn filter(command: &mut Command, from: File, to: File, interrupts: &Interrupts) -> Result<ExitStatus> {
    let mut process = Process::spawn(command.stdin(from).stdout(to).stderr(Stdio::null()), Signal::TERM)?;
    process.end_by(None, interrupts)?.context("no deadline was set")
}

/// Runs a program that must succeed; its output becomes the error message.
pub fn succeed(command: &mut Command, interrupts: &Interrupts) -> Result<()> {
    succeed_by(command, |command| run(command, interrupts))
}

/// Runs a program that must succeed and must not be killed: it runs to its end even if the driver is asked to stop, or is killed.
pub fn succeed_undisturbed(command: &mut Command, interrupts: &Interrupts) -> Result<()> {
    let name = name(command);
    succeed_by(command, |command| {
        // In its own process group, Ctrl-C does not reach it.
        let mut child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        while child.try_wait()?.is_none() && interrupts.check().is_ok() {
            let mut waiting = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(interrupts, PollFlags::IN)];
            wait_until(&mut waiting, None)?;
        }
        if child.try_wait()?.is_none() {
            note!("{name} has to finish first");
        }
        let status = child.wait()?;
        interrupts.check()?;
        Ok(status)
    })
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn succeed_by(command: &mut Command, run: impl FnOnce(&mut Command) -> Result<ExitStatus>) -> Result<()> {
    let name = name(command);
    let mut said = tempfile::tempfile()?;
    command.stdout(said.try_clone()?).stderr(said.try_clone()?);
    let status = run(command)?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    io::Seek::rewind(&mut said)?;
    said.read_to_string(&mut text)?;
    bail!("{name}: {status}: {}", last_lines(&text, 3))
}

/// Returns the output of a program that must succeed.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = name(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}: {}", output.status, last_lines(&complaint, 3));
    Ok(output.stdout)
}

/// Waits until one of `waiting` is ready or the deadline passes.
pub fn wait_until(waiting: &mut [PollFd], deadline: Option<Instant>) -> Result<()> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let left = left.map(Timespec::try_from).transpose()?;
    match poll(waiting, left.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Joins the last lines of a program's output into one.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("; ")
}

#[cfg(test)]
mod tests {
    use rustix::process::getpid;

    use super::*;
    use crate::interrupt::Interrupted;

    #[test]
    fn what_must_not_be_disturbed_runs_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        let interrupts = Interrupts::keep().unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 0.2; touch $0"]).arg(&done);
        let stopped = succeed_undisturbed(&mut command, &interrupts).unwrap_err();
        assert!(stopped.is::<Interrupted>() && done.exists());
        let stopped = succeed(Command::new("sleep").arg("1000"), &interrupts).unwrap_err();
        assert!(stopped.is::<Interrupted>());
    }
}
