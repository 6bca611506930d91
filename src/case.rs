//! The declaration of test cases and the list of all of them.

use std::sync::LazyLock;

use linkme::distributed_slice;

use crate::check::Result;
use crate::need::Need;
use crate::version::Version;

/// What a failed case means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Strength {
    /// Documented: by a commit message, a manual page, a comment in a uapi header, POSIX, or a maintainer.
    #[default]
    Must,
    /// Observed in mainline and not documented: a difference is a *deviation*, not a failure.
    Is,
}

impl std::fmt::Display for Strength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Strength::Must => "MUST",
            Strength::Is => "IS",
        })
    }
}

/// One test case: a claim about the kernel, and the function that checks it. Declared with
/// [`case!`](crate::case!).
#[derive(Debug)]
pub struct Case {
    /// The name, which is also the ID of the claim.
    pub name: &'static str,
    /// The claim: the doc comment of the declaration.
    pub doc: &'static str,
    /// Where the claim comes from.
    pub source: &'static str,
    /// What a failure means.
    pub strength: Strength,
    /// What the case requires.
    pub needs: &'static [Need],
    /// The first kernel series for which the claim is true, where `needs` does not say it. On an older kernel
    /// that behaves differently the case is unsupported; if the kernel behaves as claimed, the case passes.
    pub since: Option<&'static str>,
    /// Where mainline is known to violate the claim. A result counts as this defect only where the case says
    /// so, with [`equal_or_defect`](crate::check::equal_or_defect) or
    /// [`as_defect`](crate::check::Failure::as_defect); any other violation is a failure.
    pub known_defect: Option<Defect>,
    /// The source file of the declaration. It determines the theme.
    pub file: &'static str,
    /// The line of the declaration.
    pub line: u32,
    /// The function that checks the claim. It runs in its own process.
    pub body: fn() -> Result,
}

/// A known defect of mainline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The kernels on which it was observed, and what happens there.
    pub what: &'static str,
    /// Whether the defect occurs only by chance. If so, a pass does not mean that it is fixed.
    pub rare: bool,
    /// The first kernel on which the defect was not observed. From that kernel on it counts as an ordinary
    /// failure.
    pub fixed: Option<&'static str>,
}

/// All cases that this program declares with [`case!`](crate::case!), in no particular order.
#[distributed_slice]
pub static CASES: [Case];

impl Case {
    /// Returns the claim as running text.
    pub fn claim(&self) -> String {
        self.doc.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Returns the theme: the name of the source file without its extension.
    pub fn theme(&self) -> &'static str {
        let file = self.file.rsplit('/').next().unwrap_or(self.file);
        file.strip_suffix(".rs").unwrap_or(file)
    }

    /// Returns whether the claim holds only for kernels later than this release.
    pub fn is_ahead_of(&self, release: &str) -> bool {
        self.since.is_some_and(|since| Version::of(release).is_before(since))
    }

    /// Returns the known defect if a kernel of this release may have it.
    pub fn defect_on(&self, release: &str) -> Option<Defect> {
        let is_fixed = |fixed: &str| !Version::of(release).is_before(fixed);
        self.known_defect.filter(|defect| !defect.fixed.is_some_and(is_fixed))
    }

    /// Returns whether nothing else may run at the same time.
    pub fn runs_alone(&self) -> bool {
        self.needs.contains(&Need::GlobalChanges)
    }

    /// Returns whether the kernel's own selftests have a test of this name, according to the source.
    pub fn is_upstream(&self) -> bool {
        let word = |part: &'static str| part.split([' ', ';']).next();
        self.source.split("selftest ").skip(1).any(|part| word(part) == Some(self.name))
    }

    /// Returns the first kernel series that has everything that the case needs, such as `7.1`.
    pub fn first_kernel(&self) -> Option<&'static str> {
        let series = self.needs.iter().filter_map(|need| need.since()).chain(self.since);
        series.max_by(|one, other| Version::of(one).to(&Version::of(other)))
    }
}

/// Returns all cases of this program, ordered by file and line.
///
/// # Panics
/// If two cases have the same name.
pub fn all() -> &'static [&'static Case] {
    static ALL: LazyLock<Vec<&Case>> = LazyLock::new(sorted);
    &ALL
}

fn sorted() -> Vec<&'static Case> {
    let mut cases: Vec<&Case> = CASES.iter().collect();
    cases.sort_by_key(|case| (case.file, case.line));
    let mut names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        panic!("two cases are called {}", pair[0]);
    }
    cases
}

/// Returns the case with this name.
pub fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

/// Declares a test case. The function of the same name must be in scope.
///
/// ```
/// use clone3_conformance::{case, check::{self, Result}};
///
/// case! {
///     /// A process has a pid.
///     process_has_a_pid: Must, needs [],
///     source "getpid(2)",
/// }
/// fn process_has_a_pid() -> Result {
///     check::holds(std::process::id() > 0, "expected a pid, got 0")
/// }
/// ```
///
/// Optional fields may follow the source: `, since "7.2"` (where the needs do not say it), then
/// `, known_defect "7.1 to 7.3: what happens"` (or `rare_defect`, if it occurs only by chance), then
/// `, fixed "7.3.4"` or `"7.3-rc5"`, the first kernel on which the defect was not observed (`"7.3"` means 7.3-rc1).
#[macro_export]
macro_rules! case {
    (
        $(#[doc = $doc:literal])+
        $name:ident: $strength:ident, needs [$($need:ident),* $(,)?],
        source $source:literal
        $(, since $since:literal)?
        $(, known_defect $defect:literal)?
        $(, rare_defect $rare:literal)?
        $(, fixed $fixed:literal)?
        $(,)?
    ) => {
        const _: () = {
            #[$crate::linkme::distributed_slice($crate::case::CASES)]
            #[linkme(crate = $crate::linkme)]
            static CASE: $crate::case::Case = $crate::case::Case {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),+),
                source: $source,
                strength: $crate::case::Strength::$strength,
                needs: &[$($crate::need::Need::$need),*],
                since: $crate::case!(@option $($since)?),
                known_defect: $crate::case!(@defect $($defect, false)? $($rare, true)? $(, $fixed)?),
                file: file!(),
                line: line!(),
                body: $name,
            };
        };
    };
    (@defect) => { None };
    (@defect $what:literal, $rare:literal $(, $fixed:literal)?) => {
        Some($crate::case::Defect { what: $what, rare: $rare, fixed: $crate::case!(@option $($fixed)?) })
    };
    (@option) => { None };
    (@option $value:literal) => { Some($value) };
}
