//! Tracing with ptrace(2): by the caller, or by a process that follows instructions.

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::check::{self, Failure, Result};
use crate::clone3::Clone3;
use crate::kit::{Actor, sigchld};
use crate::note;
use crate::wait::{self, Event, Status};

/// `PTRACE_SEIZE`: traces a process without stopping it.
#[track_caller]
pub fn seize(pid: i32, options: Options) -> Result {
    let seized = ptrace::seize(Pid::from_raw(pid), options);
    note!("ptrace(SEIZE, {pid}, {options:?}) = {seized:?}");
    check::succeeds(format_args!("ptrace(SEIZE, {pid})"), seized)
}

/// As [`seize`], for a caller who may have had more privileges when it was found that tracing is permitted.
///
/// # Errors
/// `blocked` where it is not permitted now, as Yama has it from ptrace_scope 2 on.
pub fn seize_as_ordinary_user(pid: i32) -> Result {
    match ptrace::seize(Pid::from_raw(pid), Options::empty()) {
        Err(nix::errno::Errno::EPERM) => {
            Err(Failure::blocked("needs permission to trace with ptrace(2) as an ordinary user"))
        }
        seized => check::succeeds(format_args!("ptrace(SEIZE, {pid})"), seized),
    }
}

/// `PTRACE_ATTACH`: traces a process and stops it. Returns when it has stopped.
#[track_caller]
pub fn attach(pid: i32) -> Result {
    let attached = ptrace::attach(Pid::from_raw(pid));
    note!("ptrace(ATTACH, {pid}) = {attached:?}");
    check::succeeds(format_args!("ptrace(ATTACH, {pid})"), attached)?;
    stops_with(pid, Signal::SIGSTOP)
}

/// Waits for the next stop of a tracee, which must be by `signal`.
#[track_caller]
pub fn stops_with(pid: i32, signal: Signal) -> Result {
    wait::reap_expecting(pid, Status::stopped(signal))
}

/// `PTRACE_DETACH`, without a signal.
pub fn detach(pid: i32) -> nix::Result<()> {
    let detached = ptrace::detach(Pid::from_raw(pid), None);
    note!("ptrace(DETACH, {pid}) = {detached:?}");
    detached
}

/// `PTRACE_CONT`, with a signal to deliver or none.
#[track_caller]
pub fn go_on(pid: i32, signal: Option<Signal>) -> Result {
    let continued = ptrace::cont(Pid::from_raw(pid), signal);
    note!("ptrace(CONT, {pid}, {signal:?}) = {continued:?}");
    check::succeeds(format_args!("ptrace(CONT, {pid})"), continued)
}

/// How a stopped tracee goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// `PTRACE_CONT`.
    Continue,
    /// `PTRACE_SYSCALL`: to the beginning or the end of its next system call.
    ToNextCall,
    /// `PTRACE_LISTEN`: it stays stopped, as its group is.
    Listen,
}

/// Lets a stopped tracee go on, with any signal, those without a name included, or 0.
pub fn resume(pid: i32, how: Resume, signal: i32) -> nix::Result<()> {
    let request = match how {
        Resume::Continue => libc::PTRACE_CONT,
        Resume::ToNextCall => libc::PTRACE_SYSCALL,
        Resume::Listen => libc::PTRACE_LISTEN,
    };
    // SAFETY: none of these requests reads or writes the caller's memory; the last argument is a number.
    let done = unsafe { libc::ptrace(request, pid, 0_usize, signal as usize) };
    nix::errno::Errno::result(done).map(drop)
}

/// To be called by a tracee: lets any process of the same user trace it, also where the Yama security module
/// keeps that to ancestors.
pub fn let_anyone_trace_me() {
    // Without Yama the call fails, and nothing needs allowing.
    let _ = rustix::process::set_ptracer(rustix::process::PTracer::Any);
}

/// What a process of an ordinary user that traces another is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// To trace this process.
    Seize(i32),
    /// To wait for its end.
    WaitFor(i32),
}

