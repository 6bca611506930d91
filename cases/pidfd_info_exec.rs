//! PIDFD_GET_INFO of a process in the middle of an exec.

use clone3_conformance::abi::InfoMask;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::park;
use clone3_conformance::kit::helper::Command;
use clone3_conformance::kit::pair::beside_idle_thread;
use clone3_conformance::kit::{Channel, Gate, subject, threads, tracer};
use clone3_conformance::pidfd::given;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::ptrace::Options;
use nix::sys::signal::Signal;

case! {
    /// PIDFD_GET_INFO answers in the middle of an exec, which waits until a tracer lets go of another thread: a tracer that asked
    /// and had to wait for the exec would wait for itself.
    pidfd_info_during_exec: Is, needs [ExitInfo, Ptrace],
    source "fs/pidfs.c pidfd_info(), which takes no lock that an exec holds; ptrace(2), PTRACE_EVENT_EXIT",
}
fn pidfd_info_during_exec() -> Result {
    subject::each(|call| {
        let (gate, command) = (Gate::new()?, Command::new("exit", &["7"])?);
        let (child, other) = beside_idle_thread(&call, &gate, || {
            command.exec();
            98
        })?;
        tracer::seize(other, Options::PTRACE_O_TRACEEXIT)?;
        gate.open()?;
        let exiting = Status::ptrace_event(libc::PTRACE_EVENT_EXIT, Signal::SIGTRAP);
        wait::reap_expecting(other, exiting).context("the thread that the exec ends")?;
        let what = "PIDFD_GET_INFO(EXIT) during an exec";
        let info = check::succeeds(what, child.pidfd()?.info(InfoMask::EXIT))?;
        check::equal(format_args!("pid in {what}"), info.pid, child.pid() as u32)?;
        check::equal(format_args!("EXIT in {what}"), given(&info).contains(InfoMask::EXIT), false)?;
        check::succeeds("PTRACE_DETACH of the thread", tracer::detach(other))?;
        child.ends_with(Status::exited(7))
    })
}

case! {
    /// If a process is killed while a thread other than its leader execs, PIDFD_GET_INFO says that it was killed, as waitpid does:
    /// for an auto-reaped process there is no other place to learn it.
    pidfd_info_killed_in_exec_exit_code: Must, needs [ExitInfo, Ptrace],
    source "kernel selftest pidfd_info_test (\"waitpid format\"); wait(2)",
    rare_defect "6.16 to 7.3: the exec has ended the leader with exit code 0, and the leader's is what is recorded: a process killed by SIGKILL is reported to have exited with 0",
}
fn pidfd_info_killed_in_exec_exit_code() -> Result {
    threads::can_delay_exit()?;
    let killed = Status::SIGKILLED;
    subject::each(|call| {
        let (gate, ready) = (Gate::new()?, Channel::<Result>::new()?);
        let command = Command::new("exit", &["0"])?;
        let child = call.spawn(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    gate.wait();
                    command.exec()
                });
                let _ = ready.send(&threads::delay_exit());
                park()
            })
        })?;
        ready.recv_from(&child)??;
        tracer::seize(child.pid(), Options::PTRACE_O_TRACEEXIT)?;
        gate.open()?;
        // The exec has ended the leader and waits until it is gone; the kill ends that wait.
        let exiting = Status::ptrace_event(libc::PTRACE_EVENT_EXIT, Signal::SIGTRAP);
        wait::reap_expecting(child.pid(), exiting)?;
        check::succeeds("pidfd_send_signal(SIGKILL)", child.pidfd()?.send_signal(Signal::SIGKILL))?;
        // A tracer waits for an auto-reaped child, too. Only if the kill came too late, the exec has given the leader's pid
        // to the thread, which is not traced.
        let ended = wait::waitpid(child.pid(), libc::__WALL);
        if ended != Err(Errno::ECHILD) || !child.reaps_itself() {
            check::equal(format_args!("waitpid of {call}"), ended, Ok(Some((child.pid(), killed))))?;
        }
        let told = child.pidfd()?.exit_status()?;
        let what = format_args!("exit_code in PIDFD_GET_INFO of a child of {call}");
        check::equal_or_defect(what, told, killed, Status::exited(0))
    })
}
