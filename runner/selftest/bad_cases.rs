//! Cases that misbehave, and the result that the sandbox must report for each.

use std::mem::ManuallyDrop;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Kind, Result};
use clone3_conformance::clone3::{Clone3, exit_now, park};
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::helper::Command;
use clone3_conformance::kit::semaphore::Semaphore;
use clone3_conformance::kit::{Cgroup, Channel, Place, limits, namespace, privilege, threads, tracer};
use clone3_conformance::wait::{Status, find_zombie, waitpid};
use nix::sys::signal::{Signal, kill, killpg, raise};
use nix::unistd::{Pid, getpgrp, getppid, setsid};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};

/// The sandbox's expected report on a case. Each number in the message is written `N`.
pub struct Expected {
    pub case: &'static str,
    pub kind: Option<Kind>,
    pub message: &'static str,
    /// The minimum number of bytes of output that must be kept.
    pub output: usize,
    /// The last step that must be reported, if it matters.
    pub last_step: &'static str,
}

/// More than a pipe holds, because a report writes six characters for each of these bytes.
const BELLS: &str = match std::str::from_utf8(&[7; 12_000]) {
    Ok(text) => text,
    Err(_) => "",
};

const fn expect(case: &'static str, kind: Option<Kind>, message: &'static str) -> Expected {
    Expected { case, kind, message, output: 0, last_step: "" }
}

pub const EXPECTED: &[Expected] = &[
    expect("passes", None, ""),
    expect("fails", Some(Kind::Fail), "an answer: expected N, got N"),
    expect("says_much", Some(Kind::Fail), BELLS),
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
        "did not end within N.Ns and was killed; then: process N (hangs) is S (sleeping), child of N, \
         in pause",
    ),
    expect(
        "hangs_in_a_thread",
        Some(Kind::Fail),
        "did not end within N.Ns and was killed, after [N] cloneN(NxN, exit_signal SIGCHLD) = N; then: process N \
         (hangs_in_a_thre) is S (sleeping), child of N, in futex; its thread N (waiter) is S (sleeping), in \
         waitpid(N, __WALL); process N (endless) is S (sleeping), child of N, in pause",
    ),
    Expected {
        last_step: "left behind: process N (live-child) is S (sleeping), child of N",
        ..expect("fails_and_leaks_a_live_child", Some(Kind::Fail), "an answer: expected N, got N")
    },
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
    expect(
        "escapes_by_double_fork_and_setsid",
        Some(Kind::Fail),
        "the case passed but left behind: process N (daemon) is S (sleeping), child of N",
    ),
    expect(
        "leaks_an_init_that_ignores_signals",
        Some(Kind::Fail),
        "the case passed but left behind: process N (stubborn-init) is S (sleeping), child of N",
    ),
    expect(
        "is_stuck_in_vfork",
        Some(Kind::Fail),
        "did not end within N.Ns and was killed; then: process N (is_stuck_in_vfo) is D (disk sleep), \
         child of N, in cloneN; process N (is_stuck_in_vfo) is S (sleeping), child of N, in pause",
    ),
    expect(
        "leaves_a_stopped_tracee",
        Some(Kind::Fail),
        "the case passed but left behind: process N (tracee) is t (tracing stop), child of N",
    ),
    expect(
        "storms",
        Some(Kind::Fail),
        "the case passed but left behind: process N (storm) is S (sleeping), child of N; process N (storm) is S \
         (sleeping), child of N; process N (storm) is S (sleeping), child of N; process N (storm) is S (sleeping), \
         child of N; process N (storm) is S (sleeping), child of N; process N (storm) is S (sleeping), child of N; \
         process N (storm) is S (sleeping), child of N; process N (storm) is S (sleeping), child of N; and N more",
    ),
    expect("eats_memory", Some(Kind::Broken), "the case aborted (SIGABRT)"),
    expect(
        "leaves_a_directory_and_a_file",
        Some(Kind::Broken),
        "the case passed but left behind: directory /tmp/cloneN-conformance-N",
    ),
    expect(
        "leaves_a_mount",
        Some(Kind::Broken),
        "the case passed but left behind: mount /tmp/cloneN-conformance-N; directory /tmp/cloneN-conformance-N",
    ),
    expect(
        "leaves_a_cgroup",
        Some(Kind::Fail),
        "the case passed but left behind: cgroup cloneN-conformance-N-N",
    ),
    expect("leaves_a_semaphore", Some(Kind::Broken), "the case passed but left behind: System V semaphore N"),
    expect("dies_of_its_timer", Some(Kind::Broken), "the case was killed by SIGALRM"),
    expect("lowers_its_limits", None, ""),
    expect(
        "becomes_another_user_and_leaks",
        Some(Kind::Fail),
        "the case passed but left behind: process N (other-user) is S (sleeping), child of N",
    ),
    expect(
        "changes_its_root_and_leaks",
        Some(Kind::Fail),
        "the case passed but left behind: process N (no /proc to look at it)",
    ),
    expect(
        "execs_another_program",
        Some(Kind::Broken),
        "the case exited with N (NxN) before its end, without a report",
    ),
    expect(
        "kills_its_lane",
        Some(Kind::Broken),
        "the sandbox itself failed: the lane died, and the case with it",
    ),
    expect("has_much_to_say", Some(Kind::Fail), "tall: N [N more bytes]"),
    expect("reports_garbage", Some(Kind::Broken), "the case's report is garbage: \"garbage\\N\""),
    expect("lets_a_copy_report", Some(Kind::Broken), "process N reported in the name of the case, process N"),
    Expected { case: "writes_a_mebibyte", kind: None, message: "", output: 64 * 1024, last_step: "" },
];

