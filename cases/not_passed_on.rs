//! CLONE_AUTOREAP and CLONE_PIDFD_AUTOKILL stay with the process that they were requested for, whatever happens to that process or
//! its ancestors.

use clone3_conformance::abi::{AUTOKILL_MARK, Flags};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::forker::forks_ordinary_children;
use clone3_conformance::kit::helper::Command;
use clone3_conformance::kit::process::{child_reporting, own_pid};
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::{Channel, Echo, Orphan, namespace, sigchld, subject, threads};
use clone3_conformance::wait::Status;

case! {
    /// A child that an auto-reaped process forks after an exec is ordinary: a zombie until it is waited for, announced by SIGCHLD.
    autoreap_not_passed_on_after_exec: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"not inherited\"); fork(2)",
}
fn autoreap_not_passed_on_after_exec() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let report = Channel::<Result>::new()?;
        let program = Command::new("fork", &[])?.with_fd(&report.sending_end()?);
        let child = call.spawn(|| i32::from(report.send(&Err(program.exec())).is_err()))?;
        report.recv_from(&child)?.context(format_args!("a child of {call}, after exec"))?;
        subject::wait_until_gone(&child)?;
        Ok(())
    })
}

case! {
    /// A child that a thread other than the leader of an auto-reaped process forks is ordinary: a zombie until it is waited for,
    /// announced by SIGCHLD.
    autoreap_not_passed_on_by_thread: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"not inherited\"); fork(2)",
}
fn autoreap_not_passed_on_by_thread() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let (child, ()) = child_reporting(&call, || threads::in_a_thread(forks_ordinary_children))
            .context(format_args!("a thread of a child of {call}"))?;
        subject::wait_until_gone(&child)?;
        Ok(())
    })
}

case! {
    /// A child that an auto-reaped process forks after it was reparented is ordinary: a zombie until it is waited for, announced by
    /// SIGCHLD.
    autoreap_not_passed_on_after_adoption: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"not inherited\"); fork(2)",
}
fn autoreap_not_passed_on_after_adoption() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let report = Channel::<Result>::new()?;
        let forks = || i32::from(report.send(&forks_ordinary_children()).is_err());
        let orphan = Orphan::running(&call, forks)?;
        check::equal("its parent", orphan.parent()?, own_pid())?;
        orphan.let_go()?;
        report.recv()?.context(format_args!("a child of {call}, adopted"))?;
        ends_by_its_kind(&call, orphan.pid, &orphan.pidfd, Status::exited(0))
    })
}

case! {
    /// The init of a pid namespace that an auto-reaped process creates is an ordinary child: a zombie until it is waited for.
    autoreap_not_passed_on_to_init: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"not inherited\"); pid_namespaces(7)",
}
fn autoreap_not_passed_on_to_init() -> Result {
    subject::each(|call| {
        let (child, ()) = child_reporting(&call, || {
            let init = namespace::init().with(Flags::PIDFD).spawn(|| 5)?;
            init.is_a_zombie(5)?;
            init.reap_expecting(Status::exited(5))
        })?;
        child.ends_with(Status::exited(0))
    })
}

case! {
    /// An auto-reaped, or auto-kill, process that makes an auto-reaped child gets a plain pidfd: it has no mark, and its close does
    /// not kill.
    autokill_not_passed_on_to_pidfds: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"only the specific struct file from clone3()\")",
}
fn autokill_not_passed_on_to_pidfds() -> Result {
    subject::each(|call| {
        let (child, ()) = child_reporting(&call, || {
            let (mut own, line) = Echo::spawn(&Clone3::new(Flags::REAPED))?.into_parts();
            let pidfd = own.take_pidfd()?;
            let of = format!("the pidfd of an auto-reaped child that a child of {call} made");
            check::equal(format_args!("mark of {of}"), pidfd.status_flags()? & AUTOKILL_MARK, 0)?;
            pidfd.close()?;
            line.is_alive(own.pid(), &format!("after the close of {of}"))?;
            own.clear_away()
        })?;
        subject::wait_until_gone(&child).map(drop)
    })
}
