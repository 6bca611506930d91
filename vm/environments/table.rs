//! The table of environments, and of what the suite is expected to do in them.
use caps::Capability;
use clone3_conformance::abi::Flags;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use rustix::process::Resource;
use rustix::thread::CapabilitiesSecureBits;

use crate::row::Inside::*;
use crate::row::{Answer, Expected, Inside, Instead, Meanwhile, Outside, Program, Row, Tool, Trace};

/// The row with which the others are compared.
pub const BASELINE: &str = "root";

/// The cases of a quick run: one or two of every theme, and of everything that a case can need.
pub const QUICK: [&str; 28] = [
    "abi_compat_i386",
    "abi_flag_bit_values",
    "abi_late_failure_kills_nobody",
    "abi_newtime_bit_ok",
    "abi_unknown_bits_einval",
    "autokill_after_child_exec",
    "autokill_after_setuid",
    "autokill_basic",
    "autokill_closer_in_landlock_domain",
    "autokill_handle_open_not_armed",
    "autokill_io_uring_close_op",
    "autokill_multithreaded_child",
    "autokill_pid_reuse_safe",
    "autokill_requires_cap_sys_admin",
    "autokill_scm_in_flight_holds",
    "autokill_stopped_child",
    "autokill_userns_cap_ok",
    "autokill_without_nnp_with_cap",
    "autoreap_basic",
    "autoreap_blocked_waitpid_any",
    "autoreap_pidns_teardown",
    "autoreap_ptrace_parent_zombie",
    "autoreap_releases_rlimit_nproc",
    "autoreap_sigchld_handler_not_run",
    "nnp_seccomp_filter_unprivileged",
    "nnp_setuid_exec_no_elevation",
    "pidfd_info_coredump_sigsegv",
    "pidfd_info_live",
];

const ROOT: &str = "needs root with all capabilities in the initial user namespace";
const CGROUP: &str = "needs root, and cgroup2 mounted or mountable";
const SET_TID: &str = "needs CAP_CHECKPOINT_RESTORE";
const NNP: &str = "the caller has no_new_privs set already";
const PROC: &str = "needs /proc";
const TRACED: &str = "the suite is traced, and its children with it";
const PTRACE: &str = "needs permission to trace with ptrace(2)";
const USERNS: &str = "needs user namespaces";
const NO_USERNS_OF_USERS: &str = "needs user namespaces, which here an ordinary user may not make";
const PIDNS: &str = "needs pid namespaces";
const ADMIN: &str = "needs CAP_SYS_ADMIN";
const NO_USER: &str = "needs an ordinary user";
/// The kernel lets only root reopen a pidfd through `/proc/PID/fd`.
const REOPEN: &str = "opening a pidfd through /proc fails with EACCES: needs root";
/// Depends on the sysctl kernel.perf_event_paranoid.
const COUNTERS: &str = "perf_event_open fails with EACCES";
const BECOME: &str = "becoming uid 1000 fails with EPERM";
const INOTIFY: &str = "inotify instances, more than fs.inotify.max_user_instances leaves this user";
const NPROC: &str = "RLIMIT_NPROC does not limit this user";
/// Refused by Yama from ptrace_scope 2 on.
const GETFD: &str = "pidfd_getfd from an own child is refused";
const GETFD_OF_SIBLING: &str =
    "pidfd_getfd from another child fails with EPERM (Operation not permitted) in an ordinary child";
const KCMP: &str = "kcmp fails with EPERM";
/// Where the threads of the kernel cannot be seen.
const NO_KTHREAD: &str = "process 2 is None, and not kthreadd";
const HELPER: &str = "the kernel's helper is in another pid namespace";
/// Applies outside the initial pid namespace.
const LISTNS: &str = "listns(2) does not list the user namespace of a living child";
const QUEUE: &str = "RLIMIT_SIGPENDING lets no signal be queued";
const NO_NAMESPACE: &str = "no kind of namespace can be made";
/// The sandbox or a case cannot fork, depending on which process takes the last pids.
const TIGHT: &str = "a pids cgroup";
const CORE: &str = "cannot set kernel.core_pattern to";
const TERMINAL: &str = "needs a pseudo-terminal";

