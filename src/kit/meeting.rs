//! Somebody else's child, met and watched: it introduces itself to the case, and then answers pings.

use std::os::unix::net::UnixStream;

use crate::abi::InfoMask;
use crate::check::{self, Result};
use crate::clone3::{Child, Clone3, park};
use crate::kit::echo::{Echoer, Line, line};
use crate::kit::{Tied, fdpass};
use crate::pidfd::Pidfd;

/// What is arranged before any of the processes is made.
#[derive(Debug)]
pub struct Meeting {
    line: Line,
    echoer: Echoer,
    ours: UnixStream,
    theirs: UnixStream,
}

impl Meeting {
    /// Arranges one.
    pub fn arrange() -> Result<Meeting> {
        let ((line, echoer), (ours, theirs)) = (line()?, fdpass::pair()?);
        Ok(Meeting { line, echoer, ours, theirs })
    }

    /// In the process to be watched: hands over a plain pidfd of itself, and answers pings.
    pub fn attend(&self) -> i32 {
        match self.introduce() {
            Ok(()) => self.echoer.serve(),
            Err(_) => 98,
        }
    }

    fn introduce(&self) -> Result {
        self.line.close_in_child();
        let own = Pidfd::open(rustix::process::getpid().as_raw_nonzero().get())?;
        fdpass::send(&self.theirs, &own)
    }

    /// In the case: meets the process, which must answer.
    #[track_caller]
    pub fn meet(self) -> Result<Tied> {
        drop((self.echoer, self.theirs));
        let observer = Pidfd::from(fdpass::receive(&self.ours)?);
        let info = check::succeeds("PIDFD_GET_INFO", observer.info(InfoMask::PID))?;
        Tied::met(info.pid as i32, observer, self.line)
    }
}

/// A child made by `call`, and a child that it makes through `make`, which attends the meeting. The parent of the
/// two generations then stays, with all descriptors that it has.
#[track_caller]
pub fn parent_and_child(
    call: &Clone3,
    make: impl FnOnce(&Meeting) -> Result<Child>,
) -> Result<(Child, Tied)> {
    let meeting = Meeting::arrange()?;
    let parent = call.spawn(|| match make(&meeting) {
        Ok(_child) => park(),
        Err(failure) => {
            crate::note!("in the parent: {}", failure.message);
            97
        }
    })?;
    Ok((parent, meeting.meet()?))
}
