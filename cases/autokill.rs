//! CLONE_PIDFD_AUTOKILL: SIGKILL when the last reference to clone3's own pidfd is gone.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::process::in_grandchild;
use clone3_conformance::kit::{Echo, sigchld};
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::sys::signal::Signal;

/// Ends an echoing child by closing its last ping pipe, and waits until it is gone.
fn finish(child: Echo) -> Result {
    child.into_child().clear_away()
}

case! {
    /// Closing the last reference to the pidfd of an auto-kill child kills it with SIGKILL; it leaves exit
    /// information, no zombie and no SIGCHLD. Closing the pidfd of a child without the flag does nothing.
    autokill_basic: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; selftest autokill_basic",
}
fn autokill_basic() -> Result {
    sigchld::block()?;
    let mut control = Echo::spawn(&Clone3::new(Flags::REAPED))?;
    control.close_pidfd()?;
    control.is_alive("after the close of a pidfd without CLONE_PIDFD_AUTOKILL")?;
    finish(control)?;

    let mut child = Echo::spawn(&Clone3::new(Flags::KILLED_NNP))?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    child.is_dead("after the last close of its pidfd")?;
    observer.gone_with(child.pid(), Status::SIGKILLED)?;
    sigchld::none_pending()
}

case! {
    /// CLONE_PIDFD_AUTOKILL without CLONE_PIDFD is EINVAL, and makes no child.
    autokill_requires_pidfd: Must, needs [Autoreap, Nnp, Autokill],
    source "pull request vfs-7.1-rc1.pidfs; selftest autokill_requires_pidfd",
}
fn autokill_requires_pidfd() -> Result {
    let whole = Clone3::new(Flags::KILLED_NNP);
    whole.accepted()?;
    whole.clone().without(Flags::PIDFD).refused(Errno::EINVAL)?;
    whole.without(Flags::PIDFD | Flags::NNP).refused(Errno::EINVAL)
}

case! {
    /// CLONE_PIDFD_AUTOKILL without CLONE_AUTOREAP is EINVAL, whatever the exit_signal, and makes no child; also for a caller that
    /// ignores SIGCHLD, whose children leave no zombies anyway.
    autokill_requires_autoreap: Must, needs [Autoreap, Nnp, Autokill],
    source "pull request vfs-7.1-rc1.pidfs; selftest autokill_requires_autoreap",
}
fn autokill_requires_autoreap() -> Result {
    for sigchld in [Disposition::Default, Disposition::Ignored] {
        disposition::set(Signal::SIGCHLD, sigchld)?;
        Clone3::new(Flags::KILLED_NNP).accepted()?;
        for flags in [Flags::PIDFD | Flags::AUTOKILL, Flags::PIDFD | Flags::AUTOKILL | Flags::NNP] {
            for call in [Clone3::new(flags), Clone3::new(flags).exit_signal(libc::SIGCHLD as u64)] {
                call.refused(Errno::EINVAL).context(format_args!("SIGCHLD {sigchld:?}"))?;
            }
        }
    }
    Ok(())
}

case! {
    /// CLONE_PIDFD_AUTOKILL with CLONE_THREAD is EINVAL, and starts no thread.
    autokill_rejects_thread: Must, needs [Autoreap, Nnp, Autokill],
    source "pull request vfs-7.1-rc1.pidfs; selftest autokill_rejects_thread",
}
fn autokill_rejects_thread() -> Result {
    Clone3::new(Flags::THREAD).accepted()?;
    Clone3::new(Flags::KILLED_NNP).accepted()?;
    for flags in [Flags::KILLED, Flags::KILLED_NNP] {
        Clone3::new(flags | Flags::THREAD).refused(Errno::EINVAL)?;
    }
    Ok(())
}

case! {
    /// CLONE_PIDFD_AUTOKILL with an exit_signal, or with CLONE_PARENT, is EINVAL, as CLONE_AUTOREAP is.
    autokill_rejects_exit_signal_and_parent: Must, needs [Autoreap, Nnp, Autokill],
    source "commits \"clone: add CLONE_AUTOREAP\", \"pidfd: add CLONE_PIDFD_AUTOKILL\", which takes CLONE_AUTOREAP; kernel/fork.c copy_process()",
}
fn autokill_rejects_exit_signal_and_parent() -> Result {
    in_grandchild(|| {
        Clone3::new(Flags::KILLED_NNP).accepted()?;
        Clone3::new(Flags::PIDFD | Flags::NNP).exit_signal(libc::SIGCHLD as u64).accepted()?;
        Clone3::new(Flags::KILLED_NNP).exit_signal(libc::SIGCHLD as u64).refused(Errno::EINVAL)?;
        Clone3::new(Flags::CLONE_PARENT).accepted_elsewhere()?;
        Clone3::new(Flags::KILLED_NNP | Flags::CLONE_PARENT).refused(Errno::EINVAL)
    })
}

case! {
    /// Closing a pidfd from pidfd_open does not kill an auto-kill child, and holding one does not keep the child alive when
    /// clone3's own pidfd is closed.
    autokill_pidfd_open_no_effect: Must, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; selftest autokill_pidfd_open_no_effect",
}
fn autokill_pidfd_open_no_effect() -> Result {
    let mut child = Echo::spawn(&Clone3::new(Flags::KILLED_NNP))?;
    child.observe()?.close()?;
    child.is_alive("after the close of a pidfd_open pidfd")?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    child.is_dead("after the last close of clone3's pidfd, with a pidfd_open one still open")?;
    observer.gone_with(child.pid(), Status::SIGKILLED)
}

case! {
    /// CLONE_PIDFD_AUTOKILL without CLONE_NNP is EPERM for a caller without CAP_SYS_ADMIN, and makes no child;
    /// with CLONE_NNP the same caller may.
    autokill_requires_cap_sys_admin: Must, needs [Autoreap, Nnp, Autokill, Unprivileged],
    source "pull request vfs-7.1-rc1.pidfs; LKML, Jann Horn 2026-03-02; selftest autokill_requires_cap_sys_admin",
}
fn autokill_requires_cap_sys_admin() -> Result {
    Clone3::new(Flags::KILLED_NNP).accepted()?;
    Clone3::new(Flags::KILLED).refused(Errno::EPERM)
}

case! {
    /// With CAP_SYS_ADMIN, CLONE_PIDFD_AUTOKILL is accepted without CLONE_NNP, and the pidfd is armed.
    autokill_without_nnp_with_cap: Must, needs [Autoreap, Autokill, ExitInfo, SysAdmin, NotYetNnp],
    source "pull request vfs-7.1-rc1.pidfs; selftest autokill_without_nnp_with_cap",
}
fn autokill_without_nnp_with_cap() -> Result {
    let mut child = Echo::prepared(&Clone3::new(Flags::KILLED), || {
        check::equal("no_new_privs of the child", rustix::thread::no_new_privs()?, false)
    })?;
    let observer = child.observe()?;
    child.close_pidfd()?;
    child.is_dead("after the last close of its pidfd")?;
    observer.gone_with(child.pid(), Status::SIGKILLED)
}
