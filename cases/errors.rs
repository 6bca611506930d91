//! Errors of clone3: which one it returns, which takes precedence, and what a failed call leaves behind.

use std::sync::atomic::{AtomicI32, Ordering};

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::{
    Address, Clone3, NOWHERE, PIDFD_UNTOUCHED, Stack, Unmapped, is_open, lowest_free_fd, pidfd_word,
};
use clone3_conformance::kit::process::{child_reporting, in_grandchild};
use clone3_conformance::kit::{Cgroup, Echo, cgroup, errands, limits, subject};
use clone3_conformance::rules;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use rustix::process::Resource;

fn is_untouched(word: &AtomicI32) -> Result {
    check::equal("the pidfd word after the refusal", word.load(Ordering::Relaxed), PIDFD_UNTOUCHED)
}

case! {
    /// A pidfd pointer that cannot be written to is EFAULT; no child runs, and neither a descriptor nor a process
    /// is left.
    abi_pidfd_efault_no_child: Must, needs [Autoreap, Nnp, Autokill],
    source "clone(2): no child process is created on failure; kernel/fork.c copy_process() (bad_fork_put_pidfd)",
}
fn abi_pidfd_efault_no_child() -> Result {
    for flags in [Flags::PIDFD, Flags::REAPED, Flags::KILLED_NNP] {
        Clone3::new(flags).accepted()?;
        let unmapped = [Unmapped::Null, NOWHERE, Unmapped::Last].map(Address::from);
        for address in unmapped.into_iter().chain([Address::read_only()]) {
            Clone3::new(flags).pidfd_address(address).refused(Errno::EFAULT)?;
        }
    }
    wait::no_children()
}

case! {
    /// Without a free descriptor for the pidfd the call is EMFILE; there is no child, and nothing is stored through the pidfd
    /// pointer.
    abi_emfile_no_child: Is, needs [],
    source "fs/pidfs.c pidfs_alloc_file(); kernel/fork.c pidfd_prepare()",
}
fn abi_emfile_no_child() -> Result {
    let word = pidfd_word();
    for call in subject::by_flag() {
        let call = call.with(Flags::PIDFD).pidfd_address(word);
        let free = lowest_free_fd()?;
        let got = limits::lowered(Resource::Nofile, free as u64, || call.try_spawn(|| 99))?;
        check::refused(&call, got, Errno::EMFILE)?;
        is_untouched(word)?;
        wait::no_children()?;
        check::equal("lowest free descriptor afterwards", lowest_free_fd()?, free)?;
        call.accepted()?;
        word.store(PIDFD_UNTOUCHED, Ordering::Relaxed);
    }
    Ok(())
}

case! {
    /// A pid in set_tid that is in use is EEXIST; nothing is stored through the pidfd pointer, and nobody is killed: not the
    /// caller, and not an older auto-kill child.
    abi_set_tid_in_use_eexist: Is, needs [Autoreap, Nnp, Autokill, SysAdmin, PidNamespace],
    source "kernel/pid.c alloc_pid()",
}
fn abi_set_tid_in_use_eexist() -> Result {
    // In its own pid namespace no other process takes the pid that the control asks for.
    let (child, ()) = child_reporting(&Clone3::fork().with(Flags::CLONE_NEWPID), || {
        let older = Echo::spawn(&Clone3::new(Flags::KILLED_NNP))?;
        Clone3::new(Flags::KILLED_NNP).set_tid(&[77]).accepted()?;
        for taken in [1, older.pid()] {
            let word = pidfd_word();
            Clone3::new(Flags::KILLED_NNP).pidfd_address(word).set_tid(&[taken]).refused(Errno::EEXIST)?;
            is_untouched(word)?;
        }
        older.is_alive("after another clone asked for its pid")?;
        older.into_child().clear_away()
    })?;
    child.reap_expecting(Status::exited(0))
}

