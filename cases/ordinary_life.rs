//! An auto-reaped child lives like any other: real-time signals, its clocks and counters, and who is told of its end.

use std::fs::File;
use std::os::fd::AsRawFd;

use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::process::{child_reporting, own_pid};
use clone3_conformance::kit::{Cgroup, Held, disposition, limits, sigchld, subject, usage};
use clone3_conformance::procfs::Stat;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, inotify, memfd_create};

case! {
    /// Real-time signals queue up for an auto-reaped process: three that it blocks are delivered as three.
    autoreap_queues_real_time_signals: Must, needs [Autoreap],
    source "signal(7) (\"Multiple instances of real-time signals can be queued\")",
}
fn autoreap_queues_real_time_signals() -> Result {
    limits::signals_can_be_queued()?;
    subject::each(|call| {
        let (child, delivered) = child_reporting(&call, || {
            let signal = libc::SIGRTMIN();
            disposition::block(signal)?;
            (0..3).try_for_each(|_| disposition::queue(signal))?;
            Ok(std::iter::from_fn(|| sigchld::take_exit_signal(signal)).count())
        })?;
        subject::wait_until_gone(&child)?;
        check::equal(format_args!("signals of 3, delivered to a child of {call}"), delivered, 3)
    })
}

case! {
    /// inotify tells that the file that an auto-reaped process had open for writing is closed when the process ends
    /// (IN_CLOSE_WRITE), as for an ordinary one.
    autoreap_end_is_told_by_inotify: Must, needs [Autoreap, ExitInfo, Proc],
    source "inotify(7), IN_CLOSE_WRITE; kernel/exit.c do_exit() (exit_files())",
}
fn autoreap_end_is_told_by_inotify() -> Result {
    subject::each(|call| {
        let file = memfd_create("watched", MemfdFlags::CLOEXEC)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, &*path, inotify::WatchFlags::CLOSE_WRITE)?;
        let child = Held::prepared(&call, 0, || {
            // Closed by the kernel when the child ends.
            std::mem::forget(File::options().write(true).open(&path)?);
            Ok(())
        })?;
        let told = || rustix::io::read(&watch, &mut [0_u8; 256]).is_ok();
        check::equal(format_args!("event while a child of {call} lives"), told(), false)?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        check::equal(format_args!("IN_CLOSE_WRITE after the end of a child of {call}"), told(), true)
    })
}

case! {
    /// A poll of cgroup.events is told when the last process of the cgroup ends, an auto-reaped one as an ordinary one.
    autoreap_end_is_told_by_cgroup: Must, needs [Autoreap, ExitInfo, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.events (\"a value change in this file generates a file modified event\")",
}
fn autoreap_end_is_told_by_cgroup() -> Result {
    subject::each(|call| {
        let group = Cgroup::create(&[])?;
        let child = Held::exiting_with(&call.clone().into_cgroup(group.dir()), 0)?;
        let of = format!("the cgroup of a child of {call} that has ended");
        group.tells_of("populated 0", || child.let_go()).map_err(|failure| failure.within(of))?;
        subject::wait_until_gone(&child)?;
        group.remove()
    })
}

case! {
    /// The start time of an auto-kill or auto-reaped child (field 22 of /proc/PID/stat) is that of its own creation, not that of its
    /// creator.
    autokill_start_time_is_its_own: Must, needs [Autoreap, Nnp, Autokill, Proc],
    source "proc_pid_stat(5), starttime",
}
fn autokill_start_time_is_its_own() -> Result {
    let start_of = |pid: i32| Stat::of(pid).map(|stat| stat.start);
    let later = loop {
        let ordinary = Held::exiting_with(&Clone3::fork(), 0)?;
        let start = start_of(ordinary.pid());
        ordinary.into_child().clear_away()?;
        if start > start_of(own_pid()) {
            break start;
        }
    };
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let start = start_of(child.pid());
        check::holds(
            start >= later,
            format_args!("start time of a child of {call}: {start:?} ticks, an earlier child's is {later:?}"),
        )?;
        child.into_child().clear_away()
    })
}

case! {
    /// The page faults of an auto-reaped child are counted from its creation: those of its creator are not among them.
    autoreap_usage_begins_at_zero: Must, needs [Autoreap, ExitInfo],
    source "fork(2) (\"Process resource utilizations (getrusage(2)) ... are reset to zero\")",
}
fn autoreap_usage_begins_at_zero() -> Result {
    /// More page faults than a child has until it asks.
    const PAGES: usize = 4000;
    usage::touch_pages(PAGES)?;
    subject::each(|call| {
        let (child, own) = child_reporting(&call, usage::own)?;
        subject::wait_until_gone(&child)?;
        check::holds(
            own.minor_faults < PAGES as i64,
            format_args!("page faults of a new child of {call}, whose creator has {PAGES}: {own:?}"),
        )
    })
}

case! {
    /// Another process can read the CPU-time clock of a living auto-reaped child (clock_getcpuclockid), like that of an ordinary one.
    autoreap_has_cpu_clock: Must, needs [Autoreap],
    source "clock_getcpuclockid(3); kernel/time/posix-cpu-timers.c pid_for_clock()",
}
fn autoreap_has_cpu_clock() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let clock = clock_getcpuclockid(Pid::from_raw(child.pid()));
        let clock = check::succeeds(format_args!("clock_getcpuclockid of a child of {call}"), clock)?;
        let time = clock_gettime(clock).map(drop);
        check::succeeds(format_args!("clock_gettime of the CPU-time clock of a child of {call}"), time)?;
        child.into_child().clear_away()
    })
}
