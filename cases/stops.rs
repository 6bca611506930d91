//! Stops and continuations of auto-reaped children: what wait calls and SIGCHLD report, and what persists across reparenting.

use std::sync::mpsc;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Named, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::privilege::unused_id;
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::sigchld::Reaction;
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::{
    Blocked, Channel, Gate, Held, Orphan, WaitCall, disposition, fdpass, limits, namespace, sigchld, subject,
    threads, tracer,
};
use clone3_conformance::need::Setting;
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::{self, Event, Status, Who};
use nix::errno::Errno;
use nix::sys::ptrace::Options;
use nix::sys::signal::{SaFlags, SigSet, Signal, kill};
use nix::unistd::{Pid, Uid, geteuid, getuid, setresuid};
use rustix::process::Resource;

fn stopped(pid: i32) -> Event {
    Event::stopped(pid, Signal::SIGSTOP)
}

fn continued(pid: i32) -> Event {
    Event { pid, code: libc::CLD_CONTINUED, status: libc::SIGCONT }
}

/// Creates a child that has been stopped and whose stop can be waited for.
fn stopped_child(call: &Clone3) -> Result<Held> {
    let child = Held::exiting_with(call, 5)?;
    child.kill(Signal::SIGSTOP)?;
    let seen = wait::waitid(Who::Pid(child.pid()), libc::WSTOPPED | libc::WNOWAIT | libc::__WALL);
    check::equal("waitid(WSTOPPED|WNOWAIT|__WALL)", seen, Ok(Some(stopped(child.pid()))))?;
    Ok(child)
}

case! {
    /// A parent that ignores SIGCHLD and blocks it finds none pending when its auto-reaped child stops, continues or ends, as with an
    /// ordinary child.
    autoreap_stop_not_pending_if_ignored: Must, needs [Autoreap, ExitInfo],
    source "sigaction(2), SIG_IGN; kernel/signal.c do_notify_parent_cldstop()",
}
fn autoreap_stop_not_pending_if_ignored() -> Result {
    sigchld::block()?;
    for (reaction, expected) in [(Reaction::Default, true), (Reaction::Ignore, false)] {
        sigchld::react(reaction, SaFlags::empty())?;
        subject::each(|call| {
            let child = stopped_child(&call)?;
            child.kill(Signal::SIGCONT)?;
            child.let_go()?;
            // This fails for one that leaves no zombie.
            let _ = wait::waitpid(child.pid(), libc::__WALL);
            child.pidfd()?.wait_reaped()?;
            let what = format!(
                "whether a SIGCHLD is pending, {reaction:?}, after stop and end of a child of {call}"
            );
            check::equal(what, sigchld::take().is_some(), expected)
        })?;
    }
    Ok(())
}

/// In a process: lets the leader go to the gate and another thread to a vfork(2), whose child opens the other gate and then waits as
/// well. That thread cannot be stopped.
fn wait_beside_vfork(gate: &Gate, begun: &Gate) -> i32 {
    std::thread::scope(|scope| {
        let wait = || {
            let _ = begun.open();
            gate.wait();
            0
        };
        scope.spawn(move || {
            let child = Clone3::fork().with(Flags::CLONE_VFORK).spawn(wait);
            child.and_then(|child| child.reap_expecting(Status::exited(0)))
        });
        gate.wait();
    });
    5
}

case! {
    /// If a process is continued before all of its threads have stopped, its parent is told of a stop (SIGCHLD), and waitid(WCONTINUED)
    /// finds it, auto-reaped or not.
    autoreap_unfinished_stop_continued: Is, needs [Autoreap, Proc, Untraced],
    source "kernel/signal.c prepare_signal() (\"The first thread which returns from do_signal_stop()\")",
}
fn autoreap_unfinished_stop_continued() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let (gate, begun) = (Gate::new()?, Gate::new()?);
        let child = call.spawn(|| wait_beside_vfork(&gate, &begun))?;
        let (pid, look) = (child.pid(), libc::WNOHANG | libc::__WALL);
        begun.wait_for(child.pidfd()?)?;
        child.kill(Signal::SIGSTOP)?;
        threads::wait_until_leader_stops(pid)?;
        let found = wait::waitid(Who::Pid(pid), libc::WSTOPPED | look);
        check::equal("control: waitid(WSTOPPED) while a thread is not stopped", found, Ok(None))?;
        child.kill(Signal::SIGCONT)?;
        let found = wait::waitid(Who::Pid(pid), libc::WCONTINUED | look);
        check::equal(
            format_args!("waitid(WCONTINUED) for a child of {call}"),
            found,
            Ok(Some(continued(pid))),
        )?;
        sigchld::arrives_for(pid, libc::CLD_STOPPED)?;
        gate.open()?;
        gate.open()?;
        child.ends_with(Status::exited(5))?;
        // An ordinary one sends another when it ends.
        let _ = sigchld::take();
        Ok(())
    })
}

