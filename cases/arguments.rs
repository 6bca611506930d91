//! Arguments of clone3: flag bits, structure sizes, pointers and exit signals.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use clone3_conformance::abi::{CLONE_ARGS_SIZES, Flags};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{
    self, Clone3, NOWHERE, OddWord, PIDFD_UNTOUCHED, Unmapped, is_cloexec, is_open, park, pidfd_word,
};
use clone3_conformance::kit::process::own_pid;
use clone3_conformance::kit::{AutokillChild, Held, subject};
use clone3_conformance::need::Setting;
use clone3_conformance::pidfd::pid_in_fdinfo;
use clone3_conformance::wait::{self, Event, Status, Who};
use nix::errno::Errno;
use nix::unistd::close;
use rustix::param::page_size;

/// Runs `check` for each of these calls with each of these numbers.
fn every<const N: usize>(
    calls: Vec<Clone3>,
    numbers: [usize; N],
    check: impl Fn(Clone3, usize) -> Result,
) -> Result {
    calls.iter().try_for_each(|call| numbers.iter().try_for_each(|number| check(call.clone(), *number)))
}

/// Returns the flag with this bit number, as a program built against another header would pass it.
fn bit(number: u32) -> Flags {
    Flags::from_bits_retain(1 << number)
}

case! {
    /// CLONE_AUTOREAP, CLONE_NNP and CLONE_PIDFD_AUTOKILL are each accepted in the smallest call that is well
    /// formed.
    abi_features_present: Must, needs [Autoreap, Nnp, Autokill],
    source "pull request vfs-7.1-rc1.pidfs",
}
fn abi_features_present() -> Result {
    Clone3::new(Flags::AUTOREAP).accepted()?;
    Clone3::new(Flags::NNP).accepted()?;
    Clone3::fork().with(Flags::NNP).accepted()?;
    Clone3::new(Flags::KILLED_NNP).accepted()
}

case! {
    /// CLONE_AUTOREAP is bit 34, CLONE_NNP bit 35 and CLONE_PIDFD_AUTOKILL bit 36. (The series as posted had the
    /// last two the other way round.)
    abi_flag_bit_values: Must, needs [Autoreap, Nnp, Autokill, ExitInfo, NotYetNnp],
    source "include/uapi/linux/sched.h; LKML, v5 of the series, 2026-02-26, patches 2 and 3",
}
fn abi_flag_bit_values() -> Result {
    let reaped = Clone3::new(Flags::PIDFD | bit(34)).spawn(|| 0)?;
    reaped.pidfd()?.wait_reaped()?;
    wait::no_child(reaped.pid())?;

    let has_nnp = || i32::from(rustix::thread::no_new_privs() == Ok(true));
    let says = "no_new_privs of the child, as its exit status";
    Clone3::fork().spawn(has_nnp)?.reap_expecting(Status::exited(0)).context(says)?;
    Clone3::fork().with(bit(35)).spawn(has_nnp)?.reap_expecting(Status::exited(1)).context(says)?;

    let mut killed = AutokillChild::by(&Clone3::new(Flags::PIDFD | bit(34) | bit(35) | bit(36)))?;
    killed.close()?;
    killed.dies("made with CLONE_PIDFD and bits 34, 35 and 36, after the last close of its pidfd")?;
    Clone3::new(bit(36)).refused(Errno::EINVAL)
}

case! {
    /// Flag bits that no kernel has defined are EINVAL, and make no child.
    abi_unknown_bits_einval: Must, needs [],
    source "Documentation/process/adding-syscalls.rst (unknown flags); kernel/fork.c clone3_args_valid()",
}
fn abi_unknown_bits_einval() -> Result {
    // Leaves out the bits just above 37, the highest known one: the next kernels will define those.
    are_unknown(48..64)
}

