//! What is tested: a file for each theme, a short function for each claim.
//!
//! A case is declared with [`case!`](clone3_conformance::case!): its claim, what a failure means, what it
//! needs, and where the claim comes from. Its function then reads like the claim.

mod accompanied;
mod arguments;
mod autokill;
mod autoreap;
mod closers;
mod combinations;
mod compat;
mod coredump;
mod descendants;
mod elevation;
mod errors;
mod fields;
mod holders;
mod inheritance;
mod io_uring;
mod job_control;
mod likeness;
mod neighbours;
mod no_new_privs;
mod pidfd_events;
mod pidfd_file;
mod pidfd_info;
mod pidfd_info_arguments;
mod pidfd_info_credentials;
mod pidfd_info_exec;
mod pidfd_info_namespaces;
mod pidns_reboot;
mod privilege;
mod ptrace;
mod ptrace_by_others;
mod ptrace_threads;
mod references;
mod remains;
mod reopening;
mod reparenting;
mod resources;
mod set_tid;
mod shared_files;
mod sigchld;
mod sockets;
mod targets;
mod threads;
mod traced;
mod waiters;
mod waiting;
