//! A thread that sleeps in a system call which waits for a descriptor, and that a signal can wake.

use std::os::fd::RawFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::check::{Failure, Result};
use crate::kit::threads::wait_until_asleep;
use crate::note;

/// A thread asleep in a call that returns a `T`.
#[derive(Debug)]
pub struct Sleeper<T> {
    tid: i32,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Sleeper<T> {
    /// Starts a thread that makes the call, and returns once the thread sleeps in it.
    #[track_caller]
    pub fn start(call: impl FnOnce() -> T + Send + 'static) -> Result<Sleeper<T>> {
        let (send, tid) = mpsc::channel();
        let thread = thread::spawn(move || {
            // The receiver waits for this. From here to the call, nothing else can put this thread to sleep.
            let _ = send.send(rustix::thread::gettid().as_raw_nonzero().get());
            call()
        });
        let tid = tid.recv().map_err(|_| Failure::broken("a thread ended before it began"))?;
        wait_until_asleep(tid)?;
        Ok(Sleeper { tid, thread })
    }

    /// Interrupts the call with a signal whose handler does nothing, and returns the result of the call.
    pub fn interrupt(self) -> Result<T> {
        extern "C" fn nothing(_: i32) {}
        let handler = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: a handler that does nothing is async-signal-safe.
        unsafe { sigaction(Signal::SIGUSR1, &handler)? };
        let pid = std::process::id();
        note!("tgkill({pid}, {}, SIGUSR1)", self.tid);
        // SAFETY: no pointers are passed.
        Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, self.tid, libc::SIGUSR1) })?;
        self.join()
    }

    /// Waits until the call and the thread have ended, and returns the result of the call.
    pub fn join(self) -> Result<T> {
        self.thread.join().map_err(|_| Failure::broken("a sleeping thread panicked"))
    }
}

/// A call that waits indefinitely for input on the descriptor that has this number when the call begins.
pub type Call = fn(RawFd) -> std::result::Result<i32, Errno>;

/// The calls that hold a reference to the file while they wait, by name.
pub const CALLS: [(&str, Call); 3] = [("poll", poll), ("ppoll", ppoll), ("select", select)];

fn poll(fd: RawFd) -> std::result::Result<i32, Errno> {
    let mut fds = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    // SAFETY: one live pollfd; the kernel checks the number.
    Errno::result(unsafe { libc::poll(fds.as_mut_ptr(), 1, -1) })
}

fn ppoll(fd: RawFd) -> std::result::Result<i32, Errno> {
    let mut fds = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    // SAFETY: one live pollfd; no timeout and no signal mask; the kernel checks the number.
    Errno::result(unsafe { libc::ppoll(fds.as_mut_ptr(), 1, std::ptr::null(), std::ptr::null()) })
}

fn select(fd: RawFd) -> std::result::Result<i32, Errno> {
    assert!((0..libc::FD_SETSIZE as RawFd).contains(&fd), "descriptor {fd} does not fit select(2)");
    let none = std::ptr::null_mut();
    // SAFETY: an fd_set is plain data, all zeroes is the empty set, and the number fits it.
    let mut set = unsafe { std::mem::zeroed::<libc::fd_set>() };
    // SAFETY: as above, and there is no timeout.
    Errno::result(unsafe {
        libc::FD_SET(fd, &mut set);
        libc::select(fd + 1, &mut set, none, none, std::ptr::null_mut())
    })
}
