//! Limits, cgroups, pids and kernel counters against which an auto-reaped child counts while it lives, but no longer once it
//! has ended.

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Failure, Named, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::kit::privilege::become_unused_user;
use clone3_conformance::kit::process::{child_reporting, in_child, reap_all, spawn_once_free};
use clone3_conformance::kit::subject::{leaves_zombie, reaped};
use clone3_conformance::kit::{Cgroup, Gate, Held, Orphan, disposition, privilege, subject};
use clone3_conformance::need::rounds;
use clone3_conformance::procfs::Stat;
use clone3_conformance::sandbox::is_half_time_left;
use clone3_conformance::wait::{self, Status};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;

case! {
    /// An auto-reaped child no longer counts against RLIMIT_NPROC once it has ended, where an unreaped zombie
    /// does.
    autoreap_releases_rlimit_nproc: Must, needs [Autoreap],
    source "commit \"clone: add CLONE_AUTOREAP\" (never a zombie); kernel/exit.c release_task()",
}
fn autoreap_releases_rlimit_nproc() -> Result {
    const LIMIT: u32 = 4;
    become_unused_user()?;
    setrlimit(Resource::RLIMIT_NPROC, LIMIT.into(), LIMIT.into())?;
    let made: Vec<Child> = (0..LIMIT).map_while(|_| leaves_zombie().try_spawn(|| 0).ok()).collect();
    if made.len() == LIMIT as usize {
        return Err(Failure::blocked("RLIMIT_NPROC does not limit this user"));
    }
    for child in &made {
        wait::find_zombie(child.pid())?;
    }
    let one_more = leaves_zombie().try_spawn(|| 0).map(|child| child.pid());
    let what = format!("control: a child beside {} zombies, with RLIMIT_NPROC {LIMIT}", made.len());
    check::refused(what, one_more, Errno::EAGAIN)?;
    reap_all()?;
    for _ in rounds(5 * LIMIT) {
        reaped().spawn(|| 0)?.pidfd()?.wait_reaped()?;
    }
    Ok(())
}

/// Returns pids.current after a child in this cgroup has ended.
fn charge_of(group: &Cgroup, child: &Child, end: fn(&Child) -> Result) -> Result<String> {
    end(child)?;
    group.wait_for("populated 0")?;
    Ok(group.read("pids.current")?.trim_end().to_owned())
}

case! {
    /// An auto-reaped child that has ended is no longer charged to its cgroup (pids.current); a zombie is.
    autoreap_releases_cgroup: Must, needs [Autoreap, Cgroup2],
    source "commit \"clone: add CLONE_AUTOREAP\" (never a zombie); kernel/cgroup/pids.c pids_release()",
}
fn autoreap_releases_cgroup() -> Result {
    subject::each_reaped(|call| {
        let group = Cgroup::create(&["pids"])?;
        let zombie = leaves_zombie().into_cgroup(group.dir()).spawn(|| 0)?;
        let charge = charge_of(&group, &zombie, |child| wait::find_zombie(child.pid()).map(drop))?;
        check::equal("control: pids.current with a zombie", &charge[..], "1")?;
        wait::reap(zombie.pid())?;

        let child = call.clone().into_cgroup(group.dir()).spawn(|| 0)?;
        let charge = charge_of(&group, &child, |child| child.pidfd()?.wait_reaped())?;
        check::equal("pids.current after an auto-reaped child", &charge[..], "0")?;
        group.remove()
    })
}

