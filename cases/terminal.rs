//! The terminal of a session whose leader is auto-reaped.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Named, Result, errno_of};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::echo::{Echoer, Line, line};
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::terminal::Terminal;
use clone3_conformance::kit::{Channel, Gate, Held, subject};
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, setpgid, setsid};
use rustix::fs::{Mode, OFlags};

/// Makes the caller lead a session on this terminal, with a child in the foreground that answers pings; returns the child's pid.
fn lead_a_session(terminal: &Terminal, line: &Line, echoer: &Echoer) -> Result<i32> {
    setsid()?;
    check::succeeds("TIOCSCTTY by a session leader", terminal.take())?;
    let foreground = Clone3::fork().spawn(|| {
        line.close_in_child();
        echoer.serve()
    })?;
    echoer.close_in_child();
    setpgid(Pid::from_raw(foreground.pid()), Pid::from_raw(0))?;
    check::succeeds("tcsetpgrp", terminal.put_into_foreground(foreground.pid()))?;
    Ok(foreground.pid())
}

/// Checks that the terminal is hung up when `end` ends the session leader, a child of this call.
fn hangs_up(terminal: &Terminal, call: &Clone3, end: fn(Held) -> Result) -> Result {
    let (line, echoer) = line()?;
    let told = Channel::<Result<i32>>::new()?;
    let leader = Held::prepared(call, 5, || told.send(&lead_a_session(terminal, &line, &echoer)))?;
    drop(echoer);
    let foreground = told.recv_from(&leader)??;
    line.is_alive(foreground, "in the foreground")?;
    let taken = terminal.taken_by_another()?;
    check::equal("control: TIOCSCTTY by another while the leader lives", taken, Err(Errno::EPERM))?;

    end(leader)?;
    line.is_dead(foreground, "in the foreground of a terminal whose session leader has ended")?;
    wait::reap_expecting(foreground, Status::killed(Signal::SIGHUP)).context("in the foreground")?;
    let taken = terminal.taken_by_another()?;
    check::equal("TIOCSCTTY by another when the session leader has ended", taken, Ok(()))
}

