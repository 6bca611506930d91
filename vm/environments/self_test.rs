//! The sandbox's own test as a program for guests, where it runs as root, so that every bad case can misbehave.
#![forbid(unsafe_code)]

#[path = "../../runner/selftest/main.rs"]
mod selftest;

fn main() -> std::process::ExitCode {
    selftest::main()
}
