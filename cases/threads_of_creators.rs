//! Processes with several threads: whose children a thread creates, and where a thread's usage is accounted.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::{Clone3, exit_now, exit_thread, is_cloexec};
use clone3_conformance::kit::orphan::parent_of;
use clone3_conformance::kit::process::{child_reporting, own_pid};
use clone3_conformance::kit::{Channel, Held, subject, threads, usage};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use rustix::process::getppid;
use rustix::time::{ClockId, DynamicClockId, Timespec, clock_gettime_dynamic};

case! {
    /// Children made by a thread of a process, auto-reaped or not, remain children of the process when the thread ends, and another
    /// thread can wait for them.
    autoreap_thread_leaves_children_to_its_process: Must, needs [Autoreap, ExitInfo],
    source "wait(2) (\"children of other threads in the same thread group\"); kernel/exit.c find_new_reaper()",
}
fn autoreap_thread_leaves_children_to_its_process() -> Result {
    subject::each(|call| {
        let (child, (process, parent)) = child_reporting(&call, || {
            let make = || Ok((Held::exiting_with(&Clone3::fork(), 5)?, threads::own_pidfd()?));
            let (made, thread) = threads::in_a_thread(make)?;
            thread.wait_reaped()?;
            let parent = parent_of(&made.observe()?)?;
            made.let_go()?;
            if parent == own_pid() {
                made.into_child().reap_expecting(Status::exited(5))?;
            }
            Ok((own_pid(), parent))
        })?;
        let what = format!("parent of what an ended thread of a child of {call} made");
        check::equal(what, parent, process)?;
        child.ends_with(Status::exited(0))
    })
}

case! {
    /// A thread of a process, auto-reaped or not, can wait for a child that another thread has made and that still runs; with
    /// __WNOTHREAD it cannot.
    autoreap_thread_waits_for_anothers_child: Must, needs [Autoreap, ExitInfo],
    source "wait(2) (\"children of other threads in the same thread group\", __WNOTHREAD)",
}
fn autoreap_thread_waits_for_anothers_child() -> Result {
    subject::each(|call| {
        let (child, waited) = child_reporting(&call, || {
            let pid = Clone3::fork().spawn(|| 5)?.pid();
            threads::in_a_thread(|| {
                let alone = wait::waitpid(pid, libc::__WALL | libc::__WNOTHREAD);
                check::refused("control: waitpid(__WNOTHREAD) by another thread", alone, Errno::ECHILD)?;
                let by_pid = wait::waitpid(pid, libc::WUNTRACED | libc::__WALL);
                Ok(by_pid.map(|found| found.is_some()).map_err(|errno| errno as i32))
            })
        })?;
        check::equal(format_args!("waitpid by another thread of a child of {call}"), waited, Ok(true))?;
        child.ends_with(Status::exited(0))
    })
}

/// Returns the parent of a child that the leader thread has created, as seen by another thread once the leader is dead.
fn parent_when_leader_is_dead(made: Result<Held>) -> Result<i32> {
    let made = made?;
    threads::wait_for_dead_leader(own_pid())?;
    let parent = parent_of(made.pidfd()?)?;
    made.let_go()?;
    if parent == own_pid() {
        made.into_child().reap_expecting(Status::exited(5))?;
    }
    Ok(parent)
}

case! {
    /// Children made by the leader thread of a process, auto-reaped or not, remain children of the process when the leader ends
    /// before other threads, and one of those can wait for them.
    autoreap_leader_leaves_children_to_its_process: Must, needs [Autoreap, ExitInfo, Proc],
    source "wait(2) (\"children of other threads in the same thread group\"); kernel/exit.c find_new_reaper()",
}
fn autoreap_leader_leaves_children_to_its_process() -> Result {
    subject::each(|call| {
        let report = Channel::<Result<i32>>::new()?;
        let child = call.spawn(|| {
            let made = Held::exiting_with(&Clone3::fork().with(Flags::PIDFD), 5);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // The receiver sees a failed send as the end of the stream.
                    let _ = report.send(&parent_when_leader_is_dead(made));
                    exit_now(0)
                });
                exit_thread(4)
            })
        })?;
        let what = format!("parent of what the ended leader thread of a child of {call} made");
        check::equal(what, report.recv_from(&child)??, child.pid())?;
        child.ends_with(Status::exited(0))
    })
}

case! {
    /// The ppid that PIDFD_GET_INFO gives for a child, and getppid(2) in the child, is the pid of its parent process, whichever thread
    /// made the child.
    pidfd_info_ppid_is_no_thread: Must, needs [ExitInfo],
    source "include/uapi/linux/pidfd.h; fs/pidfs.c pidfd_info()",
}
fn pidfd_info_ppid_is_no_thread() -> Result {
    threads::in_a_thread(|| {
        check::holds(threads::own_tid() != own_pid(), "control: the thread is the leader")?;
        subject::each(|call| {
            let parent = own_pid();
            let of = format!("of a child of {call}, made by another thread than the leader");
            let child = Held::prepared(&call, 0, || {
                let told = getppid().map(|pid| pid.as_raw_nonzero().get());
                check::equal(format_args!("getppid() {of}"), told, Some(parent))
            })?;
            check::equal(format_args!("ppid in PIDFD_GET_INFO {of}"), parent_of(child.pidfd()?)?, parent)?;
            child.into_child().clear_away()?;
            Ok(())
        })
    })
}

