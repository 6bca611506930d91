//! Core dumps by a server that is asked how to handle each one (`core_pattern` `@@/path`).

use clone3_conformance::abi::{CoredumpMask, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::kit::coredump::{Ack, Server};
use clone3_conformance::kit::crash::Crash;
use clone3_conformance::kit::subject;
use clone3_conformance::pidfd::info;
use clone3_conformance::wait::{Status, signal_name};
use nix::sys::signal::Signal;

case! {
    /// A child's status says that core was dumped if the coredump server, asked first, lets the kernel write the core or makes it
    /// itself, and not if it rejects it. PIDFD_GET_INFO gives the dump and its signal each time, auto-reaped or not.
    pidfd_info_coredump_by_request: Must, needs [ExitInfo, CoredumpSignal, Root, GlobalChanges],
    source "core(5); include/uapi/linux/coredump.h; fs/coredump.c coredump_sock_connect(), do_coredump()",
}
fn pidfd_info_coredump_by_request() -> Result {
    const REQUEST: InfoMask = InfoMask::EXIT.union(InfoMask::COREDUMP).union(InfoMask::COREDUMP_SIGNAL);
    let server = Server::start()?;
    server.to_asked_server()?;
    let without_core = Status::killed(Signal::SIGSEGV);
    let ways = [
        (Ack::FromKernel, Crash::Unmapped.dumped()),
        (Ack::OwnWork, Crash::Unmapped.dumped()),
        (Ack::None, without_core),
    ];
    subject::each(|call| {
        for (wish, expected) in ways {
            let child = call.spawn(|| Crash::Unmapped.now())?;
            let mut dump = server.begin_dump_of(child.pidfd()?)?;
            dump.answer(wish)?;
            dump.take()?;
            let waited_for = subject::wait_until_gone(&child)?;
            let what = format!("child of {call} whose core dump the server answers with {wish:?}");
            check::equal(format_args!("wait status of a {what}"), waited_for.unwrap_or(expected), expected)?;
            let told = info(child.pidfd()?, REQUEST).context(&what)?;
            let status = Status(told.exit_code);
            let signal = signal_name(told.coredump_signal as i32);
            let found = (status, told.coredump() & CoredumpMask::COREDUMPED, signal);
            let expected = (expected, CoredumpMask::COREDUMPED, signal_name(libc::SIGSEGV));
            check::equal(
                format_args!("exit_code, PIDFD_COREDUMPED, coredump_signal of a {what}"),
                found,
                expected,
            )?;
        }
        Ok(())
    })
}

case! {
    /// A child whose coredump server makes the core itself, having answered COREDUMP_WAIT, does not exit while the server keeps the
    /// connection, auto-reaped or not.
    autoreap_coredump_waits_for_server: Must, needs [Autoreap, ExitInfo, CoredumpSignal, Root, Proc, GlobalChanges],
    source "include/uapi/linux/coredump.h (\"COREDUMP_WAIT: wait for coredump server\"); fs/coredump.c coredump_sock_wait()",
}
fn autoreap_coredump_waits_for_server() -> Result {
    let server = Server::start()?;
    server.to_asked_server()?;
    subject::each(|call| {
        let child = call.spawn(|| Crash::Unmapped.now())?;
        let mut dump = server.begin_dump_of(child.pidfd()?)?;
        dump.answer(Ack::OwnWorkWithTime)?;
        dump.is_waited_for(child.pidfd()?, child.pid()).context(format_args!("child of {call}"))?;
        drop(dump);
        subject::wait_until_gone(&child)?;
        Ok(())
    })
}
