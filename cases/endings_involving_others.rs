//! Ends of auto-reaped children that involve something else: an IPC namespace that removes segments, a pid namespace that is
//! not the creator's or is being torn down, a creator that shares memory, a parent that dumps core.

use std::fs;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Named, Result};
use clone3_conformance::clone3::{Clone3, Stack, park};
use clone3_conformance::kit::coredump::Server;
use clone3_conformance::kit::crash::Crash;
use clone3_conformance::kit::process::{child_reporting, in_child, reap_all};
use clone3_conformance::kit::segment::Segment;
use clone3_conformance::kit::{Channel, Gate, Handover, errands, namespace, subject};
use clone3_conformance::wait::{self, Status};
use nix::poll::PollFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};

case! {
    /// With kernel.shm_rmid_forced (per IPC namespace), a shared memory segment is removed when the process that created it ends,
    /// auto-reaped or not.
    autoreap_segment_removed_if_forced: Must, needs [Autoreap, ExitInfo, SysAdmin, Proc],
    source "proc_sys_kernel(5), shm_rmid_forced; ipc/shm.c exit_shm()",
}
fn autoreap_segment_removed_if_forced() -> Result {
    const FORCED: &str = "/proc/sys/kernel/shm_rmid_forced";
    unshare(CloneFlags::CLONE_NEWIPC).map_err(|errno| {
        Failure::blocked(format!("needs an IPC namespace of its own: unshare fails with {}", Named(errno)))
    })?;
    for (forced, expected) in [("0", true), ("1", false)] {
        fs::write(FORCED, forced)
            .map_err(|error| Failure::blocked(format!("writing {forced} to {FORCED} fails: {error}")))?;
        subject::each(|call| {
            let (child, segment) = child_reporting(&call, Segment::new)?;
            child.ends_with(Status::exited(0))?;
            let what =
                format!("whether the segment of a child of {call} outlives it, with {FORCED} {forced}");
            check::equal(what, segment.exists()?, expected)?;
            Ok(())
        })?;
    }
    Ok(())
}

case! {
    /// When a child that shares memory with its creator (CLONE_VM) crashes, its creator lives on, whether the child is auto-reaped or
    /// not.
    autoreap_crash_spares_memory_sharers: Is, needs [Autoreap, ExitInfo],
    source "fs/coredump.c zap_threads(), which since Linux 5.16 ends the threads of one process only",
}
fn autoreap_crash_spares_memory_sharers() -> Result {
    subject::each(|call| {
        let call = call.with(Flags::CLONE_VM);
        // In a process of its own, so that its end is a failure.
        in_child(|| {
            let child = call.spawn_on(&Stack::new()?, errands::crash())?;
            child.ends_with(Status::killed(Signal::SIGSEGV))
        })
    })
}

case! {
    /// The orphans that an auto-reaped child leaves which its creator put into another pid namespace (unshare(CLONE_NEWPID)) are
    /// reparented to that namespace's init, like those of an ordinary child, and not to a subreaper outside.
    autoreap_orphan_stays_in_namespace: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "pid_namespaces(7), adoption of orphaned children; kernel/exit.c find_new_reaper()",
}
fn autoreap_orphan_stays_in_namespace() -> Result {
    // The process of a case is a subreaper.
    subject::each(|call| {
        let (maker, parent) = child_reporting(&Clone3::fork(), || {
            namespace::unshare_pid()?;
            let init = Clone3::fork().with(Flags::PIDFD).spawn(park)?;
            let (gate, told) = (Gate::new()?, Channel::<i32>::new()?);
            let orphan = || {
                gate.wait();
                i32::from(told.send(&getppid().as_raw()).is_err())
            };
            let child = call.spawn(|| i32::from(Clone3::fork().spawn(orphan).is_err()))?;
            subject::wait_until_gone(&child)?;
            gate.open()?;
            let parent = told.recv()?;
            init.clear_away()?;
            Ok(parent)
        })?;
        maker.reap_expecting(Status::exited(0))?;
        check::equal(format_args!("getppid() of what a child of {call} has left"), parent, 1)
    })
}

