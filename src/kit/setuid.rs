//! Programs whose exec raises privileges: set-user-ID, set-group-ID or with file capabilities.
//!
//! Each is a stand-in for this program, or a copy of it, on a tmpfs of its own, in a mount namespace of its own: nothing is
//! left on any disk, no mount option of the system (`nosuid`, `noexec`) is in the way, and because the file is executed
//! through its descriptor, no directory has to be reachable by an ordinary user.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use caps::{CapSet, Capability};
use linkme::distributed_slice;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags};
use rustix::process::DumpableBehavior;
use serde::{Deserialize, Serialize};

use crate::check::{Failure, Result};
use crate::clone3::Clone3;
use crate::kit::channel::{self, Channel};
use crate::kit::helper::{self, Command, HELPERS, Helper};
use crate::kit::privilege::Caps;
use crate::kit::programs::{fd, or_wrong};
use crate::kit::stand_in::stand_in;
use crate::wait::Status;
use crate::{note, procfs};

/// What a program finds itself to be after its exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Real, effective and saved user id.
    pub uids: [u32; 3],
    /// Real, effective and saved group id.
    pub gids: [u32; 3],
    /// CapPrm.
    pub permitted: Caps,
    /// CapEff.
    pub effective: Caps,
    /// CapAmb.
    pub ambient: Caps,
    /// AT_SECURE: the kernel tells the dynamic linker to trust nothing it inherited.
    pub at_secure: bool,
    /// no_new_privs.
    pub no_new_privs: bool,
    /// Whether it is dumpable, and so may be traced by its own user.
    pub dumpable: bool,
}

impl Credentials {
    /// The caller's.
    pub fn own() -> Result<Credentials> {
        let (uid, gid) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
        Ok(Credentials {
            uids: [uid.real, uid.effective, uid.saved].map(nix::unistd::Uid::as_raw),
            gids: [gid.real, gid.effective, gid.saved].map(nix::unistd::Gid::as_raw),
            permitted: Caps::own(CapSet::Permitted)?,
            effective: Caps::own(CapSet::Effective)?,
            ambient: Caps::own(CapSet::Ambient)?,
            at_secure: at_secure(),
            no_new_privs: rustix::thread::no_new_privs()?,
            dumpable: rustix::process::dumpable_behavior()? == DumpableBehavior::Dumpable,
        })
    }
}

