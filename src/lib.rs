//! The library with which the conformance test cases for the process-lifecycle flags of [`clone3(2)`] are
//! written.
//!
//! Linux 7.1 added `CLONE_AUTOREAP` (a child that never becomes a zombie), `CLONE_NNP` (a child that starts
//! with no_new_privs set) and `CLONE_PIDFD_AUTOKILL` (SIGKILL when the last reference to the pidfd that
//! clone3 returned is dropped). This library contains, from the bottom up:
//!
//! - the system call layer that no published crate has yet: [`abi`], [`clone3`], [`pidfd`], [`wait`];
//! - what cases are written with: assertions that report what they expected ([`check`]), the declaration of a case
//!   ([`case`](mod@case)) and of what it needs ([`need`], [`probe`]), and race-free helpers ([`kit`]);
//! - the [`sandbox`], which runs every case in its own process tree, and the [`trail`] of what a case did;
//! - verdicts and what is made of them: [`report`], [`results`], [`expect`], [`formats`], [`compare`];
//! - what the programs in `vm/` share with the runner in a guest: [`guest`], [`exit_status`], [`usage`],
//!   [`host`], [`elf`].
//!
//! Dependencies go one way: the runner depends on the cases, the cases depend on this library, and the
//! library depends on no case. All `unsafe` code of the project is in this library.
//!
//! [`clone3(2)`]: https://man7.org/linux/man-pages/man2/clone.2.html

#![deny(missing_docs)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod abi;
mod address;
mod arch;
pub mod case;
pub mod check;
mod child;
pub mod clone3;
pub mod compare;
pub mod elf;
pub mod errand;
pub mod exit_status;
pub mod expect;
pub mod formats;
pub mod guest;
pub mod host;
pub mod kit;
pub mod need;
mod parent;
pub mod pidfd;
pub mod probe;
pub mod procfs;
pub mod report;
pub mod results;
pub mod rules;
pub mod sandbox;
mod stack;
pub mod taint;
pub mod trail;
pub mod usage;
pub mod version;
pub mod wait;

#[doc(hidden)]
pub use linkme;
