//! Changing whatever a process passes on to its children or keeps across exec, so that a difference shows: see
//! [`inherited`](crate::kit::inherited).

use std::ffi::c_int;
use std::num::NonZeroU64;

use nix::sys::personality::{self, Persona};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};
use rustix::fs::Mode;
use rustix::process::{getpid, nice, set_child_subreaper, set_parent_process_death_signal};
use rustix::thread::set_current_timer_slack;

use crate::arch;
use crate::check::Result;
use crate::kit::disposition::{self, Disposition};
use crate::kit::inherited::{membarrier, prctl};
use crate::kit::process::set_scheduler;
use crate::kit::{alternate_stack, oom_score_adj, processors, timer, usage};

/// `PR_SET_IO_FLUSHER` of `linux/prctl.h`.
const PR_SET_IO_FLUSHER: c_int = 57;
/// `MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED` of `linux/membarrier.h`.
const MEMBARRIER_REGISTER: c_int = 1 << 4;
/// In seconds: longer than any case.
const LONG: libc::time_t = 100_000;

/// Soft limits; the first two are raised, for which only some have the permission.
const LIMITS: [(Resource, u64); 6] = [
    (Resource::RLIMIT_NICE, 12),
    (Resource::RLIMIT_RTPRIO, 7),
    (Resource::RLIMIT_CORE, 1 << 21),
    (Resource::RLIMIT_MSGQUEUE, 1 << 16),
    (Resource::RLIMIT_RTTIME, 1 << 30),
    (Resource::RLIMIT_SIGPENDING, 500),
];

/// Changes everything inheritable that the calling process can change.
///
/// # Errors
/// Of what everybody may change.
pub fn change_everything() -> Result {
    usage::touch_at_once()?;
    change_by_calls();
    change_limits()?;
    change_signals()?;
    alternate_stack::set()?;
    // Not everybody may do these.
    let _ = personality::get().and_then(|now| personality::set(now | Persona::ADDR_NO_RANDOMIZE));
    let _ = processors::stay_on_first();
    let _ = set_scheduler(libc::SCHED_RR, 1).or_else(|_| set_scheduler(libc::SCHED_BATCH, 0));
    rustix::process::umask(Mode::from_raw_mode(0o027));
    std::fs::write(oom_score_adj::OWN, oom_score_adj::own_raised_by(18)?.to_string())?;
    // The kernel may be built without core dumps.
    let _ = std::fs::write("/proc/self/coredump_filter", "3");
    rustix::thread::set_name(c"heir")?;
    nice(3)?;
    set_current_timer_slack(NonZeroU64::new(123_456))?;
    rustix::process::chdir("/proc")?;
    set_child_subreaper(Some(getpid()))?;
    Ok(set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?)
}

/// Gives the calling thread other ids for access to files, if it has the privilege.
pub fn change_file_system_user() {
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(1));
    nix::unistd::setfsgid(nix::unistd::Gid::from_raw(1));
}

/// Changes what prctl(2), mlock(2), membarrier(2) and others can, as far as the kernel has and permits it: capabilities kept when user
/// id 0 is given up, no huge pages, no new executable memory, a locked page, a registration, timers …
fn change_by_calls() {
    let page = Box::leak(vec![1_u8; 4096].into_boxed_slice());
    // SAFETY: the page is live.
    let _ = unsafe { rustix::mm::mlock(page.as_mut_ptr().cast(), page.len()) };
    membarrier(MEMBARRIER_REGISTER);
    prctl(libc::PR_SET_KEEPCAPS, [1, 0]);
    prctl(libc::PR_SET_THP_DISABLE, [1, 0]);
    prctl(libc::PR_SET_MDWE, [libc::PR_MDWE_REFUSE_EXEC_GAIN as libc::c_ulong, 0]);
    prctl(PR_SET_IO_FLUSHER, [1, 0]);
    let early = [libc::PR_MCE_KILL_SET, libc::PR_MCE_KILL_EARLY].map(|word| word as libc::c_ulong);
    prctl(libc::PR_MCE_KILL, early);
    arch::set_spare_register(0x1234_5000);
    set_io_priority();
    set_interval_timers();
    // The kernel may be built without POSIX timers.
    let _ = timer::keep_one();
}

/// Gives the caller the best-effort I/O priority 6 (ioprio_set(2)), if the kernel has such priorities.
fn set_io_priority() {
    const WHO_PROCESS: c_int = 1;
    const BEST_EFFORT_6: c_int = 2 << 13 | 6;
    // SAFETY: no pointers are passed.
    unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, BEST_EFFORT_6) };
}

/// Sets the interval timers that count CPU time, so that they do not expire.
fn set_interval_timers() {
    let zero = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let once = libc::itimerval { it_interval: zero, it_value: libc::timeval { tv_sec: LONG, tv_usec: 0 } };
    for which in [libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: the timer is live; the old one is not asked for.
        unsafe { libc::setitimer(which, &once, std::ptr::null_mut()) };
    }
}

fn change_limits() -> Result {
    let (_, most) = getrlimit(Resource::RLIMIT_STACK)?;
    setrlimit(Resource::RLIMIT_STACK, most.min(1 << 20), most.min(1 << 22))?;
    for (resource, soft) in LIMITS {
        let (_, most) = getrlimit(resource)?;
        if setrlimit(resource, soft, most.max(soft)).is_err() {
            setrlimit(resource, soft.min(most), most)?;
        }
    }
    Ok(())
}

/// Ignores, catches and blocks some signals, and has one pending.
fn change_signals() -> Result {
    disposition::set(Signal::SIGUSR2, Disposition::Ignored)?;
    disposition::catch_masking(Signal::SIGHUP, SigSet::from(Signal::SIGURG))?;
    disposition::catch(libc::SIGRTMIN());
    SigSet::from(Signal::SIGUSR1).thread_block()?;
    Ok(raise(Signal::SIGUSR1)?)
}
