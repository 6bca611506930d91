//! Combinations of the new flags with other flags and features in one call: each has its usual effect.

use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Named, Result};
use clone3_conformance::clone3::{Clone3, Stack, is_open, park};
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::process::in_child;
use clone3_conformance::kit::seccomp::{self, Refusal};
use clone3_conformance::kit::{
    AutokillChild, Held, alternate_stack, errands, namespace, shared, sigchld, subject, threads,
};
use clone3_conformance::procfs::status_field;
use clone3_conformance::wait::{Event, Status};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::close;
use rustix::fs::Mode;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::umask;

/// Wait status of the children here that end by themselves.
const ENDED: Status = Status::exited(0);

/// Returns an ordinary call and one with each of the new flags, each with a pidfd.
fn calls() -> [Clone3; 4] {
    let ordinary = Clone3::fork().with(Flags::PIDFD);
    [ordinary.clone(), ordinary.with(Flags::NNP), Clone3::new(Flags::REAPED), Clone3::new(Flags::KILLED_NNP)]
}

#[track_caller]
fn has_no_new_privs(pid: i32, what: &str) -> Result {
    let found = status_field(&pid.to_string(), "NoNewPrivs");
    check::equal(format_args!("NoNewPrivs in /proc of {what}"), found.as_deref(), Some("1"))
}

/// Checks that a child of this call has no_new_privs, is killed by the last close of its pidfd, and needs no wait.
#[track_caller]
fn all_three_work(call: &Clone3) -> Result {
    let mut child = AutokillChild::by(call)?;
    has_no_new_privs(child.pid(), &format!("a child of {call}"))?;
    child.close()?;
    child.dies("after the last close of its pidfd").context(call)
}

case! {
    /// CLONE_AUTOREAP, CLONE_NNP and CLONE_PIDFD_AUTOKILL all take effect when combined with CLONE_FS, CLONE_IO, CLONE_SYSVSEM,
    /// CLONE_CLEAR_SIGHAND, CLONE_UNTRACED, CLONE_PARENT_SETTID or CLONE_CHILD_SETTID, and for a caller that has other children.
    autokill_works_with_other_flags: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, NotYetNnp, Proc],
    source "commits \"clone: add CLONE_AUTOREAP\", \"clone: add CLONE_NNP\", \"pidfd: add CLONE_PIDFD_AUTOKILL\", which name the flags that they exclude",
}
fn autokill_works_with_other_flags() -> Result {
    let other = Held::exiting_with(&Clone3::fork(), 0)?;
    let word = shared::word(0)?;
    for more in [
        Flags::CLONE_FS,
        Flags::CLONE_IO,
        Flags::CLONE_SYSVSEM,
        Flags::CLONE_CLEAR_SIGHAND,
        Flags::CLONE_UNTRACED,
        Flags::CLONE_PARENT_SETTID,
        Flags::CLONE_CHILD_SETTID,
    ] {
        let with_words = |call: Clone3| call.with(more).parent_tid(word).child_tid(word);
        with_words(Clone3::fork()).spawn(|| 0).context("control")?.reap_expecting(ENDED)?;
        all_three_work(&with_words(Clone3::new(Flags::KILLED_NNP)))?;
    }
    other.let_go()?;
    other.into_child().reap_expecting(ENDED)
}

case! {
    /// CLONE_AUTOREAP, CLONE_NNP and CLONE_PIDFD_AUTOKILL all take effect for a child in a new namespace of each kind that the
    /// kernel has.
    autokill_works_with_namespace_flags: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, SysAdmin, NotYetNnp, Proc],
    source "clone(2); pull request vfs-7.1-rc1.pidfs; commits \"clone: add CLONE_AUTOREAP\" and \"clone: add CLONE_NNP\", which name the flags that they exclude",
}
fn autokill_works_with_namespace_flags() -> Result {
    subject::in_namespaces(|more| all_three_work(&Clone3::new(Flags::KILLED_NNP).with(more)))
}

