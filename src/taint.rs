//! The kernel's own word that something went wrong in it: `/proc/sys/kernel/tainted`.
//!
//! Outside of a virtual machine nobody reads the kernel's log for the suite, and a warning fails no case. But the kernel
//! remembers that it gave one.

/// The flags by which a kernel accuses itself, and no module, user or machine. Source: the kernel's
/// Documentation/admin-guide/tainted-kernels.rst.
const COMPLAINTS: [(u32, &str); 4] =
    [(5, "a bad page (B)"), (7, "an oops (D)"), (9, "a warning (W)"), (14, "a soft lockup (L)")];

/// The flags as they are, or `None` where they cannot be read.
pub fn now() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/kernel/tainted").ok()?.trim().parse().ok()
}

/// What the kernel complained of between two looks. It remembers each kind but once a boot: a second one of the same kind is
/// not seen.
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