case! {
    /// waitid(WCONTINUED|WNOWAIT) leaves the continuation of an auto-reaped child to be waited for again; a wait without WNOWAIT
    /// consumes it.
    autoreap_continue_outlasts_nowait: Must, needs [Autoreap],
    source "waitid(2), WNOWAIT; kernel/exit.c wait_task_continued()",
}
fn autoreap_continue_outlasts_nowait() -> Result {
    subject::each(|call| {
        let child = stopped_child(&call)?;
        child.kill(Signal::SIGCONT)?;
        let pid = child.pid();
        let look = |more| wait::waitid(Who::Pid(pid), libc::WCONTINUED | libc::__WALL | more);
        let event = Ok(Some(continued(pid)));
        let rounds = [
            ("WCONTINUED|WNOWAIT", libc::WNOWAIT, event),
            ("WCONTINUED, after one with WNOWAIT", 0, event),
            ("WCONTINUED once more", 0, Ok(None)),
        ];
        for (what, options, expected) in rounds {
            let what = format!("child of {call}: waitid({what})");
            check::equal(what, look(options | libc::WNOHANG), expected)?;
        }
        child.kill(Signal::SIGKILL)?;
        subject::wait_until_gone(&child)?;
        Ok(())
    })
}

case! {
    /// A stop of an auto-reaped child for which its parent did not wait can be waited for by the process that adopts the child.
    autoreap_stop_outlasts_adoption: Is, needs [Autoreap, ExitInfo],
    source "wait(2); kernel/exit.c reparent_leader(), wait_task_stopped()",
}
fn autoreap_stop_outlasts_adoption() -> Result {
    subject::each(|call| {
        let orphan = Orphan::left_by(|| Ok(stopped_child(&call)?.into_child()))?;
        let seen = wait::waitid(Who::Pid(orphan.pid), libc::WSTOPPED | libc::WNOHANG | libc::__WALL);
        let what = format!("waitid(WSTOPPED) by who has adopted a stopped child of {call}");
        check::equal(what, seen, Ok(Some(stopped(orphan.pid))))?;
        check::succeeds("pidfd_send_signal(SIGKILL)", orphan.pidfd.send_signal(Signal::SIGKILL))?;
        ends_by_its_kind(&call, orphan.pid, &orphan.pidfd, Status::SIGKILLED)
    })
}

/// Checks that the SIGCHLDs of a stop and of the continuation name the child and the signal.
fn sigchlds_are_whole() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let child = stopped_child(&call)?;
        let of = |event| format!("SIGCHLD of the {event} of a child of {call}");
        check::equal(of("stop"), sigchld::next()?, stopped(child.pid()))?;
        child.kill(Signal::SIGCONT)?;
        check::equal(of("continuation"), sigchld::next()?, continued(child.pid()))?;
        child.kill(Signal::SIGKILL)?;
        if subject::wait_until_gone(&child)?.is_some() {
            sigchld::pending_for(child.pid(), libc::CLD_KILLED)?;
        }
        Ok(())
    })
}

case! {
    /// The SIGCHLD for the stop of an auto-reaped child gives the child's pid and the signal that stopped it, and so does the one
    /// for its continuation.
    autoreap_stop_sigchld_is_whole: Must, needs [Autoreap],
    source "sigaction(2), si_pid and si_status; kernel/signal.c do_notify_parent_cldstop()",
}
fn autoreap_stop_sigchld_is_whole() -> Result {
    sigchlds_are_whole()
}

