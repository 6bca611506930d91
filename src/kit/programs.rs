//! The helper programs that any case may exec.
//!
//! | program | does |
//! |---|---|
//! | `exit CODE` | exits with CODE |
//! | `hold READY GATE CODE` | reports on the channel READY that it runs, waits for a byte from GATE, exits with CODE |
//! | `echo FROM TO` | echoes bytes until the end of FROM |
//! | `alarm REPORT` | cancels its alarm(2) and reports on the channel REPORT how many seconds were left |
//! | `attributes REPORT` | reports on the channel REPORT its attributes, see [`inherited`] |
//! | `again COUNT PROGRAM ARGUMENT…` | execs itself COUNT times, then runs PROGRAM |
//! | `watch-end GATE PID REPORT` | opens GATE for its child PID and reports on the channel REPORT how it saw the child end |
//! | `clone-parent REPORT` | tries `CLONE_PARENT` and reports the results on the channel REPORT |
//!
//! Uppercase arguments other than CODE and COUNT are inherited descriptors: see [`Command::with_fd`].

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use linkme::distributed_slice;
use nix::errno::Errno;

use crate::abi::Flags;
use crate::check::{Failure, Result};
use crate::clone3::Clone3;
use crate::kit::echo::Echoer;
use crate::kit::helper::{self, Command, HELPERS, Helper};
use crate::kit::inherited::{self, Inherited};
use crate::kit::{Channel, Gate, inheritable, legacy, sigchld};
use crate::wait::{self, Event, Status, Who};

/// The exit status of a helper that fails.
const WENT_WRONG: i32 = 97;

#[distributed_slice(HELPERS)]
static EXIT: Helper = Helper { name: "exit", main: |arguments| or_wrong(number(arguments, 0)) };
#[distributed_slice(HELPERS)]
static HOLD: Helper = Helper { name: "hold", main: |arguments| or_wrong(run_hold(arguments)) };
#[distributed_slice(HELPERS)]
static ECHO: Helper = Helper { name: "echo", main: |arguments| or_wrong(echo(arguments)) };
#[distributed_slice(HELPERS)]
static ALARM: Helper = Helper { name: "alarm", main: |arguments| or_wrong(alarm(arguments)) };
#[distributed_slice(HELPERS)]
static ATTRIBUTES: Helper =
    Helper { name: "attributes", main: |arguments| or_wrong(report_attributes(arguments)) };
#[distributed_slice(HELPERS)]
static AGAIN: Helper = Helper { name: "again", main: |arguments| or_wrong(again(arguments)) };
#[distributed_slice(HELPERS)]
static WATCH_END: Helper = Helper { name: "watch-end", main: |arguments| or_wrong(watch_end(arguments)) };
#[distributed_slice(HELPERS)]
static CLONE_PARENT: Helper =
    Helper { name: "clone-parent", main: |arguments| or_wrong(clone_parent(arguments)) };

/// Returns the exit status of a helper whose main function is fallible.
pub fn or_wrong(result: Result<i32>) -> i32 {
    result.unwrap_or_else(|failure| {
        eprintln!("helper: {} at {}", failure.message, failure.at);
        WENT_WRONG
    })
}

/// Returns a number from a helper's arguments.
pub fn number(arguments: &[String], index: usize) -> Result<i32> {
    let parsed = arguments.get(index).and_then(|argument| argument.parse().ok());
    parsed.ok_or_else(|| Failure::broken(format!("helper argument {index} of {arguments:?} is no number")))
}

