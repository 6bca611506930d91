//! Shared set-up of the cases: each piece is one race-free way to do one thing.

pub mod actor;
pub mod cgroup;
pub mod channel;
pub mod compat;
pub mod echo;
pub mod fdpass;
pub mod fds;
pub mod gate;
pub mod handles;
pub mod held;
pub mod helper;
pub mod holder;
pub mod legacy;
pub mod limits;
pub mod namespace;
pub mod orphan;
pub mod privilege;
pub mod process;
pub mod programs;
pub mod sandboxing;
pub mod setuid;
pub mod sigchld;
pub mod sleeper;
pub mod threads;
pub mod tied;
pub mod tracer;
pub mod uring;

pub use actor::Actor;
pub use cgroup::Cgroup;
pub use channel::Channel;
pub use echo::Echo;
pub use gate::Gate;
pub use held::Held;
pub use holder::{End, Holder};
pub use orphan::Orphan;
pub use tied::Tied;
