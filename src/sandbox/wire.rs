//! The protocol between the program and its lanes: one JSON message per line.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::check::Failure;

/// A request to run a test case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The name of the case.
    pub case: String,
    /// How long the case may take before it is killed.
    pub deadline: Duration,
}

/// The outcome of a test case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Why the case did not pass; `None` if it passed.
    pub failure: Option<Failure>,
    /// What the case wrote to stdout and stderr, truncated after 64 KiB.
    pub output: String,
    /// The calls that led to the outcome; empty if the case passed.
    pub trail: Vec<String>,
    /// The wall time of the case.
    pub duration: Duration,
}

impl Outcome {
    /// Creates the outcome of a case of which only this failure is known.
    pub(super) fn lost(failure: Failure) -> Outcome {
        Outcome { failure: Some(failure), output: String::new(), trail: Vec::new(), duration: Duration::ZERO }
    }
}

/// The answer to a request.
#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// Whether the sender will answer no further request. It closes the socket only shortly after this
    /// message.
    pub(super) is_last: bool,
}

/// The usual maximum length of a message, in bytes. After a fork, each page that a lane writes to causes a
/// page fault.
const MESSAGE: usize = 512;

/// Sends one message.
pub(super) fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Receives one message, or `None` at the end of the stream. The other side sends nothing unrequested, so a
/// reader created for one message cannot consume the next.
pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<Option<T>> {
    let mut line = String::new();
    if BufReader::with_capacity(MESSAGE, stream).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}
