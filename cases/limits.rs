//! What the kernel counts of an auto-reaped child, and counts no more when it has ended.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::process::{apart, child_reporting, reap_all};
use clone3_conformance::kit::subject::reaped;
use clone3_conformance::kit::{Held, disposition, privilege, subject};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;

use super::resources::become_lonely_user;

case! {
    /// The signals that an auto-reaped child leaves pending no longer count against its user's RLIMIT_SIGPENDING when it has
    /// ended; those of a zombie do not either.
    autoreap_releases_rlimit_sigpending: Must, needs [Autoreap, ExitInfo],
    source "getrlimit(2), RLIMIT_SIGPENDING; kernel/exit.c release_task() (flush_sigqueue())",
}
fn autoreap_releases_rlimit_sigpending() -> Result {
    const LIMIT: u64 = 16;
    become_lonely_user()?;
    // nix has no name for this one.
    let limit = rustix::process::Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
    rustix::process::setrlimit(rustix::process::Resource::Sigpending, limit).map_err(|errno| {
        Failure::blocked(format!("RLIMIT_SIGPENDING lets no signal be queued: {LIMIT} of them is {errno:?}"))
    })?;
    // Each for the same user, with nothing but its own number of signals pending.
    let queue = |number: u64| {
        SigSet::all().thread_block()?;
        let queued = (0..number).map(|_| disposition::queue(libc::SIGRTMIN()));
        Ok::<_, Failure>(
            queued.collect::<std::result::Result<Vec<()>, Errno>>().map(drop).map_err(|errno| errno as i32),
        )
    };
    let beyond = apart(|| queue(LIMIT + 4))?;
    if beyond.is_ok() {
        return Err(Failure::blocked("RLIMIT_SIGPENDING does not limit this user"));
    }
    check::equal("control: sigqueue beyond the limit", beyond.map_err(Errno::from_raw), Err(Errno::EAGAIN))?;
    for call in subject::calls() {
        for round in 1..=6 {
            let (child, queued) = child_reporting(&call, || queue(LIMIT / 2))?;
            subject::see_off(&child)?;
            let what = format!("sigqueue in child {round} of {call}, each with half of what is allowed");
            check::equal(what, queued.map_err(Errno::from_raw), Ok(()))?;
        }
    }
    Ok(())
}

case! {
    /// An auto-reaped child that has become another user is, when it has ended, taken off that user's RLIMIT_NPROC, as an ordinary
    /// one is that was waited for.
    autoreap_releases_rlimit_nproc_of_new_user: Must, needs [Autoreap, ExitInfo, Root],
    source "getrlimit(2), RLIMIT_NPROC; kernel/exit.c release_task()",
}
fn autoreap_releases_rlimit_nproc_of_new_user() -> Result {
    const LIMIT: u32 = 4;
    let user = privilege::unused_id();
    let full = || {
        privilege::become_user(user)?;
        setrlimit(Resource::RLIMIT_NPROC, LIMIT.into(), LIMIT.into())?;
        let made: Vec<_> = (1..LIMIT).map(|_| Clone3::fork().try_spawn(|| 0)).collect();
        let one_more = Clone3::fork().try_spawn(|| 0);
        reap_all()?;
        Ok((made.iter().all(std::result::Result::is_ok), one_more.is_ok()))
    };
    for call in subject::calls() {
        for _ in 0..=LIMIT {
            let (child, ()) = child_reporting(&call, || privilege::become_user(user))?;
            subject::see_off(&child)?;
        }
        let (allowed, beyond) = apart(full)?;
        if beyond {
            return Err(Failure::blocked("RLIMIT_NPROC does not limit this user"));
        }
        let what =
            format!("as many processes as RLIMIT_NPROC allows, after {} children of {call}", LIMIT + 1);
        check::equal(what, allowed, true)?;
    }
    Ok(())
}

/// How many threads and processes the kernel counts: in sysinfo(2), and in the links of /proc.
fn counted() -> Result<[i64; 2]> {
    let links = rustix::fs::stat("/proc")?.st_nlink;
    Ok([i64::from(rustix::system::sysinfo().procs), links as i64])
}

/// How many children are made for a count: more than others on this machine may begin meanwhile.
const MANY: i64 = 96;

/// The least by which these counts have grown when as many children of this call are gone. Should others on this machine begin too
/// much meanwhile, it is done again.
fn left_in_counts(call: &Clone3) -> Result<[i64; 2]> {
    const TRIES: u32 = 4;
    let mut left = [i64::MAX; 2];
    for _ in 0..TRIES {
        let before = counted()?;
        for _ in 0..MANY {
            subject::see_off(&call.spawn(|| 0)?)?;
        }
        for ((least, after), before) in left.iter_mut().zip(counted()?).zip(before) {
            *least = (*least).min(after - before);
        }
        if !is_much(left) {
            break;
        }
    }
    Ok(left)
}

fn is_much(left: [i64; 2]) -> bool {
    left.iter().any(|count| *count >= MANY / 2)
}

/// The control: as long as auto-reaped children live they are counted.
fn living_are_counted() -> Result {
    for _ in 0..8 {
        let before = counted()?;
        let living: Vec<Held> =
            (0..MANY / 2).map(|_| Held::exiting_with(&reaped(), 0)).collect::<Result<_>>()?;
        let after = counted()?;
        for child in living {
            child.into_child().clear_away()?;
        }
        if before.iter().zip(after).all(|(before, after)| after - before > MANY / 8) {
            return Ok(());
        }
    }
    Err(Failure::blocked("control: living children are not seen in the counts: too much else ends meanwhile"))
}

case! {
    /// Auto-reaped children that have ended are neither in the kernel's count of threads, which sysinfo() tells, nor in that of
    /// processes, which the link count of /proc tells.
    autoreap_leaves_counts: Must, needs [Autoreap, ExitInfo, Proc],
    source "sysinfo(2); kernel/exit.c __unhash_process()",
}
fn autoreap_leaves_counts() -> Result {
    let left = left_in_counts(&reaped())?;
    if is_much(left) && is_much(left_in_counts(&Clone3::fork().with(Flags::PIDFD))?) {
        return Err(Failure::blocked("too much else begins on this machine meanwhile"));
    }
    check::holds(
        !is_much(left),
        format_args!(
            "threads and processes counted more after {MANY} children: expected about 0, got {left:?}"
        ),
    )?;
    living_are_counted()
}
