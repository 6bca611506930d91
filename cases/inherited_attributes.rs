//! What a child made with the new flags inherits from its creator: everything that an ordinary child does.

use caps::Capability;
use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Named, Result};
use clone3_conformance::clone3::{Clone3, Stack};
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::helper::Command;
use clone3_conformance::kit::inherited::{self, Inherited};
use clone3_conformance::kit::privilege::{self, Caps};
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::sandboxing::Landlock;
use clone3_conformance::kit::seccomp::{self, Refusal};
use clone3_conformance::kit::{errands, inheritable, subject, threads, user_dispatch};
use clone3_conformance::note;
use clone3_conformance::procfs::status_field;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::getsid;
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, dumpable_behavior, ioctl_tiocsctty, set_dumpable_behavior};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::thread::{no_new_privs, set_no_new_privs};

/// Returns the calls with new flags whose children are compared with the child of an ordinary call.
fn calls() -> [Clone3; 3] {
    [Clone3::new(Flags::REAPED), Clone3::fork().with(Flags::NNP), Clone3::new(Flags::KILLED_NNP)]
}

/// Returns what a child made by the call inherits from this process.
#[track_caller]
fn inherited_by(call: &Clone3) -> Result<Inherited> {
    let creators = inherited::namespaces();
    let (child, found) = child_reporting(call, || Ok(inherited::own(&creators)))?;
    child.ends_with(Status::exited(0))?;
    Ok(found)
}

/// Checks that a child made by `call` has the same as an ordinary child.
#[track_caller]
fn alike(call: &Clone3, ordinary: &Inherited, when: &str) -> Result {
    let differences = inherited::differences(&inherited_by(call)?, ordinary);
    if differences.is_empty() {
        return Ok(());
    }
    let differences = differences.join("; ");
    Err(Failure::fail(format!("{when}, a child of {call} differs from an ordinary one: {differences}")))
}

/// Checks that children made with each of the new flags have the same as an ordinary child.
#[track_caller]
fn all_alike(when: &str) -> Result {
    let ordinary = inherited_by(&Clone3::fork())?;
    calls().iter().try_for_each(|call| alike(call, &ordinary, when))
}

case! {
    /// A child made with the new flags inherits what an ordinary child of the same creator does (signal mask and dispositions,
    /// limits, priority and scheduling policy, I/O priority, CPU affinity, name, OOM adjustment, personality, alternate stack,
    /// capabilities, namespaces, terminal, directories, dumpable attribute, membarrier registrations, and what prctl(2) says of its
    /// memory), and not what an ordinary child does not (pending signals, parent-death signal, timers, the peak of its memory, being
    /// a subreaper, locked memory, the list of robust futexes).
    abi_inherits_as_ordinary_child: Must, needs [Autoreap, Nnp, Autokill, Proc],
    source "fork(2); clone(2); commits \"clone: add CLONE_AUTOREAP\", \"clone: add CLONE_NNP\"",
}
fn abi_inherits_as_ordinary_child() -> Result {
    // Only a process that leads no process group can get a terminal.
    in_child(|| {
        if let Err(failure) = take_terminal() {
            note!("no terminal: {}", failure.message);
        }
        inheritable::change_everything()?;
        all_alike("with a creator that has changed all it can")?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        all_alike("with a creator that is not dumpable")?;
        inheritable::change_file_system_user();
        all_alike("with a creator that has another file system user")
    })
}

/// Makes the caller a session leader with a controlling terminal, until it ends.
fn take_terminal() -> Result {
    nix::unistd::setsid()?;
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let terminal = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
    ioctl_tiocsctty(&terminal)?;
    std::mem::forget((master, terminal));
    Ok(())
}

case! {
    /// A child made with the new flags is under its creator's seccomp filter, and has no_new_privs if its creator has.
    abi_inherits_seccomp_filter: Must, needs [Autoreap, Nnp, Autokill, Proc],
    source "seccomp(2) (\"If fork(2) or clone(2) is allowed by the filter, any child processes will be constrained\"); prctl(2)",
}
fn abi_inherits_seccomp_filter() -> Result {
    set_no_new_privs(true)?;
    // A call that does not fail otherwise, and an errno that it does not have.
    seccomp::refuse(libc::SYS_getsid, Refusal::Errno(Errno::EDOM)).map_err(|errno| {
        Failure::blocked(format!("a seccomp filter cannot be installed: {}", Named(errno)))
    })?;
    check::refused("control: getsid by the creator, whose filter refuses it", getsid(None), Errno::EDOM)?;
    is_restricted(&Clone3::fork(), "control: ")?;
    calls().iter().try_for_each(|call| is_restricted(call, ""))?;
    all_alike("behind a filter")
}