case! {
    /// A clone3 that fails after its auto-kill pidfd was made closes that pidfd without killing anybody: not
    /// the caller, and not an older auto-kill child, which stays armed.
    abi_late_failure_kills_nobody: Must, needs [Autoreap, Nnp, Autokill, Cgroup2],
    source "kernel/fork.c copy_process() (bad_fork_put_pidfd); commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"",
}
fn abi_late_failure_kills_nobody() -> Result {
    let mut older = Echo::spawn(&Clone3::new(Flags::KILLED_NNP))?;
    let cgroup = Cgroup::create(&["pids"])?;
    let call = Clone3::new(Flags::KILLED_NNP).into_cgroup(cgroup.dir());
    call.accepted()?;
    cgroup.write("pids.max", "0")?;
    for _ in 0..10 {
        call.refused(Errno::EAGAIN)?;
    }
    older.is_alive("after other auto-kill clones failed")?;
    let observer = older.observe()?;
    older.close_pidfd()?;
    older.is_dead("after the last close of its pidfd")?;
    observer.wait_reaped()?;
    cgroup.remove()
}

case! {
    /// A clone3 that fails late may have stored a number through the pidfd pointer, but no descriptor of that number is open. One
    /// that fails early stores nothing.
    abi_pidfd_value_garbage_after_late_failure: Is, needs [Cgroup2],
    source "kernel/fork.c copy_process() (put_user() comes before cgroup_can_fork())",
}
fn abi_pidfd_value_garbage_after_late_failure() -> Result {
    let cgroup = Cgroup::create(&["pids"])?;
    let word = pidfd_word();
    let call = Clone3::fork().with(Flags::PIDFD).pidfd_address(word);
    let late = call.clone().into_cgroup(cgroup.dir());
    late.accepted()?;
    word.store(PIDFD_UNTOUCHED, Ordering::Relaxed);
    call.with(Flags::CLONE_DETACHED).refused(Errno::EINVAL)?;
    is_untouched(word)?;

    cgroup.write("pids.max", "0")?;
    late.refused(Errno::EAGAIN)?;
    let number = word.load(Ordering::Relaxed);
    check::holds(!is_open(number), format_args!("descriptor {number}, from a failed clone3, is open"))?;
    cgroup.remove()
}

case! {
    /// EINVAL for a malformed call takes precedence over EPERM for the missing capability.
    abi_einval_beats_eperm: Is, needs [Autoreap, Nnp, Autokill, Unprivileged],
    source "kernel/fork.c copy_process()",
}
fn abi_einval_beats_eperm() -> Result {
    let whole = Clone3::new(Flags::KILLED);
    in_grandchild(|| {
        Clone3::new(Flags::KILLED_NNP).accepted()?;
        whole.refused(Errno::EPERM)?;
        for malformed in [
            whole.clone().without(Flags::PIDFD),
            whole.clone().without(Flags::AUTOREAP),
            whole.clone().with(Flags::THREAD),
            whole.clone().with(Flags::CLONE_PARENT),
            whole.clone().exit_signal(libc::SIGCHLD as u64),
            whole.clone().with(Flags::from_bits_retain(1 << 55)),
        ] {
            malformed.refused(Errno::EINVAL)?;
        }
        Ok(())
    })
}

case! {
    /// EPERM for the missing capability takes precedence over EFAULT for a bad pidfd pointer.
    abi_eperm_beats_efault: Is, needs [Autoreap, Nnp, Autokill, Unprivileged],
    source "kernel/fork.c copy_process()",
}
fn abi_eperm_beats_efault() -> Result {
    Clone3::new(Flags::KILLED_NNP).pidfd_address(NOWHERE).refused(Errno::EFAULT)?;
    Clone3::new(Flags::KILLED).pidfd_address(NOWHERE).refused(Errno::EPERM)
}

case! {
    /// EPERM for the missing capability takes precedence over EAGAIN for a limit on processes. Neither error stores anything
    /// through the pidfd pointer.
    abi_eperm_beats_eagain: Is, needs [Autoreap, Nnp, Autokill, Unprivileged],
    source "kernel/fork.c copy_process()",
}
fn abi_eperm_beats_eagain() -> Result {
    Clone3::new(Flags::KILLED_NNP).accepted()?;
    let word = pidfd_word();
    limits::lowered(Resource::Nproc, 0, || {
        Clone3::new(Flags::KILLED_NNP).pidfd_address(word).refused(Errno::EAGAIN)?;
        is_untouched(word)?;
        Clone3::new(Flags::KILLED).pidfd_address(word).refused(Errno::EPERM)?;
        is_untouched(word)
    })?
}

