//! The suite as a `cargo test` target.
#[path = "main.rs"]
mod runner;

fn main() {
    runner::main();
}
