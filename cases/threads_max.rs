//! The system-wide limit `kernel.threads-max`.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{Context as _, Failure, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::sysctl::Sysctl;
use nix::errno::Errno;

/// The lowest value that the kernel accepts.
const LOWEST: &str = "20";

case! {
    /// While the system has as many threads as `kernel.threads-max` allows, clone3 is EAGAIN with the new flags as without them,
    /// even for root.
    autoreap_bound_by_threads_max: Must, needs [Autoreap, Nnp, Autokill, Root, Proc, GlobalChanges],
    source "proc_sys_kernel(5), threads-max; kernel/fork.c copy_process()",
}
fn autoreap_bound_by_threads_max() -> Result {
    let calls = [Clone3::fork(), Clone3::new(Flags::REAPED), Clone3::new(Flags::KILLED_NNP)];
    for call in &calls {
        call.accepted()?;
    }
    let lowered = Sysctl::ThreadsMax.set(LOWEST)?;
    if let Ok(child) = Clone3::fork().try_spawn(|| 0) {
        child.clear_away()?;
        return Err(Failure::blocked("the whole system has fewer threads than threads-max can forbid"));
    }
    for call in &calls {
        call.refused(Errno::EAGAIN).context(format_args!("with threads-max at {LOWEST}"))?;
    }
    drop(lowered);
    Ok(())
}
