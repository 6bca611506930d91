//! A child that blocks at a gate and stays alive until it is let go.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;

use crate::abi::Flags;
use crate::check::{Failure, Result};
use crate::clone3::{Child, Clone3, Stack, park};
use crate::errand::Errand;
use crate::kit::helper::Command;
use crate::kit::processors::stay_on;
use crate::kit::programs;
use crate::kit::replacing::Replacing;
use crate::kit::tracer::let_anyone_trace_me;
use crate::kit::{Channel, Gate, fds, subject};
use crate::procfs;

/// The command that the next child execs.
static COMMAND: Mutex<Option<Command>> = Mutex::new(None);

/// Why that child could not exec. The child shares the memory of its creator, and blocks it until then.
static COULD_NOT: Mutex<Option<Failure>> = Mutex::new(None);

fn lock<T>(of_child: &Mutex<T>) -> MutexGuard<'_, T> {
    of_child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Execs [`COMMAND`]; returns only if that fails.
extern "C" fn exec_command(_: usize) -> i32 {
    // Release the lock before the exec, because it cannot be released afterwards.
    let command = lock(&COMMAND).take();
    *lock(&COULD_NOT) = command.map(|command| command.exec());
    98
}

/// A child blocked at a gate.
#[derive(Debug)]
pub struct Held {
    child: Child,
    gate: Gate,
}

impl Held {
    /// Makes a child that exits with `code` once let go.
    #[track_caller]
    pub fn exiting_with(call: &Clone3, code: i32) -> Result<Held> {
        Held::running(call, move || code)
    }

    /// Makes a child that any process may trace and that exits with `code` once let go.
    #[track_caller]
    pub fn traceable(call: &Clone3, code: i32) -> Result<Held> {
        Held::prepared(call, code, || {
            let_anyone_trace_me();
            Ok(())
        })
    }

    /// Makes a child that has run `prepare` by the time this returns, and that exits with `code` once let go.
    ///
    /// # Errors
    /// The error of `prepare`, if it fails.
    #[track_caller]
    pub fn prepared(call: &Clone3, code: i32, prepare: impl FnOnce() -> Result) -> Result<Held> {
        let gate = Gate::new()?;
        let child = Held::prepared_at(&gate, call, code, prepare)?;
        Ok(Held { child, gate })
    }

    /// Like [`Held::prepared`], for a child that waits at the caller's gate.
    #[track_caller]
    pub(super) fn prepared_at(
        gate: &Gate,
        call: &Clone3,
        code: i32,
        prepare: impl FnOnce() -> Result,
    ) -> Result<Child> {
        let ready = Channel::<Result>::new()?;
        let child = call.spawn(|| {
            // If this fails, the parent sees the end of the stream.
            let _ = ready.send(&prepare());
            gate.wait();
            code
        })?;
        ready.recv_from(&child)??;
        Ok(child)
    }

    /// Makes a child that, once let go, runs `body` and exits with the result.
    #[track_caller]
    pub fn running(call: &Clone3, body: impl FnOnce() -> i32) -> Result<Held> {
        let gate = Gate::new()?;
        let child = call.spawn(|| {
            gate.wait();
            body()
        })?;
        Ok(Held { child, gate })
    }

    /// Makes a child on this processor that exits with `code` once let go. The child waits in a busy loop, so that its exit
    /// can be observed from another processor: if it slept, waking it could delay the process that lets it go until
    /// everything is over.
    #[track_caller]
    pub fn awake(call: &Clone3, code: i32, processor: usize) -> Result<Held> {
        Held::prepared_awake(call, code, processor, || ())
    }

    /// Like [`Held::awake`], for a child with so many `/proc` entries cached in the kernel that releasing it takes long.
    #[track_caller]
    pub fn slow_to_release(call: &Clone3, code: i32, processor: usize) -> Result<Held> {
        let held = Held::prepared_awake(call, code, processor, || {
            // Without them, it is only released sooner.
            std::mem::forget(fds::many());
        })?;
        procfs::look_up_descriptors(held.pid());
        Ok(held)
    }

