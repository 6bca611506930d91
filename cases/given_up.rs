//! What a process gives up at its end, to be used or counted again: namespaces, directories, and a cgroup that it kept from
//! being frozen.

use clone3_conformance::abi::Flags;
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Failure, Result};
use clone3_conformance::clone3::{Child, Clone3, park};
use clone3_conformance::kit::process::apart;
use clone3_conformance::kit::remains::spawn_once_there_is_room;
use clone3_conformance::kit::userfault::Trap;
use clone3_conformance::kit::{Cgroup, Channel, Held, Place, privilege, subject};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

case! {
    /// A UTS namespace that only an auto-reaped child uses is released when the child ends: with max_uts_namespaces 1, the next
    /// child can have one, as after an ordinary child. While the child lives it cannot.
    autoreap_gives_back_uts_namespace: Must, needs [Autoreap, ExitInfo, UserNamespaces, Proc],
    source "namespaces(7), /proc/sys/user; kernel/exit.c do_exit() (exit_nsproxy_namespaces())",
}
fn autoreap_gives_back_uts_namespace() -> Result {
    const LIMIT: &str = "/proc/sys/user/max_uts_namespaces";
    apart(|| {
        privilege::enter_user_namespace()?;
        std::fs::write(LIMIT, "1")
            .map_err(|error| Failure::blocked(format!("writing to {LIMIT}: {error}")))?;
        for call in subject::calls().into_iter().map(|call| call.with(Flags::CLONE_NEWUTS)) {
            for what in ["the first child", "the second child, when the first has ended"] {
                let child = spawn_once_there_is_room(&call, park).context(what)?;
                call.refused(Errno::ENOSPC).context("control: while a child with a UTS namespace lives")?;
                child.clear_away()?;
            }
        }
        Ok(())
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
    let forbidden = |errno| Failure::blocked(format!("a tmpfs in a mount namespace of its own: {errno:?}"));
    for call in subject::calls() {
        apart(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            // Nothing mounted from here on may show up outside.
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                .map_err(forbidden)?;
            mount("tmpfs", place.path(), "tmpfs", MountFlags::empty(), None).map_err(forbidden)?;
            let child = Held::prepared(&call, 5, || Ok(std::env::set_current_dir(place.path())?))?;
            let unmounted = || unmount(place.path(), UnmountFlags::empty()).map_err(check::errno_of);
            check::refused("control: umount while the child lives", unmounted(), Errno::EBUSY)?;
            child.let_go()?;
            subject::see_off(&child)?;
            check::succeeds(
                format_args!("umount of what was the working directory of a child of {call}"),
                unmounted(),
            )
        })?;
    }
    Ok(())
}

/// Blocks the calling process in the kernel, where nothing but SIGKILL reaches it, and has a thread of it say so.
fn get_stuck(told: &Channel<Result>) -> Result {
    let trap = Trap::lay_for_kernel()?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A failure to report is seen as the end of the stream.
            let _ = told.send(&trap.wait_for_someone());
            park()
        });
        // The kernel is to write the pidfd where the trap is.
        let call = Clone3::new(Flags::PIDFD).pidfd_address(trap.address());
        call.try_spawn(|| 0).map(drop).map_err(Failure::from)
    })
}

/// A child that cannot be frozen.
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
    for call in subject::calls() {
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
    }
    Ok(())
}
