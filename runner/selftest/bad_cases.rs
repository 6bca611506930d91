//! Cases as nobody should write them, and what the sandbox must say of each.

use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Kind, Result};
use clone3_conformance::clone3::{Clone3, exit_now, park};
use clone3_conformance::kit::{Channel, threads};
use clone3_conformance::wait::find_zombie;
use nix::sys::signal::{Signal, kill, killpg, raise};
use nix::unistd::{Pid, getpgrp, setsid};

/// What the sandbox must make of a case. Numbers in the message are written `N`.
pub struct Expected {
    pub case: &'static str,
    pub kind: Option<Kind>,
    pub message: &'static str,
    /// At least so many bytes of output must have been kept.
    pub output: usize,
}

const fn expect(case: &'static str, kind: Option<Kind>, message: &'static str) -> Expected {
    Expected { case, kind, message, output: 0 }
}

pub const EXPECTED: &[Expected] = &[
    expect("passes", None, ""),
    expect("fails", Some(Kind::Fail), "an answer: expected N, got N"),
    expect("is_blocked", Some(Kind::Blocked), "needs a better world"),
    expect("is_unsupported", Some(Kind::Unsupported), "the kernel has no heart"),
    expect("trips_in_its_setup", Some(Kind::Broken), "set-up failed with EBADF (Bad file number)"),
    expect(
        "panics",
        Some(Kind::Broken),
        "the case panicked: panicked at runner/selftest/bad_cases.rs:N:N: at the disco",
    ),
    expect("aborts", Some(Kind::Broken), "the case aborted (SIGABRT)"),
    expect("segfaults", Some(Kind::Broken), "the case was killed by SIGSEGV"),
    expect(
        "kills_itself",
        Some(Kind::Fail),
        "the case's process was killed by SIGKILL, which nothing in the suite sent: \
         the kernel killed the wrong process, or the machine ran out of memory",
    ),
    expect(
        "kills_its_group",
        Some(Kind::Fail),
        "the case's process was killed by SIGKILL, which nothing in the suite sent: \
         the kernel killed the wrong process, or the machine ran out of memory",
    ),
    expect(
        "exits_early",
        Some(Kind::Broken),
        "the case exited with N (NxN) before its end, without a report",
    ),
    expect(
        "hangs",
        Some(Kind::Fail),
        "did not end within N.Ns and was killed; then: process N (hangs) is S (sleeping), child of N",
    ),
    expect(
        "leaks_a_live_child",
        Some(Kind::Fail),
        "the case passed but left behind: process N (live-child) is S (sleeping), child of N",
    ),
    expect(
        "leaks_a_stopped_child",
        Some(Kind::Fail),
        "the case passed but left behind: process N (stopped-child) is T (stopped), child of N",
    ),
    expect(
        "leaks_a_zombie",
        Some(Kind::Fail),
        "the case passed but left behind: process N (leaks_a_zombie) is Z (zombie), child of N",
    ),
    expect(
        "leaks_a_child_in_a_session_of_its_own",
        Some(Kind::Fail),
        "the case passed but left behind: process N (setsid-child) is S (sleeping), child of N",
    ),
    expect(
        "leaks_a_grandchild",
        Some(Kind::Fail),
        "the case passed but left behind: process N (grandchild) is S (sleeping), child of N",
    ),
    expect(
        "dies_with_a_live_child",
        Some(Kind::Broken),
        "the case exited with N (NxN) before its end, without a report",
    ),
    expect(
        "closes_every_descriptor",
        Some(Kind::Broken),
        "the case ran to its end but could not report: it closed its channel",
    ),
    expect("reports_garbage", Some(Kind::Broken), "the case's report is garbage: \"garbage\\N\""),
    expect("lets_a_copy_report", Some(Kind::Broken), "process N reported in the name of the case, process N"),
    Expected { case: "writes_a_mebibyte", kind: None, message: "", output: 64 * 1024 },
];

macro_rules! bad_case {
    ($name:ident) => {
        case! {
            /// Nothing is claimed of the kernel: this is a case that misbehaves.
            $name: Must, needs [],
            source "the sandbox's own promise",
        }
    };
}

bad_case!(passes);
fn passes() -> Result {
    Ok(())
}

