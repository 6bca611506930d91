//! CLONE_PIDFD_AUTOKILL: no property of the child, of its creator or of its holder makes an exception.

use std::os::fd::AsRawFd;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::{Clone3, Stack, is_cloexec, park};
use clone3_conformance::kit::tracer::{self, Resume};
use clone3_conformance::kit::{Actor, AutokillChild, End, Holder, errands, fdpass, namespace, sandboxing};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::procfs::Pending;
use clone3_conformance::wait::{self, Status};
use nix::sys::ptrace::Options;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpgrp, getpid, getsid, setpgid};

fn call() -> Clone3 {
    Clone3::new(Flags::KILLED_NNP)
}

/// Checks that a child that has run `prepare` dies at the last close.
fn dies_once(what: &str, prepare: fn() -> Result) -> Result {
    let mut child = AutokillChild::prepared(&call(), prepare).context(what)?;
    child.close()?;
    child.dies(&format!("{what}, after the last close of its pidfd"))
}

fn filters() -> Result {
    Ok(sandboxing::install_seccomp_filter()?)
}

fn leads_a_group() -> Result {
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    check::equal("control: its process group", getpgrp(), getpid())?;
    check::holds(getsid(None)? != getpid(), "control: it leads a session, too")
}

case! {
    /// The last close kills a child under a seccomp filter.
    autokill_filtered_child: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; LKML, Christian Brauner 2026-02-17 (\"ruthlessly enforce\")",
}
fn autokill_filtered_child() -> Result {
    sandboxing::seccomp_filters_exist()?;
    dies_once("under a seccomp filter", filters)
}

case! {
    /// The last close kills a child that leads a process group in its creator's session.
    autokill_group_leader: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; LKML, Christian Brauner 2026-02-17 (\"ruthlessly enforce\")",
}
fn autokill_group_leader() -> Result {
    dies_once("the leader of a process group", leads_a_group)
}

case! {
    /// The last close kills a child that the OOM killer must spare (oom_score_adj -1000).
    autokill_oom_protected_child: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Root, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; proc_pid_oom_score_adj(5), which speaks of the OOM killer alone",
}
fn autokill_oom_protected_child() -> Result {
    dies_once("spared by the OOM killer", || Ok(std::fs::write("/proc/self/oom_score_adj", "-1000")?))
}

case! {
    /// The last close kills a child that shares its signal handlers with its creator, and that child alone.
    autokill_shared_handlers: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; clone(2), CLONE_SIGHAND",
}
fn autokill_shared_handlers() -> Result {
    let (nothing, _open) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let shares = call().with(Flags::CLONE_VM | Flags::CLONE_SIGHAND);
    let mut child = shares.spawn_on(&Stack::new()?, errands::wait_for_input(&nothing))?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    observer.gone_with(child.pid(), Status::SIGKILLED)
}

case! {
    /// The last close kills a tracee in group-stop that its tracer has resumed with PTRACE_LISTEN.
    autokill_listening_tracee: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Ptrace],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; ptrace(2), on group-stop and SIGKILL",
}
fn autokill_listening_tracee() -> Result {
    let mut child = AutokillChild::new()?;
    tracer::seize(child.pid(), Options::empty())?;
    check::succeeds("pidfd_send_signal(SIGSTOP)", child.observer().send_signal(Signal::SIGSTOP))?;
    tracer::stops_with(child.pid(), Signal::SIGSTOP)?;
    check::succeeds("ptrace(CONT, SIGSTOP)", tracer::resume(child.pid(), Resume::Continue, libc::SIGSTOP))?;
    let stop = Status::ptrace_event(libc::PTRACE_EVENT_STOP, Signal::SIGSTOP);
    wait::reap_expecting(child.pid(), stop).context("group stop")?;
    check::succeeds("ptrace(LISTEN)", tracer::resume(child.pid(), Resume::Listen, 0))?;
    child.close()?;
    child.observer().wait_exited()?;
    wait::reap_expecting(child.pid(), Status::SIGKILLED)?;
    child.dies("in a group stop to which its tracer listens, after the last close of its pidfd")
}

case! {
    /// The last close kills an untraced child whose creator is being traced.
    autokill_traced_creator: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Ptrace],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; ptrace(2)",
}
fn autokill_traced_creator() -> Result {
    let creator = Actor::spawn(&Clone3::fork(), |()| {
        // A ping to the dead child sends SIGPIPE, which would stop a traced process.
        SigSet::all().thread_block()?;
        let mut child = AutokillChild::new()?;
        child.close()?;
        child.dies("made by a traced process, after the last close of its pidfd")
    })?;
    creator.ask(()).context("control: not traced")?;
    tracer::seize(creator.child().pid(), Options::empty())?;
    creator.ask(())?;
    creator.dismiss()
}

