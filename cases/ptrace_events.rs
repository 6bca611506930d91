//! What the tracer and the parent are told about children of a traced process, and about a traced child.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Clone3, exit_thread, park};
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::replacing::Replacing;
use clone3_conformance::kit::tracer::Tracer;
use clone3_conformance::kit::{
    Actor, Blocked, Channel, Creator, Gate, Held, WaitCall, fdpass, namespace, sigchld, subject, threads,
    tracer,
};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Event, Status};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Returns the events of a process that makes this call, as its tracer gets them, and the number of other tracees.
fn heard_of(call: &Clone3) -> Result<(Vec<String>, usize)> {
    let creator = Creator::new(&Clone3::fork(), || call.spawn(|| 0))?;
    let creation = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
    let (events, others) = follow(&creator, creation | Options::PTRACE_O_TRACEVFORKDONE)?;
    Ok((events.into_iter().map(|(event, _)| wait::event_name(event)).collect(), others.len()))
}

/// An event of `ptrace(2)` and its message.
type Told = (i32, i64);

/// Traces this creator of one child, which it lets go, until no tracee is left; returns its events and the other tracees.
fn follow(creator: &Creator, options: Options) -> Result<(Vec<Told>, Vec<i32>)> {
    tracer::seize(creator.pid(), options)?;
    creator.let_go()?;
    let (mut events, mut others) = (Vec::new(), Vec::new());
    loop {
        let (pid, status) = match wait::waitpid(-1, libc::__WALL) {
            Ok(Some(news)) => news,
            Ok(None) | Err(Errno::ECHILD) => break,
            Err(errno) => return Err(errno.into()),
        };
        match status.stop() {
            Some((signal, 0)) => tracer::go_on(pid, Some(signal))?,
            Some((_, event)) => {
                if pid == creator.pid() {
                    events.push((event, ptrace::getevent(Pid::from_raw(pid))?));
                }
                tracer::go_on(pid, None)?;
            }
            None if pid == creator.pid() => {
                check::equal("the traced creator, whose child is gone", status, Status::exited(0))?;
            }
            None => others.push(pid),
        }
    }
    creator.report_when_gone()?;
    Ok((events, others))
}

case! {
    /// A process that is single-stepped over clone3, auto-reap or not, gets a child that is not: it runs, and does not die of SIGTRAP.
    autoreap_single_step_not_inherited: Must, needs [Autoreap, Ptrace],
    source "ptrace(2), PTRACE_SINGLESTEP, which is about the tracee; kernel/fork.c copy_process() (user_disable_single_step())",
}
fn autoreap_single_step_not_inherited() -> Result {
    subject::each(|call| {
        let told = Channel::<Result>::new()?;
        let creator = Held::running(&Clone3::fork(), || {
            let ended = call.spawn(|| 0).and_then(|child| child.ends_with(Status::exited(0)));
            i32::from(told.send(&ended).is_err())
        })?;
        let pid = creator.pid();
        tracer::seize(pid, Options::PTRACE_O_TRACESYSGOOD)?;
        tracer::interrupt(pid)?;
        creator.let_go()?;
        tracer::stop_before_call(pid, libc::SYS_clone3)?;
        let stepped = ptrace::step(Pid::from_raw(pid), None);
        check::succeeds("ptrace(SINGLESTEP)", stepped)?;
        tracer::stops_with(pid, Signal::SIGTRAP).context("after clone3")?;
        check::succeeds("ptrace(DETACH)", tracer::detach(pid))?;
        told.recv_from(&creator)?.context("in the creator")?;
        creator.into_child().reap_expecting(Status::exited(0))
    })
}

