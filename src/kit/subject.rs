//! The kinds of children that a claim is checked for: ordinary ones, and those with the new flags that the kernel has. What
//! holds for several kinds is checked for each.

use nix::errno::Errno;

use crate::abi::Flags;
use crate::check::{self, Context as _, Failure, Named, Result};
use crate::clone3::{Child, Clone3};
use crate::need::Setting;
use crate::note;
use crate::pidfd::Pidfd;
use crate::wait::{self, Status};

/// Returns one call of each kind that the kernel has: the plainest, one with each new flag that can be used alone, and one
/// with all of them. The checks of clone3's other arguments are the same for each.
pub fn by_flag() -> Vec<Clone3> {
    let has = &Setting::get().probe.features;
    let mut calls = vec![Clone3::fork()];
    if has.autoreap {
        calls.push(Clone3::new(Flags::AUTOREAP));
    }
    if has.nnp {
        calls.push(Clone3::fork().with(Flags::NNP));
    }
    if has.autoreap && has.nnp && has.autokill {
        calls.push(Clone3::new(Flags::KILLED_NNP));
    }
    calls
}

/// Returns the call for an auto-reaped child, with a pidfd.
pub fn reaped() -> Clone3 {
    Clone3::new(Flags::REAPED)
}

/// Returns the call for its control: a child with exit_signal 0, like an auto-reaped one, that leaves a zombie.
pub fn leaves_zombie() -> Clone3 {
    Clone3::new(Flags::PIDFD)
}

/// Returns the calls that make the children for most cases, each with a pidfd: an ordinary child, an auto-reaped one, and one
/// that is also killed with its pidfd and has no_new_privs, as an unprivileged caller would make it.
pub fn calls() -> Vec<Clone3> {
    let has = &Setting::get().probe.features;
    let mut calls = unrestricted();
    if has.autoreap && has.nnp && has.autokill {
        calls.push(Clone3::new(Flags::KILLED_NNP));
    }
    calls
}

/// Returns those of the [`calls`] whose children live on without their pidfd and can gain privileges.
pub fn unrestricted() -> Vec<Clone3> {
    let mut calls = vec![Clone3::fork().with(Flags::PIDFD)];
    if Setting::get().probe.features.autoreap {
        calls.push(reaped());
    }
    calls
}

/// Runs `body` for each of these [`calls`]. A failure names the call.
pub fn each(mut body: impl FnMut(Clone3) -> Result) -> Result {
    each_of(calls(), &mut body)
}

/// Runs `body` for each of the [`unrestricted`] calls. A failure names the call.
pub fn each_unrestricted(mut body: impl FnMut(Clone3) -> Result) -> Result {
    each_of(unrestricted(), &mut body)
}

/// Runs `body` for those of the [`calls`] whose children are auto-reaped. A failure names the call.
pub fn each_reaped(mut body: impl FnMut(Clone3) -> Result) -> Result {
    let calls = calls().into_iter().filter(|call| call.flags().contains(Flags::AUTOREAP)).collect();
    each_of(calls, &mut body)
}

/// Runs `body` for an ordinary child and an auto-reaped one, neither of which sends a signal when it ends, so that no SIGCHLD but
/// that of another process comes then. A failure names the call.
pub fn each_silent(mut body: impl FnMut(Clone3) -> Result) -> Result {
    each_of(vec![leaves_zombie(), reaped()], &mut body)
}

/// Not generic, so that the loop is not compiled anew for each case: that would make the program a quarter larger.
fn each_of(calls: Vec<Clone3>, body: &mut dyn FnMut(Clone3) -> Result) -> Result {
    check::each(calls, |call| {
        let whose = call.to_string();
        body(call).map_err(|failure| match failure.message.contains(&whose) {
            true => failure,
            false => failure.within(format_args!("a child of {whose}")),
        })
    })
}

/// The flags that put a child into a new namespace.
const NAMESPACES: [Flags; 9] = [
    Flags::CLONE_NEWNS,
    Flags::CLONE_EMPTY_MNTNS,
    Flags::CLONE_NEWUSER,
    Flags::CLONE_NEWNET,
    Flags::CLONE_NEWPID,
    Flags::CLONE_NEWTIME,
    Flags::CLONE_NEWUTS,
    Flags::CLONE_NEWIPC,
    Flags::CLONE_NEWCGROUP,
];

/// Runs `body` for each flag that puts a child into a new namespace, if the kernel has it. The caller must be allowed to
/// make them ([`Need::SysAdmin`](crate::need::Need::SysAdmin)).
///
/// # Errors
/// `blocked` if an ordinary child is refused a namespace that the kernel has, or if the kernel has none.
#[track_caller]
pub fn in_namespaces(mut body: impl FnMut(Flags) -> Result) -> Result {
    let mut any = false;
    for flag in NAMESPACES {
        let ordinary = Clone3::fork().with(flag);
        match ordinary.try_spawn(|| 0) {
            Ok(child) => child.reap_expecting(Status::exited(0))?,
            Err(Errno::EINVAL) => {
                note!("this kernel has no {flag}");
                continue;
            }
            // EAGAIN is about the number of processes, not about namespaces.
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN.into()),
            Err(errno) => return Err(Failure::blocked(format!("{ordinary} fails with {}", Named(errno)))),
        }
        body(flag)?;
        any = true;
    }
    if any { Ok(()) } else { Err(Failure::blocked("needs namespaces (CONFIG_NAMESPACES)")) }
}

/// Waits until nothing is left of a child that exits by itself. Reaps an ordinary child and returns its wait status.
#[track_caller]
pub fn wait_until_gone(child: &Child) -> Result<Option<Status>> {
    let status = if child.reaps_itself() { None } else { Some(wait::reap(child.pid())?) };
    child.pidfd()?.wait_reaped()?;
    Ok(status)
}

/// Like [`Child::ends_with`], for a child made by `call` of which only pid and pidfd are known: it must be auto-reaped or,
/// without CLONE_AUTOREAP, a zombie, which this reaps.
#[track_caller]
pub fn ends_by_its_kind(call: &Clone3, pid: i32, pidfd: &Pidfd, status: Status) -> Result {
    if call.flags().contains(Flags::AUTOREAP) {
        pidfd.gone_with(pid, status).context(call)
    } else {
        wait::find_zombie(pid).context(format_args!("control: {call}"))?;
        wait::reap_expecting(pid, status).context(format_args!("control: {call}"))
    }
}

/// Returns the calls that make children with CLONE_NNP: an ordinary one, and one that is auto-reaped and auto-killed.
pub fn with_nnp() -> Vec<Clone3> {
    let mut calls = vec![Clone3::fork().with(Flags::NNP)];
    let has = &Setting::get().probe.features;
    if has.autoreap && has.autokill {
        calls.push(Clone3::new(Flags::KILLED_NNP));
    }
    calls
}

/// Returns the [`unrestricted`] calls and those [with CLONE_NNP](with_nnp): every kind of child once.
pub fn every_kind() -> Vec<Clone3> {
    [unrestricted(), with_nnp()].concat()
}

/// Runs `body` for each of the calls [with CLONE_NNP](with_nnp). A failure names the call.
pub fn each_with_nnp(mut body: impl FnMut(Clone3) -> Result) -> Result {
    each_of(with_nnp(), &mut body)
}
