//! Standard output that may take nothing: a full disk, a pipe that nobody reads any more.

use std::io::{self, Write, stderr, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::thread;

/// Runs what prints, and gives what it returns; `None` where stdout did not take it, which is told on stderr in one
/// line. A verdict that nobody got to see is none, so the caller must not end as if all were well.
pub fn guarded<T>(prints: impl FnOnce() -> T) -> Option<T> {
    // To those who print, an error is a panic of this thread; it is told below. Other threads tell theirs.
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
    // If stderr takes nothing either, the exit status has to do.
    let _ = writeln!(stderr(), "error: {why}");
    None
}

/// Prints a text that is no verdict. A reader that has seen enough, as `head`, is no error.
///
/// # Errors
/// Those of stdout, in words.
pub fn print(text: &str) -> Result<(), String> {
    match stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}

/// Tells output that is not taken from a mistake of our own.
fn explain(panic: &str) -> String {
    match rustix::io::write(rustix::stdio::stdout(), b"\n") {
        Err(errno) => format!("cannot write to stdout: {errno}"),
        Ok(_) => format!("the run panicked: {panic}"),
    }
}
