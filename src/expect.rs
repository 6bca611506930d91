//! Expectations: the known failures on each kernel, with reasons, so that a run highlights only what is new.
//!
//! `docs/expectations.md` describes the format, with an example.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::need::Need;
use crate::report::Verdict;
use crate::version::Version;

/// What is expected of one case on one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Expected {
    /// The verdict that it will get: fail, unsupported or deviation.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
}

impl Expected {
    /// Returns whether this verdict is the expected one. A known defect counts as a failure.
    pub fn is_met_by(&self, verdict: Verdict) -> bool {
        verdict == self.verdict || (self.verdict == Verdict::Fail && verdict == Verdict::KnownDefect)
    }
}

/// The rules of an expectations file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    #[serde(default, rename = "expect")]
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// The ID of a claim; with a trailing `*`, all claims that begin so. May be omitted if `needs` is given.
    claim: Option<String>,
    /// A feature that a case must need for the rule to apply to it.
    #[serde(default, deserialize_with = "feature")]
    needs: Option<Need>,
    kernel: Range,
    /// A string that `uname -r` must contain, in addition to the version being in the range.
    #[serde(default)]
    release: String,
    #[serde(deserialize_with = "expectable")]
    verdict: Verdict,
    #[serde(deserialize_with = "not_empty")]
    reason: String,
}

/// Parses an expectations file.
///
/// # Errors
/// A one-line description of what is wrong with it, with the line number.
pub fn parse(text: &str) -> Result<Expectations, String> {
    let expectations: Expectations = toml::from_str(text).map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
        format!("line {line}: {}", error.message().lines().collect::<Vec<_>>().join(" "))
    })?;
    match expectations.rules.iter().position(Rule::is_of_all) {
        Some(rule) => Err(format!("rule {}: neither claim nor needs says what it is about", rule + 1)),
        None => Ok(expectations),
    }
}

impl Expectations {
    /// Returns what the rules expect of these cases, each given with its needs, on a kernel of that release.
    /// The first matching rule applies.
    pub fn on<'a>(
        &self,
        release: &str,
        cases: impl IntoIterator<Item = (&'a str, &'a [Need])>,
    ) -> BTreeMap<String, Expected> {
        let version = Version::of(release);
        let is_of_kernel = |rule: &Rule| rule.kernel.contains(&version) && release.contains(&rule.release);
        let expected = |(case, needs): (&str, &[Need])| {
            let fits = |rule: &&Rule| rule.names(case) && rule.is_of_needs(needs) && is_of_kernel(rule);
            let rule = self.rules.iter().find(fits)?;
            Some((case.to_owned(), Expected { verdict: rule.verdict, reason: rule.reason.clone() }))
        };
        cases.into_iter().filter_map(expected).collect()
    }

    /// Returns the claim of a rule that matches none of these cases.
    pub fn unknown_claim(&self, cases: &[&str]) -> Option<&str> {
        let is_unknown = |rule: &&Rule| !cases.iter().any(|case| rule.names(case));
        self.rules.iter().find(is_unknown)?.claim.as_deref()
    }
}

impl Rule {
    /// Returns whether the rule does not say which cases it applies to.
    fn is_of_all(&self) -> bool {
        self.claim.is_none() && self.needs.is_none()
    }

    fn names(&self, case: &str) -> bool {
        let Some(claim) = &self.claim else { return true };
        match claim.strip_suffix('*') {
            Some(beginning) => case.starts_with(beginning),
            None => claim == case,
        }
    }

    fn is_of_needs(&self, needs: &[Need]) -> bool {
        self.needs.is_none_or(|feature| needs.iter().any(|need| need.implies(feature)))
    }
}

fn feature<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Need>, D::Error> {
    let name = String::deserialize(from)?;
    match Need::feature(&name) {
        None => Err(serde::de::Error::custom(format!(
            "'{name}' is no feature; {} are",
            Need::FEATURES.map(Need::name).join(", ")
        ))),
        known => Ok(known),
    }
}

fn expectable<'de, D: Deserializer<'de>>(from: D) -> Result<Verdict, D::Error> {
    match String::deserialize(from)?.as_str() {
        "fail" => Ok(Verdict::Fail),
        "unsupported" => Ok(Verdict::Unsupported),
        "deviation" => Ok(Verdict::Deviation),
        other => Err(serde::de::Error::custom(format!(
            "unknown verdict '{other}'; expected fail, unsupported or deviation"
        ))),
    }
}

fn not_empty<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let reason = String::deserialize(from)?;
    match reason.trim() {
        "" => Err(serde::de::Error::custom("an expectation needs a reason, and this one is empty")),
        _ => Ok(reason),
    }
}

/// A set of kernel versions: `*`, `7.1`, `>=6.12.50, <6.13`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range(Vec<(Vec<Ordering>, Version)>);

impl Range {
    fn contains(&self, version: &Version) -> bool {
        self.0.iter().all(|(orders, bound)| orders.contains(&version.to(bound)))
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        use Ordering::{Equal, Greater, Less};
        if text.trim() == "*" {
            return Ok(Range(Vec::new()));
        }
        let bound = |term: &str| {
            let term = term.trim();
            let end = term.find(|c: char| !"<>=".contains(c)).unwrap_or(term.len());
            let orders = match &term[..end] {
                "" | "=" => vec![Equal],
                "<" => vec![Less],
                "<=" => vec![Less, Equal],
                ">" => vec![Greater],
                ">=" => vec![Greater, Equal],
                other => return Err(format!("unknown operator '{other}'; expected <, <=, =, >= or >")),
            };
            Ok((orders, term[end..].trim().parse()?))
        };
        text.split(',').map(bound).collect::<Result<_, _>>().map(Range)
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Range, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rule: &str) -> String {
        format!("# A comment.\n[[expect]]\n{rule}\n")
    }