/// Checks that these bits are EINVAL, alone and together with the new flags.
fn are_unknown(mut bits: std::ops::Range<u32>) -> Result {
    let calls = subject::by_flag();
    calls.iter().try_for_each(Clone3::accepted)?;
    bits.try_for_each(|number| {
        calls.iter().try_for_each(|call| call.clone().with(bit(number)).refused(Errno::EINVAL))
    })
}

case! {
    /// The bits above CLONE_EMPTY_MNTNS, which a later kernel may define, are EINVAL too.
    abi_next_bits_einval: Is, needs [],
    source "kernel/fork.c clone3_args_valid(), up to Linux 7.3",
}
fn abi_next_bits_einval() -> Result {
    are_unknown(38..48)
}

case! {
    /// The new flags are in the first word of `struct clone_args`, so an auto-reaped child that dies with its pidfd can be made with
    /// every size of it: the three published ones, and a larger one whose tail is zero.
    abi_size_versions_ok: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "include/uapi/linux/sched.h (CLONE_ARGS_SIZE_VER0 to VER2); kernel/fork.c copy_clone_args_from_user()",
}
fn abi_size_versions_ok() -> Result {
    for size in CLONE_ARGS_SIZES.into_iter().chain([96]) {
        let call = Clone3::new(Flags::KILLED_NNP).size(size);
        let mut child = AutokillChild::by(&call)?;
        child.close()?;
        child.dies("after the last close of its pidfd").context(call)?;
    }
    Ok(())
}

case! {
    /// A size of `struct clone_args` between two published ones is accepted.
    abi_size_between_versions_ok: Is, needs [],
    source "include/linux/uaccess.h copy_struct_from_user()",
}
fn abi_size_between_versions_ok() -> Result {
    every(subject::by_flag(), [65, 72, 79, 81, 87], |call, size| call.size(size).accepted())
}

case! {
    /// A size below that of the first `struct clone_args`, 64 bytes, is EINVAL and makes no child.
    abi_size_small_einval: Must, needs [],
    source "clone(2) (EINVAL); kernel/fork.c copy_clone_args_from_user()",
}
fn abi_size_small_einval() -> Result {
    every(subject::by_flag(), [64], |call, size| call.size(size).accepted())?;
    every(subject::by_flag(), [0, 1, 8, 63], |call, size| call.size(size).refused(Errno::EINVAL))
}

case! {
    /// A size larger than a page is E2BIG and makes no child; a size of one page with a zero tail is accepted.
    abi_size_page_e2big: Must, needs [],
    source "include/linux/uaccess.h copy_struct_from_user() (\"recommended usage\"); kernel/fork.c copy_clone_args_from_user()",
}
fn abi_size_page_e2big() -> Result {
    let page = page_size();
    every(subject::by_flag(), [page], |call, size| call.size(size).accepted())?;
    every(subject::by_flag(), [page + 1, 2 * page], |call, size| call.size(size).refused(Errno::E2BIG))
}

case! {
    /// A `struct clone_args` larger than the kernel's is accepted if the tail is zero.
    abi_size_future_zero_tail_ok: Must, needs [],
    source "Documentation/process/adding-syscalls.rst (a size argument); include/linux/uaccess.h copy_struct_from_user()",
}
fn abi_size_future_zero_tail_ok() -> Result {
    every(subject::by_flag(), [1, 8, 40, 168], |call, extra| call.tail(&vec![0; extra]).accepted())
}

case! {
    /// A `struct clone_args` larger than the kernel's with a nonzero tail is E2BIG and makes no child, whatever else is wrong with
    /// the call.
    abi_size_future_nonzero_tail_e2big: Must, needs [],
    source "Documentation/process/adding-syscalls.rst (a size argument); include/linux/uaccess.h copy_struct_from_user() (E2BIG)",
}
fn abi_size_future_nonzero_tail_e2big() -> Result {
    // Only the last byte of a long tail is set: fields that a later structure may add before it stay zero.
    let mut tail = [0; 128];
    tail[127] = 1;
    for call in subject::by_flag() {
        call.clone().tail(&[0; 128]).accepted()?;
        call.clone().tail(&tail).refused(Errno::E2BIG)?;
        call.with(bit(50)).tail(&tail).refused(Errno::E2BIG)?;
    }
    Ok(())
}

