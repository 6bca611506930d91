//! A program without a subreaper above it.
//!
//! A process that a case starts is below the case and its lane, which are subreapers, and a process that was born below a
//! subreaper stays marked as such. Only a program that the kernel itself starts has none above it: the helper in
//! `core_pattern`. So this makes an ordinary child dump core, so that the kernel starts the helper.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::abi::Flags;
use crate::check::Result;
use crate::clone3::Clone3;
use crate::kit::coredump::accept_before_end;
use crate::kit::crash::Crash;
use crate::kit::helper;
use crate::kit::process::own_pid;
use crate::kit::sysctl::Sysctl;
use crate::kit::{Channel, Place, fdpass, subject};
use crate::pidfd::Pidfd;

/// The helper, and the socket over which it has reported that it runs.
#[derive(Debug)]
pub(super) struct Outsider {
    pub(super) own: Pidfd,
    pub(super) line: UnixStream,
}

/// Has the kernel start the helper `name` with one argument, followed by the path of a socket. The helper must begin with
/// [`arrive`].
///
/// # Errors
/// `blocked` if core dumps start no helper.
#[track_caller]
pub(super) fn start(name: &str, argument: &str) -> Result<Outsider> {
    let place = Place::new()?;
    let socket = place.of("socket");
    let listener = place.listen("socket")?;
    let program = place.of(helper::NAME);
    std::os::unix::fs::symlink(fs::read_link("/proc/self/exe")?, &program)?;
    let pattern = Sysctl::CorePattern.set(&format!("|{program} {name} {argument} {socket}"))?;
    // The dump is too large to finish without a reader, so if it finishes without a connection, no helper was started.
    let crashing = Clone3::fork().with(Flags::PIDFD).spawn(|| Crash::Abort.with_large_core())?;
    let line = accept_before_end(&listener, crashing.pidfd()?)?;
    let own = Pidfd::from(fdpass::receive(&line)?);
    drop(pattern);
    subject::wait_until_gone(&crashing)?;
    Ok(Outsider { own, line })
}

/// In the helper: reports over the socket of this path that it runs.
pub(super) fn arrive(socket: Option<&String>) -> Result<UnixStream> {
    // Connect before the dump can end.
    let line = UnixStream::connect(socket.map_or("", String::as_str))?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    // Close the pipe of the dump, so that no child inherits it.
    nix::unistd::close(0)?;
    fdpass::send(&line, Pidfd::open(own_pid())?)?;
    Ok(line)
}

/// Has the kernel start the helper `name`, which must [report], and returns what it reports.
///
/// # Errors
/// `blocked` if core dumps start no helper.
#[track_caller]
pub fn ask<T: Serialize + DeserializeOwned>(name: &str, argument: &str) -> Result<T> {
    let Outsider { own, line } = start(name, argument)?;
    let found = Channel::<Result<T>>::receiving(line.into()).recv()?;
    own.wait_reaped()?;
    found
}

/// In such a helper: runs `body` with the helper's own argument, and sends the result to the process that [asks](ask()).
pub fn report<T: Serialize + DeserializeOwned>(
    arguments: &[String],
    body: impl FnOnce(&str) -> Result<T>,
) -> Result<i32> {
    let line = arrive(arguments.get(1))?;
    let answer = Channel::<Result<T>>::adopt(line.into())?;
    answer.send(&body(arguments.first().map_or("", String::as_str)))?;
    Ok(0)
}
