//! Resource usage (getrusage(2)) of auto-reaped children: who gets it, and to whose RUSAGE_CHILDREN it is added.

use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::perf::FaultCounter;
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::subject::leaves_zombie;
use clone3_conformance::kit::{
    Actor, Channel, Held, Orphan, namespace, sigchld, subject, threads, tracer, usage,
};
use clone3_conformance::wait::{self, Status};
use nix::sys::ptrace::Options;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;

/// CPU time that a child uses, in microseconds.
const CPU_TIME: i64 = 10_000;

/// Uses CPU time until getrusage(2) reports [`CPU_TIME`].
fn burn() -> i32 {
    i32::from(usage::burn(CPU_TIME).is_err())
}

/// Uses that much CPU time in a child, waits for it, and uses as much again.
fn burn_with_a_child() -> i32 {
    let own = Clone3::fork().spawn(burn).and_then(|own| own.reap_expecting(Status::exited(0)));
    own.map_or(1, |()| burn())
}

/// Returns what RUSAGE_CHILDREN reports: CPU time in microseconds, maximum resident set, minor page faults.
fn used_by_children() -> Result<(i64, i64, i64)> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((usage::cpu_time(&usage), usage.max_rss(), usage.minor_page_faults()))
}

case! {
    /// CPU time, resident set and page faults of an auto-reaped child, and of the children for which it has waited, are not added to
    /// its parent's RUSAGE_CHILDREN.
    autoreap_rusage_not_accumulated: Is, needs [Autoreap, ExitInfo],
    source "kernel/exit.c wait_task_zombie(), which alone adds them; wait(2) for ignored SIGCHLD",
}
fn autoreap_rusage_not_accumulated() -> Result {
    // In a process of its own, because the maximum resident set of its children never shrinks.
    subject::each_reaped(|call| in_child(|| adds_nothing(&call)))
}

/// Checks that the usage of a child of this call is not added to the caller's RUSAGE_CHILDREN, and that an ordinary child's is.
fn adds_nothing(call: &Clone3) -> Result {
    let before = used_by_children()?;
    let child = call.spawn(burn_with_a_child)?;
    child.pidfd()?.reaped_with(Status::exited(0))?;
    let what = format_args!("RUSAGE_CHILDREN as (µs, maxrss, faults) after a child of {call}");
    check::equal(what, used_by_children()?, before)?;

    let control = leaves_zombie().spawn(burn_with_a_child)?;
    control.reap_expecting(Status::exited(0))?;
    let after = used_by_children()?;
    // Allows a millisecond for rounding.
    let added = after.0 - before.0 >= 2 * CPU_TIME - 1000 && after.1 > before.1 && after.2 > before.2;
    check::holds(
        added,
        format_args!("control: {after:?} after a child that was waited for, {before:?} before"),
    )
}

case! {
    /// The init of a pid namespace neither gets a SIGCHLD nor has anything added to its RUSAGE_CHILDREN when an auto-reaped child of
    /// another process ends there, as for an ordinary child.
    autoreap_init_not_concerned: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "wait(2); getrusage(2), RUSAGE_CHILDREN; signal(7), SIGCHLD; commit \"clone: add CLONE_AUTOREAP\"",
}
fn autoreap_init_not_concerned() -> Result {
    subject::each(|call| {
        namespace::as_init(|| {
            sigchld::block()?;
            let parent = Actor::spawn(&Clone3::fork(), |()| call.spawn(burn)?.ends_with(Status::exited(0)))?;
            let before = used_by_children()?;
            parent.ask(())?;
            let what = format!("RUSAGE_CHILDREN of an init, after another process's child of {call}");
            check::equal(what, used_by_children()?, before)?;
            sigchld::none_pending()?;
            parent.dismiss()
        })
    })
}

/// Returns what a reparented child adds to its new parent's RUSAGE_CHILDREN when `reap` has waited for its end.
fn added_by_adopted(call: &Clone3, reap: impl FnOnce(&Orphan) -> Result) -> Result<(i64, i64)> {
    let child = Orphan::running(call, burn)?;
    // The original parent has been waited for, so its usage is included already.
    let before = used_by_children()?;
    child.let_go()?;
    reap(&child)?;
    let after = used_by_children()?;
    Ok((after.0 - before.0, after.2 - before.2))
}

