//! Tracing with ptrace(2), by the caller or by a process that executes instructions.

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::check::{self, Failure, Result};
use crate::clone3::Clone3;
use crate::kit::{Actor, sigchld};
use crate::note;
use crate::wait::{self, Event, Status, signal_name};

/// Calls `PTRACE_SEIZE`: traces a process without stopping it.
#[track_caller]
pub fn seize(pid: i32, options: Options) -> Result {
    check::succeeds(format_args!("ptrace(SEIZE, {pid})"), try_seize(pid, options))
}

/// Like [`seize`], for a caller that may have dropped privileges since the check that tracing is permitted.
///
/// # Errors
/// `blocked` if tracing is not permitted now, as with Yama's ptrace_scope 2 and above.
#[track_caller]
pub fn seize_as_ordinary_user(pid: i32) -> Result {
    match try_seize(pid, Options::empty()) {
        seized if is_refusal(seized) => {
            Err(Failure::blocked("needs permission to trace with ptrace(2) as an ordinary user"))
        }
        seized => check::succeeds(format_args!("ptrace(SEIZE, {pid})"), seized),
    }
}

/// Calls `PTRACE_SEIZE`.
pub(super) fn try_seize(pid: i32, options: Options) -> nix::Result<()> {
    let seized = ptrace::seize(Pid::from_raw(pid), options);
    note!("ptrace(SEIZE, {pid}, {options:?}) = {seized:?}");
    seized
}

/// Returns whether a call of ptrace(2) failed for want of a permission. A security module may return EACCES.
pub(super) fn is_refusal(call: nix::Result<()>) -> bool {
    matches!(call, Err(Errno::EPERM | Errno::EACCES))
}

/// Calls `PTRACE_ATTACH`: traces a process and stops it. Returns when it has stopped.
#[track_caller]
pub fn attach(pid: i32) -> Result {
    let attached = ptrace::attach(Pid::from_raw(pid));
    note!("ptrace(ATTACH, {pid}) = {attached:?}");
    check::succeeds(format_args!("ptrace(ATTACH, {pid})"), attached)?;
    stops_with(pid, Signal::SIGSTOP)
}

/// Calls `PTRACE_INTERRUPT`, which stops a seized tracee. Returns when it has stopped.
#[track_caller]
pub fn interrupt(pid: i32) -> Result {
    let interrupted = ptrace::interrupt(Pid::from_raw(pid));
    note!("ptrace(INTERRUPT, {pid}) = {interrupted:?}");
    check::succeeds(format_args!("ptrace(INTERRUPT, {pid})"), interrupted)?;
    let what = format_args!("wait status of process {pid}");
    let halted = Status::ptrace_event(libc::PTRACE_EVENT_STOP, Signal::SIGTRAP);
    check::equal(what, wait::next_status(pid)?, halted)
}

/// Waits for the next stop of a tracee, which must be caused by `signal`.
#[track_caller]
pub fn stops_with(pid: i32, signal: Signal) -> Result {
    let what = format_args!("wait status of process {pid}");
    check::equal(what, wait::next_status(pid)?, Status::stopped(signal))
}

/// Calls `PTRACE_DETACH`, without a signal.
pub fn detach(pid: i32) -> nix::Result<()> {
    let detached = ptrace::detach(Pid::from_raw(pid), None);
    note!("ptrace(DETACH, {pid}) = {detached:?}");
    detached
}

/// Calls `PTRACE_CONT`, with or without a signal to deliver, which may be one without a name.
#[track_caller]
pub fn go_on(pid: i32, signal: Option<i32>) -> Result {
    let continued = resume(pid, Resume::Continue, signal.unwrap_or(0));
    note!("ptrace(CONT, {pid}, {}) = {continued:?}", signal.map_or("no signal".to_owned(), signal_name));
    check::succeeds(format_args!("ptrace(CONT, {pid})"), continued)
}

/// Resumes a stopped tracee until it enters this system call, and leaves it there.
///
/// The tracee must be [seized](seize) with `PTRACE_O_TRACESYSGOOD`.
#[track_caller]
pub fn stop_before_call(pid: i32, number: libc::c_long) -> Result {
    const CALL: i32 = libc::SIGTRAP | 0x80;
    loop {
        check::succeeds("ptrace(SYSCALL)", resume(pid, Resume::ToNextCall, 0))?;
        match wait::next_status(pid)?.stop() {
            Some((CALL, _)) if entered(pid)? == Some(number as u64) => return Ok(()),
            Some(_) => {}
            None => return Err(Failure::broken(format!("process {pid} ended before system call {number}"))),
        }
    }
}