macro_rules! bad_case {
    ($name:ident) => {
        bad_case!($name, needs []);
    };
    ($name:ident, needs [$($need:ident),*]) => {
        case! {
            /// Nothing is claimed of the kernel: this is a case that misbehaves.
            $name: Must, needs [$($need),*],
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

bad_case!(says_much);
fn says_much() -> Result {
    Err(Failure::fail(BELLS))
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

bad_case!(hangs_in_a_thread);
fn hangs_in_a_thread() -> Result {
    let child = child_called("endless", || {})?;
    let waiter = std::thread::Builder::new().name("waiter".to_owned());
    let thread = waiter.spawn(move || waitpid(child.as_raw(), libc::__WALL))?;
    // waitpid() returns when the child exits, which never happens.
    let _ = thread.join();
    Ok(())
}

/// Creates a child of that name that sleeps once it has run `prepare`.
fn child_called(name: &str, prepare: impl FnOnce()) -> Result<Pid> {
    child_of(&Clone3::fork(), name, prepare)
}

/// Creates such a child with the given call.
fn child_of(call: &Clone3, name: &str, prepare: impl FnOnce()) -> Result<Pid> {
    let ready = Channel::<()>::new()?;
    let child = call.spawn(|| {
        let _ = std::fs::write("/proc/self/comm", name);
        prepare();
        let _ = ready.send(&());
        park()
    })?;
    ready.recv()?;
    threads::wait_until_process_sleeps(child.pid())?;
    Ok(Pid::from_raw(child.pid()))
}

bad_case!(fails_and_leaks_a_live_child);
fn fails_and_leaks_a_live_child() -> Result {
    leaks_a_live_child()?;
    fails()
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
    parent.reap_expecting(Status::exited(0))
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
        // One of these is the channel; the others are not open or not writable.
        let _ = std::fs::write(format!("/proc/self/fd/{fd}"), "garbage\0");
    }
    exit_now(0)
}

bad_case!(lets_a_copy_report);
fn lets_a_copy_report() -> Result {
    // The copy continues as if it were the case, and reports; the case waits for it and then exits.
    let copy = clone3_conformance::kit::process::raw_fork()?;
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

bad_case!(escapes_by_double_fork_and_setsid);
fn escapes_by_double_fork_and_setsid() -> Result {
    let middle = Clone3::fork().spawn(|| {
        let _ = setsid();
        i32::from(child_called("daemon", || {}).is_err())
    })?;
    middle.reap_expecting(Status::exited(0))
}

bad_case!(leaks_an_init_that_ignores_signals, needs[PidNamespace]);
fn leaks_an_init_that_ignores_signals() -> Result {
    child_of(&namespace::init(), "stubborn-init", || disposition::set_all(Disposition::Ignored)).map(drop)
}

bad_case!(is_stuck_in_vfork);
fn is_stuck_in_vfork() -> Result {
    Clone3::fork().with(Flags::CLONE_VFORK).spawn(park).map(drop)
}

bad_case!(leaves_a_stopped_tracee, needs[Ptrace]);
fn leaves_a_stopped_tracee() -> Result {
    let tracee = child_called("tracee", || {})?;
    tracer::attach(tracee.as_raw())
}

bad_case!(storms);
fn storms() -> Result {
    for _ in 0..40 {
        child_called("storm", || {
            // The same number of grandchildren.
            let _ = child_called("storm", || {});
        })?;
    }
    Ok(())
}

bad_case!(eats_memory);
fn eats_memory() -> Result {
    let enough_to_begin = 128 << 20;
    limits::lowered(Resource::As, enough_to_begin, || {
        let mut eaten = Vec::new();
        loop {
            eaten.push(std::hint::black_box(vec![0_u8; 1 << 20]));
        }
    })
}

/// Creates the directory that a case may create, and does not remove it.
fn own_directory() -> Result<std::path::PathBuf> {
    let place = ManuallyDrop::new(Place::new()?);
    Ok(place.path().to_owned())
}

bad_case!(leaves_a_directory_and_a_file);
fn leaves_a_directory_and_a_file() -> Result {
    Ok(std::fs::write(own_directory()?.join("file"), "x")?)
}

bad_case!(leaves_a_mount, needs[Root]);
fn leaves_a_mount() -> Result {
    Ok(mount("tmpfs", own_directory()?, "tmpfs", MountFlags::empty(), c"")?)
}

bad_case!(leaves_a_cgroup, needs[Cgroup2]);
fn leaves_a_cgroup() -> Result {
    Cgroup::create(&[]).map(std::mem::forget)
}

bad_case!(leaves_a_semaphore);
fn leaves_a_semaphore() -> Result {
    Semaphore::new().map(std::mem::forget)
}

bad_case!(dies_of_its_timer);
fn dies_of_its_timer() -> Result {
    nix::unistd::alarm::set(1);
    park();
    Ok(())
}

bad_case!(lowers_its_limits);
fn lowers_its_limits() -> Result {
    for resource in [Resource::Nofile, Resource::Nproc, Resource::Fsize, Resource::Core] {
        setrlimit(resource, Rlimit { current: Some(0), maximum: Some(0) })?;
    }
    Ok(())
}

bad_case!(becomes_another_user_and_leaks, needs[Root]);
fn becomes_another_user_and_leaks() -> Result {
    privilege::become_ordinary_user()?;
    child_called("other-user", || {}).map(drop)
}

bad_case!(changes_its_root_and_leaks, needs[Root]);
fn changes_its_root_and_leaks() -> Result {
    nix::unistd::chroot("/dev")?;
    Clone3::fork().spawn(park).map(drop)
}

bad_case!(execs_another_program, needs[Proc]);
fn execs_another_program() -> Result {
    Err(Command::new("exit", &["0"])?.exec())
}

bad_case!(kills_its_lane);
fn kills_its_lane() -> Result {
    kill(getppid(), Signal::SIGKILL)?;
    park();
    Ok(())
}

bad_case!(has_much_to_say);
fn has_much_to_say() -> Result {
    Err(Failure::fail("1".repeat(1 << 20)).within("tall"))
}
