//! A lane, which runs one test case at a time, watches it, and cleans up after it.

use std::fs::File;
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
use super::hang;
use super::leftovers;
use super::resources::Before;
use super::system_lock::SystemLock;
use super::wire::{self, Answer, Outcome, Request};
use crate::case::{self, Case, Strength};
use crate::check::{Failure, errno_of};
use crate::kit::sysctl;
use crate::need::Setting;
use crate::trail;
use crate::wait::{self, Status, signal_name};

/// How much of a case's output is kept, in bytes.
const OUTPUT_KEPT: usize = 64 * 1024;

/// The name of a case that does nothing. Running it measures the sandbox's own cost.
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
    let (children, pipes) = match prepare() {
        Ok(prepared) => prepared,
        // An error of sending is ignored: the program is gone.
        Err(outcome) => return refuse(&program, outcome),
    };
    let mut lane = Lane { program, children, pipes, before: Before::now() };
    while let Ok(Some(request)) = wire::receive::<Request>(&lane.program) {
        let outcome = lane.run(&request);
        if wire::send(&lane.program, &Answer { outcome, is_last: false }).is_err() {
            return;
        }
    }
}

/// Answers the first request in place of a lane that could not be created. The request must be read, because
/// closing the socket with unread data would cause an error at the program's end and lose the answer.
pub(super) fn refuse(program: &UnixStream, outcome: Outcome) {
    let _ = wire::receive::<Request>(program);
    let _ = wire::send(program, &Answer { outcome, is_last: true });
}

/// Prepares this process to run cases. Returns what it needs to watch them.
///
/// # Errors
/// The outcome to send to the program, which names the step that failed.
fn prepare() -> Result<(SignalFd, Pipes), Outcome> {
    let children = watch_children().map_err(|errno| no_lane("signalfd(2)", errno))?;
    let in_words = |step: &'static str| move |errno| no_lane(step, errno_of(errno));
    trail::open().map_err(in_words("mmap(2) of the page for the trail"))?;
    settle_in().map_err(in_words("prctl(2) (PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG)"))?;
    read_nothing().and_then(|()| Pipes::new()).map_err(in_words("pipe(2)")).map(|pipes| (children, pipes))
}

/// Makes the lane the subreaper of everything that cases leave behind, and ends it with the zygote.
fn settle_in() -> rustix::io::Result<()> {
    entry::look_up_the_clock();
    entry::keep_panics();
    leftovers::prepare();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
}

/// Makes SIGCHLD pollable.
fn watch_children() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

struct Lane {
    program: UnixStream,
    children: SignalFd,
    pipes: Pipes,
    before: Before,
}

/// The pipes for a case's report and output. They are used for one case after another: only a case that is
/// over could still hold them, and what it left behind is killed before the next one starts.
struct Pipes {
    verdict: File,
    verdict_in: OwnedFd,
    /// The other end is the lane's own standard output, which every case inherits.
    output: File,
}

impl Pipes {
    fn new() -> rustix::io::Result<Pipes> {
        let (verdict, verdict_in) = pipe()?;
        let (output, output_in) = pipe()?;
        rustix::stdio::dup2_stdout(&output_in)?;
        Ok(Pipes { verdict, verdict_in, output })
    }
}

/// Creates a pipe whose reader never blocks, so that a case cannot block its lane.
fn pipe() -> rustix::io::Result<(File, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read.into(), write))
}

/// A running test case.
struct Running {
    pid: i32,
    /// The report received so far. It is read as it arrives, because the capacity of a pipe is not known.
    report: Vec<u8>,
    output: Collected,
    end: Instant,
}

/// How the case's process ended.
enum Ending {
    Died(Status),
    /// Killed at the deadline, with a description of what it was doing.
    Hung(String),
    /// The lane could not wait for it.
    Vanished,
    /// Killed because the program went away.
    Abandoned,
}