case! {
    /// After unshare(CLONE_NEWPID), which does not move the caller, its next auto-kill child, the init of the new pid namespace, is
    /// killed by the last close.
    autokill_after_unshare_pidns: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, PidNamespace],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; pid_namespaces(7), on unshare(2)",
}
fn autokill_after_unshare_pidns() -> Result {
    AutokillChild::control()?;
    namespace::unshare_pid()?;
    let mut child =
        AutokillChild::prepared(&call(), || check::equal("control: its own pid", getpid().as_raw(), 1))?;
    child.close()?;
    child.dies("as the init of an unshared pid namespace, after the last close of its pidfd")
}

case! {
    /// An auto-kill child dies when its last holder ends in a pid namespace below the child's: an ordinary process there, that
    /// namespace's init, or a process that dies because this init does.
    autokill_holder_ends_in_pidns_below: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, PidNamespace],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; pid_namespaces(7); fs/pidfs.c pidfs_file_release()",
}
fn autokill_holder_ends_in_pidns_below() -> Result {
    // The init answers once it is ready to end.
    for who in ["ordinary", "init", "killed with init"] {
        let mut child = AutokillChild::new()?;
        let init = Actor::spawn(&namespace::init(), |()| match who {
            "init" => Ok(()),
            "ordinary" => {
                let holder = Holder::fork()?;
                child.close()?;
                holder.end(End::Exit)
            }
            _ => {
                Clone3::fork().spawn(park)?;
                child.close()
            }
        })?;
        child.close()?;
        child.lives("with its pidfd in a pid namespace below")?;
        init.ask(())?;
        if who != "ordinary" {
            child.lives("with its pidfd in a pid namespace below that is about to end")?;
        }
        init.dismiss()?;
        child.dies(&format!("after the end of its last holder, in a pid namespace below: {who}"))?;
    }
    Ok(())
}

case! {
    /// A copy of the pidfd made by pidfd_getfd is close-on-exec: the exec of its holder kills the child.
    autokill_getfd_copy_cloexec: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "pidfd_getfd(2) (\"The close-on-exec flag is set on the file descriptor returned\")",
}
fn autokill_getfd_copy_cloexec() -> Result {
    let mut child = AutokillChild::new()?;
    let number = child.pidfd()?.as_raw_fd();
    let owner = Holder::fork()?;
    let copy = Pidfd::from(Pidfd::open(owner.pid())?.getfd_of_child(number)?);
    check::equal("FD_CLOEXEC of the copy", is_cloexec(&copy)?, true)?;
    child.close()?;
    owner.end(End::Exit)?;
    let holder = Holder::fork()?;
    copy.close()?;
    child.lives("with only a copy of pidfd_getfd's copy, in a forked process")?;
    holder.exec()?;
    child.dies("after the exec of the process with pidfd_getfd's copy")?;
    holder.end(End::Exit)
}

case! {
    /// A process with no_new_privs passes an auto-kill pidfd over a socket like any other process; closing the received one last
    /// kills the child.
    autokill_passed_by_caller_with_nnp: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "unix(7), SCM_RIGHTS; PR_SET_NO_NEW_PRIVS(2const), which speaks of execve(2) alone",
}
fn autokill_passed_by_caller_with_nnp() -> Result {
    rustix::thread::set_no_new_privs(true)?;
    let mut child = AutokillChild::new()?;
    let (here, there) = fdpass::pair()?;
    check::succeeds(
        "sendmsg(SCM_RIGHTS) of an auto-kill pidfd by a process with no_new_privs",
        fdpass::try_send(&here, child.pidfd()?),
    )?;
    child.close()?;
    let received = Pidfd::from(fdpass::receive(&there)?);
    child.lives("with its pidfd received")?;
    received.close()?;
    child.dies("after the close of the received pidfd")
}

case! {
    /// A signal sent through an auto-kill pidfd is directed to the process, not to its first thread: if it is blocked, it is
    /// pending for the process.
    autokill_pidfd_signals_process: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "pidfd_send_signal(2), on how it is told whom to signal; proc_pid_status(5), ShdPnd",
}
fn autokill_pidfd_signals_process() -> Result {
    let blocks = || Ok(SigSet::all().thread_block()?);
    let child = AutokillChild::prepared(&call(), blocks)?;
    let pending = || Pending::of(&child.pid().to_string(), Signal::SIGTERM);
    check::equal("control: SIGTERM pending", pending()?, Pending { process: false, thread: false })?;
    check::succeeds("pidfd_send_signal(SIGTERM)", child.pidfd()?.send_signal(Signal::SIGTERM))?;
    check::equal("SIGTERM pending", pending()?, Pending { process: true, thread: false })?;
    child.clear_away()
}
