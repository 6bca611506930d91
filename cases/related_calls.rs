//! System calls related to clone3: what they do with the new flags, and that their behavior is unchanged.

use clone3_conformance::abi::{AUTOKILL_MARK, Flags};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Clone3, park};
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::process::{child_reporting, in_grandchild, own_pid};
use clone3_conformance::kit::{Gate, fdpass, legacy, sigchld};
use clone3_conformance::pidfd::{self, Pidfd};
use clone3_conformance::wait::{self, Event, Status};
use nix::errno::Errno;
use nix::sys::signal::Signal;

/// The new flags.
const NEW: Flags = Flags::AUTOREAP.union(Flags::NNP).union(Flags::AUTOKILL);

/// Checks that a child is an ordinary one: a zombie from its end until it is waited for.
#[track_caller]
fn is_ordinary(child: &str, pid: i32, code: i32) -> Result {
    check::equal(format_args!("the zombie of {child}"), wait::find_zombie(pid)?, Event::exited(pid, code))?;
    wait::reap_expecting(pid, Status::exited(code)).context(child)
}

/// Checks, as a control, that `is_ordinary` would not pass for an auto-reaped child.
fn auto_reaped_is_not() -> Result {
    let child = Clone3::new(Flags::REAPED).spawn(|| 5)?;
    child.pidfd()?.wait_reaped()?;
    wait::no_child(child.pid()).context("control")
}

case! {
    /// clone(2) ignores the upper half of its flags: with the bits of the new flags there, the child is ordinary, sends SIGCHLD,
    /// becomes a zombie, and has no no_new_privs. CLONE_IO, the highest bit of the lower half, is not sign-extended into the upper
    /// one.
    abi_legacy_clone_ignores_bits: Must, needs [Autoreap, Nnp, Autokill, NotYetNnp],
    source "include/uapi/linux/sched.h (\"Flags for the clone3() syscall\"); kernel/fork.c clone() (lower_32_bits())",
}
fn abi_legacy_clone_ignores_bits() -> Result {
    auto_reaped_is_not()?;
    sigchld::block()?;
    let has_nnp = || i32::from(rustix::thread::no_new_privs() == Ok(true));
    Clone3::fork().with(Flags::NNP).spawn(has_nnp)?.reap_expecting(Status::exited(1)).context("control")?;
    sigchld::take();

    let bits = NEW.bits() | 1 << 50;
    for flags in [bits, bits | Flags::CLONE_IO.bits(), Flags::CLONE_IO.bits()] {
        let made = legacy::clone(flags | libc::SIGCHLD as u64, has_nnp);
        let call = format!("clone(2) with flags {}", Flags::from_bits_retain(flags));
        let (pid, _) = check::succeeds(&call, made)?;
        let zombie = wait::find_zombie(pid)?;
        check::equal(format_args!("the zombie of a child of {call}"), zombie, Event::exited(pid, 0))?;
        sigchld::pending_for(pid, libc::CLD_EXITED)?;
        wait::reap_expecting(pid, Status::exited(0))?;
    }

    let (silent, _) = check::succeeds("clone(2) without a signal", legacy::clone(bits, has_nnp))?;
    is_ordinary("a child of clone(2) without a signal", silent, 0)?;
    sigchld::none_pending()
}

case! {
    /// A pidfd from clone(2) is a plain one, whatever is in the upper half of the flags: it lacks the auto-kill mark, and closing
    /// it kills nobody.
    abi_legacy_clone_pidfd_is_plain: Must, needs [Autoreap, Nnp, Autokill],
    source "include/uapi/linux/sched.h (\"Flags for the clone3() syscall\"); kernel/fork.c clone() (lower_32_bits())",
}
fn abi_legacy_clone_pidfd_is_plain() -> Result {
    let killed = Clone3::new(Flags::KILLED_NNP).spawn(park)?;
    let mark = killed.pidfd()?.status_flags()? & AUTOKILL_MARK;
    check::equal("control: the mark of an auto-kill pidfd", mark, AUTOKILL_MARK)?;
    killed.clear_away()?;

    let gate = Gate::new()?;
    let flags = (NEW | Flags::PIDFD).bits() | libc::SIGCHLD as u64;
    let held = || {
        gate.wait();
        5
    };
    let (pid, pidfd) = check::succeeds("clone(2)", legacy::clone(flags, held))?;
    let pidfd = pidfd.ok_or_else(|| Failure::fail("clone(2) with CLONE_PIDFD gave no pidfd"))?;
    check::equal("F_GETFL of clone(2)'s pidfd", pidfd.status_flags()? & AUTOKILL_MARK, 0)?;
    pidfd.close()?;
    // A child killed by the close would not pass the gate.
    gate.open()?;
    is_ordinary("a child of clone(2) with CLONE_PIDFD", pid, 5)
}

case! {
    /// The children of fork() and vfork() are ordinary zombies until they are waited for.
    abi_fork_vfork_unaffected: Must, needs [Autoreap],
    source "pull request vfs-7.1-rc1.pidfs (\"per-process property\"); fork(2); vfork(2)",
}
fn abi_fork_vfork_unaffected() -> Result {
    auto_reaped_is_not()?;
    is_ordinary("a child of fork()", check::succeeds("fork()", legacy::fork(5))?, 5)?;
    is_ordinary("a child of vfork()", check::succeeds("vfork()", legacy::vfork(5))?, 5)
}