case! {
    /// If a tracee makes a child with SIGCHLD, its tracer sees PTRACE_EVENT_FORK, with CLONE_NNP or without; for an auto-reaped
    /// child PTRACE_EVENT_CLONE; for both with CLONE_VFORK, PTRACE_EVENT_VFORK and, when they end, PTRACE_EVENT_VFORK_DONE. A
    /// reported child is traced, too; with CLONE_UNTRACED it is neither reported nor traced.
    autoreap_ptrace_children_followed: Must, needs [Autoreap, Nnp, ExitInfo, Ptrace],
    source "ptrace(2), PTRACE_O_TRACEFORK, PTRACE_O_TRACECLONE, PTRACE_O_TRACEVFORKDONE; kernel/fork.c kernel_clone()",
}
fn autoreap_ptrace_children_followed() -> Result {
    let (ordinary, reaped) = (Clone3::fork().with(Flags::PIDFD), Clone3::new(Flags::REAPED));
    let vfork = [libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_VFORK_DONE];
    let calls = [
        (ordinary.clone(), &[libc::PTRACE_EVENT_FORK][..]),
        (ordinary.clone().with(Flags::NNP), &[libc::PTRACE_EVENT_FORK]),
        (ordinary.with(Flags::CLONE_VFORK), &vfork),
        (reaped.clone(), &[libc::PTRACE_EVENT_CLONE]),
        (reaped.clone().with(Flags::NNP), &[libc::PTRACE_EVENT_CLONE]),
        (reaped.clone().with(Flags::CLONE_VFORK), &vfork),
        (reaped.clone().with(Flags::CLONE_UNTRACED), &[]),
        (reaped.with(Flags::CLONE_UNTRACED | Flags::NNP), &[]),
    ];
    for (call, events) in calls {
        let names = events.iter().map(|event| wait::event_name(*event)).collect();
        let expected = (names, usize::from(!events.is_empty()));
        let what = format!("events of the creator, and the number of children that are traced, for {call}");
        check::equal(what, heard_of(&call)?, expected)?;
    }
    Ok(())
}

case! {
    /// When a tracee in a child pid namespace makes a child, auto-reaped or not, the message of the ptrace event is the new child's
    /// pid in the tracer's pid namespace, with which the tracer can wait for it. So is that of PTRACE_EVENT_VFORK_DONE, when the child
    /// has ended.
    autoreap_ptrace_event_pid_in_tracer_namespace: Must, needs [Autoreap, ExitInfo, Ptrace, PidNamespace],
    source "ptrace(2), PTRACE_GETEVENTMSG (\"the PID of the new process\"); include/linux/ptrace.h ptrace_event_pid()",
}
fn autoreap_ptrace_event_pid_in_tracer_namespace() -> Result {
    let plain = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK;
    let vfork = Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACEVFORKDONE;
    subject::each(|call| {
        for (flags, options, count) in [(Flags::empty(), plain, 1), (Flags::CLONE_VFORK, vfork, 2)] {
            let call = call.clone().with(flags);
            let made = Channel::<i32>::new()?;
            let creator = Creator::new(&namespace::init(), || {
                let child = call.spawn(|| 0)?;
                made.send(&child.pid())?;
                Ok(child)
            })?;
            let (events, others) = follow(&creator, options)?;
            check::equal("control: the child's number in its creator's pid namespace", made.recv()?, 2)?;
            check::equal("control: how many others the tracer waits for", others.len(), 1)?;
            let numbers: Vec<i32> = events.into_iter().map(|(_, message)| message as i32).collect();
            let what = format!("numbers in the events of {call}, which the tracer waits for under");
            check::equal(what, numbers, others.repeat(count))?;
        }
        Ok(())
    })
}

/// Returns whether a child of this call has no_new_privs if it is traced because its creator is, with these options.
fn has_nnp_when_traced(call: &Clone3, options: Options) -> Result<bool> {
    let told = Channel::<Result<bool>>::new()?;
    let creator = Creator::new(&Clone3::fork(), || {
        call.spawn(|| {
            let bit = rustix::thread::no_new_privs().map_err(Failure::from);
            i32::from(told.send(&bit).is_err())
        })
    })?;
    let (_, others) = follow(&creator, options)?;
    check::equal("control: children that are traced", others.len(), 1)?;
    told.recv()?
}