case! {
    /// The pid of an auto-reaped child that has ended can be reused, unlike a zombie's; the old pidfd still refers to the dead
    /// process.
    autoreap_pid_reusable: Must, needs [Autoreap, ExitInfo, CheckpointRestore],
    source "commit \"clone: add CLONE_AUTOREAP\" (never a zombie); kernel/pid.c free_pid()",
}
fn autoreap_pid_reusable() -> Result {
    subject::each_reaped(|call| {
        let zombie = leaves_zombie().spawn(|| 0)?;
        wait::find_zombie(zombie.pid())?;
        leaves_zombie().set_tid(&[zombie.pid()]).refused(Errno::EEXIST)?;
        wait::reap(zombie.pid())?;

        let old = call.spawn(|| 42)?;
        let pidfd = old.pidfd()?;
        pidfd.reaped_with(Status::exited(42))?;
        let gate = Gate::new()?;
        let new = spawn_once_free(&call.clone().set_tid(&[old.pid()]), || {
            gate.wait();
            7
        })?;
        check::equal("the pid that set_tid asked for", new.pid(), old.pid())?;
        check::refused("pidfd_send_signal(0) on the old pidfd", pidfd.send_raw_signal(0), Errno::ESRCH)?;
        check::equal(
            "poll on the old pidfd",
            pidfd.poll_now(PollFlags::POLLIN)?,
            PollFlags::POLLIN | PollFlags::POLLHUP,
        )?;
        let info = check::succeeds("PIDFD_GET_INFO(EXIT) on the old pidfd", pidfd.info(InfoMask::EXIT))?;
        check::equal(
            "exit_code in PIDFD_GET_INFO(EXIT) on the old pidfd",
            Status(info.exit_code),
            Status::exited(42),
        )?;
        check::equal("poll on the new pidfd", new.pidfd()?.poll_now(PollFlags::POLLIN)?, PollFlags::empty())?;
        gate.open()?;
        new.pidfd()?.reaped_with(Status::exited(7))
    })
}

fn exit_signal_of(pid: i32) -> Result<i32> {
    let stat = Stat::of(pid).ok_or_else(|| Failure::broken(format!("no /proc/{pid}/stat")))?;
    Ok(stat.exit_signal)
}

case! {
    /// The exit signal in /proc/PID/stat of an auto-reaped child is 0 at birth, and SIGCHLD after its exec or
    /// after it was reparented.
    autoreap_exit_signal_field: Is, needs [Autoreap, Proc],
    source "fs/exec.c de_thread(); kernel/exit.c reparent_leader(); proc_pid_stat(5)",
}
fn autoreap_exit_signal_field() -> Result {
    subject::each_reaped(|call| {
        let ordinary = Held::exiting_with(&Clone3::fork(), 0)?;
        check::equal(
            "control: exit signal in /proc/PID/stat of an ordinary child",
            exit_signal_of(ordinary.pid())?,
            libc::SIGCHLD,
        )?;
        ordinary.into_child().clear_away()?;

        let field = |when| format!("exit signal in /proc/PID/stat of an auto-reaped child {when}");
        let born = Held::exiting_with(&call, 0)?;
        check::equal(field("at its birth"), exit_signal_of(born.pid())?, 0)?;
        born.into_child().clear_away()?;
        let execed = Held::execed(&call, 0)?;
        check::equal(field("after its exec"), exit_signal_of(execed.pid())?, libc::SIGCHLD)?;
        execed.into_child().clear_away()?;
        let orphan = Orphan::exiting_with(&call, 0)?;
        check::equal(field("after it was reparented"), exit_signal_of(orphan.pid)?, libc::SIGCHLD)?;
        orphan.let_go()?;
        orphan.pidfd.wait_reaped()
    })
}

case! {
    /// The signals that an auto-reaped child leaves pending no longer count against its user's RLIMIT_SIGPENDING when it has
    /// ended.
    autoreap_releases_rlimit_sigpending: Must, needs [Autoreap, ExitInfo],
    source "getrlimit(2), RLIMIT_SIGPENDING; kernel/exit.c release_task() (flush_sigqueue())",
}
fn autoreap_releases_rlimit_sigpending() -> Result {
    const LIMIT: u64 = 32;
    // The kernel uncharges them shortly after POLLHUP: the last few children may still hold theirs.
    const EACH: u64 = LIMIT / 8;
    become_unused_user()?;
    // nix has no name for this resource.
    let limit = rustix::process::Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
    rustix::process::setrlimit(rustix::process::Resource::Sigpending, limit).map_err(|errno| {
        Failure::blocked(format!(
            "RLIMIT_SIGPENDING lets no signal be queued: setting it to {LIMIT} fails with {}",
            Named(check::errno_of(errno))
        ))
    })?;
    let beyond = in_child(|| queue(LIMIT + 4))?;
    if beyond.is_ok() {
        return Err(Failure::blocked("RLIMIT_SIGPENDING does not limit this user"));
    }
    check::equal("control: sigqueue beyond the limit", beyond.map_err(Errno::from_raw), Err(Errno::EAGAIN))?;
    zombies_fill_the_queue(LIMIT / EACH, EACH)?;
    subject::each(|call| {
        for round in 1..=2 * LIMIT / EACH {
            let (child, queued) = child_reporting(&call, || queue(EACH))?;
            subject::wait_until_gone(&child)?;
            let what = format!("sigqueue of {EACH} signals, of {LIMIT} allowed, in child {round} of {call}");
            check::equal(what, queued.map_err(Errno::from_raw), Ok(()))?;
        }
        Ok(())
    })
}

