//! CLONE_NNP: no_new_privs from birth, for the child only.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Clone3, Stack};
use clone3_conformance::kit::process::{child_reporting, in_child, in_grandchild, own_pid};
use clone3_conformance::kit::{Cgroup, Held, errands, fds, helper, limits, setuid, sigchld, subject, uring};
use clone3_conformance::procfs;
use clone3_conformance::wait::{self, Event, Status};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::fexecve;
use rustix::process::Resource;

/// Returns the calling thread's bit.
fn own_bit() -> Result<bool> {
    Ok(rustix::thread::no_new_privs()?)
}

/// Returns the calling thread's bit as an exit code: a single system call, safe in any child.
fn exit_with_own_bit() -> i32 {
    i32::from(rustix::thread::no_new_privs() == Ok(true))
}

/// Returns the no_new_privs bit of a child made by this call.
fn bit_of_child(call: &Clone3) -> Result<bool> {
    let child = call.spawn(exit_with_own_bit)?;
    let status = if call.flags().contains(Flags::AUTOREAP) {
        child.pidfd()?.exit_status()?
    } else {
        wait::reap(child.pid())?
    };
    match status {
        zero if zero == Status::exited(0) => Ok(false),
        one if one == Status::exited(1) => Ok(true),
        other => Err(Failure::fail(format!(
            "{call}: expected the child to exit with its bit, 0 or 1, but it {other}"
        ))),
    }
}

/// Checks that the child of this call has no_new_privs with CLONE_NNP, and not without it.
fn only_with_the_flag(call: &Clone3) -> Result {
    check::equal(format_args!("control: no_new_privs of the child of {call}"), bit_of_child(call)?, false)?;
    let call = call.clone().with(Flags::NNP);
    check::equal(format_args!("no_new_privs of the child of {call}"), bit_of_child(&call)?, true)
}

