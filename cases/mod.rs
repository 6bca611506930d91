//! What is tested: a file for each theme, a short function for each claim.
//!
//! A case is declared with [`case!`](clone3_conformance::case!): its claim, what a failure means, what it
//! needs, and where the claim comes from. Its function then reads like the claim.

mod autokill;
mod autoreap;
mod no_new_privs;