/// Queues this many signals to the caller, which never takes them; returns the errno of the first one refused.
fn queue(number: u64) -> Result<std::result::Result<(), i32>> {
    SigSet::all().thread_block()?;
    let mut queued = (0..number).map(|_| disposition::queue(libc::SIGRTMIN()));
    Ok(queued.try_for_each(|queued| queued).map_err(|errno| errno as i32))
}

/// Checks, as a control, that this many zombies with `each` signals pending leave no room for those of one more.
///
/// # Errors
/// `blocked` if they do leave room, as on a kernel that drops pending signals before a process becomes a zombie.
fn zombies_fill_the_queue(number: u64, each: u64) -> Result {
    for _ in 0..number {
        let (child, queued) = child_reporting(&leaves_zombie(), || queue(each))?;
        check::equal("control: sigqueue", queued.map_err(Errno::from_raw), Ok(()))?;
        child.pidfd()?.wait_exited()?;
    }
    let (child, queued) = child_reporting(&leaves_zombie(), || queue(each))?;
    child.pidfd()?.wait_exited()?;
    reap_all()?;
    match queued {
        Ok(()) => {
            Err(Failure::blocked("the pending signals of zombies do not count against RLIMIT_SIGPENDING"))
        }
        refused => check::equal("control: sigqueue", refused.map_err(Errno::from_raw), Err(Errno::EAGAIN)),
    }
}

case! {
    /// An auto-reaped child that has become another user no longer counts against that user's RLIMIT_NPROC once it has ended, like
    /// an ordinary one that was waited for.
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
    subject::each(|call| {
        for _ in 0..=LIMIT {
            let (child, ()) = child_reporting(&call, || privilege::become_user(user))?;
            subject::wait_until_gone(&child)?;
        }
        let (allowed, beyond) = in_child(full)?;
        if beyond {
            return Err(Failure::blocked("RLIMIT_NPROC does not limit this user"));
        }
        let what =
            format!("as many processes as RLIMIT_NPROC allows, after {} children of {call}", LIMIT + 1);
        check::equal(what, allowed, true)?;
        Ok(())
    })
}

/// Number of threads by sysinfo(2), and of processes by the link count of /proc.
#[derive(Clone, Copy)]
struct Counts {
    threads: u16,
    processes: i64,
}

impl Counts {
    fn now() -> Result<Counts> {
        let links = rustix::fs::stat("/proc")?.st_nlink;
        Ok(Counts { threads: rustix::system::sysinfo().procs, processes: links as i64 })
    }

    fn growth_since(self, before: Counts) -> Growth {
        Growth {
            // sysinfo(2) reports the lower 16 bits.
            threads: self.threads.wrapping_sub(before.threads).cast_signed().into(),
            processes: self.processes - before.processes,
        }
    }
}

/// Increase or decrease of these counts.
#[derive(Clone, Copy, Debug)]
struct Growth {
    threads: i64,
    processes: i64,
}

impl Growth {
    /// Returns the larger of the two, as an absolute value.
    fn most(self) -> i64 {
        self.threads.abs().max(self.processes.abs())
    }
}

/// Returns how many children to create for one count: more than other processes on this machine may start or end meanwhile,
/// those of the suite, which runs a case on each processor, among them.
fn many() -> i64 {
    let processors = std::thread::available_parallelism().map_or(1, |number| number.get());
    (4 * processors as i64).max(64)
}

