//! A child in which a thread other than the leader is about to exec, for races with the last close of its pidfd.

use std::sync::atomic::AtomicU32;

use crate::abi::Flags;
use crate::check::Result;
use crate::clone3::{Child, Clone3, exit_now, park};
use crate::kit::echo::{self, Line};
use crate::kit::processors::stay_on;
use crate::kit::threads::start_one_slow_to_go;
use crate::kit::{Gate, helper::Command};

/// Makes an auto-kill child in which a second thread waits at the gate and then execs an echoing program. Only that program
/// answers on the returned line.
#[track_caller]
pub fn about_to_exec(gate: &Gate) -> Result<(Child, Line)> {
    prepared(gate, || Ok(()))
}

/// Like [`about_to_exec`], with the whole child on this processor.
#[track_caller]
pub fn about_to_exec_on(processor: usize, gate: &Gate) -> Result<(Child, Line)> {
    prepared(gate, || stay_on(processor))
}

/// Like [`about_to_exec`], with a slow exec: it has to wait for another thread whose exit is slow and which clears `going`
/// when that exit begins.
#[track_caller]
pub fn about_to_exec_slowly(gate: &Gate, going: &'static AtomicU32) -> Result<(Child, Line)> {
    prepared(gate, || start_one_slow_to_go(going))
}

#[track_caller]
fn prepared(gate: &Gate, prepare: impl FnOnce() -> Result) -> Result<(Child, Line)> {
    let (line, echoer) = echo::line()?;
    let (from, to) = echoer.into_fds();
    let command = Command::new("echo", &[])?.with_fd(&from).with_fd(&to);
    let ready = Gate::new()?;
    let child = Clone3::new(Flags::KILLED_NNP).spawn(|| {
        let prepared = prepare();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = ready.open();
                if prepared.is_err() {
                    exit_now(98);
                }
                gate.wait();
                command.exec()
            });
            park()
        })
    })?;
    ready.wait();
    Ok((child, line))
}
