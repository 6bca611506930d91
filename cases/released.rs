//! What the kernel releases when an auto-reaped child ends: futexes, semaphores, namespaces, directories, a seccomp listener,
//! and a cgroup that the child kept from freezing.

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Named, Result, errno_of};
use clone3_conformance::clone3::{Child, Clone3, park};
use clone3_conformance::kit::leaks::spawn_once_there_is_room;
use clone3_conformance::kit::process::{child_reporting, in_child};
use clone3_conformance::kit::robust_futex::take_robustly;
use clone3_conformance::kit::semaphore::Semaphore;
use clone3_conformance::kit::subject::ends_by_its_kind;
use clone3_conformance::kit::userfault::Trap;
use clone3_conformance::kit::{
    Cgroup, Channel, Gate, Held, Orphan, Place, compat, fdpass, listns, namespace, privilege, sandboxing,
    seccomp, shared, subject,
};
use clone3_conformance::wait::Status;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

case! {
    /// A robust futex that an auto-reaped child holds when it ends, killed or not, is marked with FUTEX_OWNER_DIED, as for an
    /// ordinary child.
    autoreap_releases_robust_futex: Must, needs [Autoreap, ExitInfo],
    source "get_robust_list(2); kernel/fork.c exit_mm_release()",
}
fn autoreap_releases_robust_futex() -> Result {
    futex_is_released(|| shared::word(0), take_robustly)
}

case! {
    /// A robust futex on the list of a 32-bit program that an auto-reaped child holds when it ends, killed or not, is marked with
    /// FUTEX_OWNER_DIED, as for an ordinary child.
    autoreap_compat_i386_robust_futex: Is, needs [Autoreap, ExitInfo],
    source "kernel/futex/core.c futex_cleanup() (compat_robust_list)",
}
fn autoreap_compat_i386_robust_futex() -> Result {
    compat::required()?;
    futex_is_released(compat::shared_word, compat::take_robustly)
}

