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
    /// Carries the maker's report, and that of a process that cannot introduce itself.
    reports: Channel<Result>,
    line: Line,
    echoer: Echoer,
    ours: UnixStream,
    theirs: UnixStream,
}

impl Meeting {
    /// Sets up the channel, the pipes and the sockets.
    pub fn arrange() -> Result<Meeting> {
        let ((line, echoer), (ours, theirs)) = (line()?, fdpass::pair()?);
        Ok(Meeting { reports: Channel::new()?, line, echoer, ours, theirs })
    }

    /// In the process to be watched: sends a plain pidfd of itself, and answers pings. If it cannot, it reports why.
    pub fn attend(&self) -> i32 {
        match self.introduce() {
            Ok(()) => self.echoer.serve(),
            Err(failure) => self.call_off(failure),
        }
    }

    /// In a process without which there is nothing to watch: reports the failure, and returns the exit status.
    pub fn call_off(&self, failure: Failure) -> i32 {
        // If this fails, the case waits in vain.
        let _ = self.reports.send(&Err(failure));
        98
    }

    fn introduce(&self) -> Result {
        self.line.close_in_child();
        let own = Pidfd::open(own_pid())?;
        fdpass::send(&self.theirs, &own)
    }

    /// In the process that has made the one to be watched, or failed to: reports which. Returns whether it was made.
    pub fn announce(&self, made: &Result<Child>) -> bool {
        let made = made.as_ref().map(drop).map_err(Failure::clone);
        let said = self.reports.send(&made);
        made.and(said).is_ok()
    }

    /// In the case, which is the parent of `maker`: receives the process that `maker` [announces](Meeting::announce),
    /// waiting at most until `maker` is gone.
    ///
    /// # Errors
    /// Why `maker` could not make it, or why it could not introduce itself.
    #[track_caller]
    pub fn meet_child_of(self, maker: &Child) -> Result<AutokillChild> {
        drop((self.echoer, self.theirs));
        let observer = match introduction(&self.ours, &self.reports)? {
            Ok(observer) => observer,
            Err(nobody) => return Err(self.reports.recv_from(maker)?.err().unwrap_or(nobody)),
        };
        met(observer, self.line)
    }

    /// In the case: receives the process, which is known to have been made.
    ///
    /// # Errors
    /// Why it could not introduce itself.
    #[track_caller]
    pub fn meet(self) -> Result<AutokillChild> {
        drop((self.echoer, self.theirs));
        let observer = match introduction(&self.ours, &self.reports)? {
            Ok(observer) => observer,
            Err(nobody) => return Err(self.reports.recv()?.err().unwrap_or(nobody)),
        };
        met(observer, self.line)
    }
}

/// Blocks until the pidfd of the process to be watched comes, or a report of why it does not. The inner error is that no
/// process is left that could send the pidfd.
///
/// The report has to be awaited too: a maker that stays alive keeps the socket open.
#[track_caller]
fn introduction(ours: &UnixStream, reports: &Channel<Result>) -> Result<Result<Pidfd>> {
    while reports.comes_before(ours)? {
        match reports.try_recv()? {
            Some(report) => report?,
            None => break,
        }
    }
    Ok(fdpass::receive(ours).map(Pidfd::from))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone3::exit_now;

    /// Returns why the case cannot meet the grandchild that `make` makes.
    fn why(make: impl FnOnce(&Meeting) -> Result<Child>) -> Failure {
        let meeting = Meeting::arrange().unwrap();
        let maker = Clone3::fork().spawn(|| if meeting.announce(&make(&meeting)) { park() } else { 97 });
        let maker = maker.unwrap();
        let failure = meeting.meet_child_of(&maker).unwrap_err();
        // It may be reaped already.
        let _ = maker.clear_away();
        failure
    }

    #[test]
    fn who_cannot_attend_is_not_waited_for() {
        let excuse = || Failure::blocked("no socket");
        assert_eq!(why(|meeting| Clone3::fork().spawn(|| meeting.call_off(excuse()))), excuse());
        assert_eq!(why(|_| Err(excuse())), excuse());
    }

    #[test]
    fn a_maker_that_dies_is_not_waited_for() {
        let failure = why(|_| exit_now(7));
        assert!(failure.message.ends_with("exited with 7 (0x700)"), "{failure:?}");
    }
}
