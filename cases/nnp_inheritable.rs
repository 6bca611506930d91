//! Capabilities that a program file makes permitted if they are inheritable: no_new_privs prevents that.

use caps::Capability;
use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::privilege::{self, Caps};
use clone3_conformance::kit::setuid::{credentials_after_exec, file_with_inheritable};

case! {
    /// A capability that is inheritable in both the process and the file becomes permitted at exec. A CLONE_NNP child that did not
    /// have it permitted does not gain it.
    nnp_gains_no_inheritable_capability: Must, needs [Autoreap, Nnp, Autokill, Root, NotYetNnp],
    source "capabilities(7), P'(permitted); prctl(2), PR_SET_NO_NEW_PRIVS; security/commoncap.c cap_bprm_creds_from_file()",
}
fn nnp_gains_no_inheritable_capability() -> Result {
    const ONE: Capability = Capability::CAP_NET_RAW;
    let program = file_with_inheritable(&[ONE])?;
    let permitted_after_exec = |call: &Clone3| {
        let become_inheriting = || privilege::become_user_inheriting(privilege::ORDINARY, ONE);
        credentials_after_exec(call, std::os::fd::AsFd::as_fd(&program), become_inheriting)
    };
    for (call, expected) in [
        (Clone3::fork(), Caps::of(&[ONE])),
        (Clone3::new(Flags::REAPED), Caps::of(&[ONE])),
        (Clone3::fork().with(Flags::NNP), Caps::NONE),
        (Clone3::new(Flags::KILLED_NNP), Caps::NONE),
    ] {
        let what = format!("permitted after an exec, for a child of {call} that has {ONE} inheritable");
        check::equal(what, permitted_after_exec(&call)?.permitted, expected)?;
    }
    Ok(())
}
