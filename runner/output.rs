//! Handling of errors on standard output, such as a full disk or a closed pipe.

use std::io::{self, Write, stderr, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::thread;

/// Runs code that prints, and returns its result, or `None` if writing to stdout failed, which it reports on stderr in one line.
/// A verdict that could not be printed does not count, so the caller must not exit successfully.
pub fn guarded<T>(prints: impl FnOnce() -> T) -> Option<T> {
    // The print macros panic in this thread on an error, which is reported below. Other threads report their own panics.
    let usual = take_hook();
    let printer = thread::current().id();
    set_hook(Box::new(move |panic| {
        if thread::current().id() != printer {
            usual(panic);
        }
    }));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let value = prints();
        stdout().flush().map(|()| value)
    }));
    let _ = take_hook();
    let why = match outcome {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(error)) => format!("cannot write to stdout: {error}"),
        Err(panic) => explain(panic.downcast_ref::<String>().map_or("a panic", String::as_str)),
    };
    // If stderr fails too, only the exit status reports it.
    let _ = writeln!(stderr(), "error: {why}");
    None
}

/// Prints a text that is not a verdict. A reader that stops early, such as `head`, is not an error.
///
/// # Errors
/// Returns the error of stdout, as text.
pub fn print(text: &str) -> Result<(), String> {
    match stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}

/// Distinguishes a failed write to stdout from a bug of our own.
fn explain(panic: &str) -> String {
    match rustix::io::write(rustix::stdio::stdout(), b"\n") {
        Err(errno) => format!("cannot write to stdout: {errno}"),
        Ok(_) => format!("the run panicked: {panic}"),
    }
}