/// Returns what [`many`] children of this call leave in the counts when they are gone. Retries if too many other processes on
/// this machine start or end meanwhile.
fn left_in_counts(call: &Clone3) -> Result<Growth> {
    const TRIES: u32 = 4;
    let left = || {
        let before = Counts::now()?;
        for _ in 0..many() {
            if !is_half_time_left() {
                return Err(Failure::blocked(format!(
                    "too slow here to make {} children several times",
                    many()
                )));
            }
            subject::wait_until_gone(&call.spawn(|| 0)?)?;
        }
        Ok::<_, Failure>(Counts::now()?.growth_since(before))
    };
    let mut least = left()?;
    for _ in 1..TRIES {
        if !is_much(least) {
            break;
        }
        let again = left()?;
        if again.most() < least.most() {
            least = again;
        }
    }
    Ok(least)
}

fn is_much(left: Growth) -> bool {
    left.most() >= many() / 2
}

/// Returns whether children of this call are counted while they live. Retries, as other processes on this machine may end
/// meanwhile.
fn living_are_counted(call: &Clone3) -> Result<bool> {
    for _ in 0..8 {
        let before = Counts::now()?;
        let living: Vec<Held> =
            (0..many() / 2).map(|_| Held::exiting_with(call, 0)).collect::<Result<_>>()?;
        let growth = Counts::now()?.growth_since(before);
        for child in living {
            child.into_child().clear_away()?;
        }
        if growth.threads.min(growth.processes) > many() / 8 {
            return Ok(true);
        }
    }
    Ok(false)
}

case! {
    /// Auto-reaped children are counted in the kernel's number of threads (sysinfo(2)) and of processes (the link count of /proc)
    /// while they live, and in neither once they have ended.
    autoreap_leaves_counts: Is, needs [Autoreap, ExitInfo, Proc],
    source "kernel/exit.c __unhash_process(); fs/proc/root.c proc_root_getattr() (nr_processes()); sysinfo(2)",
}
fn autoreap_leaves_counts() -> Result {
    subject::each_reaped(|reaped| {
        let ordinary = Clone3::fork().with(Flags::PIDFD);
        let left = left_in_counts(&reaped)?;
        if is_much(left) && is_much(left_in_counts(&ordinary)?) {
            return Err(Failure::blocked("too much else begins or ends on this machine meanwhile"));
        }
        check::holds(
            !is_much(left),
            format_args!(
                "growth of the counts by {} auto-reaped children that have ended: expected about 0, got {left:?}",
                many()
            ),
        )?;
        if !living_are_counted(&ordinary)? {
            return Err(Failure::blocked(
                "ordinary living children are not seen in the counts: too much else ends meanwhile",
            ));
        }
        check::holds(
            living_are_counted(&reaped)?,
            format_args!(
                "{} living auto-reaped children are not seen in the counts, where ordinary ones are",
                many() / 2
            ),
        )
    })
}

/// Returns how many processes and threads the kernel has created since it booted.
fn created_since_boot() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let count = text.lines().find_map(|line| line.strip_prefix("processes ")?.trim().parse().ok());
    count.ok_or_else(|| Failure::blocked("/proc/stat has no count of processes"))
}

case! {
    /// Auto-reaped children are counted in the number of processes created since boot (/proc/stat), as ordinary ones are.
    autoreap_counted_as_created: Must, needs [Autoreap, ExitInfo, Proc],
    source "proc_stat(5), processes (\"number of forks since boot\")",
}
fn autoreap_counted_as_created() -> Result {
    // Many, because other processes are created meanwhile, too.
    const CHILDREN: u64 = 64;
    subject::each(|call| {
        let before = created_since_boot()?;
        for _ in 0..CHILDREN {
            subject::wait_until_gone(&call.spawn(|| 0)?)?;
        }
        let more = created_since_boot()? - before;
        let what = format_args!("processes created: expected at least {CHILDREN}, by {call}, got {more}");
        check::holds(more >= CHILDREN, what)
    })
}
