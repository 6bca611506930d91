//! What the program and its lanes say to each other: JSON, a line a message.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::check::Failure;

/// "Run this case."
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Its name.
    pub case: String,
    /// How long it may take before it is killed.
    pub deadline: Duration,
}

/// How a case went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Why it did not pass; `None` when it did.
    pub failure: Option<Failure>,
    /// What it wrote to stdout and stderr, cut after 64 KiB.
    pub output: String,
    /// The calls that led to the outcome; empty when it passed.
    pub trail: Vec<String>,
    /// Its wall time.
    pub duration: Duration,
}

impl Outcome {
    /// The outcome of a case of which nothing is known but this failure.
    pub(super) fn lost(failure: Failure) -> Outcome {
        Outcome { failure: Some(failure), output: String::new(), trail: Vec::new(), duration: Duration::ZERO }
    }
}

/// What comes of a request.
#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// Whether nobody is left at that end to be asked again: it hangs up only a moment after this.
    pub(super) is_last: bool,
}

/// How long most messages are at most, in bytes. After a fork, each page that a lane writes to is a page fault.
const MESSAGE: usize = 512;

/// Sends one message.
pub(super) fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Receives one message; `None` at the end of the stream. The other side sends nothing unasked, so a reader
/// made for one message cannot swallow the next.
pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<Option<T>> {
    let mut line = String::new();
    if BufReader::with_capacity(MESSAGE, stream).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}
