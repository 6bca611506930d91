//! Helpers that run code in another process: forked children, their reports, and process-related system calls.

use nix::errno::Errno;
use nix::poll::{PollFlags, PollTimeout};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::abi::Flags;
use crate::check::{self, Context as _, Failure, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::Channel;
use crate::procfs::Task;
use crate::wait::{self, Status};
use crate::{note, sandbox};

/// Returns the caller's process id.
pub fn own_pid() -> i32 {
    std::process::id() as i32
}

/// Runs `body` in a child made by `call` and returns the result of `body` and the child, which exits with 0 right after. A
/// failed check in the child becomes a failure of the caller.
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

/// Shortens the time limit in a child made by `call`, so that it gives up before the parent that waits for its report. Does
/// nothing if the two share memory, because that would shorten the parent's limit too.
pub(super) fn lose_patience_first(call: &Clone3) {
    if !call.flags().contains(Flags::CLONE_VM) {
        sandbox::give_up_earlier();
    }
}

/// Runs `body` in a forked child, waits until the child has exited, and returns the result of `body`.
#[track_caller]
pub fn in_child<T: Serialize + DeserializeOwned>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let (child, value) = child_reporting(&Clone3::fork(), body)?;
    child.reap_expecting(Status::exited(0))?;
    Ok(value)
}

/// Like [`in_child`], but runs `body` in a grandchild, so that children which it gives to its parent with `CLONE_PARENT` stay
/// within the case. The process in between reaps all of them.
#[track_caller]
pub fn in_grandchild<T: Serialize + DeserializeOwned>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    in_child(|| {
        let value = in_child(body)?;
        reap_all()?;
        Ok(value)
    })
}

/// Reaps all children of the caller; blocks until each has exited.
pub fn reap_all() -> Result {
    loop {
        match wait::waitpid(-1, libc::__WALL) {
            Ok(_) => {}
            Err(nix::errno::Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(Failure::from(errno)),
        }
    }
}

/// Returns whether `question` is true. Evaluates it in a forked child, so that it changes nothing in the caller.
pub fn answers(question: impl FnOnce() -> bool) -> bool {
    ending_of(|| i32::from(!question())) == Some(Status::exited(0))
}

/// Runs `body` in a forked child, which exits with the result, and returns the wait status. Returns `None` if fork fails.
pub fn ending_of(body: impl FnOnce() -> i32) -> Option<Status> {
    // Use fork(2) because clone3 may be missing here.
    //
    // SAFETY: the C library's fork keeps the allocator usable in the child, whatever other threads (those of a test
    // harness) were doing; the child exits without unwinding.
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Child) => crate::clone3::exit_child(body),
        Ok(nix::unistd::ForkResult::Parent { child }) => {
            wait::waitpid(child.as_raw(), libc::__WALL).ok().flatten().map(|(_, status)| status)
        }
        Err(_) => None,
    }
}

/// Calls plain fork(2) and returns in both processes: the child's pid in the caller, `None` in the child, which continues
/// as a copy of the caller. Use it only where that is exactly what is needed.
pub fn raw_fork() -> Result<Option<i32>> {
    // SAFETY: only single-threaded programs call this, so the child may do anything.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child.as_raw())),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Calls `tgkill(2)` with signal 0: checks whether a thread of a process could be signaled.
pub fn tgkill_nothing(pid: i32, tid: i32) -> std::result::Result<(), Errno> {
    // SAFETY: no pointers are passed, and signal 0 is never delivered.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, 0) }).map(drop)
}

/// Calls `capget(2)` for a process, and drops the answer.
pub fn capget(pid: i32) -> std::result::Result<(), Errno> {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: i32 = 0x2008_0522;
    let (mut header, mut sets) = ([VERSION, pid], [0_u32; 6]);
    // SAFETY: both are live, and as large as this version of the call says.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) })
        .map(drop)
}

/// Calls `sched_getscheduler(2)`: returns the scheduling policy of a thread, as a number.
pub fn sched_getscheduler(tid: i32) -> std::result::Result<i32, Errno> {
    // SAFETY: no pointers are passed.
    Errno::result(unsafe { libc::sched_getscheduler(tid) })
}

/// Calls `sched_setscheduler(2)` for the calling thread, with the policy as a number and the priority.
pub fn set_scheduler(policy: i32, priority: i32) -> std::result::Result<(), Errno> {
    // SAFETY: sched_param is plain data, for which all zeroes is a valid value.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = priority;
    // SAFETY: `parameters` is live and is only read.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &parameters) }).map(drop)
}

/// Makes a call whose set_tid is the pid of a process that has been reaped.
///
/// When the pidfd of that process reports POLLHUP, the pid can no longer be looked up, but the kernel frees the number only
/// a few instructions later and sends no notification. Until then clone3 fails with EEXIST, so this retries without pause
/// until the time limit of the case.
///
/// # Errors
/// `blocked` if another process has taken the pid, which the kernel may give to any new process.
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

/// Returns every state that `/proc` shows for a child from now until it is reaped, without repetitions.
#[track_caller]
pub fn states_until_reaped(child: &Child) -> Result<String> {
    let mut seen = String::new();
    while !child.pidfd()?.poll_now(PollFlags::POLLIN)?.contains(PollFlags::POLLHUP) {
        if let Some(task) = Task::of(child.pid()).filter(|task| !seen.ends_with(task.state)) {
            seen.push(task.state);
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

/// Lets the caller choose the ids of its timers, as programs that restore processes do (`PR_TIMER_CREATE_RESTORE_IDS`, Linux 6.16).
/// A kernel that does not know the request refuses it, which is no error here.
pub fn choose_timer_ids() {
    const PR_TIMER_CREATE_RESTORE_IDS: libc::c_int = 77;
    const ON: libc::c_ulong = 1;
    // SAFETY: the arguments are numbers.
    let chosen = Errno::result(unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, ON, 0_u64, 0_u64, 0_u64) });
    note!("prctl(PR_TIMER_CREATE_RESTORE_IDS, 1) = {}", check::outcome_of(&chosen));
}
