//! Helper programs to exec: this program itself, under another name.
//!
//! Cases that need a child which execs give it one of these. The program is reached through a descriptor that was opened at
//! the start, so neither a missing `/proc` nor a changed root matters.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use linkme::distributed_slice;

use crate::check::{Failure, Result};
use crate::clone3::exit_now;
use crate::kit::fds;
use crate::kit::stand_in::unmappable;
use crate::note;

/// The name under which a helper program is called: `argv[0]`, or its last path component.
pub const NAME: &str = "clone3-helper";

/// A helper program, which takes its arguments and returns its exit status.
pub struct Helper {
    /// The name that selects it.
    pub name: &'static str,
    /// The function that it runs.
    pub main: fn(&[String]) -> i32,
}

/// Every helper of this program, in no particular order.
#[distributed_slice]
pub static HELPERS: [Helper];

static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();

/// Runs the helper and does not return if this process was started as a helper. Call this first in `main`.
pub fn run_if_asked() {
    if let Ok(file) = File::open("/proc/self/exe") {
        let _ = PROGRAM.set(file.into());
    }
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    if arguments.next().unwrap_or_default().rsplit('/').next() != Some(NAME) {
        return;
    }
    let name = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    exit_now(run(&name, &rest))
}

/// Runs the helper `name` in this process; returns 127 if there is none.
pub(crate) fn run(name: &str, arguments: &[String]) -> i32 {
    let helper = HELPERS.iter().find(|helper| helper.name == name);
    helper.map_or(127, |helper| (helper.main)(arguments))
}

/// Returns this program as an open file.
pub fn program() -> Result<BorrowedFd<'static>> {
    PROGRAM
        .get()
        .map(AsFd::as_fd)
        .ok_or_else(|| Failure::blocked("needs /proc/self/exe to exec this program as a helper"))
}

/// Returns a file in memory that is executed up to the point where the old program is gone, and no further.
///
/// # Errors
/// `blocked` if no such file can be executed.
pub fn program_that_cannot_start() -> Result<OwnedFd> {
    let mut beginning = [0; 4096];
    let length = rustix::io::pread(program()?, &mut beginning, 0)?;
    let file = unmappable(&beginning[..length]);
    fds::executable_text(&file.ok_or_else(|| Failure::broken("this program is no ELF program"))?)
}

/// A command line, built before the clone so that nothing allocates after it.
#[derive(Debug)]
pub struct Command {
    arguments: Vec<CString>,
    kept: Vec<RawFd>,
}

impl Command {
    /// Makes a command line for the helper `name` with these arguments.
    ///
    /// # Errors
    /// `blocked` if this program cannot be execed.
    pub fn new(name: &str, arguments: &[&str]) -> Result<Command> {
        program()?;
        let empty = Command { arguments: Vec::new(), kept: Vec::new() };
        let words = [NAME, name].into_iter().chain(arguments.iter().copied());
        words.into_iter().try_fold(empty, Command::word)
    }

    /// Appends this word as an argument.
    pub fn word(mut self, word: &str) -> Result<Command> {
        self.arguments
            .push(CString::new(word).map_err(|_| Failure::broken("a helper's argument holds a NUL"))?);
        Ok(self)
    }

    /// Appends this number as an argument.
    pub fn number(mut self, number: i32) -> Command {
        // Digits contain no NUL.
        self.arguments.extend(CString::new(number.to_string()));
        self
    }

    /// Keeps this descriptor open across the exec and appends its number as an argument.
    pub fn with_fd(mut self, fd: &impl AsRawFd) -> Command {
        self.kept.push(fd.as_raw_fd());
        self.number(fd.as_raw_fd())
    }

    /// Execs the helper from this program's own file. Returns only if that fails.
    pub fn exec(&self) -> Failure {
        match program() {
            Ok(program) => self.exec_file(program),
            Err(failure) => failure,
        }
    }

    /// Execs the helper from this file. Returns only if that fails.
    pub fn exec_file(&self, file: BorrowedFd<'_>) -> Failure {
        note!("execveat({:?})", self.arguments);
        for fd in &self.kept {
            // SAFETY: F_SETFD takes no pointer; the caller of `with_fd` allows the descriptor to stay open.
            unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) };
        }
        let environment: [&CStr; 0] = [];
        let refused = nix::unistd::execveat(
            file,
            c"",
            &self.arguments,
            &environment,
            nix::fcntl::AtFlags::AT_EMPTY_PATH,
        );
        Failure::broken(format!("execveat: {refused:?}"))
    }
}
