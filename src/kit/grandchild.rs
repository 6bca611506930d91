//! A grandchild of the case, whose parent exits when it is told to.

use crate::check::Result;
use crate::clone3::Clone3;
use crate::kit::{Actor, Gate, Held, Orphan, fdpass, sigchld, tracer};
use crate::pidfd::Pidfd;

/// A process that waits at a gate, and whose parent, a child of the caller, is alive.
#[derive(Debug)]
pub struct Grandchild {
    /// Its pid.
    pub pid: i32,
    /// The pidfd that clone3 returned to its parent, which has closed its own copy.
    pub pidfd: Pidfd,
    gate: Gate,
    parent: Actor<(), i32>,
}

impl Grandchild {
    /// Makes a grandchild by `call` that any process may trace and that exits with `code` once let go.
    #[track_caller]
    pub fn traceable(call: &Clone3, code: i32) -> Result<Grandchild> {
        Grandchild::prepared(&Clone3::fork(), call, code, tracer::let_anyone_trace_me)
    }

    /// Makes a grandchild by `call`, below a parent made by the call `parent`. Once let go, it exits with `code`.
    #[track_caller]
    pub fn below(parent: &Clone3, call: &Clone3, code: i32) -> Result<Grandchild> {
        Grandchild::prepared(parent, call, code, || ())
    }

    #[track_caller]
    fn prepared(parent: &Clone3, call: &Clone3, code: i32, prepare: fn()) -> Result<Grandchild> {
        let (gate, (ours, theirs)) = (Gate::new()?, fdpass::pair()?);
        let parent = Actor::spawn(parent, |()| {
            let child = Held::prepared_at(&gate, call, code, || {
                prepare();
                Ok(())
            })?;
            fdpass::send(&theirs, child.pidfd()?)?;
            Ok(child.pid())
        })?;
        let pid = parent.ask(())?;
        Ok(Grandchild { pid, pidfd: Pidfd::from(fdpass::receive(&ours)?), gate, parent })
    }

    /// Opens the gate, so that the grandchild continues.
    pub fn let_go(&self) -> Result {
        self.gate.open()
    }

    /// Has its parent exit, and waits until the parent is gone. Takes the SIGCHLD that this sent.
    #[track_caller]
    pub fn orphan(self) -> Result<Orphan> {
        self.parent.dismiss()?;
        let announced = sigchld::take().is_some_and(|event| event.pid == self.pid);
        Ok(Orphan::at(self.gate, self.pid, self.pidfd, announced))
    }
}
