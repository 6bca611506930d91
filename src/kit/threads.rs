//! Threads of the case: seen blocked before the event, and joined after it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::poll::{PollFlags, PollTimeout};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::thread::futex;

use crate::abi::InfoMask;
use crate::check::{self, Failure, Result};
use crate::clone3::{Child, Clone3, Stack, exit_now, exit_thread, park};
use crate::kit::process::own_pid;
use crate::kit::{Gate, Held};
use crate::pidfd::Pidfd;
use crate::procfs::Stat;
use crate::sandbox;
use crate::wait::{self, Who};

/// The caller's thread id.
pub fn own_tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// The process must be there to every one who asks: its end is neither announced nor recorded.
#[track_caller]
pub fn is_not_over(child: &Child) -> Result {
    let (pid, pidfd) = (child.pid(), child.pidfd()?);
    check::equal("poll on the pidfd", pidfd.poll_now(PollFlags::POLLIN)?, PollFlags::empty())?;
    let alive = wait::waitid(Who::Pid(pid), libc::WEXITED | libc::WNOHANG | libc::__WALL);
    check::equal("waitid(WEXITED|WNOHANG|__WALL)", alive, Ok(None))?;
    check::equal("kill(pid, 0)", kill(Pid::from_raw(pid), None), Ok(()))?;
    let info = check::succeeds("PIDFD_GET_INFO(EXIT)", pidfd.info(InfoMask::EXIT))?;
    check::equal("the pid in PIDFD_GET_INFO", info.tgid as i32, pid)?;
    check::holds(
        !info.given().contains(InfoMask::EXIT),
        format_args!("PIDFD_GET_INFO(EXIT): expected no EXIT bit yet, got mask {}", info.given()),
    )
}

/// A child whose leader thread has ended with `code`, while another thread waits at the gate. Once let go,
/// that thread runs `body` and ends itself alone, with what it returns.
#[track_caller]
pub fn leaderless(call: &Clone3, code: i32, body: impl FnOnce() -> i32 + Send) -> Result<Held> {
    let gate = Gate::new()?;
    let child = leaderless_at(&gate, call, code, body)?;
    Ok(Held::at(child, gate))
}

/// As [`leaderless`], at a gate of the caller's.
#[track_caller]
pub fn leaderless_at(
    gate: &Gate,
    call: &Clone3,
    code: i32,
    body: impl FnOnce() -> i32 + Send,
) -> Result<Child> {
    let child = call.spawn(|| leave_to_another(gate, code, body))?;
    wait_for_dead_leader(child.pid())?;
    Ok(child)
}

/// What the leader of a process does to end with `code` while another thread waits at the gate, which runs `body` then and ends
/// itself alone, with what it returns.
pub fn leave_to_another(gate: &Gate, code: i32, body: impl FnOnce() -> i32 + Send) -> ! {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            gate.wait();
            exit_thread(body())
        });
        exit_thread(code)
    })
}

/// What the body of a process does so that its leader ends with `code` and still is the last thread to be
/// gone, after another one ended the whole group with `group_code`.
///
/// The leader alone has watches on a directory. Once it has left user mode, giving them up makes it sleep in the
/// kernel, which no signal cuts short.
pub fn leader_gone_last(code: i32, group_code: i32) -> i32 {
    let word: &AtomicU32 = Box::leak(Box::new(AtomicU32::new(1)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until_cleared(word);
            exit_now(group_code)
        });
        go_slowly(code, word)
    })
}

/// As [`leader_gone_last`], for another thread than the leader: the leader is long dead, with `leader_code`.
pub fn other_gone_last(leader_code: i32, code: i32, group_code: i32) -> i32 {
    let word: &AtomicU32 = Box::leak(Box::new(AtomicU32::new(1)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if wait_for_dead_leader(own_pid()).is_err() {
                exit_now(98);
            }
            wait_until_cleared(word);
            exit_now(group_code)
        });
        scope.spawn(|| go_slowly(code, word));
        exit_thread(leader_code)
    })
}

/// Ends the calling thread with `code`: `word` is cleared when it has left user mode, and it is not gone for a while.
fn go_slowly(code: i32, word: &'static AtomicU32) -> ! {
    match slow_exit(word) {
        Ok(()) => exit_thread(code),
        Err(_) => exit_now(98),
    }
}

/// Waits until the kernel has cleared the word.
fn wait_until_cleared(word: &AtomicU32) {
    while word.load(Ordering::Acquire) != 0 {
        // Whatever the reason for waking, the word tells.
        let _ = futex::wait(word, futex::Flags::empty(), 1, None);
    }
}

/// How many inotify instances make a thread slow to go.
const INSTANCES: usize = 4;

/// How many must be free: some cases have two such threads, and two cases may run at a time.
const SPARE: usize = 4 * INSTANCES;

