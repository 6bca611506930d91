//! Numbers that outlive the auto-reaped process that had them: of a process group and a session, of the owner of a file's signals, of a
//! directory in /proc. A later process that gets the number has nothing to do with them.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result, errno_of};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::fds::{ask_for_signals_to, owner_of_signals};
use clone3_conformance::kit::process::{in_child, spawn_once_free};
use clone3_conformance::kit::terminal::Terminal;
use clone3_conformance::kit::{Channel, Gate, Held, fdpass, subject};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgrp, getsid, setpgid, setsid};
use rustix::fs::{Mode, OFlags, openat};

/// Creates an ordinary child in this process group, with a pidfd. Its signals are not handled.
fn member(group: i32) -> Result<Held> {
    let child = Held::exiting_with(&Clone3::fork().with(Flags::PIDFD), 0)?;
    setpgid(Pid::from_raw(child.pid()), Pid::from_raw(group))?;
    Ok(child)
}

/// Creates a child by this call that leads a process group.
fn leader(call: &Clone3) -> Result<Held> {
    let child = Held::exiting_with(call, 5)?;
    setpgid(Pid::from_raw(child.pid()), Pid::from_raw(child.pid()))?;
    Ok(child)
}

/// Checks that this member of a group dies of the signal.
fn dies_of(signal: Signal, member: Held) -> Result {
    member.pidfd()?.wait_exited()?;
    member.into_child().reap_expecting(Status::killed(signal))
}

/// Creates a child by this call with the number of one that is gone. Once let through the gate, it exits with 7.
fn namesake(call: &Clone3, number: i32, gate: &Gate) -> Result<Child> {
    spawn_once_free(&call.clone().set_tid(&[number]), || {
        gate.wait();
        7
    })
}

case! {
    /// The owner of a file's signals (F_SETOWN) is a process, not a number: when it is gone, auto-reaped or not, F_GETOWN is 0, and a
    /// later process with its number gets no SIGIO.
    autoreap_owner_of_signals_is_no_number: Must, needs [Autoreap, ExitInfo, CheckpointRestore],
    source "F_SETOWN(2const), F_GETOWN(2const); fs/fcntl.c f_getown(), send_sigio()",
}
fn autoreap_owner_of_signals_is_no_number() -> Result {
    subject::each(|call| {
        let owner = Held::exiting_with(&call, 5)?;
        let (ours, theirs) = fdpass::pair()?;
        ask_for_signals_to(&ours, owner.pid())?;
        check::equal(format_args!("F_GETOWN, a child of {call}"), owner_of_signals(&ours)?, owner.pid())?;
        owner.end(false)?;
        check::equal(format_args!("F_GETOWN when a child of {call} is gone"), owner_of_signals(&ours)?, 0)?;
        let gate = Gate::new()?;
        let namesake = namesake(&call, owner.pid(), &gate)?;
        rustix::io::write(&theirs, b"s")?;
        gate.open()?;
        let what = "a process with the number of a dead one, to whom SIGIO was to be sent";
        namesake.ends_with(Status::exited(7)).context(what)?;

        let owner = Held::exiting_with(&call, 5)?;
        ask_for_signals_to(&ours, owner.pid())?;
        rustix::io::write(&theirs, b"s")?;
        owner.into_child().ends_with(Status::killed(Signal::SIGIO)).context("control: a live owner")
    })
}

case! {
    /// A process group that owns a file's signals (F_SETOWN) gets SIGIO even if its leader is gone, auto-reaped or not.
    autoreap_group_gets_sigio_without_leader: Must, needs [Autoreap, ExitInfo],
    source "F_SETOWN(2const), on process groups; fs/fcntl.c send_sigio()",
}
fn autoreap_group_gets_sigio_without_leader() -> Result {
    subject::each(|call| {
        let leader = leader(&call)?;
        let member = member(leader.pid())?;
        let (ours, theirs) = fdpass::pair()?;
        ask_for_signals_to(&ours, -leader.pid())?;
        leader.end(false)?;
        rustix::io::write(&theirs, b"s")?;
        let what = format!("member of a group that owns signals, whose leader, a child of {call}, is gone");
        dies_of(Signal::SIGIO, member).context(what)
    })
}

