//! Debian's version numbers: comparison, and prefixes.
use std::cmp::Ordering;

/// Compares two version numbers as dpkg does: digits by value, and `~` before everything, even the end.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    while !left.is_empty() || !right.is_empty() {
        let order = compare_text(&mut left, &mut right).then_with(|| compare_number(&mut left, &mut right));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Compares and consumes the text before the next digit on both sides.
fn compare_text(left: &mut &[u8], right: &mut &[u8]) -> Ordering {
    loop {
        let (a, b) = (take_text(left), take_text(right));
        let order = rank(a).cmp(&rank(b));
        if order.is_ne() || a.is_none() {
            return order;
        }
    }
}

fn take_text(side: &mut &[u8]) -> Option<u8> {
    let (first, rest) = side.split_first().filter(|(first, _)| !first.is_ascii_digit())?;
    *side = rest;
    Some(*first)
}

/// Returns the sort order of a character: `~`, then the end of the text, letters, and the rest.
fn rank(byte: Option<u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => letter.into(),
        Some(other) => i32::from(other) + 256,
    }
}

/// Compares and consumes the next number on both sides.
fn compare_number(left: &mut &[u8], right: &mut &[u8]) -> Ordering {
    let (a, b) = (take_number(left), take_number(right));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Consumes the next digits, and returns them without leading zeros.
fn take_number<'a>(side: &mut &'a [u8]) -> &'a [u8] {
    let length = side.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = side.split_at(length);
    *side = rest;
    let zeros = number.iter().take_while(|byte| **byte == b'0').count();
    &number[zeros..]
}

/// Returns the kernel's own version from a package's: `7.1.13` from `7.1.13-1~bpo13+1`.
pub fn upstream(version: &str) -> &str {
    version.rsplit_once('-').map_or(version, |(upstream, _)| upstream)
}

/// Returns whether `prefix` matches `version`: `7.1` matches 7.1.13 and 7.1~rc2, but not 7.13.
pub fn is_prefix(prefix: &str, version: &str) -> bool {
    // The kernel's own tags look like 7.3-rc7.
    let prefix = prefix.replace("-rc", "~rc");
    version.strip_prefix(&prefix).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_the_package_manager_does() {
        let ascending = [
            "5.10.223-1",
            "6.1.190-1",
            "6.12.90-1~bpo12+1",
            "6.12.90-1",
            "6.12.90-2~bpo12+1",
            "6.12.107-1",
            "6.12.117-1~deb12u1",
            "6.12.117-1",
            "7.0.13-1~bpo13+1",
            "7.1.3-1",
            "7.1.13-1",
            "7.3~rc7-1~exp1",
            "7.3.4-1",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
            assert_eq!(compare(pair[0], pair[0]), Ordering::Equal);
        }
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
        assert_eq!(compare("1.0", "1.0a"), Ordering::Less);
    }

    #[test]
    fn a_prefix_ends_where_a_number_ends() {
        for (prefix, version, means) in [
            ("7.1", "7.1.13", true),
            ("7.1", "7.13", false),
            ("7.1.1", "7.1.13", false),
            ("7.1.13", "7.1.13", true),
            ("7.1.13", "7.1.13+deb13-cloud-amd64", true),
            ("7.3", "7.3~rc7", true),
            ("7.3-rc7", "7.3~rc7", true),
            ("7", "7.3~rc7", true),
            ("7.2", "7.1.13", false),
        ] {
            assert_eq!(is_prefix(prefix, version), means, "{prefix} {version}");
        }
    }

    #[test]
    fn the_kernels_version_is_what_comes_before_the_packages() {
        assert_eq!(upstream("7.1.13-1~bpo13+1"), "7.1.13");
        assert_eq!(upstream("7.3~rc7-1~exp1"), "7.3~rc7");
    }
}
