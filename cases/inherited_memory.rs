//! What a creator has asked of its memory holds in its children, whichever of the new flags they are made with.

use std::sync::atomic::Ordering;

use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::kit::mapping::{self, MemoryAdvice, Page};
use clone3_conformance::kit::outcome::{Outcome, outcome_in_child_of};
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::subject;
use clone3_conformance::procfs::status_field;
use clone3_conformance::wait::Status;
use nix::errno::Errno;

/// Checks that in a child of each kind this attempt fails with `expected`.
#[track_caller]
fn all_refused(what: &str, attempt: impl Fn() -> Outcome, expected: Errno) -> Result {
    for call in subject::every_kind() {
        let outcome = outcome_in_child_of(&call, || Ok(attempt()))?;
        check::refused(format_args!("{what}, by a child of {call}"), outcome, expected)?;
    }
    Ok(())
}

case! {
    /// Memory that is to be wiped on fork (MADV_WIPEONFORK) is zero in a child made with any of the new flags, as in an ordinary one.
    abi_wipes_memory_on_fork: Must, needs [Autoreap, Nnp, Autokill],
    source "madvise(2), MADV_WIPEONFORK; mm/mmap.c dup_mmap()",
}
fn abi_wipes_memory_on_fork() -> Result {
    const SECRET: u32 = 42;
    let page = Page::new()?;
    page.advise(MemoryAdvice::WipeOnFork)?;
    page.word().store(SECRET, Ordering::Release);
    for call in subject::every_kind() {
        let (child, found) = child_reporting(&call, || Ok(page.word().load(Ordering::Acquire)))?;
        child.ends_with(Status::exited(0))?;
        check::equal(format_args!("a word to be wiped, in a child of {call}"), found, 0)?;
    }
    check::equal("the word in the creator", page.word().load(Ordering::Acquire), SECRET)
}

case! {
    /// Memory that forked processes shall not have (MADV_DONTFORK) is not mapped in a child made with any of the new flags, as in an
    /// ordinary one.
    abi_keeps_memory_from_children: Must, needs [Autoreap, Nnp, Autokill],
    source "madvise(2), MADV_DONTFORK; mm/mmap.c dup_mmap()",
}
fn abi_keeps_memory_from_children() -> Result {
    let page = Page::new()?;
    page.advise(MemoryAdvice::DontFork)?;
    check::succeeds("control: write(2) from that memory by the creator", page.read_by_kernel())?;
    all_refused("write(2) from memory with MADV_DONTFORK", || page.read_by_kernel(), Errno::EFAULT)
}

case! {
    /// A guard region (MADV_GUARD_INSTALL) guards in a child made with any of the new flags, too, as in an ordinary one.
    abi_guard_regions_stay: Must, needs [Autoreap, Nnp, Autokill],
    source "madvise(2), MADV_GUARD_INSTALL; mm/madvise.c madvise_guard_install()",
}
fn abi_guard_regions_stay() -> Result {
    let page = Page::new()?;
    check::succeeds("control: write(2) from a page that is not guarded yet", page.read_by_kernel())?;
    page.advise(MemoryAdvice::GuardInstall)?;
    check::refused(
        "control: write(2) from a guard region by the creator",
        page.read_by_kernel(),
        Errno::EFAULT,
    )?;
    all_refused("write(2) from a guard region", || page.read_by_kernel(), Errno::EFAULT)
}

case! {
    /// Memory that the creator has sealed (mseal) is sealed in a child made with any of the new flags, as in an ordinary one.
    abi_sealed_memory_stays_sealed: Must, needs [Autoreap, Nnp, Autokill],
    source "Documentation/userspace-api/mseal.rst; mm/mmap.c dup_mmap()",
}
fn abi_sealed_memory_stays_sealed() -> Result {
    let (sealed, other) = (Page::new()?, Page::new()?);
    sealed.seal()?;
    for call in subject::every_kind() {
        let control = outcome_in_child_of(&call, || Ok(other.unmap()))?;
        check::succeeds(format_args!("control: munmap of other memory, by a child of {call}"), control)?;
    }
    all_refused("munmap of sealed memory", || sealed.unmap(), Errno::EPERM)
}

case! {
    /// A child made with any of the new flags does not lock what it maps, though its creator does so with all that it will map
    /// (MCL_FUTURE); an ordinary one does not either.
    abi_memory_locks_not_inherited: Must, needs [Autoreap, Nnp, Autokill, Proc],
    source "mlockall(2) (\"Memory locks are not inherited by a child created via fork(2)\")",
}
fn abi_memory_locks_not_inherited() -> Result {
    // A process of its own, which does not map much.
    in_child(|| {
        mapping::lock_future()?;
        let locked = locked_with_a_new_page()?;
        check::holds(
            locked.as_deref() != Some("0 kB"),
            format_args!("control: VmLck of the creator is {locked:?}"),
        )?;
        for call in subject::every_kind() {
            let (child, locked) = child_reporting(&call, locked_with_a_new_page)?;
            child.ends_with(Status::exited(0))?;
            let what = format!("VmLck of a child of {call} that has mapped a page");
            check::equal(what, locked.as_deref(), Some("0 kB"))?;
        }
        Ok(())
    })
}

/// Maps and accesses a page; returns how much memory the calling process has locked then, as `/proc/PID/status` says.
fn locked_with_a_new_page() -> Result<Option<String>> {
    Page::new()?.word().store(1, Ordering::Release);
    Ok::<_, Failure>(status_field("self", "VmLck"))
}
