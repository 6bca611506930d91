//! The steps of a row that change the process which then becomes the suite; the last step is exec.
use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use caps::CapSet;
use clone3_conformance::abi::Flags;
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::seccomp::{self, Refusal, Supervisor};
use clone3_conformance::kit::tracer::{self, Resume};
use clone3_conformance::kit::{fdpass, privilege};
use clone3_conformance::wait::waitpid;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::personality::{self, Persona};
use nix::sys::ptrace::Options;
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount,
};
use rustix::process::{Rlimit, setrlimit};

use crate::outside::CGROUP;
use crate::row::{Answer, CARRIED, Inside, Instead, Row, Tool, Trace};
use crate::{Result, THIS, table};

/// The exit status when a step fails; the suite never exits with it.
pub const COULD_NOT: u8 = 77;

/// The exit status of a subreaper to which an orphan was reparented.
pub const ORPHAN_LEFT: u8 = 78;

/// Takes the steps of a row, starting with the given one, and becomes the suite with the remaining arguments.
pub fn become_suite(arguments: &[String]) -> Result<ExitCode> {
    let [name, from, stop, rest @ ..] = arguments else {
        return Err("inside ROW FROM STOP ARGUMENT…".into());
    };
    if stop == "stop" {
        raise(Signal::SIGSTOP)?;
    }
    let rows = table::rows();
    let row = rows.iter().find(|row| row.name == name).ok_or("no such row")?;
    match take_steps(row, from.parse()?, rest) {
        Ok(status) => Ok(status),
        Err(error) => {
            eprintln!("environments: {name} cannot be made: {error}");
            Ok(ExitCode::from(COULD_NOT))
        }
    }
}

fn take_steps(row: &Row, from: usize, arguments: &[String]) -> Result<ExitCode> {
    for (index, step) in row.inside.iter().enumerate().skip(from) {
        let rest = || command(row.name, index + 1, arguments);
        match step {
            Inside::PidNamespace => {
                unshare(CloneFlags::CLONE_NEWPID)?;
                return Ok(mirror(rest().status()?));
            }
            Inside::MadeWith(flags) => return make(*flags, || take_steps(row, index + 1, arguments)),
            Inside::UnderSubreaper => return reap_beneath(&mut rest()),
            Inside::ReadLate => return read_late(&mut rest()),
            Inside::Traced(how) => {
                return trace(&mut command_that_stops(row.name, index + 1, arguments), *how);
            }
            Inside::Clone3Answers(Answer::EinvalForNewFlags) => {
                return supervise(row.name, index, arguments);
            }
            Inside::Under(tool) => return become_tool(*tool, row.program.path(), arguments),
            step => take(*step).map_err(|error| format!("step {}: {error}", index + 1))?,
        }
    }
    let words = std::iter::once("clone3-conformance").chain(arguments.iter().map(String::as_str));
    execute(row.program.path(), words)
}

/// Becomes the program with these arguments. std's exec() would reset SIGPIPE.
fn execute<'a>(program: &str, words: impl Iterator<Item = &'a str>) -> Result<ExitCode> {
    let words: Vec<CString> = words.map(CString::new).collect::<std::result::Result<_, _>>()?;
    nix::unistd::execv(&CString::new(program)?, &words)?;
    Err("exec returned".into())
}

/// Becomes a program of the host that starts the suite. Its loader and libraries are in the same folder.
fn become_tool(tool: Tool, suite: &str, arguments: &[String]) -> Result<ExitCode> {
    let loader = format!("{CARRIED}/ld-linux-x86-64.so.2");
    let program = format!("{CARRIED}/{}", tool.name);
    let before = [&loader, "--library-path", CARRIED, &program];
    let words = before.iter().chain(tool.arguments).copied().chain([suite]);
    execute(&loader, words.chain(arguments.iter().map(String::as_str)))
}

/// Returns the command that runs this program again, to take the steps from this one on.
fn command(row: &str, from: usize, arguments: &[String]) -> Command {
    let mut command = Command::new(THIS);
    command.args(["inside", row, &from.to_string(), "go"]).args(arguments);
    command
}

fn command_that_stops(row: &str, from: usize, arguments: &[String]) -> Command {
    let mut command = Command::new(THIS);
    command.args(["inside", row, &from.to_string(), "stop"]).args(arguments);
    command
}

