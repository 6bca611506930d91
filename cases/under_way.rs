//! What another thread sees and does while a clone3 call is under way: whether the pidfd is open yet, and what its close does.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, is_open, lowest_free_fd, park};
use clone3_conformance::kit::userfault::Trap;
use clone3_conformance::kit::{Gate, channel, subject, threads};
use clone3_conformance::pidfd::{Pidfd, pid_in_fdinfo};
use clone3_conformance::wait::Status;
use nix::unistd::close;
use rustix::pipe::{PipeFlags, pipe_with};

/// Makes the call in another thread, for which the kernel blocks when it writes to the trap. Runs `meanwhile` then. Returns the
/// child, and the result of that.
#[track_caller]
fn in_the_middle<T>(
    call: &Clone3,
    trap: &Trap,
    body: impl FnOnce() -> i32 + Send,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(Child, T)> {
    std::thread::scope(|scope| {
        let creator = scope.spawn(|| call.spawn(body));
        let seen = trap.wait_for_someone().and_then(|()| meanwhile());
        trap.open()?;
        Ok((threads::join(creator)?, seen?))
    })
}

case! {
    /// While clone3 writes the number of the pidfd to memory, that number is taken, but no file is open there: another thread can
    /// neither use nor close the pidfd of a child that may still not come to be. It is open when the call returns.
    abi_pidfd_opens_last: Is, needs [Root, Proc],
    source "kernel/fork.c copy_process(): put_user() of the pidfd can fail, fd_install() comes after the last failure",
}
fn abi_pidfd_opens_last() -> Result {
    subject::each(|call| {
        let trap = Trap::lay_for_kernel()?;
        // No other thread opens a file meanwhile, so clone3 uses this number.
        let fd = lowest_free_fd()?;
        let call = call.pidfd_address(trap.address());
        let look = || Ok((is_open(fd), lowest_free_fd()?));
        let (child, (open, next_free)) = in_the_middle(&call, &trap, park, look)?;
        let when = format!("while {call} writes its number");
        check::equal(format_args!("descriptor {fd} is open {when}"), open, false)?;
        check::equal(format_args!("{fd} is free for another file {when}"), next_free == fd, false)?;
        check::equal(
            format_args!("the pid behind descriptor {fd} afterwards"),
            pid_in_fdinfo(fd),
            Some(child.pid()),
        )?;
        child.clear_away()?;
        Ok(close(fd)?)
    })
}

case! {
    /// The flags of a clone3 that is under way are for its own child alone: one that another thread makes meanwhile is an ordinary one.
    autoreap_meanwhile_others_are_ordinary: Must, needs [Autoreap, ExitInfo, Root],
    source "commit \"clone: add CLONE_AUTOREAP\" (\"not inherited\"); clone(2)",
}
fn autoreap_meanwhile_others_are_ordinary() -> Result {
    let gate = Gate::new()?;
    subject::each(|call| {
        let trap = Trap::lay_for_kernel()?;
        let body = || {
            gate.wait();
            9
        };
        let slow = call.clone().pidfd_address(trap.address());
        let (child, ()) = in_the_middle(&slow, &trap, body, || {
            let other = Clone3::fork().spawn(|| 7)?;
            other.is_a_zombie(7).context(format_args!("made during {call} of another thread"))?;
            other.reap_expecting(Status::exited(7))
        })?;
        let observer = Pidfd::open(child.pid())?;
        gate.open()?;
        subject::ends_by_its_kind(&call, child.pid(), &observer, Status::exited(9))
    })
}

case! {
    /// The pidfd is open before the child runs: if another thread closes it when clone3 writes the child's tid
    /// (CLONE_PARENT_SETTID), the child never executes an instruction in user mode, and clone3 returns its pid.
    autokill_closed_before_child_runs: Is, needs [Autoreap, Nnp, Autokill, ExitInfo, Root, Proc],
    source "commit \"pidfd: add CLONE_PIDFD_AUTOKILL\"; kernel/fork.c kernel_clone(): put_user() of the tid precedes wake_up_new_task()",
}
fn autokill_closed_before_child_runs() -> Result {
    let trap = Trap::lay_for_kernel()?;
    let call = Clone3::new(Flags::KILLED_NNP | Flags::CLONE_PARENT_SETTID).parent_tid(trap.address());
    let (ran, report) = pipe_with(PipeFlags::CLOEXEC)?;
    let run = || {
        // The parent takes a failure for a child that did not run, which is then alive.
        let _ = rustix::io::write(&report, b"r");
        park()
    };
    let fd = lowest_free_fd()?;
    let close_it = || {
        let pid = pid_in_fdinfo(fd).ok_or_else(|| {
            Failure::fail(format!("no pidfd at descriptor {fd} while {call} writes the child's tid"))
        })?;
        let observer = Pidfd::open(pid)?;
        close(fd)?;
        Ok(observer)
    };
    let (mut child, observer) = in_the_middle(&call, &trap, run, close_it)?;
    // Its number is closed already.
    std::mem::forget(child.take_pidfd());
    let when = "a child whose pidfd was closed before it ran";
    observer.gone_with(child.pid(), Status::SIGKILLED).context(when)?;
    drop(report);
    check::equal("what the child wrote", channel::read_byte(&ran)?, None)
}
