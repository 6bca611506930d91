//! Helpers for threads: wait until a thread is blocked or dead, delay its exit, and join it.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
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
use crate::kit::{Gate, Held, shared};
use crate::pidfd::Pidfd;
use crate::procfs::Task;
use crate::sandbox;
use crate::wait::{self, Who};

/// Returns the caller's thread id.
pub fn own_tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Checks that the process still exists for every interface: its exit is neither reported nor recorded.
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

/// Makes a child whose leader thread has exited with `code`, while another thread waits at the gate. Once let go, that
/// thread runs `body` and exits alone, with the result.
#[track_caller]
pub fn leaderless(call: &Clone3, code: i32, body: impl FnOnce() -> i32 + Send) -> Result<Held> {
    let gate = Gate::new()?;
    let child = leaderless_at(&gate, call, code, body)?;
    Ok(Held::at(child, gate))
}

/// Like [`leaderless`], with the caller's gate.
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

/// In the leader of a process: exits with `code` while another thread waits at the gate. Once let go, that thread runs
/// `body` and exits alone, with the result.
pub fn leave_to_another(gate: &Gate, code: i32, body: impl FnOnce() -> i32 + Send) -> ! {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            gate.wait();
            exit_thread(body())
        });
        exit_thread(code)
    })
}

/// In the body of a process: makes the leader exit with `code` and still be the last thread to go, after another thread has
/// ended the whole group with `group_code`.
///
/// Only the leader has inotify watches on a directory. After it has left user mode, releasing them makes it sleep in the
/// kernel, which no signal interrupts.
pub fn leader_exits_last(code: i32, group_code: i32) -> i32 {
    let word: &AtomicU32 = Box::leak(Box::new(AtomicU32::new(1)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until_cleared(word);
            exit_now(group_code)
        });
        exit_slowly(code, word)
    })
}

/// Like [`leader_exits_last`], for a thread other than the leader: the leader is long dead, with `leader_code`.
pub fn other_exits_last(leader_code: i32, code: i32, group_code: i32) -> i32 {
    let word: &AtomicU32 = Box::leak(Box::new(AtomicU32::new(1)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if wait_for_dead_leader(own_pid()).is_err() {
                exit_now(98);
            }
            wait_until_cleared(word);
            exit_now(group_code)
        });
        scope.spawn(|| exit_slowly(code, word));
        exit_thread(leader_code)
    })
}

/// Whether a thread of a child could not be made slow to exit: memory that forked children share.
static NOT_SLOW: OnceLock<&'static AtomicU32> = OnceLock::new();

/// Runs the body of a case whose children are to be slow to exit: [`leader_exits_last`], [`other_exits_last`].
///
/// # Errors
/// `blocked` if that is not possible here, also if one of the children finds that out.
pub fn with_slow_exits(body: impl FnOnce() -> Result) -> Result {
    can_delay_exit()?;
    let word = shared::word(0)?;
    let not_slow = NOT_SLOW.get_or_init(|| word);
    let done = body();
    if not_slow.load(Ordering::Acquire) != 0 {
        return Err(Failure::blocked(
            "a thread of a child could not be made slow to exit: no inotify instance is left",
        ));
    }
    done
}

/// Ends the calling thread with `code`. The kernel clears `word` when the thread has left user mode; the thread is gone
/// only a while later.
fn exit_slowly(code: i32, word: &'static AtomicU32) -> ! {
    if slow_exit(word).is_ok() {
        exit_thread(code);
    }
    if let Some(not_slow) = NOT_SLOW.get() {
        not_slow.store(1, Ordering::Release);
    }
    exit_now(98)
}

/// Waits until the kernel has cleared the word.
fn wait_until_cleared(word: &AtomicU32) {
    while word.load(Ordering::Acquire) != 0 {
        // Wakeups may be spurious; the word decides.
        let _ = futex::wait(word, futex::Flags::empty(), 1, None);
    }
}

/// How many inotify instances make a thread slow to go.
const INSTANCES: usize = 4;

/// How many must be free: some cases have two such threads, and other cases may run at the same time.
const SPARE: usize = 4 * INSTANCES;

/// Checks whether [`delay_exit`] can work here.
///
/// # Errors
/// `blocked` if it cannot.
pub fn can_delay_exit() -> Result {
    (0..SPARE).map(|_| inotify_instance()).collect::<Result<Vec<OwnedFd>>>().map(drop)
}