case! {
    /// The SIGCHLDs for a stop, a continuation and an end are complete even if the parent's RLIMIT_SIGPENDING lets no signal be
    /// queued.
    autoreap_stop_sigchld_beyond_queue_limit: Must, needs [Autoreap],
    source "getrlimit(2), RLIMIT_SIGPENDING, which is enforced for sigqueue(3) alone; kernel/signal.c __send_signal_locked()",
}
fn autoreap_stop_sigchld_beyond_queue_limit() -> Result {
    limits::lowered(Resource::Sigpending, 0, || {
        let queued = disposition::queue(libc::SIGRTMAX());
        check::refused("control: sigqueue at the limit", queued, Errno::EAGAIN)?;
        sigchlds_are_whole()
    })?
}

case! {
    /// In a pid namespace, the SIGCHLDs for the stop and the continuation of an auto-reaped child give the child's pid in that
    /// namespace.
    autoreap_stop_sigchld_in_pidns: Must, needs [Autoreap, PidNamespace],
    source "pid_namespaces(7); kernel/signal.c do_notify_parent_cldstop()",
}
fn autoreap_stop_sigchld_in_pidns() -> Result {
    namespace::as_init(sigchlds_are_whole)
}

/// Reports each parent-death signal that the calling child gets, until there were `times` of them.
fn tell_of_ends(ready: &Channel<()>, told: &Channel<i32>, times: i32) -> Result<i32> {
    let set = SigSet::from(Signal::SIGUSR1);
    set.thread_block()?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::USR1))?;
    ready.send(&())?;
    for number in 1..=times {
        set.wait()?;
        told.send(&number)?;
    }
    Ok(5)
}

case! {
    /// An auto-reaped process gets its PR_SET_PDEATHSIG signal when its parent ends, and again when the process that adopted it
    /// ends.
    autoreap_pdeathsig_twice: Must, needs [Autoreap, ExitInfo],
    source "PR_SET_PDEATHSIG(2const) (also at the death of subreapers that adopted); kernel/exit.c forget_original_parent()",
}
fn autoreap_pdeathsig_twice() -> Result {
    subject::each(|call| {
        let (ready, told) = (Channel::<()>::new()?, Channel::<i32>::new()?);
        let (ours, theirs) = fdpass::pair()?;
        let pid = in_child(|| {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
            let orphan = Orphan::left_by(|| {
                let child = call.spawn(|| tell_of_ends(&ready, &told, 2).unwrap_or(98))?;
                ready.recv_from(&child)?;
                Ok(child)
            })?;
            fdpass::send(&theirs, &orphan.pidfd)?;
            told.recv()
                .context(format_args!("PR_SET_PDEATHSIG of a child of {call}, at its parent's end"))?;
            Ok(orphan.pid)
        })?;
        let what = "at the end of the process that had adopted it";
        told.recv().context(format_args!("PR_SET_PDEATHSIG of a child of {call}, {what}"))?;
        ends_by_its_kind(&call, pid, &Pidfd::from(fdpass::receive(&ours)?), Status::exited(5))
    })
}

case! {
    /// A parent that ignores SIGCHLD, or has set SA_NOCLDSTOP, and is blocked in waitid(WSTOPPED) or waitid(WCONTINUED) returns when
    /// its child stops or continues, auto-reaped or not.
    autoreap_stop_wakes_parent_without_sigchld: Must, needs [Autoreap, Proc],
    source "waitid(2), WSTOPPED, WCONTINUED; kernel/signal.c do_notify_parent_cldstop() (\"Even if SIGCHLD is not generated, we must wake up wait4 calls\")",
}
fn autoreap_stop_wakes_parent_without_sigchld() -> Result {
    subject::each(|call| {
        for (reaction, flags) in
            [(Reaction::Ignore, SaFlags::empty()), (Reaction::Count, SaFlags::SA_NOCLDSTOP)]
        {
            let child = Held::exiting_with(&call, 0)?;
            sigchld::react(reaction, flags)?;
            for (option, signal) in [(libc::WSTOPPED, Signal::SIGSTOP), (libc::WCONTINUED, Signal::SIGCONT)] {
                let waiter = Blocked::in_call(WaitCall::Pid(child.pid(), option | libc::__WALL))?;
                child.kill(signal)?;
                let what = format!("in the parent of a child of {call}, SIGCHLD: {reaction:?}, {flags:?}");
                check::equal(&what, waiter.join().context(&what)?, Ok(Some(child.pid())))?;
            }
            sigchld::react(Reaction::Default, SaFlags::empty())?;
            child.into_child().clear_away()?;
        }
        Ok(())
    })
}

