//! Kernel versions: parsing one from a release string, and comparing two.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A kernel's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    numbers: Vec<u32>,
    /// The number of a release candidate.
    candidate: Option<u32>,
}

impl Version {
    /// Parses the version at the beginning of a release, such as `7.1.13` in `7.1.13+deb13-cloud-amd64`.
    pub fn of(release: &str) -> Version {
        let end = release.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(release.len());
        let (numbers, rest) = release.split_at(end);
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        Version {
            numbers: numbers.split('.').filter_map(|number| number.parse().ok()).collect(),
            candidate: rest.strip_prefix("-rc").and_then(|rest| digits(rest).parse().ok()),
        }
    }

    /// Compares this version to `other`, as far as `other` is specified: 7.1.13 and 7.1-rc2 both compare
    /// equal to 7.1.
    pub fn to(&self, other: &Version) -> Ordering {
        let number = |version: &Version, place: usize| version.numbers.get(place).copied().unwrap_or(0);
        let places = match other.candidate {
            None => other.numbers.len(),
            Some(_) => other.numbers.len().max(self.numbers.len()),
        };
        let mut order = (0..places).map(|place| number(self, place).cmp(&number(other, place)));
        let order = order.find(|order| order.is_ne()).unwrap_or(Ordering::Equal);
        let candidate = |version: &Version| version.candidate.unwrap_or(u32::MAX);
        match other.candidate {
            None => order,
            Some(_) => order.then(candidate(self).cmp(&candidate(other))),
        }
    }

    /// Returns whether this version is older than `name`; 7.1-rc2 is not older than `7.1`.
    pub fn is_before(&self, name: &str) -> bool {
        self.to(&Version::of(name)).is_lt()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.numbers.iter().map(u32::to_string).collect();
        let candidate = self.candidate.map_or_else(String::new, |number| format!("-rc{number}"));
        f.write_str(&(numbers.join(".") + &candidate))
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        let version = Version::of(text);
        match !version.numbers.is_empty() && version.to_string() == text {
            true => Ok(version),
            false => Err(format!("'{text}' is not a kernel version such as 7.1, 7.1.13 or 7.3-rc7")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_kernel_is_read_off_its_release() {
        for (release, name, expected) in [
            ("4.19.0-27-amd64", "5.3", true),
            ("5.2.21", "5.3", true),
            ("5.3.0", "5.3", false),
            ("5.10.0-46-amd64", "5.3", false),
            ("7.1-rc2", "7.1", false),
            ("7.3-rc4", "7.3-rc5", true),
            ("7.3-rc5-amd64", "7.3-rc5", false),
            ("7.3.4", "7.3-rc5", false),
            ("7.3-cloud-amd64", "7.3-rc5", false),
            ("7.3-rc7", "7.3.4", true),
            ("7.3-cloud-amd64", "7.3.4", true),
        ] {
            assert_eq!(Version::of(release).is_before(name), expected, "{release} {name}");
        }
    }

    #[test]
    fn a_version_is_shown_as_mainline_calls_it() {
        for (release, expected) in [
            ("7.1.13+deb13-cloud-amd64", "7.1.13"),
            ("7.3-rc7-amd64", "7.3-rc7"),
            ("6.18", "6.18"),
            ("other", ""),
        ] {
            assert_eq!(Version::of(release).to_string(), expected);
        }
    }
}
