//! The rules for which combinations of the new flags, and of those they interact with, clone3 must accept.
//!
//! The kernel checks one combination after the other. Here the same rules are one function, written from the
//! documentation, so that a kernel can be compared to a table of all combinations.

use nix::errno::Errno;

use crate::abi::Flags;

/// Returns the error with which clone3 must reject a call with these flags and this exit_signal, or `None` if
/// it must accept the call.
///
/// Covers only combinations of `CLONE_AUTOREAP`, `CLONE_NNP`, `CLONE_PIDFD_AUTOKILL`, `CLONE_PIDFD`,
/// `CLONE_PARENT` and [`Flags::THREAD`]. `sys_admin` says whether the caller has CAP_SYS_ADMIN in its user
/// namespace. The caller must be neither the init of a pid namespace nor auto-reaped itself, because for both
/// the kernel rejects every `CLONE_PARENT`.
///
/// * A thread, and a child of the caller's parent, have no exit signal of their own (older than the new flags).
/// * Auto-reaping is for a child process of the caller that sends no exit signal.
/// * Starting with no_new_privs is for a process: a thread inherits it from its creator.
/// * Auto-kill is for an auto-reaped process, through the pidfd of the same call.
/// * An auto-killed process must be unable to gain privileges, or its creator must be privileged. The kernel checks this
///   last: an invalid combination is EINVAL for every caller.
pub fn refusal(flags: Flags, exit_signal: u64, sys_admin: bool) -> Option<Errno> {
    let has = |flag| flags.contains(flag);
    let signals = exit_signal != 0;
    let thread = has(Flags::CLONE_THREAD);
    let parent = has(Flags::CLONE_PARENT);
    let malformed = (signals && (thread || parent))
        || (has(Flags::AUTOREAP) && (thread || parent || signals))
        || (has(Flags::NNP) && thread)
        || (has(Flags::AUTOKILL) && (thread || !has(Flags::REAPED)));
    if malformed {
        return Some(Errno::EINVAL);
    }
    (has(Flags::AUTOKILL) && !has(Flags::NNP) && !sys_admin).then_some(Errno::EPERM)
}

/// Returns every combination that [`refusal`] covers, each with exit_signal 0 and with SIGCHLD.
pub fn combinations() -> impl Iterator<Item = (Flags, u64)> {
    const CHOICES: [Flags; 6] =
        [Flags::AUTOREAP, Flags::NNP, Flags::AUTOKILL, Flags::PIDFD, Flags::CLONE_PARENT, Flags::THREAD];
    (0..1_u32 << CHOICES.len()).flat_map(|chosen| {
        let is_chosen = |place: &usize| chosen & (1 << place) != 0;
        let flags =
            (0..CHOICES.len()).filter(is_chosen).fold(Flags::empty(), |all, place| all | CHOICES[place]);
        [(flags, 0), (flags, libc::SIGCHLD as u64)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns all calls that must be accepted. Every other call must be rejected.
    fn accepted() -> Vec<(Flags, u64)> {
        let sigchld = libc::SIGCHLD as u64;
        let with_and_without = |flags: Flags, extra: Flags| [flags, flags | extra];
        let mut calls = Vec::new();
        for flags in with_and_without(Flags::empty(), Flags::PIDFD) {
            // Threads, of the caller and (without effect) of its parent; processes, with and without NNP.
            calls.extend([(flags | Flags::THREAD, 0), (flags | Flags::THREAD | Flags::CLONE_PARENT, 0)]);
            for flags in with_and_without(flags, Flags::NNP) {
                calls.extend([(flags, 0), (flags, sigchld), (flags | Flags::CLONE_PARENT, 0)]);
                calls.push((flags | Flags::AUTOREAP, 0));
            }
        }
        calls.extend([(Flags::KILLED, 0), (Flags::KILLED_NNP, 0)]);
        calls
    }

    #[test]
    fn exactly_the_well_formed_calls_are_accepted() {
        let well_formed = accepted();
        assert_eq!(well_formed.len(), 22);
        for (flags, signal) in combinations() {
            let expected = if well_formed.contains(&(flags, signal)) { None } else { Some(Errno::EINVAL) };
            assert_eq!(refusal(flags, signal, true), expected, "{flags}, exit_signal {signal}");
        }
    }

    #[test]
    fn the_capability_matters_to_one_call_alone() {
        let differs = |call: &(Flags, u64)| refusal(call.0, call.1, true) != refusal(call.0, call.1, false);
        let calls: Vec<(Flags, u64)> = combinations().filter(differs).collect();
        assert_eq!(calls, [(Flags::KILLED, 0)]);
        assert_eq!(refusal(Flags::KILLED, 0, false), Some(Errno::EPERM));
    }

    #[test]
    fn no_combination_is_left_out() {
        let mut calls: Vec<_> = combinations().map(|(flags, signal)| (flags.bits(), signal)).collect();
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), 128);
    }
}