/// What that process does, as an [`Actor`].
pub fn trace(order: Order) -> Result {
    match order {
        Order::Seize(pid) => seize_as_ordinary_user(pid),
        Order::WaitFor(pid) => wait::reap(pid).map(drop),
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Instruction {
    Seize { pid: i32, kill_on_exit: bool },
    FindZombie(i32),
    TakeSigchld,
    Reap(i32),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Zombie { code: i32, status: i32 },
    Sigchld(Option<(i32, i32)>),
    Reaped(Status),
}

/// A process of its own that traces a child of the caller, which is a sibling to it, or another process.
///
/// The caller must have [blocked](sigchld::block()) SIGCHLD. The end of the tracer takes the tracee from it
/// before it is announced itself, so the one SIGCHLD that can be pending then shows if the tracee sent one.
#[derive(Debug)]
pub struct Tracer {
    actor: Actor<Instruction, Answer>,
    tracee: i32,
}

impl Tracer {
    /// One that has seized this process, which must have called [`let_anyone_trace_me`].
    #[track_caller]
    pub fn of(pid: i32) -> Result<Tracer> {
        Tracer::seizing(pid, false)
    }

    /// As [`Tracer::of`], with `PTRACE_O_EXITKILL`: the end of the tracer kills the process.
    #[track_caller]
    pub fn killing_on_exit(pid: i32) -> Result<Tracer> {
        Tracer::seizing(pid, true)
    }

    #[track_caller]
    fn seizing(pid: i32, kill_on_exit: bool) -> Result<Tracer> {
        let actor = Actor::spawn(&Clone3::fork(), follow)?;
        actor.ask(Instruction::Seize { pid, kill_on_exit })?;
        Ok(Tracer { actor, tracee: pid })
    }

    /// Blocks until the tracee is a zombie to the tracer, which leaves it one.
    #[track_caller]
    pub fn find_zombie(&self) -> Result<Event> {
        match self.actor.ask(Instruction::FindZombie(self.tracee))? {
            Answer::Zombie { code, status } => Ok(Event { pid: self.tracee, code, status }),
            other => Err(strange(&other)),
        }
    }

    /// Takes a pending SIGCHLD of the tracer's: its `si_code` and the pid it speaks of.
    #[track_caller]
    pub fn take_sigchld(&self) -> Result<Option<(i32, i32)>> {
        match self.actor.ask(Instruction::TakeSigchld)? {
            Answer::Sigchld(found) => Ok(found),
            other => Err(strange(&other)),
        }
    }

    /// The tracer waits for the tracee, and gives the status.
    #[track_caller]
    pub fn reap(&self) -> Result<Status> {
        match self.actor.ask(Instruction::Reap(self.tracee))? {
            Answer::Reaped(status) => Ok(status),
            other => Err(strange(&other)),
        }
    }

    /// Lets the tracer exit without waiting for its tracee, and reaps the tracer.
    #[track_caller]
    pub fn dismiss(self) -> Result {
        let pid = self.actor.child().pid();
        self.actor.dismiss()?;
        sigchld::pending_for(pid, libc::CLD_EXITED)
    }

    /// Kills the tracer and reaps it.
    #[track_caller]
    pub fn kill(self) -> Result {
        let pid = self.actor.child().pid();
        self.actor.child().kill(Signal::SIGKILL)?;
        wait::reap_expecting(pid, Status::SIGKILLED)?;
        sigchld::pending_for(pid, libc::CLD_KILLED)
    }
}

fn strange(answer: &Answer) -> Failure {
    Failure::broken(format!("the tracer answered {answer:?}"))
}

/// The tracer's side.
fn follow(instruction: Instruction) -> Result<Answer> {
    Ok(match instruction {
        Instruction::Seize { pid, kill_on_exit } => {
            sigchld::block()?;
            let options = if kill_on_exit { Options::PTRACE_O_EXITKILL } else { Options::empty() };
            seize(pid, options)?;
            Answer::Done
        }
        Instruction::FindZombie(pid) => {
            let Event { code, status, .. } = wait::find_zombie(pid)?;
            Answer::Zombie { code, status }
        }
        Instruction::TakeSigchld => Answer::Sigchld(sigchld::take()),
        Instruction::Reap(pid) => Answer::Reaped(wait::reap(pid)?),
    })
}

/// Whether the caller may trace, asked in a process that does nothing else.
pub(crate) fn try_tracing() -> bool {
    ptrace::traceme().is_ok()
}
