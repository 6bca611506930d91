//! CLONE_AUTOREAP combined with the other flags and fields of clone3.

use std::collections::BTreeSet;

use clone3_conformance::abi::{Flags, InfoMask};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, Stack};
use clone3_conformance::errand::Errand;
use clone3_conformance::kit::disposition::{self, Disposition};
use clone3_conformance::kit::meeting::parent_and_child;
use clone3_conformance::kit::process::{child_reporting, reap_all};
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::{Cgroup, Gate, Held, errands, namespace, subject, threads};
use clone3_conformance::note;
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use rustix::pipe::{PipeFlags, pipe_with};

const CODE: i32 = 33;

/// Returns what children do here by default: they exit.
fn leave() -> Errand {
    errands::exit(CODE)
}

/// Starts a child that runs this errand, on its own stack if it shares memory.
#[track_caller]
fn start(call: &Clone3, errand: Errand) -> Result<Child> {
    if call.flags().contains(Flags::CLONE_VM) {
        call.spawn_on(&Stack::new()?, errand)
    } else {
        call.spawn(|| errand.run())
    }
}

#[track_caller]
fn vanishes(child: &Child) -> Result {
    child.is_gone_with(Status::exited(CODE))
}

/// Checks that a child with these flags and CLONE_AUTOREAP is gone without a wait, and that with the flags alone it is a
/// zombie.
#[track_caller]
fn auto_reaping_works_with(flags: Flags) -> Result {
    let ordinary = start(&Clone3::new(flags | Flags::PIDFD), leave())?;
    ordinary.is_a_zombie(CODE).context("control without CLONE_AUTOREAP")?;
    ordinary.reap_expecting(Status::exited(CODE))?;
    vanishes(&start(&Clone3::new(flags | Flags::REAPED), leave())?)
}

case! {
    /// CLONE_AUTOREAP works for a child that shares memory, signal handlers, descriptors, directories, I/O
    /// context or semaphore undo with its creator.
    autoreap_with_vm_sighand_files_fs: Must, needs [Autoreap, ExitInfo],
    source "commit \"clone: add CLONE_AUTOREAP\", which names the flags it excludes; clone(2)",
}
fn autoreap_with_vm_sighand_files_fs() -> Result {
    for shared in [
        Flags::CLONE_VM,
        Flags::CLONE_VM | Flags::CLONE_SIGHAND,
        Flags::CLONE_FILES,
        Flags::CLONE_FS,
        Flags::CLONE_IO,
        Flags::CLONE_SYSVSEM,
    ] {
        auto_reaping_works_with(shared).context(shared)?;
    }
    Ok(())
}

case! {
    /// An auto-reaped child that suspends its creator (CLONE_VFORK) lives on when the creator is killed, as an ordinary one does.
    autoreap_vfork_outlives_killed_creator: Must, needs [Autoreap, ExitInfo, Proc],
    source "clone(2), CLONE_VFORK; kernel/fork.c wait_for_vfork_done() (TASK_KILLABLE)",
}
fn autoreap_vfork_outlives_killed_creator() -> Result {
    subject::each_unrestricted(|call| {
        let call = call.with(Flags::CLONE_VFORK);
        let (creator, child) = parent_and_child(&Clone3::fork(), |meeting| call.spawn(|| meeting.attend()))?;
        threads::wait_until_process_is_blocked(creator.pid())?;
        creator.kill(Signal::SIGKILL)?;
        creator.reap_expecting(Status::SIGKILLED)?;
        child.lives("after the death of the creator that it suspended")?;
        check::succeeds("pidfd_send_signal(SIGKILL)", child.observer().send_signal(Signal::SIGKILL))?;
        ends_by_its_kind(&call, child.pid(), child.observer(), Status::SIGKILLED)
    })
}

case! {
    /// An auto-reaped child that ends while its creator waits for another child (CLONE_VFORK) is gone at once; an ordinary one is a
    /// zombie then.
    autoreap_gone_while_creator_waits_for_vfork: Must, needs [Autoreap, ExitInfo, Proc],
    source "commit \"clone: add CLONE_AUTOREAP\"; clone(2), CLONE_VFORK; kernel/signal.c do_notify_parent()",
}
fn autoreap_gone_while_creator_waits_for_vfork() -> Result {
    subject::each_unrestricted(|call| {
        let gate = Gate::new()?;
        let (creator, child) = parent_and_child(&Clone3::fork(), |meeting| {
            let first = call.spawn(|| meeting.attend())?;
            Clone3::fork().with(Flags::CLONE_VFORK).spawn(|| {
                gate.wait();
                0
            })?;
            Ok(first)
        })?;
        threads::wait_until_process_is_blocked(creator.pid())?;
        check::succeeds("pidfd_send_signal(SIGKILL)", child.observer().send_signal(Signal::SIGKILL))?;
        if call.flags().contains(Flags::AUTOREAP) {
            child.observer().gone_with(child.pid(), Status::SIGKILLED)?;
        } else {
            child.observer().wait_exited()?;
        }
        gate.open()?;
        creator.kill(Signal::SIGKILL)?;
        creator.reap_expecting(Status::SIGKILLED)?;
        // Now its children are the caller's.
        reap_all()
    })
}

