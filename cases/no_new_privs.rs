//! CLONE_NNP: no_new_privs from birth.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::wait::Status;
use nix::errno::Errno;

/// A child that exits with its no_new_privs bit.
fn bit_of_child(call: &Clone3) -> Result<Status> {
    let child = call.spawn(|| i32::from(rustix::thread::no_new_privs() == Ok(true)))?;
    child.pidfd()?.exit_status()
}

/// The calling thread's bit.
fn own_bit() -> Result<bool> {
    Ok(rustix::thread::no_new_privs()?)
}

case! {
    /// A child made with CLONE_NNP has no_new_privs set; the caller has not, before or after.
    nnp_sets_no_new_privs: Must, needs [Autoreap, Nnp, ExitInfo, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\"; selftest nnp_sets_no_new_privs",
}
fn nnp_sets_no_new_privs() -> Result {
    check::equal("the caller's no_new_privs before", own_bit()?, false)?;
    let without = bit_of_child(&Clone3::new(Flags::REAPED))?;
    check::equal("control: no_new_privs of a child without CLONE_NNP", without, Status::exited(0))?;
    let with = bit_of_child(&Clone3::new(Flags::REAPED | Flags::NNP))?;
    check::equal("no_new_privs of a child with CLONE_NNP", with, Status::exited(1))?;
    check::equal("the caller's no_new_privs afterwards", own_bit()?, false)
}

case! {
    /// CLONE_NNP with CLONE_THREAD is EINVAL, and starts no thread.
    nnp_rejects_thread: Must, needs [Nnp],
    source "commit \"clone: add CLONE_NNP\"; selftest nnp_rejects_thread",
}
fn nnp_rejects_thread() -> Result {
    Clone3::new(Flags::THREAD).accepted()?;
    Clone3::new(Flags::NNP).accepted()?;
    Clone3::new(Flags::NNP | Flags::THREAD).refused(Errno::EINVAL)
}

case! {
    /// CLONE_AUTOREAP alone does not set no_new_privs.
    autoreap_no_new_privs_unset: Must, needs [Autoreap, Nnp, ExitInfo, NotYetNnp],
    source "selftest autoreap_no_new_privs_unset",
}
fn autoreap_no_new_privs_unset() -> Result {
    let control = bit_of_child(&Clone3::new(Flags::REAPED | Flags::NNP))?;
    check::equal("control: no_new_privs of a child with CLONE_NNP", control, Status::exited(1))?;
    let alone = bit_of_child(&Clone3::new(Flags::REAPED))?;
    check::equal("no_new_privs of a child with CLONE_AUTOREAP alone", alone, Status::exited(0))
}
