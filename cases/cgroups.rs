//! Auto-reaped processes in cgroups count and move like any others.

use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::{Cgroup, Channel, Gate, subject, threads, usage};

/// Returns how many microseconds of CPU time `cpu.stat` says that processes of this cgroup have used.
fn time_used_in(group: &Cgroup) -> Result<i64> {
    let text = group.read("cpu.stat")?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let number = usage.and_then(|number| number.parse().ok());
    number.ok_or_else(|| Failure::fail(format!("cpu.stat: expected a line with usage_usec, got {text:?}")))
}

case! {
    /// The CPU time that an auto-reaped process has used counts in its cgroup, like that of an ordinary one.
    autoreap_time_counts_in_cgroup: Must, needs [Autoreap, ExitInfo, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cpu.stat (\"usage_usec\")",
}
fn autoreap_time_counts_in_cgroup() -> Result {
    /// In microseconds.
    const TIME: i64 = 10_000;
    subject::each(|call| {
        let group = Cgroup::create(&[])?;
        let call = call.into_cgroup(group.dir());
        let child = call.spawn(|| i32::from(usage::burn(TIME).is_err()))?;
        subject::wait_until_gone(&child)?;
        let used = time_used_in(&group)?;
        let what = format!("usage_usec of the cgroup of a child of {call} that used {TIME}");
        // Half of it, because the two clocks are not read at the same moment.
        check::holds(used >= TIME / 2, format_args!("{what}: {used}"))?;
        group.remove()
    })
}

/// Makes a child by this call that has two threads, both of which stay until the gate opens; the channel tells when.
fn child_of_two_threads(call: &Clone3, gate: &Gate) -> Result<Child> {
    let ready = Channel::<()>::new()?;
    let child = call.spawn(|| {
        threads::beside_another(|| {
            let _ = ready.send(&());
            gate.wait();
        });
        0
    })?;
    ready.recv_from(&child)?;
    Ok(child)
}

case! {
    /// A process whose pid is written to cgroup.procs moves with all its threads, auto-reaped or not: the cgroup in which it was is
    /// empty then, and can be removed.
    autoreap_moves_with_all_threads: Must, needs [Autoreap, ExitInfo, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, Processes (\"writing the PID of any thread migrates all threads of the process\")",
}
fn autoreap_moves_with_all_threads() -> Result {
    subject::each(|call| {
        let (first, second, gate) = (Cgroup::create(&[])?, Cgroup::create(&[])?, Gate::new()?);
        let call = call.into_cgroup(first.dir());
        let child = child_of_two_threads(&call, &gate)?;
        second.admit(child.pid())?;
        let threads = first.read("cgroup.threads")?;
        check::equal(
            format_args!("threads that a child of {call} has left behind in a cgroup"),
            &*threads,
            "",
        )?;
        first.remove()?;
        gate.open()?;
        subject::wait_until_gone(&child)?;
        second.remove()
    })
}