/// Returns a descriptor from a helper's arguments. Each may be taken once.
pub fn fd(arguments: &[String], index: usize) -> Result<OwnedFd> {
    let raw: RawFd = number(arguments, index)?;
    // SAFETY: the process that execed the helper passed this descriptor, and each argument is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Returns the command line of `hold`, which reports on `ready` and waits at `gate`.
pub fn hold(ready: &Channel<Result>, gate: &Gate, code: i32) -> Result<Command> {
    let hold = Command::new("hold", &[])?.with_fd(&ready.sending_end()?);
    Ok(hold.with_fd(&gate.waiting_end()).number(code))
}

fn run_hold(arguments: &[String]) -> Result<i32> {
    let (ready, gate) = (fd(arguments, 0)?, fd(arguments, 1)?);
    Channel::<Result>::adopt(ready)?.send(&Ok(()))?;
    // Without a time limit, like a child that waits at a gate: this program does not know how long the case may take. If
    // the case is gone, the read returns 0.
    rustix::io::retry_on_intr(|| rustix::io::read(&gate, &mut [0_u8; 1]))?;
    number(arguments, 2)
}

fn echo(arguments: &[String]) -> Result<i32> {
    Ok(Echoer::adopt(fd(arguments, 0)?, fd(arguments, 1)?).serve())
}

fn alarm(arguments: &[String]) -> Result<i32> {
    Channel::<Result<Option<u32>>>::adopt(fd(arguments, 0)?)?.send(&Ok(nix::unistd::alarm::cancel()))?;
    Ok(0)
}

/// Has a child made by `call` set an alarm(2) and exec a program; returns how many seconds were left then.
#[track_caller]
pub fn alarm_after_exec(call: &Clone3, seconds: u32) -> Result<Option<u32>> {
    let left = Channel::<Result<Option<u32>>>::new()?;
    let command = Command::new("alarm", &[])?.with_fd(&left.sending_end()?);
    let child = call.spawn(|| {
        nix::unistd::alarm::set(seconds);
        i32::from(left.send(&Err(command.exec())).is_err())
    })?;
    let seconds_left = left.recv_from(&child)??;
    child.ends_with(Status::exited(0))?;
    Ok(seconds_left)
}

fn report_attributes(arguments: &[String]) -> Result<i32> {
    let report = Channel::<Result<Inherited>>::adopt(fd(arguments, 0)?)?;
    report.send(&Ok(inherited::own_after_exec()))?;
    Ok(0)
}

/// Has a child made by `call` change its attributes and exec a program; returns the attributes that it has then.
#[track_caller]
pub fn attributes_after_exec(call: &Clone3) -> Result<Inherited> {
    let report = Channel::<Result<Inherited>>::new()?;
    let command = Command::new("attributes", &[])?.with_fd(&report.sending_end()?);
    let child = call.spawn(|| {
        let failure = inheritable::change_everything().err().unwrap_or_else(|| command.exec());
        i32::from(report.send(&Err(failure)).is_err())
    })?;
    let found = report.recv_from(&child)??;
    child.ends_with(Status::exited(0))?;
    Ok(found)
}

fn again(arguments: &[String]) -> Result<i32> {
    let (count, rest) = (number(arguments, 0)?, arguments.get(1..).unwrap_or_default());
    let Some((program, of_program)) = rest.split_first() else {
        return Err(Failure::broken(format!("no program in {arguments:?}")));
    };
    if count == 0 {
        return Ok(helper::run(program, of_program));
    }
    let mut command = Command::new("again", &[])?.number(count - 1);
    for argument in rest {
        command = command.word(argument)?;
    }
    Err(command.exec())
}

/// How the parent saw the end of a child: the event that waitid(WEXITED|__WALL) returned (`None` for ECHILD), and the
/// pending SIGCHLD.
pub type EndReport = (Option<Event>, Option<Event>);

/// Has a process made by `parent` make a child by `call` and exec `watch-end`; returns how the new program sees the child end.
#[track_caller]
pub fn end_seen_after_parents_exec(parent: &Clone3, call: &Clone3) -> Result<EndReport> {
    let (gate, report) = (Gate::new()?, Channel::<Result<EndReport>>::new()?);
    let parent = parent.spawn(|| {
        let exec = || {
            sigchld::block()?;
            let child = call.spawn(|| {
                gate.wait();
                5
            })?;
            let program = Command::new("watch-end", &[])?.with_fd(&gate.opening_end());
            Ok(program.number(child.pid()).with_fd(&report.sending_end()?).exec())
        };
        let failure = exec().unwrap_or_else(|failure| failure);
        i32::from(report.send(&Err(failure)).is_err())
    })?;
    let seen = report.recv_from(&parent)??;
    parent.ends_with(Status::exited(0))?;
    Ok(seen)
}

fn watch_end(arguments: &[String]) -> Result<i32> {
    let (gate, pid) = (fd(arguments, 0)?, number(arguments, 1)?);
    rustix::io::write(gate, b"g")?;
    let found = match wait::waitid(Who::Pid(pid), libc::WEXITED | libc::__WALL) {
        Ok(event) => Ok((event, sigchld::take())),
        Err(Errno::ECHILD) => Ok((None, sigchld::take())),
        Err(errno) => Err(errno.into()),
    };
    Channel::<Result<EndReport>>::adopt(fd(arguments, 2)?)?.send(&found)?;
    Ok(0)
}

/// The result of each way to use `CLONE_PARENT`: the call, and the errno as a number, or 0 for success.
pub type CloneParentReport = Vec<(String, i32)>;

/// Tries the ways to use `CLONE_PARENT`. The caller's parent has to reap any children made.
pub fn try_clone_parent() -> Result<CloneParentReport> {
    let number_of =
        |outcome: std::result::Result<(), Errno>| outcome.map_or_else(|errno| errno as i32, |()| 0);
    let call = Clone3::new(Flags::CLONE_PARENT);
    let sibling = call.try_spawn(|| 0).map(drop);
    let mut report = vec![(call.to_string(), number_of(sibling))];
    let old = legacy::clone(Flags::CLONE_PARENT.bits() | libc::SIGCHLD as u64, || 0).map(drop);
    report.push(("clone(CLONE_PARENT|SIGCHLD)".to_owned(), number_of(old)));
    let thread = Clone3::new(Flags::CLONE_PARENT | Flags::THREAD);
    let started = thread.try_thread()?;
    report.push((thread.to_string(), number_of(started)));
    Ok(report)
}

fn clone_parent(arguments: &[String]) -> Result<i32> {
    let report = Channel::<Result<CloneParentReport>>::adopt(fd(arguments, 0)?)?;
    report.send(&try_clone_parent())?;
    Ok(0)
}
