//! Helpers for tests that run the runner's binary.

use std::process::{Command, Output};

pub const RUNNER: &str = env!("CARGO_BIN_EXE_clone3-conformance");

pub fn run(arguments: &[&str]) -> Output {
    Command::new(RUNNER).args(arguments).output().expect("the runner starts")
}

pub fn status(output: &Output) -> i32 {
    output.status.code().expect("the runner was not killed")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
