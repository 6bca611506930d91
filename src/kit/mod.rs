//! Shared set-up of the cases: each piece is one race-free way to do one thing.

pub mod actor;
pub mod cgroup;
pub mod channel;
pub mod disposition;
pub mod echo;
pub mod fdpass;
pub mod gate;
pub mod held;
pub mod helper;
pub mod namespace;
pub mod orphan;
pub mod privilege;
pub mod process;
pub mod programs;
pub mod sigchld;
pub mod threads;
pub mod tracer;

pub use actor::Actor;
pub use cgroup::Cgroup;
pub use channel::Channel;
pub use echo::Echo;
pub use gate::Gate;
pub use held::Held;
pub use orphan::Orphan;