/// Returns CPU time, in microseconds.
fn cpu_time(clock: ClockId) -> Result<i64> {
    let time = clock_gettime_dynamic(DynamicClockId::Known(clock));
    let Timespec { tv_sec, tv_nsec } = time.map_err(|errno| {
        Failure::blocked(format!("needs clocks of CPU time (CONFIG_POSIX_TIMERS), but: {errno:?}"))
    })?;
    Ok(tv_sec * 1_000_000 + tv_nsec / 1000)
}

/// Uses CPU time, and returns how much the calling thread has used.
fn burn() -> Result<i64> {
    const MUCH: i64 = 5_000;
    loop {
        let used = cpu_time(ClockId::ThreadCPUTime)?;
        if used >= MUCH {
            return Ok(used);
        }
    }
}

case! {
    /// The CPU time of a process, auto-reaped or not, includes what its ended threads have used.
    autoreap_cpu_time_has_ended_threads: Must, needs [Autoreap, ExitInfo],
    source "clock_getres(2), CLOCK_PROCESS_CPUTIME_ID; kernel/exit.c __exit_signal()",
}
fn autoreap_cpu_time_has_ended_threads() -> Result {
    subject::each(|call| {
        let (child, (all, own, ended)) = child_reporting(&call, || {
            let (used, thread) = threads::in_a_thread(|| Ok((burn()?, threads::own_pidfd()?)))?;
            thread.wait_reaped()?;
            // In this order, the process's CPU time includes all of the thread's.
            let own = cpu_time(ClockId::ThreadCPUTime)?;
            Ok((cpu_time(ClockId::ProcessCPUTime)?, own, used))
        })?;
        child.ends_with(Status::exited(0))?;
        // Allows a microsecond each for rounding.
        check::holds(
            all + 3 >= own + ended,
            format_args!(
                "CPU time of a child of {call}: expected at least the {own} µs of its only thread and the {ended} µs of \
                 one that has ended, got {all} µs"
            ),
        )?;
        Ok(())
    })
}

case! {
    /// getrusage(RUSAGE_SELF) in an auto-reaped process includes the page faults of its threads that have ended, as in any process.
    autoreap_usage_has_ended_threads: Must, needs [Autoreap, ExitInfo],
    source "getrusage(2), RUSAGE_SELF (\"the sum of resources used by all threads in the process\"); kernel/exit.c __exit_signal()",
}
fn autoreap_usage_has_ended_threads() -> Result {
    const PAGES: usize = 1000;
    subject::each(|call| {
        let (child, faults) = child_reporting(&call, || {
            let before = usage::own()?.minor_faults;
            let thread =
                threads::in_a_thread(|| usage::touch_pages(PAGES).and_then(|()| threads::own_pidfd()))?;
            thread.wait_reaped()?;
            Ok(usage::own()?.minor_faults - before)
        })?;
        child.ends_with(Status::exited(0))?;
        let what = format_args!(
            "page faults of a child of {call}: expected the {PAGES} of a thread that has ended, got {faults}"
        );
        check::holds(faults >= PAGES as i64, what)
    })
}

case! {
    /// The usage of a child for which an auto-reaped process has waited is in that process's RUSAGE_CHILDREN, as for any process.
    autoreap_process_has_childrens_account: Must, needs [Autoreap, ExitInfo],
    source "getrusage(2), RUSAGE_CHILDREN; kernel/exit.c wait_task_zombie()",
}
fn autoreap_process_has_childrens_account() -> Result {
    subject::each(|call| {
        let (child, faults) = child_reporting(&call, || {
            let before = usage::of_children()?.minor_faults;
            Clone3::fork().spawn(|| 0)?.reap_expecting(Status::exited(0))?;
            Ok((before, usage::of_children()?.minor_faults))
        })?;
        child.ends_with(Status::exited(0))?;
        let (before, after) = faults;
        check::equal(format_args!("page faults of the children of a new child of {call}"), before, 0)?;
        let what = format!("page faults of the children of a child of {call}, which has waited for one");
        check::holds(after > 0, format_args!("{what}: expected some, got {after}"))
    })
}

case! {
    /// The pidfd of a child whose creator has several threads is close-on-exec.
    abi_pidfd_of_thread_is_cloexec: Must, needs [],
    source "clone(2), CLONE_PIDFD; kernel/fork.c pidfd_prepare()",
}
fn abi_pidfd_of_thread_is_cloexec() -> Result {
    subject::each(|call| {
        threads::in_a_thread(|| {
            let child = call.spawn(|| 0)?;
            check::equal(
                format_args!("FD_CLOEXEC of the pidfd of {call}"),
                is_cloexec(child.pidfd()?)?,
                true,
            )?;
            child.ends_with(Status::exited(0))
        })
    })
}
