//! The readable attributes that a process inherits from its creator, for comparing two children of one creator.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fs;

use rustix::process::{child_subreaper, dumpable_behavior, parent_process_death_signal};
use rustix::thread::{current_timer_slack, set_current_timer_slack};

use crate::arch;
use crate::kit::{disposition, robust_futex, usage};

/// Lines of `/proc/PID/status` with inherited attributes, which do not depend on the process's own history.
const STATUS: [&str; 19] = [
    "Umask",
    "TracerPid",
    "Uid",
    "Gid",
    "Groups",
    "Threads",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "Seccomp",
    "Cpus_allowed_list",
    "VmLck",
];

/// `PR_GET_IO_FLUSHER` of `linux/prctl.h`.
const PR_GET_IO_FLUSHER: c_int = 58;

/// What prctl(2) returns as a number.
const PRCTL: [(&str, c_int); 6] = [
    ("PR_GET_IO_FLUSHER", PR_GET_IO_FLUSHER),
    ("PR_GET_KEEPCAPS", libc::PR_GET_KEEPCAPS),
    ("PR_GET_MDWE", libc::PR_GET_MDWE),
    ("PR_MCE_KILL_GET", libc::PR_MCE_KILL_GET),
    ("PR_GET_SECUREBITS", libc::PR_GET_SECUREBITS),
    ("PR_GET_THP_DISABLE", libc::PR_GET_THP_DISABLE),
];

/// A command of membarrier(2).
const MEMBARRIER_REGISTRATIONS: c_int = 1 << 9;

/// Fields of `/proc/PID/stat`, by their numbers in proc(5): process group, session, terminal, nice value, and scheduling.
const STAT: [usize; 6] = [5, 6, 7, 19, 40, 41];

/// Files in `/proc/PID`, compared as a whole.
const FILES: [&str; 8] = [
    "comm",
    "oom_score_adj",
    "timerslack_ns",
    "personality",
    "coredump_filter",
    "cgroup",
    "sessionid",
    "timers",
];

/// Symbolic links in `/proc/PID`.
const LINKS: [&str; 10] =
    ["cwd", "root", "ns/cgroup", "ns/ipc", "ns/mnt", "ns/net", "ns/time", "ns/user", "ns/uts", "ns/pid"];

/// An address that a new program chooses for itself.
const ADDRESS: &str = "address of the alternate stack";

/// The attributes by name.
pub type Inherited = BTreeMap<String, String>;

/// Returns the caller's attributes. An attribute that cannot be read is recorded as the error.
///
/// A namespace is recorded as equal to or different from the one in `creators`, which [`namespaces`] returns.
pub fn own(creators: &Inherited) -> Inherited {
    let mut found = Inherited::new();
    let status = file("status");
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.filter(|(name, _)| STATUS.contains(name));
    found.extend(wanted.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
    let stat = file("stat");
    // Field 3 follows the name in parentheses.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default().to_owned();
    found.extend(STAT.map(|number| (format!("stat field {number}"), field(number))));
    found.extend(FILES.map(|name| (name.to_owned(), file(name))));
    found.extend(file("limits").lines().skip(1).map(limit));
    for name in LINKS {
        let link = link(name);
        let known = creators.get(name).is_some_and(|creators| *creators == link);
        found.insert(name.to_owned(), if known { "the creator's".to_owned() } else { anonymous(&link) });
    }
    found.insert("dumpable".to_owned(), format!("{:?}", dumpable_behavior()));
    found.insert("subreaper".to_owned(), format!("{:?}", child_subreaper().map(|own| own.is_some())));
    found.insert("parent-death signal".to_owned(), format!("{:?}", parent_process_death_signal()));
    let (address, rest) = alternate_stack();
    found.insert(ADDRESS.to_owned(), address);
    found.insert("alternate stack".to_owned(), rest);
    found.extend(PRCTL.map(|(name, option)| (name.to_owned(), prctl(option, [0, 0]).to_string())));
    found.insert("membarrier registrations".to_owned(), membarrier(MEMBARRIER_REGISTRATIONS).to_string());
    let had_much = usage::has_touched_at_once();
    found.insert(
        "has used much memory".to_owned(),
        had_much.map_or_else(|failure| failure.message, |had| had.to_string()),
    );
    found.insert("handlers".to_owned(), handlers());
    found.insert("interval timers".to_owned(), interval_timers());
    found.insert("robust list".to_owned(), robust_futex::has_list().to_string());
    found.insert("word for its end".to_owned(), tid_address());
    found.insert("I/O priority".to_owned(), io_priority().to_string());
    found.insert("flags of the first descriptors".to_owned(), descriptor_flags());
    found.insert("host name".to_owned(), rustix::system::uname().nodename().to_string_lossy().into_owned());
    found.insert("cwd and root on one mount".to_owned(), format!("{:?}", is_cwd_on_root_mount()));
    found.insert("segment base".to_owned(), arch::spare_register().to_string());
    // This ends what the creator may have set, and what was read above.
    let default = set_current_timer_slack(None).and_then(|()| current_timer_slack());
    found.insert("default timer slack".to_owned(), format!("{default:?}"));
    found
}

/// Calls prctl(2) with an option that takes up to two numbers. Returns the result, which is negative on errors.
pub(crate) fn prctl(option: c_int, [first, second]: [libc::c_ulong; 2]) -> c_int {
    let none: libc::c_ulong = 0;
    // SAFETY: no pointers are passed.
    unsafe { libc::prctl(option, first, second, none, none) }
}

/// Returns the name and the values in a line of `/proc/PID/limits`.
fn limit(line: &str) -> (String, String) {
    /// The width of the names.
    const NAMES: usize = 25;
    let (name, values) = line.split_at_checked(NAMES).unwrap_or((line, ""));
    let values: Vec<&str> = values.split_whitespace().collect();
    (name.trim().to_owned(), values.join(" "))
}

/// Returns mask and flags of each signal's handler.
fn handlers() -> String {
    let caught = (1..=libc::SIGRTMAX()).filter_map(|number| {
        let action = disposition::action(number)?;
        let is_handler = ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction);
        let masked = (1..=libc::SIGRTMAX()).filter(|other| {
            // SAFETY: the set is one that the kernel has filled.
            unsafe { libc::sigismember(&action.sa_mask, *other) == 1 }
        });
        let flags = action.sa_flags;
        is_handler.then(|| format!("{number} masks {:?}, {flags:#x}", masked.collect::<Vec<_>>()))
    });
    caught.collect::<Vec<_>>().join("; ")
}