case! {
    /// CPU time and page faults of an auto-reaped child that was reparented, and so has the exit signal SIGCHLD, are not added to
    /// the RUSAGE_CHILDREN of its new parent; an ordinary child's are.
    autoreap_rusage_not_accumulated_by_adopter: Is, needs [Autoreap, ExitInfo],
    source "kernel/exit.c wait_task_zombie(), which alone adds them; commit \"clone: add CLONE_AUTOREAP\" (reparenting)",
}
fn autoreap_rusage_not_accumulated_by_adopter() -> Result {
    subject::each_reaped(|call| {
        let (time, faults) =
            added_by_adopted(&leaves_zombie(), |child| wait::reap_expecting(child.pid, Status::exited(0)))?;
        let added = time >= CPU_TIME - 1000 && faults > 0;
        check::holds(
            added,
            format_args!("control: {time} µs and {faults} faults added by an ordinary child"),
        )?;
        let added = added_by_adopted(&call, |child| child.pidfd.reaped_with(Status::exited(0)))?;
        check::equal("µs and page faults added to RUSAGE_CHILDREN by an auto-reaped child", added, (0, 0))
    })
}

/// How many pages the child's own child touches: more page faults than the child has itself.
const PAGES: usize = 1000;

/// Creates a child that has waited for a child of its own and then for its gate, and so has usage of every kind. It is asleep
/// when this returns. Also returns the child's RUSAGE_CHILDREN.
fn with_an_account(call: &Clone3) -> Result<(Held, usage::Usage)> {
    let told = Channel::<usage::Usage>::new()?;
    let child = Held::prepared(call, 6, || {
        let own = Clone3::fork().spawn(|| i32::from(usage::touch_pages(PAGES).is_err()))?;
        own.reap_expecting(Status::exited(0))?;
        told.send(&usage::of_children()?)
    })?;
    threads::wait_until_process_sleeps(child.pid())?;
    let account = told.recv_from(&child)?;
    check::holds(
        account.minor_faults >= PAGES as i64,
        format_args!("control: {account:?} by a child of a child of {call} that has touched {PAGES} pages"),
    )?;
    Ok((child, account))
}

case! {
    /// Neither the context switches of an auto-reaped child nor the usage of its own children is added to its parent's
    /// RUSAGE_CHILDREN; for an ordinary child, both are.
    autoreap_account_not_added: Is, needs [Autoreap, ExitInfo, Proc],
    source "kernel/exit.c wait_task_zombie(), which alone adds it; wait(2) for ignored SIGCHLD",
}
fn autoreap_account_not_added() -> Result {
    subject::each_reaped(|call| {
        let before = usage::of_children()?;
        let (child, _) = with_an_account(&call)?;
        child.let_go()?;
        child.is_gone_with(Status::exited(6))?;
        check::equal("RUSAGE_CHILDREN after an auto-reaped child", usage::of_children()?, before)?;

        let (control, account) = with_an_account(&leaves_zombie())?;
        control.let_go()?;
        let (status, own) = check::succeeds("wait4", usage::wait4(control.pid()))?;
        check::equal("control: status from wait4 for an ordinary child", status, Status::exited(6))?;
        let after = usage::of_children()?;
        let counted = own.voluntary_switches > 0 && after.voluntary_switches > before.voluntary_switches;
        let counted = counted && after.minor_faults - before.minor_faults >= account.minor_faults;
        check::holds(
            counted,
            format_args!(
                "control: {after:?} after a child that was waited for, {before:?} before; its own child: {account:?}"
            ),
        )
    })
}

/// Creates a child that the caller has traced to its end and has not waited for.
fn traced_to_its_end(call: &Clone3) -> Result<Child> {
    let (child, _) = with_an_account(call)?;
    tracer::seize(child.pid(), Options::empty())?;
    child.let_go()?;
    child.is_a_zombie(6)?;
    Ok(child.into_child())
}

