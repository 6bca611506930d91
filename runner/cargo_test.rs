//! The suite as a `cargo test` target.
#[path = "main.rs"]
mod runner;

fn main() -> std::process::ExitCode {
    runner::main()
}
