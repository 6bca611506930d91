//! The process that forks lanes, so that no process with threads ever has to.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, fork};

use super::{census, lane};
use crate::clone3::exit_now;
use crate::kit::fdpass;

/// The program's end of the socket to the zygote. When it closes, the zygote and all lanes end.
pub(super) struct Zygote(UnixStream);

impl Zygote {
    /// Forks it.
    pub(super) fn start() -> io::Result<Zygote> {
        require_one_thread()?;
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: the program has one thread, so its copy may do anything.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => Ok(Zygote(ours)),
            ForkResult::Child => {
                drop(ours);
                serve(&theirs);
                exit_now(0)
            }
        }
    }

    /// A new lane, through a socket of its own.
    pub(super) fn new_lane(&mut self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        fdpass::send(&self.0, &theirs).map_err(|failure| io::Error::other(failure.message))?;
        Ok(ours)
    }
}

/// A fork copies only the thread that calls it; locks that others hold would stay locked for ever.
fn require_one_thread() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(1);
    if threads == 1 {
        return Ok(());
    }
    Err(io::Error::other(format!("the sandbox must start before any thread; there are {threads}")))
}

/// Forks a lane for every socket that arrives.
fn serve(program: &UnixStream) {
    reset_signals();
    ignore_children();
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    while let Ok(socket) = fdpass::receive(program) {
        // SAFETY: the zygote has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => become_lane(socket, program),
            // The program sees its socket close and says so.
            Ok(ForkResult::Parent { .. }) | Err(_) => {}
        }
    }
    census::kill_all_children();
}

fn become_lane(socket: OwnedFd, _program: &UnixStream) -> ! {
    // SAFETY: SIG_DFL is a valid disposition for SIGCHLD.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    lane::serve(UnixStream::from(socket));
    exit_now(0)
}

/// Lanes that end are nobody's news.
fn ignore_children() {
    // SAFETY: SIG_IGN is a valid disposition for SIGCHLD.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) };
}

/// Whatever the caller ignored or blocked, cases start from the defaults; but a broken pipe is an error to
/// handle and not a death.
fn reset_signals() {
    for signal in Signal::iterator() {
        let handler = if signal == Signal::SIGPIPE { SigHandler::SigIgn } else { SigHandler::SigDfl };
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: default and ignore run no code of ours. SIGKILL and SIGSTOP refuse, as they must.
        let _ = unsafe { sigaction(signal, &action) };
    }
    let _ = SigSet::empty().thread_set_mask();
}
