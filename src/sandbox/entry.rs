//! The process of a test case: how it starts, runs the body and reports.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::poll::PollTimeout;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::census::{self, Leftover};
use crate::case::Case;
use crate::check::{Failure, Result};
use crate::clone3::exit_now;
use crate::need;

/// The exit code of a case that ran to its end and could not report.
pub(super) const COULD_NOT_REPORT: i32 = 117;

/// The report of a test case, sent once at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// The pid of the sender, which shows whether a forked copy of the case ran into this code.
    pub(super) pid: i32,
    /// Why the case did not pass.
    pub(super) failure: Option<Failure>,
    /// The case's children at its end.
    pub(super) left: Vec<Leftover>,
}

impl Report {
    /// Parses the report of the case with process `pid`. Returns `None` if there is none, and an error if it
    /// is invalid.
    pub(super) fn read(bytes: &[u8], pid: i32) -> std::result::Result<Option<Report>, String> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match serde_json::from_slice::<Report>(bytes) {
            Ok(report) if report.pid == pid => Ok(Some(report)),
            Ok(report) => {
                Err(format!("process {} reported in the name of the case, process {pid}", report.pid))
            }
            Err(_) => {
                let text: String = String::from_utf8_lossy(bytes).chars().take(80).collect();
                Err(format!("the case's report is garbage: {text:?}"))
            }
        }
    }
}

/// Returns whether these bytes are a report of the case with this pid. For fuzzing the parser.
#[doc(hidden)]
pub fn is_report(bytes: &[u8], pid: i32) -> std::result::Result<bool, String> {
    Report::read(bytes, pid).map(|report| report.is_some())
}

/// The time at which waits give up, in nanoseconds of CLOCK_MONOTONIC; 0 outside a case.
static GIVE_UP_AT: AtomicU64 = AtomicU64::new(0);
/// The total time that waits may take, in nanoseconds.
static PATIENCE: AtomicU64 = AtomicU64::new(10_000_000_000);

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Resolves the clock function that the kernel maps into every process (vDSO). Call it before forking cases,
/// so that they do not have to do it again.
pub(super) fn look_up_the_clock() {
    now();
}

/// Returns the time that remains for a case's waits, for poll(2).
///
/// It ends before the case's deadline, so that an event that never comes is reported as a failure that names
/// the event, rather than by killing the process.
pub fn time_left() -> PollTimeout {
    let end = GIVE_UP_AT.load(Ordering::Relaxed);
    let left = if end == 0 { PATIENCE.load(Ordering::Relaxed) } else { end.saturating_sub(now()) };
    PollTimeout::try_from(Duration::from_nanos(left)).unwrap_or(PollTimeout::MAX)
}

/// Returns whether at least half of the time for a case's waits remains.
pub fn is_half_time_left() -> bool {
    let left = GIVE_UP_AT.load(Ordering::Relaxed).saturating_sub(now());
    left >= PATIENCE.load(Ordering::Relaxed) / 2
}

/// Returns the total time for a case's waits.
pub fn patience() -> Duration {
    Duration::from_nanos(PATIENCE.load(Ordering::Relaxed))
}

/// Gives waits four fifths of the deadline.
fn set_patience(deadline: Duration) {
    let patience = deadline.as_nanos() as u64 / 5 * 4;
    PATIENCE.store(patience, Ordering::Relaxed);
    GIVE_UP_AT.store(now() + patience, Ordering::Relaxed);
}

/// Shortens the timeout of a child that reports to its parent to nine tenths of the remaining time, so that
/// the child times out first and its message reaches the parent. Must not be called in a child that shares
/// memory with its parent, because it would shorten the parent's timeout too.
pub fn give_up_earlier() {
    let end = GIVE_UP_AT.load(Ordering::Relaxed);
    if end != 0 {
        let left = end.saturating_sub(now()) / 10 * 9;
        PATIENCE.store(left, Ordering::Relaxed);
        GIVE_UP_AT.store(now() + left, Ordering::Relaxed);
    }
}

/// Runs the case in this process, and then exits.
pub(super) fn run(case: &Case, deadline: Duration, verdict: &OwnedFd) -> ! {
    set_patience(deadline);
    let failure = settle_in(case).and_then(|()| guarded(case)).err().map(Failure::truncated);
    let left = census::take();
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let report = serde_json::to_vec(&Report { pid, failure, left });
    let sent = report.is_ok_and(|report| write_all(verdict, &report).is_ok());
    exit_now(if sent { 0 } else { COULD_NOT_REPORT })
}

/// Writes the whole report. The lane reads meanwhile, because a pipe may hold no more than a page.
fn write_all(verdict: &OwnedFd, mut report: &[u8]) -> rustix::io::Result<()> {
    while !report.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(verdict, report))?;
        report = &report[written..];
    }
    Ok(())
}

/// Gives the process its own name and process group, and makes it the subreaper of what it starts.
fn settle_in(case: &Case) -> Result {
    // The name in ps and in all messages is the first 15 bytes of the case's name.
    let mut name = [0; 16];
    name.iter_mut().take(15).zip(case.name.bytes()).for_each(|(place, byte)| *place = byte);
    if let Ok(name) = CStr::from_bytes_until_nul(&name) {
        rustix::thread::set_name(name)?;
    }
    rustix::process::setpgid(None, None)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// The last panic, with its location.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Records panics in `PANIC`. Call it before forking cases, so that they do not have to do it again.
pub(super) fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        if let Ok(mut panic) = PANIC.lock() {
            *panic = Some(info.to_string().replace('\n', " "));
        }
    }));
}

/// Provides what the case needs and runs its body. A panic is reported as the suite's fault, with its
/// location.
fn guarded(case: &Case) -> Result {
    let body = || need::prepare(case.needs).and_then(|()| (case.body)());
    std::panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        let what = PANIC.lock().ok().and_then(|mut panic| panic.take()).unwrap_or_default();
        Err(Failure::broken(format!("the case panicked: {what}")))
    })
}
