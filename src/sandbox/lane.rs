//! A lane: runs one case at a time, watches it, and clears up behind it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::pipe::PipeFlags;

use super::census::{self, Leftover};
use super::entry::{self, COULD_NOT_REPORT, Report};
use super::wire::{self, Outcome, Request};
use crate::case::{self, Case, Strength};
use crate::check::Failure;
use crate::kit::core_pattern;
use crate::wait::{self, Status, signal_name};
use crate::{procfs, trail};

/// How much of a case's output is kept.
const OUTPUT_KEPT: usize = 64 * 1024;

/// The name of a case that does nothing: what remains is the sandbox's own cost.
pub const NOTHING: &str = "nothing";

static EMPTY: Case = Case {
    name: NOTHING,
    doc: "Nothing.",
    source: "",
    strength: Strength::Is,
    needs: &[],
    since: None,
    known_defect: None,
    file: file!(),
    line: line!(),
    body: || Ok(()),
};

/// Serves the program until it closes its end of the socket.
pub(super) fn serve(program: UnixStream) {
    let Ok(children) = watch_children() else { return };
    if trail::open().is_err() || settle_in().is_err() {
        return;
    }
    let lane = Lane { program, children };
    while let Ok(Some(request)) = wire::receive::<Request>(&lane.program) {
        let outcome = lane.run(&request);
        if wire::send(&lane.program, &outcome).is_err() {
            return;
        }
    }
}

/// Subreaper of all that cases leave, and gone with the zygote.
fn settle_in() -> rustix::io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
}

/// SIGCHLD as something to poll.
fn watch_children() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

struct Lane {
    program: UnixStream,
    children: SignalFd,
}

/// A case under way.
struct Running {
    pid: i32,
    verdict: OwnedFd,
    output: Collected,
    end: Instant,
}

/// How the case's process ended.
enum Ending {
    Died(Status),
    /// Killed at the deadline; says what it was doing.
    Hung(String),
    /// Killed because the program went away.
    Abandoned,
}

impl Lane {
    fn run(&self, request: &Request) -> Outcome {
        let found = if request.case == NOTHING { Some(&EMPTY) } else { case::find(&request.case) };
        let Some(case) = found else {
            return Outcome::lost(Failure::broken(format!("there is no case {}", request.case)));
        };
        trail::clear();
        // A case that dies cannot put back what it changed.
        let core_pattern = if case.runs_alone() { core_pattern::read() } else { None };
        let start = Instant::now();
        let outcome = match self.start(case, request.deadline) {
            Ok(running) => self.finish(running, request.deadline, start),
            Err(errno @ (Errno::EAGAIN | Errno::ENOMEM)) => {
                let why = format!("the sandbox cannot fork: {errno:?} (a limit on processes or memory)");
                Outcome::lost(Failure::blocked(why))
            }
            Err(errno) => Outcome::lost(Failure::from(errno).within("starting the case")),
        };
        if let Some(pattern) = core_pattern {
            core_pattern::put_back(&pattern);
        }
        outcome
    }

    fn start(&self, case: &Case, deadline: Duration) -> nix::Result<Running> {
        let (verdict, verdict_end) = pipe()?;
        let (output, output_end) = pipe()?;
        let end = Instant::now() + deadline;
        // SAFETY: a lane has one thread.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                Ok(Running { pid: child.as_raw(), verdict, output: Collected::new(output), end })
            }
            ForkResult::Child => {
                self.let_go();
                drop((verdict, output));
                entry::run(case, deadline, verdict_end, output_end)
            }
        }
    }

    /// In the case: nothing of the lane's is to be reached from here.
    fn let_go(&self) {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        let _ = SigSet::empty().thread_set_mask();
        for fd in [self.program.as_fd(), self.children.as_fd()] {
            // SAFETY: the case never touches the lane's descriptors, and leaves without running destructors.
            unsafe { rustix::io::close(std::os::fd::AsRawFd::as_raw_fd(&fd)) };
        }
    }

    fn finish(&self, mut running: Running, deadline: Duration, start: Instant) -> Outcome {
        let ending = self.watch(&mut running, deadline);
        let duration = start.elapsed();
        // The first census was the case's own; this one finds what it could not see or did not live to see.
        let found = census::take();
        let immortal = if found.is_empty() { Vec::new() } else { census::kill_all_children() };
        running.output.drain();
        let report = read_report(running.verdict, running.pid);
        let mut failure = judge(ending, report, found);
        if !immortal.is_empty() {
            let who = census::names(&immortal);
            failure = Some(Failure::fail(format!("SIGKILL does not end what the case left: {who}")));
        }
        let trail = if failure.is_some() { trail::read() } else { Vec::new() };
        Outcome { failure, output: running.output.text(), trail, duration }
    }

    /// Waits for the end of the case's process, collecting its output; kills it at its deadline.
    fn watch(&self, running: &mut Running, deadline: Duration) -> Ending {
        loop {
            if let Ok(Some((_, status))) = wait::waitpid(running.pid, libc::WNOHANG | libc::__WALL) {
                return Ending::Died(status);
            }
            let left = running.end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let doing = what_hangs(running.pid);
                kill_and_reap(running.pid);
                return Ending::Hung(format!("did not end within {deadline:.1?} and was killed; {doing}"));
            }
            if self.wait_for_news(running, left) {
                kill_and_reap(running.pid);
                return Ending::Abandoned;
            }
        }
    }

    /// Blocks until a child changes, output comes, time is up or the program goes (then true).
    fn wait_for_news(&self, running: &mut Running, left: Duration) -> bool {
        let wake = PollFlags::POLLIN;
        let mut fds = vec![
            PollFd::new(self.children.as_fd(), wake),
            PollFd::new(self.program.as_fd(), PollFlags::empty()),
        ];
        fds.extend(running.output.source().map(|source| PollFd::new(source, wake)));
        // A millisecond more than is left, so that the loop does not spin in the last one.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        // EINTR and the like: the loop looks again.
        let _ = poll(&mut fds, timeout);
        let is_up =
            |index: usize| fds.get(index).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        let (child, gone, output) = (is_up(0), is_up(1), is_up(2));
        if child {
            while let Ok(Some(_)) = self.children.read_signal() {}
        }
        if output {
            running.output.read_some();
        }
        gone
    }
}

fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}

fn kill_and_reap(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let _ = wait::waitpid(pid, libc::__WALL);
}

/// The case and its children at the moment of its deadline.
fn what_hangs(pid: i32) -> String {
    let mut lines = vec![format!("then: {}", procfs::describe(pid))];
    lines.extend(procfs::children_of(pid).iter().map(ToString::to_string));
    lines.join("; ")
}

/// The case's own words: `Ok(None)` when it said nothing, an error when nobody can make sense of them.
fn read_report(verdict: OwnedFd, pid: i32) -> Result<Option<Report>, String> {
    // A descendant that escaped may still hold the other end.
    let _ = rustix::io::ioctl_fionbio(&verdict, true);
    let mut bytes = Vec::new();
    let _ = std::fs::File::from(verdict).read_to_end(&mut bytes);
    if bytes.is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice::<Report>(&bytes) {
        Ok(report) if report.pid == pid => Ok(Some(report)),
        Ok(report) => Err(format!("process {} reported in the name of the case, process {pid}", report.pid)),
        Err(_) => {
            let text: String = String::from_utf8_lossy(&bytes).chars().take(80).collect();
            Err(format!("the case's report is garbage: {text:?}"))
        }
    }
}

/// From how it ended, what it said and what it left, whether it passed and whose fault it is if not.
fn judge(ending: Ending, report: Result<Option<Report>, String>, found: Vec<Leftover>) -> Option<Failure> {
    let status = match ending {
        Ending::Hung(message) => return Some(Failure::fail(message)),
        Ending::Abandoned => return Some(Failure::broken("the program that asked for the case went away")),
        Ending::Died(status) => status,
    };
    let report = match report {
        Ok(Some(report)) => report,
        Ok(None) => return Some(silent(status)),
        Err(message) => return Some(Failure::broken(message)),
    };
    let mut left = report.left;
    let known: Vec<i32> = left.iter().map(|leftover| leftover.pid).collect();
    left.extend(found.into_iter().filter(|leftover| !known.contains(&leftover.pid)));
    match report.failure {
        None if left.is_empty() => None,
        None => Some(Failure::fail(format!("the case passed but left behind: {}", census::names(&left)))),
        failure => failure,
    }
}

/// A case that ended without a word. SIGKILL is the kernel's doing until shown otherwise: killing the wrong
/// process is what a broken auto-kill does. Any other death is the suite's own mistake.
fn silent(status: Status) -> Failure {
    match status.term_signal() {
        Some(libc::SIGKILL) => Failure::fail(
            "the case's process was killed by SIGKILL, which nothing in the suite sent: \
             the kernel killed the wrong process, or the machine ran out of memory",
        ),
        Some(libc::SIGABRT) => Failure::broken("the case aborted (SIGABRT)"),
        Some(number) => Failure::broken(format!("the case was killed by {}", signal_name(number))),
        None if status == Status::exited(COULD_NOT_REPORT) => {
            Failure::broken("the case ran to its end but could not report: it closed its channel")
        }
        None => Failure::broken(format!("the case {status} before its end, without a report")),
    }
}

/// A case's output: the beginning is kept, the rest is counted.
struct Collected {
    source: Option<std::fs::File>,
    kept: Vec<u8>,
    total: usize,
}

impl Collected {
    fn new(source: OwnedFd) -> Collected {
        // A pipe that blocks would let a case stop its lane.
        let _ = rustix::io::ioctl_fionbio(&source, true);
        Collected { source: Some(source.into()), kept: Vec::new(), total: 0 }
    }

    fn source(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.source.as_ref().map(AsFd::as_fd)
    }

    /// Reads once; false when there was nothing to read. At the end of file the source is dropped, or poll
    /// would report it for ever.
    fn read_some(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let Some(source) = &mut self.source else {
            return false;
        };
        match source.read(&mut buffer) {
            Ok(0) => {
                self.source = None;
                false
            }
            Ok(count) => {
                self.total += count;
                let room = OUTPUT_KEPT - self.kept.len();
                self.kept.extend_from_slice(&buffer[..count.min(room)]);
                true
            }
            Err(_) => false,
        }
    }

    fn drain(&mut self) {
        while self.read_some() {}
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        if self.total > self.kept.len() {
            text.push_str(&format!("\n[{} more bytes of output]", self.total - self.kept.len()));
        }
        text
    }
}
