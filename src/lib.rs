//! What conformance cases for `clone3(2)` are written in.
pub mod guest;
pub mod host;
