//! CLONE_PIDFD_AUTOKILL with CLONE_FILES: a child that shares the descriptor table that holds its own pidfd.

use std::os::fd::AsRawFd;

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Clone3, lowest_free_fd};
use clone3_conformance::kit::meeting::parent_and_child;
use clone3_conformance::kit::{AutokillChild, End, Gate, Holder, echo};
use clone3_conformance::pidfd::Pidfd;
use clone3_conformance::wait::Status;
use nix::sys::signal::Signal;
use nix::unistd::close;
use rustix::pipe::{PipeFlags, pipe_with};

const SHARING: Flags = Flags::KILLED_NNP.union(Flags::CLONE_FILES);

case! {
    /// With CLONE_FILES the child's own use of the shared descriptor table is a reference to its pidfd: the death of its creator
    /// does not kill it. Without CLONE_FILES it does.
    autokill_clone_files_child_holds: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "copy_files(): CLONE_FILES takes a reference to the table",
}
fn autokill_clone_files_child_holds() -> Result {
    for flags in [Flags::KILLED_NNP, SHARING] {
        let (creator, child) =
            parent_and_child(&Clone3::fork(), |meeting| Clone3::new(flags).spawn(|| meeting.attend()))?;
        creator.kill(Signal::SIGKILL)?;
        creator.reap_expecting(Status::SIGKILLED)?;
        if flags == SHARING {
            child.lives("after the death of its creator, whose table it shares")?;
            child.clear_away()?;
        } else {
            child.dies("after the death of its creator, the only holder")?;
        }
    }
    Ok(())
}

case! {
    /// A child that shares its creator's descriptors and closes its own pidfd kills itself: its close never
    /// returns.
    autokill_clone_files_child_closes_itself: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "pidfs_file_release() on the current process",
}
fn autokill_clone_files_child_closes_itself() -> Result {
    let control = Flags::REAPED | Flags::CLONE_FILES;
    for (flags, status, returns) in [(control, Status::exited(0), true), (SHARING, Status::SIGKILLED, false)]
    {
        for by_thread in [false, true] {
            let gate = Gate::new()?;
            let (said, say) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            let fd = lowest_free_fd()?;
            let close_and_say_so = || {
                let closed = close(fd).is_ok();
                let _ = rustix::io::write(&say, b"!");
                i32::from(!closed)
            };
            let mut child = Clone3::new(flags).spawn(|| {
                gate.wait();
                match by_thread {
                    true => std::thread::scope(|scope| scope.spawn(close_and_say_so).join().unwrap_or(98)),
                    false => close_and_say_so(),
                }
            })?;
            let (observer, pidfd) = (child.observe()?, child.take_pidfd()?);
            if pidfd.as_raw_fd() != fd {
                return Err(Failure::broken(format!("{pidfd} is not where it was to be: {fd}")));
            }
            // The child closes it for both.
            std::mem::forget(pidfd);
            gate.open()?;
            let what = format!("{flags}, closed by another thread than the leader: {by_thread}");
            observer.reaped_with(status).context(&what)?;
            let spoke = rustix::io::read(&said, &mut [0; 1]) == Ok(1);
            check::equal(format_args!("{what}: close returned in the child"), spoke, returns)?;
        }
    }
    Ok(())
}

case! {
    /// When a child that shares its creator's descriptors execs, it gets a table of its own, in which its pidfd is close-on-exec:
    /// it lives on while the creator's table holds the pidfd, and dies if the creator is gone.
    autokill_clone_files_exec: Is, needs [Autoreap, Nnp, Autokill, ExitInfo],
    source "begin_new_exec(): unshare_files(), do_close_on_exec()",
}
fn autokill_clone_files_exec() -> Result {
    let (line, echoer) = echo::line()?;
    let command = echoer.command()?;
    let mut child = Clone3::new(SHARING).spawn(|| {
        let _ = command.exec();
        98
    })?;
    // Only the new program answers, and from then on there are two tables.
    let autokill_child = AutokillChild::met(child.pid(), child.observe()?, line)?;
    drop(echoer);
    autokill_child.lives("after its exec, with its creator alive")?;
    child.close_pidfd()?;
    autokill_child.dies("after its exec and its creator's close")?;

    let (gate, alive) = (Gate::new()?, Gate::new()?);
    let (creator, pid) = Holder::running(|| {
        let child = Clone3::new(SHARING).spawn(|| {
            gate.wait();
            let _ = alive.open();
            gate.wait();
            let _ = command.exec();
            98
        })?;
        let pid = child.pid();
        // The pidfd stays open until the creator is gone.
        std::mem::forget(child);
        Ok(pid)
    })?;
    let observer = Pidfd::open(pid)?;
    creator.end(End::Killed)?;
    gate.open()?;
    alive.wait_for(&observer).context("after its creator's end, which has the other table")?;
    gate.open()?;
    observer.reaped_with(Status::SIGKILLED)
}