/// Gives root another real uid, because an si_uid of 0 could be a field that was never filled in; root keeps its effective uid
/// and with it its capabilities. Returns the caller's real uid, which its children inherit.
fn real_user_other_than_root() -> Result<u32> {
    if Setting::get().probe.privileges.root {
        let own = geteuid();
        setresuid(Uid::from_raw(unused_id()), own, own).map_err(|errno| {
            Failure::blocked(format!("setresuid, to change the real uid, fails with {}", Named(errno)))
        })?;
    }
    Ok(getuid().as_raw())
}

/// Creates a stopped child in its own user namespace, which has no mappings: every user there is the overflow uid.
fn stopped_in_own_user_namespace(call: Clone3) -> Result<Held> {
    let child = Held::exiting_with(&call.with(Flags::CLONE_NEWUSER), 0)?;
    child.kill(Signal::SIGSTOP)?;
    Ok(child)
}

case! {
    /// si_uid from waitid, when a child in its own user namespace stops or continues, auto-reaped or not, and si_uid from waitid and
    /// SIGCHLD, when an ordinary one ends, is the child's real uid in its parent's user namespace.
    autoreap_stop_names_user_as_parent_has_it: Must, needs [Autoreap, UserNamespaces],
    source "waitid(2), si_uid; kernel/exit.c wait_task_stopped(), wait_task_continued(), wait_task_zombie() (from_kuid_munged())",
}
fn autoreap_stop_names_user_as_parent_has_it() -> Result {
    sigchld::block()?;
    let user = real_user_other_than_root()?;
    subject::each(|call| {
        let child = stopped_in_own_user_namespace(call)?;
        let told = wait::waitid_user(Who::Pid(child.pid()), libc::WSTOPPED | libc::__WALL);
        check::equal(format_args!("si_uid of waitid(WSTOPPED) for child {}", child.pid()), told, Ok(user))?;
        sigchld::next()?;
        child.kill(Signal::SIGCONT)?;
        let told = wait::waitid_user(Who::Pid(child.pid()), libc::WCONTINUED | libc::__WALL);
        check::equal(format_args!("si_uid of waitid(WCONTINUED) for child {}", child.pid()), told, Ok(user))?;
        sigchld::next()?;
        is_told_of_end(&child, user)?;
        child.into_child().clear_away()
    })
}

case! {
    /// si_uid from SIGCHLD and waitid, when a child stops or continues, auto-reaped or not, and when an ordinary one ends, is the
    /// child's real uid: neither its effective uid nor that of its parent.
    autoreap_stop_names_real_user: Must, needs [Autoreap, Root],
    source "waitid(2), sigaction(2), si_uid (the real user ID of the child)",
}
fn autoreap_stop_names_real_user() -> Result {
    let (real, effective) = (unused_id(), getuid());
    sigchld::block()?;
    subject::each(|call| {
        let child = Held::prepared(&call, 0, || Ok(setresuid(Uid::from_raw(real), effective, effective)?))?;
        child.kill(Signal::SIGSTOP)?;
        is_told_of(&child, real)?;
        child.into_child().clear_away()
    })
}

