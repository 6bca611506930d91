//! Following a guest from power-on to its end.
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use clone3_conformance::guest::{SUITE_ENDED, SUITE_STARTS};
use rustix::event::{PollFd, PollFlags};

use crate::accel::is_kvm_failure;
use crate::channel::Channel;
use crate::console::{Line, plain};
use crate::interrupt::Interrupts;
use crate::journal::Journal;
use crate::process::{Process, wait_until};

/// How long to let the suite's output accumulate before it is read. The kernel's output is rare, and read at once.
///
/// Serial lines deliver one byte at a time: waking up for each would take much CPU time from the emulator.
const GATHER: Duration = Duration::from_millis(5);

/// The minimum time between two updates of the listener's documents: each update rewrites them, which also takes CPU time.
const KEEP: Duration = Duration::from_millis(500);

/// The output channels of a guest.
pub struct Channels {
    /// The kernel's console.
    pub console: Channel,
    /// The runner's output for the user.
    pub output: Channel,
    /// The runner's journal for the driver.
    pub journal: Channel,
    /// QEMU's own messages, if they do not go to the console.
    pub complaint: Channel,
}

impl Channels {
    /// Creates the pipes in this folder.
    pub fn create(folder: &Path) -> Result<Self> {
        let channel = |name| Channel::create(folder, name);
        Ok(Self {
            console: channel("console")?,
            output: channel("output")?,
            journal: channel("journal")?,
            complaint: channel("complaint")?,
        })
    }
}

/// The receiver of a guest's output.
pub trait Listener {
    /// Receives the runner's output for the user.
    fn hear(&mut self, output: &[u8]) -> Result<()>;
    /// Receives the whole journal so far when it has grown, at most every half second.
    fn keep(&mut self, journal: &[String]);
}

/// The timeouts of a guest.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From power-on to the suite's first line.
    pub boot: Duration,
    /// From power-on to the suite's end.
    pub whole: Duration,
}

/// Why following a guest ended.
pub enum Ending {
    /// The guest announced the end of its output.
    Finished,
    /// The virtual machine ended before that.
    Died(ExitStatus),
    /// The guest exceeded this time limit.
    TooLate(Duration),
    /// KVM stopped the guest: what QEMU said.
    Stopped(String),
    /// The driver itself could not go on: a signal asked it to stop, or its output cannot be written.
    Failed(Error),
}

/// What was observed of a guest.
pub struct Session {
    pub ending: Ending,
    pub console: Vec<Line>,
    /// The index of the console line at which the suite starts.
    pub suite_at: Option<usize>,
    pub journal: Journal,
    /// What QEMU itself said, if that did not go to the console.
    pub complaint: Vec<String>,
    /// From power-on to the suite's first line.
    pub boot: Option<Duration>,
    /// From power-on to the guest's end.
    pub whole: Duration,
}

impl Session {
    /// Returns whether KVM stopped the guest.
    pub fn is_stopped(&self) -> bool {
        matches!(self.ending, Ending::Stopped(_))
    }
}

/// Follows the guest in `machine`, and passes on its output. Whatever ends that, what was observed until then is returned.
pub fn watch(
    machine: &mut Process,
    channels: Channels,
    limits: Limits,
    interrupts: &Interrupts,
    listener: &mut dyn Listener,
) -> Result<Session> {
    let mut watch = Watch::new(channels);
    let followed = watch.follow(machine, limits, interrupts, listener);
    watch.keep(listener);
    machine.end()?;
    let taken = watch.take(listener);
    watch.keep(listener);
    if let Some(line) = watch.channels.console.rest() {
        watch.take_console(&line);
    }
    let ending = followed.and_then(|ending| taken.map(|()| ending)).unwrap_or_else(Ending::Failed);
    Ok(Session { ending, whole: watch.power_on.elapsed(), ..watch.session })
}

struct Watch {
    channels: Channels,
    power_on: Instant,
    session: Session,
    /// Whether the kernel's log has reached the suite's end.
    ended: bool,
    /// QEMU's message that KVM stopped the guest.
    stopped: Option<String>,
    /// The cases that were running when any last were.
    lately: Vec<String>,
    /// How many lines of the journal the listener has received, and when.
    kept: (usize, Option<Instant>),
}

impl Watch {
    fn new(channels: Channels) -> Self {
        let session = Session {
            ending: Ending::Finished,
            console: Vec::new(),
            suite_at: None,
            journal: Journal::default(),
            complaint: Vec::new(),
            boot: None,
            whole: Duration::ZERO,
        };
        Self {
            channels,
            power_on: Instant::now(),
            session,
            ended: false,
            stopped: None,
            lately: Vec::new(),
            kept: (0, None),
        }
    }

    fn follow(
        &mut self,
        machine: &mut Process,
        limits: Limits,
        interrupts: &Interrupts,
        listener: &mut dyn Listener,
    ) -> Result<Ending> {
        loop {
            let limit = match self.session.journal.begun {
                true => limits.whole,
                false => limits.boot.min(limits.whole),
            };
            self.wait(machine, self.power_on + limit, interrupts)?;
            interrupts.check()?;
            // Checked before the channels are read: if the machine has ended, they already contain all of its output.
            let died = machine.try_wait()?;
            self.take(listener)?;
            match (died, self.stopped.take()) {
                _ if self.ended && self.session.journal.exit.is_some() => return Ok(Ending::Finished),
                (Some(status), _) => return Ok(Ending::Died(status)),
                (None, Some(said)) => return Ok(Ending::Stopped(said)),
                (None, None) if self.power_on.elapsed() >= limit => return Ok(Ending::TooLate(limit)),
                (None, None) => {}
            }
        }
    }