/// Converts the exit status of another process to an exit code, as a shell does.
fn mirror(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn take(step: Inside) -> Result<()> {
    let words = |failure: clone3_conformance::check::Failure| failure.message;
    match step {
        Inside::User(user) => privilege::become_user(user).map_err(words)?,
        Inside::UserWith(user, capability) => privilege::become_user_with(user, capability).map_err(words)?,
        Inside::OomScore(least) => fs::write("/proc/self/oom_score_adj", least.to_string())?,
        Inside::Nice(value) => rustix::process::setpriority_process(None, value)?,
        Inside::Without(capability) => {
            for set in
                [CapSet::Ambient, CapSet::Bounding, CapSet::Effective, CapSet::Inheritable, CapSet::Permitted]
            {
                caps::drop(None, set, capability)?;
            }
        }
        Inside::UserNamespace => privilege::enter_user_namespace().map_err(words)?,
        Inside::NoNewPrivs => rustix::thread::set_no_new_privs(true)?,
        Inside::Clone3Answers(answer) => refuse(answer)?,
        Inside::Forbidden(calls) => {
            for &call in calls {
                seccomp::refuse(call, Refusal::Errno(Errno::EPERM))?;
            }
        }
        Inside::Ignore(signal) => disposition::set(signal, Disposition::Ignored).map_err(words)?,
        Inside::IgnoreAll => disposition::ignore_all(),
        Inside::SecureBits(bits) => rustix::thread::set_capabilities_secure_bits(bits)?,
        Inside::RealUser(user) => {
            nix::unistd::setresuid(user.into(), nix::unistd::geteuid(), nix::unistd::geteuid())?
        }
        Inside::Block(signal) => SigSet::from(signal).thread_block()?,
        Inside::BlockAll => SigSet::all().thread_block()?,
        Inside::Close(fd) => nix::unistd::close(fd)?,
        Inside::Give(fd, instead) => give(fd, instead)?,
        Inside::Limit(resource, limit) => {
            setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
        }
        Inside::OwnMounts => {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        }
        Inside::Unmount(path) => unmount(path, UnmountFlags::DETACH)?,
        Inside::Mount { kind, at, options } => {
            let options = CString::new(options)?;
            mount(kind, at, kind, MountFlags::empty(), options.as_c_str())?;
        }
        Inside::ReadOnly => make_read_only()?,
        Inside::ThirtyTwoBit => {
            personality::set(Persona::from_bits_retain(PER_LINUX32))?;
        }
        Inside::EnterCgroup => fs::write(format!("{CGROUP}/cgroup.procs"), "0")?,
        Inside::LostDirectory => {
            fs::create_dir("/tmp/lost")?;
            std::env::set_current_dir("/tmp/lost")?;
            fs::remove_dir("/tmp/lost")?;
        }
        Inside::PidNamespace
        | Inside::MadeWith(_)
        | Inside::UnderSubreaper
        | Inside::ReadLate
        | Inside::Traced(_)
        | Inside::Under(_) => {}
    }
    Ok(())
}

/// From `linux/personality.h`: makes a 64-bit kernel report itself as a 32-bit one.
const PER_LINUX32: i32 = 0x0008;

fn refuse(answer: Answer) -> Result<()> {
    let refusal = match answer {
        Answer::Errno(errno) => Refusal::Errno(errno),
        Answer::KillProcess => Refusal::KillProcess,
        Answer::KillThread => Refusal::KillThread,
        Answer::Trap => Refusal::Trap,
        Answer::EinvalForNewFlags => return Ok(()),
    };
    Ok(seccomp::refuse(libc::SYS_clone3, refusal)?)
}

/// Replaces a descriptor. The read end of a full pipe is leaked to keep it open.
fn give(fd: i32, instead: Instead) -> Result<()> {
    let new = match instead {
        Instead::FullDevice => rustix::fs::open("/dev/full", OFlags::WRONLY, Mode::empty())?,
        Instead::FullPipe => {
            let (reader, writer) = rustix::pipe::pipe()?;
            std::mem::forget(reader);
            fill(&writer)?;
            writer
        }
        Instead::BrokenPipe => rustix::pipe::pipe()?.1,
    };
    match fd {
        0 => rustix::stdio::dup2_stdin(&new)?,
        1 => rustix::stdio::dup2_stdout(&new)?,
        _ => rustix::stdio::dup2_stderr(&new)?,
    }
    Ok(())
}

/// Makes a pipe nonblocking and fills it. Returns the number of bytes in it.
fn fill(writer: &OwnedFd) -> Result<usize> {
    rustix::io::ioctl_fionbio(writer, true)?;
    let mut total = 0;
    while let Ok(written) = rustix::io::write(writer, &[b'x'; 4096]) {
        total += written;
    }
    Ok(total)
}

fn make_read_only() -> Result<()> {
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let path = line.split(' ').nth(4).ok_or("mountinfo")?;
        if path != "/proc" && path != "/sys" {
            mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, c"")?;
        }
    }
    Ok(())
}

/// Creates an auto-reaped child with these flags that takes the remaining steps, and waits for it with its pidfd.
fn make(flags: Flags, rest: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    let words = |failure: clone3_conformance::check::Failure| failure.message;
    let becomes_suite = || {
        if let Err(error) = rest() {
            eprintln!("environments: {error}");
        }
        COULD_NOT.into()
    };
    let child = Clone3::new(flags).spawn(becomes_suite).map_err(words)?;
    let pidfd = child.pidfd().map_err(words)?;
    // POLLHUP, which tells that the child has been reaped, is always reported.
    retry_on_intr(|| poll(&mut [PollFd::new(pidfd, PollFlags::empty())], None))?;
    Ok(mirror(ExitStatus::from_raw(pidfd.recorded_exit_status().map_err(words)?.0)))
}