case! {
    /// A parent that traces its auto-reaped child until it ends, and then waits for it, gets the child's usage from wait4; that
    /// usage is added to its RUSAGE_CHILDREN, as for an ordinary child.
    autoreap_ptrace_parents_wait_reports_usage: Is, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "wait4(2); kernel/exit.c wait_task_zombie()",
}
fn autoreap_ptrace_parents_wait_reports_usage() -> Result {
    subject::each_reaped(|reaped| {
        for call in [leaves_zombie(), reaped.clone()] {
            let (child, before) = (traced_to_its_end(&call)?, usage::of_children()?);
            let (status, own) = check::succeeds("wait4", usage::wait4(child.pid()))?;
            check::equal(
                format_args!("status from wait4 for a traced child of {call}"),
                status,
                Status::exited(6),
            )?;
            check::holds(
                own.minor_faults > 0 && own.voluntary_switches > 0 && own.max_rss > 0,
                format_args!("wait4 for a traced child of {call}: expected what it has used, got {own:?}"),
            )?;
            let after = usage::of_children()?;
            check::holds(
                after.minor_faults > before.minor_faults
                    && after.voluntary_switches > before.voluntary_switches,
                format_args!(
                    "RUSAGE_CHILDREN: expected more than {before:?} after a child of {call}, got {after:?}"
                ),
            )?;
        }
        Ok(())
    })
}

case! {
    /// When a tracer that is not the parent waits for its dead tracee, auto-reaped or not, it gets the tracee's usage, which is not
    /// added to the tracer's RUSAGE_CHILDREN.
    autoreap_ptrace_others_wait_adds_nothing: Is, needs [Autoreap, ExitInfo, Ptrace, Proc],
    source "getrusage(2), RUSAGE_CHILDREN; kernel/exit.c wait_task_zombie() (ptrace_reparented())",
}
fn autoreap_ptrace_others_wait_adds_nothing() -> Result {
    subject::each(|call| {
        let child = Held::traceable(&call, 6)?;
        let (before, after) = in_child(|| {
            tracer::seize(child.pid(), Options::empty())?;
            let before = usage::of_children()?;
            child.let_go()?;
            let (status, own) = check::succeeds("wait4", usage::wait4(child.pid()))?;
            check::equal("the tracee's status", status, Status::exited(6))?;
            check::holds(
                own.minor_faults > 0 && own.max_rss > 0,
                format_args!(
                    "wait4 by the tracer of a child of {call}: expected what it has used, got {own:?}"
                ),
            )?;
            Ok((before, usage::of_children()?))
        })?;
        check::equal("RUSAGE_CHILDREN of a tracer that has waited for another's child", after, before)?;
        subject::wait_until_gone(&child).map(drop)
    })
}

case! {
    /// A performance counter that children inherit has what an auto-reaped child counted, when that child is gone, as for an
    /// ordinary child.
    autoreap_counted_by_inherited_counter: Must, needs [Autoreap, ExitInfo],
    source "perf_event_open(2), inherit; kernel/events/core.c perf_event_exit_event()",
}
fn autoreap_counted_by_inherited_counter() -> Result {
    subject::each(|call| {
        let counter = FaultCounter::start()?;
        let child = Held::prepared(&call, 0, || usage::touch_pages(PAGES))?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        let count = counter.read()?;
        check::holds(
            count >= PAGES as u64,
            format_args!(
                "an inherited counter of page faults after a child of {call} that had {PAGES}: {count}"
            ),
        )
    })
}

case! {
    /// wait4 returns what an auto-reaped child has used so far when it reports that the child has stopped or continues, as for an
    /// ordinary child.
    autoreap_stop_report_has_usage: Is, needs [Autoreap],
    source "wait4(2); kernel/exit.c wait_task_stopped(), wait_task_continued()",
}
fn autoreap_stop_report_has_usage() -> Result {
    subject::each(|call| {
        let child = Held::prepared(&call, 0, || usage::touch_pages(PAGES))?;
        for (signal, options) in [(Signal::SIGSTOP, libc::WUNTRACED), (Signal::SIGCONT, libc::WCONTINUED)] {
            child.kill(signal)?;
            let what = format!("wait4 for a child of {call} after {signal}");
            let (_, used) = check::succeeds(&what, usage::wait4_for(child.pid(), options))?;
            check::holds(
                used.minor_faults >= PAGES as i64,
                format_args!("{what}: expected at least {PAGES} page faults, got {used:?}"),
            )?;
        }
        child.into_child().clear_away()
    })
}
