//! The types of which the table's rows consist.
use caps::Capability;
use clone3_conformance::abi::Flags;
use nix::sys::signal::Signal;
use rustix::process::Resource;
use rustix::thread::CapabilitiesSecureBits;

/// An environment, and what the suite is expected to do in it.
pub struct Row {
    pub name: &'static str,
    /// A description of the environment, for the table in the documentation.
    pub words: &'static str,
    /// The changes to the machine, undone afterwards.
    pub outside: Vec<Outside>,
    /// The steps of the process that then becomes the suite.
    pub inside: Vec<Inside>,
    /// The program to run.
    pub program: Program,
    /// Additional arguments of the suite.
    pub arguments: &'static [&'static str],
    /// What happens once the suite's first case has started.
    pub meanwhile: Option<Meanwhile>,
    pub expected: Expected,
    /// Run only if named: for another kernel or another boot.
    pub only_if_named: bool,
}

/// The expected result. In addition, no case may fail, there may be no leftovers, and every case that passes for root in the
/// plain guest must pass.
#[derive(Default)]
pub struct Expected {
    /// The suite's exit status.
    pub status: i32,
    /// The reasons for which cases may be blocked. Each must occur, and no others.
    pub blocked: &'static [&'static str],
    /// Further reasons for which cases may be blocked, which need not occur.
    pub maybe: &'static [&'static str],
    /// The reasons for which cases may be unsupported. Each must occur, and no others.
    pub unsupported: &'static [&'static str],
    /// The suite runs no case.
    pub no_case: bool,
    /// The suite ends before its last case, and reports that.
    pub cut_short: bool,
    /// The texts that the suite must print to stdout or stderr.
    pub says: &'static [&'static str],
    /// Another way in which a program around the suite may end although the suite ended as expected: its exit status and output.
    pub or_else: Option<(i32, &'static str)>,
}

/// The program that runs in an environment.
#[derive(Clone, Copy, PartialEq)]
pub enum Program {
    /// The released suite.
    Suite,
    /// The sandbox's own test, with cases that misbehave.
    SelfTest,
}

impl Program {
    /// Returns the program's path in the guest.
    pub fn path(self) -> &'static str {
        match self {
            Program::Suite => "/suite/carried/clone3-conformance",
            Program::SelfTest => "/suite/carried/self-test",
        }
    }
}

/// The guest's folder for files from the host.
pub const CARRIED: &str = "/suite/carried";

/// What happens while the suite runs.
#[derive(Clone, Copy)]
pub enum Meanwhile {
    /// The suite's process group receives this signal; SIGKILL goes to the suite alone.
    Interrupt(Signal),
    /// The kernel's taint flag for a warning is set, by a write as root instead of a real warning. The flag stays set.
    Warning,
}

impl Meanwhile {
    /// Returns whether a difference is one that stays.
    pub fn stays_changed(self, difference: &str) -> bool {
        matches!(self, Meanwhile::Warning) && difference.starts_with("sysctl kernel/tainted ")
    }
}

