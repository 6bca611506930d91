//! Assertions that return an error with what was expected, what was found, and the source location.
//!
//! A test case returns [`Result`], and `?` propagates a [`Failure`]. Failed assertions blame the kernel
//! ([`Kind::Fail`]); an unexpected error of a set-up call (`?` on an [`Errno`] or an [`std::io::Error`])
//! blames the suite ([`Kind::Broken`]).

use std::fmt::{Debug, Display};
use std::panic::Location;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// The result of a test case, or of a step of one.
pub type Result<T = ()> = std::result::Result<T, Failure>;

/// Returns the path of a source file relative to the project. The runner includes the cases through its own
/// directory.
pub fn source_path(file: &str) -> &str {
    file.strip_prefix("runner/../").unwrap_or(file)
}

/// What is to blame if a test case does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The kernel did not do what the claim says.
    Fail,
    /// The kernel violated the claim in exactly the way that the case's known defect describes.
    Defect,
    /// The environment forbids what the case needs.
    Blocked,
    /// The kernel lacks the feature that the case is about.
    Unsupported,
    /// The suite's own set-up failed.
    Broken,
}

/// The reason why a test case did not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What is to blame.
    pub kind: Kind,
    /// What was expected and what was found, or what is missing.
    pub message: String,
    /// The location of the check, as `file:line`.
    pub at: String,
}

impl Failure {
    #[track_caller]
    fn new(kind: Kind, message: impl Into<String>) -> Failure {
        let here = Location::caller();
        let at = format!("{}:{}", source_path(here.file()), here.line());
        Failure { kind, message: message.into(), at }
    }

    /// Creates a failure that blames the kernel: it did not do what the claim says.
    #[track_caller]
    pub fn fail(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Fail, message)
    }

    /// Creates a failure because the environment forbids what the case needs; `reason` names what is missing.
    #[track_caller]
    pub fn blocked(reason: impl Into<String>) -> Failure {
        Failure::new(Kind::Blocked, reason)
    }

    /// Creates a failure because the kernel lacks a feature; `reason` names it.
    #[track_caller]
    pub fn unsupported(reason: impl Into<String>) -> Failure {
        Failure::new(Kind::Unsupported, reason)
    }

    /// Creates a failure of the suite's own set-up.
    #[track_caller]
    pub fn broken(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Broken, message)
    }

    /// Returns the failure, with its message truncated if it is too long.
    pub(crate) fn truncated(mut self) -> Failure {
        const MAX_BYTES: usize = 16 * 1024;
        let at = self.message.floor_char_boundary(MAX_BYTES);
        let rest = self.message.len() - at;
        if rest > 0 {
            self.message.truncate(at);
            self.message.push_str(&format!(" [{rest} more bytes]"));
        }
        self
    }

    /// Returns the failure as the known defect that the case declares.
    pub fn as_defect(self) -> Failure {
        Failure { kind: Kind::Defect, ..self }
    }

    /// Returns the failure with the environment ruled out as its cause: what is missing was available to the
    /// control.
    pub fn after_control(self) -> Failure {
        let kind = if self.kind == Kind::Blocked { Kind::Fail } else { self.kind };
        Failure { kind, ..self }
    }

    /// Returns the failure with `context` in front of its message.
    pub fn within(mut self, context: impl Display) -> Failure {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl From<Errno> for Failure {
    #[track_caller]
    fn from(errno: Errno) -> Failure {
        match errno {
            // No test case is about the system call that failed here.
            Errno::ENOSYS => Failure::blocked(
                "set-up needs a system call that answers ENOSYS: the kernel was built without it, or a filter refuses it",
            ),
            errno => Failure::broken(format!("set-up failed with {}", Named(errno))),
        }
    }
}

impl From<rustix::io::Errno> for Failure {
    #[track_caller]
    fn from(errno: rustix::io::Errno) -> Failure {
        Failure::from(errno_of(errno))
    }
}

impl From<std::io::Error> for Failure {
    #[track_caller]
    fn from(error: std::io::Error) -> Failure {
        match error.raw_os_error() {
            Some(raw) => Failure::from(Errno::from_raw(raw)),
            None => Failure::broken(format!("set-up failed: {error}")),
        }
    }
}

/// Converts a rustix errno to the nix type that the checks compare.
pub fn errno_of(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

/// An errno, displayed with its name and description: `EINVAL (Invalid argument)`.
pub struct Named(pub Errno);

impl Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({})", self.0, self.0.desc())
    }
}

/// Returns the result of a call that is not tested itself and needs no privilege.
///
/// # Errors
/// `blocked` if the environment refuses it (EPERM, EACCES or ENOSYS): a seccomp filter, a security module, or the kernel's
/// configuration.
#[track_caller]
pub fn permitted<T>(call: impl Display, result: std::result::Result<T, Errno>) -> Result<T> {
    match result {
        Err(errno @ (Errno::EPERM | Errno::EACCES | Errno::ENOSYS)) => {
            Err(Failure::blocked(format!("{call} fails with {}", Named(errno))))
        }
        result => result.map_err(|errno| Failure::from(errno).within(call)),
    }
}

/// Describes the outcome of a call for messages: `success (3)`, or the name of the errno.
pub fn outcome_of<T: Debug>(result: &std::result::Result<T, Errno>) -> String {
    match result {
        Ok(value) => match format!("{value:?}").as_str() {
            "()" => "success".to_owned(),
            value => format!("success ({value})"),
        },
        Err(errno) => Named(*errno).to_string(),
    }
}

