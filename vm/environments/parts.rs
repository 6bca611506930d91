//! The helper processes of this program: bystanders, load, and sources of interference.
use std::fs;
use std::io::{Write, stdin, stdout};
use std::os::fd::AsFd;
use std::process::ExitCode;

use clone3_conformance::clone3::{Clone3, park};
use clone3_conformance::kit::privilege;
use clone3_conformance::wait::{Status, waitpid};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::Result;

/// The number of concurrent processes of the churn.
const CROWD: usize = 24;

/// A little over an hour, in seconds.
const STEP: i64 = 3_700;

pub fn play(arguments: &[String]) -> Result<ExitCode> {
    match arguments.first().map(String::as_str) {
        Some("bystander") => stand_by(arguments.get(1).map(|user| user.parse()).transpose()?),
        Some("churn") => churn(),
        Some("load") => load(),
        Some("clock") => step_clock(),
        other => Err(format!("no part is called {other:?}").into()),
    }
}

/// Blocks every signal, so that any signal it receives stays pending and visible.
fn stand_by(user: Option<u32>) -> Result<ExitCode> {
    SigSet::all().thread_block()?;
    if let Some(user) = user {
        privilege::become_user(user).map_err(|failure| failure.message)?;
    }
    stdout().write_all(b"r")?;
    stdout().flush()?;
    park();
    Ok(ExitCode::SUCCESS)
}

/// Creates short-lived children, `CROWD` at a time, until the input ends. Fails if one was signaled.
fn churn() -> Result<ExitCode> {
    SigSet::all().thread_block()?;
    let mut alive = 0;
    let mut signalled = 0;
    while alive > 0 || !input_has_ended()? {
        while alive < CROWD && !input_has_ended()? {
            match Clone3::fork().try_spawn(live_for_an_instant) {
                Ok(_) => alive += 1,
                // All pids are in use: let the suite have the next one.
                Err(_) => break,
            }
        }
        if alive == 0 {
            continue;
        }
        if let Some((_, status)) = waitpid(-1, libc::__WALL)? {
            alive -= 1;
            signalled += u32::from(status != Status::exited(0));
        }
    }
    Ok(ExitCode::from(u8::from(signalled > 0)))
}

/// Exits with 1 if a signal arrived.
fn live_for_an_instant() -> i32 {
    let all = SigSet::all();
    let Ok(signals) = SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK) else { return 2 };
    let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let came = poll(&mut fds, PollTimeout::from(3_u8));
    i32::from(came != Ok(0))
}

fn input_has_ended() -> Result<bool> {
    let stdin = stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
}

fn load() -> Result<ExitCode> {
    loop {
        std::hint::spin_loop();
    }
}

/// Steps the realtime clock forward and back, a hundred times a second.
fn step_clock() -> Result<ExitCode> {
    loop {
        for step in [STEP, -STEP] {
            let now = clock_gettime(ClockId::Realtime);
            clock_settime(ClockId::Realtime, Timespec { tv_sec: now.tv_sec + step, ..now })?;
            poll(&mut [], PollTimeout::from(10_u8))?;
        }
    }
}

/// Returns the pending signals of a process, from `/proc`.
pub fn pending_signals(pid: u32) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    Ok(format!("{} {} {}", of("State:"), of("SigPnd:"), of("ShdPnd:")))
}