/// Checks that a child made by the call has no_new_privs, and that the filter answers its getsid(2).
#[track_caller]
fn is_restricted(call: &Clone3, prefix: &str) -> Result {
    let (child, found) =
        child_reporting(call, || Ok((no_new_privs()?, getsid(None).err().map(|errno| errno as i32))))?;
    child.ends_with(Status::exited(0))?;
    let found = (found.0, found.1.map(Errno::from_raw));
    let what = format!("{prefix}no_new_privs and errno of getsid in a child of {call}, behind a filter");
    check::equal(what, found, (true, Some(Errno::EDOM)))
}

case! {
    /// A child made with the new flags is in its creator's Landlock domain, as an ordinary one is.
    abi_inherits_landlock_domain: Must, needs [Autoreap, Nnp, Autokill],
    source "Documentation/userspace-api/landlock.rst, Inheritance (\"Every new thread resulting from a clone(2) inherits Landlock domain restrictions from its parent\")",
}
fn abi_inherits_landlock_domain() -> Result {
    Landlock::Execute.exists()?;
    let program = Command::new("exit", &[])?.number(0);
    // In a process of its own, because the domain is for good.
    in_child(|| {
        set_no_new_privs(true)?;
        check::succeeds("landlock_restrict_self", Landlock::Execute.restrict_self())?;
        for call in std::iter::once(Clone3::fork()).chain(calls()) {
            let (child, refused) = child_reporting(&call, || Ok(program.exec().message))?;
            child.ends_with(Status::exited(0))?;
            let what = format!("exec in a child of {call}, whose creator is in a domain that forbids it");
            check::holds(refused.contains("EACCES"), format_args!("{what}: expected EACCES, got {refused}"))?;
        }
        Ok(())
    })
}

case! {
    /// Syscall user dispatch is off in a child made with any of the new flags, as in an ordinary one, though its creator has it on.
    abi_user_dispatch_not_inherited: Must, needs [],
    source "Documentation/admin-guide/syscall-user-dispatch.rst (\"Any fork or exec of the existing process resets the mechanism\"); kernel/fork.c copy_process() (clear_syscall_work_syscall_user_dispatch())",
}
fn abi_user_dispatch_not_inherited() -> Result {
    subject::each(|call| {
        let child = user_dispatch::switched_on(|selector| {
            call.spawn(|| {
                // From here on, each system call of this process would be a SIGSYS: this function's end is one.
                selector.block();
                0
            })
        })?;
        child.ends_with(Status::exited(0))
    })
}

case! {
    /// CLONE_CLEAR_SIGHAND and the namespace flags do to a child made with all new flags what they do to an ordinary child: the
    /// handlers are cleared, the namespaces are new copies, the working directory is in the new mount namespace, and the capabilities
    /// in a new user namespace are new.
    abi_other_flags_do_the_same: Must, needs [Autoreap, Nnp, Autokill, SysAdmin, Proc],
    source "clone(2); commits \"clone: add CLONE_AUTOREAP\" and \"clone: add CLONE_NNP\", which name the flags that they exclude",
}
fn abi_other_flags_do_the_same() -> Result {
    disposition::set(Signal::SIGHUP, Disposition::Caught)?;
    disposition::catch(libc::SIGRTMIN());
    // Otherwise a creator with all capabilities could not tell new ones from those that it had.
    privilege::drop_capability(Capability::CAP_SYS_BOOT)?;
    // Without the permission, or such namespaces, the name tells nothing.
    if unshare(CloneFlags::CLONE_NEWUTS).is_ok() {
        let _ = nix::unistd::sethostname("another.example");
    }
    std::env::set_current_dir("/")?;
    let same_with = |more: Flags| {
        let ordinary = inherited_by(&Clone3::fork().with(more))?;
        if more == Flags::CLONE_NEWUSER {
            has_new_capabilities(&ordinary)?;
        }
        alike(&Clone3::new(Flags::KILLED_NNP | more), &ordinary, &format!("with {more}"))
    };
    same_with(Flags::CLONE_CLEAR_SIGHAND)?;
    subject::in_namespaces(same_with)
}

