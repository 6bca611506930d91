//! A thread of the case that is verifiably blocked in a wait call before the event that should end the call.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::check::{Context as _, Failure, Kind, Result};
use crate::kit::threads::own_tid;
use crate::kit::wait_call::{Found, WaitCall};
use crate::procfs::Task;
use crate::{note, sandbox};

/// A thread in a wait call. Make the children first: a case with a second thread should not fork.
#[derive(Debug)]
pub struct Blocked {
    call: WaitCall,
    tid: i32,
    /// Contains a byte once the call has returned.
    returned: OwnedFd,
    thread: JoinHandle<Found>,
}

impl Blocked {
    /// Starts a thread that makes the call, and returns once the thread sleeps in it.
    #[track_caller]
    pub fn in_call(call: WaitCall) -> Result<Blocked> {
        Blocked::after(|| Ok(()), call)
    }

    /// Like [`Blocked::in_call`], for a thread that first runs `prepare`.
    ///
    /// # Errors
    /// The error of `prepare`, if it fails.
    #[track_caller]
    pub fn after(prepare: impl FnOnce() -> Result + Send + 'static, call: WaitCall) -> Result<Blocked> {
        let (returned, tell) = pipe_with(PipeFlags::CLOEXEC)?;
        let (send_tid, tid) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // The receiver waits for this. After a failure, the result of the call is not used.
            let _ = send_tid.send(prepare().map(|()| own_tid()));
            let found = call.make();
            note!("{call} = {found:?}");
            // If this fails, the reader is gone and the result is not needed any more.
            let _ = rustix::io::write(tell, b"r");
            found
        });
        let tid = tid.recv().map_err(|_| Failure::broken("a thread ended before it began"))??;
        let blocked = Blocked { call, tid, returned, thread };
        blocked.is_blocked("at first")?;
        note!("thread {tid} is blocked in {call}");
        Ok(blocked)
    }

    /// Fails unless the thread sleeps in the call, or is about to sleep in it again.
    #[track_caller]
    pub fn is_blocked(&self, when: &str) -> Result {
        match self.is_over().context(when)? {
            true => Err(Failure::fail(format!("{} returned {when}: expected it to block", self.call))),
            false => Ok(()),
        }
    }

    /// Returns true if the call has returned, and false once the thread sleeps in it.
    #[track_caller]
    pub fn is_over(&self) -> Result<bool> {
        is_call_over(self.tid, self.call, || self.has_returned(PollTimeout::ZERO))
    }

    #[track_caller]
    fn has_returned(&self, timeout: PollTimeout) -> Result<bool> {
        let mut fds = [PollFd::new(self.returned.as_fd(), PollFlags::POLLIN)];
        Ok(sandbox::wait_within(&mut fds, timeout)?)
    }

    /// Waits until the call returns, and returns its result.
    #[track_caller]
    pub fn join(self) -> Result<Found> {
        if self.has_returned(sandbox::time_left())? {
            return self.thread.join().map_err(|_| Failure::broken("a waiting thread panicked"));
        }
        let waited = sandbox::patience();
        let now = task_of(self.tid)
            .map_or_else(String::new, |task| format!("; its thread, shown as a process: {task}"));
        Err(Failure::fail(format!("{} is still blocked after {waited:.1?}{now}", self.call)))
    }
}

/// Waits until another thread of the calling process sleeps in this call, which must not return before.
#[track_caller]
pub fn wait_until_blocked(tid: i32, call: WaitCall) -> Result {
    is_call_over(tid, call, || Ok(false)).map(drop).map_err(|failure| match failure.kind {
        // The time limit is over. The thread has nothing else to do, so the call has returned too early.
        Kind::Broken => Failure { kind: Kind::Fail, ..failure },
        _ => failure,
    })
}

/// Returns true if the thread's call `has_returned`, and false once the thread sleeps in it.
///
/// `/proc/self/task/TID/syscall` shows the system call of a thread that sleeps, or that has been woken but not scheduled yet;
/// `status` shows the latter as running. A thread that was woken for nothing checks its condition and goes back to sleep, so this
/// polls until it has.
#[track_caller]
fn is_call_over(tid: i32, call: WaitCall, has_returned: impl Fn() -> Result<bool>) -> Result<bool> {
    let (path, number) = (format!("/proc/self/task/{tid}/syscall"), call.syscall().to_string());
    let sleeps = || task_of(tid).is_some_and(|task| task.state == 'S');
    loop {
        if has_returned()? {
            return Ok(true);
        }
        match std::fs::read_to_string(&path) {
            Ok(text) if text.split(' ').next() == Some(&number[..]) && sleeps() => return Ok(false),
            Ok(text) if sandbox::time_left() == PollTimeout::ZERO => {
                return Err(Failure::broken(format!("the thread for {call} is at {text:?}")));
            }
            Ok(_) => std::thread::yield_now(),
            // The call may have returned in the meantime, and the thread may have exited.
            Err(_) if has_returned()? => {}
            Err(error) => return Err(Failure::blocked(format!("needs {path}: {error}"))),
        }
    }
}

/// Returns what `/proc` says about a thread of the calling process.
fn task_of(tid: i32) -> Option<Task> {
    Task::read(&format!("/proc/self/task/{tid}/status"))
}