const STRACE: Tool = Tool { name: "strace", arguments: &["-f", "-o", "/dev/null"] };
const NO_SETGROUPS: Tool = Tool {
    name: "strace",
    arguments: &["-f", "-o", "/dev/null", "-P", "/proc/self/setgroups", "-e", "inject=openat:error=EACCES"],
};
/// How strace ends when it waits for a thread that took over its process's pid in exec and was killed before the exec was
/// reported: the kernel does not tell a tracer that the old tid is gone.
const STRACE_AT_A_LOSS: (i32, &str) = (1, "strace: wait4(__WALL): No child processes");
const GDB: Tool = Tool {
    name: "gdb",
    arguments: &[
        "-nx",
        "-batch",
        "-iex=set startup-with-shell off",
        "-iex=set debuginfod enabled off",
        "-ex=run",
        "-ex=quit $_exitcode",
        "--args",
    ],
};

/// System calls that a container's seccomp filter refuses without the corresponding capability, as podman's does, and newer or
/// more dangerous ones that some filters refuse. Not ptrace, unshare and setns, which such filters permit.
const FORBIDDEN_IN_CONTAINERS: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_bpf,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_userfaultfd,
];

/// The reasons for which cases are blocked by a filter for these calls.
const BEHIND_CONTAINERS_FILTER: &[&str] = &[
    GETFD,
    GETFD_OF_SIBLING,
    KCMP,
    "io_uring_setup fails with EPERM",
    "open_by_handle_at fails with EPERM (Operation not permitted) whatever it is asked",
    "perf_event_open fails with EPERM",
    "pidfd_getfd fails with EPERM",
    "process_madvise fails with EPERM (Operation not permitted) whatever it is asked",
    "process_mrelease fails with EPERM",
    "reboot fails with EPERM (Operation not permitted) whatever it is asked",
    "restrictions of a thread's rings (CONFIG_IO_URING): EPERM",
    "sethostname fails with EPERM, and a seccomp filter may refuse it",
    "userfaultfd fails with EPERM",
];

/// The reasons that apply to every unprivileged user.
const ORDINARY: &[&str] = &[ROOT, CGROUP, SET_TID];

fn row(
    name: &'static str,
    words: &'static str,
    inside: Vec<Inside>,
    blocked: &'static [&'static str],
) -> Row {
    Row {
        inside,
        expected: Expected { blocked, maybe: &[REOPEN, BECOME, COUNTERS], ..Expected::default() },
        ..Row::new(name, words)
    }
}

pub fn rows() -> Vec<Row> {
    let mut rows = vec![Row::new(BASELINE, "root, no restrictions")];
    rows.extend(users());
    rows.extend(capabilities());
    rows.extend(user_namespaces());
    rows.extend(no_new_privs());
    rows.extend(filters());
    rows.extend(signals());
    rows.extend(descriptors());
    rows.extend(limits());
    rows.extend(core_patterns());
    rows.extend(file_systems());
    rows.extend(cgroups());
    rows.extend(processes());
    rows.extend(interruptions());
    rows.extend(misbehavior());
    rows.extend(machine());
    rows
}

fn users() -> Vec<Row> {
    vec![
        Row {
            arguments: &[],
            ..row(
                "no-global-changes",
                "root, without --allow-global-changes",
                vec![],
                &["allow it with --allow-global-changes"],
            )
        },
        row("user", "an ordinary user", vec![User(1000)], ORDINARY),
        row(
            "user-ambient",
            "an ordinary user with CAP_SYS_PTRACE (ambient)",
            vec![UserWith(1000, Capability::CAP_SYS_PTRACE)],
            ORDINARY,
        ),
        row(
            "user-oom-200",
            "an ordinary user whose oom_score_adj is at least 200, as in a systemd session",
            vec![OomScore(200), User(1000)],
            ORDINARY,
        ),
        row(
            "user-oom-1000",
            "an ordinary user whose oom_score_adj is the highest, as in a container that has asked for no memory",
            vec![OomScore(1000), User(1000)],
            &[ROOT, CGROUP, SET_TID, "/proc/self/oom_score_adj is the highest already"],
        ),
        row("niced", "root under nice(1)", vec![Nice(10)], &[]),
        row(
            "real-user",
            "a program of root that an ordinary user started as set-user-ID",
            vec![RealUser(1000)],
            &[],
        ),
        row(
            "securebits",
            "root with securebits, as systemd sets them (SecureBits=no-setuid-fixup)",
            vec![SecureBits(CapabilitiesSecureBits::NO_SETUID_FIXUP)],
            &[ROOT, CGROUP, NPROC],
        ),
    ]
}