case! {
    /// unshare() rejects the bits of the new flags with EINVAL.
    abi_unshare_rejects_bits: Is, needs [],
    source "kernel/fork.c check_unshare_flags()",
}
fn abi_unshare_rejects_bits() -> Result {
    check::succeeds("unshare(0)", legacy::unshare(0))?;
    check::succeeds("unshare(CLONE_FS)", legacy::unshare(Flags::CLONE_FS.bits()))?;
    for flag in [Flags::AUTOREAP, Flags::NNP, Flags::AUTOKILL, NEW] {
        check::refused(format_args!("unshare({flag})"), legacy::unshare(flag.bits()), Errno::EINVAL)?;
    }
    Ok(())
}

case! {
    /// pidfd_open cannot give an auto-kill pidfd: it refuses O_TRUNC, the bit that marks one, with EINVAL.
    abi_pidfd_open_rejects_o_trunc: Must, needs [],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\" (\"only the specific struct file from clone3()\")", since "5.10",
}
fn abi_pidfd_open_rejects_o_trunc() -> Result {
    let me = own_pid();
    let open = |flags: i32| (format!("pidfd_open({me}, {flags:#x})"), pidfd::pidfd_open(me, flags as u32));
    for flags in [0, libc::O_NONBLOCK] {
        let (call, opened) = open(flags);
        check::succeeds(call, opened)?;
    }
    for flags in [libc::O_TRUNC, libc::O_TRUNC | libc::O_NONBLOCK, libc::O_TRUNC | libc::O_EXCL] {
        let (call, opened) = open(flags);
        check::refused(call, opened, Errno::EINVAL)?;
    }
    Ok(())
}

case! {
    /// CLONE_PARENT alone is accepted: where a combination with it is refused, the combination is why.
    abi_clone_parent_control: Is, needs [],
    source "clone(2) (CLONE_PARENT)",
}
fn abi_clone_parent_control() -> Result {
    in_grandchild(|| Clone3::new(Flags::CLONE_PARENT).accepted_elsewhere())
}

case! {
    /// CLONE_PARENT is EINVAL for the init of a pid namespace, with CLONE_NNP as without it; its children may use it.
    abi_clone_parent_refused_to_init: Is, needs [Nnp, SysAdmin, PidNamespace],
    source "clone(2) (EINVAL); kernel/fork.c copy_process() (SIGNAL_UNKILLABLE)",
}
fn abi_clone_parent_refused_to_init() -> Result {
    let (init, ()) = child_reporting(&Clone3::fork().with(Flags::CLONE_NEWPID), || {
        // CLONE_AUTOREAP is left out: with CLONE_PARENT it is EINVAL for every caller.
        for flags in [Flags::CLONE_PARENT, Flags::CLONE_PARENT | Flags::NNP] {
            Clone3::new(flags).refused(Errno::EINVAL)?;
            in_grandchild(|| Clone3::new(flags).accepted_elsewhere())?;
        }
        Ok(())
    })?;
    init.reap_expecting(Status::exited(0))
}

/// Creates an ordinary child that is a zombie when its parent ends, with the adopter's SIGCHLD as given. The process in
/// between sends no SIGCHLD, so that it can be waited for in any case.
fn zombie_adopted(sigchld: Disposition) -> Result<(i32, Pidfd)> {
    disposition::set(Signal::SIGCHLD, sigchld)?;
    let (ours, theirs) = fdpass::pair()?;
    let (between, pid) = child_reporting(&Clone3::new(Flags::PIDFD), || {
        disposition::set(Signal::SIGCHLD, Disposition::Default)?;
        let zombie = Clone3::fork().with(Flags::PIDFD).spawn(|| 5)?;
        zombie.pidfd()?.wait_exited()?;
        zombie.is_a_zombie(5)?;
        fdpass::send(&theirs, zombie.pidfd()?)?;
        Ok(zombie.pid())
    })?;
    between.reap_expecting(Status::exited(0))?;
    Ok((pid, Pidfd::from(fdpass::receive(&ours)?)))
}

case! {
    /// A zombie without CLONE_AUTOREAP whose parent ends is left to its new parent to wait for; if the new parent ignores SIGCHLD,
    /// the zombie is reaped at once, and its pidfd keeps the exit information.
    abi_zombie_adopted_with_sigchld_ignored: Is, needs [ExitInfo],
    source "kernel/exit.c reparent_leader(); wait(2), SIGCHLD set to SIG_IGN",
}
fn abi_zombie_adopted_with_sigchld_ignored() -> Result {
    let (zombie, _) = zombie_adopted(Disposition::Default)?;
    is_ordinary("an adopted process, SIGCHLD not ignored", zombie, 5).context("control")?;
    let (released, pidfd) = zombie_adopted(Disposition::Ignored)?;
    pidfd.reaped_with(Status::exited(5))?;
    wait::no_child(released)
}
