//! Parsing of the guest kernel's console: which lines report a fault of the kernel itself.

use std::fmt;

/// One line of the console.
pub struct Line {
    pub text: String,
    /// The cases that were running when the line was printed.
    pub running: Vec<String>,
}

/// The kind of fault that a console line reports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    Panic,
    Oops,
    /// The kernel hit a breakpoint that it had patched in itself: a bug of the kernel, or of the emulator.
    Int3,
    Bug,
    Warning,
    /// A watchdog saw no progress for some time: the kernel hangs, or the host gave the guest no CPU time.
    Stall,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(match self {
            Self::Panic => "panic",
            Self::Oops => "oops",
            Self::Int3 => "int3 oops",
            Self::Bug => "bug",
            Self::Warning => "warning",
            Self::Stall => "stall",
        })
    }
}

/// A fault report on the console.
pub struct Finding {
    /// [`Fault::Panic`] if the report contains one, otherwise the fault of its first line.
    pub fault: Fault,
    /// The fault of its first line, which may have caused the rest.
    pub origin: Fault,
    pub running: Vec<String>,
    pub excerpt: Vec<String>,
}

/// The maximum number of console lines in a report's excerpt.
const EXCERPT: usize = 40;

/// Prefixes of kernel subsystems, which say nothing about the fault.
const SUBSYSTEM_PREFIXES: [&str; 5] = ["rcu: ", "watchdog: ", "NMI watchdog: ", "clocksource: ", "INFO: "];

/// How a line that reports a fault starts; the first match counts.
const FAULT_PATTERNS: [(&str, Fault); 23] = [
    ("Kernel panic - not syncing", Fault::Panic),
    ("Oops: int3", Fault::Int3),
    ("int3: 0000", Fault::Int3),
    ("Oops: ", Fault::Oops),
    ("Oops - ", Fault::Oops),
    ("general protection fault, ", Fault::Oops),
    ("general protection fault: 0000", Fault::Oops),
    ("double fault: ", Fault::Oops),
    ("invalid opcode: 0000", Fault::Oops),
    ("stack segment: 0000", Fault::Oops),
    ("traps: PANIC", Fault::Oops),
    // The wording on 64-bit ARM and RISC-V.
    ("Internal error: ", Fault::Oops),
    ("Unable to handle kernel ", Fault::Oops),
    ("BUG: soft lockup", Fault::Stall),
    ("BUG: workqueue lockup", Fault::Stall),
    ("BUG: ", Fault::Bug),
    // SLUB names the cache: "BUG kmalloc-64 (Not tainted): Redzone overwritten".
    ("BUG ", Fault::Bug),
    ("kernel BUG at ", Fault::Bug),
    ("UBSAN: ", Fault::Bug),
    ("WARNING: ", Fault::Warning),
    ("possible recursive locking detected", Fault::Warning),
    ("trying to register non-static key", Fault::Warning),
    ("suspicious RCU usage", Fault::Warning),
];

/// What the reports of stall detectors contain, whatever is stalled; a report contains both parts.
const STALLS: [(&str, &str); 4] = [
    ("detected stall", ""),
    ("detected expedited stalls", ""),
    ("detected hard LOCKUP", ""),
    (" blocked ", "for more than "),
];

/// Panics of watchdogs that are configured to panic on a stall.
const PANICS_OF_STALLS: [&str; 4] = ["softlockup: ", "Hard LOCKUP", "hung_task: ", "RCU Stall"];

/// Returns the fault that a console line reports, if any.
pub fn fault_in_line(line: &str) -> Option<Fault> {
    let report = SUBSYSTEM_PREFIXES
        .iter()
        .fold(message(line), |rest, prefix| rest.strip_prefix(prefix).unwrap_or(rest));
    let informs = report.len() < message(line).len();
    FAULT_PATTERNS
        .iter()
        .find_map(|(start, fault)| report.starts_with(start).then_some(*fault))
        .or_else(|| (informs && is_stall(report)).then_some(Fault::Stall))
}

fn is_stall(report: &str) -> bool {
    STALLS.iter().any(|(first, second)| report.contains(first) && report.contains(second))
}

/// Strips the timestamp (and, on some kernels, the task or CPU) from a line of the kernel's log.
fn message(mut line: &str) -> &str {
    while let Some((_, rest)) = line.strip_prefix('[').and_then(|stamped| stamped.split_once(']')) {
        line = rest.trim_start();
    }
    line
}

/// Returns the fault reports among `lines`. A fault inside the excerpt of another report is not a separate report.
pub fn findings(lines: &[Line]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut next = 0;
    while let Some((at, fault)) =
        (next..lines.len()).find_map(|at| Some((at, fault_in_line(&lines[at].text)?)))
    {
        let end = excerpt_end(lines, at);
        let excerpt = lines[start(lines, at)..end].iter().map(|line| line.text.clone()).collect();
        let worst =
            (at..end).filter_map(|at| fault_in_line(&lines[at].text)).find(|fault| *fault == Fault::Panic);
        let running = lines[at].running.clone();
        found.push(Finding { fault: worst.unwrap_or(fault), origin: fault, running, excerpt });
        next = end;
    }
    found
}

/// Returns the index of the report's first line: the "cut here" line before `at`, if there is one, otherwise `at`.
fn start(lines: &[Line], at: usize) -> usize {
    at - usize::from(at > 0 && lines[at - 1].text.contains("[ cut here ]"))
}

/// Returns the end of the report that starts at `at`: after the kernel's end marker, before another report that it may not
/// include, or after the maximum number of lines.
fn excerpt_end(lines: &[Line], at: usize) -> usize {
    let most = lines.len().min(at + EXCERPT);
    let is_stall = fault_in_line(&lines[at].text) == Some(Fault::Stall);
    let other = (at + 1..most).find(|&at| is_stall && is_worse_than_a_stall(&lines[at].text));
    let most = other.map_or(most, |other| start(lines, other));
    (at..most).find(|&at| lines[at].text.contains("[ end ")).map_or(most, |last| last + 1)
}