case! {
    /// CLONE_NNP sets no_new_privs for a child that is traced from birth, because of CLONE_PTRACE, or because its creator is traced
    /// with PTRACE_O_TRACEFORK or PTRACE_O_TRACECLONE. Without the flag such a child does not have it.
    nnp_traced_from_birth: Must, needs [Nnp, Ptrace, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\"; clone(2), CLONE_PTRACE; ptrace(2), PTRACE_O_TRACEFORK, PTRACE_O_TRACECLONE",
}
fn nnp_traced_from_birth() -> Result {
    let followed = Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACECLONE;
    subject::each_unrestricted(|call| {
        for (flags, expected) in [(Flags::empty(), false), (Flags::NNP, true)] {
            for (more, options) in [(Flags::CLONE_PTRACE, Options::empty()), (Flags::empty(), followed)] {
                let call = call.clone().with(flags | more);
                let what =
                    format!("no_new_privs of the child of {call} by a creator traced with {options:?}");
                let got = has_nnp_when_traced(&call, options).context(&what)?;
                check::equal(what, got, expected)?;
            }
        }
        Ok(())
    })
}

case! {
    /// An auto-reaped child that a tracee makes with CLONE_PTRACE is traced by the tracee's tracer, which finds it stopped, and
    /// then as a zombie. After the tracer's wait it is gone; an ordinary one is then its parent's to wait for.
    autoreap_clone_ptrace: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "clone(2), CLONE_PTRACE; ptrace(2), PTRACE_SEIZE; commit \"clone: add CLONE_AUTOREAP\"",
}
fn autoreap_clone_ptrace() -> Result {
    subject::each(|call| {
        let call = call.with(Flags::CLONE_PTRACE);
        let (ours, theirs) = fdpass::pair()?;
        let mut child = None;
        let creator = Actor::spawn(&Clone3::fork(), |(): ()| {
            // Otherwise SIGCHLD would stop the creator for its tracer.
            SigSet::all().thread_block()?;
            match child.take() {
                None => {
                    let made = call.spawn(|| 5)?;
                    fdpass::send(&theirs, made.pidfd()?)?;
                    Ok(child.insert(made).pid())
                }
                Some(made) => made.ends_with(Status::exited(5)).map(|()| 0),
            }
        })?;
        tracer::seize(creator.child().pid(), Options::empty())?;
        let pid = creator.ask(())?;
        let pidfd = Pidfd::from(fdpass::receive(&ours)?);
        let what = format!("child of {call} by a traced process");
        let stop = Status::ptrace_event(libc::PTRACE_EVENT_STOP, Signal::SIGTRAP);
        wait::reap_expecting(pid, stop).context(&what)?;
        tracer::go_on(pid, None)?;
        let zombie = wait::find_zombie(pid).context(&what)?;
        check::equal("the zombie of the tracer", zombie, Event::exited(pid, 5))?;
        wait::reap_expecting(pid, Status::exited(5)).context(&what)?;
        creator.ask(()).context(&what)?;
        pidfd.gone_with(pid, Status::exited(5)).context(&what)?;
        creator.dismiss()?;
        Ok(())
    })
}

case! {
    /// The parent of an auto-reaped child that another process traces gets SIGCHLD for a stop that the tracer lets the child make,
    /// like the parent of an ordinary one.
    autoreap_ptrace_stop_reported_to_parent: Is, needs [Autoreap, ExitInfo, Ptrace],
    source "kernel/signal.c ptrace_stop(), do_notify_parent_cldstop(); ptrace(2), group-stop",
}
fn autoreap_ptrace_stop_reported_to_parent() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let child = Held::traceable(&call, 0)?;
        let pid = child.pid();
        let tracer = Actor::spawn(&Clone3::fork(), |seizes: bool| {
            if seizes {
                return tracer::seize(pid, Options::empty());
            }
            tracer::stops_with(pid, Signal::SIGSTOP)?;
            tracer::go_on(pid, Some(libc::SIGSTOP))
        })?;
        tracer.ask(true)?;
        child.kill(Signal::SIGSTOP)?;
        tracer.ask(false)?;
        let what = format!("the parent of a traced child of {call}, which stops");
        sigchld::arrives_for(pid, libc::CLD_STOPPED).context(what)?;
        child.kill(Signal::SIGKILL)?;
        tracer.dismiss()?;
        child.into_child().ends_with(Status::SIGKILLED)?;
        // Discards the SIGCHLDs for the ends of the tracer and of an ordinary child.
        while sigchld::take().is_some() {}
        Ok(())
    })
}

