//! Ends of auto-reaped children that leave no zombie, whatever the child did before and whatever its parent is doing.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, exit_now, exit_thread, park};
use clone3_conformance::kit::process::child_reporting;
use clone3_conformance::kit::seccomp::{self, Refusal};
use clone3_conformance::kit::{Channel, Gate, Handover, namespace, programs, subject, threads, tracer};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::procfs;
use clone3_conformance::wait::{self, Status};
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Installs a filter against a harmless system call, and makes that call.
fn die_of_a_filter() -> i32 {
    // Prevents a core dump to a file or a program of the system. RLIMIT_CORE 0 would prevent only the former.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let refused = rustix::thread::set_no_new_privs(true).is_ok()
        && seccomp::refuse(libc::SYS_sched_yield, Refusal::KillProcess).is_ok();
    if refused {
        std::thread::yield_now();
    }
    97
}

case! {
    /// An auto-reaped child that a seccomp filter kills is gone without a wait, with SIGSYS on record, where an ordinary one
    /// is a zombie.
    autoreap_killed_by_seccomp: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\"; seccomp(2), SECCOMP_RET_KILL_PROCESS",
}
fn autoreap_killed_by_seccomp() -> Result {
    subject::each_reaped(|call| {
        let ordinary = Clone3::fork().spawn(die_of_a_filter)?;
        wait::find_zombie(ordinary.pid()).context("control")?;
        match wait::reap(ordinary.pid())?.term_signal() {
            Some(libc::SIGSYS) => {}
            _ => return Err(Failure::blocked("a seccomp filter kills nobody here (CONFIG_SECCOMP_FILTER)")),
        }
        let child = call.spawn(die_of_a_filter)?;
        let status = child.pidfd()?.exit_status()?;
        check::equal("the signal it died of", status.term_signal(), Some(libc::SIGSYS))?;
        child.is_gone_with(status)
    })
}

case! {
    /// An auto-reaped child that has entered a namespace is gone without a wait, where an ordinary one is a zombie.
    autoreap_survives_setns: Must, needs [Autoreap, ExitInfo, UserNamespaces],
    source "commit \"clone: add CLONE_AUTOREAP\"; setns(2)",
}
fn autoreap_survives_setns() -> Result {
    subject::each_reaped(|call| {
        let enter_another = namespace::enter_mount_namespace_of_a_child;
        let (ordinary, ()) = child_reporting(&Clone3::new(Flags::PIDFD), enter_another)?;
        ordinary.is_a_zombie(0).context("control")?;
        ordinary.reap_expecting(Status::exited(0))?;
        let (child, ()) = child_reporting(&call, enter_another).map_err(Failure::after_control)?;
        child.is_gone_with(Status::exited(0))
    })
}

case! {
    /// If a thread of an auto-reaped child calls exec after the leader has exited, the child is gone without a wait when the new
    /// program ends; an ordinary one is a zombie.
    autoreap_exec_after_leader_exit: Must, needs [Autoreap, ExitInfo, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; fs/exec.c de_thread(); execve(2), on threads",
}
fn autoreap_exec_after_leader_exit() -> Result {
    subject::each(|call| {
        let (gate, ready) = (Gate::new()?, Channel::<Result>::new()?);
        let hold = programs::hold(&ready, &gate, 22)?;
        let child = threads::leaderless(&call, 11, || {
            // Nothing can handle an error here.
            let _ = ready.send(&Err(hold.exec()));
            98
        })?;
        child.let_go()?;
        ready.recv_from(&child)??;
        gate.open()?;
        match child.reaps_itself() {
            true => child.is_gone_with(Status::exited(22))?,
            false => {
                child.is_a_zombie(22).context("control")?;
                child.into_child().reap_expecting(Status::exited(22))?;
            }
        }
        Ok(())
    })
}

/// State of the parent when its child ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parent {
    Stopped,
    HaltedByATracer,
    WithoutLeader,
}

