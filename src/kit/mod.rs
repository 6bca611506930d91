//! Shared set-up of the cases: each piece is one race-free way to do one thing.

pub mod channel;
pub mod echo;
pub mod fdpass;
pub mod gate;
pub mod held;
pub mod helper;
pub mod privilege;
pub mod process;
pub mod sigchld;
pub mod threads;

pub use channel::Channel;
pub use echo::Echo;
pub use gate::Gate;
pub use held::Held;
