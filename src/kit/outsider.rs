//! A program above which no subreaper is.
//!
//! Whatever a case starts is below the case and its lane, which are subreapers, and a process that was born below one stays
//! marked so. Only a program that the kernel itself starts has none above it: the helper that `core_pattern` names. So this
//! lets an ordinary child dump core, and the kernel start the helper.

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

/// The helper, and the socket over which it has said that it is there.
#[derive(Debug)]
pub(super) struct Outsider {
    pub(super) own: Pidfd,
    pub(super) line: UnixStream,
}

/// Has the kernel start the helper `name` with one argument of its own, behind which follows the path of a socket. It must
/// begin with [`arrive`].
///
/// # Errors
/// `blocked` where core dumps start no helper.
#[track_caller]
pub(super) fn start(name: &str, argument: &str) -> Result<Outsider> {
    let place = Place::new()?;
    let socket = place.of("socket");
    let listener = place.listen("socket")?;
    let program = place.of(helper::NAME);
    std::os::unix::fs::symlink(fs::read_link("/proc/self/exe")?, &program)?;
    let pattern = Sysctl::CorePattern.set(&format!("|{program} {name} {argument} {socket}"))?;
    // The end of its dump says that no helper was started: it needs somebody to read so much.
    let crashing = Clone3::fork().with(Flags::PIDFD).spawn(|| Crash::Abort.with_large_core())?;
    let line = accept_before_end(&listener, crashing.pidfd()?)?;
    let own = Pidfd::from(fdpass::receive(&line)?);
    drop(pattern);
    subject::see_off(&crashing)?;
    Ok(Outsider { own, line })
}

/// In the helper: says over the socket of this path that it is there.
pub(super) fn arrive(socket: Option<&String>) -> Result<UnixStream> {
    // Before the dump can end.
    let line = UnixStream::connect(socket.map_or("", String::as_str))?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    // No child is to hold the other end of somebody's dump.
    nix::unistd::close(0)?;
    fdpass::send(&line, Pidfd::open(own_pid())?)?;
    Ok(line)
}

/// Has the kernel start the helper `name`, which must [report], and gives what it says.
///
/// # Errors
/// `blocked` where core dumps start no helper.
#[track_caller]
pub fn ask<T: Serialize + DeserializeOwned>(name: &str, argument: &str) -> Result<T> {
    let Outsider { own, line } = start(name, argument)?;
    let found = Channel::<Result<T>>::receiving(line.into()).recv()?;
    own.wait_reaped()?;
    found
}

/// In such a helper: hands what `body` makes of its own argument to who [asks](ask()).
pub fn report<T: Serialize + DeserializeOwned>(
    arguments: &[String],
    body: impl FnOnce(&str) -> Result<T>,
) -> Result<i32> {
    let line = arrive(arguments.get(1))?;
    let answer = Channel::<Result<T>>::adopt(line.into())?;
    answer.send(&body(arguments.first().map_or("", String::as_str)))?;
    Ok(0)
}
