//! How a case is declared and found.

use std::sync::LazyLock;

use linkme::distributed_slice;

use crate::check::Result;
use crate::need::Need;
use crate::probe::{series as series_of, version as version_of};

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

/// One scenario: a claim about the kernel, and the function that checks it. Declared with [`case!`](crate::case!).
#[derive(Debug)]
pub struct Case {
    /// The name, which is also the id of the claim.
    pub name: &'static str,
    /// The claim: the doc comment of the declaration.
    pub doc: &'static str,
    /// Where the claim comes from.
    pub source: &'static str,
    /// What a failure means.
    pub strength: Strength,
    /// What the case cannot do without.
    pub needs: &'static [Need],
    /// The first kernel series of which the claim is true, where the needs do not say it. An older kernel that
    /// does something else is without it; one that does as claimed passes.
    pub since: Option<&'static str>,
    /// Where mainline is known to break the claim. What the case finds counts as that only where it says so, with
    /// [`equal_or_defect`](crate::check::equal_or_defect); whatever else it finds is a failure.
    pub known_defect: Option<Defect>,
    /// The file that declares it, which names its theme.
    pub file: &'static str,
    /// The line of the declaration.
    pub line: u32,
    /// The scenario. Runs in a process of its own.
    pub body: fn() -> Result,
}

/// A defect of mainline that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The kernels on which it was seen, and what happens there.
    pub what: &'static str,
    /// Whether it takes luck to meet it: then a pass does not say that it is fixed.
    pub rare: bool,
    /// The first kernel that was seen without it: from that on it is a failure like any other.
    pub fixed: Option<&'static str>,
}

/// Every case that this program declares, by [`case!`](crate::case!), in no order.
#[distributed_slice]
pub static CASES: [Case];

impl Case {
    /// The claim as running text.
    pub fn claim(&self) -> String {
        self.doc.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The theme: the name of the file that declares it.
    pub fn theme(&self) -> &'static str {
        let file = self.file.rsplit('/').next().unwrap_or(self.file);
        file.strip_suffix(".rs").unwrap_or(file)
    }

    /// Whether the claim is about later kernels than this release.
    pub fn is_ahead_of(&self, release: &str) -> bool {
        self.since.is_some_and(|since| series_of(release) < series_of(since))
    }

    /// The known defect that a kernel of this release may have.
    pub fn defect_on(&self, release: &str) -> Option<Defect> {
        let is_mended = |fixed| version_of(release) >= version_of(fixed);
        self.known_defect.filter(|defect| !defect.fixed.is_some_and(is_mended))
    }

    /// Whether nothing else may run at the same time.
    pub fn runs_alone(&self) -> bool {
        self.needs.contains(&Need::GlobalChanges)
    }

    /// Whether the kernel's own selftest has a scenario of this name: the source says so.
    pub fn is_upstream(&self) -> bool {
        let word = |part: &'static str| part.split([' ', ';']).next();
        self.source.split("selftest ").skip(1).any(|part| word(part) == Some(self.name))
    }

    /// The first kernel series that has all that the case needs, as `7.1`.
    pub fn first_kernel(&self) -> Option<&'static str> {
        let series = self.needs.iter().filter_map(|need| need.since()).chain(self.since);
        series.max_by_key(|named| series_of(named))
    }
}

/// All cases of this program, in the order of their files and lines.
///
/// # Panics
/// If two cases have one name.
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

/// The case of that name.
pub fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

/// Declares a case. The function of that name stands next to it.
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
/// Behind the source may follow `, since "7.2"` (where the needs do not say it) and
/// `, known_defect "7.1 to 7.3: what happens"` (or `rare_defect`, where it takes luck to meet it), and behind that
/// `, fixed "7.3.4"`, the first kernel that was seen without it.
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