case! {
    /// CLONE_AUTOREAP, CLONE_NNP and CLONE_PIDFD_AUTOKILL all take effect for a child whose pid is chosen with set_tid.
    autokill_with_set_tid: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, PidNamespace, NotYetNnp, Proc],
    source "clone(2), set_tid; commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"",
}
fn autokill_with_set_tid() -> Result {
    const WANTED: i32 = 143;
    // In its own pid namespace no other process can have taken that pid.
    let elsewhere = Clone3::fork().with(Flags::CLONE_NEWNS);
    let (init, ()) = namespace::init_reporting(&elsewhere, || {
        namespace::mount_proc()?;
        all_three_work(&Clone3::new(Flags::KILLED_NNP).set_tid(&[WANTED]))
    })?;
    init.reap_expecting(ENDED)
}

case! {
    /// CLONE_PARENT_SETTID and CLONE_CHILD_SETTID store the pid of a child made with any of the new flags.
    abi_tid_words_with_flags: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "clone(2), CLONE_PARENT_SETTID, CLONE_CHILD_SETTID",
}
fn abi_tid_words_with_flags() -> Result {
    tid_words_have_the_number()
}

case! {
    /// In a pid namespace, CLONE_PARENT_SETTID and CLONE_CHILD_SETTID store the child's pid in that namespace.
    abi_tid_words_in_pid_namespace: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, PidNamespace],
    source "clone(2), CLONE_PARENT_SETTID, CLONE_CHILD_SETTID; pid_namespaces(7)",
}
fn abi_tid_words_in_pid_namespace() -> Result {
    namespace::as_init(tid_words_have_the_number)
}

case! {
    /// If the child is the first in a new pid namespace, CLONE_PARENT_SETTID stores its pid in its creator's namespace, and
    /// CLONE_CHILD_SETTID its pid inside: 1.
    abi_tid_words_of_init: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, PidNamespace],
    source "clone(2), CLONE_PARENT_SETTID, CLONE_CHILD_SETTID; pid_namespaces(7); kernel/fork.c kernel_clone() (pid_vnr()), kernel/sched/core.c schedule_tail()",
}
fn abi_tid_words_of_init() -> Result {
    let words = Flags::CLONE_PARENT_SETTID | Flags::CLONE_CHILD_SETTID;
    for call in calls() {
        let (outside, inside) = (shared::word(0)?, shared::word(0)?);
        let call = call.with(words | Flags::CLONE_NEWPID).parent_tid(outside).child_tid(inside);
        let child = call.spawn(|| 0)?;
        let pid = child.pid();
        child.ends_with(ENDED)?;
        let stored = [outside, inside].map(|word| word.load(Ordering::Acquire));
        check::equal(
            format_args!("the words of parent and child that {call} stores"),
            stored,
            [pid as u32, 1],
        )?;
    }
    Ok(())
}

fn tid_words_have_the_number() -> Result {
    for call in calls() {
        for flag in [Flags::CLONE_PARENT_SETTID, Flags::CLONE_CHILD_SETTID] {
            // Shared memory: the creator sees the pid whichever process stores it.
            let word = shared::word(0)?;
            let call = call.clone().with(flag).parent_tid(word).child_tid(word);
            let child = call.spawn(|| 0)?;
            let pid = child.pid();
            child.ends_with(ENDED)?;
            check::equal(
                format_args!("the word that {call} stores"),
                word.load(Ordering::Acquire),
                pid as u32,
            )?;
        }
    }
    Ok(())
}

