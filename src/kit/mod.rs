//! Shared set-up of the cases: each piece is one race-free way to do one thing.

pub mod actor;
pub mod cgroup;
pub mod channel;
pub mod core_pattern;
pub mod coredump;
pub mod crash;
pub mod echo;
pub mod fdpass;
pub mod gate;
pub mod held;
pub mod helper;
pub mod holder;
pub mod namespace;
pub mod privilege;
pub mod process;
pub mod programs;
pub mod sigchld;
pub mod subject;
pub mod threads;

pub use actor::Actor;
pub use cgroup::Cgroup;
pub use channel::Channel;
pub use echo::Echo;
pub use gate::Gate;
pub use held::Held;
pub use holder::{End, Holder};