case! {
    /// A process group in the foreground of a terminal is still there when its leader is gone, auto-reaped or not: tcgetpgrp(3) gives its
    /// number, and Ctrl-C interrupts its members.
    autoreap_foreground_without_leader: Must, needs [Autoreap, ExitInfo],
    source "tcgetpgrp(3); TIOCGPGRP(2const); termios(3), INTR; drivers/tty/n_tty.c __isig()",
}
fn autoreap_foreground_without_leader() -> Result {
    subject::each(|call| {
        let terminal = Terminal::new()?;
        in_child(|| {
            setsid()?;
            check::succeeds("TIOCSCTTY by a session leader", terminal.take())?;
            let leader = leader(&call)?;
            let member = member(leader.pid())?;
            check::succeeds("tcsetpgrp", terminal.put_into_foreground(leader.pid()))?;
            leader.end(false)?;
            let what = format!("tcgetpgrp when the leader of the group, a child of {call}, is gone");
            check::equal(what, terminal.foreground(), Ok(leader.pid()))?;
            terminal.interrupt()?;
            let what = format!("Ctrl-C when the leader of the group, a child of {call}, is gone");
            dies_of(Signal::SIGINT, member).context(what)
        })
    })
}

case! {
    /// The members of a session whose leader is gone, auto-reaped or not, are still in that session and in its process group: getsid(2)
    /// and getpgrp(2) give its number.
    autoreap_session_without_leader: Must, needs [Autoreap, ExitInfo],
    source "getsid(2); getpgrp(2); kernel/sys.c getsid()",
}
fn autoreap_session_without_leader() -> Result {
    subject::each(|call| {
        let (gate, told) = (Gate::new()?, Channel::<i32>::new()?);
        let found = Channel::<Result<(i32, i32)>>::new()?;
        let leader = Held::prepared(&call, 5, || {
            setsid()?;
            let other = Clone3::fork().spawn(|| {
                gate.wait();
                let own = getsid(None).map(|session| (session.as_raw(), getpgrp().as_raw()));
                i32::from(found.send(&own.map_err(Into::into)).is_err())
            })?;
            told.send(&other.pid())
        })?;
        let other = told.recv_from(&leader)?;
        leader.end(false)?;
        gate.open()?;
        let what = format!("session and process group when their leader, a child of {call}, is gone");
        check::equal(what, found.recv()??, (leader.pid(), leader.pid()))?;
        wait::reap_expecting(other, Status::exited(0))
    })
}

case! {
    /// A descriptor of the directory /proc/PID of a process that is gone, auto-reaped or not, finds no file there (ESRCH, or ENOENT), also
    /// when another process has the number.
    autoreap_proc_directory_is_no_number: Must, needs [Autoreap, ExitInfo, Proc, CheckpointRestore],
    source "proc(5); fs/proc/base.c proc_pid_permission(), proc_pident_lookup()",
}
fn autoreap_proc_directory_is_no_number() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 5)?;
        let path = format!("/proc/{}", child.pid());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, OFlags::DIRECTORY | flags, Mode::empty())?;
        let look = || openat(&directory, "status", flags, Mode::empty()).map(drop).map_err(errno_of);
        check::succeeds(format_args!("openat in /proc/PID of a child of {call}"), look())?;
        child.end(false)?;
        let is_nothing = |when: &str| {
            let found = look();
            let what = format!(
                "openat in /proc/PID of a child of {call} {when}: expected ESRCH or ENOENT, got {found:?}"
            );
            check::holds(matches!(found, Err(Errno::ESRCH | Errno::ENOENT)), what)
        };
        is_nothing("that is gone")?;
        let namesake = namesake(&call, child.pid(), &Gate::new()?)?;
        is_nothing("that is gone, while another has its number")?;
        namesake.clear_away()
    })
}
