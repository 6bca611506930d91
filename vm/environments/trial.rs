//! The execution of one row: creates the environment, runs the suite in it, and checks for leftovers.
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clone3_conformance::results::Results;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, memfd_create, mknodat};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::outside::Arrangement;
use crate::row::{Meanwhile, Program, Row};
use crate::snapshot::{Bystanders, Snapshot};
use crate::{Result, THIS, table};

/// The pipe for the suite's journal, which is writable even on a read-only file system.
const JOURNAL: &str = "/suite/journal";

/// The timeout of the suite: many times what it takes in the slowest environment.
const DEADLINE: Duration = Duration::from_secs(600);

/// How long the cleanup after an interrupted suite may take.
const CLEARING_UP: Duration = Duration::from_secs(20);

/// The result of a row.
pub struct Outcome {
    /// The suite's exit status; `None` if it hung.
    pub status: Option<i32>,
    /// Its output on stdout and stderr.
    pub output: String,
    pub results: Option<Results>,
    /// What it left behind or changed.
    pub left: Vec<String>,
    pub seconds: f64,
}

pub fn carry_out(row: &Row, quick: bool, bystanders: &Bystanders) -> Result<Outcome> {
    let mut journal = Journal::open()?;
    let before = Snapshot::take()?;
    let mut arrangement = Arrangement::make(&row.outside)?;
    let start = Instant::now();
    let output = File::from(memfd_create("output", MemfdFlags::CLOEXEC)?);
    let suite = start_suite(row, quick, &output)?;
    let status = journal.follow(suite, row.meanwhile)?;
    let seconds = start.elapsed().as_secs_f64();
    let mut left = arrangement.undo()?;
    // After a SIGKILL of the suite only its sandbox can clean up, which starts immediately but takes time.
    let deadline = Instant::now() + if row.meanwhile.is_some() { CLEARING_UP } else { Duration::ZERO };
    let differences = loop {
        let mut differences = before.differences(&Snapshot::take()?);
        differences.retain(|difference| {
            let meant = row.meanwhile.is_some_and(|meanwhile| meanwhile.stays_changed(difference));
            !meant && !arrangement.stays_changed(difference)
        });
        if differences.is_empty() || Instant::now() >= deadline {
            break differences;
        }
    };
    left.extend(differences);
    left.extend(bystanders.disturbed());
    let results = Results::from_journal(&String::from_utf8_lossy(&journal.text));
    let status =
        status.map(|status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
    Ok(Outcome { status, output: read_all(output)?, results, left, seconds })
}

fn start_suite(row: &Row, quick: bool, output: &File) -> Result<Child> {
    let mut command = Command::new(THIS);
    command.args(["inside", row.name, "0", "go"]);
    if row.program == Program::Suite {
        command.args(["--events", JOURNAL]);
    }
    command.args(row.arguments);
    if quick && row.program == Program::Suite {
        command.arg(format!("--case={}", table::QUICK.join(",")));
    }
    command.process_group(0);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    Ok(command.spawn()?)
}

fn read_all(mut output: File) -> Result<String> {
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn happen(meanwhile: Meanwhile, suite: &Child) -> Result<()> {
    let suite = nix::unistd::Pid::from_raw(i32::try_from(suite.id())?);
    match meanwhile {
        Meanwhile::Interrupt(signal @ nix::sys::signal::Signal::SIGKILL) => {
            nix::sys::signal::kill(suite, signal)?
        }
        Meanwhile::Interrupt(signal) => nix::sys::signal::killpg(suite, signal)?,
        // The taint bit of a warning.
        Meanwhile::Warning => fs::write("/proc/sys/kernel/tainted", "512")?,
    }
    Ok(())
}

struct Journal {
    pipe: File,
    text: Vec<u8>,
}

impl Journal {
    /// Opens the pipe, and creates it the first time.
    fn open() -> Result<Journal> {
        if !Path::new(JOURNAL).exists() {
            mknodat(CWD, JOURNAL, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            fs::set_permissions(JOURNAL, fs::Permissions::from_mode(0o666))?;
        }
        let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
        let pipe = File::options().read(true).write(true).custom_flags(flags).open(JOURNAL)?;
        Ok(Journal { pipe, text: Vec::new() })
    }

    /// Reads the journal until the suite exits; kills its process group if the deadline passes first.
    fn follow(&mut self, mut suite: Child, mut meanwhile: Option<Meanwhile>) -> Result<Option<ExitStatus>> {
        let pidfd = pidfd_open(Pid::from_child(&suite), PidfdFlags::empty())?;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
            poll(
                &mut [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&self.pipe, PollFlags::IN)],
                Some(&left),
            )?;
            let ended = suite.try_wait()?;
            self.read()?;
            if String::from_utf8_lossy(&self.text).contains(r#""event":"start""#)
                && let Some(meanwhile) = meanwhile.take()
            {
                happen(meanwhile, &suite)?;
            }
            if ended.is_some() {
                return Ok(ended);
            }
            if Instant::now() >= deadline {
                kill_process_group(Pid::from_child(&suite), Signal::KILL)?;
                suite.wait()?;
                return Ok(None);
            }
        }
    }

    fn read(&mut self) -> Result<()> {
        match self.pipe.read_to_end(&mut self.text) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }
}
