//! A child that is provably alive until it is let go.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use crate::abi::Flags;
use crate::check::Result;
use crate::clone3::{Child, Clone3, Stack, park};
use crate::errand::Errand;
use crate::kit::helper::Command;
use crate::kit::processors::stay_on;
use crate::kit::replacing::Replacing;
use crate::kit::tracer::let_anyone_trace_me;
use crate::kit::{Channel, Gate};
use crate::procfs;

/// What the next child is to exec.
static COMMAND: Mutex<Option<Command>> = Mutex::new(None);

/// Execs. Comes back only if that fails.
extern "C" fn exec_command(_: usize) -> i32 {
    // The lock is let go of before the exec, after which nobody could.
    let command = COMMAND.lock().map(|mut command| command.take());
    if let Ok(Some(command)) = command {
        let _ = command.exec();
    }
    98
}

/// A child blocked at a gate.
#[derive(Debug)]
pub struct Held {
    child: Child,
    gate: Gate,
}

impl Held {
    /// A child that, once let go, exits with `code`.
    #[track_caller]
    pub fn exiting_with(call: &Clone3, code: i32) -> Result<Held> {
        Held::running(call, move || code)
    }

    /// A child that anybody may trace, and that once let go exits with `code`.
    #[track_caller]
    pub fn traceable(call: &Clone3, code: i32) -> Result<Held> {
        Held::prepared(call, code, || {
            let_anyone_trace_me();
            Ok(())
        })
    }

    /// A child that has run `prepare` when this returns, and once let go exits with `code`.
    ///
    /// # Errors
    /// That of `prepare`, if it fails.
    #[track_caller]
    pub fn prepared(call: &Clone3, code: i32, prepare: impl FnOnce() -> Result) -> Result<Held> {
        let gate = Gate::new()?;
        let child = Held::prepared_at(&gate, call, code, prepare)?;
        Ok(Held { child, gate })
    }

    /// As [`Held::prepared`], for a child that waits at a gate of the caller's.
    #[track_caller]
    pub(super) fn prepared_at(
        gate: &Gate,
        call: &Clone3,
        code: i32,
        prepare: impl FnOnce() -> Result,
    ) -> Result<Child> {
        let ready = Channel::<Result>::new()?;
        let child = call.spawn(|| {
            // A failure to report is seen as the end of the stream.
            let _ = ready.send(&prepare());
            gate.wait();
            code
        })?;
        ready.recv_from(&child)??;
        Ok(child)
    }

    /// A child that, once let go, runs `body` and exits with what it returns.
    #[track_caller]
    pub fn running(call: &Clone3, body: impl FnOnce() -> i32) -> Result<Held> {
        let gate = Gate::new()?;
        let child = call.spawn(|| {
            gate.wait();
            body()
        })?;
        Ok(Held { child, gate })
    }

    /// A child on this processor that, once let go, exits with `code`. It waits awake, or whoever lets it go might be held up
    /// by its waking until all is over: how it ends can be seen from another processor.
    #[track_caller]
    pub fn awake(call: &Clone3, code: i32, processor: usize) -> Result<Held> {
        Held::prepared_awake(call, code, processor, || ())
    }

    /// As [`Held::awake`], for a child of which the kernel remembers so much in `/proc` that it takes long to release.
    #[track_caller]
    pub fn slow_to_release(call: &Clone3, code: i32, processor: usize) -> Result<Held> {
        let held = Held::prepared_awake(call, code, processor, || {
            let null = std::fs::File::open("/dev/null");
            for _ in 0..250 {
                std::mem::forget(null.as_ref().ok().map(std::fs::File::try_clone));
            }
        })?;
        procfs::look_up_descriptors(held.pid());
        Ok(held)
    }

    #[track_caller]
    fn prepared_awake(call: &Clone3, code: i32, processor: usize, prepare: impl FnOnce()) -> Result<Held> {
        let (gate, ready) = (Gate::new()?, Channel::<()>::new()?);
        let child = call.spawn(|| {
            // Where this is forbidden, it may run there all the same.
            let _ = stay_on(processor);
            prepare();
            // A failure to report is seen as the end of the stream.
            let _ = ready.send(&());
            gate.wait_awake();
            code
        })?;
        ready.recv_from(&child)?;
        Ok(Held { child, gate })
    }

    /// As [`Held::execed`], for a child that execs from a second thread while its leader lives.
    #[track_caller]
    pub fn execed_by_thread(call: &Clone3, code: i32) -> Result<Held> {
        let replacing = Replacing::new(call, code, park)?;
        replacing.exec()?;
        Ok(replacing.into_held())
    }

    /// As [`Held::execed`], for a child that until its exec shares the memory of its creator and holds it up, as by vfork(2).
    #[track_caller]
    pub fn execed_as_by_vfork(call: &Clone3, code: i32) -> Result<Held> {
        let (gate, ready) = (Gate::new()?, Channel::<Result>::new()?);
        let hold = Command::new("hold", &[])?.with_fd(&ready.sending_end()?);
        let hold = hold.with_fd(&gate.waiting_end()).number(code);
        *COMMAND.lock().unwrap_or_else(PoisonError::into_inner) = Some(hold);
        let call = call.clone().with(Flags::CLONE_VM | Flags::CLONE_VFORK);
        // SAFETY: anybody may call it, and it execs or ends the child.
        let exec = unsafe { Errand::whole(exec_command, 0) };
        let child = call.spawn_on(&Stack::new()?, exec)?;
        ready.recv_from(&child)??;
        Ok(Held { child, gate })
    }

    /// This child, of which a part waits at this gate.
    pub(super) fn at(child: Child, gate: Gate) -> Held {
        Held { child, gate }
    }

    /// A child that execs, proves that it runs the new program, and once let go exits with `code`.
    #[track_caller]
    pub fn execed(call: &Clone3, code: i32) -> Result<Held> {
        Held::execed_after(call, code, 1, || Ok(()))
    }

    /// As [`Held::execed`], for a child that runs `prepare` first and then execs `times` times.
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
            // Nobody is there to be told of an error.
            let _ = ready.send(&Err(failure));
            98
        })?;
        ready.recv_from(&child)??;
        Ok(Held { child, gate })
    }

    /// Lets the child go on.
    pub fn let_go(&self) -> Result {
        self.gate.open()
    }

    /// The child alone, without its gate.
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
