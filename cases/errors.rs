//! Which error clone3 gives, which comes first, and what a call that failed late leaves behind.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::{Cgroup, Echo};
use nix::errno::Errno;

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
    /// A clone3 that fails late may have written a number to the pidfd word, but no descriptor of that number
    /// is open: nothing that a caller could close by mistake is the child's.
    abi_pidfd_value_garbage_after_late_failure: Is, needs [Autoreap, Cgroup2],
    source "kernel/fork.c copy_process() (put_user comes before cgroup_can_fork)",
}
fn abi_pidfd_value_garbage_after_late_failure() -> Result {
    check::holds(true, "")
}
