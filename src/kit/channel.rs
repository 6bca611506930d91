//! A pipe that carries values from a child to its parent.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use nix::poll::{PollFd, PollFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::check::{Failure, Result};
use crate::clone3::Child;
use crate::kit::diagnosis;
use crate::kit::process::own_pid;
use crate::sandbox;

/// A pipe that is made before a child, and through which the child sends values to its parent.
///
/// The first [`recv`](Channel::recv) closes the receiver's copy of the sending end, so that the receiver sees the end of
/// the stream when all senders are dead.
#[derive(Debug)]
pub struct Channel<T> {
    from: OwnedFd,
    /// Bytes read beyond the last value: a read may return more than one write.
    ahead: Mutex<Vec<u8>>,
    to: Mutex<Option<OwnedFd>>,
    value: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> Channel<T> {
    /// Makes a channel. Call this before the child is made.
    pub fn new() -> Result<Channel<T>> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Channel::of(from, to))
    }

    /// Returns the sending end, for a helper that inherits it and [adopts](Channel::adopt) it.
    pub fn sending_end(&self) -> Result<RawFd> {
        let to = self.sender();
        let to = to.as_ref().ok_or_else(|| Failure::broken("the sending end of a channel is closed"))?;
        Ok(to.as_raw_fd())
    }

    /// In a helper: makes a channel from its sending end. It can only send.
    pub fn adopt(to: OwnedFd) -> Result<Channel<T>> {
        let (from, _) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Channel::of(from, to))
    }

    /// Makes a channel from its receiving end, with the senders in other processes.
    pub fn receiving(from: OwnedFd) -> Channel<T> {
        Channel { from, ahead: Mutex::default(), to: Mutex::new(None), value: PhantomData }
    }

    fn of(from: OwnedFd, to: OwnedFd) -> Channel<T> {
        Channel { to: Mutex::new(Some(to)), ..Channel::receiving(from) }
    }

    fn ahead(&self) -> MutexGuard<'_, Vec<u8>> {
        self.ahead.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn sender(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.to.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Sends a value as one line, in one write.
    pub fn send(&self, value: &T) -> Result {
        let mut line = serde_json::to_vec(value).map_err(|error| Failure::broken(error.to_string()))?;
        line.push(b'\n');
        let to = self.sender();
        let to = to.as_ref().ok_or_else(|| Failure::broken("sending after receiving on a channel"))?;
        write_all(to, &line)
    }

    /// Blocks until the next value from this child of the caller. If the child ends first, the error says how.
    #[track_caller]
    pub fn recv_from(&self, child: &Child) -> Result<T> {
        match self.try_recv()? {
            Some(value) => Ok(value),
            None => Err(diagnosis::explained(child, ended_without_report())),
        }
    }

    /// Blocks until the next value; an error if all senders are gone. For senders that are not children of the caller.
    #[track_caller]
    pub fn recv(&self) -> Result<T> {
        match self.try_recv()? {
            Some(value) => Ok(value),
            None => Err(ended_without_report()),
        }
    }

    /// Blocks until there is something to receive, or to read from `other`; returns whether only the former is the case.
    #[track_caller]
    pub(super) fn comes_before(&self, other: &impl AsFd) -> Result<bool> {
        if !self.ahead().is_empty() {
            return Ok(true);
        }
        let mut fds = [self.from.as_fd(), other.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if !sandbox::wait_for(&mut fds)? {
            return Err(nothing_came());
        }
        Ok(fds[1].any() == Some(false))
    }

    /// Blocks until the next value; returns `None` if all senders are gone.
    #[track_caller]
    pub fn try_recv(&self) -> Result<Option<T>> {
        self.sender().take();
        let mut ahead = self.ahead();
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

#[track_caller]
fn nothing_came() -> Failure {
    let (waited, doing) = (sandbox::patience(), sandbox::describe(own_pid()));
    Failure::fail(format!("nothing came through a pipe within {waited:.1?}; {doing}"))
}

/// Writes all bytes.
pub(super) fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> Result {
    while !bytes.is_empty() {
        bytes = &bytes[rustix::io::write(to, bytes)?..];
    }
    Ok(())
}

/// Blocks until a byte arrives, at most until the time limit of the case; returns `None` at the end of the stream.
#[track_caller]
pub fn read_byte(from: &impl AsFd) -> Result<Option<u8>> {
    let mut byte = [0];
    Ok((read_some(from, &mut byte)? > 0).then_some(byte[0]))
}

/// Blocks until there is something to read, at most until the time limit of the case; returns 0 at the end of the stream.
#[track_caller]
fn read_some(from: &impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    loop {
        let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if !sandbox::wait_for(&mut fds)? {
            return Err(nothing_came());
        }
        match rustix::io::read(from, &mut *buffer) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}
