//! A description of what a hung test case is doing: each thread of it and of its children, with the system
//! call in which it sleeps.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::unistd::{ForkResult, fork};
use rustix::pipe::{PipeFlags, pipe_with};
use syscalls::Sysno;

use super::lane::kill_and_reap;
use super::poll::wait_within;
use crate::clone3::exit_child;
use crate::kit::wait_call::WaitCall;
use crate::procfs::{self, Task};

/// How long the description may take, which is a matter of milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Describes a process and its children.
///
/// The kernel shows the system call of a process only to who gets a lock that execve(2) holds. If that is never released, whoever asks
/// is stuck, too, until killed. So a process of its own asks, and if it does not answer, the system calls are left out.
pub(crate) fn describe(pid: i32) -> String {
    match of_another_process(|| in_words(pid, sleeps_in)) {
        Some(text) => text,
        None => format!("{}; who looks at their system calls is stuck", in_words(pid, |_, _| String::new())),
    }
}

/// Describes a process and its children, each thread with what `more` says about the process and thread with these ids.
fn in_words(pid: i32, more: fn(i32, i32) -> String) -> String {
    let mut lines = vec![format!("then: {}{}", procfs::describe(pid), more(pid, pid))];
    lines.extend(other_threads(pid, more));
    let own_pid = std::process::id() as i32;
    for child in procfs::children_of(pid).into_iter().filter(|child| child.pid != own_pid) {
        lines.push(format!("{child}{}", more(child.pid, child.pid)));
        lines.extend(other_threads(child.pid, more));
    }
    lines.join("; ")
}

/// Describes the threads of a process other than its leader.
fn other_threads(pid: i32, more: fn(i32, i32) -> String) -> Vec<String> {
    let others = procfs::threads_of(pid).into_iter().filter(|&tid| tid != pid);
    let tasks = others.filter_map(|tid| Task::read(&format!("/proc/{pid}/task/{tid}/status")));
    tasks.map(|task| format!("its thread {}{}", task.doing(), more(pid, task.pid))).collect()
}

/// Returns `, in waitid(P_PID 48, WSTOPPED|__WALL)`, or nothing for a thread that does not sleep in a system
/// call or that the caller may not trace.
fn sleeps_in(pid: i32, tid: i32) -> String {
    // In the /proc of another pid namespace this pid refers to another process.
    let known = procfs::is_mounted().then(|| fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")));
    let call = known.and_then(|text| call_in_words(&text.ok()?));
    call.map_or_else(String::new, |call| format!(", in {call}"))
}

/// Returns what `body` returns in a forked process, or nothing if that takes too long or there can be no such process.
fn of_another_process(body: impl FnOnce() -> String) -> Option<String> {
    let (from, to) = pipe_with(PipeFlags::CLOEXEC).ok()?;
    // SAFETY: the C library's fork keeps the allocator usable in the child, which exits without unwinding.
    let pid = match unsafe { fork() }.ok()? {
        ForkResult::Child => exit_child(|| i32::from(File::from(to).write_all(body().as_bytes()).is_err())),
        ForkResult::Parent { child } => child.as_raw(),
    };
    drop(to);
    let text = read_to_end(from.into(), Instant::now() + PATIENCE);
    kill_and_reap(pid);
    text.filter(|text| !text.is_empty())
}

/// Reads what comes from a pipe until its writers have closed it, or nothing if they have not at the `end`.
fn read_to_end(mut pipe: File, end: Instant) -> Option<String> {
    let (mut text, mut some) = (Vec::new(), [0; 1024]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        if wait_within(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], patience) != Ok(true) {
            return None;
        }
        match pipe.read(&mut some) {
            Ok(0) => return String::from_utf8(text).ok(),
            Ok(count) => text.extend_from_slice(&some[..count]),
            Err(_) => return None,
        }
    }
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
    fn another_process_describes() {
        assert_eq!(of_another_process(|| "x".repeat(100_000)).unwrap().len(), 100_000);
        assert_eq!(of_another_process(|| panic!("no description")), None);
    }

    #[test]
    fn who_is_stuck_in_describing_is_left() {
        let start = Instant::now();
        assert_eq!(
            of_another_process(|| {
                std::thread::sleep(PATIENCE * 60);
                String::from("late")
            }),
            None
        );
        assert!(start.elapsed() < PATIENCE * 30);
    }

    #[test]
    fn who_is_in_no_call_is_in_none() {
        for text in ["", "running\n", "-1 0x7ffe 0x7f21\n", "99999 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n"] {
            assert_eq!(call_in_words(text), None);
        }
    }
}