fn capabilities() -> Vec<Row> {
    vec![
        row(
            "no-sys-admin",
            "root without CAP_SYS_ADMIN",
            vec![Without(Capability::CAP_SYS_ADMIN)],
            &[ROOT, CGROUP, NPROC],
        ),
        row(
            "no-setuid",
            "root without CAP_SETUID",
            vec![Without(Capability::CAP_SETUID)],
            &[ROOT, CGROUP, NO_USER, NPROC],
        ),
    ]
}

fn user_namespaces() -> Vec<Row> {
    vec![
        powerless_namespaces(),
        row(
            "userns",
            "root of a user namespace that an ordinary user made",
            vec![User(1000), UserNamespace],
            &[ROOT, CGROUP, SET_TID, NO_USER],
        ),
        row(
            "root-userns",
            "root of a user namespace that root made",
            vec![UserNamespace],
            &[ROOT, CGROUP, SET_TID, NO_USER, NPROC],
        ),
        Row {
            outside: vec![Outside::Sysctl("user/max_user_namespaces", "0")],
            ..row(
                "userns-forbidden",
                "an ordinary user, user namespaces forbidden (sysctl)",
                vec![User(1000)],
                &[ROOT, CGROUP, SET_TID, USERNS, PIDNS, ADMIN, "unshare(CLONE_NEWUSER) fails with ENOSPC"],
            )
        },
        Row {
            outside: vec![Outside::Sysctl("user/max_user_namespaces", "0")],
            ..row(
                "root-userns-forbidden",
                "root, user namespaces forbidden (sysctl)",
                vec![],
                &[USERNS, "clone3(CLONE_NEWUSER, exit_signal SIGCHLD) fails with ENOSPC"],
            )
        },
        Row {
            outside: vec![Outside::Sysctl("kernel/unprivileged_userns_clone", "0")],
            ..row(
                "root-userns-privileged",
                "root, user namespaces forbidden without CAP_SYS_ADMIN (Debian's sysctl)",
                vec![],
                &[NO_USERNS_OF_USERS, "unshare(CLONE_NEWUSER) fails with EPERM"],
            )
        },
        Row {
            outside: vec![Outside::Sysctl("kernel/unprivileged_userns_clone", "0")],
            ..row(
                "userns-privileged",
                "an ordinary user, user namespaces forbidden without CAP_SYS_ADMIN (Debian's sysctl)",
                vec![User(1000)],
                &[ROOT, CGROUP, SET_TID, USERNS, PIDNS, ADMIN, "unshare(CLONE_NEWUSER) fails with EPERM"],
            )
        },
    ]
}

fn no_new_privs() -> Vec<Row> {
    vec![
        row("nnp", "root, no_new_privs set", vec![NoNewPrivs], &[NNP]),
        row(
            "user-nnp",
            "an ordinary user, no_new_privs set",
            vec![User(1000), NoNewPrivs],
            &[ROOT, CGROUP, SET_TID, NNP],
        ),
    ]
}

fn filters() -> Vec<Row> {
    let filter = |name, words, answer, reason| row(name, words, vec![Clone3Answers(answer)], reason);
    vec![
        filter(
            "seccomp-enosys",
            "a seccomp filter that answers clone3 with ENOSYS",
            Answer::Errno(Errno::ENOSYS),
            &["clone3 answers ENOSYS though Linux"],
        ),
        filter(
            "seccomp-eperm",
            "a seccomp filter that answers clone3 with EPERM",
            Answer::Errno(Errno::EPERM),
            &["clone3 answers EPERM though Linux"],
        ),
        filter(
            "seccomp-einval",
            "a seccomp supervisor that answers clone3 with EINVAL where it does not know a flag",
            Answer::EinvalForNewFlags,
            &["a seccomp filter"],
        ),
        filter(
            "seccomp-kill",
            "a seccomp filter that kills the caller of clone3",
            Answer::KillProcess,
            &["clone3 is answered with SIGSYS though Linux"],
        ),
        filter(
            "seccomp-kill-thread",
            "a seccomp filter that kills the thread that calls clone3",
            Answer::KillThread,
            &["clone3 is answered with SIGSYS though Linux"],
        ),
        filter(
            "seccomp-trap",
            "a seccomp filter that sends SIGSYS to who calls clone3",
            Answer::Trap,
            &["clone3 is answered with SIGSYS though Linux"],
        ),
        row(
            "seccomp-container",
            "a seccomp filter as a container's, which allows clone3 and forbids some other calls (EPERM)",
            vec![Forbidden(FORBIDDEN_IN_CONTAINERS)],
            [BEHIND_CONTAINERS_FILTER, &["personality(ADDR_NO_RANDOMIZE) fails with EPERM"]].concat().leak(),
        ),
        row(
            "user-seccomp-container",
            "an ordinary user behind such a filter",
            vec![Forbidden(FORBIDDEN_IN_CONTAINERS), User(1000)],
            [ORDINARY, BEHIND_CONTAINERS_FILTER].concat().leak(),
        ),
    ]
}

