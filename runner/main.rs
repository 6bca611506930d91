//! The runner.
pub fn main() {
    println!("no cases yet");
}
