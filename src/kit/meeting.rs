//! A child of another process that sends the case its pidfd and then answers pings.

use std::os::unix::net::UnixStream;

use crate::abi::InfoMask;
use crate::check::{self, Failure, Result};
use crate::clone3::{Child, Clone3, park};
use crate::kit::echo::{Echoer, Line, line};
use crate::kit::process::own_pid;
use crate::kit::{AutokillChild, Channel, fdpass};
use crate::pidfd::Pidfd;

/// The channel, pipes and sockets, which are set up before any of the processes is made.
#[derive(Debug)]
pub struct Meeting {
    made: Channel<Result>,
    line: Line,
    echoer: Echoer,
    ours: UnixStream,
    theirs: UnixStream,
}

impl Meeting {
    /// Sets up the channel, the pipes and the sockets.
    pub fn arrange() -> Result<Meeting> {
        let ((line, echoer), (ours, theirs)) = (line()?, fdpass::pair()?);
        Ok(Meeting { made: Channel::new()?, line, echoer, ours, theirs })
    }

    /// In the process to be watched: sends a plain pidfd of itself, and answers pings.
    pub fn attend(&self) -> i32 {
        match self.introduce() {
            Ok(()) => self.echoer.serve(),
            Err(_) => 98,
        }
    }

    fn introduce(&self) -> Result {
        self.line.close_in_child();
        let own = Pidfd::open(own_pid())?;
        fdpass::send(&self.theirs, &own)
    }

    /// In the process that has made the one to be watched, or failed to: reports which. Returns whether it was made.
    pub fn announce(&self, made: &Result<Child>) -> bool {
        let made = made.as_ref().map(drop).map_err(Failure::clone);
        let said = self.made.send(&made);
        made.and(said).is_ok()
    }

    /// In the case, which is the parent of `maker`: receives the process that `maker` [announces](Meeting::announce),
    /// waiting at most until `maker` is gone.
    ///
    /// # Errors
    /// Why `maker` could not make it.
    #[track_caller]
    pub fn meet_child_of(self, maker: &Child) -> Result<AutokillChild> {
        drop((self.echoer, self.theirs));
        match fdpass::receive(&self.ours) {
            Ok(observer) => met(observer.into(), self.line),
            // No process is left that could send the pidfd.
            Err(failure) => Err(self.made.recv_from(maker)?.err().unwrap_or(failure)),
        }
    }

    /// In the case: receives the process, which is known to have been made.
    #[track_caller]
    pub fn meet(self) -> Result<AutokillChild> {
        drop((self.echoer, self.theirs));
        met(fdpass::receive(&self.ours)?.into(), self.line)
    }
}

/// Returns the process of this pidfd, which must answer.
#[track_caller]
fn met(observer: Pidfd, line: Line) -> Result<AutokillChild> {
    let info = check::succeeds("PIDFD_GET_INFO", observer.info(InfoMask::PID))?;
    AutokillChild::met(info.pid as i32, observer, line)
}

/// Makes a child by `call`, and a grandchild that the child makes by `make` and that attends the meeting. The child then
/// stays alive with all its descriptors.
#[track_caller]
pub fn parent_and_child(
    call: &Clone3,
    make: impl FnOnce(&Meeting) -> Result<Child>,
) -> Result<(Child, AutokillChild)> {
    let meeting = Meeting::arrange()?;
    let parent = call.spawn(|| {
        let child = make(&meeting);
        if meeting.announce(&child) { park() } else { 97 }
    })?;
    let child = meeting.meet_child_of(&parent)?;
    Ok((parent, child))
}