/// A child and its parent, which has two threads: the leader, and one that ends the process once `parents_gate` opens.
struct Family {
    parent: Child,
    parents_gate: Gate,
    child: Pidfd,
    childs_gate: Gate,
}

impl Family {
    /// Creates a parent whose child is made by `call` and exits with 5 once let go.
    #[track_caller]
    fn made(call: &Clone3, state: Parent) -> Result<Family> {
        let (parents_gate, childs_gate, handover) = (Gate::new()?, Gate::new()?, Handover::arrange()?);
        let parent = Clone3::fork().spawn(|| {
            let child = call.spawn(|| {
                childs_gate.wait();
                5
            });
            let (handover, parents_gate) = (&handover, &parents_gate);
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    // This thread sends the child, so both threads exist by the time it is known.
                    if !handover.give(child) {
                        exit_now(97);
                    }
                    parents_gate.wait();
                    exit_now(0)
                });
                if state == Parent::WithoutLeader { exit_thread(0) } else { park() }
            })
        })?;
        let child = handover.take_from(&parent)?;
        Ok(Family { parent, parents_gate, child, childs_gate })
    }

    #[track_caller]
    fn puts_parent(&self, state: Parent) -> Result {
        let pid = self.parent.pid();
        match state {
            Parent::HaltedByATracer => procfs::threads_of(pid).into_iter().try_for_each(tracer::attach),
            Parent::WithoutLeader => threads::wait_for_dead_leader(pid),
            Parent::Stopped => {
                self.parent.kill(Signal::SIGSTOP)?;
                let told = wait::waitpid(pid, libc::WUNTRACED)?.map(|(_, status)| status);
                check::equal(
                    format_args!("waitpid({pid}, WUNTRACED) of the parent, sent SIGSTOP"),
                    told,
                    Some(Status::stopped(Signal::SIGSTOP)),
                )
            }
        }
    }

    #[track_caller]
    fn lets_parent_end(self, state: Parent) -> Result {
        match state {
            Parent::HaltedByATracer => {
                for tid in procfs::threads_of(self.parent.pid()) {
                    check::succeeds("PTRACE_DETACH", tracer::detach(tid))?;
                }
            }
            Parent::WithoutLeader => {}
            Parent::Stopped => self.parent.kill(Signal::SIGCONT)?,
        }
        self.parents_gate.open()?;
        self.parent.reap_expecting(Status::exited(0))
    }
}

case! {
    /// An auto-reaped child is gone when it ends even if its parent is stopped, in a ptrace-stop, or without its leader; an
    /// ordinary one is then a zombie.
    autoreap_by_idle_parent: Must, needs [Autoreap, ExitInfo, Proc, Ptrace],
    source "commit \"clone: add CLONE_AUTOREAP\": the kernel reaps, whatever the parent does",
}
fn autoreap_by_idle_parent() -> Result {
    subject::each_reaped(|call| {
        for state in [Parent::Stopped, Parent::HaltedByATracer, Parent::WithoutLeader] {
            let what = format!("child of a parent that is {state:?}");
            let ordinary = Family::made(&Clone3::new(Flags::PIDFD), state)?;
            ordinary.puts_parent(state)?;
            ordinary.childs_gate.open()?;
            ordinary.child.wait_exited()?;
            let polled = ordinary.child.poll_now(PollFlags::POLLIN)?;
            check::equal(
                format_args!("control: poll on the pidfd of an ordinary {what}"),
                polled,
                PollFlags::POLLIN,
            )?;
            ordinary.lets_parent_end(state)?;
            // The zombie has been reparented to the caller.
            check::equal(
                format_args!("control: waitpid(-1, __WALL) by who adopted the zombie of an ordinary {what}"),
                wait::waitpid(-1, libc::__WALL)?.map(|(_, status)| status),
                Some(Status::exited(5)),
            )?;

            let family = Family::made(&call, state)?;
            family.puts_parent(state)?;
            family.childs_gate.open()?;
            family.child.reaped_with(Status::exited(5)).context(&what)?;
            family.lets_parent_end(state)?;
            wait::no_children()?;
        }
        Ok(())
    })
}