bad_case!(fails);
fn fails() -> Result {
    check::equal("an answer", 6 * 9, 42)
}

bad_case!(is_blocked);
fn is_blocked() -> Result {
    Err(Failure::blocked("needs a better world"))
}

bad_case!(is_unsupported);
fn is_unsupported() -> Result {
    Err(Failure::unsupported("the kernel has no heart"))
}

bad_case!(trips_in_its_setup);
fn trips_in_its_setup() -> Result {
    nix::unistd::close(-1)?;
    Ok(())
}

bad_case!(panics);
fn panics() -> Result {
    panic!("at the disco")
}

bad_case!(aborts);
fn aborts() -> Result {
    std::process::abort()
}

bad_case!(segfaults);
fn segfaults() -> Result {
    raise(Signal::SIGSEGV)?;
    Ok(())
}

bad_case!(kills_itself);
fn kills_itself() -> Result {
    raise(Signal::SIGKILL)?;
    Ok(())
}

bad_case!(kills_its_group);
fn kills_its_group() -> Result {
    child_called("bystander", || {})?;
    killpg(getpgrp(), Signal::SIGKILL)?;
    Ok(())
}

bad_case!(exits_early);
fn exits_early() -> Result {
    exit_now(0)
}

bad_case!(hangs);
fn hangs() -> Result {
    park();
    Ok(())
}

/// A child of that name that sleeps once it has prepared itself.
fn child_called(name: &str, prepare: impl FnOnce()) -> Result<Pid> {
    let ready = Channel::<()>::new()?;
    let child = Clone3::fork().spawn(|| {
        let _ = std::fs::write("/proc/self/comm", name);
        prepare();
        let _ = ready.send(&());
        park()
    })?;
    ready.recv()?;
    threads::wait_until_process_sleeps(child.pid())?;
    Ok(Pid::from_raw(child.pid()))
}

bad_case!(leaks_a_live_child);
fn leaks_a_live_child() -> Result {
    child_called("live-child", || {}).map(drop)
}

bad_case!(leaks_a_stopped_child);
fn leaks_a_stopped_child() -> Result {
    let child = child_called("stopped-child", || {})?;
    kill(child, Signal::SIGSTOP)?;
    nix::sys::wait::waitpid(child, Some(nix::sys::wait::WaitPidFlag::WUNTRACED))?;
    Ok(())
}

bad_case!(leaks_a_zombie);
fn leaks_a_zombie() -> Result {
    let child = Clone3::fork().spawn(|| 0)?;
    find_zombie(child.pid()).map(drop)
}

bad_case!(leaks_a_child_in_a_session_of_its_own);
fn leaks_a_child_in_a_session_of_its_own() -> Result {
    child_called("setsid-child", || {
        let _ = setsid();
    })
    .map(drop)
}

bad_case!(leaks_a_grandchild);
fn leaks_a_grandchild() -> Result {
    let parent = Clone3::fork().spawn(|| match child_called("grandchild", || {}) {
        Ok(_) => 0,
        Err(_) => 1,
    })?;
    parent.reap_expecting(clone3_conformance::wait::Status::exited(0))
}

bad_case!(dies_with_a_live_child);
fn dies_with_a_live_child() -> Result {
    child_called("orphan", || {})?;
    exit_now(3)
}

bad_case!(closes_every_descriptor);
fn closes_every_descriptor() -> Result {
    for fd in 0..1024 {
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

bad_case!(reports_garbage);
fn reports_garbage() -> Result {
    for fd in 3..64 {
        // Whichever of these is the channel; the others are not open or not for writing.
        let _ = std::fs::write(format!("/proc/self/fd/{fd}"), "garbage\0");
    }
    exit_now(0)
}

bad_case!(lets_a_copy_report);
fn lets_a_copy_report() -> Result {
    // The copy goes on as if it were the case, and reports; the case waits for it and then dies.
    let copy = clone3_conformance::kit::process::stray_copy()?;
    if let Some(pid) = copy {
        clone3_conformance::wait::reap(pid)?;
        exit_now(0);
    }
    Ok(())
}

bad_case!(writes_a_mebibyte);
fn writes_a_mebibyte() -> Result {
    let line = "x".repeat(1023);
    for _ in 0..1024 {
        println!("{line}");
    }
    Ok(())
}