case! {
    /// A cgroup freezes although a process in it waits for its auto-reaped CLONE_VFORK child, which is in another cgroup, as with an
    /// ordinary child.
    autoreap_vfork_wait_can_be_frozen: Must, needs [Autoreap, ExitInfo, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze; kernel/fork.c wait_for_vfork_done() (cgroup_enter_frozen())",
}
fn autoreap_vfork_wait_can_be_frozen() -> Result {
    subject::each(|call| {
        let call = call.with(Flags::CLONE_VFORK);
        let (frozen, free) = (Cgroup::create(&[])?, Cgroup::create(&[])?);
        let make = Clone3::fork().into_cgroup(frozen.dir());
        let (creator, child) = parent_and_child(&make, |meeting| call.spawn(|| meeting.attend()))?;
        free.admit(child.pid())?;
        frozen.write("cgroup.freeze", "1")?;
        let what = format!("a cgroup with a process that waits for its child of {call}");
        frozen.wait_for("frozen 1").context(what)?;
        frozen.write("cgroup.freeze", "0")?;
        creator.kill(Signal::SIGKILL)?;
        creator.reap_expecting(Status::SIGKILLED)?;
        // This fails if the end of the creator has killed an auto-kill child already.
        let _ = child.observer().send_signal(Signal::SIGKILL);
        ends_by_its_kind(&call, child.pid(), child.observer(), Status::SIGKILLED)?;
        frozen.remove()?;
        free.remove()
    })
}

case! {
    /// With CLONE_VFORK the creator of an auto-reaped child resumes when the child exits or execs, and not before; the child is
    /// auto-reaped all the same.
    autoreap_with_vfork: Must, needs [Autoreap, ExitInfo],
    source "clone(2), CLONE_VFORK; kernel/fork.c kernel_clone()",
}
fn autoreap_with_vfork() -> Result {
    let (hears, said) = pipe_with(PipeFlags::CLOEXEC)?;
    for flags in [Flags::CLONE_VFORK, Flags::CLONE_VFORK | Flags::CLONE_VM] {
        let child =
            start(&Clone3::new(flags | Flags::REAPED), errands::dawdle_and_say_so(&said, CODE as u8))?;
        let heard = rustix::io::ioctl_fionread(&hears)?;
        check::equal(format_args!("bytes from the child with {flags} when clone3 returned"), heard, 1)?;
        rustix::io::read(&hears, &mut [0_u8; 1])?;
        vanishes(&child).context(flags)?;
    }
    // The child is still held at its gate when clone3 has returned, so its exec resumed the creator.
    let execed = Held::execed(&Clone3::new(Flags::REAPED | Flags::CLONE_VFORK), CODE)?;
    execed.let_go()?;
    vanishes(&execed)
}

case! {
    /// In an auto-reaped child, CLONE_CLEAR_SIGHAND resets the signals that its creator catches and keeps those that it ignores;
    /// without the flag the child inherits both. The creator's own stay as they are.
    autoreap_with_clear_sighand: Must, needs [Autoreap, ExitInfo],
    source "clone(2), CLONE_CLEAR_SIGHAND; kernel/fork.c copy_sighand()",
}
fn autoreap_with_clear_sighand() -> Result {
    use Disposition::{Caught, Default, Ignored};
    disposition::set(Signal::SIGUSR1, Caught)?;
    disposition::set(Signal::SIGUSR2, Ignored)?;
    for (flag, expected) in
        [(Flags::empty(), (Caught, Ignored)), (Flags::CLONE_CLEAR_SIGHAND, (Default, Ignored))]
    {
        let call = Clone3::new(Flags::REAPED | flag);
        let (child, found) = child_reporting(&call, || {
            Ok((disposition::of(Signal::SIGUSR1)?, disposition::of(Signal::SIGUSR2)?))
        })?;
        check::equal(format_args!("what a child of {call} does with SIGUSR1, SIGUSR2"), found, expected)?;
        let own = (disposition::of(Signal::SIGUSR1)?, disposition::of(Signal::SIGUSR2)?);
        check::equal("what its creator does with SIGUSR1, SIGUSR2", own, (Caught, Ignored))?;
        child.is_gone_with(Status::exited(0))?;
    }
    Ok(())
}

case! {
    /// CLONE_AUTOREAP works for a child in new namespaces of each kind: if the kernel creates the namespace, the child is
    /// auto-reaped; if not, the error is the same as without CLONE_AUTOREAP.
    autoreap_with_namespaces: Must, needs [Autoreap, ExitInfo, SysAdmin],
    source "commit \"clone: add CLONE_AUTOREAP\", which names the flags it excludes; namespaces(7)",
}
fn autoreap_with_namespaces() -> Result {
    let mut made = 0;
    for new in [
        Flags::CLONE_NEWNS,
        Flags::CLONE_NEWPID,
        Flags::CLONE_NEWUSER,
        Flags::CLONE_NEWUSER | Flags::CLONE_NEWPID,
        Flags::CLONE_NEWNET,
        Flags::CLONE_NEWTIME,
        Flags::CLONE_NEWCGROUP,
        Flags::CLONE_NEWUTS | Flags::CLONE_NEWIPC,
        Flags::CLONE_EMPTY_MNTNS,
    ] {
        match Clone3::new(new).try_spawn(|| CODE) {
            Ok(ordinary) => {
                ordinary.is_a_zombie(CODE).context("control without CLONE_AUTOREAP")?;
                ordinary.reap_expecting(Status::exited(CODE))?;
                vanishes(&start(&Clone3::new(new | Flags::REAPED), leave())?).context(new)?;
                made += 1;
            }
            // Not configured in this kernel, or not permitted here.
            Err(errno) => Clone3::new(new | Flags::REAPED).refused(errno)?,
        }
    }
    note!("{made} kinds of namespaces were made");
    if made == 0 { Err(Failure::blocked("no kind of namespace can be made")) } else { Ok(()) }
}

case! {
    /// An auto-reaped child starts in the cgroup given with CLONE_INTO_CGROUP. Its exit information keeps the id of the cgroup in
    /// which it ended, even if it was moved there and even after that cgroup is removed.
    autoreap_with_into_cgroup: Must, needs [Autoreap, ExitInfo, Cgroup2],
    source "clone(2), CLONE_INTO_CGROUP; fs/pidfs.c pidfs_exit(); PIDFD_INFO_CGROUPID",
}
fn autoreap_with_into_cgroup() -> Result {
    subject::each_reaped(|reaped| {
        let (first, second) = (Cgroup::create(&[])?, Cgroup::create(&[])?);
        let (first_id, second_id) = (first.id()?, second.id()?);
        let call = reaped.clone().into_cgroup(first.dir());
        let make = || Held::exiting_with(&call, CODE);
        let (stays, moves, not_asked) = (make()?, make()?, make()?);
        let all = [&stays, &moves, &not_asked];
        let pids = BTreeSet::from(all.map(|child| child.pid()));
        check::equal("pids in cgroup.procs of the cgroup given", members_of(&first)?, pids)?;
        let of = |child: &str| format!("cgroupid in PIDFD_GET_INFO of the child that {child}");
        check::equal(of("will be moved"), cgroup_of(&not_asked)?, first_id)?;
        second.admit(moves.pid())?;
        second.admit(not_asked.pid())?;
        check::equal(of("stays"), cgroup_of(&stays)?, first_id)?;
        check::equal(of("was moved"), cgroup_of(&moves)?, second_id)?;
        for child in all {
            child.let_go()?;
            vanishes(child)?;
        }
        first.remove()?;
        second.remove()?;
        check::equal(of("stayed, when it is dead and its cgroup removed"), cgroup_of(&stays)?, first_id)?;
        check::equal(of("was moved, when it is dead and its cgroup removed"), cgroup_of(&moves)?, second_id)?;
        // The kernel must not keep the answer that it gave before the move.
        check::equal(of("was moved since it was last asked, and is dead"), cgroup_of(&not_asked)?, second_id)
    })
}

/// Returns the pids in `cgroup.procs`, where they are in no particular order and may appear more than once.
#[track_caller]
fn members_of(cgroup: &Cgroup) -> Result<BTreeSet<i32>> {
    let text = cgroup.read("cgroup.procs")?;
    let pids = text.lines().map(str::parse::<i32>).collect::<std::result::Result<_, _>>();
    pids.map_err(|_| Failure::fail(format!("cgroup.procs: expected a pid in each line, got {text:?}")))
}

/// Returns the cgroup id that PIDFD_GET_INFO reports for a child.
#[track_caller]
fn cgroup_of(child: &Child) -> Result<u64> {
    let request = InfoMask::CGROUPID | InfoMask::EXIT;
    let info = check::succeeds("PIDFD_GET_INFO(CGROUPID, EXIT)", child.pidfd()?.info(request))?;
    check::equal("the CGROUPID bit", info.given().contains(InfoMask::CGROUPID), true)?;
    Ok(info.cgroupid)
}

case! {
    /// An auto-reaped child gets the pid asked for with set_tid, and nobody else gets it while it lives.
    autoreap_with_set_tid: Must, needs [Autoreap, ExitInfo, PidNamespace],
    source "clone(2), set_tid; commit \"clone: add CLONE_AUTOREAP\"",
}
fn autoreap_with_set_tid() -> Result {
    subject::each_reaped(|reaped| {
        const WANTED: i32 = 142;
        // In its own pid namespace no other process can have taken that pid.
        namespace::as_init(|| {
            let call = reaped.clone().set_tid(&[WANTED]);
            let child = Held::exiting_with(&call, CODE)?;
            check::equal("the child's pid", child.pid(), WANTED)?;
            call.refused(Errno::EEXIST)?;
            child.let_go()?;
            vanishes(&child)
        })
    })
}
