//! A process that executes instructions one at a time and answers each when it is done.
//!
//! It lets a case control the order of events that another process (a tracer, the init of a pid namespace) causes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::check::{Context as _, Result};
use crate::clone3::{Child, Clone3};
use crate::kit::Channel;
use crate::kit::process::lose_patience_first;
use crate::wait::Status;

/// A message to an actor.
#[derive(Debug, Serialize, Deserialize)]
enum Order<I> {
    Do(I),
    Leave,
}

/// A child that executes instructions.
#[derive(Debug)]
pub struct Actor<I, A> {
    child: Child,
    instructions: Channel<Order<I>>,
    answers: Channel<Result<A>>,
}

impl<I: Serialize + DeserializeOwned, A: Serialize + DeserializeOwned> Actor<I, A> {
    /// Makes a child by `call` that executes each instruction with `act`. It exits with 0 when it is dismissed, or when the
    /// process that instructs it is gone.
    #[track_caller]
    pub fn spawn(call: &Clone3, mut act: impl FnMut(I) -> Result<A>) -> Result<Actor<I, A>> {
        let (instructions, answers) = (Channel::<Order<I>>::new()?, Channel::<Result<A>>::new()?);
        let child = call.spawn(|| {
            lose_patience_first(call);
            loop {
                let answer = match instructions.try_recv() {
                    Ok(Some(Order::Do(instruction))) => act(instruction),
                    Ok(Some(Order::Leave) | None) => return 0,
                    Err(failure) => {
                        // If this fails, the exit status is all that the case sees.
                        let _ = answers.send(&Err(failure.within("its next instruction")));
                        return 1;
                    }
                };
                if answers.send(&answer).is_err() {
                    return 1;
                }
            }
        })?;
        Ok(Actor { child, instructions, answers })
    }

    /// Sends one instruction and returns the answer. A failure in the actor is returned as a failure here.
    #[track_caller]
    pub fn ask(&self, instruction: I) -> Result<A> {
        self.tell(instruction)?;
        self.answer()
    }

    /// Sends an instruction without waiting for the answer.
    #[track_caller]
    pub fn tell(&self, instruction: I) -> Result {
        self.instructions.send(&Order::Do(instruction))
    }

    /// Blocks until the next answer.
    #[track_caller]
    pub fn answer(&self) -> Result<A> {
        self.answers.recv_from(&self.child).context(format_args!("process {}", self.child.pid()))?
    }

    /// Returns the child, for its pid or to send it a signal.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Lets the actor exit, and returns the child for the caller to wait for.
    pub fn let_go(self) -> Result<Child> {
        self.instructions.send(&Order::Leave)?;
        Ok(self.child)
    }

    /// Lets the actor exit, and waits until it is gone.
    #[track_caller]
    pub fn dismiss(self) -> Result {
        self.let_go()?.ends_with(Status::exited(0))
    }
}