/// Whether [`be_slow_to_go`] has what it needs here.
///
/// # Errors
/// `blocked` where it has not.
pub fn can_be_slow_to_go() -> Result {
    let spare = || -> rustix::io::Result<Vec<OwnedFd>> {
        (0..SPARE).map(|_| inotify::init(inotify::CreateFlags::CLOEXEC)).collect()
    };
    match spare() {
        Err(Errno::MFILE) => Err(Failure::blocked(format!(
            "needs {SPARE} inotify instances, more than fs.inotify.max_user_instances leaves this user"
        ))),
        tried => Ok(tried.map(drop)?),
    }
}

/// Makes the calling thread slow to go: whatever ends it, it still sleeps in the kernel for a while.
pub fn be_slow_to_go() -> Result {
    slow_exit(Box::leak(Box::new(AtomicU32::new(1))))
}

/// Starts a thread that does nothing and is slow to go, whatever ends it. `word` is cleared when that has begun.
pub fn start_one_slow_to_go(word: &'static AtomicU32) -> Result {
    let (ready, made_ready) = std::sync::mpsc::channel();
    std::thread::Builder::new().spawn(move || {
        // Whoever waits for it sees the end of the channel in its place.
        let _ = ready.send(slow_exit(word));
        park()
    })?;
    made_ready.recv().unwrap_or_else(|_| Err(Failure::broken("the thread ended before its time")))
}

/// Makes the calling thread's exit slow, and clear `word` before it becomes so.
fn slow_exit(word: &'static AtomicU32) -> Result {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?;
    // One would do, were it not that the other thread may be slow too.
    for _ in 0..INSTANCES {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, "/", inotify::WatchFlags::MOVE_SELF)?;
        std::mem::forget(watch);
    }
    have_cleared_at_exit(word);
    Ok(())
}

/// Has the kernel clear a word when the calling thread exits, if somebody else has its memory then, too.
pub fn have_cleared_at_exit(word: &'static AtomicU32) {
    // SAFETY: the word is never freed, and the kernel writes to it once, when this thread exits.
    unsafe { libc::syscall(libc::SYS_set_tid_address, word.as_ptr()) };
}

/// Waits until the leader thread of a process has ended while others run on: the process then shows as `Z`.
///
/// The kernel reports that nowhere else, so this looks again and again, without pause and within the patience
/// of the case.
#[track_caller]
pub fn wait_for_dead_leader(pid: i32) -> Result {
    wait_for_state(&format!("/proc/{pid}/stat"), 'Z')
}

/// Waits until a thread of the caller sleeps in the kernel.
#[track_caller]
pub fn wait_until_asleep(tid: i32) -> Result {
    wait_for_state(&format!("/proc/self/task/{tid}/stat"), 'S')
}

/// Waits until a process sleeps in the kernel.
#[track_caller]
pub fn wait_until_process_sleeps(pid: i32) -> Result {
    wait_for_state(&format!("/proc/{pid}/stat"), 'S')
}

/// Waits until a process is blocked in the kernel in a way that only a fatal signal cuts short, as in vfork(2).
#[track_caller]
pub fn wait_until_process_is_blocked(pid: i32) -> Result {
    wait_for_state(&format!("/proc/{pid}/stat"), 'D')
}

#[track_caller]
fn wait_for_state(path: &str, wanted: char) -> Result {
    loop {
        match Stat::read(path) {
            Some(stat) if stat.state == wanted => return Ok(()),
            Some(stat) if sandbox::time_left() == PollTimeout::ZERO => {
                return Err(Failure::fail(format!("expected state {wanted}, but {stat}")));
            }
            Some(_) => std::thread::yield_now(),
            None => {
                return Err(Failure::fail(format!(
                    "{path} is no more: the process has ended, and should be in state {wanted}"
                )));
            }
        }
    }
}

/// Runs `body` in a thread of its own, which is over for user mode on return.
pub fn in_a_thread<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| join(scope.spawn(body)))
}

/// Waits for who was started on this stack, whom `end` ends, and gives what that returns. It is called by another thread once the
/// caller sleeps, so that the kernel has somebody to wake.
#[track_caller]
pub fn join_ending<T: Send>(stack: &Stack, end: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let sleeper = own_tid();
    std::thread::scope(|scope| {
        let ending = scope.spawn(move || {
            wait_until_asleep(sleeper)?;
            end()
        });
        let joined = stack.join();
        let ended = join(ending)?;
        joined.map(|()| ended)
    })
}

/// Joins a thread of the case.
pub fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(Failure::broken("a thread of the case panicked")))
}

/// Runs `body` while another thread of this process lives, which does nothing.
pub fn beside_another<T>(body: impl FnOnce() -> T) -> T {
    let (end, until_then) = std::sync::mpsc::channel::<()>();
    // Owned by the scope, so that a panic of the body lets the thread go as well.
    std::thread::scope(move |scope| {
        scope.spawn(move || until_then.recv());
        let result = body();
        drop(end);
        result
    })
}

/// A pidfd for the calling thread, which reports its end exactly: a join may return a little before it.
pub fn own_pidfd() -> Result<Pidfd> {
    Pidfd::of_thread(own_tid())
}