case! {
    /// The tracer of another process's auto-reaped child gets SIGCHLD (CLD_TRAPPED) for its ptrace-stops, as for an ordinary child.
    autoreap_ptrace_tracer_told_of_stops: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "sigaction(2), CLD_TRAPPED; ptrace(2), signal-delivery-stop; kernel/signal.c do_notify_parent_cldstop()",
}
fn autoreap_ptrace_tracer_told_of_stops() -> Result {
    subject::each(|call| {
        let child = Held::traceable(&call, 0)?;
        let pid = child.pid();
        let tracer = Actor::spawn(&Clone3::fork(), |seizes: bool| {
            if seizes {
                sigchld::block()?;
                return tracer::seize(pid, Options::empty());
            }
            sigchld::arrives_for(pid, libc::CLD_TRAPPED)?;
            tracer::stops_with(pid, Signal::SIGUSR1)
        })?;
        tracer.ask(true)?;
        child.kill(Signal::SIGUSR1)?;
        let what = format!("the tracer of a child of {call}, which stops for SIGUSR1");
        tracer.ask(false).context(what)?;
        child.kill(Signal::SIGKILL)?;
        tracer.dismiss()?;
        child.into_child().ends_with(Status::SIGKILLED)
    })
}

case! {
    /// The SIGCHLD that a tracer gets for another process's auto-reaped child says how the child ended: killed or exited.
    autoreap_ptrace_tracer_sigchld_status: Must, needs [Autoreap, ExitInfo, Ptrace],
    source "sigaction(2), si_code of SIGCHLD; kernel/signal.c do_notify_parent()",
}
fn autoreap_ptrace_tracer_sigchld_status() -> Result {
    sigchld::block()?;
    for (signal, status) in [(None, Status::exited(6)), (Some(Signal::SIGKILL), Status::SIGKILLED)] {
        let child = Held::traceable(&Clone3::new(Flags::REAPED), 6)?;
        let tracer = Tracer::of(child.pid())?;
        match signal {
            None => child.let_go()?,
            Some(signal) => child.kill(signal)?,
        }
        tracer.find_zombie()?;
        let told = signal.map_or(Event::exited(child.pid(), 6), |signal| Event::killed(child.pid(), signal));
        check::equal("SIGCHLD of the tracer", tracer.take_sigchld()?, Some(told))?;
        check::equal("the tracer's wait", tracer.reap()?, status)?;
        child.is_gone_with(status)?;
        tracer.dismiss()?;
    }
    Ok(())
}

/// Lets the child's new program end, and waits for it.
fn ends(replacing: Replacing) -> Result {
    let child = replacing.into_held();
    child.let_go()?;
    subject::wait_until_gone(&child).map(drop)
}

