//! A description of what a hung test case is doing: each thread of it and of its children, with the system
//! call in which it sleeps.

use std::fs;

use syscalls::Sysno;

use crate::kit::wait_call::WaitCall;
use crate::procfs::{self, Stat};

/// Describes a process and its children.
pub(crate) fn describe(pid: i32) -> String {
    let mut lines = vec![format!("then: {}{}", procfs::describe(pid), sleeps_in(pid, pid))];
    lines.extend(other_threads(pid));
    for child in procfs::children_of(pid) {
        lines.push(format!("{child}{}", sleeps_in(child.pid, child.pid)));
        lines.extend(other_threads(child.pid));
    }
    lines.join("; ")
}

/// Describes the threads of a process other than its leader.
fn other_threads(pid: i32) -> Vec<String> {
    let others = procfs::threads_of(pid).into_iter().filter(|&tid| tid != pid);
    let stats = others.filter_map(|tid| Stat::read(&format!("/proc/{pid}/task/{tid}/stat")));
    stats.map(|stat| format!("its thread {}{}", stat.doing(), sleeps_in(pid, stat.pid))).collect()
}

/// Returns `, in waitid(P_PID 48, WSTOPPED|__WALL)`, or nothing for a thread that does not sleep in a system
/// call or that the caller may not trace.
fn sleeps_in(pid: i32, tid: i32) -> String {
    // In the /proc of another pid namespace this pid refers to another process.
    let known = procfs::is_mounted().then(|| fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")));
    let call = known.and_then(|text| call_in_words(&text.ok()?));
    call.map_or_else(String::new, |call| format!(", in {call}"))
}

/// Describes the contents of `/proc/PID/syscall`, see proc_pid_syscall(5): a wait call with its arguments,
/// another call by its name.
fn call_in_words(text: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    // The first field is -1 for a thread that sleeps outside a system call, and a word for one that runs.
    let number: u64 = words.next()?.parse().ok()?;
    let arguments: Vec<u64> =
        words.filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()).collect();
    match WaitCall::from_arguments(number as i64, &arguments) {
        Some(wait) => Some(wait.to_string()),
        None => Some(Sysno::new(number as usize)?.name().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_shown_with_its_arguments() {
        let waitid = "247 0x1 0x30 0x7ffe9c0 0x40000002 0x0 0x0 0x7ffe980 0x7f21";
        assert_eq!(call_in_words(waitid).unwrap(), "waitid(P_PID 48, WSTOPPED|__WALL)");
        let wait4 = "61 0xffffffffffffffff 0x7ffe9c0 0x40000000 0x0 0x0 0x0 0x7ffe980 0x7f21";
        assert_eq!(call_in_words(wait4).unwrap(), "waitpid(-1, __WALL)");
    }

    #[test]
    fn other_calls_are_named() {
        assert_eq!(call_in_words("7 0x7ffe 0x1 0x1388 0x0 0x0 0x0 0x7ffe 0x7f21").unwrap(), "poll");
    }

    #[test]
    fn who_is_in_no_call_is_in_none() {
        for text in ["", "running\n", "-1 0x7ffe 0x7f21\n", "99999 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n"] {
            assert_eq!(call_in_words(text), None);
        }
    }
}
