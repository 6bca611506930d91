//! The runner.
mod init;

pub fn main() {
    if init::is_init() {
        init::run();
    }
    println!("no cases yet");
}
