//! A child that is about to exec, for races with the last close of its pidfd.

use std::sync::atomic::AtomicU32;

use crate::abi::Flags;
use crate::check::Result;
use crate::clone3::{Child, Clone3, exit_now, park};
use crate::kit::echo::{self, Line};
use crate::kit::processors::stay_on;
use crate::kit::threads::start_slow_to_exit;
use crate::kit::{Channel, Gate};

/// The line to such a child, on which only the new program answers.
#[derive(Debug)]
pub struct ExecLine {
    line: Line,
    told: Channel<Result>,
}

impl ExecLine {
    /// As [`Line::is_alive`], once the exec or the child `pid` is over.
    ///
    /// # Errors
    /// That of the exec, if it fails: the child that then ends is not one that was killed.
    #[track_caller]
    pub fn is_alive(&self, pid: i32, when: &str) -> Result {
        let is_alive = self.line.is_alive(pid, when);
        self.exec_has_not_failed()?;
        is_alive
    }

    /// As [`Line::is_dead`], once the exec or the child `pid` is over.
    ///
    /// # Errors
    /// That of the exec, if it fails.
    #[track_caller]
    pub fn is_dead(&self, pid: i32, when: &str) -> Result {
        let is_dead = self.line.is_dead(pid, when);
        self.exec_has_not_failed()?;
        is_dead
    }

    fn exec_has_not_failed(&self) -> Result {
        // The exec closes the child's end of it, as death does.
        self.told.try_recv()?.transpose().map(drop)
    }
}

/// Makes an auto-kill child in which a second thread waits at the gate and then execs an echoing program. Only that program
/// answers on the returned line.
#[track_caller]
pub fn about_to_exec(gate: &Gate) -> Result<(Child, ExecLine)> {
    prepared(Execer::OtherThread, gate, || Ok(()))
}

/// Like [`about_to_exec`], with the whole child on this processor.
#[track_caller]
pub fn about_to_exec_on(processor: usize, gate: &Gate) -> Result<(Child, ExecLine)> {
    prepared(Execer::OtherThread, gate, || stay_on(processor))
}

/// Like [`about_to_exec`], with a slow exec: it has to wait for another thread whose exit is slow and which clears `going`
/// when that exit begins.
#[track_caller]
pub fn about_to_exec_slowly(gate: &Gate, going: &'static AtomicU32) -> Result<(Child, ExecLine)> {
    prepared(Execer::OtherThread, gate, || start_slow_to_exit(going))
}

/// Like [`about_to_exec_slowly`], but the leader execs.
#[track_caller]
pub fn leader_about_to_exec_slowly(gate: &Gate, going: &'static AtomicU32) -> Result<(Child, ExecLine)> {
    prepared(Execer::Leader, gate, || start_slow_to_exit(going))
}

/// The thread that execs.
enum Execer {
    Leader,
    OtherThread,
}

#[track_caller]
fn prepared(execer: Execer, gate: &Gate, prepare: impl FnOnce() -> Result) -> Result<(Child, ExecLine)> {
    let (line, echoer) = echo::line()?;
    let command = echoer.command()?;
    let told = Channel::<Result>::new()?;
    let child = Clone3::new(Flags::KILLED_NNP).spawn(|| {
        let prepared = prepare();
        let exec = || {
            // A failure to report is seen as the end of the stream.
            let _ = told.send(&prepared);
            if prepared.is_err() {
                exit_now(98);
            }
            gate.wait();
            let _ = told.send(&Err(command.exec()));
            exit_now(98)
        };
        match execer {
            Execer::Leader => exec(),
            Execer::OtherThread => std::thread::scope(|scope| {
                scope.spawn(exec);
                park()
            }),
        }
    })?;
    told.recv_from(&child)??;
    Ok((child, ExecLine { line, told }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Failure;

    #[test]
    fn a_failed_exec_is_no_death() {
        let (line, told) = (echo::line().unwrap().0, Channel::<Result>::new().unwrap());
        let failed = Failure::broken("execveat: ENOENT");
        told.send(&Err(failed.clone())).unwrap();
        let line = ExecLine { line, told };
        assert_eq!(line.is_dead(1, "then"), Err(failed));
        assert_eq!(line.is_dead(1, "again"), Ok(()));
    }
}
