//! The zygote, which forks the lanes, so that no multithreaded process ever has to fork.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::unistd::{ForkResult, fork, getegid, geteuid, getgid, getuid, setresgid, setresuid};
use rustix::process::{DumpableBehavior, Pid, getpid, set_dumpable_behavior};

use super::{census, lane, wait_within};
use crate::clone3::exit_now;
use crate::kit::{cgroup, disposition, fdpass};
use crate::pidfd::Pidfd;
use crate::wait;

/// The program's end of the socket to the zygote. When it closes, the zygote and all lanes end.
pub(super) struct Zygote {
    /// `None` once the zygote is dismissed.
    socket: Option<UnixStream>,
    pid: i32,
}

impl Zygote {
    /// Forks the zygote.
    pub(super) fn start() -> io::Result<Zygote> {
        require_one_thread()?;
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: the program has one thread, so the child may do anything.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Zygote { socket: Some(ours), pid: child.as_raw() }),
            ForkResult::Child => {
                drop(ours);
                serve(theirs);
                exit_now(0)
            }
        }
    }

    /// Creates a lane with a socket of its own.
    pub(super) fn new_lane(&mut self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let socket = self.socket.as_ref().ok_or_else(|| io::Error::other("the zygote was dismissed"))?;
        fdpass::send(socket, &theirs).map_err(|failure| io::Error::other(failure.message))?;
        Ok(ours)
    }
}

/// Creates a lane as a child of the caller. It ends when its socket closes; the caller must exit soon afterwards, so that the
/// reaper of orphans waits for it. A zygote would restore the cgroup controllers to their previous state at its end, while
/// another program's cases may be using them.
pub(super) fn lane_without_zygote() -> io::Result<UnixStream> {
    require_one_thread()?;
    let (ours, theirs) = UnixStream::pair()?;
    let caller = getpid();
    // SAFETY: the program has one thread, so the child may do anything.
    if let ForkResult::Child = unsafe { fork() }? {
        drop(ours);
        lane::serve(theirs, caller);
        exit_now(0)
    }
    Ok(ours)
}

/// Waits for the zygote, so that no process of the sandbox outlives it, and the reaper of orphans, which may
/// be a careless process 1 of a container, gets no zombie.
impl Drop for Zygote {
    fn drop(&mut self) {
        drop(self.socket.take());
        let _ = wait::waitpid(self.pid, libc::__WALL);
    }
}

/// Checks that the caller is single-threaded. fork copies only the calling thread, and locks that others hold
/// would stay locked forever.
fn require_one_thread() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(1);
    if threads == 1 {
        return Ok(());
    }
    Err(io::Error::other(format!("the sandbox must start before any thread; there are {threads}")))
}

/// Forks a lane for every socket that arrives.
fn serve(program: UnixStream) {
    reset_signals();
    become_effective_user();
    ignore_children();
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    // Ctrl-C ends the program, and that ends the sandbox, which must still be able to clean up.
    let _ = rustix::process::setpgid(None, None);
    let controllers = cgroup::Controllers::now();
    let zygote = getpid();
    let mut lanes = Vec::new();
    while let Ok(socket) = fdpass::receive(&program) {
        // SAFETY: the zygote has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                // The lane does not use these.
                drop((program, lanes));
                become_lane(socket, zygote)
            }
            Ok(ForkResult::Parent { child }) => lanes.extend(Pidfd::try_open(child.as_raw())),
            // Answers in the lane's place; if the program is gone, an error does not matter.
            Err(errno) => lane::refuse(&UnixStream::from(socket), lane::no_fork(errno)),
        }
    }
    lanes.iter().for_each(wait_for_end);
    // From here on dead children stay zombies until they are reaped here, except those that the kernel reaps.
    heed_children();
    census::kill_all_children();
    if let Some(controllers) = controllers {
        controllers.put_back();
    }
}

/// Waits for a lane to end. A lane in the middle of a case needs time to kill it and to clean up.
fn wait_for_end(lane: &Pidfd) {
    /// In milliseconds: more than leftovers may take to die.
    const PATIENCE: u16 = 40_000;
    let mut fds = [PollFd::new(lane.as_fd(), PollFlags::POLLIN)];
    // Without it, the lane is given no time.
    let _ = wait_within(&mut fds, PATIENCE.into());
}

fn become_lane(socket: OwnedFd, zygote: Pid) -> ! {
    heed_children();
    lane::serve(UnixStream::from(socket), zygote);
    exit_now(0)
}

/// Lets ended children become zombies, which must be reaped.
fn heed_children() {
    // SAFETY: SIG_DFL is a valid disposition for SIGCHLD.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}

/// Lets the kernel reap lanes that end, without notification.
fn ignore_children() {
    // SAFETY: SIG_IGN is a valid disposition for SIGCHLD.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) };
}

/// Gives up the other user and group ids of a program that was started as set-user-ID, or whose parent had changed only some: the
/// cases have one user and one group.
fn become_effective_user() {
    let (user, group) = (geteuid(), getegid());
    if (getuid(), getgid()) == (user, group) {
        return;
    }
    // A process may always do this, unless a filter forbids it.
    let _ = setresgid(group, group, group);
    let _ = setresuid(user, user, user);
    // Exec has made it undumpable, and the cases are about processes that can be traced.
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
}

/// Resets all signals to their defaults for the cases, whatever the caller ignored or blocked. SIGPIPE is
/// ignored, because a broken pipe must be an error rather than kill the process.
fn reset_signals() {
    disposition::reset_all();
    // SAFETY: to ignore a signal runs no code of ours.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    let _ = SigSet::empty().thread_set_mask();
}
