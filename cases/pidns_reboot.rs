//! reboot(2) inside a pid namespace, which ends the namespace's init.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::{Clone3, park};
use clone3_conformance::kit::filtered_calls::reaches_kernel;
use clone3_conformance::kit::{Held, namespace, subject, tracer};
use clone3_conformance::wait::{self, Status};
use nix::sys::ptrace::Options;
use nix::sys::signal::Signal;
use rustix::system::{RebootCommand, reboot};

/// The process that calls reboot(2).
#[derive(Clone, Copy, Debug)]
enum Caller {
    Init,
    ItsChild,
}

impl Caller {
    /// Returns what PIDFD_GET_INFO reports on kernels with the defect.
    fn told(self) -> Status {
        match self {
            Caller::Init => Status::exited(0),
            Caller::ItsChild => Status::SIGKILLED,
        }
    }
}

/// Calls reboot(2) inside a pid namespace, which ends its init; refuses to run anywhere else, where it would end the machine.
fn end_the_namespace(command: RebootCommand, by: Caller) -> i32 {
    if std::process::id() != 1 {
        return 98;
    }
    let ask = || reboot(command).map_or(97, |()| 96);
    match by {
        Caller::Init => ask(),
        Caller::ItsChild => Clone3::fork().spawn(ask).map_or(95, |_| park()),
    }
}

/// Makes sure that reboot(2) reaches the kernel, which in a pid namespace accepts only commands that end it.
fn reboot_reaches_kernel() -> Result {
    namespace::as_init(|| {
        let unknown = reboot(RebootCommand::CadOff);
        reaches_kernel("reboot", unknown.map_err(check::errno_of))
    })
}

case! {
    /// The tracer of a pid namespace's init learns by waitpid whether the namespace was restarted (SIGHUP) or powered off (SIGINT),
    /// whether the init is auto-reaped or not.
    autoreap_reboot_told_to_tracer: Must, needs [Autoreap, PidNamespace, Ptrace, GlobalChanges],
    source "reboot(2), \"Behavior inside PID namespaces\"; kernel/pid_namespace.c zap_pid_ns_processes()",
}
fn autoreap_reboot_told_to_tracer() -> Result {
    reboot_reaches_kernel()?;
    for (command, signal) in
        [(RebootCommand::Restart, Signal::SIGHUP), (RebootCommand::PowerOff, Signal::SIGINT)]
    {
        subject::each(|call| {
            let call = call.with(Flags::CLONE_NEWPID);
            let init = Held::running(&call, || end_the_namespace(command, Caller::Init))?;
            tracer::seize(init.pid(), Options::empty())?;
            init.let_go()?;
            let told = wait::reap(init.pid())?;
            check::equal(
                format_args!("wait status for the tracer after {command:?}"),
                told,
                Status::killed(signal),
            )
        })?;
    }
    Ok(())
}

case! {
    /// If a pid namespace's init ends because it or a member called reboot(2), PIDFD_GET_INFO says that it was killed, by SIGHUP
    /// for a restart and SIGINT for a power-off, as waitpid does: for an auto-reaped init there is no other place to learn it.
    pidfd_info_pidns_reboot_exit_code: Must, needs [ExitInfo, PidNamespace, GlobalChanges],
    source "reboot(2), \"Behavior inside PID namespaces\"; kernel selftest pidfd_info_test (\"waitpid format\")",
    known_defect "6.16 to 7.3: what reboot(2) makes of the status is for waitpid alone; init is reported to have exited with 0, or to have been killed by SIGKILL",
}
fn pidfd_info_pidns_reboot_exit_code() -> Result {
    reboot_reaches_kernel()?;
    let ways = [(RebootCommand::Restart, Signal::SIGHUP), (RebootCommand::PowerOff, Signal::SIGINT)];
    let ways = ways.into_iter().flat_map(|way| [Caller::Init, Caller::ItsChild].map(|by| (way, by)));
    let subjects = ways.flat_map(|way| subject::calls().into_iter().map(move |call| (way, call)));
    check::each(subjects, |(((command, signal), by), call)| {
        let call = call.with(Flags::CLONE_NEWPID);
        let init = call.spawn(|| end_the_namespace(command, by))?;
        if let Some(status) = subject::wait_until_gone(&init)? {
            check::equal(format_args!("wait status, reboot by {by:?}"), status, Status::killed(signal))?;
        }
        let what = format_args!(
            "exit_code in PIDFD_GET_INFO of an init made by {call} after reboot({command:?}) by {by:?}"
        );
        let told = init.pidfd()?.exit_status()?;
        check::equal_or_defect(what, told, Status::killed(signal), by.told())
    })
}
