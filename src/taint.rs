//! The kernel's record of its own errors: `/proc/sys/kernel/tainted`.
//!
//! Outside a virtual machine the suite does not read the kernel log, and a warning fails no test case. But
//! the kernel records in its taint flags that it printed one.

/// The taint flags that report an error of the kernel itself rather than of a module, user or machine.
/// Source: the kernel's Documentation/admin-guide/tainted-kernels.rst.
const COMPLAINTS: [(u32, &str); 4] =
    [(5, "a bad page (B)"), (7, "an oops (D)"), (9, "a warning (W)"), (14, "a soft lockup (L)")];

/// Returns the current flags, or `None` if they cannot be read.
pub fn now() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/kernel/tainted").ok()?.trim().parse().ok()
}

/// Returns the errors that the kernel recorded between two readings. Each flag stays set until reboot, so a
/// second error of the same kind is not seen.
pub fn complaints(before: u64, after: u64) -> Vec<&'static str> {
    let new = after & !before;
    COMPLAINTS.iter().filter(|(bit, _)| new >> bit & 1 == 1).map(|(_, words)| *words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_and_the_kernels_own_doing_counts() {
        let (module, warning, oops) = (1 << 12, 1 << 9, 1 << 7);
        assert_eq!(complaints(0, warning | oops), ["an oops (D)", "a warning (W)"]);
        assert_eq!(complaints(warning, warning | oops), ["an oops (D)"]);
        assert!(complaints(warning, warning | module).is_empty());
        assert!(complaints(warning, 0).is_empty());
    }
}
