//! A lane, which runs one test case at a time, watches it, and cleans up after it.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::pipe::PipeFlags;
use rustix::process::{getpid, set_child_subreaper};

use super::census;
use super::ending::{Ending, all_left, judge};
use super::entry::{self, Report};
use super::hang;
use super::leftovers;
use super::pipes::{Collected, Pipes, read_some};
use super::resources::Before;
use super::system_lock::SystemLock;
use super::wire::{self, Answer, Outcome, Request};
use crate::case::{self, Case, Strength};
use crate::check::{Failure, errno_of};
use crate::clone3::exit_now;
use crate::kit::sysctl;
use crate::need::Setting;
use crate::parent::end_with;
use crate::trail;
use crate::wait::{self, Status};

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

/// Serves the program until it closes its end of the socket, or the lane's parent ends.
pub(super) fn serve(program: UnixStream, parent: rustix::process::Pid) {
    let (children, pipes) = match prepare(parent) {
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
fn prepare(parent: rustix::process::Pid) -> Result<(SignalFd, Pipes), Outcome> {
    let children = watch_children().map_err(|errno| no_lane("signalfd(2)", errno))?;
    let in_words = |step: &'static str| move |errno| no_lane(step, errno_of(errno));
    trail::open().map_err(in_words("mmap(2) of the page for the trail"))?;
    settle_in(parent).map_err(in_words("prctl(2) (PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG)"))?;
    read_nothing().and_then(|()| Pipes::new()).map_err(in_words("pipe(2)")).map(|pipes| (children, pipes))
}

/// Makes the lane the subreaper of everything that cases leave behind, and ends it with its parent.
fn settle_in(parent: rustix::process::Pid) -> rustix::io::Result<()> {
    entry::look_up_the_clock();
    entry::keep_panics();
    leftovers::prepare();
    set_child_subreaper(Some(getpid()))?;
    end_with(parent, rustix::process::Signal::KILL)
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

/// A running test case.
struct Running {
    pid: i32,
    /// The report received so far. It is read as it arrives, because the capacity of a pipe is not known.
    report: Vec<u8>,
    output: Collected,
    end: Instant,
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
        let lane = getpid();
        // SAFETY: a lane has one thread.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                Ok(Running { pid: child.as_raw(), report: Vec::new(), output: Collected::default(), end })
            }
            ForkResult::Child => {
                self.let_go(lane);
                entry::run(case, deadline, &self.pipes.verdict_in)
            }
        }
    }

    /// Closes everything of the lane in the case's process.
    fn let_go(&self, lane: rustix::process::Pid) {
        if end_with(lane, rustix::process::Signal::KILL) == Err(rustix::io::Errno::SRCH) {
            exit_now(1);
        }
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

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getppid};

    use super::*;
    use crate::check::Kind;
    use crate::kit::{limits, process};

    #[test]
    fn a_lane_that_cannot_be_says_why_and_that_it_is_gone() {
        let refused = || {
            let (program, lane) = UnixStream::pair().unwrap();
            let request = Request { case: NOTHING.to_owned(), deadline: Duration::from_secs(1) };
            wire::send(&program, &request).unwrap();
            let parent = getppid().unwrap();
            limits::lowered(Resource::Nofile, 0, || serve(lane, parent)).unwrap();
            let answer: Answer = wire::receive(&program).unwrap().unwrap();
            let failure = answer.outcome.failure.unwrap();
            answer.is_last && failure.kind == Kind::Blocked && failure.message.contains("signalfd(2): EMFILE")
        };
        assert!(process::answers(refused));
    }
}