/// Returns whether a line reports a fault that a stall does not explain. A host that gives the guest no CPU time makes the kernel
/// report stalls, but nothing else, and stall reports have no end marker, so such a line must not be taken as part of one.
fn is_worse_than_a_stall(line: &str) -> bool {
    match fault_in_line(line) {
        None | Some(Fault::Stall) => false,
        Some(Fault::Panic) => !PANICS_OF_STALLS.iter().any(|panic| line.contains(panic)),
        Some(_) => true,
    }
}

/// Converts a console line to plain text, without colors, cursor movements and other control characters.
pub fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        match char {
            // An escape sequence ends with its first letter.
            '\u{1b}' => drop(rest.by_ref().find(char::is_ascii_alphabetic)),
            char if char.is_control() && char != '\t' => {}
            char => plain.push(char),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accusations_are_known_behind_any_stamp() {
        let cases = [
            ("[    1.234567] Kernel panic - not syncing: Fatal exception", Some(Fault::Panic)),
            ("[    1.2][    T1] BUG: kernel NULL pointer dereference, address: 0", Some(Fault::Bug)),
            ("[    1.2] Oops: int3: 0000 [#1] SMP PTI", Some(Fault::Int3)),
            (
                "[    1.2] Oops: general protection fault, probably for non-canonical address",
                Some(Fault::Oops),
            ),
            ("[    1.2] WARNING: CPU: 0 PID: 1 at kernel/exit.c:1 do_exit+0x1/0x2", Some(Fault::Warning)),
            ("[    1.2] WARNING: possible circular locking dependency detected", Some(Fault::Warning)),
            ("[   30.0] rcu: INFO: rcu_preempt self-detected stall on CPU", Some(Fault::Stall)),
            ("[   30.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", Some(Fault::Stall)),
            ("[   30.0] INFO: task init:1 blocked for more than 120 seconds.", Some(Fault::Stall)),
            (
                "[   30.0] rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-.... }",
                Some(Fault::Stall),
            ),
            (
                "[   30.0] INFO: task init:1 blocked in I/O wait for more than 120 seconds.",
                Some(Fault::Stall),
            ),
            ("[   30.0] watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 1", Some(Fault::Stall)),
            ("[   30.0] NMI watchdog: Watchdog detected hard LOCKUP on cpu 1", Some(Fault::Stall)),
            ("[    1.2] BUG kmalloc-64 (Not tainted): Right Redzone overwritten", Some(Fault::Bug)),
            ("[    1.2] Oops - illegal instruction [#1]", Some(Fault::Oops)),
            ("[   30.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", Some(Fault::Stall)),
            ("[   30.0] BUG: KASAN: slab-use-after-free in pidfd_poll+0x1/0x2", Some(Fault::Bug)),
            ("[    1.2] Internal error: Oops: 0000000096000004 [#1] SMP", Some(Fault::Oops)),
            (
                "[    1.2] Unable to handle kernel NULL pointer dereference at virtual address 08",
                Some(Fault::Oops),
            ),
            ("[   30.0] traps: case[12] general protection fault ip:1 sp:2 error:0 in case[1+2]", None),
            ("[   30.0] traps: case[12] trap int3 ip:1 sp:2 error:0", None),
            ("[   30.0] case[12]: segfault at 0 ip 0 sp 0 error 14", None),
            ("[    0.1] clocksource: Watchdog remote CPU 1 read timed out", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(fault_in_line(line), expected, "{line}");
        }
    }

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|text| Line { text: (*text).to_owned(), running: vec!["a".into()] }).collect()
    }

    #[test]
    fn what_follows_a_stall_is_a_finding_of_its_own() {
        let texts = [
            "[ 30.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[ 30.1] Call Trace:",
            "[ 30.2] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "[ 30.3] ------------[ cut here ]------------",
            "[ 30.4] BUG: KASAN: slab-use-after-free in pidfd_poll+0x1/0x2",
            "[ 30.5] Oops: general protection fault, probably for non-canonical address",
            "[ 30.6] ---[ end trace 0000000000000000 ]---",
            "[ 30.7] INFO: task init:1 blocked for more than 120 seconds.",
            "[ 30.8] Kernel panic - not syncing: hung_task: blocked tasks",
            "[ 30.9] ---[ end Kernel panic - not syncing: hung_task: blocked tasks ]---",
        ];
        let found = findings(&lines(&texts));
        let kinds: Vec<_> = found.iter().map(|finding| (finding.origin, finding.fault)).collect();
        let stall = (Fault::Stall, Fault::Stall);
        assert_eq!(kinds, [stall, (Fault::Bug, Fault::Bug), (Fault::Stall, Fault::Panic)]);
        assert_eq!(found[0].excerpt, texts[..3]);
        assert_eq!(found[1].excerpt, texts[3..7]);
    }

    #[test]
    fn a_report_is_one_finding_with_its_frame() {
        let texts = [
            "before",
            "[ 1.0] ------------[ cut here ]------------",
            "[ 1.0] WARNING: CPU: 0",
            "[ 1.0] Call Trace:",
            "[ 1.0] ---[ end trace 0000000000000000 ]---",
            "after",
        ];
        let found = findings(&lines(&texts));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].excerpt, texts[1..5]);
        assert_eq!(found[0].running, ["a"]);
    }

    #[test]
    fn console_text_is_plain() {
        assert_eq!(plain(b"\x1b[2J\x1b[01;1Hboot\r"), "boot");
    }
}