/// A change to the machine.
#[derive(Clone, Copy)]
pub enum Outside {
    /// Sets a file in `/proc/sys` to a value; fails if this kernel lacks the file.
    Sysctl(&'static str, &'static str),
    /// Sets a file in `/proc/sys` permanently: the machine has to be discarded afterwards.
    SysctlForGood(&'static str, &'static str),
    /// Creates a cgroup for the suite, with this limit.
    Cgroup { controller: &'static str, file: &'static str, limit: &'static str },
    /// Starts ten busy processes per CPU.
    Load,
    /// Starts a process that steps the clock forward and back.
    SteppingClock,
    /// Takes all CPUs but the first offline.
    OneProcessor,
    /// Starts a process that creates and reaps children as fast as it can, and detects whether one is signaled.
    Churn,
}

/// A step of the process that then becomes the suite.
#[derive(Clone, Copy)]
pub enum Inside {
    /// Becomes this user and its group, without supplementary groups.
    User(u32),
    /// Becomes this user, and keeps a capability across exec (ambient).
    UserWith(u32, Capability),
    /// Sets an `oom_score_adj` that an unprivileged user cannot lower.
    OomScore(i32),
    /// Sets the nice value.
    Nice(i32),
    /// Drops a capability permanently.
    Without(Capability),
    /// Becomes root in a new user namespace.
    UserNamespace,
    NoNewPrivs,
    /// Installs a seccomp filter for clone3.
    Clone3Answers(Answer),
    /// Installs a seccomp filter that makes each of these system calls fail with EPERM.
    Forbidden(&'static [libc::c_long]),
    Ignore(Signal),
    /// Ignores every signal that can be ignored, real-time signals among them.
    IgnoreAll,
    /// Sets securebits, which exec keeps: see capabilities(7).
    SecureBits(CapabilitiesSecureBits),
    /// Sets only the real user id.
    RealUser(u32),
    Block(Signal),
    BlockAll,
    /// Closes a descriptor.
    Close(i32),
    /// Replaces a descriptor.
    Give(i32, Instead),
    Limit(Resource, u64),
    /// Enters a new mount namespace, so that its mounts can be changed.
    OwnMounts,
    /// Unmounts what is mounted there.
    Unmount(&'static str),
    /// Mounts a file system there.
    Mount {
        kind: &'static str,
        at: &'static str,
        options: &'static str,
    },
    /// Remounts every mount but /proc and /sys read-only.
    ReadOnly,
    /// Continues as the first process of a new pid namespace.
    PidNamespace,
    /// Continues as a child that clone3 creates with these flags, and that its parent cannot wait for with wait(2).
    MadeWith(Flags),
    /// Continues as the child of a subreaper, to which no orphan may be reparented.
    UnderSubreaper,
    /// Continues as a tracee, whose tracer also traces its descendants.
    Traced(Trace),
    /// Continues as the child of a program of the host, with these arguments. Rows whose program the host lacks are skipped.
    Under(Tool),
    ThirtyTwoBit,
    /// Continues as the child of a process that gives it a full pipe as stdout, reads nothing until the child is blocked on it,
    /// and then forwards all of it.
    ReadLate,
    /// Moves into the cgroup that was created outside.
    EnterCgroup,
    /// Changes to a working directory that is then removed.
    LostDirectory,
}

/// The result of clone3 under a filter.
#[derive(Clone, Copy, PartialEq)]
pub enum Answer {
    Errno(nix::errno::Errno),
    /// EINVAL for the flags of Linux 7.1, as from a supervisor that does not know them.
    EinvalForNewFlags,
    KillProcess,
    KillThread,
    Trap,
}

/// What replaces a descriptor.
#[derive(Clone, Copy)]
pub enum Instead {
    /// `/dev/full`.
    FullDevice,
    /// A full, nonblocking pipe that no process reads.
    FullPipe,
    /// A pipe whose read end is closed.
    BrokenPipe,
}

/// A program of the host that starts another program.
#[derive(Clone, Copy)]
pub struct Tool {
    pub name: &'static str,
    pub arguments: &'static [&'static str],
}

/// How closely a tracer observes.
#[derive(Clone, Copy, PartialEq)]
pub enum Trace {
    /// Like a debugger that follows forks: signals and events.
    Events,
    /// Like strace: every system call.
    Calls,
    /// Like a debugger that does not follow forks.
    OneProcess,
}

impl Row {
    pub fn new(name: &'static str, words: &'static str) -> Row {
        Row {
            name,
            words,
            outside: Vec::new(),
            inside: Vec::new(),
            program: Program::Suite,
            arguments: &["--allow-global-changes"],
            meanwhile: None,
            expected: Expected::default(),
            only_if_named: false,
        }
    }

    /// Adds reasons for which cases may be blocked here, but need not be.
    pub fn perhaps(mut self, reasons: &'static [&'static str]) -> Row {
        self.expected.maybe = reasons;
        self
    }

    /// Returns the program of the host that starts the suite, if the row has one.
    pub fn tool(&self) -> Option<Tool> {
        self.inside.iter().find_map(|step| if let Inside::Under(tool) = step { Some(*tool) } else { None })
    }

    /// Returns whether the other rows are compared with this one.
    pub fn is_baseline(&self) -> bool {
        self.name == crate::table::BASELINE
    }
}
