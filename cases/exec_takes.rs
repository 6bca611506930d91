//! What the exec of a set-user-ID program takes away from the process: its parent-death signal, and the personality that makes
//! its addresses predictable.

use std::os::fd::AsFd;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::helper::{Command, HELPERS, Helper};
use clone3_conformance::kit::programs::{fd, or_wrong};
use clone3_conformance::kit::{Channel, privilege, setuid, subject};
use clone3_conformance::linkme::distributed_slice;
use clone3_conformance::wait::Status;
use nix::sys::personality::{self, Persona};
use nix::unistd::{Uid, setresuid};

#[distributed_slice(HELPERS)]
static KEPT: Helper = Helper { name: "kept", main: |arguments| or_wrong(say_what_is_kept(arguments)) };

/// Whether there is a parent-death signal, and whether ADDR_NO_RANDOMIZE is set.
type KeptState = (bool, bool);

/// `kept REPORT`: reports on the channel REPORT what is left of the state set before the exec.
fn say_what_is_kept(arguments: &[String]) -> Result<i32> {
    let signal = rustix::process::parent_process_death_signal()?.is_some();
    let fixed = personality::get()?.contains(Persona::ADDR_NO_RANDOMIZE);
    Channel::<Result<KeptState>>::adopt(fd(arguments, 0)?)?.send(&Ok((signal, fixed)))?;
    Ok(0)
}

/// Returns what a child of this call keeps when it execs that program.
fn kept_by_exec_in(call: &Clone3, program: &impl AsFd) -> Result<KeptState> {
    let channel = Channel::<Result<KeptState>>::new()?;
    let command = Command::new("kept", &[])?.with_fd(&channel.sending_end()?);
    let set = || -> Result {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::USR1))?;
        let fixed = personality::get().and_then(|now| personality::set(now | Persona::ADDR_NO_RANDOMIZE));
        check::permitted("personality(ADDR_NO_RANDOMIZE)", fixed)?;
        Ok(())
    };
    let child = call.spawn(|| {
        let failure = set().map_or_else(|failure| failure, |()| command.exec_file(program.as_fd()));
        i32::from(channel.send(&Err(failure)).is_err())
    })?;
    let kept = channel.recv_from(&child)??;
    child.ends_with(Status::exited(0))?;
    Ok(kept)
}

case! {
    /// An unprivileged CLONE_NNP child that execs a set-user-ID program gains nothing, and so keeps its PR_SET_PDEATHSIG and its
    /// ADDR_NO_RANDOMIZE. Without the flag it loses both.
    nnp_setuid_program_takes_nothing: Must, needs [Nnp, Root, NotYetNnp],
    source "PR_SET_PDEATHSIG(2const); personality(2); fs/exec.c bprm_fill_uid()",
}
fn nnp_setuid_program_takes_nothing() -> Result {
    let program = setuid::file_with_mode(0o4755)?;
    privilege::become_ordinary_user()?;
    let what =
        "whether a parent-death signal and ADDR_NO_RANDOMIZE are kept by exec of a set-user-ID program";
    let control = kept_by_exec_in(&Clone3::fork(), &program).context("control without CLONE_NNP")?;
    check::equal(format_args!("control without CLONE_NNP: {what}"), control, (false, false))?;
    check::equal(
        format_args!("with CLONE_NNP: {what}"),
        kept_by_exec_in(&Clone3::fork().with(Flags::NNP), &program)?,
        (true, true),
    )
}

case! {
    /// An ordinary user's child loses its PR_SET_PDEATHSIG and its ADDR_NO_RANDOMIZE when it execs a set-user-ID program, and keeps
    /// both when it execs another, auto-reaped or not.
    autoreap_setuid_program_takes_as_ever: Must, needs [Autoreap, ExitInfo, Root, NotYetNnp],
    source "PR_SET_PDEATHSIG(2const); personality(2); fs/exec.c begin_new_exec()",
}
fn autoreap_setuid_program_takes_as_ever() -> Result {
    // The set-user-ID program is made last: it has no effect outside the mount namespace that its file is in.
    let programs =
        [(setuid::file_with_mode(0o755)?, (true, true)), (setuid::file_with_mode(0o4755)?, (false, false))];
    privilege::become_ordinary_user()?;
    subject::each_unrestricted(|call| {
        for (program, expected) in &programs {
            let what = format!(
                "whether a parent-death signal and ADDR_NO_RANDOMIZE are kept by exec in a child of {call}"
            );
            check::equal(what, kept_by_exec_in(&call, program)?, *expected)?;
        }
        Ok(())
    })
}

case! {
    /// A child whose effective user differs from its real one loses its PR_SET_PDEATHSIG at the exec of any program, auto-reaped or
    /// not.
    autoreap_exec_by_two_users_takes_signal: Is, needs [Autoreap, ExitInfo, Root, NotYetNnp],
    source "fs/exec.c begin_new_exec() (secureexec); security/commoncap.c cap_bprm_creds_from_file()",
}
fn autoreap_exec_by_two_users_takes_signal() -> Result {
    let program = setuid::file_with_mode(0o755)?;
    let what = "whether a parent-death signal and ADDR_NO_RANDOMIZE are kept by exec";
    let control = kept_by_exec_in(&Clone3::fork(), &program)?;
    check::equal(format_args!("control: {what} if the users are one"), control, (true, true))?;
    setresuid(Uid::from_raw(privilege::ORDINARY), Uid::from_raw(0), Uid::from_raw(0))?;
    subject::each_unrestricted(|call| {
        check::equal(
            format_args!("{what} in a child of {call}"),
            kept_by_exec_in(&call, &program)?,
            (false, true),
        )
    })
}