    /// Waits for the next event, and a little longer if it is only output of the suite.
    fn wait(&self, machine: &Process, deadline: Instant, interrupts: &Interrupts) -> Result<()> {
        let Channels { console, output, journal, complaint } = &self.channels;
        let deadline = self.to_be_kept().map_or(deadline, |due| deadline.min(due));
        let mut rare = [
            PollFd::new(machine, PollFlags::IN),
            PollFd::new(interrupts, PollFlags::IN),
            PollFd::new(console, PollFlags::IN),
            PollFd::new(complaint, PollFlags::IN),
        ];
        wait_until(&mut rare, Some(deadline.min(Instant::now() + GATHER)))?;
        let mut waiting = [
            PollFd::new(machine, PollFlags::IN),
            PollFd::new(interrupts, PollFlags::IN),
            PollFd::new(console, PollFlags::IN),
            PollFd::new(complaint, PollFlags::IN),
            PollFd::new(output, PollFlags::IN),
            PollFd::new(journal, PollFlags::IN),
        ];
        wait_until(&mut waiting, Some(deadline))
    }

    /// Reads all channels. The console is read before the journal, so that its lines are never attributed to a case that started
    /// after them. They are attributed after the journal is read, to the cases that were running when any last were: a case may
    /// end between the two reads. All of them are read even if the output cannot be passed on.
    fn take(&mut self, listener: &mut dyn Listener) -> Result<()> {
        let said = self.channels.console.lines()?;
        let output = self.channels.output.read()?;
        let heard = if output.is_empty() { Ok(()) } else { listener.hear(&output) };
        let lines = self.channels.journal.lines()?;
        lines.iter().for_each(|line| self.take_journal(line));
        said.iter().for_each(|line| self.take_console(line));
        for line in self.channels.complaint.lines()? {
            self.take_complaint(&line);
        }
        if self.to_be_kept().is_some_and(|due| due <= Instant::now()) {
            self.keep(listener);
        }
        heard
    }

    /// Returns when the listener should receive the journal, if it has grown.
    fn to_be_kept(&self) -> Option<Instant> {
        let (lines, last) = self.kept;
        let due = last.map_or(self.power_on, |last| last + KEEP);
        (self.session.journal.lines.len() > lines).then_some(due)
    }

    /// Passes the journal to the listener, if it has grown.
    fn keep(&mut self, listener: &mut dyn Listener) {
        let lines = &self.session.journal.lines;
        if lines.len() > self.kept.0 {
            listener.keep(lines);
            self.kept = (lines.len(), Some(Instant::now()));
        }
    }

    fn take_console(&mut self, line: &[u8]) {
        let text = plain(line);
        self.ended |= text.contains(SUITE_ENDED);
        let starts = text.contains(SUITE_STARTS);
        self.look_for_kvm_failure(&text);
        self.session.console.push(Line { text, running: self.lately.clone() });
        if starts {
            self.session.suite_at = Some(self.session.console.len());
        }
    }

    fn take_complaint(&mut self, line: &[u8]) {
        let text = plain(line);
        self.look_for_kvm_failure(&text);
        self.session.complaint.push(text);
    }

    fn look_for_kvm_failure(&mut self, text: &str) {
        if is_kvm_failure(text) {
            self.stopped.get_or_insert_with(|| text.trim().to_owned());
        }
    }

    fn take_journal(&mut self, line: &[u8]) {
        self.session.journal.push(String::from_utf8_lossy(line).into_owned());
        if !self.session.journal.running.is_empty() {
            self.lately.clone_from(&self.session.journal.running);
        }
        if self.session.journal.begun && self.session.boot.is_none() {
            self.session.boot = Some(self.power_on.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::TempDir;

    use super::*;

    /// The length of the journal each time that it was received.
    #[derive(Default)]
    struct Reader(Vec<usize>);

    impl Listener for Reader {
        fn hear(&mut self, _output: &[u8]) -> Result<()> {
            Ok(())
        }

        fn keep(&mut self, journal: &[String]) {
            self.0.push(journal.len());
        }
    }

    fn watch(folder: &TempDir) -> Watch {
        Watch::new(Channels::create(folder.path()).unwrap())
    }

    fn tell(channel: &Channel, text: &str) {
        let mut pipe = std::fs::OpenOptions::new().write(true).open(&channel.path).unwrap();
        writeln!(pipe, "{text}").unwrap();
    }

    #[test]
    fn the_journal_is_kept_now_and_then_and_at_last() {
        let folder = TempDir::new().unwrap();
        let (mut watch, mut reader) = (watch(&folder), Reader::default());
        for case in 0..9 {
            tell(&watch.channels.journal, &format!(r#"{{"event":"start","case":"{case}"}}"#));
            watch.take(&mut reader).unwrap();
        }
        assert_eq!(reader.0, [1]);
        let due = watch.to_be_kept().unwrap();
        assert!(due > Instant::now() && due <= Instant::now() + KEEP);
        watch.keep(&mut reader);
        watch.keep(&mut reader);
        assert_eq!((reader.0, watch.to_be_kept()), (vec![1, 9], None));
    }

    #[test]
    fn what_is_heard_after_its_case_has_ended_is_still_about_it() {
        let folder = TempDir::new().unwrap();
        let (mut watch, mut reader) = (watch(&folder), Reader::default());
        tell(&watch.channels.journal, r#"{"event":"start","case":"a"}"#);
        tell(&watch.channels.journal, r#"{"event":"end","case":"a"}"#);
        watch.take(&mut reader).unwrap();
        tell(&watch.channels.console, "[    1.2] WARNING: CPU: 0 PID: 1 at kernel/exit.c:1 do_exit+0x1/0x2");
        watch.take(&mut reader).unwrap();
        assert_eq!(watch.session.console[0].running, ["a"]);
    }
}
