//! A child that the init of the whole system has adopted.
//!
//! A process that a case starts is adopted by the case, by its lane or by the init of a pid namespace. So this has a
//! [program without a subreaper above it](crate::kit::outsider) make the child and exit.

use std::os::unix::net::UnixStream;

use linkme::distributed_slice;
use nix::errno::Errno;

use crate::abi::{Flags, InfoMask};
use crate::check::{Failure, Result};
use crate::clone3::Clone3;
use crate::kit::fdpass;
use crate::kit::helper::{HELPERS, Helper};
use crate::kit::orphan::parent_of;
use crate::kit::outsider::{self, Outsider};
use crate::kit::programs::or_wrong;
use crate::pidfd::Pidfd;

/// A child of pid 1.
#[derive(Debug)]
pub struct ChildOfInit {
    /// The pidfd that clone3 returned to the helper.
    pub pidfd: Pidfd,
    line: UnixStream,
}

impl ChildOfInit {
    /// Has the helper make a child by clone3 with `flags`. Once let go, the child exits with 3.
    ///
    /// # Errors
    /// `blocked` if core dumps start no helper program, or if pid 1 does not adopt the child.
    #[track_caller]
    pub fn made_with(flags: Flags) -> Result<ChildOfInit> {
        let Outsider { own, line } = outsider::start("foster", &flags.bits().to_string())?;
        let pidfd = fdpass::receive(&line)?;
        // Once the helper is reaped, its child has been reparented.
        own.wait_reaped()?;
        let child_of_init = ChildOfInit { pidfd: Pidfd::from(pidfd), line };
        if child_of_init.pidfd.info(InfoMask::PID).err() == Some(Errno::EREMOTE) {
            return Err(Failure::blocked(
                "the kernel's helper is in another pid namespace, and so is who adopts there",
            ));
        }
        match parent_of(&child_of_init.pidfd)? {
            1 => Ok(child_of_init),
            other => Err(Failure::blocked(format!(
                "an orphan of the kernel's helper goes to {other}, not to pid 1"
            ))),
        }
    }

    /// Lets it exit.
    pub fn let_go(&self) -> Result {
        rustix::io::write(&self.line, b"g")?;
        Ok(())
    }
}

#[distributed_slice(HELPERS)]
static FOSTER: Helper = Helper { name: "foster", main: |arguments| or_wrong(foster(arguments)) };

/// `foster FLAGS SOCKET`: makes a child, sends pidfds of itself and of the child over the socket, and exits.
fn foster(arguments: &[String]) -> Result<i32> {
    let line = outsider::arrive(arguments.get(1))?;
    let flags = arguments.first().and_then(|flags| flags.parse().ok());
    let flags: u64 = flags.ok_or_else(|| Failure::broken(format!("no flags in {arguments:?}")))?;
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
