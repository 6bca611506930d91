//! A process that holds descriptors, and lets go of them on command: by close, exit, exec or a violent death.
//!
//! ```text
//! let holder = Holder::fork()?;            // a copy of all that is open here
//! child.close_pidfd()?;                    // now the holder's copy is the last
//! holder.end(End::Killed)?;                // the holder is dead and reaped
//! ```
//!
//! Every command returns after the deed: what a kernel does when the last reference goes away is done by then.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use linkme::distributed_slice;
use nix::sys::signal::{SigHandler, Signal, raise, signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::check::{Context as _, Failure, Result};
use crate::clone3::{Child, Clone3, exit_now};
use crate::kit::Channel;
use crate::kit::channel::read_byte;
use crate::kit::fds::{close_copy, keep_over_exec};
use crate::kit::helper::{self, Command, HELPERS, Helper};
use crate::kit::silence;
use crate::note;
use crate::wait::Status;

/// How a holder ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// `_exit(0)`.
    Exit,
    /// A thread other than the leader calls exit_group.
    ExitByThread,
    /// SIGABRT by its own hand.
    Abort,
    /// SIGSEGV.
    Segfault,
    /// SIGKILL from outside.
    Killed,
}

impl End {
    /// All of them.
    pub const ALL: [End; 5] = [End::Exit, End::ExitByThread, End::Abort, End::Segfault, End::Killed];

    /// How its parent sees it.
    fn status(self) -> Status {
        match self {
            End::Exit | End::ExitByThread => Status::exited(0),
            End::Abort => Status::killed(Signal::SIGABRT),
            End::Segfault => Status::killed(Signal::SIGSEGV),
            End::Killed => Status::SIGKILLED,
        }
    }

    /// Ends the calling process this way.
    fn come(self) -> ! {
        // No core dump: it would take time, and core_pattern is not ours.
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        match self {
            End::Exit => exit_now(0),
            End::ExitByThread => {
                let _ = std::thread::spawn(|| exit_now(0)).join();
            }
            End::Abort => die_of(Signal::SIGABRT),
            End::Segfault => die_of(Signal::SIGSEGV),
            End::Killed => die_of(Signal::SIGKILL),
        }
        exit_now(96)
    }
}

fn die_of(number: Signal) {
    // Rust's runtime has a SIGSEGV handler, which would swallow one that no fault caused.
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { signal(number, SigHandler::SigDfl) };
    let _ = raise(number);
}

/// What a holder is told to do.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Close(RawFd),
    KeepOverExec(RawFd),
    Exec,
    End(End),
}

/// A process that holds descriptors.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    orders: UnixStream,
}

impl Holder {
    /// A fork of the caller: it holds a copy of every descriptor that is open here, under the same number.
    #[track_caller]
    pub fn fork() -> Result<Holder> {
        Holder::running(|| Ok(())).map(|(holder, ())| holder)
    }

    /// A fork of the caller that first runs `prepare` and hands over what that returns. What `prepare` shall
    /// keep open it must leak, or hand over as a number.
    #[track_caller]
    pub fn running<T: Serialize + DeserializeOwned>(
        prepare: impl FnOnce() -> Result<T>,
    ) -> Result<(Holder, T)> {
        let report = Channel::<Result<T>>::new()?;
        let (orders, theirs) = UnixStream::pair()?;
        let child = Clone3::fork().spawn(|| {
            // SAFETY: the child never uses or drops its copy of `orders`.
            let _ = unsafe { close_copy(orders.as_raw_fd()) };
            match report.send(&prepare()) {
                Ok(()) => serve(theirs),
                Err(_) => 95,
            }
        })?;
        let value = report.recv_from(&child).context("the holder")??;
        Ok((Holder { child, orders }, value))
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// It closes this descriptor of its own.
    #[track_caller]
    pub fn close(&self, fd: RawFd) -> Result {
        self.order(&Order::Close(fd))
    }

    /// It clears FD_CLOEXEC of this descriptor.
    #[track_caller]
    pub fn keep_over_exec(&self, fd: RawFd) -> Result {
        self.order(&Order::KeepOverExec(fd))
    }

    /// It execs, and goes on taking orders as the new program.
    #[track_caller]
    pub fn exec(&self) -> Result {
        // Asked here, where the answer is the case's: without it the holder would just end.
        helper::program()?;
        self.order(&Order::Exec)
    }

    /// It ends this way, and is reaped.
    #[track_caller]
    pub fn end(self, how: End) -> Result {
        note!("holder {} ends: {how:?}", self.pid());
        match how {
            End::Killed => self.child.kill(Signal::SIGKILL)?,
            _ => self.send(&Order::End(how))?,
        }
        self.child.reap_expecting(how.status()).context("the holder")
    }

    /// Has it carry out an order, and waits until it has.
    #[track_caller]
    fn order(&self, order: &Order) -> Result {
        note!("holder {}: {order:?}", self.pid());
        let failure = match self.send(order).and_then(|()| read_byte(&self.orders)) {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => Failure::broken(format!("the holder ended instead of carrying out {order:?}")),
            Err(failure) => failure.within(format_args!("the holder, told to {order:?}")),
        };
        Err(silence::explained(&self.child, failure))
    }

    fn send(&self, order: &Order) -> Result {
        Ok(writeln!(&self.orders, "{}", serde_json::json!(order))?)
    }
}

/// In the holder: carries out orders until nobody is left to give one.
fn serve(orders: UnixStream) -> i32 {
    let mut lines = BufReader::new(&orders).lines();
    while let Some(Ok(line)) = lines.next() {
        let done = serde_json::from_str(&line).map_err(|error| Failure::broken(error.to_string()));
        match done.and_then(|order| obey(&order, &orders)) {
            Ok(()) => acknowledge(&orders),
            Err(failure) => {
                note!("holder: {line}: {}", failure.message);
                return 97;
            }
        }
    }
    0
}

fn acknowledge(orders: &UnixStream) {
    // Nobody is there to be told of an error.
    let _ = rustix::io::write(orders, b"k");
}

fn obey(order: &Order, orders: &UnixStream) -> Result {
    match *order {
        Order::Close(fd) if fd == orders.as_raw_fd() => {
            return Err(Failure::broken("a holder that closes its orders gets no more"));
        }
        // SAFETY: a holder uses no other descriptor than its orders, and drops none.
        Order::Close(fd) => unsafe { close_copy(fd)? },
        // SAFETY: it is open for the call, which says EBADF if not.
        Order::KeepOverExec(fd) => keep_over_exec(unsafe { BorrowedFd::borrow_raw(fd) })?,
        Order::Exec => {
            keep_over_exec(orders)?;
            return Err(Command::new("holder", &[&orders.as_raw_fd().to_string()])?.exec());
        }
        Order::End(how) => how.come(),
    }
    Ok(())
}

#[distributed_slice(HELPERS)]
static HOLDER: Helper = Helper { name: "holder", main };

/// The holder after its exec: says that it is there, and takes orders from the descriptor in its argument.
fn main(arguments: &[String]) -> i32 {
    let Some(fd) = arguments.first().and_then(|word| word.parse().ok()) else { return 2 };
    // SAFETY: whoever starts this program hands it the descriptor.
    let orders = unsafe { UnixStream::from_raw_fd(fd) };
    acknowledge(&orders);
    serve(orders)
}
