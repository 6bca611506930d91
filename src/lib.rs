//! What conformance cases for `clone3(2)` are written in.