case! {
    /// SIGCHLD and waitid name a stopped child that is in a pid namespace of its own by the pid that it has for its parent,
    /// auto-reaped or not.
    autoreap_stop_names_pid_of_parents_namespace: Must, needs [Autoreap, PidNamespace],
    source "pid_namespaces(7) (\"A process has one process ID in each of the layers of the PID namespace hierarchy\"); waitid(2), si_pid",
}
fn autoreap_stop_names_pid_of_parents_namespace() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let child = Held::exiting_with(&call.with(Flags::CLONE_NEWPID), 0)?;
        child.kill(Signal::SIGSTOP)?;
        let expected = stopped(child.pid());
        let seen = wait::waitid(Who::Pid(child.pid()), libc::WSTOPPED | libc::__WALL);
        check::equal("waitid(WSTOPPED) for an init", seen, Ok(Some(expected)))?;
        check::equal("SIGCHLD at the stop of an init", sigchld::next()?, expected)?;
        child.into_child().clear_away()?;
        // That of an ordinary child's end.
        sigchld::take();
        Ok(())
    })
}

/// Checks that the caller is told of a child's stop and continuation, and of the end of an ordinary child, with this user id.
fn is_told_of(child: &Held, user: u32) -> Result {
    let pid = child.pid();
    for (change, option) in [("stop", libc::WSTOPPED), ("continuation", libc::WCONTINUED)] {
        if option == libc::WCONTINUED {
            child.kill(Signal::SIGCONT)?;
        }
        let told = wait::waitid_user(Who::Pid(pid), option | libc::__WALL);
        check::equal(format_args!("si_uid of waitid at the {change} of child {pid}"), told, Ok(user))?;
        let told = sigchld::next_user(pid)?;
        check::equal(format_args!("si_uid of SIGCHLD at the {change} of child {pid}"), told, user)?;
    }
    is_told_of_end(child, user)
}

/// Likewise for the end only, which this causes.
fn is_told_of_end(child: &Held, user: u32) -> Result {
    if !child.reaps_itself() {
        child.kill(Signal::SIGKILL)?;
        let pid = child.pid();
        let told = wait::waitid_user(Who::Pid(pid), libc::WEXITED | libc::WNOWAIT);
        check::equal(format_args!("si_uid of waitid(WEXITED) for child {pid}"), told, Ok(user))?;
        check::equal(
            format_args!("si_uid of SIGCHLD at the end of child {pid}"),
            sigchld::next_user(pid)?,
            user,
        )?;
    }
    Ok(())
}

case! {
    /// For a parent in a user namespace, si_uid from SIGCHLD and waitid is its child's uid in that namespace, not outside: at a
    /// stop and a continuation, auto-reaped or not, and at an ordinary child's end.
    autoreap_stop_names_user_as_in_namespace: Must, needs [Autoreap, UserNamespaces, Proc],
    source "user_namespaces(7); waitid(2), sigaction(2), si_uid; kernel/signal.c do_notify_parent_cldstop(), kernel/exit.c wait_consider_task() (from_kuid_munged())",
}
fn autoreap_stop_names_user_as_in_namespace() -> Result {
    let inside = getuid().as_raw() ^ 7;
    in_child(|| {
        namespace::enter_user_namespace_as(inside, inside)?;
        check::equal("getuid() in the user namespace", getuid().as_raw(), inside)?;
        sigchld::block()?;
        subject::each(|call| {
            let child = Held::exiting_with(&call, 0)?;
            child.kill(Signal::SIGSTOP)?;
            is_told_of(&child, inside)?;
            child.into_child().clear_away()
        })
    })
}

/// Creates a child and stops it, hands it over, and returns when the sender of `end` is dropped. Runs in a thread.
fn make_and_stop(call: &Clone3, made: &mpsc::Sender<Held>, end: &mpsc::Receiver<()>) -> Result {
    let child = stopped_child(call)?;
    // The receiver is gone only after a failure.
    let _ = (made.send(child), end.recv());
    Ok(())
}

case! {
    /// SIGCHLD for a child's stop, auto-reaped or not, is directed to the parent process, not to the thread that made the child:
    /// another thread may take it.
    autoreap_stop_reported_to_process: Must, needs [Autoreap],
    source "signal(7), process-directed signals; POSIX waitpid(), sigaction(); kernel/signal.c do_notify_parent_cldstop() (PIDTYPE_TGID)",
}
fn autoreap_stop_reported_to_process() -> Result {
    sigchld::block()?;
    subject::each(|call| {
        let (give, made) = mpsc::channel();
        let (end, until_then) = mpsc::channel();
        std::thread::scope(|scope| {
            let creator = scope.spawn(move || make_and_stop(&call, &give, &until_then));
            let Ok(child) = made.recv() else {
                return threads::join(creator);
            };
            let told = sigchld::next();
            drop(end);
            threads::join(creator)?;
            let what = "SIGCHLD of the stop, as taken by another thread than the child's creator";
            check::equal(what, told?, stopped(child.pid()))?;
            child.into_child().clear_away()?;
            // Discards the SIGCHLD of its end, if it sends one.
            sigchld::take();
            Ok(())
        })
    })
}