    #[track_caller]
    fn prepared_awake(call: &Clone3, code: i32, processor: usize, prepare: impl FnOnce()) -> Result<Held> {
        let (gate, ready) = (Gate::new()?, Channel::<()>::new()?);
        let child = call.spawn(|| {
            // If setting the CPU affinity is forbidden, the child may still happen to run there.
            let _ = stay_on(processor);
            prepare();
            // If this fails, the parent sees the end of the stream.
            let _ = ready.send(&());
            gate.wait_awake();
            code
        })?;
        ready.recv_from(&child)?;
        Ok(Held { child, gate })
    }

    /// Like [`Held::execed`], but a second thread of the child execs while the leader is alive.
    #[track_caller]
    pub fn execed_by_thread(call: &Clone3, code: i32) -> Result<Held> {
        let replacing = Replacing::new(call, code, park)?;
        replacing.exec()?;
        Ok(replacing.into_held())
    }

    /// Like [`Held::execed`], but until its exec the child shares the memory of its creator and blocks it, as with vfork(2).
    #[track_caller]
    pub fn execed_as_by_vfork(call: &Clone3, code: i32) -> Result<Held> {
        Held::execed_as_by_vfork_on(&Stack::new()?, call, code)
    }

    /// Likewise, for a child that runs on this stack until its exec.
    #[track_caller]
    pub fn execed_as_by_vfork_on(stack: &Stack, call: &Clone3, code: i32) -> Result<Held> {
        let (gate, ready) = (Gate::new()?, Channel::<Result>::new()?);
        *lock(&COMMAND) = Some(programs::hold(&ready, &gate, code)?);
        let call = call.clone().with(Flags::CLONE_VM | Flags::CLONE_VFORK);
        // SAFETY: `exec_command` has no preconditions, and it execs or ends the child.
        let exec = unsafe { Errand::whole(exec_command, 0) };
        let child = call.spawn_on(stack, exec)?;
        if let Some(failure) = lock(&COULD_NOT).take() {
            return Err(failure);
        }
        ready.recv_from(&child)??;
        Ok(Held { child, gate })
    }

    /// Wraps a child of which some thread waits at this gate.
    pub(super) fn at(child: Child, gate: Gate) -> Held {
        Held { child, gate }
    }

    /// Makes a child that execs, proves that it runs the new program, and exits with `code` once let go.
    #[track_caller]
    pub fn execed(call: &Clone3, code: i32) -> Result<Held> {
        Held::execed_after(call, code, 1, || Ok(()))
    }

    /// Like [`Held::execed`], for a child that first runs `prepare` and then execs `times` times.
    #[track_caller]
    pub fn execed_after(
        call: &Clone3,
        code: i32,
        times: i32,
        prepare: impl FnOnce() -> Result,
    ) -> Result<Held> {
        let (gate, ready) = (Gate::new()?, Channel::<Result>::new()?);
        let hold = Command::new("again", &[])?.number(times - 1).word("hold")?;
        let hold = hold.with_fd(&ready.sending_end()?).with_fd(&gate.waiting_end()).number(code);
        let child = call.spawn(|| {
            let failure = prepare().map_or_else(|failure| failure, |()| hold.exec());
            // If this fails, there is no other way to report an error.
            let _ = ready.send(&Err(failure));
            98
        })?;
        ready.recv_from(&child)??;
        Ok(Held { child, gate })
    }

    /// Opens the gate, so that the child continues.
    pub fn let_go(&self) -> Result {
        self.gate.open()
    }

    /// Kills the child, or lets it go, and waits until it is gone.
    #[track_caller]
    pub fn end(&self, killed: bool) -> Result {
        if killed {
            self.child.kill(Signal::SIGKILL)?;
        } else {
            self.let_go()?;
        }
        subject::wait_until_gone(&self.child).map(drop)
    }

    /// Returns the child without its gate.
    pub fn into_child(self) -> Child {
        self.child
    }
}

impl Deref for Held {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}
