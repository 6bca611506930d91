//! A process whose parent has exited.

use nix::errno::Errno;

use crate::check::{self, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::process::in_child;
use crate::kit::{Gate, fdpass, sigchld, threads};
use crate::pidfd::Pidfd;
use crate::wait::{self, Event, Who};

/// A process whose parent made it, passed on its pidfd and exited. It waits at a gate.
#[derive(Debug)]
pub struct Orphan {
    /// Its pid.
    pub pid: i32,
    /// The pidfd that clone3 returned to the dead parent.
    pub pidfd: Pidfd,
    /// Whether a SIGCHLD about it was pending when its parent had exited. The kernel would have sent that before the
    /// parent's own SIGCHLD, which is taken from the queue.
    pub announced: bool,
    gate: Gate,
}

impl Orphan {
    /// Makes an orphan by `call` that exits with `code` once let go. Takes the SIGCHLD that the exit of the process in
    /// between sent.
    #[track_caller]
    pub fn exiting_with(call: &Clone3, code: i32) -> Result<Orphan> {
        Orphan::running(call, || code)
    }

    /// Makes an orphan by `call` that, once let go, runs `body` and exits with the result.
    #[track_caller]
    pub fn running(call: &Clone3, body: impl FnOnce() -> i32) -> Result<Orphan> {
        Orphan::made(|gate| {
            call.spawn(|| {
                gate.wait();
                body()
            })
        })
    }

    /// Makes an orphan by `call` whose leader thread exited with `code` before its parent did. Once let go, its last thread
    /// exits with `last`.
    #[track_caller]
    pub fn leaderless(call: &Clone3, code: i32, last: i32) -> Result<Orphan> {
        Orphan::made(|gate| threads::leaderless_at(gate, call, code, || last))
    }

    /// Has `make` make a child in a process that then exits. The child does not wait at a gate.
    #[track_caller]
    pub fn left_by(make: impl FnOnce() -> Result<Child>) -> Result<Orphan> {
        Orphan::made(|_| make())
    }

    /// Has `make` make the orphan, in a process that then exits.
    #[track_caller]
    fn made(make: impl FnOnce(&Gate) -> Result<Child>) -> Result<Orphan> {
        let (gate, (ours, theirs)) = (Gate::new()?, fdpass::pair()?);
        let pid = in_child(|| {
            let child = make(&gate)?;
            fdpass::send(&theirs, child.pidfd()?)?;
            Ok(child.pid())
        })?;
        let announced = sigchld::take().is_some_and(|event| event.pid == pid);
        let pidfd = Pidfd::from(fdpass::receive(&ours)?);
        Ok(Orphan { pid, pidfd, announced, gate })
    }

    /// Wraps a process that waits at this gate.
    pub(super) fn at(gate: Gate, pid: i32, pidfd: Pidfd, announced: bool) -> Orphan {
        Orphan { pid, pidfd, announced, gate }
    }

    /// Opens the gate, so that the orphan continues.
    pub fn let_go(&self) -> Result {
        self.gate.open()
    }

    /// Returns the result of waitid(WEXITED|WNOHANG|WNOWAIT) for it. `__WALL` is not needed: the caller has become its
    /// parent, and reparenting set its exit signal to SIGCHLD.
    pub fn wait_now(&self) -> std::result::Result<Option<Event>, Errno> {
        wait::waitid(Who::Pid(self.pid), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
    }

    /// Returns its current parent, as reported by PIDFD_GET_INFO.
    #[track_caller]
    pub fn parent(&self) -> Result<i32> {
        parent_of(&self.pidfd)
    }
}

/// Returns the parent of a live process, as PIDFD_GET_INFO reports it in the caller's pid namespace.
#[track_caller]
pub fn parent_of(pidfd: &Pidfd) -> Result<i32> {
    let info = pidfd.info(crate::abi::InfoMask::PID);
    Ok(check::succeeds(format_args!("PIDFD_GET_INFO on {pidfd}"), info)?.ppid as i32)
}