fn signals() -> Vec<Row> {
    vec![
        row("sigchld-ignored", "SIGCHLD ignored", vec![Ignore(Signal::SIGCHLD)], &[]),
        row("sigchld-blocked", "SIGCHLD blocked", vec![Block(Signal::SIGCHLD)], &[]),
        row("sigpipe-ignored", "SIGPIPE ignored", vec![Ignore(Signal::SIGPIPE)], &[]),
        row("all-blocked", "all signals blocked", vec![BlockAll], &[]),
        row("all-ignored", "every signal ignored that can be", vec![IgnoreAll], &[]),
    ]
}

fn descriptors() -> Vec<Row> {
    let mute = |name, words, instead| Row {
        expected: Expected {
            status: 3,
            cut_short: true,
            says: if matches!(instead, Instead::FullDevice) {
                &["error: cannot write to stdout: No space left"]
            } else {
                &["error: cannot write to stdout"]
            },
            ..Expected::default()
        },
        ..row(name, words, vec![Give(1, instead)], &[])
    };
    vec![
        row("stdin-closed", "stdin closed", vec![Close(0)], &[]),
        row("stdout-closed", "stdout closed", vec![Close(1)], &[]),
        row("stderr-closed", "stderr closed", vec![Close(2)], &[]),
        row("all-closed", "stdin, stdout and stderr closed", vec![Close(0), Close(1), Close(2)], &[]),
        mute("stdout-full-device", "stdout is /dev/full", Instead::FullDevice),
        mute("stdout-full-pipe", "stdout is a full pipe that does not block", Instead::FullPipe),
        mute("stdout-broken-pipe", "stdout is a pipe that nobody reads any more", Instead::BrokenPipe),
        Row {
            expected: Expected { says: &["test result: ok."], ..Expected::default() },
            ..row("stdout-read-late", "stdout is a full pipe that is read late", vec![ReadLate], &[])
        },
        row("stderr-full-device", "stderr is /dev/full", vec![Give(2, Instead::FullDevice)], &[]),
        row(
            "stderr-broken-pipe",
            "stderr is a pipe that nobody reads any more",
            vec![Give(2, Instead::BrokenPipe)],
            &[],
        ),
    ]
}

/// The sandbox itself cannot start.
fn cannot_start() -> Expected {
    let says = &["error: the harness cannot start"];
    Expected { status: 3, no_case: true, says, ..Expected::default() }
}