/// Returns the number of the system call that a tracee has entered; `None` if it is leaving one.
fn entered(pid: i32) -> Result<Option<u64>> {
    let info = ptrace::syscall_info(Pid::from_raw(pid))?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: for this kind of stop the kernel has filled this variant.
    Ok(Some(unsafe { info.u.entry.nr }))
}

/// The way in which a stopped tracee is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// `PTRACE_CONT`.
    Continue,
    /// `PTRACE_SYSCALL`: until it enters or leaves its next system call.
    ToNextCall,
    /// `PTRACE_LISTEN`: it stays in the group-stop.
    Listen,
}

/// Resumes a stopped tracee, with any signal (including those without a name) or 0.
pub fn resume(pid: i32, how: Resume, signal: i32) -> nix::Result<()> {
    let request = match how {
        Resume::Continue => libc::PTRACE_CONT,
        Resume::ToNextCall => libc::PTRACE_SYSCALL,
        Resume::Listen => libc::PTRACE_LISTEN,
    };
    // SAFETY: none of these requests reads or writes the caller's memory; the last argument is a number.
    let done = unsafe { libc::ptrace(request, pid, 0_usize, signal as usize) };
    Errno::result(done).map(drop)
}

/// In a tracee: lets any process of the same user trace it, even where the Yama security module restricts that to ancestors.
pub fn let_anyone_trace_me() {
    // Without Yama the call fails, and no permission is needed.
    let _ = rustix::process::set_ptracer(rustix::process::PTracer::Any);
}

/// An instruction to a process that traces another one.
#[derive(Debug, Serialize, Deserialize)]
pub enum Instruction {
    /// Block SIGCHLD and trace this process.
    Seize {
        /// Its pid.
        pid: i32,
        /// Whether to set `PTRACE_O_EXITKILL`.
        kill_on_exit: bool,
    },
    /// Trace this process as [`seize_as_ordinary_user`] does.
    SeizeAsOrdinaryUser(i32),
    /// Wait until this process is a zombie, and leave it one.
    FindZombie(i32),
    /// Take a pending SIGCHLD.
    TakeSigchld,
    /// Wait for this process to end, and reap it.
    Reap(i32),
}

/// What that process answers.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Answer {
    Done,
    Zombie(Event),
    Sigchld(Option<Event>),
    Reaped(Status),
}

/// A process that traces a child of the caller (its sibling) or another process.
///
/// The caller must have [blocked](sigchld::block()) SIGCHLD. When the tracer exits, the kernel detaches the tracee before
/// it announces the tracer's exit. Only one SIGCHLD can be pending, so that one shows whether the tracee sent one.
#[derive(Debug)]
pub struct Tracer {
    actor: Actor<Instruction, Answer>,
    tracee: i32,
}

impl Tracer {
    /// Makes a tracer that has seized this process, which must have called [`let_anyone_trace_me`].
    #[track_caller]
    pub fn of(pid: i32) -> Result<Tracer> {
        Tracer::seizing(pid, false)
    }

    /// Like [`Tracer::of`], with `PTRACE_O_EXITKILL`: the exit of the tracer kills the process.
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

    /// Blocks until the tracer sees the tracee as a zombie, without reaping it.
    #[track_caller]
    pub fn find_zombie(&self) -> Result<Event> {
        match self.actor.ask(Instruction::FindZombie(self.tracee))? {
            Answer::Zombie(event) => Ok(event),
            other => Err(strange(&other)),
        }
    }

    /// Takes a pending SIGCHLD of the tracer.
    #[track_caller]
    pub fn take_sigchld(&self) -> Result<Option<Event>> {
        match self.actor.ask(Instruction::TakeSigchld)? {
            Answer::Sigchld(found) => Ok(found),
            other => Err(strange(&other)),
        }
    }

    /// Has the tracer wait for the tracee, and returns the status.
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

/// What that process does, as an [`Actor`].
pub fn follow(instruction: Instruction) -> Result<Answer> {
    Ok(match instruction {
        Instruction::Seize { pid, kill_on_exit } => {
            sigchld::block()?;
            let options = if kill_on_exit { Options::PTRACE_O_EXITKILL } else { Options::empty() };
            seize(pid, options)?;
            Answer::Done
        }
        Instruction::SeizeAsOrdinaryUser(pid) => {
            seize_as_ordinary_user(pid)?;
            Answer::Done
        }
        Instruction::FindZombie(pid) => Answer::Zombie(wait::find_zombie(pid)?),
        Instruction::TakeSigchld => Answer::Sigchld(sigchld::take()),
        Instruction::Reap(pid) => Answer::Reaped(wait::reap(pid)?),
    })
}

/// Tries `PTRACE_TRACEME` in the caller, a process that does nothing else; returns whether it is permitted.
pub(crate) fn try_tracing() -> bool {
    ptrace::traceme().is_ok()
}