impl Lane {
    fn run(&mut self, request: &Request) -> Outcome {
        let found = if request.case == NOTHING { Some(&EMPTY) } else { case::find(&request.case) };
        let Some(case) = found else {
            return Outcome::lost(Failure::broken(format!("there is no case {}", request.case)));
        };
        trail::clear();
        let alone = match case.runs_alone().then(|| SystemLock::when_possible(&self.program)).transpose() {
            Ok(alone) => alone,
            Err(failure) => return Outcome::lost(self.before.excuse(failure)),
        };
        // A case that dies cannot restore the settings that it changed.
        let settings = alone.as_ref().map(|_| sysctl::Snapshot::take()).unwrap_or_default();
        self.before.refresh();
        let start = Instant::now();
        let outcome = match self.start(case, request.deadline) {
            Ok(running) => self.finish(case, running, request.deadline, start),
            Err(errno) => no_fork(errno),
        };
        settings.put_back();
        drop(alone);
        let excuse = |failure| match case.is_ahead_of(&Setting::get().judged_as) {
            // The claim does not hold on this kernel yet, so there is nothing to excuse.
            true => failure,
            false => self.before.excuse(failure),
        };
        Outcome { failure: outcome.failure.map(excuse), ..outcome }
    }

    fn start(&self, case: &Case, deadline: Duration) -> nix::Result<Running> {
        let end = Instant::now() + deadline;
        // SAFETY: a lane has one thread.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                Ok(Running { pid: child.as_raw(), report: Vec::new(), output: Collected::default(), end })
            }
            ForkResult::Child => {
                self.let_go();
                entry::run(case, deadline, &self.pipes.verdict_in)
            }
        }
    }

    /// Closes everything of the lane in the case's process.
    fn let_go(&self) {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        let _ = SigSet::empty().thread_set_mask();
        // If this fails, the case's output is missing. Until here, standard error is the program's own.
        let _ = rustix::stdio::dup2_stderr(rustix::stdio::stdout());
        let Pipes { verdict, output, .. } = &self.pipes;
        for fd in [self.program.as_fd(), self.children.as_fd(), verdict.as_fd(), output.as_fd()] {
            // SAFETY: the case never touches the lane's descriptors, and exits without running destructors.
            unsafe { rustix::io::close(std::os::fd::AsRawFd::as_raw_fd(&fd)) };
        }
    }

    fn finish(&mut self, case: &Case, mut running: Running, deadline: Duration, start: Instant) -> Outcome {
        let ending = self.watch(&mut running, deadline);
        let duration = start.elapsed();
        // The case took the first census itself; this one finds what it could not see or did not live to see.
        let found = census::take();
        let immortal = if found.is_empty() { Vec::new() } else { census::kill_all_children() };
        let things = leftovers::clear_away(case, running.pid);
        running.output.drain(&self.pipes.output);
        while read_some(&self.pipes.verdict, |some| running.report.extend_from_slice(some)) {}
        let mut report = Report::read(&running.report, running.pid);
        let left = all_left(&mut report, found.into_iter().chain(things));
        let mut failure = judge(ending, report, &left);
        if !immortal.is_empty() {
            let who = census::names(&immortal);
            let before = failure.map_or_else(String::new, |failure| format!("; before: {}", failure.message));
            failure = Some(Failure::fail(format!("SIGKILL does not end what the case left: {who}{before}")));
            // The leftover may still write into the old pipes. If new ones cannot be created, the old ones
            // are kept.
            if let Ok(pipes) = Pipes::new() {
                self.pipes = pipes;
            }
        }
        let mut trail = if failure.is_some() { trail::read() } else { Vec::new() };
        if failure.is_some() && !left.is_empty() {
            trail.push(format!("left behind: {}", census::names(&left)));
        }
        Outcome { failure, output: running.output.text(), trail, duration }
    }

    /// Waits until the case's process ends, and collects its output. Kills it at its deadline.
    fn watch(&self, running: &mut Running, deadline: Duration) -> Ending {
        loop {
            let left = running.end.saturating_duration_since(Instant::now());
            let gone = self.wait_for_news(running, left);
            match wait::waitpid(running.pid, libc::WNOHANG | libc::__WALL) {
                Ok(Some((_, status))) => return Ending::Died(status),
                Err(Errno::ECHILD) => return Ending::Vanished,
                _ => {}
            }
            if gone {
                kill_and_reap(running.pid);
                return Ending::Abandoned;
            }
            if left.is_zero() {
                let (doing, last) = (hang::describe(running.pid), last_step());
                kill_and_reap(running.pid);
                return Ending::Hung(format!(
                    "did not end within {deadline:.1?} and was killed{last}; {doing}"
                ));
            }
        }
    }

    /// Blocks until a child changes state, a report or output arrives, the time is up, or the program goes
    /// away (then returns true).
    fn wait_for_news(&self, running: &mut Running, left: Duration) -> bool {
        let wake = PollFlags::POLLIN;
        let mut fds = [
            PollFd::new(self.children.as_fd(), wake),
            PollFd::new(self.program.as_fd(), PollFlags::empty()),
            PollFd::new(self.pipes.output.as_fd(), wake),
            PollFd::new(self.pipes.verdict.as_fd(), wake),
        ];
        // One millisecond more than is left, so that the loop does not spin in the last one.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        // The loop checks again after EINTR and other errors.
        let _ = poll(&mut fds, timeout);
        let is_up =
            |index: usize| fds.get(index).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        let (child, gone, output, report) = (is_up(0), is_up(1), is_up(2), is_up(3));
        if child {
            // If there is another signal, the next poll reports it.
            let _ = self.children.read_signal();
        }
        if output {
            running.output.read_some(&self.pipes.output);
        }
        if report {
            read_some(&self.pipes.verdict, |some| running.report.extend_from_slice(some));
        }
        gone
    }
}