/// Opens `/dev/tty`, which is the caller's controlling terminal, and returns the errno, or 0.
fn open_own_terminal() -> i32 {
    let opened = rustix::fs::open("/dev/tty", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    opened.map_or_else(|errno| errno_of(errno) as i32, |_| 0)
}

/// Checks that `/dev/tty` could be opened before, and that it cannot be opened now because there is no controlling terminal.
fn has_lost_its_terminal(whose: &str, [before, after]: [i32; 2]) -> Result {
    if before != 0 {
        let why = Named(Errno::from_raw(before));
        return Err(Failure::blocked(format!("needs /dev/tty, which cannot be opened: {why}")));
    }
    let opened = if after == 0 { Ok(()) } else { Err(Errno::from_raw(after)) };
    check::refused(format_args!("open of /dev/tty by {whose}"), opened, Errno::ENXIO)
}

/// Makes the caller lead a session on this terminal, with a child that opens the terminal twice: now, and when the gate is open.
fn lead_another(terminal: &Terminal, gate: &Gate, opened: &Channel<[i32; 2]>) -> Result<i32> {
    setsid()?;
    check::succeeds("TIOCSCTTY by a session leader", terminal.take())?;
    let ready = Channel::<i32>::new()?;
    let other = Clone3::fork().spawn(|| {
        disposition::set_all(Disposition::Ignored);
        let before = open_own_terminal();
        let _ = ready.send(&before);
        gate.wait();
        i32::from(opened.send(&[before, open_own_terminal()]).is_err())
    })?;
    ready.recv_from(&other)?;
    Ok(other.pid())
}

case! {
    /// When a session leader ends, auto-reaped or not, the other processes of its session have no controlling terminal any more. One
    /// that begins a session of its own has none either.
    autoreap_session_loses_terminal: Must, needs [Autoreap, ExitInfo],
    source "_exit(2), on session leaders; setsid(2) (\"no controlling terminal\"); drivers/tty/tty_jobctrl.c disassociate_ctty()",
}
fn autoreap_session_loses_terminal() -> Result {
    subject::each(|call| {
        let (terminal, gate) = (Terminal::new()?, Gate::new()?);
        let (told, opened) = (Channel::<Result<i32>>::new()?, Channel::<[i32; 2]>::new()?);
        let leader = Held::prepared(&call, 5, || told.send(&lead_another(&terminal, &gate, &opened)))?;
        let other = told.recv_from(&leader)??;
        leader.let_go()?;
        subject::wait_until_gone(&leader)?;
        gate.open()?;
        let found = opened.recv()?;
        wait::reap_expecting(other, Status::exited(0))?;
        has_lost_its_terminal("a process whose session leader has ended", found)?;

        let terminal = Terminal::new()?;
        let found = in_child(|| {
            // A terminal that the child below keeps is hung up at its end.
            disposition::set(Signal::SIGHUP, Disposition::Ignored)?;
            setsid()?;
            check::succeeds("TIOCSCTTY by a session leader", terminal.take())?;
            let (child, found) = child_reporting(&call, || {
                let before = open_own_terminal();
                setsid()?;
                Ok([before, open_own_terminal()])
            })?;
            child.ends_with(Status::exited(0))?;
            Ok(found)
        })?;
        has_lost_its_terminal("a process that has begun a session", found)
    })
}

case! {
    /// The end of an auto-reaped session leader hangs up its terminal, like that of an ordinary one: the foreground process group
    /// gets SIGHUP, and the leader of another session can take the terminal.
    autoreap_session_leader_hangs_up: Must, needs [Autoreap, ExitInfo],
    source "_exit(2), on session leaders and their terminal; kernel/exit.c do_exit() (disassociate_ctty())",
}
fn autoreap_session_leader_hangs_up() -> Result {
    subject::each(|call| {
        let ended = |leader: Held| {
            leader.let_go()?;
            subject::wait_until_gone(&leader).map(drop)
        };
        hangs_up(&Terminal::new()?, &call, ended).context(format_args!("session leader of {call}"))
    })
}

case! {
    /// When the other end of its terminal is closed, an auto-reaped session leader gets SIGHUP, like an ordinary one.
    autoreap_session_leader_gets_hangup: Must, needs [Autoreap, ExitInfo],
    source "setsid(2), on the controlling terminal; pty(7); drivers/tty/tty_jobctrl.c tty_signal_session_leader()",
}
fn autoreap_session_leader_gets_hangup() -> Result {
    subject::each(|call| {
        let terminal = Terminal::new()?;
        let leader = Held::prepared(&call, 0, || {
            terminal.close_user_in_child();
            setsid()?;
            check::succeeds("TIOCSCTTY by a session leader", terminal.take())
        })?;
        drop(terminal);
        let expected = Status::killed(Signal::SIGHUP);
        let what = "session leader whose terminal is gone";
        subject::ends_by_its_kind(&call, leader.pid(), leader.pidfd()?, expected).context(what)
    })
}

case! {
    /// A process group can be put into the foreground (tcsetpgrp) although its auto-reaped leader is gone, as with an ordinary
    /// leader.
    autoreap_group_without_leader_in_foreground: Must, needs [Autoreap, ExitInfo],
    source "tcsetpgrp(3); POSIX, Process Group Lifetime",
}
fn autoreap_group_without_leader_in_foreground() -> Result {
    subject::each(|call| {
        let terminal = Terminal::new()?;
        in_child(|| {
            setsid()?;
            check::succeeds("TIOCSCTTY by a session leader", terminal.take())?;
            let (leader, other) = (Held::exiting_with(&call, 0)?, Held::exiting_with(&Clone3::fork(), 0)?);
            let group = Pid::from_raw(leader.pid());
            setpgid(group, group)?;
            setpgid(Pid::from_raw(other.pid()), group)?;
            leader.let_go()?;
            subject::wait_until_gone(&leader)?;
            let what = format!("tcsetpgrp for a group whose leader, a child of {call}, is gone");
            check::succeeds(what, terminal.put_into_foreground(group.as_raw()))?;
            other.into_child().clear_away()
        })
    })
}

case! {
    /// A session leader killed by the last close of its pidfd has hung up its terminal by the time it is gone, like one killed by
    /// kill(2).
    autokill_session_leader_hangs_up: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "_exit(2), on session leaders and their terminal; commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"",
}
fn autokill_session_leader_hangs_up() -> Result {
    let killed = |leader: Held| {
        leader.kill(Signal::SIGKILL)?;
        leader.into_child().ends_with(Status::SIGKILLED)
    };
    hangs_up(&Terminal::new()?, &Clone3::fork(), killed).context("control: an ordinary session leader")?;
    let closed = |mut leader: Held| {
        let observer = leader.observe()?;
        leader.close_pidfd()?;
        observer.gone_with(leader.pid(), Status::SIGKILLED)
    };
    let call = Clone3::new(Flags::KILLED_NNP);
    hangs_up(&Terminal::new()?, &call, closed).context(format_args!("session leader of {call}"))
}