case! {
    /// A child made with CLONE_NNP has no_new_privs set; the caller has not, before or after.
    nnp_sets_no_new_privs: Must, needs [Autoreap, Nnp, ExitInfo, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\"; selftest nnp_sets_no_new_privs",
}
fn nnp_sets_no_new_privs() -> Result {
    check::equal("the caller's no_new_privs before", own_bit()?, false)?;
    only_with_the_flag(&Clone3::new(Flags::REAPED))?;
    check::equal("the caller's no_new_privs afterwards", own_bit()?, false)
}

case! {
    /// CLONE_NNP works without the other new flags: the child is an ordinary one, which becomes a zombie,
    /// sends SIGCHLD and is waited for.
    nnp_alone_ordinary_child: Must, needs [Nnp, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\": analogous to prctl(PR_SET_NO_NEW_PRIVS), for any child",
}
fn nnp_alone_ordinary_child() -> Result {
    sigchld::block()?;
    let call = Clone3::fork().with(Flags::NNP);
    let child = call.spawn(exit_with_own_bit)?;
    let pid = child.pid();
    let what = format!("the zombie of a child of {call}, which exits with 1 if it has no_new_privs");
    check::equal(what, wait::find_zombie(pid)?, Event::exited(pid, 1))?;
    sigchld::pending_for(pid, libc::CLD_EXITED)?;
    child.reap_expecting(Status::exited(1))?;
    wait::no_children()
}

case! {
    /// CLONE_NNP does not imply CLONE_AUTOREAP: with exit_signal 0 the child becomes a zombie that a wait with
    /// __WALL finds.
    nnp_does_not_imply_autoreap: Must, needs [Autoreap, Nnp],
    source "commit \"clone: add CLONE_NNP\"; the flags are independent",
}
fn nnp_does_not_imply_autoreap() -> Result {
    let reaped = Clone3::new(Flags::REAPED | Flags::NNP).spawn(|| 7)?;
    reaped.pidfd()?.wait_reaped()?;
    wait::no_child(reaped.pid())?;

    let child = Clone3::new(Flags::PIDFD | Flags::NNP).spawn(|| 7)?;
    let zombie = wait::find_zombie(child.pid())?;
    check::equal("the zombie of a CLONE_NNP child", zombie, Event::exited(child.pid(), 7))?;
    child.reap_expecting(Status::exited(7))
}

case! {
    /// CLONE_AUTOREAP alone does not set no_new_privs.
    autoreap_no_new_privs_unset: Must, needs [Autoreap, Nnp, ExitInfo, NotYetNnp],
    source "selftest autoreap_no_new_privs_unset",
}
fn autoreap_no_new_privs_unset() -> Result {
    let with = bit_of_child(&Clone3::new(Flags::REAPED | Flags::NNP))?;
    check::equal("control: no_new_privs of a child with CLONE_NNP", with, true)?;
    let alone = bit_of_child(&Clone3::new(Flags::REAPED))?;
    check::equal("no_new_privs of a child with CLONE_AUTOREAP alone", alone, false)
}

case! {
    /// CLONE_PIDFD_AUTOKILL does not set no_new_privs: a privileged caller decides with CLONE_NNP.
    nnp_autokill_does_not_imply: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, SysAdmin, NotYetNnp],
    source "LKML, Christian Brauner 2026-02-26, v5 of the series, where the flag stopped implying no_new_privs",
}
fn nnp_autokill_does_not_imply() -> Result {
    only_with_the_flag(&Clone3::new(Flags::KILLED))
}

case! {
    /// A caller without any privilege may use CLONE_NNP.
    nnp_needs_no_privilege: Must, needs [Nnp, Unprivileged, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\"; PR_SET_NO_NEW_PRIVS(2const)",
}
fn nnp_needs_no_privilege() -> Result {
    let bit = bit_of_child(&Clone3::fork().with(Flags::NNP))?;
    check::equal("no_new_privs of an unprivileged caller's child with CLONE_NNP", bit, true)
}

case! {
    /// `/proc/PID/status` of a child made with CLONE_NNP says `NoNewPrivs: 1`.
    nnp_proc_status: Must, needs [Nnp, NotYetNnp, Proc],
    source "commit \"clone: add CLONE_NNP\"; proc_pid_status(5)",
}
fn nnp_proc_status() -> Result {
    for (flags, expected) in [(Flags::empty(), "0"), (Flags::NNP, "1")] {
        let child = Held::exiting_with(&Clone3::fork().with(flags), 0)?;
        let line = procfs::status_field(&child.pid().to_string(), "NoNewPrivs");
        check::equal(format_args!("NoNewPrivs of a child with {flags}"), line.as_deref(), Some(expected))?;
        child.let_go()?;
        child.into_child().reap_expecting(Status::exited(0))?;
    }
    Ok(())
}

case! {
    /// A CLONE_NNP child cannot clear its no_new_privs: prctl(PR_SET_NO_NEW_PRIVS, 0) is EINVAL and changes nothing.
    nnp_cannot_be_cleared: Must, needs [Nnp, NotYetNnp],
    source "PR_SET_NO_NEW_PRIVS(2const)",
}
fn nnp_cannot_be_cleared() -> Result {
    let set = |value| rustix::thread::set_no_new_privs(value).map_err(check::errno_of);
    let (child, ()) = child_reporting(&Clone3::fork().with(Flags::NNP), || {
        check::equal("no_new_privs of the child", own_bit()?, true)?;
        check::succeeds("control: prctl(PR_SET_NO_NEW_PRIVS, 1) in the child", set(true))?;
        check::refused("prctl(PR_SET_NO_NEW_PRIVS, 0) in the child", set(false), Errno::EINVAL)?;
        check::equal("no_new_privs of the child afterwards", own_bit()?, true)
    })?;
    child.reap_expecting(Status::exited(0))
}

case! {
    /// Whatever a CLONE_NNP child creates inherits no_new_privs: a forked child, an auto-reaped one, and a thread. So it is if the
    /// creator was made with other new flags as well.
    nnp_inherited: Must, needs [Autoreap, Nnp, ExitInfo, NotYetNnp],
    source "PR_SET_NO_NEW_PRIVS(2const): inherited by children created by fork(2) and clone(2)",
}
fn nnp_inherited() -> Result {
    for creator in subject::with_nnp().into_iter().chain([Clone3::new(Flags::REAPED | Flags::NNP)]) {
        let (child, ()) = child_reporting(&creator, all_inherit)
            .context(format_args!("whose creator is a child of {creator}"))?;
        child.ends_with(Status::exited(0))?;
    }
    Ok(())
}

/// Checks that all that the caller creates has no_new_privs, as the caller itself has.
fn all_inherit() -> Result {
    check::equal("no_new_privs of a thread", bit_of_new_thread()?, true)?;
    let share = Flags::CLONE_FILES | Flags::CLONE_FS;
    for call in [
        Clone3::fork(),
        Clone3::fork().with(Flags::PIDFD),
        Clone3::fork().with(Flags::CLONE_VFORK),
        Clone3::fork().with(share),
        Clone3::new(Flags::REAPED),
    ] {
        check::equal(format_args!("no_new_privs of a child of {call}"), bit_of_child(&call)?, true)?;
    }
    let vfork = Clone3::fork().with(Flags::CLONE_VM | Flags::CLONE_VFORK);
    let child = vfork.spawn_on(&Stack::new()?, errands::tell_no_new_privs())?;
    child.reap_expecting(Status::exited(1)).context("no_new_privs of a vfork child, as its exit status")
}

case! {
    /// A CLONE_NNP child that joins a user namespace with setns(2) still has no_new_privs.
    nnp_outlasts_joining_user_namespace: Must, needs [Nnp, UserNamespaces, NotYetNnp],
    source "PR_SET_NO_NEW_PRIVS(2const) (\"Once set, the no_new_privs attribute cannot be unset\"); setns(2)",
}
fn nnp_outlasts_joining_user_namespace() -> Result {
    let target = Held::exiting_with(&Clone3::fork().with(Flags::PIDFD | Flags::CLONE_NEWUSER), 0)?;
    for call in subject::with_nnp() {
        let (child, bit) = child_reporting(&call, || {
            let joined = setns(target.pidfd()?, CloneFlags::CLONE_NEWUSER);
            check::permitted("setns(CLONE_NEWUSER)", joined)?;
            own_bit()
        })?;
        child.ends_with(Status::exited(0))?;
        check::equal(format_args!("no_new_privs of a child of {call} after setns"), bit, true)?;
    }
    target.into_child().clear_away()
}

case! {
    /// CLONE_NNP works inside a user namespace, and no_new_privs is inherited into a new one.
    nnp_and_user_namespaces: Must, needs [Nnp, UserNamespaces, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\"; PR_SET_NO_NEW_PRIVS(2const)",
}
fn nnp_and_user_namespaces() -> Result {
    in_child(|| {
        rustix::thread::set_no_new_privs(true)?;
        let call = Clone3::fork().with(Flags::CLONE_NEWUSER);
        check::equal(format_args!("no_new_privs of the child of {call}"), bit_of_child(&call)?, true)
    })?;
    in_child(|| {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        only_with_the_flag(&Clone3::fork())
    })
}

case! {
    /// CLONE_NNP works together with CLONE_INTO_CGROUP.
    nnp_with_into_cgroup: Must, needs [Nnp, NotYetNnp, Cgroup2],
    source "commit \"clone: add CLONE_NNP\", which excludes CLONE_THREAD alone",
}
fn nnp_with_into_cgroup() -> Result {
    let cgroup = Cgroup::create(&[])?;
    only_with_the_flag(&Clone3::fork().into_cgroup(cgroup.dir()))?;
    cgroup.remove()
}

fn bit_of_new_thread() -> Result<bool> {
    std::thread::spawn(own_bit).join().map_err(|_| Failure::broken("a thread panicked"))?
}

case! {
    /// A CLONE_NNP child keeps no_new_privs across exec, auto-reaped or not, whichever of its threads calls exec.
    nnp_survives_exec: Must, needs [Autoreap, Nnp, ExitInfo, NotYetNnp],
    source "PR_SET_NO_NEW_PRIVS(2const): preserved across execve(2)",
}
fn nnp_survives_exec() -> Result {
    let program = helper::program()?;
    for call in [Clone3::fork(), Clone3::new(Flags::REAPED)] {
        for (flags, expected) in [(Flags::empty(), false), (Flags::NNP, true)] {
            let call = call.clone().with(flags);
            let found = setuid::credentials_after_exec(&call, program, || Ok(()))?;
            let what = format!("no_new_privs after exec in the child of {call}");
            check::equal(what, found.no_new_privs, expected)?;
            let found = setuid::credentials_after_exec_by_thread(&call, program, || Ok(()), || Ok(()))?;
            let what = format!("no_new_privs after exec by another thread in the child of {call}");
            check::equal(what, found.no_new_privs, expected)?;
        }
    }
    Ok(())
}

case! {
    /// A CLONE_NNP child keeps no_new_privs when it unshares namespaces, a user namespace among them, and when it becomes a session
    /// leader.
    nnp_survives_unshare_and_setsid: Must, needs [Nnp, UserNamespaces, NotYetNnp],
    source "PR_SET_NO_NEW_PRIVS(2const): once set, the attribute cannot be unset",
}
fn nnp_survives_unshare_and_setsid() -> Result {
    for (flags, expected) in [(Flags::empty(), false), (Flags::NNP, true)] {
        let call = Clone3::fork().with(flags);
        let (child, ()) = child_reporting(&call, || {
            check::permitted("unshare(CLONE_FILES)", unshare(CloneFlags::CLONE_FILES))?;
            check::equal("no_new_privs after unshare(CLONE_FILES)", own_bit()?, expected)?;
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
            check::equal("no_new_privs after unshare(CLONE_NEWUSER|CLONE_NEWNS)", own_bit()?, expected)?;
            nix::unistd::setsid()?;
            check::equal("no_new_privs after setsid", own_bit()?, expected)
        })?;
        child.reap_expecting(Status::exited(0))?;
    }
    Ok(())
}

case! {
    /// CLONE_NNP sets nothing in the caller: neither the thread that made the call, nor the main thread, nor a
    /// thread made later has no_new_privs.
    nnp_parent_threads_unaffected: Must, needs [Nnp, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\" (\"sets no_new_privs on the child\")",
}
fn nnp_parent_threads_unaffected() -> Result {
    let call = Clone3::fork().with(Flags::NNP);
    let maker = std::thread::spawn(move || -> Result<_> { Ok((bit_of_child(&call)?, own_bit()?)) });
    let (child, maker) = maker.join().map_err(|_| Failure::broken("a thread panicked"))??;
    check::equal("no_new_privs of the child", child, true)?;
    check::equal("no_new_privs of the thread that made it", maker, false)?;
    check::equal("no_new_privs of the main thread", own_bit()?, false)?;
    check::equal("no_new_privs of a thread made afterwards", bit_of_new_thread()?, false)
}

case! {
    /// The creator of a CLONE_NNP child does not have no_new_privs itself while it waits for the child's end (CLONE_VFORK), nor afterwards.
    nnp_not_for_waiting_creator: Must, needs [Nnp, NotYetNnp, Proc],
    source "commit \"clone: add CLONE_NNP\" (\"sets no_new_privs on the child\"); clone(2), CLONE_VFORK",
}
fn nnp_not_for_waiting_creator() -> Result {
    let creator = own_pid().to_string();
    for call in subject::with_nnp() {
        let call = call.with(Flags::CLONE_VFORK);
        let (child, bit) = child_reporting(&call, || Ok(procfs::status_field(&creator, "NoNewPrivs")))?;
        child.ends_with(Status::exited(0))?;
        check::equal(
            format_args!("NoNewPrivs of the creator that waits in {call}"),
            bit.as_deref(),
            Some("0"),
        )?;
        check::equal(format_args!("no_new_privs of the creator after {call}"), own_bit()?, false)?;
    }
    Ok(())
}

case! {
    /// no_new_privs belongs to the task: if a CLONE_NNP child shares the caller's memory, signal handlers, descriptors and
    /// directories, only the child has it.
    nnp_shared_vm_child_only: Must, needs [Nnp, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\" (\"sets no_new_privs on the child\")",
}
fn nnp_shared_vm_child_only() -> Result {
    let shared = Flags::CLONE_VM | Flags::CLONE_SIGHAND | Flags::CLONE_FILES | Flags::CLONE_FS;
    for flags in [Flags::CLONE_VM | Flags::CLONE_VFORK, shared] {
        for (nnp, expected) in [(Flags::empty(), 0), (Flags::NNP, 1)] {
            let call = Clone3::fork().with(flags | nnp);
            let child = call.spawn_on(&Stack::new()?, errands::tell_no_new_privs())?;
            let what = format!("no_new_privs of the child of {call}, as its exit status");
            child.reap_expecting(Status::exited(expected)).context(what)?;
            check::equal(format_args!("the caller's no_new_privs after {call}"), own_bit()?, false)?;
        }
    }
    Ok(())
}

case! {
    /// CLONE_NNP with CLONE_THREAD is EINVAL and starts no thread, with and without CLONE_PIDFD, even if the caller has
    /// no_new_privs.
    nnp_rejects_thread: Must, needs [Nnp],
    source "commit \"clone: add CLONE_NNP\"; selftest nnp_rejects_thread",
}
fn nnp_rejects_thread() -> Result {
    Clone3::new(Flags::THREAD).accepted()?;
    Clone3::new(Flags::NNP).accepted()?;
    for caller in ["a caller that need not have no_new_privs", "a caller with no_new_privs"] {
        for pidfd in [Flags::empty(), Flags::PIDFD] {
            Clone3::new(Flags::NNP | Flags::THREAD | pidfd).refused(Errno::EINVAL).context(caller)?;
        }
        rustix::thread::set_no_new_privs(true)?;
    }
    Ok(())
}

case! {
    /// CLONE_NNP works together with CLONE_PARENT: the child belongs to the caller's parent and has no_new_privs.
    nnp_with_clone_parent_ok: Is, needs [Nnp, NotYetNnp],
    source "kernel/fork.c copy_process(): only CLONE_AUTOREAP forbids CLONE_PARENT",
}
fn nnp_with_clone_parent_ok() -> Result {
    in_grandchild(|| {
        for (flags, expected) in [(Flags::empty(), false), (Flags::NNP, true)] {
            let call = Clone3::new(Flags::CLONE_PARENT | flags);
            let (child, bit) = child_reporting(&call, own_bit)?;
            check::equal(format_args!("no_new_privs of the child of {call}"), bit, expected)?;
            wait::no_child(child.pid())?;
        }
        Ok(())
    })
}

case! {
    /// CLONE_NNP works together with new user, pid and mount namespaces, CLONE_CLEAR_SIGHAND, CLONE_VFORK and CLONE_FILES.
    nnp_with_other_flags: Must, needs [Nnp, SysAdmin, UserNamespaces, PidNamespace, NotYetNnp],
    source "commit \"clone: add CLONE_NNP\", which excludes CLONE_THREAD alone",
}
fn nnp_with_other_flags() -> Result {
    for flags in [
        Flags::CLONE_NEWUSER,
        Flags::CLONE_NEWPID,
        Flags::CLONE_NEWNS,
        Flags::CLONE_CLEAR_SIGHAND,
        Flags::CLONE_VFORK,
        Flags::CLONE_FILES,
    ] {
        only_with_the_flag(&Clone3::fork().with(flags))?;
    }
    Ok(())
}

case! {
    /// A caller that has no_new_privs already may use CLONE_NNP; its child has no_new_privs with the flag and
    /// without. The caller keeps it, also if no child is made.
    nnp_parent_already_set: Must, needs [Nnp],
    source "PR_SET_NO_NEW_PRIVS(2const): inherited, and may be set again",
}
fn nnp_parent_already_set() -> Result {
    rustix::thread::set_no_new_privs(true)?;
    for flags in [Flags::empty(), Flags::NNP] {
        let bit = bit_of_child(&Clone3::fork().with(flags))?;
        check::equal(format_args!("no_new_privs of a child with {flags}"), bit, true)?;
        check::equal(format_args!("the caller's no_new_privs after clone3({flags})"), own_bit()?, true)?;
    }
    Clone3::fork().with(Flags::NNP | Flags::THREAD).refused(Errno::EINVAL)?;
    let call = Clone3::fork().with(Flags::NNP | Flags::PIDFD);
    let made = limits::lowered(Resource::Nofile, 0, || call.try_spawn(|| 0).map(|child| child.pid()))?;
    check::refused(format_args!("{call} without a free descriptor"), made, Errno::EMFILE)?;
    check::equal("the caller's no_new_privs after calls that made no child", own_bit()?, true)
}

case! {
    /// What a CLONE_NNP child makes with CLONE_PARENT, and which so becomes a child of a parent without no_new_privs, has it like
    /// its creator.
    nnp_inherited_by_clone_parent: Must, needs [Nnp, NotYetNnp],
    source "PR_SET_NO_NEW_PRIVS(2const): inherited by children created by fork(2) and clone(2)",
}
fn nnp_inherited_by_clone_parent() -> Result {
    for (flags, expected) in [(Flags::empty(), false), (Flags::NNP, true)] {
        let creator = Clone3::fork().with(flags);
        let (child, (sibling, bit)) = child_reporting(&creator, || {
            let (sibling, bit) = child_reporting(&Clone3::new(Flags::CLONE_PARENT), own_bit)?;
            Ok((sibling.pid(), bit))
        })?;
        child.reap_expecting(Status::exited(0))?;
        wait::reap_expecting(sibling, Status::exited(0))?;
        let what = format!("no_new_privs of what a child of {creator} makes with CLONE_PARENT");
        check::equal(what, bit, expected)?;
    }
    Ok(())
}

/// Calls execve(2) with files that the kernel cannot execute.
fn fail_to_exec() -> Result {
    let exec = |file: &OwnedFd| {
        let no_words: [&CStr; 0] = [];
        fexecve(file, &[c"none"], &no_words).map(|_| ())
    };
    let text = fds::executable_text(b"neither a program nor a script")?;
    check::refused("execve of a text", exec(&text), Errno::ENOEXEC)?;
    let script = fds::executable_text(b"#!/nonexistent/interpreter\n")?;
    check::refused("execve of a script without its interpreter", exec(&script), Errno::ENOENT)
}

case! {
    /// A CLONE_NNP child keeps no_new_privs if it fails to exec something, and across later execs as across the first.
    nnp_survives_failed_and_later_execs: Must, needs [Nnp, NotYetNnp],
    source "PR_SET_NO_NEW_PRIVS(2const): once set, the attribute cannot be unset, and it is preserved across execve(2)",
}
fn nnp_survives_failed_and_later_execs() -> Result {
    for (call, expected) in
        subject::with_nnp().into_iter().map(|call| (call, true)).chain([(Clone3::fork(), false)])
    {
        let (child, ()) = child_reporting(&call, || {
            fail_to_exec()?;
            check::equal("no_new_privs after execs that failed", own_bit()?, expected)
        })
        .context(format_args!("in a child of {call}"))?;
        child.ends_with(Status::exited(0))?;
        for execs in [1, 3] {
            let found = setuid::credentials_after_execs(&call, execs)?;
            let what = format!("no_new_privs after {execs} more execs in the child of {call}");
            check::equal(what, found.no_new_privs, expected)?;
        }
    }
    Ok(())
}

case! {
    /// The kernel threads that serve the io_uring of a CLONE_NNP child have no_new_privs, like the child.
    nnp_of_ring_threads: Must, needs [Nnp, NotYetNnp, Proc],
    source "PR_SET_NO_NEW_PRIVS(2const): inherited by what the process creates; io_uring_setup(2), IORING_SETUP_SQPOLL",
}
fn nnp_of_ring_threads() -> Result {
    for (call, expected) in
        subject::with_nnp().into_iter().map(|call| (call, "1")).chain([(Clone3::fork(), "0")])
    {
        let (child, bits) = child_reporting(&call, || {
            let mut bits = Vec::new();
            uring::is_served_by_kernel(|| {
                bits = bits_of_own_threads();
                Ok(())
            })?;
            Ok(bits)
        })?;
        child.ends_with(Status::exited(0))?;
        let what = format!("NoNewPrivs in /proc of the leader and the ring's thread in a child of {call}");
        check::equal(what, bits, vec![Some(expected.to_owned()); 2])?;
    }
    Ok(())
}

fn bits_of_own_threads() -> Vec<Option<String>> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let bit = |tid: i32| procfs::status_field(&format!("{own}/task/{tid}"), "NoNewPrivs");
    procfs::threads_of(own).into_iter().map(bit).collect()
}