fn at_secure() -> bool {
    // SAFETY: getauxval only looks a number up.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

#[distributed_slice(HELPERS)]
static CREDENTIALS: Helper =
    Helper { name: "credentials", main: |arguments| or_wrong(say_credentials(arguments)) };

/// `credentials REPORT`: says on the channel REPORT what it is.
fn say_credentials(arguments: &[String]) -> Result<i32> {
    Channel::<Result<Credentials>>::adopt(fd(arguments, 0)?)?.send(&Credentials::own())?;
    Ok(0)
}

#[distributed_slice(HELPERS)]
static INTERPRET: Helper = Helper { name: INTERPRETER, main: interpret };

/// What a script of [`Script`] asks its interpreter for.
const INTERPRETER: &str = "interpret";

/// `interpret SCRIPT HELPER ARGUMENT…`: as the kernel starts the interpreter of a script that was given HELPER and its
/// arguments. Is that helper, whatever the script says.
fn interpret(arguments: &[String]) -> i32 {
    match arguments {
        [_, name, rest @ ..] => helper::run(name, rest),
        _ => or_wrong(Err(Failure::broken(format!("a script was given nothing to do: {arguments:?}")))),
    }
}

/// Makes a child by `call`, which runs `prepare` and execs `program`; gives what it is then.
#[track_caller]
pub fn credentials_after_exec(
    call: &Clone3,
    program: BorrowedFd<'_>,
    prepare: impl FnOnce() -> Result,
) -> Result<Credentials> {
    credentials_said(call, |command| {
        prepare().map_or_else(|failure| failure, |()| command.exec_file(program))
    })
}

/// As [`credentials_after_exec`], for a child whose leader runs `in_leader` and then starts another thread, which runs `in_thread`
/// and execs.
#[track_caller]
pub fn credentials_after_exec_by_thread(
    call: &Clone3,
    program: BorrowedFd<'_>,
    in_leader: impl FnOnce() -> Result,
    in_thread: impl FnOnce() -> Result + Send,
) -> Result<Credentials> {
    credentials_said(call, |command| {
        if let Err(failure) = in_leader() {
            return failure;
        }
        let exec = || in_thread().map_or_else(|failure| failure, |()| command.exec_file(program));
        std::thread::scope(|scope| scope.spawn(exec).join())
            .unwrap_or_else(|_| Failure::broken("a thread panicked"))
    })
}

/// Makes a child by `call`, which execs a command that says what it is; `exec` returns only if that fails.
#[track_caller]
fn credentials_said(call: &Clone3, exec: impl FnOnce(&Command) -> Failure) -> Result<Credentials> {
    let channel = Channel::<Result<Credentials>>::new()?;
    let command = Command::new("credentials", &[])?.with_fd(&channel.sending_end()?);
    let child = call.spawn(|| i32::from(channel.send(&Err(exec(&command))).is_err()))?;
    let credentials = channel.recv_from(&child)??;
    note!("after exec: {credentials:?}");
    child.ends_with(Status::exited(0))?;
    Ok(credentials)
}

/// This program as a file that belongs to root and has this mode, say 04755. For root alone, real or of a
/// user namespace, which may become somebody else afterwards, but make no user namespace; moves the caller into a mount
/// namespace of its own.
///
/// # Errors
/// `blocked` where the environment forbids mounts.
pub fn file_with_mode(mode: u32) -> Result<OwnedFd> {
    make(mode, &[])
}

/// This program as a file with these file capabilities, permitted and effective; else as [`file_with_mode`].
///
/// # Errors
/// `blocked` also where a tmpfs cannot have file capabilities.
pub fn file_with_capabilities(capabilities: &[Capability]) -> Result<OwnedFd> {
    make(0o755, &file_capabilities(capabilities, &[]))
}

/// As [`file_with_capabilities`], with these inheritable in place of permitted.
///
/// # Errors
/// `blocked` also where a tmpfs cannot have file capabilities.
pub fn file_with_inheritable(capabilities: &[Capability]) -> Result<OwnedFd> {
    make(0o755, &file_capabilities(&[], capabilities))
}

/// A script (`#!`) that passes its arguments on to its interpreter, which is this program.
#[derive(Debug)]
pub struct Script {
    file: OwnedFd,
    /// The interpreter's path leads through it.
    _directory: OwnedFd,
}

impl Script {
    /// One whose interpreter is a file that belongs to root and has this mode, and which itself is an ordinary file; else as
    /// [`file_with_mode`].
    ///
    /// # Errors
    /// `blocked` where the environment forbids mounts.
    pub fn interpreted_with_mode(mode: u32) -> Result<Script> {
        let directory = tmpfs()?;
        make_in(&directory, mode, &[])?;
        let (number, name) = (directory.as_raw_fd(), helper::NAME);
        let text = format!("#!/proc/self/fd/{number}/{name} {INTERPRETER}\n");
        write_in(&directory, "script", 0o755, |file| channel::write_all(file, text.as_bytes()))?;
        // Left open across the exec: the interpreter is given a path that leads through it.
        let file = rustix::fs::openat(&directory, "script", OFlags::RDONLY, Mode::empty())?;
        Ok(Script { file, _directory: directory })
    }
}

impl AsFd for Script {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn make(mode: u32, capabilities: &[u8]) -> Result<OwnedFd> {
    make_in(&tmpfs()?, mode, capabilities)
}

/// Makes the file with this value of `security.capability`, or without any.
fn make_in(directory: &OwnedFd, mode: u32, capabilities: &[u8]) -> Result<OwnedFd> {
    write_in(directory, helper::NAME, mode, |file| {
        write_program(file)?;
        if capabilities.is_empty() {
            return Ok(());
        }
        rustix::fs::fsetxattr(file, "security.capability", capabilities, XattrFlags::empty()).map_err(
            |errno| Failure::blocked(format!("file capabilities on a tmpfs (CONFIG_TMPFS_XATTR): {errno:?}")),
        )
    })?;
    Ok(rustix::fs::openat(directory, helper::NAME, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes a file of root's and has it filled. It is closed then: one that somebody has open for writing cannot be executed.
fn write_in(directory: &OwnedFd, name: &str, mode: u32, fill: impl FnOnce(&OwnedFd) -> Result) -> Result {
    let writable = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, writable, Mode::RWXU)?;
    rustix::fs::fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
    fill(&file)?;
    // After what is written, which would take a set-user-ID bit away.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(())
}

fn tmpfs() -> Result<OwnedFd> {
    private_tmpfs()
        .map_err(|errno| Failure::blocked(format!("a tmpfs in a mount namespace of its own: {errno:?}")))
}

/// Writes a stand-in for this program to a file, or, where there can be none, the whole program.
fn write_program(to: &OwnedFd) -> Result {
    let mut beginning = [0; 4096];
    let length = rustix::io::pread(helper::program()?, &mut beginning, 0)?;
    // Without /proc, it would not find the program.
    match stand_in(&beginning[..length]).filter(|_| procfs::is_mounted()) {
        Some(small) => channel::write_all(to, &small),
        None => copy_program(to),
    }
}

/// Writes this program to a file. From where it is mapped and in one piece: sendfile(2) would take it through a pipe, a
/// few pages at a time.
fn copy_program(to: &OwnedFd) -> Result {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let program = helper::program()?;
    let size = rustix::fs::fstat(program)?.st_size as usize;
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing, and nobody writes to a program that
    // is being executed.
    let mapped = unsafe { mmap(std::ptr::null_mut(), size, ProtFlags::READ, MapFlags::PRIVATE, program, 0)? };
    // SAFETY: mapped above, for reading and as long.
    let bytes: &[u8] = unsafe { std::slice::from_raw_parts(mapped.cast(), size) };
    let copied = channel::write_all(to, bytes);
    // SAFETY: `bytes` is not used any more.
    unsafe { munmap(mapped, size)? };
    copied
}

/// A new tmpfs. It must be attached somewhere, or the kernel would treat it as `nosuid`; the root directory is
/// always there, and nobody looks up a path through it.
fn private_tmpfs() -> rustix::io::Result<OwnedFd> {
    use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount};
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| rustix::io::Errno::from_raw_os_error(errno as i32))?;
    // Nothing mounted from here on may show up outside.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Fewer and larger pages are filled sooner. Not every kernel has them.
    let _ = fsconfig_set_string(context.as_fd(), "huge", "always");
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(mount)
}

/// The value of `security.capability`: `struct vfs_cap_data` of `linux/capability.h`, revision 2.
fn file_capabilities(permitted: &[Capability], inheritable: &[Capability]) -> [u8; 20] {
    const REVISION_2_EFFECTIVE: u32 = 0x0200_0000 | 1;
    let [permitted, inheritable] = [permitted, inheritable].map(|set| Caps::of(set).bits());
    let upper = |bits: u64| (bits >> 32) as u32;
    // Permitted and inheritable, twice: the lower and the upper half of each.
    let words =
        [REVISION_2_EFFECTIVE, permitted as u32, inheritable as u32, upper(permitted), upper(inheritable)];
    let mut value = [0; 20];
    for (place, word) in value.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    value
}