case! {
    /// A tracer whose only tracee is the leader of another process's auto-reaped child, blocked in waitpid(-1), gets ECHILD when
    /// another thread's exec replaces that leader; so it does for an ordinary child.
    autoreap_ptrace_tracer_of_replaced_leader: Is, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "fs/exec.c de_thread() (__wake_up_parent()); ptrace(2), \"execve(2) under ptrace\"",
}
fn autoreap_ptrace_tracer_of_replaced_leader() -> Result {
    subject::each(|call| {
        let replacing = Replacing::new(&call, 7, park)?;
        let pid = replacing.child.pid();
        let found = Channel::<std::result::Result<Option<i32>, i32>>::new()?;
        let tracer = Clone3::fork().spawn(|| {
            if tracer::seize(pid, Options::empty()).is_err() {
                return 97;
            }
            let waited = wait::waitpid(-1, libc::__WALL);
            let waited = waited.map(|found| found.map(|(pid, _)| pid)).map_err(|errno| errno as i32);
            i32::from(found.send(&waited).is_err())
        })?;
        threads::wait_until_process_sleeps(tracer.pid())?;
        replacing.exec()?;
        let found = found.recv_from(&tracer).context(format_args!("the tracer of a child of {call}"))?;
        check::equal(
            "waitpid(-1, __WALL) of the tracer",
            found.map_err(Errno::from_raw),
            Err(Errno::ECHILD),
        )?;
        tracer.reap_expecting(Status::exited(0))?;
        ends(replacing)?;
        Ok(())
    })
}

/// What became of a tracer that was blocked in waitpid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Waiter {
    GotEchild,
    StillBlocked,
}

case! {
    /// A tracer whose only tracee is the ended leader of another process's auto-reaped child, blocked in waitpid for that child's
    /// pid, gets ECHILD when another thread's exec replaces the leader; so it does for an ordinary child.
    autoreap_ptrace_waiter_for_replaced_leader: Must, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "waitpid(2), ECHILD (\"not a child of the calling process\"); fs/exec.c de_thread() (__wake_up_parent(), \"the tracer can sleep in do_wait()\")",
    known_defect "7.1 to 7.3: the tracer sleeps on for good; it waits for a number that the old leader has lost when it wakes it",
}
fn autoreap_ptrace_waiter_for_replaced_leader() -> Result {
    subject::each(|call| {
        let may_end = Gate::new()?;
        let replacing = Replacing::new(&call, 7, || {
            may_end.wait();
            exit_thread(0)
        })?;
        let pid = replacing.child.pid();
        let waiter = in_child(|| {
            tracer::seize(pid, Options::empty())?;
            may_end.open()?;
            threads::wait_for_dead_leader(pid)?;
            let blocked = Blocked::in_call(WaitCall::Waitpid(pid, libc::__WALL))?;
            replacing.exec()?;
            let asked_now = wait::waitpid(pid, libc::__WALL | libc::WNOHANG);
            check::equal("control: the same call made now, with WNOHANG", asked_now, Err(Errno::ECHILD))?;
            if !blocked.is_over()? {
                return Ok(Waiter::StillBlocked);
            }
            check::equal("waitpid(PID, __WALL) of the tracer", blocked.join()?, Err(Errno::ECHILD))?;
            Ok(Waiter::GotEchild)
        })?;
        ends(replacing)?;
        let what = format!(
            "waitpid({pid}, __WALL) of a tracer, blocked when an exec replaced its only tracee, the leader of a child of {call}"
        );
        check::equal_or_defect(what, waiter, Waiter::GotEchild, Waiter::StillBlocked)
    })
}

case! {
    /// The init of a pid namespace that has traced an auto-reaped child of its own until its end, and has not waited for it, can
    /// end, as with an ordinary child.
    autoreap_ptrace_pidns_init_ends: Must, needs [Autoreap, ExitInfo, Ptrace, PidNamespace],
    source "pid_namespaces(7); kernel/exit.c find_child_reaper(), exit_ptrace()",
}
fn autoreap_ptrace_pidns_init_ends() -> Result {
    subject::each(|call| {
        let (init, ()) = namespace::init_reporting(&Clone3::fork().with(Flags::PIDFD), || {
            let child = Held::exiting_with(&call, 5)?;
            tracer::seize(child.pid(), Options::empty())?;
            child.let_go()?;
            child.is_a_zombie(5)
        })?;
        init.pidfd()?.wait_exited().context(format_args!("the init that traced a child of {call}"))?;
        init.reap_expecting(Status::exited(0))?;
        Ok(())
    })?;
    wait::no_children()
}