case! {
    /// The size is checked before the pointer is dereferenced; a bad pointer with a valid size is EFAULT.
    abi_args_pointer_order: Is, needs [],
    source "kernel/fork.c copy_clone_args_from_user()",
}
fn abi_args_pointer_order() -> Result {
    Clone3::fork().accepted()?;
    for (pointer, size, errno) in [
        (NOWHERE, 63, Errno::EINVAL),
        (NOWHERE, page_size() + 1, Errno::E2BIG),
        (NOWHERE, 88, Errno::EFAULT),
        (Unmapped::Null, 88, Errno::EFAULT),
    ] {
        check::refused(
            format_args!("clone3({pointer:?}, {size})"),
            clone3::unreadable(pointer, size),
            errno,
        )?;
    }
    wait::no_children()
}

case! {
    /// Without CLONE_PIDFD the pidfd pointer is neither checked nor written through; with it, a descriptor is stored there.
    abi_pidfd_pointer_ignored_without_flag: Must, needs [],
    source "clone(2) (CLONE_PIDFD); kernel/fork.c copy_process()",
}
fn abi_pidfd_pointer_ignored_without_flag() -> Result {
    let word = pidfd_word();
    Clone3::fork().with(Flags::PIDFD).pidfd_address(word).accepted()?;
    let written = word.swap(PIDFD_UNTOUCHED, Ordering::Relaxed);
    check::holds(is_open(written), format_args!("control: expected an open descriptor, got {written}"))?;

    for call in subject::by_flag() {
        // CLONE_PIDFD_AUTOKILL requires CLONE_PIDFD.
        let call = call.without(Flags::PIDFD | Flags::AUTOKILL);
        call.clone().pidfd_address(word).accepted()?;
        let after = word.load(Ordering::Relaxed);
        check::equal(format_args!("the pidfd word after {call}"), after, PIDFD_UNTOUCHED)?;
        call.pidfd_address(NOWHERE).accepted()?;
    }
    Ok(())
}

case! {
    /// The pidfd refers to the child, is close-on-exec, and is open in the parent from the child's first instruction on; the child
    /// has it only if it shares the parent's descriptors (CLONE_FILES).
    abi_pidfd_installed_before_child_runs: Must, needs [],
    source "clone(2) (CLONE_PIDFD); kernel/fork.c copy_process(), which installs it after the last failure",
}
fn abi_pidfd_installed_before_child_runs() -> Result {
    for (flags, in_child) in [(Flags::PIDFD, false), (Flags::PIDFD | Flags::CLONE_FILES, true)] {
        let number = clone3::lowest_free_fd()?;
        let child = Clone3::fork().with(flags).spawn(|| i32::from(is_open(number)))?;
        let (pid, pidfd) = (child.pid(), child.pidfd()?);
        check::equal("the number of the pidfd", pidfd.as_raw_fd(), number)?;
        check::equal("close-on-exec of the pidfd", is_cloexec(pidfd)?, true)?;
        // The exit status says whether the child had the descriptor; finding the child shows that the pidfd refers to it.
        let found = wait::waitid(Who::pidfd(pidfd), libc::WEXITED | libc::__WALL);
        let expected = Event::exited(pid, i32::from(in_child));
        check::equal(format_args!("{flags}: the child found by its pidfd"), found, Ok(Some(expected)))?;
    }
    Ok(())
}