fn limits() -> Vec<Row> {
    vec![
        Row {
            expected: cannot_start(),
            ..row(
                "nproc-2",
                "an ordinary user, RLIMIT_NPROC 2",
                vec![Limit(Resource::Nproc, 2), User(1000)],
                &[],
            )
        },
        Row {
            expected: Expected {
                blocked: &[TIGHT],
                maybe: &[ROOT, CGROUP, SET_TID, REOPEN, COUNTERS, NO_NAMESPACE, "a limit on processes"],
                ..Expected::default()
            },
            ..row(
                "nproc-8",
                "an ordinary user, RLIMIT_NPROC 8",
                vec![Limit(Resource::Nproc, 8), User(1000)],
                &[],
            )
        },
        // The limit does not apply to root, but to the user whom root's cases become.
        Row {
            expected: Expected { blocked: &[TIGHT], maybe: &["a limit on processes"], ..Expected::default() },
            ..row("root-nproc-1", "root, RLIMIT_NPROC 1", vec![Limit(Resource::Nproc, 1)], &[])
        },
        Row {
            expected: cannot_start(),
            ..row("nofile-4", "RLIMIT_NOFILE 4", vec![Limit(Resource::Nofile, 4)], &[])
        },
        Row {
            expected: Expected { maybe: &["RLIMIT_NOFILE allows only 24 open files"], ..Expected::default() },
            ..row("nofile-24", "RLIMIT_NOFILE 24", vec![Limit(Resource::Nofile, 24)], &[])
        },
        row("core-0", "RLIMIT_CORE 0", vec![Limit(Resource::Core, 0)], &[]),
        row(
            "user-core-0",
            "an ordinary user, RLIMIT_CORE 0",
            vec![Limit(Resource::Core, 0), User(1000)],
            ORDINARY,
        ),
        Row {
            expected: Expected { maybe: &["64 MiB of memory cannot be had"], ..Expected::default() },
            ..row("as-32m", "RLIMIT_AS 32 MiB", vec![Limit(Resource::As, 32 << 20)], &[])
        },
        row("as-256m", "RLIMIT_AS 256 MiB", vec![Limit(Resource::As, 256 << 20)], &[]),
        row(
            "memlock-0",
            "an ordinary user, RLIMIT_MEMLOCK 0",
            vec![Limit(Resource::Memlock, 0), User(1000)],
            ORDINARY,
        )
        // Linux 7.3 does not charge an io_uring to that limit.
        .perhaps(&[
            REOPEN,
            COUNTERS,
            "io_uring_setup fails with ENOMEM",
            "mlockall(MCL_FUTURE) fails with EPERM",
        ]),
        row(
            "sigpending-0",
            "an ordinary user, RLIMIT_SIGPENDING 0",
            vec![Limit(Resource::Sigpending, 0), User(1000)],
            ORDINARY,
        )
        .perhaps(&[REOPEN, COUNTERS, QUEUE, "needs timer_create(2)"]),
        Row {
            outside: vec![Outside::Sysctl("vm/memfd_noexec", "2")],
            ..row(
                "memfd-noexec",
                "no file in memory can be executed (vm.memfd_noexec 2)",
                vec![],
                &["memfd_create(MFD_EXEC) fails with EACCES"],
            )
        },
        Row {
            outside: vec![Outside::Sysctl("fs/inotify/max_user_instances", "2")],
            ..row("inotify-2", "root, two inotify instances", vec![], &[INOTIFY])
        },
        Row {
            // The output of a row goes to a file.
            expected: Expected { status: 3, cut_short: true, ..Expected::default() },
            ..row("fsize-0", "RLIMIT_FSIZE 0, stdout a file", vec![Limit(Resource::Fsize, 0)], &[])
        },
    ]
}

fn core_patterns() -> Vec<Row> {
    let pattern = |name, words, pattern| Row {
        outside: vec![Outside::Sysctl("kernel/core_pattern", pattern)],
        ..row(name, words, vec![], &[])
    };
    vec![
        pattern("core-pipe", "core_pattern a pipe to a program", "|/bin/false %p"),
        pattern("core-file", "core_pattern a file", "/tmp/core.%p"),
        pattern("core-empty", "core_pattern empty", ""),
    ]
}

fn file_systems() -> Vec<Row> {
    vec![
        row(
            "no-proc",
            "root without /proc",
            vec![OwnMounts, Unmount("/proc")],
            &[PROC, "cannot read /proc/sys/kernel/core_pattern"],
        ),
        row(
            "user-no-proc",
            "an ordinary user without /proc",
            vec![OwnMounts, Unmount("/proc"), User(1000)],
            &[ROOT, CGROUP, SET_TID, PROC],
        ),
        row("no-sys", "root without /sys", vec![OwnMounts, Unmount("/sys")], &[CORE]),
        row("no-dev", "root without /dev", vec![OwnMounts, Unmount("/dev")], &[CORE, TERMINAL]),
        row(
            "read-only",
            "no writable directory: every mount read-only",
            vec![OwnMounts, ReadOnly],
            &["cannot make /tmp/clone3-conformance-", "fails with EROFS"],
        ),
        row(
            "user-read-only",
            "an ordinary user, no writable directory",
            vec![OwnMounts, ReadOnly, User(1000)],
            &[ROOT, CGROUP, SET_TID, "cannot make /tmp/clone3-conformance-"],
        ),
        row("lost-directory", "a working directory that was removed", vec![LostDirectory], &[]),
        row(
            "hidepid",
            "an ordinary user, /proc with hidepid=2",
            vec![OwnMounts, Mount { kind: "proc", at: "/proc", options: "hidepid=2" }, User(1000)],
            ORDINARY,
        )
        .perhaps(&[REOPEN, COUNTERS, NO_KTHREAD]),
    ]
}

