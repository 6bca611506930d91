//! A child whose parent is gone.

use nix::errno::Errno;

use crate::check::{Failure, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::process::apart;
use crate::kit::{Gate, fdpass, sigchld, threads};
use crate::pidfd::Pidfd;
use crate::wait::{self, Event, Who};

/// A process whose parent made it, handed over its pidfd and ended. It waits at a gate.
#[derive(Debug)]
pub struct Orphan {
    /// Its pid.
    pub pid: i32,
    /// The pidfd that clone3 returned to the dead parent.
    pub pidfd: Pidfd,
    /// Whether a SIGCHLD about it was pending when its parent had ended. That would have come before the
    /// parent's own, which is drained.
    pub announced: bool,
    gate: Gate,
}

impl Orphan {
    /// One made by `call`, which once let go exits with `code`. Drains the SIGCHLD that the end of the process
    /// in between sent.
    #[track_caller]
    pub fn exiting_with(call: &Clone3, code: i32) -> Result<Orphan> {
        Orphan::running(call, || code)
    }

    /// One made by `call`, which once let go runs `body` and exits with what it returns.
    #[track_caller]
    pub fn running(call: &Clone3, body: impl FnOnce() -> i32) -> Result<Orphan> {
        Orphan::made(|gate| {
            call.spawn(|| {
                gate.wait();
                body()
            })
        })
    }

    /// One made by `call` whose leader thread ended with `code` before its parent did; once let go, its last
    /// thread ends with `last`.
    #[track_caller]
    pub fn leaderless(call: &Clone3, code: i32, last: i32) -> Result<Orphan> {
        Orphan::made(|gate| threads::leaderless_at(gate, call, code, || last))
    }

    /// The child that `make` makes, in a process that then ends. Nothing holds it at a gate.
    #[track_caller]
    pub fn left_by(make: impl FnOnce() -> Result<Child>) -> Result<Orphan> {
        Orphan::made(|_| make())
    }

    /// One that `make` makes, in the process that ends.
    #[track_caller]
    fn made(make: impl FnOnce(&Gate) -> Result<Child>) -> Result<Orphan> {
        let (gate, (ours, theirs)) = (Gate::new()?, fdpass::pair()?);
        let pid = apart(|| {
            let child = make(&gate)?;
            fdpass::send(&theirs, child.pidfd()?)?;
            Ok(child.pid())
        })?;
        let announced = sigchld::take().is_some_and(|(_, whose)| whose == pid);
        let pidfd = Pidfd::from(fdpass::receive(&ours)?);
        Ok(Orphan { pid, pidfd, announced, gate })
    }

    /// This process, which waits at this gate.
    pub(super) fn at(gate: Gate, pid: i32, pidfd: Pidfd, announced: bool) -> Orphan {
        Orphan { pid, pidfd, announced, gate }
    }

    /// Lets it go on.
    pub fn let_go(&self) -> Result {
        self.gate.open()
    }

    /// What waitid(WEXITED|WNOHANG|WNOWAIT) finds of it, without `__WALL`: the caller is its parent by now,
    /// which made its exit signal SIGCHLD.
    pub fn wait_now(&self) -> std::result::Result<Option<Event>, Errno> {
        wait::waitid(Who::Pid(self.pid), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
    }

    /// Its parent now, as PIDFD_GET_INFO says.
    pub fn parent(&self) -> Result<i32> {
        parent_of(&self.pidfd)
    }
}

/// The parent of a live process, as PIDFD_GET_INFO gives it in the caller's pid namespace.
pub fn parent_of(pidfd: &Pidfd) -> Result<i32> {
    let info = pidfd.info(crate::abi::InfoMask::PID);
    let info = info.map_err(|errno| Failure::fail(format!("PIDFD_GET_INFO on {pidfd}: {errno:?}")))?;
    Ok(info.ppid as i32)
}
