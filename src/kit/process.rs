//! Ordinary helper processes: code that must run as somebody else's child, or as somebody else.

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::abi::Flags;
use crate::check::{self, Context as _, Failure, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::Channel;
use crate::procfs::Stat;
use crate::sandbox;
use crate::wait::{self, Status};

/// The caller's process id.
pub fn own_pid() -> i32 {
    std::process::id() as i32
}

/// Runs `body` in a child made by `call` and gives what it returned, along with the child, which exits with 0
/// right after. Failures of checks inside are this process's failures.
#[track_caller]
pub fn child_reporting<T: Serialize + DeserializeOwned>(
    call: &Clone3,
    body: impl FnOnce() -> Result<T>,
) -> Result<(Child, T)> {
    let channel = Channel::<Result<T>>::new()?;
    let child = call.spawn(|| {
        lose_patience_first(call);
        i32::from(channel.send(&body()).is_err())
    })?;
    let report = channel.recv_from(&child).context(format_args!("child {}", child.pid()))?;
    Ok((child, report?))
}

/// In a child made by `call` that reports to its parent.
pub(super) fn lose_patience_first(call: &Clone3) {
    if !call.flags().contains(Flags::CLONE_VM) {
        sandbox::give_up_earlier();
    }
}

/// Runs `body` in an ordinary child, waits for its end, and gives what it returned.
#[track_caller]
pub fn apart<T: Serialize + DeserializeOwned>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let (child, value) = child_reporting(&Clone3::fork(), body)?;
    child.reap_expecting(Status::exited(0))?;
    Ok(value)
}

/// As [`apart`], in a child of a child: the body's process may hand children to its parent with `CLONE_PARENT`
/// without those ending up outside the case. The process in between reaps all of them.
#[track_caller]
pub fn two_apart<T: Serialize + DeserializeOwned>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    apart(|| {
        let value = apart(body)?;
        reap_all()?;
        Ok(value)
    })
}

/// Reaps every child of the caller, blocking until each has ended.
pub fn reap_all() -> Result {
    loop {
        match wait::waitpid(-1, libc::__WALL) {
            Ok(_) => {}
            Err(nix::errno::Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(Failure::from(errno)),
        }
    }
}

/// Whether `question`, asked in a forked child so that it changes nothing here, is answered with yes.
pub fn answers(question: impl FnOnce() -> bool) -> bool {
    ending_of(|| i32::from(!question())) == Some(Status::exited(0))
}

/// How a forked child ends that runs `body` and exits with what it returns; `None` where there can be none.
pub fn ending_of(body: impl FnOnce() -> i32) -> Option<Status> {
    // fork(2) and not clone3, which may be what is missing here.
    // SAFETY: the C library's fork leaves its allocator usable in the child, whatever other threads (those of a test harness)
    // did; the child leaves without unwinding.
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Child) => crate::clone3::exit_child(body),
        Ok(nix::unistd::ForkResult::Parent { child }) => {
            wait::waitpid(child.as_raw(), libc::__WALL).ok().flatten().map(|(_, status)| status)
        }
        Err(_) => None,
    }
}

/// A plain fork(2) that returns in both processes: the child's pid in the caller, `None` in the copy, which
/// runs on as if it were the caller. Only for code that wants just that.
pub fn stray_copy() -> Result<Option<i32>> {
    // SAFETY: called by programs with one thread, so that the copy may do anything.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child.as_raw())),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// `tgkill(2)`: asks whether a thread of a process could be signalled.
pub fn tgkill_nothing(pid: i32, tid: i32) -> std::result::Result<(), Errno> {
    // SAFETY: no pointers are passed, and signal 0 is never sent.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, 0) }).map(drop)
}

/// `sched_getscheduler(2)`: the scheduling policy of a thread, as a number.
pub fn sched_getscheduler(tid: i32) -> std::result::Result<i32, Errno> {
    // SAFETY: no pointers are passed.
    Errno::result(unsafe { libc::sched_getscheduler(tid) })
}

/// `sched_setscheduler(2)` for the caller: the policy as a number, and the priority.
pub fn set_scheduler(policy: i32, priority: i32) -> std::result::Result<(), Errno> {
    // SAFETY: sched_param is plain data for which all zeroes is a valid value.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = priority;
    // SAFETY: `parameters` is live, and only read.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &parameters) }).map(drop)
}

/// Makes a call whose set_tid is the number of a process that is gone.
///
/// After it reports POLLHUP nobody is found by the number, which the kernel gives back a few instructions later, and tells nobody;
/// until then the call is EEXIST. So this asks again, without pause and within the patience of the case.
///
/// # Errors
/// `blocked` if somebody else has got the number: it may be given to any new process of the machine.
#[track_caller]
pub fn spawn_once_free(call: &Clone3, mut body: impl FnMut() -> i32) -> Result<Child> {
    loop {
        match call.try_spawn(&mut body) {
            Err(Errno::EEXIST) if call.asks_for_a_pid_in_use() => {
                return Err(Failure::blocked(format!("{call}: another process has got this pid meanwhile")));
            }
            Err(Errno::EEXIST) if sandbox::time_left() != PollTimeout::ZERO => std::thread::yield_now(),
            outcome => return check::succeeds(call, outcome),
        }
    }
}

/// Every state that `/proc` shows of a child from now until it is reaped, repetitions left out.
#[track_caller]
pub fn states_until_reaped(child: &Child) -> Result<String> {
    let mut seen = String::new();
    while !child.pidfd()?.poll_now(PollFlags::POLLIN)?.contains(PollFlags::POLLHUP) {
        if let Some(stat) = Stat::of(child.pid()).filter(|stat| !seen.ends_with(stat.state)) {
            seen.push(stat.state);
        }
        if sandbox::time_left() == PollTimeout::ZERO {
            let (pid, waited) = (child.pid(), sandbox::patience());
            return Err(Failure::fail(format!(
                "process {pid} not reaped within {waited:.1?}: states {seen}"
            )));
        }
    }
    Ok(seen)
}