case! {
    /// EPERM for the missing capability takes precedence over EBADF for a bad cgroup descriptor.
    abi_eperm_beats_cgroup_errors: Is, needs [Autoreap, Nnp, Autokill, Unprivileged],
    source "kernel/fork.c copy_process()",
}
fn abi_eperm_beats_cgroup_errors() -> Result {
    cgroup::is_built_in()?;
    let not_open = i32::MAX as u64;
    Clone3::new(Flags::KILLED_NNP).into_cgroup_raw(not_open).refused(Errno::EBADF)?;
    Clone3::new(Flags::KILLED).into_cgroup_raw(not_open).refused(Errno::EPERM)
}

/// Makes the call, cleans up what it created, and returns the kernel's refusal, if any.
///
/// The child shares the caller's memory, which affects no rule and makes the child cheap.
fn answer(call: &Clone3, stack: &Stack) -> Result<Option<Errno>> {
    let joinable = Flags::CLONE_VM | Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID;
    let child = match call.clone().with(joinable).try_spawn_on(stack, errands::exit(0)) {
        Err(errno) => return Ok(Some(errno)),
        Ok(child) => child,
    };
    stack.join()?;
    // A thread leaves nothing to reap, and a child of the caller's parent is for that parent to reap.
    if !call.flags().intersects(Flags::CLONE_THREAD | Flags::CLONE_PARENT) {
        child.clear_away()?;
    }
    Ok(None)
}

/// Returns whether the kernel may give this answer instead of the one of [`rules::refusal`]: which of two errors a call gets
/// that is malformed and also needs a capability that the caller lacks is documented nowhere.
fn may_answer(got: Option<Errno>, expected: Option<Errno>, lacks_capability: bool) -> bool {
    got == expected || (lacks_capability && (expected, got) == (Some(Errno::EINVAL), Some(Errno::EPERM)))
}

/// Compares the kernel with [`rules::refusal`] for every combination, and reports all differences.
///
/// Runs in a process whose parent is ours, too, because `CLONE_PARENT` gives that parent children.
fn sweep(sys_admin: bool) -> Result {
    let in_words =
        |refusal: Option<Errno>| refusal.map_or("success".to_owned(), |errno| format!("{errno:?}"));
    let differences = in_grandchild(|| {
        let (stack, free) = (Stack::new()?, lowest_free_fd()?);
        let mut differences = Vec::new();
        for (flags, signal) in rules::combinations() {
            let call = Clone3::new(flags).exit_signal(signal);
            let (expected, got) = (rules::refusal(flags, signal, sys_admin), answer(&call, &stack)?);
            let lacks_capability =
                !sys_admin && flags.contains(Flags::AUTOKILL) && !flags.contains(Flags::NNP);
            if !may_answer(got, expected, lacks_capability) {
                differences.push(format!("{call}: expected {}, got {}", in_words(expected), in_words(got)));
            }
        }
        wait::no_children()?;
        check::equal("lowest free descriptor afterwards", lowest_free_fd()?, free)?;
        Ok(differences)
    })?;
    let (count, lines) = (differences.len(), differences.join("\n  "));
    check::holds(count == 0, format_args!("{count} combinations are answered wrongly:\n  {lines}"))
}

case! {
    /// For a caller with CAP_SYS_ADMIN, every combination of CLONE_AUTOREAP, CLONE_NNP, CLONE_PIDFD_AUTOKILL, CLONE_PIDFD,
    /// CLONE_PARENT, CLONE_THREAD and exit_signal 0 or SIGCHLD is accepted or EINVAL, as documented.
    abi_error_precedence_sweep: Must, needs [Autoreap, Nnp, Autokill, SysAdmin],
    source "pull request vfs-7.1-rc1.pidfs; clone(2) (EINVAL); kernel/fork.c copy_process()",
}
fn abi_error_precedence_sweep() -> Result {
    sweep(true)
}

case! {
    /// For a caller without CAP_SYS_ADMIN, the combinations of abi_error_precedence_sweep give the same results, except that
    /// CLONE_PIDFD_AUTOKILL without CLONE_NNP is EPERM if it is well formed, and EINVAL or EPERM if it is not.
    abi_error_precedence_sweep_unprivileged: Must, needs [Autoreap, Nnp, Autokill, Unprivileged],
    source "pull request vfs-7.1-rc1.pidfs; LKML, Jann Horn 2026-03-02; kernel/fork.c copy_process()",
}
fn abi_error_precedence_sweep_unprivileged() -> Result {
    sweep(false)
}