case! {
    /// The pidfd may have the number 0, if that is free, with and without the new flags.
    abi_pidfd_number_zero: Must, needs [Proc],
    source "open(2) (\"the lowest-numbered file descriptor not currently open\"); clone(2) (CLONE_PIDFD)",
}
fn abi_pidfd_number_zero() -> Result {
    close(0)?;
    for call in subject::by_flag() {
        let call = call.with(Flags::PIDFD);
        let child = call.spawn(park)?;
        check::equal(format_args!("the number of the pidfd of {call}"), child.pidfd()?.as_raw_fd(), 0)?;
        check::equal(
            format_args!("Pid in fdinfo of descriptor 0, from {call}"),
            pid_in_fdinfo(0),
            Some(child.pid()),
        )?;
        child.clear_away()?;
    }
    Ok(())
}

case! {
    /// What clone3 stores at the addresses of the pidfd and of the tid is an int each: what lies behind them stays, with and without the
    /// new flags.
    abi_stored_numbers_are_ints: Must, needs [],
    source "clone(2) (\"pid_t *\", \"int *\")",
}
fn abi_stored_numbers_are_ints() -> Result {
    let words: &[AtomicI32; 4] = Box::leak(Box::new([const { AtomicI32::new(PIDFD_UNTOUCHED) }; 4]));
    let [pidfd, behind_pidfd, tid, behind_tid] = words;
    for call in subject::by_flag() {
        let call = call.with(Flags::PIDFD | Flags::CLONE_PARENT_SETTID).pidfd_address(pidfd).parent_tid(tid);
        let child = call.spawn(park)?;
        let found = [behind_pidfd, behind_tid].map(|word| word.load(Ordering::Relaxed));
        check::equal(format_args!("the words behind those that {call} stores"), found, [PIDFD_UNTOUCHED; 2])?;
        check::equal(format_args!("the tid that {call} stores"), tid.load(Ordering::Relaxed), child.pid())?;
        child.clear_away()?;
        close(pidfd.load(Ordering::Relaxed))?;
    }
    Ok(())
}

case! {
    /// The pidfd is stored wherever the caller says, also where an int would not be aligned, with and without the new flags.
    abi_pidfd_at_odd_address: Is, needs [Proc],
    source "kernel/fork.c copy_process() (put_user())",
}
fn abi_pidfd_at_odd_address() -> Result {
    let word = OddWord::zero();
    for call in subject::by_flag() {
        let call = call.with(Flags::PIDFD).pidfd_address(word.address());
        let child = call.spawn(park)?;
        let number = word.value();
        check::equal(
            format_args!("Pid in fdinfo of what {call} stored"),
            pid_in_fdinfo(number),
            Some(child.pid()),
        )?;
        child.clear_away()?;
        close(number)?;
    }
    Ok(())
}

case! {
    /// An exit_signal above the highest signal, 64, is EINVAL, whichever of its bits make it too large.
    abi_exit_signal_generic_range: Must, needs [],
    source "clone(2) (EINVAL); kernel/fork.c copy_clone_args_from_user(), kernel_clone()",
}
fn abi_exit_signal_generic_range() -> Result {
    let mut calls = vec![Clone3::fork()];
    if Setting::get().probe.features.nnp {
        // CLONE_NNP is the only new flag that can be combined with an exit signal.
        calls.push(Clone3::new(Flags::NNP));
    }
    for call in calls {
        for signal in [libc::SIGUSR1 as u64, 64] {
            call.clone().exit_signal(signal).accepted()?;
        }
        for signal in [65, 255, 256, 1 << 31, 1 << 32, 1 << 63, (1 << 32) | libc::SIGCHLD as u64] {
            call.clone().exit_signal(signal).refused(Errno::EINVAL)?;
        }
    }
    Ok(())
}

