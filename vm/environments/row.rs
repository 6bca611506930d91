//! What a row of the table can say.
use caps::Capability;
use nix::sys::signal::Signal;
use rustix::process::Resource;

/// An environment, and what the suite must make of it.
pub struct Row {
    pub name: &'static str,
    /// The environment in words, for the table in the documentation.
    pub words: &'static str,
    /// What is done to the machine, and undone afterwards.
    pub outside: Vec<Outside>,
    /// What the process does that then becomes the suite.
    pub inside: Vec<Inside>,
    /// What runs there.
    pub program: Program,
    /// Further arguments of the suite.
    pub arguments: &'static [&'static str],
    /// What happens once the suite's first case has begun.
    pub meanwhile: Option<Meanwhile>,
    pub expected: Expected,
    /// Only for another kernel or for another boot.
    pub only_if_named: bool,
}

/// What must come of it. Beyond this, no case may fail, nothing may be left, and everything that passes for root in
/// the plain guest must pass.
#[derive(Default)]
pub struct Expected {
    /// The suite's exit status.
    pub status: i32,
    /// Why cases may be blocked; each of these must be said, and no other reason.
    pub blocked: &'static [&'static str],
    /// Why cases may be blocked here too; what need not be said.
    pub maybe: &'static [&'static str],
    /// Why cases are unsupported, likewise.
    pub unsupported: &'static [&'static str],
    /// The suite does not come to run a case.
    pub no_case: bool,
    /// The suite ends before its last case, and says so.
    pub cut_short: bool,
    /// What the suite must say, on stdout or stderr.
    pub says: &'static [&'static str],
    /// How a program around the suite may end instead, though the suite itself ended well: its exit status and its words.
    pub or_else: Option<(i32, &'static str)>,
}

/// What runs in an environment.
#[derive(Clone, Copy, PartialEq)]
pub enum Program {
    /// The suite, as it is shipped.
    Suite,
    /// The sandbox's own test, with cases that misbehave.
    SelfTest,
}

impl Program {
    /// Where the guest has it.
    pub fn path(self) -> &'static str {
        match self {
            Program::Suite => "/suite/carried/clone3-conformance",
            Program::SelfTest => "/suite/carried/self-test",
        }
    }
}

/// Where the guest has what the host gave it.
pub const CARRIED: &str = "/suite/carried";

/// What happens while the suite runs.
#[derive(Clone, Copy)]
pub enum Meanwhile {
    /// This is sent to the suite's process group, or SIGKILL to itself alone.
    Interrupt(Signal),
    /// The kernel takes note that it has given a warning, which it does for root as well as by itself. That stays.
    Warning,
}

impl Meanwhile {
    /// Whether a difference is what is to stay.
    pub fn stays_changed(self, difference: &str) -> bool {
        matches!(self, Meanwhile::Warning) && difference.starts_with("sysctl kernel/tainted ")
    }
}

/// What is done to the machine.
#[derive(Clone, Copy)]
pub enum Outside {
    /// A file under `/proc/sys`, and what it is to hold; rows without it on this kernel are left out.
    Sysctl(&'static str, &'static str),
    /// The same, for good: the machine ends with it.
    SysctlForGood(&'static str, &'static str),
    /// A cgroup for the suite, with this limit.
    Cgroup { controller: &'static str, file: &'static str, limit: &'static str },
    /// As many busy processes as ten times the processors.
    Load,
    /// A process that sets the clock forth and back.
    SteppingClock,
    /// All processors but the first are taken away.
    OneProcessor,
    /// Processes that are born and die as fast as they can, and know if anybody signals them.
    Churn,
}

/// What the process does that becomes the suite.
#[derive(Clone, Copy)]
pub enum Inside {
    /// Becomes this user and its group, without supplementary groups.
    User(u32),
    /// Likewise, and keeps a capability over exec (ambient).
    UserWith(u32, Capability),
    /// Sets the `oom_score_adj` below which it cannot go as an ordinary user.
    OomScore(i32),
    /// Takes this nice value.
    Nice(i32),
    /// Gives up a capability for good.
    Without(Capability),
    /// Becomes the root of a new user namespace.
    UserNamespace,
    NoNewPrivs,
    /// Puts a filter in front of clone3.
    Clone3Answers(Answer),
    /// Puts a filter in front of each of these system calls, which fails with EPERM.
    Forbidden(&'static [libc::c_long]),
    Ignore(Signal),
    Block(Signal),
    BlockAll,
    /// Closes a descriptor.
    Close(i32),
    /// Puts something else in the place of a descriptor.
    Give(i32, Instead),
    Limit(Resource, u64),
    /// A mount namespace of its own, to change.
    OwnMounts,
    /// Takes away what is mounted there.
    Unmount(&'static str),
    /// Mounts something there.
    Mount {
        kind: &'static str,
        at: &'static str,
        options: &'static str,
    },
    /// Every mount becomes read-only.
    ReadOnly,
    /// Goes on as the first process of a new pid namespace.
    PidNamespace,
    /// Goes on as the child of a subreaper, which must be left no orphan.
    UnderSubreaper,
    /// Goes on as a tracee; the tracer follows all that comes of it.
    Traced(Trace),
    /// Goes on as the child of a program of the host's, with these arguments. Rows whose program the host has not are left
    /// out.
    Under(Tool),
    ThirtyTwoBit,
    /// Goes on as the child of a process that gives it a full pipe as its stdout, reads none of it before the child is
    /// blocked on it, and then passes all of it on.
    ReadLate,
    /// Moves into the cgroup that was made outside.
    EnterCgroup,
    /// A working directory that does not exist any more.
    LostDirectory,
}

/// What clone3 answers behind a filter.
#[derive(Clone, Copy, PartialEq)]
pub enum Answer {
    Errno(nix::errno::Errno),
    /// EINVAL for flags of Linux 7.1, as a supervisor answers that does not know them.
    EinvalForNewFlags,
    KillProcess,
    KillThread,
    Trap,
}

/// What a descriptor is instead.
#[derive(Clone, Copy)]
pub enum Instead {
    /// `/dev/full`.
    FullDevice,
    /// A pipe that is full, that nobody reads, and that does not block.
    FullPipe,
    /// A pipe whose reader is gone.
    BrokenPipe,
}

/// A program of the host's that starts another.
#[derive(Clone, Copy)]
pub struct Tool {
    pub name: &'static str,
    pub arguments: &'static [&'static str],
}

/// How closely a tracer looks.
#[derive(Clone, Copy, PartialEq)]
pub enum Trace {
    /// As a debugger that follows forks: signals and events.
    Events,
    /// As strace: every system call.
    Calls,
    /// As a debugger that does not follow forks.
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

    /// With these reasons for cases that may be blocked here too, and need not be.
    pub fn perhaps(mut self, reasons: &'static [&'static str]) -> Row {
        self.expected.maybe = reasons;
        self
    }

    /// The program of the host's that the suite is started by, if that is the row's environment.
    pub fn tool(&self) -> Option<Tool> {
        self.inside.iter().find_map(|step| if let Inside::Under(tool) = step { Some(*tool) } else { None })
    }

    /// Whether the other rows are compared with this one.
    pub fn is_the_measure(&self) -> bool {
        self.name == crate::table::MEASURE
    }
}