fn inotify_instance() -> Result<OwnedFd> {
    match inotify::init(inotify::CreateFlags::CLOEXEC) {
        Err(Errno::MFILE) => Err(Failure::blocked(format!(
            "needs {SPARE} inotify instances, more than fs.inotify.max_user_instances leaves this user"
        ))),
        made => Ok(made?),
    }
}

/// Makes the exit of the calling thread slow: whatever ends it, it sleeps in the kernel for a while.
pub fn delay_exit() -> Result {
    slow_exit(Box::leak(Box::new(AtomicU32::new(1))))
}

/// Starts a thread that does nothing and whose exit is slow, whatever ends it. The kernel clears `word` when the exit begins.
#[track_caller]
pub fn start_slow_to_exit(word: &'static AtomicU32) -> Result {
    let (ready, made_ready) = std::sync::mpsc::channel();
    std::thread::Builder::new().spawn(move || {
        // If this fails, the receiver sees the end of the channel.
        let _ = ready.send(slow_exit(word));
        park()
    })?;
    made_ready.recv().unwrap_or_else(|_| Err(Failure::broken("the thread ended before its time")))
}

/// Makes the calling thread's exit slow, and has `word` cleared before the slow part.
fn slow_exit(word: &'static AtomicU32) -> Result {
    check::permitted("unshare(CLONE_FILES)", nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES))?;
    // One watch would do if the other thread were not possibly slow too.
    for _ in 0..INSTANCES {
        let watch = inotify_instance()?;
        inotify::add_watch(&watch, "/", inotify::WatchFlags::MOVE_SELF)?;
        std::mem::forget(watch);
    }
    have_cleared_at_exit(word);
    Ok(())
}

/// Has the kernel clear a word when the calling thread exits, if another task still shares its memory then.
pub fn have_cleared_at_exit(word: &'static AtomicU32) {
    // SAFETY: the word is never freed, and the kernel writes to it once, when this thread exits.
    unsafe { libc::syscall(libc::SYS_set_tid_address, word.as_ptr()) };
}

/// Waits until the leader thread of a process has exited while others run on: the process is then shown as `Z`.
///
/// The kernel reports this nowhere else, so this polls without pause until the time limit of the case.
#[track_caller]
pub fn wait_for_dead_leader(pid: i32) -> Result {
    wait_for_state(&format!("/proc/{pid}/status"), 'Z')
}

/// Waits until a thread of the calling process sleeps in the kernel.
#[track_caller]
pub fn wait_until_asleep(tid: i32) -> Result {
    wait_for_state(&format!("/proc/self/task/{tid}/status"), 'S')
}

/// Waits until a process sleeps in the kernel.
#[track_caller]
pub fn wait_until_process_sleeps(pid: i32) -> Result {
    wait_for_state(&format!("/proc/{pid}/status"), 'S')
}

/// Waits until a process is blocked in the kernel where only a fatal signal interrupts it, as in vfork(2).
#[track_caller]
pub fn wait_until_process_is_blocked(pid: i32) -> Result {
    wait_for_state(&format!("/proc/{pid}/status"), 'D')
}

/// Waits until the leader thread of a process is in a group stop.
#[track_caller]
pub fn wait_until_leader_stops(pid: i32) -> Result {
    wait_for_state(&format!("/proc/{pid}/status"), 'T')
}

#[track_caller]
fn wait_for_state(path: &str, wanted: char) -> Result {
    loop {
        match Task::read(path) {
            Some(task) if task.state == wanted => return Ok(()),
            Some(task) if sandbox::time_left() == PollTimeout::ZERO => {
                return Err(Failure::fail(format!("expected state {wanted}, but {task}")));
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

/// Runs `body` in a new thread, which has left user mode when this returns.
pub fn in_a_thread<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| join(scope.spawn(body)))
}

/// Joins the task that runs on this stack and that `end` ends, and returns the result of `end`. Another thread calls `end`
/// once the caller sleeps, so that the kernel has a sleeper to wake.
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

/// Runs `body` while this process has another live thread, which does nothing.
pub fn beside_another<T>(body: impl FnOnce() -> T) -> T {
    let (end, until_then) = std::sync::mpsc::channel::<()>();
    // The scope owns the sender, so that a panic of the body also releases the thread.
    std::thread::scope(move |scope| {
        scope.spawn(move || until_then.recv());
        let result = body();
        drop(end);
        result
    })
}

/// Returns a pidfd for the calling thread, which reports its exit exactly: a join may return slightly earlier.
pub fn own_pidfd() -> Result<Pidfd> {
    Pidfd::of_thread(own_tid())
}
