//! A check that the caller's own children are unaffected by the new flags.

use linkme::distributed_slice;

use crate::abi::Flags;
use crate::check::{self, Context as _, Result};
use crate::clone3::Clone3;
use crate::kit::helper::{HELPERS, Helper};
use crate::kit::programs::{fd, or_wrong};
use crate::kit::{Channel, legacy, sigchld};
use crate::wait::{self, Event, Status};

/// Checks that fork makes ordinary children: each stays a zombie until it is waited for and sends SIGCHLD, which must be
/// [blocked](sigchld::block()) in every thread. The control is an auto-reaped child.
#[track_caller]
pub fn forks_ordinary_children() -> Result {
    let own = Clone3::new(Flags::REAPED).spawn(|| 77)?;
    own.is_gone_with(Status::exited(77)).context("control")?;
    sigchld::none_pending().context("control")?;
    let pid = check::succeeds("fork()", legacy::fork(77))?;
    let zombie = wait::find_zombie(pid).context("what it forked")?;
    check::equal("what it forked", zombie, Event::exited(pid, 77))?;
    sigchld::pending_for(pid, libc::CLD_EXITED).context("what it forked")?;
    wait::reap_expecting(pid, Status::exited(77))
}

#[distributed_slice(HELPERS)]
static FORK: Helper = Helper { name: "fork", main: |arguments| or_wrong(fork(arguments)) };

/// `fork REPORT`: reports on the channel REPORT whether it [forks ordinary children](forks_ordinary_children).
fn fork(arguments: &[String]) -> Result<i32> {
    let report = Channel::<Result>::adopt(fd(arguments, 0)?)?;
    report.send(&forks_ordinary_children())?;
    Ok(0)
}
