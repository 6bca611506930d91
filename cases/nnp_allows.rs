//! What no_new_privs leaves allowed: a process may use everything that it has, and restrict itself further.

use std::os::fd::AsFd;

use caps::{CapSet, Capability};
use clone3_conformance::abi::{Flags, Namespace};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Named, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::outcome::{allowed_as_ever, outcome_in_child, outcome_in_nnp_children};
use clone3_conformance::kit::privilege::{self, Caps};
use clone3_conformance::kit::process::child_reporting;
use clone3_conformance::kit::seccomp::{self, Refusal};
use clone3_conformance::kit::setuid::{self, credentials_after_exec};
use clone3_conformance::kit::sysctl::became_undumpable;
use clone3_conformance::kit::{Actor, Echo, Gate, Held, sandboxing, subject, threads, tracer};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::procfs;
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::ptrace::Options;
use nix::sys::signal::Signal;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

case! {
    /// A caller with CAP_SYS_ADMIN may use CLONE_PIDFD_AUTOKILL without CLONE_NNP even if it has no_new_privs itself, and the pidfd
    /// is armed.
    autokill_by_nnp_caller_with_cap: Must, needs [Autoreap, Autokill, ExitInfo, SysAdmin],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\": CLONE_NNP or CAP_SYS_ADMIN; \
        Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn autokill_by_nnp_caller_with_cap() -> Result {
    let call = Clone3::new(Flags::KILLED);
    call.accepted()?;
    rustix::thread::set_no_new_privs(true)?;
    let mut child = Echo::spawn(&call).context("by a caller with CAP_SYS_ADMIN and no_new_privs")?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    child.is_dead("after the last close of its pidfd")?;
    observer.gone_with(child.pid(), Status::SIGKILLED)
}

case! {
    /// An unprivileged CLONE_NNP child may make a child in a new user namespace (CLONE_NEWUSER), like an ordinary one.
    nnp_child_clones_into_user_namespace: Must, needs [Nnp, Unprivileged, UserNamespaces],
    source "user_namespaces(7); Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn nnp_child_clones_into_user_namespace() -> Result {
    for call in [vec![Clone3::fork()], subject::with_nnp()].concat() {
        let (child, ()) = child_reporting(&call, || {
            let below = Clone3::fork().with(Flags::CLONE_NEWUSER);
            below.accepted().context(format_args!("by a child of {call}"))
        })?;
        child.ends_with(Status::exited(0))?;
    }
    Ok(())
}

case! {
    /// A seccomp filter that a thread installs for all threads of its process (SECCOMP_FILTER_FLAG_TSYNC) is in force for another one,
    /// auto-reaped or not.
    autoreap_filter_for_all_threads: Must, needs [Autoreap, ExitInfo, Proc],
    source "seccomp(2), SECCOMP_FILTER_FLAG_TSYNC; proc_pid_status(5), Seccomp_filters",
}
fn autoreap_filter_for_all_threads() -> Result {
    sandboxing::seccomp_filters_exist()?;
    // A count, because the suite may be under a filter already.
    let filters = || {
        let count = procfs::status_field("thread-self", "Seccomp_filters");
        count.and_then(|count| count.parse::<u32>().ok())
    };
    subject::each(|call| {
        let (child, [before, after]) = child_reporting(&call, || {
            rustix::thread::set_no_new_privs(true)?;
            let before = filters();
            threads::in_a_thread(|| {
                let outcome = sandboxing::install_seccomp_filter_for_all_threads();
                check::permitted("seccomp with SECCOMP_FILTER_FLAG_TSYNC", outcome)
            })?;
            Ok([before, filters()])
        })?;
        child.ends_with(Status::exited(0))?;
        let what = format!("filters of the leader, a child of {call}, when another thread has installed one");
        check::equal(what, after, before.map(|before| before + 1))
    })
}

case! {
    /// The unprivileged creator of a CLONE_NNP child in a new user namespace may write the child's setgroups, uid_map and gid_map, as
    /// for an ordinary child.
    nnp_mapped_by_creator: Must, needs [Nnp, Unprivileged, UserNamespaces, Proc],
    source "user_namespaces(7), user and group ID mappings, and /proc/PID/setgroups",
}
fn nnp_mapped_by_creator() -> Result {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let (uid_map, gid_map) = (format!("0 {uid} 1"), format!("0 {gid} 1"));
    for call in subject::every_kind() {
        let child = Held::exiting_with(&call.clone().with(Flags::CLONE_NEWUSER), 0)?;
        for (file, text) in [("setgroups", "deny"), ("uid_map", &*uid_map), ("gid_map", &*gid_map)] {
            let path = format!("/proc/{}/{file}", child.pid());
            let done = std::fs::write(&path, text)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()));
            let what = format!("write of {path}, of a child of {call}");
            match call.flags().contains(Flags::NNP) {
                true => check::succeeds(what, done)?,
                false => check::permitted(what, done)?,
            }
        }
        child.into_child().clear_away()?;
    }
    Ok(())
}

