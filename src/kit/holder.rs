//! A process that holds descriptors and drops them on command: by close, exit, exec or a fatal signal.
//!
//! ```text
//! let holder = Holder::fork()?;    // holds a copy of every descriptor that is open here
//! child.close_pidfd()?;            // now the holder's copy is the last one
//! holder.end(End::Killed)?;        // the holder is dead and reaped
//! ```
//!
//! Every command returns after the action is complete, including what the kernel does when the last reference is dropped.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

use linkme::distributed_slice;
use nix::sys::signal::{SigHandler, Signal, raise, signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::check::{Context as _, Failure, Result};
use crate::clone3::{Child, Clone3, exit_now};
use crate::kit::Channel;
use crate::kit::channel::read_byte;
use crate::kit::diagnosis;
use crate::kit::fds::{close_copy, keep_over_exec};
use crate::kit::helper::{self, Command, HELPERS, Helper};
use crate::kit::programs::{fd, or_wrong};
use crate::note;
use crate::wait::Status;

/// How a holder ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// `_exit(0)`.
    Exit,
    /// A thread other than the leader calls exit_group.
    ExitByThread,
    /// SIGABRT that the process raises itself.
    Abort,
    /// SIGSEGV.
    Segfault,
    /// SIGKILL from outside.
    Killed,
}

impl End {
    /// All ways to end.
    pub const ALL: [End; 5] = [End::Exit, End::ExitByThread, End::Abort, End::Segfault, End::Killed];

    /// Returns the wait status that the parent sees.
    fn status(self) -> Status {
        match self {
            End::Exit | End::ExitByThread => Status::exited(0),
            End::Abort => Status::killed(Signal::SIGABRT),
            End::Segfault => Status::killed(Signal::SIGSEGV),
            End::Killed => Status::SIGKILLED,
        }
    }

    /// Ends the calling process in this way.
    fn come(self) -> ! {
        // Suppress the core dump: it would take time, and core_pattern belongs to the system.
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
    // Rust's runtime installs a SIGSEGV handler, which would swallow a SIGSEGV that no fault caused.
    //
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { signal(number, SigHandler::SigDfl) };
    let _ = raise(number);
}

/// A command to a holder.
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
    /// Forks the caller: the holder has a copy of every descriptor that is open here, under the same number.
    #[track_caller]
    pub fn fork() -> Result<Holder> {
        Holder::running(|| Ok(())).map(|(holder, ())| holder)
    }

    /// Forks the caller; the holder first runs `prepare` and sends back its result. To keep a descriptor open, `prepare`
    /// must leak it or return it as a number.
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

    /// Returns the pid of the holder.
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Has the holder close this descriptor of its own.
    #[track_caller]
    pub fn close(&self, fd: RawFd) -> Result {
        self.order(&Order::Close(fd))
    }

    /// Has the holder clear FD_CLOEXEC of this descriptor.
    #[track_caller]
    pub fn keep_over_exec(&self, fd: RawFd) -> Result {
        self.order(&Order::KeepOverExec(fd))
    }

    /// Has the holder exec; the new program continues to take commands.
    #[track_caller]
    pub fn exec(&self) -> Result {
        // Check this here, where the error reaches the case; the holder would just exit.
        helper::program()?;
        self.order(&Order::Exec)
    }

    /// Ends the holder in this way and reaps it.
    #[track_caller]
    pub fn end(self, how: End) -> Result {
        note!("holder {} ends: {how:?}", self.pid());
        match how {
            End::Killed => self.child.kill(Signal::SIGKILL)?,
            _ => {
                if let Err(failure) = self.send(&Order::End(how)) {
                    let failure = failure.within(format_args!("the holder, told to end: {how:?}"));
                    return Err(diagnosis::explained(&self.child, failure));
                }
            }
        }
        self.child.reap_expecting(how.status()).context("the holder")
    }

    /// Sends a command to the holder and waits until it is done.
    #[track_caller]
    fn order(&self, order: &Order) -> Result {
        note!("holder {}: {order:?}", self.pid());
        let failure = match self.send(order).and_then(|()| read_byte(&self.orders)) {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => Failure::broken(format!("the holder ended instead of carrying out {order:?}")),
            Err(failure) => failure.within(format_args!("the holder, told to {order:?}")),
        };
        Err(diagnosis::explained(&self.child, failure))
    }

    fn send(&self, order: &Order) -> Result {
        Ok(writeln!(&self.orders, "{}", serde_json::json!(order))?)
    }
}

/// In the holder: executes commands until no process is left to send one.
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
    // If this fails, there is no other way to report an error.
    let _ = rustix::io::write(orders, b"k");
}

fn obey(order: &Order, orders: &UnixStream) -> Result {
    match *order {
        Order::Close(fd) if fd == orders.as_raw_fd() => {
            return Err(Failure::broken("a holder that closes its orders gets no more"));
        }
        // SAFETY: a holder uses no descriptor except that of its commands, and drops none.
        Order::Close(fd) => unsafe { close_copy(fd)? },
        // SAFETY: the descriptor is only used during the call, which fails with EBADF if it is not open.
        Order::KeepOverExec(fd) => keep_over_exec(unsafe { BorrowedFd::borrow_raw(fd) })?,
        Order::Exec => {
            return Err(Command::new("holder", &[])?.with_fd(orders).exec());
        }
        Order::End(how) => how.come(),
    }
    Ok(())
}

#[distributed_slice(HELPERS)]
static HOLDER: Helper = Helper { name: "holder", main: |arguments| or_wrong(main(arguments)) };

/// Entry point of the holder after its exec: acknowledges the exec, and takes commands from the descriptor in its argument.
fn main(arguments: &[String]) -> Result<i32> {
    let orders = UnixStream::from(fd(arguments, 0)?);
    acknowledge(&orders);
    Ok(serve(orders))
}