case! {
    /// An auto-reaped child that its creator put into another pid namespace (unshare(CLONE_NEWPID)) is killed with that namespace
    /// and leaves no zombie, so the namespace's init can end. An ordinary one keeps init from ending until it is waited for.
    autoreap_injected_gone_with_namespace: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "pid_namespaces(7), the namespace init process; kernel/pid_namespace.c zap_pid_ns_processes()",
}
fn autoreap_injected_gone_with_namespace() -> Result {
    subject::each(|call| {
        let (maker, ()) = child_reporting(&Clone3::fork(), || {
            namespace::unshare_pid()?;
            let init = Clone3::fork().with(Flags::PIDFD).spawn(park)?;
            let child = call.spawn(park)?;
            init.kill(Signal::SIGKILL)?;
            if child.reaps_itself() {
                child.is_gone_with(Status::SIGKILLED).context("in a pid namespace that is torn down")?;
            } else {
                wait::find_zombie(child.pid()).context("control")?;
                let now = init.pidfd()?.poll_now(PollFlags::POLLIN)?;
                check::equal(
                    "control: poll of an init beside a zombie of another's",
                    now,
                    PollFlags::empty(),
                )?;
                wait::reap_expecting(child.pid(), Status::SIGKILLED)?;
            }
            init.reap_expecting(Status::SIGKILLED)
        })?;
        maker.reap_expecting(Status::exited(0))
    })
}

case! {
    /// An auto-reaped child that ends while its parent dumps core is gone at once. An ordinary one is a zombie meanwhile.
    autoreap_gone_while_parent_dumps_core: Must, needs [Autoreap, ExitInfo, CoredumpMask, Root, GlobalChanges],
    source "commit \"clone: add CLONE_AUTOREAP\"; core(5); kernel/signal.c do_notify_parent()",
}
fn autoreap_gone_while_parent_dumps_core() -> Result {
    let server = Server::start()?;
    subject::each(|call| {
        let (gate, handover) = (Gate::new()?, Handover::arrange()?);
        let parent = Clone3::fork().with(Flags::PIDFD).spawn(|| {
            let child = call.spawn(|| {
                gate.wait();
                5
            });
            if handover.give(child) { Crash::Abort.with_large_core() } else { 98 }
        })?;
        let child = handover.take_from(&parent)?;
        let dump = server.begin_dump_of(parent.pidfd()?)?;
        gate.open()?;
        if call.flags().contains(Flags::AUTOREAP) {
            child.reaped_with(Status::exited(5)).context("auto-reaped, while its parent dumps core")?;
        } else {
            child.wait_exited()?;
            let now = child.poll_now(PollFlags::POLLIN)?;
            check::equal("control: poll of an ordinary zombie", now, PollFlags::POLLIN)?;
        }
        dump.take()?;
        parent.reap_expecting(Crash::Abort.dumped())?;
        Ok(())
    })?;
    drop(server);
    // The ordinary child has been reparented to the caller.
    reap_all()
}

case! {
    /// An auto-reaped child that its creator puts into another pid namespace (unshare(CLONE_NEWPID)), which has an init already,
    /// leaves no zombie. An ordinary one does.
    autoreap_injected_into_pid_namespace: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "commit \"clone: add CLONE_AUTOREAP\"; pid_namespaces(7), on unshare(2)",
}
fn autoreap_injected_into_pid_namespace() -> Result {
    // A process can create only one pid namespace for its children.
    subject::each_reaped(|call| {
        in_child(|| {
            namespace::unshare_pid()?;
            let init = Clone3::fork().with(Flags::PIDFD).spawn(park)?;
            // Each child exits with its pid in that namespace.
            let own_number = || getpid().as_raw();
            let ordinary = Clone3::fork().with(Flags::PIDFD).spawn(own_number)?;
            let zombie = wait::Event::exited(ordinary.pid(), 2);
            check::equal("control: an ordinary child in there", wait::find_zombie(ordinary.pid())?, zombie)?;
            ordinary.reap_expecting(Status::exited(2))?;
            let child = call.spawn(own_number)?;
            child.pidfd()?.gone_with(child.pid(), Status::exited(3))?;
            init.clear_away()
        })
    })
}
