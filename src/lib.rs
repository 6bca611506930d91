//! What conformance cases for the process-lifecycle flags of [`clone3(2)`] are written in.
//!
//! Linux 7.1 added `CLONE_AUTOREAP` (a child that never becomes a zombie), `CLONE_NNP` (no_new_privs from
//! birth) and `CLONE_PIDFD_AUTOKILL` (SIGKILL when the last reference to clone3's own pidfd goes away). This
//! library has the system-call layer that no published crate has yet ([`abi`], [`clone3`], [`pidfd`]), the
//! waiting primitives that need no sleep ([`wait`], [`kit`]), assertions that say what they expected
//! ([`check`]), and the [`sandbox`] in which every case runs in a process tree of its own.
//!
//! The arrows go one way: the runner knows the cases, the cases know this library, and the library knows no
//! case. All `unsafe` code of the project is in here.
//!
//! [`clone3(2)`]: https://man7.org/linux/man-pages/man2/clone.2.html

#![deny(missing_docs)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod abi;
mod address;
mod arch;
pub mod case;
pub mod check;
pub mod clone3;
pub mod compare;
pub mod elf;
pub mod errand;
pub mod expect;
pub mod formats;
pub mod guest;
pub mod host;
pub mod kit;
pub mod need;
pub mod pidfd;
pub mod probe;
pub mod procfs;
pub mod report;
pub mod results;
pub mod rules;
pub mod sandbox;
pub mod taint;
pub mod trail;
pub mod wait;

#[doc(hidden)]
pub use linkme;