/// Returns the outcome of a case for which no process could be created.
pub(super) fn no_fork(errno: Errno) -> Outcome {
    Outcome::lost(match errno {
        Errno::EAGAIN | Errno::ENOMEM => Failure::blocked(format!(
            "the sandbox cannot fork: {errno:?} (RLIMIT_NPROC, a pids cgroup, pid_max, or no memory)"
        )),
        errno => Failure::from(errno).within("starting the case"),
    })
}

/// Returns the outcome of a case for which no lane could be created, because this step failed.
fn no_lane(step: &str, errno: Errno) -> Outcome {
    Outcome::lost(match errno {
        Errno::EMFILE | Errno::ENFILE => Failure::blocked(format!(
            "the sandbox cannot open a descriptor: {step}: {errno:?} (RLIMIT_NOFILE)"
        )),
        Errno::EAGAIN | Errno::ENOMEM => Failure::blocked(format!(
            "the sandbox has no memory: {step}: {errno:?} (RLIMIT_AS, RLIMIT_MEMLOCK)"
        )),
        errno => Failure::from(errno).within(format_args!("making a lane: {step}")),
    })
}

/// Makes the standard input, which every case inherits, a file that is at its end from the beginning.
fn read_nothing() -> rustix::io::Result<()> {
    use rustix::fs::{Mode, OFlags, open};
    // Without /dev, an empty pipe gives the same end of file.
    let nothing = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .or_else(|_| Ok::<_, rustix::io::Errno>(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?.0))?;
    rustix::stdio::dup2_stdin(&nothing)
}

/// Kills and reaps a process, and returns its wait status. If SIGKILL does not end it, it is left to the census.
pub(super) fn kill_and_reap(pid: i32) -> Option<Status> {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let start = Instant::now();
    loop {
        match wait::waitpid(pid, libc::WNOHANG | libc::__WALL) {
            Ok(Some((_, status))) => return Some(status),
            Ok(None) if start.elapsed() < census::PATIENCE => std::thread::yield_now(),
            _ => return None,
        }
    }
}