    #[test]
    fn the_file_for_mainline_is_correct_and_empty() {
        let mainline = include_str!("../expectations/mainline.toml");
        assert_eq!(parse(mainline), Ok(Expectations::default()));
    }

    #[test]
    fn a_range_holds_the_series_that_it_names() {
        let contains = |range: &str, release: &str| {
            range.parse::<Range>().expect("a range").contains(&Version::of(release))
        };
        for (range, release, expected) in [
            ("*", "5.10.0-35-cloud-amd64", true),
            ("7.1", "7.1.13+deb13-cloud-amd64", true),
            ("7.1", "7.1-rc2", true),
            ("7.1", "7.10.1", false),
            ("7.1.1", "7.1.13", false),
            ("<=7.1", "7.1.13", true),
            ("<7.1", "7.1-rc2", false),
            (">7.1", "7.1.13", false),
            (">=7.1, <7.3", "7.2.13", true),
            (">=7.1, <7.3", "7.3-rc7-amd64", false),
            (">=7.3-rc5", "7.3-rc7-amd64", true),
            (">=7.3-rc5", "7.3.4", true),
            ("<7.3-rc8", "7.3-rc7-amd64", true),
            ("5.14.0", "5.14.0-570.el9.x86_64", true),
        ] {
            assert_eq!(contains(range, release), expected, "{range} {release}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let text = file("claim = \"nnp_a\"\nkernel = \"7.1\"\nverdict = \"fail\"\nreason = \"one\"")
            + &file(
                "claim = \"nnp_*\"\nkernel = \"*\"\nrelease = \"deb\"\nverdict = \"unsupported\"\nreason = \"all\"",
            );
        let rules = parse(&text).expect("a correct file");
        let on = |release| {
            rules
                .on(release, ["nnp_a", "nnp_b", "other"].map(|case| (case, &[][..])))
                .into_iter()
                .map(|(case, expected)| format!("{case}: {}", expected.reason))
                .collect::<Vec<_>>()
        };
        assert_eq!(on("7.1.13+deb13"), ["nnp_a: one", "nnp_b: all"]);
        assert_eq!(on("7.2.13+deb13"), ["nnp_a: all", "nnp_b: all"]);
        assert_eq!(on("7.1.13"), ["nnp_a: one"]);
        assert_eq!(rules.unknown_claim(&["nnp_b"]), Some("nnp_a"));
        assert_eq!(rules.unknown_claim(&["nnp_a"]), None);
    }

    #[test]
    fn a_rule_may_be_about_what_needs_a_feature() {
        let rest = "kernel = \"*\"\nverdict = \"unsupported\"\nreason = \"no\"";
        let on = |rule: &str| {
            let rules = parse(&file(&format!("{rule}\n{rest}"))).expect("a correct file");
            let needs = [&[Need::Autokill, Need::ExitInfo][..], &[Need::ExitInfo], &[Need::Autoreap], &[]];
            let cases = ["autokill_a", "abi_b", "abi_c", "abi_d"].into_iter().zip(needs);
            rules.on("6.12.9", cases).into_keys().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(on("needs = \"CLONE_PIDFD_AUTOKILL\""), "autokill_a");
        assert_eq!(on("needs = \"PIDFD_INFO_EXIT\""), "abi_b autokill_a");
        assert_eq!(on("needs = \"PIDFD_GET_INFO\""), "abi_b autokill_a");
        assert_eq!(on("claim = \"abi_*\"\nneeds = \"PIDFD_INFO_EXIT\""), "abi_b");
        assert_eq!(on("claim = \"*\""), "abi_b abi_c abi_d autokill_a");
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let wrong = |rule: &str| parse(&file(rule)).unwrap_err();
        for (rule, expected) in [
            ("claim = \"a\"\nkernel = \"*\"\nverdict = \"fail\"", "line 2: missing field `reason`"),
            (
                "claim = \"a\"\nkernel = \"*\"\nverdict = \"fail\"\nreason = \" \"",
                "line 6: an expectation needs",
            ),
            ("claim = \"a\"\nkernel = \"new\"", "line 4: 'new' is not a kernel version"),
            ("claim = \"a\"\nkernel = \"=>7\"", "line 4: unknown operator '=>'"),
            ("verdict = \"pass\"", "line 3: unknown verdict 'pass'"),
            ("klaim = \"a\"", "line 3: unknown field `klaim`"),
            ("needs = \"AUTOKILL\"", "line 3: 'AUTOKILL' is no feature; CLONE_AUTOREAP, "),
            (
                "kernel = \"*\"\nverdict = \"fail\"\nreason = \"a\"",
                "rule 1: neither claim nor needs says what",
            ),
            ("claim", "line 3: "),
        ] {
            let error = wrong(rule);
            assert!(error.starts_with(expected) && error.lines().count() == 1, "{rule}: {error}");
        }
    }
}
