//! Programs to exec: this program itself, under another name.
//!
//! Cases that need a child which execs hand it one of these. The program is reached through a descriptor that
//! was opened at the start, so that neither a missing `/proc` nor a changed root matters.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use crate::check::{Failure, Result};
use crate::clone3::exit_now;
use crate::note;

/// What a helper program is called by: `argv[0]`.
const NAME: &str = "clone3-helper";

/// A helper program: gets its arguments, gives its exit status.
pub struct Helper {
    /// How it is asked for.
    pub name: &'static str,
    /// What it does.
    pub main: fn(&[String]) -> i32,
}

inventory::collect!(Helper);

static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();

/// To be called first in `main`: if this process was started as a helper, runs it and does not return.
pub fn run_if_asked() {
    if let Ok(file) = File::open("/proc/self/exe") {
        let _ = PROGRAM.set(file.into());
    }
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    if arguments.next().as_deref() != Some(NAME) {
        return;
    }
    let name = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let helper = inventory::iter::<Helper>.into_iter().find(|helper| helper.name == name);
    exit_now(helper.map_or(127, |helper| (helper.main)(&rest)))
}

/// This program as an open file.
pub fn program() -> Result<BorrowedFd<'static>> {
    PROGRAM
        .get()
        .map(AsFd::as_fd)
        .ok_or_else(|| Failure::blocked("needs /proc/self/exe to exec this program as a helper"))
}

/// A command line, made before the clone so that nothing allocates after it.
#[derive(Debug)]
pub struct Command {
    arguments: Vec<CString>,
}

impl Command {
    /// The helper `name` with these arguments.
    pub fn new(name: &str, arguments: &[&str]) -> Result<Command> {
        let words = [NAME, name].into_iter().chain(arguments.iter().copied());
        let arguments: std::result::Result<_, _> = words.map(CString::new).collect();
        let arguments = arguments.map_err(|_| Failure::broken("a helper's argument holds a NUL"))?;
        Ok(Command { arguments })
    }

    /// Execs it from this program's own file. Returns only if that fails.
    pub fn exec(&self) -> Failure {
        match program() {
            Ok(program) => self.exec_file(program),
            Err(failure) => failure,
        }
    }

    /// Execs it from this file. Returns only if that fails.
    pub fn exec_file(&self, file: BorrowedFd<'_>) -> Failure {
        note!("execveat({:?})", self.arguments);
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
