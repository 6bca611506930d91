//! Assertions that return an error which says what was expected, what came, and where.
//!
//! A case returns [`Result`]; `?` passes a [`Failure`] up. Failed assertions blame the kernel
//! ([`Kind::Fail`]); an unexpected error of a call that only prepares the ground (`?` on an [`Errno`] or an
//! [`std::io::Error`]) blames the suite ([`Kind::Broken`]).

use std::fmt::{Debug, Display};
use std::panic::Location;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// What a case, or a step of one, returns.
pub type Result<T = ()> = std::result::Result<T, Failure>;

/// The path of a source file as one would type it: the runner reaches the cases by way of its own folder.
pub fn source_path(file: &str) -> &str {
    file.strip_prefix("runner/../").unwrap_or(file)
}

/// Whose fault it is that a case did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The kernel did not do what the claim says.
    Fail,
    /// The kernel did not do what the claim says, in just the way that the case's known defect describes.
    Defect,
    /// The environment forbids what the case needs.
    Blocked,
    /// The kernel lacks what the case is about.
    Unsupported,
    /// The suite's own set-up went wrong.
    Broken,
}

/// Why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault it is.
    pub kind: Kind,
    /// What was expected and what came, or what is missing.
    pub message: String,
    /// `file:line` of the check.
    pub at: String,
}

impl Failure {
    #[track_caller]
    fn new(kind: Kind, message: impl Into<String>) -> Failure {
        let here = Location::caller();
        let at = format!("{}:{}", source_path(here.file()), here.line());
        Failure { kind, message: message.into(), at }
    }

    /// The kernel broke the claim.
    #[track_caller]
    pub fn fail(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Fail, message)
    }

    /// The environment forbids the case; `reason` names what is missing.
    #[track_caller]
    pub fn blocked(reason: impl Into<String>) -> Failure {
        Failure::new(Kind::Blocked, reason)
    }

    /// The kernel has no such feature; `reason` names it.
    #[track_caller]
    pub fn unsupported(reason: impl Into<String>) -> Failure {
        Failure::new(Kind::Unsupported, reason)
    }

    /// The suite's own set-up went wrong.
    #[track_caller]
    pub fn broken(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Broken, message)
    }

    /// The same failure, its message cut where it is longer than anybody reads.
    pub(crate) fn of_bearable_length(mut self) -> Failure {
        const LONGEST: usize = 16 * 1024;
        if let Some((at, _)) = self.message.char_indices().nth(LONGEST) {
            let rest = self.message.len() - at;
            self.message.truncate(at);
            self.message.push_str(&format!(" [{rest} more bytes]"));
        }
        self
    }

    /// The same failure, which is the known defect that the case declares.
    pub fn as_defect(self) -> Failure {
        Failure { kind: Kind::Defect, ..self }
    }

    /// The same failure, of which the environment is not to blame: what is missing was there for the control.
    pub fn after_control(self) -> Failure {
        let kind = if self.kind == Kind::Blocked { Kind::Fail } else { self.kind };
        Failure { kind, ..self }
    }

    /// The same failure, its message led by `context`.
    pub fn within(mut self, context: impl Display) -> Failure {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl From<Errno> for Failure {
    #[track_caller]
    fn from(errno: Errno) -> Failure {
        match errno {
            // Whatever it was, no case is about it.
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

/// An errno of rustix's as the one that checks compare.
pub fn errno_of(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

/// An errno by name and meaning: `EINVAL (Invalid argument)`.
pub struct Named(pub Errno);

impl Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({})", self.0, self.0.desc())
    }
}

/// Says how a call went, for messages: `success (3)` or the errno's name.
pub fn outcome_of<T: Debug>(result: &std::result::Result<T, Errno>) -> String {
    match result {
        Ok(value) => format!("success ({value:?})"),
        Err(errno) => Named(*errno).to_string(),
    }
}

/// Leads the message of a failure with what was being done.
pub trait Context<T> {
    /// Adds `context` in front of the failure's message.
    fn context(self, context: impl Display) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, context: impl Display) -> Result<T> {
        self.map_err(|failure| failure.within(context))
    }
}

/// `got` must equal `expected`; `what` says what was looked at.
#[track_caller]
pub fn equal<T: PartialEq + Debug>(what: impl Display, got: T, expected: T) -> Result {
    if got == expected {
        return Ok(());
    }
    Err(Failure::fail(format!("{what}: expected {expected:?}, got {got:?}")))
}

/// As [`equal`], where mainline is known to give `defective`: that is the known defect which the case declares.
/// Anything else is a failure as any other.
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

/// Runs `body` for each subject of a case that has a known defect. One that shows the defect does not keep the others from being
/// looked at, which could be worse off.
pub fn each<T>(subjects: impl IntoIterator<Item = T>, body: impl FnMut(T) -> Result) -> Result {
    let outcomes: Vec<Result> = subjects.into_iter().map(body).collect();
    let (all, mut defects) = (outcomes.len(), 0);
    let mut first = Ok(());
    for outcome in outcomes {
        match outcome {
            Err(failure) if failure.kind == Kind::Defect => {
                defects += 1;
                first = first.and(Err(failure));
            }
            other => other?,
        }
    }
    first.map_err(|mut failure| {
        failure.message.push_str(&format!(" ({defects} of {all} subjects)"));
        failure
    })
}

/// `condition` must hold; `otherwise` says what was expected and what came.
#[track_caller]
pub fn holds(condition: bool, otherwise: impl Display) -> Result {
    if condition {
        return Ok(());
    }
    Err(Failure::fail(otherwise.to_string()))
}

/// `call` must succeed; a refusal is the kernel's fault.
#[track_caller]
pub fn succeeds<T>(what: impl Display, call: std::result::Result<T, Errno>) -> Result<T> {
    match call {
        Ok(value) => Ok(value),
        Err(errno) => Err(Failure::fail(format!("{what}: expected success, got {}", Named(errno)))),
    }
}

/// `call` must be refused with `expected`.
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