case! {
    /// An unprivileged caller's CLONE_NNP child is dumpable after exec of a set-user-ID program, as after any other, because its
    /// user id does not change. Without the flag it changes, and the process is not dumpable.
    nnp_dumpable_after_setuid_program: Must, needs [Nnp, Root, NotYetNnp],
    source "PR_SET_DUMPABLE(2const): a program \"resulting in a change of either the effective user ID or …\"",
}
fn nnp_dumpable_after_setuid_program() -> Result {
    let program = setuid::file_with_mode(0o4755)?;
    privilege::become_ordinary_user()?;
    let dumpable = |call: &Clone3| -> Result<bool> {
        Ok(credentials_after_exec(call, program.as_fd(), || Ok(()))?.dumpable)
    };
    became_undumpable("a set-user-ID program, run without no_new_privs,", dumpable(&Clone3::fork())?)?;
    subject::each_with_nnp(|call| {
        let what = format!("dumpable after exec of a set-user-ID program in a child of {call}");
        check::equal(what, dumpable(&call)?, true)
    })
}

/// Checks that a CLONE_NNP child, like an ordinary one, can empty one of its capability sets and raise a capability that it
/// has in it again.
fn raises_again(set: CapSet) -> Result {
    const CAPABILITY: Capability = Capability::CAP_SYS_ADMIN;
    let raised = |call: &Clone3| -> Result<Caps> {
        let (child, found) = child_reporting(call, || privilege::emptied_and_raised(set, CAPABILITY))?;
        child.ends_with(Status::exited(0))?;
        Ok(found)
    };
    let (ordinary, expected) = (raised(&Clone3::fork())?, Caps::of(&[CAPABILITY]));
    if ordinary != expected {
        return Err(Failure::blocked(format!("raising {CAPABILITY} in the {set:?} set gives {ordinary:?}")));
    }
    subject::each_with_nnp(|call| {
        let what =
            format!("the {set:?} set of a child of {call} that raised its permitted {CAPABILITY} in it");
        check::equal(what, raised(&call)?, expected)
    })
}

case! {
    /// A CLONE_NNP child may raise a permitted and inheritable capability in its ambient set, like an ordinary child.
    nnp_raises_ambient_capability: Must, needs [Nnp, SysAdmin],
    source "PR_CAP_AMBIENT(2const); Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn nnp_raises_ambient_capability() -> Result {
    raises_again(CapSet::Ambient)
}

case! {
    /// A CLONE_NNP child may raise a permitted capability in its effective set, like an ordinary child.
    nnp_raises_effective_capability: Must, needs [Nnp, SysAdmin],
    source "capset(2); Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn nnp_raises_effective_capability() -> Result {
    raises_again(CapSet::Effective)
}

case! {
    /// An unprivileged CLONE_NNP child may install a seccomp filter with a listener. Without the flag that is EACCES.
    nnp_seccomp_listener_unprivileged: Must, needs [Nnp, Unprivileged, NotYetNnp],
    source "seccomp(2), SECCOMP_SET_MODE_FILTER and SECCOMP_FILTER_FLAG_NEW_LISTENER; seccomp_unotify(2)",
}
fn nnp_seccomp_listener_unprivileged() -> Result {
    sandboxing::seccomp_filters_exist()?;
    let install = || Ok(seccomp::ask_supervisor(libc::SYS_acct).map(drop));
    let what = "seccomp with SECCOMP_FILTER_FLAG_NEW_LISTENER";
    let without = outcome_in_child(install)?;
    check::refused(format_args!("control: {what} without CLONE_NNP"), without, Errno::EACCES)?;
    match outcome_in_nnp_children(install)? {
        Err(Errno::EBUSY) => Err(Failure::blocked("the suite runs under a seccomp filter with a listener")),
        with => check::succeeds(format_args!("{what} in a child with CLONE_NNP"), with),
    }
}

