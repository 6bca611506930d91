//! Values from a child to its parent, over a pipe.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::check::{Failure, Result};
use crate::clone3::Child;
use crate::kit::process::own_pid;
use crate::kit::silence;
use crate::sandbox;

/// A pipe made before a child, through which the child says something to its parent.
///
/// The first [`recv`](Channel::recv) closes the receiver's copy of the sending end, so that the death of all
/// senders is seen as the end of the stream.
#[derive(Debug)]
pub struct Channel<T> {
    from: OwnedFd,
    /// What was read behind the last value: a pipe gives what there is, not what was written at once.
    ahead: Mutex<Vec<u8>>,
    to: Mutex<Option<OwnedFd>>,
    value: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> Channel<T> {
    /// A new one. Make it before the child.
    pub fn new() -> Result<Channel<T>> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Channel::of(from, to))
    }

    /// The sending end, for a helper that inherits it and [adopts](Channel::adopt) it.
    pub fn sending_end(&self) -> Result<RawFd> {
        let to = self.sender();
        let to = to.as_ref().ok_or_else(|| Failure::broken("the sending end of a channel is closed"))?;
        Ok(to.as_raw_fd())
    }

    /// In a helper: the channel of which this is the sending end. It can only send.
    pub fn adopt(to: OwnedFd) -> Result<Channel<T>> {
        let (from, _) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Channel::of(from, to))
    }

    /// The channel of which this is the receiving end, and whose senders are somewhere else.
    pub fn receiving(from: OwnedFd) -> Channel<T> {
        Channel { from, ahead: Mutex::default(), to: Mutex::new(None), value: PhantomData }
    }

    fn of(from: OwnedFd, to: OwnedFd) -> Channel<T> {
        Channel { to: Mutex::new(Some(to)), ..Channel::receiving(from) }
    }

    fn sender(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.to.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Sends a value: one write of one line.
    pub fn send(&self, value: &T) -> Result {
        let mut line = serde_json::to_vec(value).map_err(|error| Failure::broken(error.to_string()))?;
        line.push(b'\n');
        let to = self.sender();
        let to = to.as_ref().ok_or_else(|| Failure::broken("sending after receiving on a channel"))?;
        write_all(to, &line)
    }

    /// Blocks until the next value from this child of the caller's. Should that end before, the error says how.
    #[track_caller]
    pub fn recv_from(&self, child: &Child) -> Result<T> {
        match self.try_recv()? {
            Some(value) => Ok(value),
            None => Err(silence::explained(child, ended_without_report())),
        }
    }

    /// Blocks until the next value; an error if all senders are gone, of whom the caller is not the parent.
    #[track_caller]
    pub fn recv(&self) -> Result<T> {
        match self.try_recv()? {
            Some(value) => Ok(value),
            None => Err(ended_without_report()),
        }
    }

    /// Blocks until the next value; `None` if all senders are gone.
    #[track_caller]
    pub fn try_recv(&self) -> Result<Option<T>> {
        self.sender().take();
        let mut ahead = self.ahead.lock().unwrap_or_else(|poison| poison.into_inner());
        let end = loop {
            if let Some(end) = ahead.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            let mut piece = [0; 1024];
            match read_some(&self.from, &mut piece)? {
                0 if ahead.is_empty() => return Ok(None),
                0 => return Err(Failure::broken("the child ended in the middle of its report")),
                length => ahead.extend_from_slice(&piece[..length]),
            }
        };
        let line: Vec<u8> = ahead.drain(..=end).collect();
        let value = serde_json::from_slice(&line).map_err(|error| Failure::broken(error.to_string()))?;
        Ok(Some(value))
    }
}

#[track_caller]
fn ended_without_report() -> Failure {
    Failure::broken("the child ended without the report that it was to send")
}

/// Writes all of it.
pub(super) fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> Result {
    while !bytes.is_empty() {
        bytes = &bytes[rustix::io::write(to, bytes)?..];
    }
    Ok(())
}

/// Blocks until there is a byte, within the patience of the case; `None` at the end of the stream.
#[track_caller]
pub fn read_byte(from: &impl AsFd) -> Result<Option<u8>> {
    let mut byte = [0];
    Ok((read_some(from, &mut byte)? > 0).then_some(byte[0]))
}

/// Blocks until there is something to read, within the patience of the case; 0 at the end of the stream.
#[track_caller]
fn read_some(from: &impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    loop {
        let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, sandbox::time_left()) {
            Ok(0) => {
                let waited = sandbox::patience();
                let doing = sandbox::whereabouts(own_pid());
                return Err(Failure::fail(format!(
                    "nothing came through a pipe within {waited:.1?}; {doing}"
                )));
            }
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        match rustix::io::read(from, &mut *buffer) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}