case! {
    /// si_uid in the SIGCHLD for a stop or a continuation of a child in its own user namespace, auto-reaped or not, is the child's
    /// real uid in its parent's user namespace.
    autoreap_stop_sigchld_names_user: Must, needs [Autoreap, UserNamespaces, Proc],
    source "sigaction(2), SIGCHLD: si_uid; kernel/signal.c do_notify_parent_cldstop() (from_kuid_munged())",
    known_defect "7.1 to 7.3: the uid is translated twice: the one in the parent's namespace is taken for one in the child's, and is mapped to nobody there",
}
fn autoreap_stop_sigchld_names_user() -> Result {
    let (user, nobody) = (real_user_other_than_root()?, namespace::overflow_id("overflowuid")?);
    if user == nobody {
        return Err(Failure::blocked("the caller has the number that stands for users who are not mapped"));
    }
    sigchld::block()?;
    subject::each(|call| {
        let what = format!(
            "si_uid of SIGCHLD at the stop and at the continuation of a child of {call} in a user namespace of its own"
        );
        let child = stopped_in_own_user_namespace(call)?;
        let at_stop = sigchld::next_user(child.pid())?;
        child.kill(Signal::SIGCONT)?;
        let at_continuation = sigchld::next_user(child.pid())?;
        child.into_child().clear_away()?;
        // Discards the SIGCHLD of its end, if it sends one.
        sigchld::take();
        check::equal_or_defect(what, (at_stop, at_continuation), (user, user), (nobody, nobody))
    })
}

/// Traces a child, stops it by SIGSTOP, reports that, and traces until the sender of `end` is dropped. Runs in a thread.
fn trace_and_stop(pid: i32, stopped: &mpsc::Sender<()>, end: &mpsc::Receiver<()>) -> Result {
    tracer::seize(pid, Options::empty())?;
    check::succeeds("kill(SIGSTOP)", kill(Pid::from_raw(pid), Signal::SIGSTOP))?;
    tracer::stops_with(pid, Signal::SIGSTOP)?;
    tracer::go_on(pid, Some(libc::SIGSTOP))?;
    // The receiver is gone only after a failure.
    let _ = (stopped.send(()), end.recv());
    Ok(())
}

case! {
    /// The stop of a child that one thread of its parent traces, auto-reaped or not, is reported once to a wait by another thread of the
    /// parent: as the stop of a tracee.
    autoreap_ptrace_stop_reported_once: Is, needs [Autoreap, Ptrace],
    source "kernel/exit.c wait_consider_task() (ptrace_reparented()); ptrace(2), on group-stop",
}
fn autoreap_ptrace_stop_reported_once() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 0)?;
        let pid = child.pid();
        let (tell, stopped) = mpsc::channel();
        let (end, until_then) = mpsc::channel();
        std::thread::scope(|scope| {
            let tracer = scope.spawn(move || trace_and_stop(pid, &tell, &until_then));
            if stopped.recv().is_err() {
                return threads::join(tracer);
            }
            let first = wait::waitid(Who::Pid(pid), libc::WSTOPPED | libc::__WALL);
            let again = wait::waitid(Who::Pid(pid), libc::WSTOPPED | libc::WNOHANG | libc::__WALL);
            drop(end);
            threads::join(tracer)?;
            let code = first.map(|event| event.map(|event| wait::code_name(event.code)));
            check::equal(
                format_args!("si_code of the stop of a child of {call}"),
                code,
                Ok(Some(wait::code_name(libc::CLD_TRAPPED))),
            )?;
            check::equal("waitid(WSTOPPED) once more", again, Ok(None))
        })?;
        child.into_child().clear_away()
    })
}