case! {
    /// CLONE_DETACHED is EINVAL in clone3, and so is a signal in the low byte of the flags, where clone(2) takes it.
    abi_detached_and_csignal_bits_einval: Must, needs [],
    source "clone(2) (CLONE_DETACHED); kernel/fork.c clone3_args_valid()",
}
fn abi_detached_and_csignal_bits_einval() -> Result {
    let signal = Flags::from_bits_retain(libc::SIGCHLD as u64);
    Clone3::new(signal).refused(Errno::EINVAL)?;
    for call in subject::by_flag() {
        call.accepted()?;
        call.clone().with(Flags::CLONE_DETACHED).refused(Errno::EINVAL)?;
        (0..7).try_for_each(|number| call.clone().with(bit(number)).refused(Errno::EINVAL))?;
    }
    Ok(())
}

case! {
    /// The highest bit of the low byte is a flag in clone3 and not part of a signal: CLONE_NEWTIME is accepted.
    abi_newtime_bit_ok: Must, needs [SysAdmin, Proc],
    source "include/uapi/linux/sched.h (CLONE_NEWTIME); kernel/fork.c clone3_args_valid()",
}
fn abi_newtime_bit_ok() -> Result {
    if std::fs::symlink_metadata("/proc/self/ns/time").is_err() {
        return Err(Failure::blocked("needs time namespaces (CONFIG_TIME_NS)"));
    }
    Clone3::fork().with(Flags::CLONE_NEWTIME).accepted()
}

case! {
    /// If the pid cannot be stored for CLONE_PARENT_SETTID or CLONE_CHILD_SETTID, the call succeeds nevertheless, and the child runs.
    abi_tid_word_unmapped_ignored: Is, needs [],
    source "kernel/fork.c kernel_clone(), which ignores the result of put_user(); kernel/sched/core.c schedule_tail()",
}
fn abi_tid_word_unmapped_ignored() -> Result {
    for call in subject::by_flag() {
        for address in [Unmapped::Null, Unmapped::Nowhere, Unmapped::Last] {
            let words = Flags::CLONE_PARENT_SETTID | Flags::CLONE_CHILD_SETTID;
            let call = call.clone().with(words | Flags::PIDFD).parent_tid(address).child_tid(address);
            call.spawn(|| 7)?.ends_with(Status::exited(7)).context(call)?;
        }
    }
    Ok(())
}

case! {
    /// CLONE_PIDFD and CLONE_PARENT_SETTID with the same address are EINVAL; with different addresses they are accepted. So is
    /// CLONE_CHILD_SETTID at the address of the pidfd: it stores the pid there in the child's memory, and the pidfd stays in the
    /// parent's.
    abi_parent_settid_alias_einval: Is, needs [Proc],
    source "kernel/fork.c kernel_clone() (\"it still doesn't make sense to have them both point at the same memory location\")",
}
fn abi_parent_settid_alias_einval() -> Result {
    let (pidfd, tid) = (pidfd_word(), pidfd_word());
    for call in subject::by_flag() {
        let call = call.with(Flags::PIDFD | Flags::CLONE_PARENT_SETTID).pidfd_address(pidfd);
        call.clone().parent_tid(tid).accepted()?;
        let with_child_tid = call.clone().with(Flags::CLONE_CHILD_SETTID).parent_tid(tid).child_tid(pidfd);
        stores_pid_and_pidfd(&with_child_tid, pidfd)?;
        call.parent_tid(pidfd).refused(Errno::EINVAL)?;
    }
    Ok(())
}

/// Checks that a child of this call finds its pid in the word in which its parent finds the child's pidfd.
#[track_caller]
fn stores_pid_and_pidfd(call: &Clone3, word: &AtomicI32) -> Result {
    let child = Held::prepared(call, 0, || {
        let what = format_args!("the word at the address of the pidfd, in the memory of the child of {call}");
        check::equal(what, word.load(Ordering::Relaxed), own_pid())
    })?;
    let number = word.load(Ordering::Relaxed);
    let what = format_args!("Pid in fdinfo of descriptor {number}, which {call} stored for the parent");
    check::equal(what, pid_in_fdinfo(number), Some(child.pid()))?;
    child.into_child().clear_away()
}