case! {
    /// A CLONE_NNP child that has no capabilities may enter a user namespace that its own user owns, like an ordinary child, and
    /// then has the same permitted and effective capabilities as that one, and not none.
    nnp_enters_user_namespace: Must, needs [Nnp, UserNamespaces],
    source "setns(2); Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn nnp_enters_user_namespace() -> Result {
    let inhabitant = Actor::spawn(&Clone3::fork(), |()| privilege::unshare_user_namespace())?;
    inhabitant.ask(())?;
    let pidfd = Pidfd::open(inhabitant.child().pid())?;
    let capabilities_there = |call: &Clone3| -> Result<[Caps; 2]> {
        let (child, found) = child_reporting(call, || {
            // Otherwise it could have kept the ones that it had.
            privilege::drop_capabilities()?;
            setns(&pidfd, CloneFlags::CLONE_NEWUSER).map_err(|errno| {
                Failure::blocked(format!("setns(CLONE_NEWUSER) fails with {}", Named(errno)))
            })?;
            Caps::own_permitted_and_effective()
        })?;
        child.ends_with(Status::exited(0))?;
        Ok(found)
    };
    let what = "CapPrm and CapEff in a user namespace entered with setns";
    let ordinary = capabilities_there(&Clone3::fork())?;
    check::holds(
        !ordinary.contains(&Caps::NONE),
        format_args!("control: {what}, of an ordinary child: expected capabilities, got {ordinary:?}"),
    )?;
    subject::each_with_nnp(|call| {
        let found = capabilities_there(&call).map_err(Failure::after_control)?;
        check::equal(format_args!("{what}, of a child of {call}"), found, ordinary)
    })?;
    inhabitant.dismiss()
}

case! {
    /// A CLONE_NNP child that has made a user namespace may map its own user id in it, as an ordinary child.
    nnp_writes_own_user_map: Must, needs [Nnp, UserNamespaces, Proc],
    source "user_namespaces(7), \"User and group ID mappings: uid_map and gid_map\"",
}
fn nnp_writes_own_user_map() -> Result {
    let map = format!("0 {} 1", nix::unistd::geteuid());
    allowed_as_ever("writing /proc/self/uid_map in a user namespace of its own", || {
        privilege::unshare_user_namespace()?;
        let written = std::fs::write("/proc/self/uid_map", &map);
        Ok(written.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default())))
    })
}

/// Waits at the gate, then installs a filter that refuses a harmless system call, and makes that call.
fn refuse_oneself(gate: &Gate, refusal: Refusal) -> i32 {
    gate.wait();
    // Prevents a core dump.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    match seccomp::refuse(libc::SYS_sched_yield, refusal) {
        Ok(()) => std::thread::yield_now(),
        Err(_) => return 99,
    }
    0
}

case! {
    /// A CLONE_NNP child that its own seccomp filter kills dies even if it is traced: its tracer sees the death, not a SIGSYS that
    /// it could suppress, as it can with SECCOMP_RET_TRAP.
    nnp_filter_kills_past_tracer: Is, needs [Nnp, Ptrace],
    source "seccomp(2), SECCOMP_RET_KILL_PROCESS; kernel/signal.c force_sig_info_to_task() (SA_IMMUTABLE)",
}
fn nnp_filter_kills_past_tracer() -> Result {
    sandboxing::seccomp_filters_exist()?;
    subject::each_with_nnp(|call| {
        for refusal in [Refusal::Trap, Refusal::KillProcess, Refusal::KillThread] {
            let gate = Gate::new()?;
            let child = call.spawn(|| refuse_oneself(&gate, refusal))?;
            tracer::seize(child.pid(), Options::empty())?;
            gate.open()?;
            if refusal == Refusal::Trap {
                tracer::stops_with(child.pid(), Signal::SIGSYS).context("control: SECCOMP_RET_TRAP")?;
                tracer::go_on(child.pid(), None)?;
                child.reap_expecting(Status::exited(0)).context("control: SIGSYS taken away")?;
            } else {
                let what =
                    format!("what the tracer of a child of {call} is told, whose filter says {refusal:?}");
                child.reap_expecting(Status::killed(Signal::SIGSYS)).context(what)?;
            }
        }
        Ok(())
    })
}

case! {
    /// A CLONE_NNP child may inspect a process of its user that does not have no_new_privs, like an ordinary child: open its
    /// namespaces through a pidfd, and take one of its descriptors (pidfd_getfd).
    nnp_inspects_process_of_its_user: Must, needs [Nnp, Unprivileged, NotYetNnp],
    source "ptrace(2), \"Ptrace access mode checking\"; pidfd_getfd(2); \
        Documentation/userspace-api/no_new_privs.rst: what does not involve execve is not prevented",
}
fn nnp_inspects_process_of_its_user() -> Result {
    // Yama may allow only ancestors to take a descriptor, unless the process allows more.
    let other = Held::traceable(&Clone3::fork(), 0)?;
    let pidfd = Pidfd::open(other.pid())?;
    let namespace = || Ok(pidfd.namespace(Namespace::Mount).map(drop));
    allowed_as_ever("PIDFD_GET_MNT_NAMESPACE of another child", namespace)?;
    let descriptor = || Ok(pidfd.getfd(0).map(drop));
    allowed_as_ever("pidfd_getfd from another child", descriptor)?;
    other.let_go()?;
    other.into_child().reap_expecting(Status::exited(0))
}