fn futex_is_released(
    new_word: impl Fn() -> Result<&'static AtomicU32>,
    take: impl Fn(&'static AtomicU32) -> Result,
) -> Result {
    subject::each(|call| {
        for killed in [false, true] {
            let word = new_word()?;
            let child = Held::prepared(&call, 5, || take(word))?;
            let held = word.load(Ordering::Acquire);
            check::equal("control: the futex while the child lives", held as i32, child.pid())?;
            child.end(killed)?;
            let what = format!("FUTEX_OWNER_DIED after a child of {call}, killed: {killed}");
            check::equal(
                what,
                word.load(Ordering::Acquire) & libc::FUTEX_OWNER_DIED,
                libc::FUTEX_OWNER_DIED,
            )?;
        }
        Ok(())
    })
}

case! {
    /// An auto-reaped child's semaphore operations with SEM_UNDO are undone when it ends, like an ordinary one's.
    autoreap_undoes_semaphores: Must, needs [Autoreap, ExitInfo],
    source "semop(2), SEM_UNDO; ipc/sem.c exit_sem()",
}
fn autoreap_undoes_semaphores() -> Result {
    let semaphore = Semaphore::new()?;
    subject::each(|call| {
        let (child, taken) = child_reporting(&call, || {
            semaphore.take()?;
            semaphore.value()
        })?;
        check::equal("control: the semaphore that a child has taken", taken, 0)?;
        subject::wait_until_gone(&child)?;
        check::equal(format_args!("the semaphore after a child of {call}"), semaphore.value()?, 1)
    })
}

case! {
    /// The user namespace of an auto-reaped child that has ended is not listed by listns, although a file that the child opened
    /// keeps it; that of an ordinary child is listed until the child is reaped.
    autoreap_ends_use_of_user_namespace: Is, needs [Autoreap, ExitInfo, Root, UserNamespaces, Proc],
    source "kernel/exit.c release_task(), kernel/nsproxy.c exit_cred_namespaces(); pull request namespace-6.19",
}
fn autoreap_ends_use_of_user_namespace() -> Result {
    subject::each(|call| {
        let call = call.with(Flags::CLONE_NEWUSER);
        let (here, there) = fdpass::pair()?;
        let child = Held::prepared(&call, 0, || {
            let file = File::open("/proc")?;
            fdpass::send(&there, file)
        })?;
        let kept = fdpass::receive(&here)?;
        let id = listns::user_namespace_of(child.pid())?;
        if !listns::is_listed(id)? {
            return Err(Failure::blocked("listns(2) does not list the user namespace of a living child"));
        }
        child.let_go()?;
        child.pidfd()?.wait_exited()?;
        if !child.reaps_itself() {
            check::equal("user namespace of a zombie: listed", listns::is_listed(id)?, true)?;
        }
        subject::wait_until_gone(&child)?;
        let what = format!(
            "user namespace of a child of {call} that is reaped, while its pidfd is open: gone from the list"
        );
        check::equal(what, listns::vanishes(id)?, true)?;
        drop(kept);
        Ok(())
    })
}

case! {
    /// With CLONE_SYSVSEM, semaphore operations with SEM_UNDO of an auto-reaped child, or of its creator, are undone when both have
    /// ended, and not before, as for an ordinary child. Without it, they are undone when the process that did them ends.
    autoreap_shares_semaphore_undo: Must, needs [Autoreap, ExitInfo],
    source "clone(2), CLONE_SYSVSEM; ipc/sem.c copy_semundo(), exit_sem()",
}
fn autoreap_shares_semaphore_undo() -> Result {
    let semaphore = Semaphore::new()?;
    subject::each(|call| {
        for (call, expected) in [(call.clone(), 1), (call.with(Flags::CLONE_SYSVSEM), 0)] {
            let after = |what| format!("the semaphore that a child of {call}, or its creator, took, {what}");
            in_child(|| {
                let (child, ()) = child_reporting(&call, || semaphore.take())?;
                subject::wait_until_gone(&child)?;
                check::equal(after("after the end of the child that did"), semaphore.value()?, expected)
            })?;
            check::equal(after("after the end of both"), semaphore.value()?, 1)?;

            let gate = Gate::new()?;
            let child = Orphan::left_by(|| {
                semaphore.take()?;
                call.spawn(|| {
                    gate.wait();
                    5
                })
            })?;
            check::equal(after("after the end of the creator, who did"), semaphore.value()?, expected)?;
            gate.open()?;
            ends_by_its_kind(&call, child.pid, &child.pidfd, Status::exited(5))?;
            check::equal(after("after the end of both"), semaphore.value()?, 1)?;
        }
        Ok(())
    })
}

case! {
    /// The listener of a seccomp filter that only an auto-reaped child has reports POLLHUP when the child has ended, and not
    /// before.
    autoreap_seccomp_listener_hangs_up: Must, needs [Autoreap, ExitInfo],
    source "seccomp_unotify(2) (POLLHUP: no process uses the filter any more); kernel/exit.c do_exit() (seccomp_filter_release())",
}
fn autoreap_seccomp_listener_hangs_up() -> Result {
    sandboxing::seccomp_filters_exist()?;
    subject::each(|call| {
        let (ours, theirs) = fdpass::pair()?;
        let filtered = || seccomp::hand_to_supervisor(libc::SYS_sched_yield, &theirs);
        let child = Held::prepared(&call, 5, filtered)?;
        let listener = fdpass::receive(&ours)?;
        let polled =
            |when| format!("POLLHUP of the listener of a seccomp filter that a child of {call} has, {when}");
        let hung_up = || -> Result<bool> {
            let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&listener), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO)?;
            Ok(fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)))
        };
        check::equal(polled("control: while that lives"), hung_up()?, false)?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        check::equal(polled("when that is gone"), hung_up()?, true)
    })
}

case! {
    /// A UTS namespace that only an auto-reaped child uses is released when the child ends: with max_uts_namespaces 1, the next
    /// child can have one, as after an ordinary child. While the child lives it cannot.
    autoreap_gives_back_uts_namespace: Must, needs [Autoreap, ExitInfo, UserNamespaces, Proc],
    source "namespaces(7), /proc/sys/user; kernel/exit.c do_exit() (exit_nsproxy_namespaces())",
}
fn autoreap_gives_back_uts_namespace() -> Result {
    const LIMIT: &str = "/proc/sys/user/max_uts_namespaces";
    in_child(|| {
        privilege::enter_user_namespace()?;
        std::fs::write(LIMIT, "1")
            .map_err(|error| Failure::blocked(format!("writing to {LIMIT}: {error}")))?;
        subject::each(|call| {
            let call = call.with(Flags::CLONE_NEWUTS);
            for what in ["the first child", "the second child, when the first has ended"] {
                let child = spawn_once_there_is_room(&call, park).context(what)?;
                call.refused(Errno::ENOSPC).context("control: while a child with a UTS namespace lives")?;
                child.clear_away()?;
            }
            Ok(())
        })
    })
}