fn cgroups() -> Vec<Row> {
    let limited = |name, words, controller, file, limit, expected| Row {
        outside: vec![Outside::Cgroup { controller, file, limit }],
        expected,
        ..row(name, words, vec![EnterCgroup], &[])
    };
    vec![
        row(
            "cgroup-none",
            "no cgroup file system mounted",
            vec![OwnMounts, Unmount("/sys/fs/cgroup")],
            &[CORE],
        ),
        row(
            "cgroup-v1",
            "cgroup version 1 alone mounted",
            vec![
                OwnMounts,
                Unmount("/sys/fs/cgroup"),
                Mount { kind: "cgroup", at: "/sys/fs/cgroup", options: "none,name=systemd" },
            ],
            &[CORE],
        ),
        limited(
            "pids-6",
            "a cgroup with pids.max 6",
            "pids",
            "pids.max",
            "6",
            // A case for 32-bit programs forks before all others.
            Expected { blocked: &[TIGHT], maybe: &["a limit on processes"], ..Expected::default() },
        ),
        limited(
            "pids-30",
            "a cgroup with pids.max 30",
            "pids",
            "pids.max",
            "30",
            // Any case that starts while many children of concurrent cases are alive.
            Expected { maybe: &[TIGHT], ..Expected::default() },
        ),
        limited(
            "memory-64m",
            "a cgroup with memory.max 64 MiB",
            "memory",
            "memory.max",
            "64M",
            Expected::default(),
        ),
    ]
}

fn processes() -> Vec<Row> {
    vec![
        row(
            "pid-1",
            "process 1 of a pid namespace, with its own /proc",
            vec![OwnMounts, PidNamespace, Mount { kind: "proc", at: "/proc", options: "" }],
            &[CORE],
        )
        .perhaps(&[HELPER, BECOME, LISTNS, NO_KTHREAD]),
        row(
            "pid-1-foreign-proc",
            "process 1 of a pid namespace, with the /proc of the one around it",
            vec![OwnMounts, PidNamespace],
            &[PROC, CORE],
        ),
        row(
            "user-pid-1",
            "process 1 of a pid namespace in a user namespace, with its own /proc",
            vec![
                User(1000),
                UserNamespace,
                OwnMounts,
                PidNamespace,
                Mount { kind: "proc", at: "/proc", options: "" },
            ],
            &[ROOT, CGROUP, NO_USER],
        )
        .perhaps(&[REOPEN, BECOME, COUNTERS, NO_KTHREAD]),
        row("autoreaped", "auto-reaped by its parent", vec![MadeWith(Flags::REAPED)], &[]),
        row("autokilled", "an auto-kill child with no_new_privs", vec![MadeWith(Flags::KILLED_NNP)], &[NNP]),
        row("subreaper", "the child of a subreaper, which must be left no orphan", vec![UnderSubreaper], &[]),
        row("traced", "traced, forks followed (as by gdb)", vec![Traced(Trace::Events)], &[PTRACE, TRACED]),
        row(
            "traced-calls",
            "traced, every call (as by strace -f)",
            vec![Traced(Trace::Calls)],
            &[PTRACE, TRACED],
        ),
        strace(),
        Row {
            expected: Expected { says: &["[Inferior 1 (process"], ..Expected::default() },
            ..row("gdb", "run by gdb", vec![Under(GDB)], &[])
        },
        row("traced-alone", "traced, forks not followed", vec![Traced(Trace::OneProcess)], &[]),
        row("personality-32", "the personality of a 32-bit program", vec![ThirtyTwoBit], &[]),
    ]
}