case! {
    /// When a child made with CLONE_VM and any of the new flags ends, CLONE_CHILD_CLEARTID clears the word at the given address and
    /// wakes a futex waiter there.
    abi_child_tid_cleared_with_flags: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, Proc],
    source "clone(2), CLONE_CHILD_CLEARTID; set_tid_address(2)",
}
fn abi_child_tid_cleared_with_flags() -> Result {
    for call in calls() {
        let stack = Stack::new()?;
        let joinable = Flags::CLONE_VM | Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID;
        let call = call.with(joinable);
        let (nothing, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let child = call.spawn_on(&stack, errands::wait_for_input(&nothing))?;
        threads::join_ending(&stack, || Ok(rustix::io::write(&end, b"e").map(drop)?)).context(&call)?;
        child.ends_with(ENDED)?;
    }
    Ok(())
}

case! {
    /// An exec of a child made with CLONE_VM and any of the new flags leaves the memory that it shares, and so clears the word at the
    /// CLONE_CHILD_CLEARTID address there.
    abi_child_tid_cleared_by_exec: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "kernel/fork.c exec_mm_release(), mm_release()",
}
fn abi_child_tid_cleared_by_exec() -> Result {
    for call in std::iter::once(Clone3::fork()).chain(calls()) {
        let call = call.with(Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
        let stack = Stack::new()?;
        let child = Held::execed_as_by_vfork_on(&stack, &call, 0)?;
        stack.join().context(format_args!("after an exec of a child of {call}"))?;
        child.let_go()?;
        child.into_child().ends_with(ENDED)?;
    }
    Ok(())
}

case! {
    /// CLONE_SETTLS sets the thread-local storage of a child made with any of the new flags, whether it shares memory or not.
    abi_settls_with_flags: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "clone(2), CLONE_SETTLS",
}
fn abi_settls_with_flags() -> Result {
    let storage: &'static [u64] = Vec::leak(vec![0; 64]);
    for (call, memory) in calls().iter().flat_map(|call| [(call, Flags::CLONE_VM), (call, Flags::empty())]) {
        let call = call.clone().with(memory | Flags::CLONE_SETTLS).tls(storage);
        let child = call.spawn_on(&Stack::new()?, errands::look_for_tls_at(storage))?;
        child.ends_with(ENDED).context(format_args!("{call}; 1 says that the storage is elsewhere"))?;
    }
    Ok(())
}

case! {
    /// A child made with any of the new flags shares with its creator what CLONE_FS, CLONE_FILES and CLONE_SIGHAND specify, and
    /// none of it without them.
    abi_shares_with_flags: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "clone(2), CLONE_FS, CLONE_FILES, CLONE_SIGHAND",
}
fn abi_shares_with_flags() -> Result {
    for call in calls() {
        for shared in [Flags::empty(), Flags::CLONE_FS] {
            let call = call.clone().with(shared);
            let (usual, strict) = (Mode::from_raw_mode(0o022), Mode::from_raw_mode(0o077));
            umask(usual);
            let child = call.spawn(|| {
                umask(strict);
                0
            })?;
            child.ends_with(ENDED)?;
            let expected = if shared.is_empty() { usual } else { strict };
            check::equal(
                format_args!("the creator's umask after the child of {call} made its own 077"),
                umask(usual),
                expected,
            )?;
        }
        for shared in [Flags::empty(), Flags::CLONE_FILES] {
            let call = call.clone().with(shared);
            let (end, _other) = pipe_with(PipeFlags::CLOEXEC)?;
            let (number, mut end) = (end.as_raw_fd(), Some(end));
            call.spawn(|| i32::from(end.take().is_none_or(|end| close(end).is_err())))?.ends_with(ENDED)?;
            let is_open = is_open(number);
            if !is_open {
                // Already closed, as expected or not: dropping it would close it again.
                std::mem::forget(end);
            }
            check::equal(
                format_args!("whether the creator has a descriptor that the child of {call} closed"),
                is_open,
                shared.is_empty(),
            )?;
        }
        for shared in [Flags::CLONE_VM, Flags::CLONE_VM | Flags::CLONE_SIGHAND] {
            let call = call.clone().with(shared | Flags::CLONE_VFORK);
            disposition::set(Signal::SIGUSR1, Disposition::Default)?;
            call.spawn_on(&Stack::new()?, errands::ignore(Signal::SIGUSR1))?.ends_with(ENDED)?;
            let is_shared = shared.contains(Flags::CLONE_SIGHAND);
            let expected = if is_shared { Disposition::Ignored } else { Disposition::Default };
            check::equal(
                format_args!("what the creator does with SIGUSR1 when the child of {call} ignores it"),
                disposition::of(Signal::SIGUSR1)?,
                expected,
            )?;
        }
    }
    Ok(())
}

case! {
    /// A child made with any of the new flags and CLONE_VM, but without CLONE_VFORK, has no alternate signal stack; with both, or
    /// with neither, it inherits its creator's.
    abi_alternate_stack_with_flags: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "sigaltstack(2), on clone(2); kernel/fork.c copy_process() (sas_ss_reset())",
}
fn abi_alternate_stack_with_flags() -> Result {
    alternate_stack::set()?;
    check::equal("control: whether the creator has none", alternate_stack::exit_code_if_missing(), 0)?;
    for call in calls() {
        for (flags, missing) in
            [(Flags::empty(), 0), (Flags::CLONE_VM, 1), (Flags::CLONE_VM | Flags::CLONE_VFORK, 0)]
        {
            let call = call.clone().with(flags);
            let child = call.spawn_on(&Stack::new()?, alternate_stack::tell_if_missing())?;
            let what = format!("{call}; 0 says that the child has an alternate stack, 1 that it has none");
            child.ends_with(Status::exited(missing)).context(what)?;
        }
    }
    Ok(())
}

case! {
    /// When a child made with any of the new flags and CLONE_SIGHAND calls exec, its creator's signal handlers stay as they are.
    abi_exec_leaves_shared_handlers: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "execve(2), signal(7): the dispositions of the process that execs are reset; fs/exec.c unshare_sighand()",
}
fn abi_exec_leaves_shared_handlers() -> Result {
    disposition::set(Signal::SIGUSR1, Disposition::Caught)?;
    for call in calls() {
        let call = call.with(Flags::CLONE_SIGHAND);
        let child = Held::execed_as_by_vfork(&call, 0)?;
        let found = disposition::of(Signal::SIGUSR1)?;
        let what = format!("what the creator does with SIGUSR1 after the exec of a child of {call}");
        check::equal(what, found, Disposition::Caught)?;
        child.let_go()?;
        child.into_child().ends_with(ENDED)?;
    }
    Ok(())
}

case! {
    /// A CLONE_NNP child sends the requested exit signal once, and no other signal.
    nnp_sends_exit_signal: Must, needs [Nnp, Proc],
    source "clone(2), exit_signal; commit \"clone: add CLONE_NNP\"",
}
fn nnp_sends_exit_signal() -> Result {
    SigSet::all().thread_block()?;
    // A real-time signal, which is queued each time it is sent.
    let signal = libc::SIGRTMIN();
    disposition::queue(signal).map_err(|errno| {
        Failure::blocked(format!("RLIMIT_SIGPENDING lets no signal be queued: {}", Named(errno)))
    })?;
    let queued = sigchld::take_exit_signal(signal).map(|event| event.code);
    check::equal("control: si_code of a signal of the own queue", queued, Some(libc::SI_QUEUE))?;
    let none = Some("0".repeat(16));
    for call in [Clone3::new(Flags::empty()), Clone3::new(Flags::NNP)] {
        let call = call.exit_signal(signal as u64);
        check::equal(
            "control: ShdPnd before there is a child",
            status_field("self", "ShdPnd"),
            none.clone(),
        )?;
        let child = call.spawn(|| 0)?;
        let pid = child.pid();
        child.reap_expecting(ENDED)?;
        let what = format_args!("the exit signal, {signal}, of a child of {call}");
        let (first, second) = (sigchld::take_exit_signal(signal), sigchld::take_exit_signal(signal));
        check::equal(what, first, Some(Event::exited(pid, 0)))?;
        check::equal(format_args!("{what} once more"), second, None)?;
        check::equal("ShdPnd when that is taken", status_field("self", "ShdPnd"), none.clone())?;
    }
    Ok(())
}

case! {
    /// CLONE_NNP sets no_new_privs in the child of a caller that is behind a seccomp filter and does not have no_new_privs itself.
    nnp_behind_filter: Must, needs [Nnp, SysAdmin, NotYetNnp, Proc],
    source "commit \"clone: add CLONE_NNP\"; seccomp(2) (CAP_SYS_ADMIN)",
}
fn nnp_behind_filter() -> Result {
    in_child(|| {
        seccomp::refuse(libc::SYS_acct, Refusal::Errno(Errno::EDOM)).map_err(|errno| {
            Failure::blocked(format!("a seccomp filter cannot be installed: {}", Named(errno)))
        })?;
        let control = status_field("self", "NoNewPrivs");
        check::equal("control: NoNewPrivs of the caller", control.as_deref(), Some("0"))?;
        let child = Clone3::fork().with(Flags::NNP).spawn(park)?;
        has_no_new_privs(child.pid(), "a child whose creator is behind a filter")?;
        child.clear_away()
    })
}
