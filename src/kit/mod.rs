//! Shared helpers for the cases, each of which does one thing without a race.
//!
//! Besides a plain [`Child`](crate::clone3::Child) that runs a closure, a case can use these processes:
//!
//! | | made by | does | ends |
//! |---|---|---|---|
//! | [`Held`] | the case | waits at a gate | when it is let go, as chosen at its creation |
//! | [`Echo`] | the case | answers pings, which show at once and reliably whether it is alive | when it is killed |
//! | [`AutokillChild`] | the case, for auto-kill | as `Echo`, with a second pidfd to watch it by | with the last close of its pidfd |
//! | [`Actor`] | the case | executes instructions one by one and answers each when it is done | when it is dismissed |
//! | [`Creator`] | the case | waits at a gate, makes one child, and waits until it is gone | when the child is gone |
//! | [`Holder`] | the case | holds descriptors | as requested: killed, by exec, by a crash … |
//! | [`Pair`](pair::Pair) | the case | waits in two threads, each at its own gate | thread by thread |
//! | [`Grandchild`] | a live child of the case | waits at a gate | when it is let go; its parent by `orphan()` |
//! | [`Orphan`] | a child of the case that has exited | waits at a gate | when it is let go |
//! | [`ChildOfInit`](child_of_init::ChildOfInit) | a program without a subreaper | is a child of process 1 | when it is let go |

pub mod actor;
pub mod aio;
pub mod alternate_stack;
pub mod autokill_child;
pub mod blocked;
pub mod cgroup;
pub mod channel;
pub mod child_of_init;
pub mod compat;
pub mod coredump;
pub mod crash;
pub mod creator;
mod diagnosis;
pub(crate) mod discarded_signal;
pub mod disposition;
pub mod echo;
pub mod epoll;
pub mod errands;
pub mod eventually;
pub mod exec_race;
pub mod exit_race;
pub mod fdpass;
pub mod fds;
pub mod filtered_calls;
pub mod forker;
pub mod gate;
pub mod grandchild;
pub mod halted;
pub mod handles;
pub mod handover;
pub mod held;
pub mod helper;
pub mod holder;
pub mod inheritable;
pub mod inherited;
pub mod leaks;
pub mod legacy;
pub mod limits;
pub mod listns;
pub mod mapping;
pub mod meeting;
pub mod message_queue;
pub mod namespace;
pub mod oom_score_adj;
pub mod orphan;
pub mod outcome;
pub mod outsider;
pub mod pair;
pub mod perf;
mod place;
pub mod privilege;
pub mod process;
pub mod processors;
pub mod programs;
pub mod replacing;
pub mod robust_futex;
pub mod rseq;
pub mod sandboxing;
pub mod seccomp;
pub mod segment;
pub mod semaphore;
pub mod setuid;
pub mod shared;
pub mod sigchld;
pub mod sleeper;
mod stand_in;
pub mod subject;
pub mod sysctl;
pub mod terminal;
pub mod threads;
pub mod timer;
pub mod tracer;
pub mod uring;
pub mod usage;
pub mod user_dispatch;
pub mod userfault;
pub mod wait_call;

pub use actor::Actor;
pub use autokill_child::AutokillChild;
pub use blocked::Blocked;
pub use cgroup::Cgroup;
pub use channel::Channel;
pub use creator::Creator;
pub use echo::Echo;
pub use exit_race::ExitRace;
pub use gate::Gate;
pub use grandchild::Grandchild;
pub use halted::Halted;
pub use handover::Handover;
pub use held::Held;
pub use holder::{End, Holder};
pub use orphan::Orphan;
pub use place::Place;
pub use wait_call::{Found, WaitCall};