/// Adds a description of what was being done to a failure's message.
pub trait Context<T> {
    /// Puts `context` in front of the failure's message.
    fn context(self, context: impl Display) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, context: impl Display) -> Result<T> {
        self.map_err(|failure| failure.within(context))
    }
}

/// Checks that `got` equals `expected`; `what` names what was examined.
#[track_caller]
pub fn equal<T: PartialEq + Debug>(what: impl Display, got: T, expected: T) -> Result {
    if got == expected {
        return Ok(());
    }
    Err(Failure::fail(format!("{what}: expected {expected:?}, got {got:?}")))
}

/// Like [`equal`], where mainline is known to give `defective`: that value counts as the known defect that
/// the case declares. Any other wrong value is an ordinary failure.
#[track_caller]
pub fn equal_or_defect<T: PartialEq + Debug>(
    what: impl Display,
    got: T,
    expected: T,
    defective: T,
) -> Result {
    let kind = if got == defective { Kind::Defect } else { Kind::Fail };
    equal(what, got, expected).map_err(|failure| Failure { kind, ..failure })
}

/// Runs `body` for each subject, up to the first failure. If a subject shows the known defect that the case declares, the
/// others are still checked, because they could fail in a worse way.
pub fn each<T>(subjects: impl IntoIterator<Item = T>, mut body: impl FnMut(T) -> Result) -> Result {
    let (mut all, mut defects, mut first) = (0, 0, Ok(()));
    for subject in subjects {
        all += 1;
        match body(subject) {
            Err(failure) if failure.kind == Kind::Defect => {
                defects += 1;
                first = first.and(Err(failure));
            }
            // Less than a defect.
            Err(failure) if first.is_err() && matches!(failure.kind, Kind::Unsupported | Kind::Blocked) => {}
            other => other?,
        }
    }
    first.map_err(|mut failure: Failure| {
        failure.message.push_str(&format!(" ({defects} of {all} subjects)"));
        failure
    })
}

/// Checks that `condition` is true; `otherwise` says what was expected and what was found.
#[track_caller]
pub fn holds(condition: bool, otherwise: impl Display) -> Result {
    if condition {
        return Ok(());
    }
    Err(Failure::fail(otherwise.to_string()))
}

/// Checks that `call` succeeded. An error is blamed on the kernel.
#[track_caller]
pub fn succeeds<T>(what: impl Display, call: std::result::Result<T, Errno>) -> Result<T> {
    match call {
        Ok(value) => Ok(value),
        Err(errno) => Err(Failure::fail(format!("{what}: expected success, got {}", Named(errno)))),
    }
}

/// Checks that `call` failed with `expected`.
#[track_caller]
pub fn refused<T: Debug>(what: impl Display, call: std::result::Result<T, Errno>, expected: Errno) -> Result {
    match call {
        Err(errno) if errno == expected => Ok(()),
        other => {
            let got = outcome_of(&other);
            Err(Failure::fail(format!("{what}: expected {}, got {got}", Named(expected))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_names_expected_got_and_place() {
        let failure = refused("clone3()", Ok::<_, Errno>(7), Errno::EINVAL).unwrap_err();
        assert_eq!(failure.kind, Kind::Fail);
        assert_eq!(failure.message, "clone3(): expected EINVAL (Invalid argument), got success (7)");
        assert!(failure.at.starts_with("src/check.rs:"), "{}", failure.at);
    }

    #[test]
    fn what_the_control_had_is_not_missing_for_the_environment() {
        let kind = |failure: Failure| failure.after_control().kind;
        assert_eq!(kind(Failure::blocked("x")), Kind::Fail);
        assert_eq!(kind(Failure::broken("x")), Kind::Broken);
    }

    #[test]
    fn only_the_defect_that_was_named_is_one() {
        let kind = |got| equal_or_defect("n", got, 99, 11).map_err(|failure| failure.kind);
        assert_eq!((kind(99), kind(11), kind(12)), (Ok(()), Err(Kind::Defect), Err(Kind::Fail)));
    }

    #[test]
    fn a_defect_of_one_subject_hides_nothing_of_the_next() {
        let over = |got: &[i32]| each(got, |&got| equal_or_defect(format!("n{got}"), got, 99, 11));
        assert_eq!(over(&[99, 99]), Ok(()));
        assert_eq!(over(&[11, 12, 99]).unwrap_err().kind, Kind::Fail);
        let blocked = |got: &i32| match got {
            0 => Err(Failure::blocked("x")),
            &got => equal_or_defect("n", got, 99, 11),
        };
        assert_eq!(each(&[11, 0], blocked).unwrap_err().kind, Kind::Defect);
        assert_eq!(each(&[99, 0, 11], blocked).unwrap_err().kind, Kind::Blocked);
        let two = over(&[11, 99, 11]).unwrap_err();
        assert_eq!(two.kind, Kind::Defect);
        assert_eq!(two.message, "n11: expected 99, got 11 (2 of 3 subjects)");
    }

    #[test]
    fn a_question_mark_on_an_errno_blames_the_suite_at_its_own_line() {
        fn setup() -> Result {
            Err(Errno::EMFILE)?;
            Ok(())
        }
        let line = line!() - 3;
        let failure = setup().unwrap_err();
        assert_eq!(failure.kind, Kind::Broken);
        assert_eq!(failure.at, format!("src/check.rs:{line}"));
    }
}
