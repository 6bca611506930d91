//! What a system call says to an ordinary child, and to children with CLONE_NNP.

use nix::errno::Errno;

use crate::abi::Flags;
use crate::check::{self, Failure, Named, Result};
use crate::clone3::Clone3;
use crate::kit::process::child_reporting;
use crate::kit::subject;
use crate::wait::Status;

/// The result of a system call.
pub type Outcome = std::result::Result<(), Errno>;

/// Returns the result of `act` in an ordinary child.
#[track_caller]
pub fn outcome_in_child(act: impl FnOnce() -> Result<Outcome>) -> Result<Outcome> {
    outcome_in_child_of(&Clone3::fork(), act)
}

/// Returns the result of `act` in a child with CLONE_NNP, and checks that it is the same in each kind.
#[track_caller]
pub fn outcome_in_nnp_children(act: impl Fn() -> Result<Outcome>) -> Result<Outcome> {
    let outcome = outcome_in_child_of(&Clone3::fork().with(Flags::NNP), &act)?;
    for call in subject::with_nnp().iter().skip(1) {
        let what = format!("what a child of {call} is told, as is an ordinary one with CLONE_NNP");
        check::equal(what, outcome_in_child_of(call, &act)?, outcome)?;
    }
    Ok(outcome)
}

/// Returns the result of `act` in a child of this call.
#[track_caller]
pub fn outcome_in_child_of(call: &Clone3, act: impl FnOnce() -> Result<Outcome>) -> Result<Outcome> {
    let (child, errno) = child_reporting(call, || Ok(act()?.err().map(|errno| errno as i32)))?;
    child.ends_with(Status::exited(0))?;
    Ok(errno.map_or(Ok(()), |number| Err(Errno::from_raw(number))))
}

/// Checks that `call` succeeds in a child with CLONE_NNP, as it does in an ordinary child.
#[track_caller]
pub fn allowed_as_ever(what: &str, call: impl Fn() -> Result<Outcome>) -> Result {
    outcome_in_child(&call)?.map_err(|errno| {
        Failure::blocked(format!("{what} fails with {} in an ordinary child", Named(errno)))
    })?;
    check::succeeds(format_args!("{what} in a child with CLONE_NNP"), outcome_in_nnp_children(call)?)
}