/// Returns which of the timers that count CPU time are set.
fn interval_timers() -> String {
    let is_set = |which| {
        // SAFETY: itimerval is plain data, for which all zeroes is a valid value.
        let mut timer: libc::itimerval = unsafe { std::mem::zeroed() };
        // SAFETY: the timer is live, and the kernel may fill it.
        let done = unsafe { libc::getitimer(which, &mut timer) };
        done == 0 && timer.it_value.tv_sec > 0
    };
    format!("virtual {}, profiling {}", is_set(libc::ITIMER_VIRTUAL), is_set(libc::ITIMER_PROF))
}

/// Returns whether the kernel clears a word when the caller ends; not every kernel tells.
fn tid_address() -> String {
    let mut address = 0_usize;
    // SAFETY: the kernel stores one address, in a live word.
    let done = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut address) };
    format!("{done}: {}", address != 0)
}

/// Returns the result of ioprio_get(2) for the caller.
fn io_priority() -> libc::c_long {
    const WHO_PROCESS: c_int = 1;
    // SAFETY: no pointers are passed.
    unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) }
}

/// Returns what F_GETFD says of the descriptors from 0 on.
fn descriptor_flags() -> String {
    // SAFETY: F_GETFD takes no pointer, and changes nothing.
    let flags = (0..12).map(|number| unsafe { libc::fcntl(number, libc::F_GETFD) }.to_string());
    flags.collect::<Vec<_>>().join(" ")
}

/// Returns whether the working directory and the root directory are on one mount.
pub fn is_cwd_on_root_mount() -> rustix::io::Result<bool> {
    let mount_of = |path| {
        let found = rustix::fs::statx(
            rustix::fs::CWD,
            path,
            rustix::fs::AtFlags::empty(),
            rustix::fs::StatxFlags::MNT_ID,
        );
        found.map(|found| found.stx_mnt_id)
    };
    Ok(mount_of(".")? == mount_of("/")?)
}

pub(crate) fn membarrier(command: c_int) -> libc::c_long {
    // SAFETY: no pointers are passed.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

/// Returns the caller's attributes after an exec, without what the new program has chosen for itself.
pub fn own_after_exec() -> Inherited {
    let mut found = own(&Inherited::new());
    found.remove(ADDRESS);
    found
}

/// Returns the caller's namespaces and directories, for comparison with a child's.
pub fn namespaces() -> Inherited {
    LINKS.map(|name| (name.to_owned(), link(name))).into_iter().collect()
}

/// Returns each difference: the name of the attribute, the value in the first, and the value in the second.
pub fn differences(one: &Inherited, other: &Inherited) -> Vec<String> {
    let nothing = String::new();
    let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let both = names
        .into_iter()
        .map(|name| [name, one.get(name).unwrap_or(&nothing), other.get(name).unwrap_or(&nothing)]);
    both.filter(|[_, one, other]| one != other)
        .map(|[name, one, other]| format!("{name}: {one:?}, not {other:?}"))
        .collect()
}

fn file(name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/self/{name}"));
    text.map_or_else(|error| error.kind().to_string(), |text| text.trim_end().to_owned())
}

fn link(name: &str) -> String {
    match fs::read_link(format!("/proc/self/{name}")) {
        Ok(target) => target.display().to_string(),
        Err(error) => error.kind().to_string(),
    }
}

/// Removes the number of a namespace, because a new namespace has a different number in each child.
fn anonymous(link: &str) -> String {
    match link.split_once(":[") {
        Some((kind, _)) => format!("another {kind}"),
        None => link.to_owned(),
    }
}

/// Returns the address of the alternate stack for signal handlers, and what else is known of it.
fn alternate_stack() -> (String, String) {
    // SAFETY: stack_t is plain data, for which all zeroes is a valid value.
    let mut stack: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: `stack` is a live structure that the kernel may fill; a null new stack changes nothing.
    let done = unsafe { libc::sigaltstack(std::ptr::null(), &mut stack) };
    let address = format!("{:#x}", stack.ss_sp as usize);
    (address, format!("{done}: {} bytes, {:#x}", stack.ss_size, stack.ss_flags))
}
