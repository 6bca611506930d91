//! A child that the init of the whole system has adopted.
//!
//! Whatever a case starts is adopted by the case, by its lane or by the init of a pid namespace. Only a program that the
//! kernel itself starts has no subreaper above it: the helper that `core_pattern` names. So this lets an ordinary child dump
//! core, and the helper make the child and exit.

use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use linkme::distributed_slice;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use crate::abi::{Flags, InfoMask};
use crate::check::{self, Failure, Result};
use crate::clone3::Clone3;
use crate::kit::Place;
use crate::kit::crash::Crash;
use crate::kit::helper::{self, HELPERS, Helper};
use crate::kit::orphan::parent_of;
use crate::kit::programs::or_wrong;
use crate::kit::sysctl::Sysctl;
use crate::kit::{fdpass, subject};
use crate::pidfd::Pidfd;
use crate::sandbox;

/// A child of pid 1.
#[derive(Debug)]
pub struct Fosterling {
    /// The pidfd that clone3 returned to the helper.
    pub pidfd: Pidfd,
    line: UnixStream,
}

impl Fosterling {
    /// One that clone3 made with `flags`. Once let go it exits with 3.
    ///
    /// # Errors
    /// `blocked` where core dumps start no helper, or where pid 1 is not who adopts.
    #[track_caller]
    pub fn made_with(flags: Flags) -> Result<Fosterling> {
        let place = Place::new()?;
        let socket = place.of("socket");
        let listener = UnixListener::bind(&socket)?;
        let program = place.of(helper::NAME);
        std::os::unix::fs::symlink(fs::read_link("/proc/self/exe")?, &program)?;
        let pattern = Sysctl::CorePattern.set(&format!("|{program} foster {} {socket}", flags.bits()))?;
        // The end of its dump says that no helper was started: it needs somebody to read so much.
        let crashing = Clone3::fork().with(Flags::PIDFD).spawn(|| Crash::Abort.with_large_core())?;
        let line = accept(&listener, crashing.pidfd()?)?;
        let (own, pidfd) = (fdpass::receive(&line)?, fdpass::receive(&line)?);
        drop(pattern);
        subject::see_off(&crashing)?;
        // When the helper is gone, its child has been adopted.
        Pidfd::from(own).wait_reaped()?;
        let fosterling = Fosterling { pidfd: Pidfd::from(pidfd), line };
        if fosterling.pidfd.info(InfoMask::PID).err() == Some(Errno::EREMOTE) {
            return Err(Failure::blocked(
                "the kernel's helper is in another pid namespace, and so is who adopts there",
            ));
        }
        match parent_of(&fosterling.pidfd)? {
            1 => Ok(fosterling),
            other => Err(Failure::blocked(format!(
                "an orphan of the kernel's helper goes to {other}, not to pid 1"
            ))),
        }
    }

    /// Lets it come to its end.
    pub fn let_go(&self) -> Result {
        rustix::io::write(&self.line, b"g")?;
        Ok(())
    }
}

/// Waits for the helper, or for the end of the child that dumps core for it.
#[track_caller]
fn accept(listener: &UnixListener, crashing: &Pidfd) -> Result<UnixStream> {
    use std::os::fd::AsFd as _;
    let ended = PollFd::new(crashing.as_fd(), PollFlags::POLLIN);
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN), ended];
    check::succeeds("poll", poll(&mut fds, sandbox::time_left()))?;
    match fds[0].any() {
        Some(true) => Ok(listener.accept()?.0),
        _ => Err(Failure::blocked("a core dump starts no helper here")),
    }
}

#[distributed_slice(HELPERS)]
static FOSTER: Helper = Helper { name: "foster", main: |arguments| or_wrong(foster(arguments)) };

/// `foster FLAGS SOCKET`: makes a child, sends pidfds of itself and of the child over the socket, and exits.
fn foster(arguments: &[String]) -> Result<i32> {
    let flags: u64 = arguments.first().and_then(|flags| flags.parse().ok()).unwrap_or_default();
    // Before the dump can end.
    let line = UnixStream::connect(arguments.get(1).map_or("", String::as_str))?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    // The child is not to hold the other end of somebody's dump.
    nix::unistd::close(0)?;
    fdpass::send(&line, Pidfd::open(std::process::id() as i32)?)?;
    let child = Clone3::new(Flags::from_bits_retain(flags)).spawn(|| {
        let mut byte = [0];
        match rustix::io::read(&line, &mut byte) {
            Ok(1) => 3,
            _ => 98,
        }
    })?;
    fdpass::send(&line, child.pidfd()?)?;
    Ok(0)
}
