//! Passing the pidfd of a child from the process that made the child to the case.

use std::os::unix::net::UnixStream;

use crate::check::Result;
use crate::clone3::Child;
use crate::kit::{Channel, fdpass};
use crate::pidfd::Pidfd;

/// The channel and sockets for passing a pidfd, set up before the process that makes the child.
///
/// That process also reports whether clone3 succeeded, so that a refusal becomes the result of the case instead of a
/// missing descriptor.
#[derive(Debug)]
pub struct Handover {
    said: Channel<Result>,
    ours: UnixStream,
    theirs: UnixStream,
}

impl Handover {
    /// Sets up the channel and the sockets.
    pub fn arrange() -> Result<Handover> {
        let (ours, theirs) = fdpass::pair()?;
        Ok(Handover { said: Channel::new()?, ours, theirs })
    }

    /// In the process that made the child or failed to: sends the child's pidfd and closes it here, or reports why there is
    /// none. Returns whether the case has received it.
    pub fn give(&self, made: Result<Child>) -> bool {
        let given = made.and_then(|child| fdpass::send(&self.theirs, child.pidfd()?));
        let said = self.said.send(&given);
        given.and(said).is_ok()
    }

    /// In the case, which is the parent of `giver`: receives the pidfd.
    ///
    /// # Errors
    /// Why `giver` could not provide the pidfd.
    #[track_caller]
    pub fn take_from(self, giver: &Child) -> Result<Pidfd> {
        drop(self.theirs);
        self.said.recv_from(giver)??;
        fdpass::receive(&self.ours).map(Pidfd::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Flags;
    use crate::check::Kind;
    use crate::clone3::Clone3;
    use crate::kit::process::answers;

    #[test]
    fn a_refusal_elsewhere_is_the_kernels_answer() {
        let refused = || {
            let handover = Handover::arrange()?;
            let call = Clone3::fork().with(Flags::CLONE_FS | Flags::CLONE_NEWNS);
            let giver = Clone3::fork().spawn(|| i32::from(handover.give(call.spawn(|| 0))))?;
            handover.take_from(&giver)
        };
        assert!(answers(|| refused().is_err_and(|failure| {
            failure.kind == Kind::Fail
                && failure.message.ends_with("expected success, got EINVAL (Invalid argument)")
        })));
    }
}