/// User namespaces without privileges, as restricted by AppArmor.
fn powerless_namespaces() -> Row {
    let row = row(
        "userns-powerless",
        "an ordinary user who may make user namespaces, and not write their setgroups file",
        vec![User(1000), Under(NO_SETGROUPS)],
        &[
            ROOT,
            CGROUP,
            SET_TID,
            PTRACE,
            TRACED,
            USERNS,
            PIDNS,
            ADMIN,
            "a new user namespace cannot be used: writing its setgroups",
        ],
    );
    Row { expected: Expected { or_else: Some(STRACE_AT_A_LOSS), ..row.expected }, ..row }
}

fn strace() -> Row {
    let row = row("strace", "under strace -f", vec![Under(STRACE)], &[PTRACE, TRACED]);
    Row { expected: Expected { or_else: Some(STRACE_AT_A_LOSS), ..row.expected }, ..row }
}

/// The suite is interrupted in the middle of a case.
fn interruptions() -> Vec<Row> {
    let ended = |name, words, signal: Signal| Row {
        meanwhile: Some(Meanwhile::Interrupt(signal)),
        expected: Expected { status: 128 + signal as i32, cut_short: true, ..Expected::default() },
        ..row(name, words, vec![], &[])
    };
    vec![
        ended("ctrl-c", "ended by Ctrl-C", Signal::SIGINT),
        ended("terminated", "ended by SIGTERM to its process group", Signal::SIGTERM),
        ended("killed", "ended by SIGKILL", Signal::SIGKILL),
    ]
}

/// Cases that misbehave in every possible way, with nothing to prevent them.
fn misbehavior() -> Vec<Row> {
    let all = Expected { no_case: true, says: &["; 0 failed; 0 ignored"], ..Expected::default() };
    vec![Row {
        program: Program::SelfTest,
        arguments: &[],
        expected: all,
        ..Row::new("bad-cases", "cases that leak, hang, crash and lie: the sandbox's own test, as root")
    }]
}

fn machine() -> Vec<Row> {
    let with = |name, words, outside: Outside, inside, blocked| Row {
        outside: vec![outside],
        ..row(name, words, inside, blocked)
    };
    let yama = |name, words, value, inside, blocked| {
        with(name, words, Outside::Sysctl("kernel/yama/ptrace_scope", value), inside, blocked)
    };
    vec![
        with(
            "stepping-clock",
            "a clock that is set forth and back all the time",
            Outside::SteppingClock,
            vec![],
            &[],
        ),
        with("one-processor", "one processor online", Outside::OneProcessor, vec![], &[]),
        with("load", "ten times as many busy processes as processors", Outside::Load, vec![], &[])
            .perhaps(&["too slow here to make"]),
        Row {
            outside: vec![Outside::Sysctl("kernel/pid_max", "1000"), Outside::Churn],
            ..row(
                "pid-reuse",
                "pids that are used again at once (pid_max 1000), and processes that must not be signalled",
                vec![],
                &[],
            )
        },
        yama("yama-0", "an ordinary user, yama ptrace_scope 0", "0", vec![User(1000)], ORDINARY),
        yama("yama-1", "an ordinary user, yama ptrace_scope 1", "1", vec![User(1000)], ORDINARY),
        yama(
            "yama-2",
            "an ordinary user, yama ptrace_scope 2",
            "2",
            vec![User(1000)],
            &[ROOT, CGROUP, SET_TID, PTRACE],
        )
        .perhaps(&[REOPEN, COUNTERS, GETFD, GETFD_OF_SIBLING]),
        yama("root-yama-2", "root, yama ptrace_scope 2", "2", vec![], &[PTRACE]).perhaps(&[GETFD_OF_SIBLING]),
        Row {
            meanwhile: Some(Meanwhile::Warning),
            expected: Expected {
                status: 1,
                says: &["error: the kernel complained while the suite ran: a warning (W)"],
                ..Expected::default()
            },
            ..row("warning", "a kernel that gives a warning meanwhile", vec![], &[])
        },
        // The last row, since only a reboot reverts it.
        with(
            "yama-3",
            "root, yama ptrace_scope 3",
            Outside::SysctlForGood("kernel/yama/ptrace_scope", "3"),
            vec![],
            &[PTRACE],
        )
        .perhaps(&[GETFD, GETFD_OF_SIBLING]),
    ]
}