case! {
    /// An auto-reaped child's working directory is no longer in use once the child has ended: its file system can be unmounted, as
    /// after an ordinary child. While the child lives, umount is EBUSY.
    autoreap_gives_up_working_directory: Must, needs [Autoreap, ExitInfo, SysAdmin],
    source "umount(2), EBUSY; kernel/exit.c do_exit() (exit_fs())",
}
fn autoreap_gives_up_working_directory() -> Result {
    let place = Place::new()?;
    let forbidden = |errno| {
        Failure::blocked(format!("needs a tmpfs in a mount namespace of its own: {}", Named(errno_of(errno))))
    };
    subject::each(|call| {
        in_child(|| {
            namespace::unshare_mounts()?;
            mount("tmpfs", place.path(), "tmpfs", MountFlags::empty(), None).map_err(forbidden)?;
            let child = Held::prepared(&call, 5, || Ok(std::env::set_current_dir(place.path())?))?;
            let unmounted = || unmount(place.path(), UnmountFlags::empty()).map_err(check::errno_of);
            check::refused("control: umount while the child lives", unmounted(), Errno::EBUSY)?;
            child.let_go()?;
            subject::wait_until_gone(&child)?;
            check::succeeds(
                format_args!("umount of what was the working directory of a child of {call}"),
                unmounted(),
            )
        })?;
        Ok(())
    })
}

/// Blocks the calling process in the kernel, where only SIGKILL reaches it, and has another thread report that.
fn get_stuck(told: &Channel<Result>) -> Result {
    let trap = Trap::lay_for_kernel()?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The receiver sees a failed send as the end of the stream.
            let _ = told.send(&trap.wait_for_someone());
            park()
        });
        // The kernel blocks when it writes the pidfd into the trap.
        let call = Clone3::new(Flags::PIDFD).pidfd_address(trap.address());
        call.try_spawn(|| 0).map(drop).map_err(Failure::from)
    })
}

/// Creates a child that cannot be frozen.
#[track_caller]
fn stuck(call: &Clone3) -> Result<Child> {
    let told = Channel::<Result>::new()?;
    let child = call.spawn(|| {
        let ended = get_stuck(&told);
        i32::from(told.send(&ended).is_err())
    })?;
    told.recv_from(&child)??;
    Ok(child)
}

case! {
    /// When a member blocked in the kernel keeps a cgroup from freezing, killing that member lets the freeze complete
    /// (cgroup.events: frozen 1), auto-reaped or not.
    autoreap_end_lets_cgroup_freeze: Must, needs [Autoreap, ExitInfo, Root, Proc, Cgroup2],
    source "Documentation/admin-guide/cgroup-v2.rst, cgroup.freeze and cgroup.events; kernel/cgroup/cgroup.c do_cgroup_task_dead()",
}
fn autoreap_end_lets_cgroup_freeze() -> Result {
    subject::each(|call| {
        let group = Cgroup::create(&[])?;
        let [its, beside] = [group.create_below("its")?, group.create_below("beside")?];
        let other = Clone3::fork().into_cgroup(beside.dir()).spawn(park)?;
        let child = stuck(&call.clone().into_cgroup(its.dir()))?;
        its.write("cgroup.freeze", "1")?;
        group.write("cgroup.freeze", "1")?;
        beside.wait_for("frozen 1").context("control: the cgroup beside, in which nothing is blocked")?;
        for blocked in [&its, &group] {
            let frozen = blocked.read("cgroup.events")?.contains("frozen 1");
            check::equal("control: frozen with a member that is blocked in the kernel", frozen, false)?;
        }
        child.clear_away()?;
        group
            .wait_for("frozen 1")
            .context(format_args!("when the blocked member, a child of {call}, is gone"))?;
        other.clear_away()?;
        for done in [its, beside, group] {
            done.remove()?;
        }
        Ok(())
    })
}
