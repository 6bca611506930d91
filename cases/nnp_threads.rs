//! no_new_privs belongs to a thread: each has its own, and the one that execs counts.

use std::os::fd::AsFd;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::privilege::{self, ORDINARY};
use clone3_conformance::kit::process::child_reporting;
use clone3_conformance::kit::{setuid, subject, threads};
use clone3_conformance::procfs::status_field;
use clone3_conformance::wait::Status;
use rustix::thread::{no_new_privs, set_no_new_privs};

/// Returns the caller's own bit, as reported by prctl and by `/proc`.
fn own_bit() -> Result<(bool, Option<String>)> {
    Ok((no_new_privs()?, status_field("thread-self", "NoNewPrivs")))
}

const SET: (bool, &str) = (true, "1");
const NOT_SET: (bool, &str) = (false, "0");

#[track_caller]
fn own_bit_is(what: &str, (by_prctl, in_proc): (bool, &str)) -> Result {
    let what = format!("no_new_privs of {what}, by PR_GET_NO_NEW_PRIVS and in /proc");
    check::equal(what, own_bit()?, (by_prctl, Some(in_proc.to_owned())))
}

case! {
    /// A thread that sets no_new_privs has it, and no other thread of its process does: PR_GET_NO_NEW_PRIVS and
    /// /proc/PID/task/TID/status show this for each. A thread of a CLONE_NNP child has it.
    nnp_is_each_threads_own: Must, needs [Nnp, NotYetNnp, Proc],
    source "PR_SET_NO_NEW_PRIVS(2const) (\"the calling thread's no_new_privs attribute\"); commit \"clone: add CLONE_NNP\"",
}
fn nnp_is_each_threads_own() -> Result {
    threads::in_a_thread(|| {
        own_bit_is("another thread, before it has set it", NOT_SET)?;
        set_no_new_privs(true)?;
        own_bit_is("another thread that has set it", SET)
    })?;
    own_bit_is("the leader, when another thread has set it", NOT_SET)?;
    let call = Clone3::fork().with(Flags::NNP);
    let in_child = || threads::in_a_thread(|| own_bit_is("a thread of a CLONE_NNP child", SET));
    let (child, ()) = child_reporting(&call, in_child)?;
    child.reap_expecting(Status::exited(0))?;
    set_no_new_privs(true)?;
    own_bit_is("the leader that has set it", SET)
}

case! {
    /// A child made without CLONE_NNP has no_new_privs if the thread that makes it has, whatever the other threads have, auto-reaped
    /// or not.
    autoreap_child_has_nnp_of_calling_thread: Must, needs [Autoreap, ExitInfo, NotYetNnp, Proc],
    source "PR_SET_NO_NEW_PRIVS(2const) (\"inherited by children created by fork(2) and clone(2)\")",
}
fn autoreap_child_has_nnp_of_calling_thread() -> Result {
    subject::each_unrestricted(|call| {
        let child_has = |who: &str, expected: (bool, &str)| {
            let what = format!("a child of {call}, made by {who}");
            let (child, ()) = child_reporting(&call, || own_bit_is(&what, expected))?;
            child.ends_with(Status::exited(0))
        };
        threads::in_a_thread(|| {
            set_no_new_privs(true)?;
            child_has("a thread that has set it", SET)
        })?;
        child_has("the leader, which has not", NOT_SET)
    })
}

fn set_if(wanted: bool) -> Result {
    if wanted {
        set_no_new_privs(true)?;
    }
    Ok(())
}

case! {
    /// Whether exec of a set-user-ID program grants privileges depends on the no_new_privs of the calling thread, which the program
    /// keeps, not on its leader's. Having more than one thread does not prevent the gain.
    abi_nnp_of_execing_thread_decides: Must, needs [Root, NotYetNnp],
    source "execve(2) (\"the no_new_privs attribute is set for the calling thread\"); Documentation/userspace-api/no_new_privs.rst",
}
fn abi_nnp_of_execing_thread_decides() -> Result {
    let program = setuid::file_with_mode(0o4755)?;
    let (gained, kept) = (([ORDINARY, 0, 0], false), ([ORDINARY; 3], true));
    // Who sets it: the leader before the thread exists, which inherits it then, the leader afterwards, or the thread.
    let ways = [
        ([false, false, false], gained),
        ([true, false, false], kept),
        ([false, true, false], gained),
        ([false, false, true], kept),
    ];
    for ([before, afterwards, thread], expected) in ways {
        let in_leader = || {
            privilege::become_ordinary_user()?;
            set_if(before)
        };
        let found = setuid::credentials_after_exec_by_waiting_thread(
            &Clone3::fork(),
            program.as_fd(),
            in_leader,
            || set_if(afterwards),
            || set_if(thread),
        )?;
        let what = format!(
            "uids and no_new_privs after exec by a thread; set by the leader before the thread began: {before}, \
             afterwards: {afterwards}, by the thread: {thread}"
        );
        check::equal(what, (found.uids, found.no_new_privs), expected)?;
    }
    Ok(())
}
