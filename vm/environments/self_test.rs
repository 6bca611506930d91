//! The sandbox's own test, as a program that a guest can carry: there it runs as root, so that every bad case can be bad.
#![forbid(unsafe_code)]

#[path = "../../runner/selftest/main.rs"]
mod selftest;

fn main() -> std::process::ExitCode {
    selftest::main()
}