/// Checks, as a control, that an ordinary child in a new user namespace has other capabilities than its creator.
fn has_new_capabilities(child: &Inherited) -> Result {
    for set in ["CapPrm", "CapEff"] {
        let (own, its) = (status_field("self", set), child.get(set).cloned());
        let what = format!("control: {set} of an ordinary child with CLONE_NEWUSER");
        check::holds(
            its != own,
            format_args!("{what}: expected other capabilities than its creator's, got {its:?}"),
        )?;
    }
    Ok(())
}

case! {
    /// A CLONE_NNP child that has no capabilities and makes a user namespace has the same permitted and effective capabilities
    /// there as an ordinary child, and not none.
    nnp_unshare_gives_capabilities: Must, needs [Nnp, UserNamespaces],
    source "user_namespaces(7); commit \"clone: add CLONE_NNP\"",
}
fn nnp_unshare_gives_capabilities() -> Result {
    let capabilities = |call: &Clone3| -> Result<[Caps; 2]> {
        let (child, found) = child_reporting(call, || {
            // Otherwise it could have kept the ones that it had.
            privilege::drop_capabilities()?;
            privilege::unshare_user_namespace()?;
            Caps::own_permitted_and_effective()
        })?;
        child.reap_expecting(Status::exited(0))?;
        Ok(found)
    };
    let what = "CapPrm and CapEff in a user namespace of its own";
    let ordinary = capabilities(&Clone3::fork())?;
    check::holds(
        !ordinary.contains(&Caps::NONE),
        format_args!("control: {what}, of an ordinary child: expected capabilities, got {ordinary:?}"),
    )?;
    let call = Clone3::fork().with(Flags::NNP);
    let found = capabilities(&call).map_err(Failure::after_control)?;
    check::equal(format_args!("{what}, of a child of {call}"), found, ordinary)
}

case! {
    /// A child made with CLONE_NNP and CLONE_PARENT by a process whose exit signal is SIGCHLD has the same exit signal, whichever
    /// thread makes it: a wait without __WALL finds it.
    nnp_clone_parent_exit_signal: Must, needs [Nnp],
    source "clone(2), CLONE_PARENT; wait(2) (\"clone\" children)",
}
fn nnp_clone_parent_exit_signal() -> Result {
    let ways = [Flags::CLONE_PARENT, Flags::CLONE_PARENT | Flags::NNP];
    for (flags, by_leader) in ways.into_iter().flat_map(|flags| [(flags, true), (flags, false)]) {
        in_child(|| {
            // The new child's parent is its creator's parent.
            let make = || Ok(Clone3::new(flags).spawn(|| 7)?.pid());
            let (between, sibling) = child_reporting(&Clone3::fork(), || {
                if by_leader { make() } else { threads::in_a_thread(make) }
            })?;
            between.reap_expecting(Status::exited(0))?;
            let maker = if by_leader { "the leader" } else { "another thread" };
            let found = check::succeeds(
                format_args!("waitpid without __WALL for a child with {flags}, made by {maker}"),
                wait::waitpid(sibling, 0),
            )?;
            check::equal("its status", found, Some((sibling, Status::exited(7))))
        })?;
    }
    Ok(())
}

case! {
    /// A child, auto-reaped or not, inherits its creator's dumpable attribute and has its own from then on; with CLONE_VM the two
    /// share one.
    abi_dumpable_goes_with_memory: Is, needs [],
    source "kernel/fork.c copy_mm(), or copy_exec_state() (Linux 7.3); PR_SET_DUMPABLE(2const); clone(2), CLONE_VM",
}
fn abi_dumpable_goes_with_memory() -> Result {
    use DumpableBehavior::{Dumpable, NotDumpable};
    subject::each(|call| {
        for how in [NotDumpable, Dumpable] {
            set_dumpable_behavior(how)?;
            let (child, found) = child_reporting(&call, || Ok(dumpable_behavior()? == how))?;
            child.ends_with(Status::exited(0))?;
            check::equal(format_args!("whether a child of {call} is {how:?} as its creator"), found, true)?;
        }
        for (flags, expected) in [(Flags::empty(), Dumpable), (Flags::CLONE_VM, NotDumpable)] {
            let call = call.clone().with(flags);
            set_dumpable_behavior(Dumpable)?;
            call.spawn_on(&Stack::new()?, errands::become_undumpable())?.ends_with(Status::exited(0))?;
            let what = format_args!("what the creator of {call} is when that has made itself NotDumpable");
            check::equal(what, dumpable_behavior()?, expected)?;
        }
        Ok(())
    })
}