/// Flags that have no effect on what is refused.
const OTHERS: [Flags; 9] = [
    Flags::CLONE_VFORK.union(Flags::CLONE_VM),
    Flags::CLONE_FS,
    Flags::CLONE_FILES,
    Flags::CLONE_IO,
    Flags::CLONE_SYSVSEM,
    Flags::CLONE_UNTRACED,
    Flags::CLONE_PTRACE,
    Flags::CLONE_VM,
    Flags::CLONE_CLEAR_SIGHAND,
];

/// Flags that no thread can be made with, whatever else is asked for: the new flags are not why that is refused.
const NOT_FOR_THREADS: Flags =
    Flags::CLONE_CLEAR_SIGHAND.union(Flags::CLONE_NEWPID).union(Flags::CLONE_NEWUSER);

/// Checks that these flags do not make the kernel accept a malformed call.
fn malformed_calls_stay_einval(others: Flags) -> Result {
    let sigchld = libc::SIGCHLD as u64;
    let malformed = [
        (Flags::AUTOREAP, sigchld),
        (Flags::AUTOREAP | Flags::CLONE_PARENT, 0),
        (Flags::KILLED_NNP, sigchld),
        (Flags::KILLED_NNP | Flags::CLONE_PARENT, 0),
        (Flags::PIDFD | Flags::NNP | Flags::AUTOKILL, 0),
        (Flags::AUTOREAP | Flags::NNP | Flags::AUTOKILL, 0),
    ];
    in_grandchild(|| {
        let stack = Stack::new()?;
        for (flags, signal) in
            [(Flags::KILLED_NNP, 0), (Flags::NNP, sigchld), (Flags::NNP | Flags::CLONE_PARENT, 0)]
        {
            is_accepted(&Clone3::new(flags | others).exit_signal(signal), &stack)?;
        }
        for (flags, signal) in malformed {
            Clone3::new(flags | others).exit_signal(signal).refused(Errno::EINVAL)?;
        }
        if others.intersects(NOT_FOR_THREADS) {
            return Ok(());
        }
        is_accepted(&Clone3::new(Flags::THREAD | others), &stack)?;
        for flags in [Flags::AUTOREAP, Flags::NNP, Flags::KILLED_NNP] {
            Clone3::new(Flags::THREAD | flags | others).refused(Errno::EINVAL)?;
        }
        Ok(())
    })
}

/// Checks that a well-formed call succeeds, as the control for malformed ones.
fn is_accepted(call: &Clone3, stack: &Stack) -> Result {
    check::equal(format_args!("control: error of {call}"), answer(call, stack)?, None)
}

case! {
    /// What is EINVAL of the new flags is EINVAL together with each other flag, too.
    abi_einval_with_other_flags: Must, needs [Autoreap, Nnp, Autokill],
    source "pull request vfs-7.1-rc1.pidfs; clone(2) (EINVAL); kernel/fork.c copy_process()",
}
fn abi_einval_with_other_flags() -> Result {
    OTHERS.into_iter().try_for_each(malformed_calls_stay_einval)
}

case! {
    /// What is EINVAL of the new flags is EINVAL for a child in a new namespace of each kind, too.
    abi_einval_with_namespace_flags: Must, needs [Autoreap, Nnp, Autokill, SysAdmin],
    source "pull request vfs-7.1-rc1.pidfs; clone(2) (EINVAL); kernel/fork.c copy_process()",
}
fn abi_einval_with_namespace_flags() -> Result {
    subject::in_namespaces(malformed_calls_stay_einval)
}

case! {
    /// CLONE_PIDFD_AUTOKILL without CLONE_NNP is EPERM for a caller without CAP_SYS_ADMIN together with each other flag, too.
    abi_eperm_with_other_flags: Must, needs [Autoreap, Nnp, Autokill, Unprivileged],
    source "pull request vfs-7.1-rc1.pidfs; LKML, Jann Horn 2026-03-02; kernel/fork.c copy_process()",
}
fn abi_eperm_with_other_flags() -> Result {
    for others in OTHERS {
        Clone3::new(Flags::KILLED_NNP | others).accepted()?;
        Clone3::new(Flags::KILLED | others).refused(Errno::EPERM)?;
    }
    Ok(())
}