/// Becomes a subreaper, and checks that no child but its own is reparented to it.
fn reap_beneath(rest: &mut Command) -> Result<ExitCode> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let status = rest.status()?;
    match waitpid(-1, libc::__WALL | libc::WNOHANG) {
        Err(Errno::ECHILD) => Ok(mirror(status)),
        found => {
            eprintln!("environments: the subreaper was left a child: {found:?}");
            Ok(ExitCode::from(ORPHAN_LEFT))
        }
    }
}

/// Runs the remaining steps with a full pipe as stdout, and reads from it only once the suite is blocked on it.
fn read_late(rest: &mut Command) -> Result<ExitCode> {
    let (reader, writer) = io::pipe()?;
    let writer = OwnedFd::from(writer);
    let filling = fill(&writer)?;
    rustix::io::ioctl_fionbio(&writer, false)?;
    let mut suite = rest.stdout(writer).spawn()?;
    // The command holds a copy of the write end; without it, the pipe reaches end of file when the suite exits.
    rest.stdout(Stdio::null());
    while !writes_to_stdout(suite.id())? && suite.try_wait()?.is_none() {
        std::thread::yield_now();
    }
    io::copy(&mut (&reader).take(filling.try_into()?), &mut io::sink())?;
    io::copy(&mut &reader, &mut io::stdout())?;
    Ok(mirror(suite.wait()?))
}

/// Returns whether some thread of the process is blocked in a write(2) to descriptor 1.
fn writes_to_stdout(process: u32) -> Result<bool> {
    let write = format!("{} 0x1 ", libc::SYS_write);
    let threads = fs::read_dir(format!("/proc/{process}/task"))?;
    // Threads may exit while they are listed.
    let calls = threads.flatten().flat_map(|thread| fs::read_to_string(thread.path().join("syscall")));
    Ok(calls.into_iter().any(|call| call.starts_with(&write)))
}

/// Runs the remaining steps as a tracee, and traces all its descendants, until no tracee is left.
fn trace(rest: &mut Command, how: Trace) -> Result<ExitCode> {
    let follow = Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
    let options = match how {
        Trace::Calls => follow | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD,
        Trace::Events => follow | Options::PTRACE_O_TRACEEXEC,
        Trace::OneProcess => Options::PTRACE_O_TRACEEXEC,
    };
    let go_on = if how == Trace::Calls { Resume::ToNextCall } else { Resume::Continue };
    let suite = i32::try_from(rest.spawn()?.id())?;
    waitpid(suite, libc::WUNTRACED)?;
    tracer::seize(suite, options).map_err(|failure| failure.message)?;
    kill(Pid::from_raw(suite), Signal::SIGCONT)?;
    let mut end = None;
    while let Ok(Some((pid, status))) = waitpid(-1, libc::__WALL) {
        if status.0 & 0xff != 0x7f {
            end = end.or((pid == suite).then(|| ExitStatus::from_raw(status.0)));
            continue;
        }
        let (signal, event) = ((status.0 >> 8) & 0xff, status.0 >> 16);
        let stops_group = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal);
        // A tracee may be killed while it is stopped; its next wait status reports that.
        let _ = match event {
            libc::PTRACE_EVENT_STOP if stops_group => tracer::resume(pid, Resume::Listen, 0),
            0 if signal != libc::SIGTRAP | SYSTEM_CALL => tracer::resume(pid, go_on, signal),
            _ => tracer::resume(pid, go_on, 0),
        };
    }
    Ok(mirror(end.ok_or("the suite was lost")?))
}

/// The bit that marks a system call stop, with `PTRACE_O_TRACESYSGOOD`.
const SYSTEM_CALL: i32 = 0x80;

/// Supervises the clone3 calls of the remaining steps and the suite, and answers like a supervisor that does not know the flags of Linux 7.1.
fn supervise(row: &str, index: usize, arguments: &[String]) -> Result<ExitCode> {
    let address = SocketAddr::from_abstract_name("environments-supervisor")?;
    if std::env::var_os("SUPERVISED").is_some() {
        let to_supervisor = UnixStream::connect_addr(&address)?;
        let listener = seccomp::ask_supervisor(libc::SYS_clone3)?;
        fdpass::send(&to_supervisor, &listener).map_err(|failure| failure.message)?;
        drop(listener);
        let rows = table::rows();
        let row = rows.iter().find(|other| other.name == row).ok_or("no such row")?;
        return take_steps(row, index + 1, arguments);
    }
    let waiting = UnixListener::bind_addr(&address)?;
    let mut suite = command(row, index, arguments).env("SUPERVISED", "").spawn()?;
    let listener: OwnedFd =
        fdpass::receive(waiting.accept()?.0.as_fd()).map_err(|failure| failure.message)?;
    let new = (Flags::AUTOREAP | Flags::NNP | Flags::AUTOKILL).bits();
    let supervisor = Supervisor::new(listener);
    while let Some(call) = supervisor.next()? {
        // The first word of struct clone_args is its flags.
        let flags = call.word_at(call.arguments()[0]).unwrap_or_default();
        supervisor.answer(&call, (flags & new != 0).then_some(Errno::EINVAL))?;
    }
    Ok(mirror(suite.wait()?))
}
