//! Code for children that may share their creator's memory: see [`Errand`].

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::signal::Signal;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::arch;
use crate::errand::Errand;
use crate::kit::Gate;
use crate::kit::disposition::{self, Disposition};
use crate::kit::{oom_score_adj, rseq};
use crate::stack::Stack;

/// Returns an errand that exits at once with this code.
pub fn exit(code: c_int) -> Errand {
    extern "C" fn exit(code: usize) -> c_int {
        code as c_int
    }
    // SAFETY: it accesses no memory.
    unsafe { Errand::small(exit, code as usize) }
}

/// Returns an errand that reads one byte from this descriptor, however long that takes, and exits with 0, or with 1 on error.
pub fn wait_for_input(fd: &impl AsFd) -> Errand {
    extern "C" fn wait(fd: usize) -> c_int {
        i32::from(rustix::io::read(borrowed(fd), &mut [0_u8; 1]).is_err())
    }
    // SAFETY: it makes one system call through rustix.
    unsafe { Errand::small(wait, number_of(fd)) }
}

/// Returns an errand that waits at this gate and exits with 0.
pub fn wait_at(gate: &'static Gate) -> Errand {
    extern "C" fn wait(gate: usize) -> c_int {
        // SAFETY: the address is that of a gate that is never freed.
        unsafe { &*(gate as *const Gate) }.wait();
        0
    }
    // SAFETY: waiting at a gate makes one system call through rustix.
    unsafe { Errand::small(wait, std::ptr::from_ref(gate) as usize) }
}

/// Returns an errand that yields the CPU many times, writes a byte to this descriptor and exits with `code`, or with 98 on error.
pub fn dawdle_and_say_so(fd: &impl AsFd, code: u8) -> Errand {
    extern "C" fn dawdle(both: usize) -> c_int {
        let (fd, code) = (both >> 8, both & 0xff);
        for _ in 0..100 {
            rustix::thread::sched_yield();
        }
        if rustix::io::write(borrowed(fd), b"r") == Ok(1) { code as c_int } else { 98 }
    }
    // SAFETY: it makes system calls through rustix only.
    unsafe { Errand::small(dawdle, number_of(fd) << 8 | usize::from(code)) }
}

/// Returns an errand that exits with 1 if no_new_privs is set, with 0 if not.
pub fn tell_no_new_privs() -> Errand {
    extern "C" fn tell(_: usize) -> c_int {
        i32::from(rustix::thread::no_new_privs() == Ok(true))
    }
    // SAFETY: it makes one system call through rustix.
    unsafe { Errand::small(tell, 0) }
}

/// Returns an errand that exits with 0 if this is its thread-local storage, with 1 if not.
pub fn look_for_tls_at(storage: &'static [u64]) -> Errand {
    extern "C" fn look(address: usize) -> c_int {
        i32::from(arch::thread_pointer() != address as u64)
    }
    // SAFETY: it makes one system call without the C library.
    unsafe { Errand::small(look, storage.as_ptr() as usize) }
}

/// Returns an errand that exits with 1 if it runs on this stack, with 0 if not.
pub fn tell_whether_on(stack: &Stack) -> Errand {
    extern "C" fn tell(base: usize) -> c_int {
        let here = (&raw const base).addr();
        i32::from((base..base + Stack::SIZE).contains(&here))
    }
    // SAFETY: it makes no call.
    unsafe { Errand::small(tell, stack.base() as usize) }
}

/// Returns an errand that makes itself undumpable (`PR_SET_DUMPABLE`) and exits with 0, or with 1 on error.
pub fn become_undumpable() -> Errand {
    extern "C" fn become_undumpable(_: usize) -> c_int {
        i32::from(set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err())
    }
    // SAFETY: it makes one system call through rustix.
    unsafe { Errand::small(become_undumpable, 0) }
}

/// Returns an errand that ignores this signal and exits with 0, or with 1 on error.
pub fn ignore(signal: Signal) -> Errand {
    extern "C" fn ignore(number: usize) -> c_int {
        let signal = Signal::try_from(number as c_int);
        i32::from(!signal.is_ok_and(|signal| disposition::set(signal, Disposition::Ignored).is_ok()))
    }
    // SAFETY: it has no preconditions.
    unsafe { Errand::whole(ignore, signal as usize) }
}

/// Returns an errand that reads from an unmapped address, and exits with 94 if it survives that.
pub fn crash() -> Errand {
    extern "C" fn crash(_: usize) -> c_int {
        arch::load(std::ptr::without_provenance(8));
        94
    }
    // SAFETY: it makes no call and accesses no memory of anybody's.
    unsafe { Errand::small(crash, 0) }
}

/// Returns an errand that raises its own oom_score_adj by one, and exits with 0, or with 1 on error.
pub fn raise_oom_score_adj() -> Errand {
    extern "C" fn raise(_: usize) -> c_int {
        let raised = oom_score_adj::own_raised_by(1)
            .and_then(|higher| Ok(std::fs::write(oom_score_adj::OWN, higher.to_string())?));
        i32::from(raised.is_err())
    }
    // SAFETY: it has no preconditions.
    unsafe { Errand::whole(raise, 0) }
}

/// Returns an errand that registers an area for restartable sequences, and exits with 0 or the errno.
pub fn register_rseq() -> Errand {
    extern "C" fn register(_: usize) -> c_int {
        rseq::register().err().map_or(0, |errno| errno as c_int)
    }
    // SAFETY: it has no preconditions.
    unsafe { Errand::whole(register, 0) }
}

/// Returns an errand for a child that should not exist: it reports its existence through this pipe.
pub(crate) fn trip(wire: &impl AsFd) -> Errand {
    extern "C" fn trip(wire: usize) -> c_int {
        // There is no other way to report an error.
        let _ = rustix::io::write(borrowed(wire), b"x");
        99
    }
    // SAFETY: it makes one system call through rustix.
    unsafe { Errand::small(trip, number_of(wire)) }
}

fn number_of(fd: &impl AsFd) -> usize {
    fd.as_fd().as_raw_fd() as usize
}

/// Returns the descriptor with this number, which the child has inherited from its creator.
fn borrowed(fd: usize) -> BorrowedFd<'static> {
    // SAFETY: it was open when the errand was made; a child that shares a table in which it has been closed since gets EBADF.
    unsafe { BorrowedFd::borrow_raw(fd as RawFd) }
}
