//! The forms of `--kernel`.
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::arch::Arch;

/// The default flavor: the smallest one, made for virtual machines.
pub const USUAL_FLAVOR: &str = "cloud-amd64";

/// The kernel that `--kernel` selects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Spec {
    /// A kernel image, a kernel build tree or a kernel package.
    Path(PathBuf),
    /// The newest kernel in the archive whose version starts with `prefix`.
    Version { prefix: String, flavor: Option<String> },
    /// The newest kernel of one suite of the archive.
    Suite { suite: String, flavor: Option<String> },
    /// A kernel that virtme-ng downloads, by its tag.
    Mainline(String),
}

impl Spec {
    /// Returns the architecture of the selected kernel, as far as the spec says; a path does not.
    pub fn arch(&self) -> Arch {
        match self {
            Self::Version { flavor, .. } | Self::Suite { flavor, .. } => Arch::of_flavor(or_usual(flavor)),
            Self::Path(_) | Self::Mainline(_) => Arch::Amd64,
        }
    }

    /// Returns a copy that has this flavor if it has none.
    pub fn or_flavor(&self, usual: &str) -> Self {
        let mut spec = self.clone();
        if let Self::Version { flavor, .. } | Self::Suite { flavor, .. } = &mut spec {
            flavor.get_or_insert_with(|| usual.to_owned());
        }
        spec
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(suite) = text.strip_prefix("debian:") {
            let (suite, flavor) = split_flavor(suite)?;
            return match is_word(suite) {
                true => Ok(Self::Suite { suite: suite.to_owned(), flavor }),
                false => Err(format!("debian:SUITE needs a suite, as in debian:sid; got '{text}'")),
            };
        }
        if text.strip_prefix('v').is_some_and(is_version) {
            return Ok(Self::Mainline(text.to_owned()));
        }
        if let Ok((version, flavor)) = split_flavor(text)
            && is_version(version)
        {
            let (prefix, flavor) = split_release(version).unwrap_or((version.to_owned(), flavor));
            return match split_release(&prefix) {
                None => Ok(Self::Version { prefix, flavor }),
                Some(_) => Err(format!("a version has one flavor, as in 7.1/rt; got '{text}'")),
            };
        }
        if text.contains('/') || Path::new(text).exists() {
            return Ok(Self::Path(text.into()));
        }
        Err(format!(
            "'{text}' is not a kernel: give a path (vmlinuz, vmlinux, Image, build tree, .deb), a version such as 7.1 or 7.2.13, \
             debian:SUITE[/FLAVOR] or vX.Y"
        ))
    }
}

/// Returns the given flavor, or the default one.
pub fn or_usual(flavor: &Option<String>) -> &str {
    flavor.as_deref().unwrap_or(USUAL_FLAVOR)
}

/// Splits off the flavor, if there is one.
fn split_flavor(text: &str) -> Result<(&str, Option<String>), String> {
    let Some((rest, flavor)) = text.split_once('/') else { return Ok((text, None)) };
    match is_word(flavor) {
        true => Ok((rest, Some(flavor_name(flavor)))),
        false => Err(format!(
            "a flavor is a word such as amd64, cloud-amd64, rt-amd64 or cloud-arm64; got '{flavor}'"
        )),
    }
}

/// Returns the flavor's full name: `rt` becomes `rt-amd64`.
pub fn flavor_name(flavor: &str) -> String {
    let is_in_full = Arch::ALL.iter().any(|arch| flavor.contains(arch.name()));
    match flavor {
        "generic" => "amd64".to_owned(),
        flavor if is_in_full => flavor.to_owned(),
        flavor => format!("{flavor}-amd64"),
    }
}

/// Splits a full kernel release, as `uname -r` prints it: `7.1.13+deb13-rt-amd64`.
fn split_release(text: &str) -> Option<(String, Option<String>)> {
    let mut flavors = Arch::ALL.iter().flat_map(|arch| arch.flavors());
    flavors.find_map(|flavor| {
        let version = text.strip_suffix(flavor)?.strip_suffix('-')?;
        Some((version.to_owned(), Some((*flavor).to_owned())))
    })
}

fn is_version(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(|char| char.is_ascii_alphanumeric() || ".+~-_".contains(char))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char))
}

impl fmt::Display for Spec {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(out),
            Self::Version { prefix, flavor } => write!(out, "{prefix}{}", Unusual(flavor)),
            Self::Suite { suite, flavor } => write!(out, "debian:{suite}{}", Unusual(flavor)),
            Self::Mainline(tag) => out.write_str(tag),
        }
    }
}

/// A flavor as written after a version: nothing for the default one.
struct Unusual<'a>(&'a Option<String>);

impl fmt::Display for Unusual<'_> {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match or_usual(self.0) {
            USUAL_FLAVOR => Ok(()),
            flavor => write!(out, "/{flavor}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(flavor: &str) -> Option<String> {
        (!flavor.is_empty()).then(|| flavor.to_owned())
    }

    fn version(prefix: &str, flavor: &str) -> Spec {
        Spec::Version { prefix: prefix.into(), flavor: said(flavor) }
    }

    #[test]
    fn every_form_is_understood() {
        let suite = |suite: &str, flavor: &str| Spec::Suite { suite: suite.into(), flavor: said(flavor) };
        for (text, spec) in [
            ("7.1", version("7.1", "")),
            ("7.1/cloud-amd64", version("7.1", "cloud-amd64")),
            ("7.2.13/rt", version("7.2.13", "rt-amd64")),
            ("7.3-rc7/amd64", version("7.3-rc7", "amd64")),
            ("7.1.13+deb13-rt-amd64", version("7.1.13+deb13", "rt-amd64")),
            ("6.1.0-56-amd64", version("6.1.0-56", "amd64")),
            ("7.1/cloud-arm64", version("7.1", "cloud-arm64")),
            ("7.1.13+deb13-arm64-16k", version("7.1.13+deb13", "arm64-16k")),
            ("7.2/riscv64", version("7.2", "riscv64")),
            ("debian:sid", suite("sid", "")),
            ("debian:trixie-backports/generic", suite("trixie-backports", "amd64")),
            ("v7.1", Spec::Mainline("v7.1".into())),
            ("v7.1-rc3", Spec::Mainline("v7.1-rc3".into())),
            ("/boot/vmlinuz", Spec::Path("/boot/vmlinuz".into())),
            ("./7.1", Spec::Path("./7.1".into())),
            ("..", Spec::Path("..".into())),
        ] {
            assert_eq!(text.parse(), Ok(spec), "{text}");
        }
    }

    #[test]
    fn a_flavor_that_was_said_stays() {
        let given = |text: &str| text.parse::<Spec>().unwrap().or_flavor("rt-amd64").to_string();
        assert_eq!(["7.1", "7.1/cloud-amd64", "7.1/arm64"].map(given), ["7.1/rt-amd64", "7.1", "7.1/arm64"]);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        for text in [
            "",
            "debian:",
            "debian:sid/",
            "debian:a b",
            "vmlinuz-that-is-not-there",
            "7.1 ",
            "7.1-rt-amd64-amd64",
        ] {
            assert!(text.parse::<Spec>().is_err(), "{text}");
        }
    }
}
