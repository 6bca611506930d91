//! Errors of the command line.

use std::io::Write as _;
use std::process::exit;

use crate::exit_status::{BROKEN, GOOD, USAGE};

/// Prints what clap has to say and exits: help and the version to stdout, what is wrong with the command line as one line to
/// stderr.
pub fn exit_with(error: &clap::Error) -> ! {
    if !error.use_stderr() {
        exit(i32::from(if error.print().is_ok() { GOOD } else { BROKEN }));
    }
    // If stderr cannot be written, only the exit status reports it.
    let _ = writeln!(std::io::stderr(), "{}", in_a_line(&error.render().to_string()));
    exit(i32::from(USAGE))
}

/// Joins the paragraphs of an error, without the ones that are the same in each.
fn in_a_line(text: &str) -> String {
    let is_told = |line: &&str| {
        !line.is_empty() && !line.starts_with("Usage: ") && !line.starts_with("For more information")
    };
    text.lines().map(str::trim).filter(is_told).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_tip() {
        let text = "error: unexpected argument '--stric' found\n\n  tip: a similar argument exists: '--strict'\n\n\
                    Usage: clone3-conformance [OPTIONS]\n\nFor more information, try '--help'.\n";
        let line = "error: unexpected argument '--stric' found; tip: a similar argument exists: '--strict'";
        assert_eq!(in_a_line(text), line);
    }
}