/// Describes the last step of the case that is on the trail.
fn last_step() -> String {
    trail::read().pop().map_or_else(String::new, |step| format!(", after {step}"))
}

/// Returns what the case says that it left behind, and what else was found after it.
fn all_left(
    report: &mut Result<Option<Report>, String>,
    found: impl Iterator<Item = Leftover>,
) -> Vec<Leftover> {
    let mut left = match report {
        Ok(Some(report)) => std::mem::take(&mut report.left),
        _ => Vec::new(),
    };
    let known: Vec<i32> = left.iter().map(|leftover| leftover.pid).collect();
    left.extend(found.filter(|leftover| leftover.pid == 0 || !known.contains(&leftover.pid)));
    left
}

/// Decides from how the case ended, what it reported and what it left behind whether it passed, and if not,
/// what is to blame.
fn judge(ending: Ending, report: Result<Option<Report>, String>, left: &[Leftover]) -> Option<Failure> {
    let status = match ending {
        Ending::Hung(message) => return Some(Failure::fail(message)),
        Ending::Vanished => {
            return Some(Failure::fail(
                "the kernel reaped the process of the case itself, which was made without CLONE_AUTOREAP: its parent \
                 cannot wait for it",
            ));
        }
        Ending::Abandoned => return Some(Failure::broken("the program that asked for the case went away")),
        Ending::Died(status) => status,
    };
    let report = match report {
        Ok(Some(report)) => report,
        Ok(None) => return Some(silent(status)),
        Err(message) => return Some(Failure::broken(message)),
    };
    match report.failure {
        None if left.is_empty() => None,
        None => {
            let what = format!("the case passed but left behind: {}", census::names(left));
            // The case should have removed what it created, unless a process is in it.
            let is_own = left.iter().all(Leftover::is_of_the_case);
            Some(if is_own { Failure::broken(what) } else { Failure::fail(what) })
        }
        failure => failure,
    }
}

/// Judges a case that ended without a report. SIGKILL is blamed on the kernel, because a broken auto-kill
/// kills the wrong process. Any other death is the suite's own mistake.
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

/// Reads from a pipe once, and returns whether there may be more.
fn read_some(mut pipe: &File, take: impl FnOnce(&[u8])) -> bool {
    // Small, because after a fork each page that the lane writes to causes a page fault.
    let mut buffer = [0; 1024];
    let count = pipe.read(&mut buffer).unwrap_or_default();
    take(&buffer[..count]);
    count == buffer.len()
}

/// A case's output: the beginning is kept, the rest is only counted.
#[derive(Default)]
struct Collected {
    kept: Vec<u8>,
    total: usize,
}

impl Collected {
    /// Reads once, and returns whether there may be more.
    fn read_some(&mut self, source: &File) -> bool {
        read_some(source, |some| {
            self.total += some.len();
            let room = OUTPUT_KEPT - self.kept.len();
            self.kept.extend_from_slice(&some[..some.len().min(room)]);
        })
    }

    fn drain(&mut self, source: &File) {
        while self.read_some(source) {}
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        if self.total > self.kept.len() {
            text.push_str(&format!("\n[{} more bytes of output]", self.total - self.kept.len()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::Resource;

    use super::*;
    use crate::check::Kind;
    use crate::kit::{limits, process};

    #[test]
    fn a_lane_that_cannot_be_says_why_and_that_it_is_gone() {
        let refused = || {
            let (program, lane) = UnixStream::pair().unwrap();
            let request = Request { case: NOTHING.to_owned(), deadline: Duration::from_secs(1) };
            wire::send(&program, &request).unwrap();
            limits::lowered(Resource::Nofile, 0, || serve(lane)).unwrap();
            let answer: Answer = wire::receive(&program).unwrap().unwrap();
            let failure = answer.outcome.failure.unwrap();
            answer.is_last && failure.kind == Kind::Blocked && failure.message.contains("signalfd(2): EMFILE")
        };
        assert!(process::answers(refused));
    }
}
