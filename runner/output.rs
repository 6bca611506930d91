//! Handling of errors on standard output, such as a full disk or a closed pipe.

use std::io::{self, Write, stderr, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex};
use std::thread;

/// Runs code that prints, and returns its result, or `None` if writing to stdout failed, which it reports on stderr in one line.
/// A verdict that could not be printed does not count, so the caller must not exit successfully.
pub fn guarded<T>(prints: impl FnOnce() -> T) -> Option<T> {
    attempt(prints).map_err(|error| report(&error)).ok()
}

/// Like [`guarded`], for text that is not a verdict: a reader that stops early, such as `head`, is not an error.
pub fn listed(prints: impl FnOnce()) -> Option<()> {
    match attempt(prints) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            report(&error);
            None
        }
        _ => Some(()),
    }
}

/// Prints a text that is not a verdict. A reader that stops early, such as `head`, is not an error.
///
/// # Errors
/// Returns the error of stdout, as text.
pub fn print(text: &str) -> Result<(), String> {
    match stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(lost(&error)),
        _ => Ok(()),
    }
}

/// Runs code that prints. The print macros panic in this thread if they cannot; other threads report their own panics.
fn attempt<T>(prints: impl FnOnce() -> T) -> io::Result<T> {
    let usual = Arc::new(take_hook());
    let panicked = Arc::new(Mutex::new(String::new()));
    let printer = thread::current().id();
    let (other, message) = (Arc::clone(&usual), Arc::clone(&panicked));
    set_hook(Box::new(move |panic| match message.lock() {
        Ok(mut message) if thread::current().id() == printer => *message = panic.to_string(),
        _ => other(panic),
    }));
    let outcome = catch_unwind(AssertUnwindSafe(prints));
    let _ = take_hook();
    set_hook(Box::new(move |panic| usual(panic)));
    match outcome {
        Ok(value) => stdout().flush().map(|()| value),
        Err(_) => Err(why(&panicked.lock().map(|text| text.clone()).unwrap_or_default())),
    }
}

/// Distinguishes a failed write to stdout, which may have no text left to try again with, from a bug of our own.
fn why(panic: &str) -> io::Error {
    match rustix::io::write(rustix::stdio::stdout(), b"\n") {
        Err(errno) => errno.into(),
        Ok(_) => io::Error::other(Panicked(panic.to_owned())),
    }
}

/// A bug of our own, with what the panic said.
#[derive(Debug)]
struct Panicked(String);

impl std::fmt::Display for Panicked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the run panicked: {}", self.0)
    }
}

impl std::error::Error for Panicked {}

/// Prints the error to stderr. If that fails too, only the exit status reports it.
fn report(error: &io::Error) {
    let _ = match error.get_ref().is_some_and(|inner| inner.is::<Panicked>()) {
        true => writeln!(stderr(), "error: {error}"),
        false => writeln!(stderr(), "error: {}", lost(error)),
    };
}

fn lost(error: &io::Error) -> String {
    format!("cannot write to stdout: {error}")
}
