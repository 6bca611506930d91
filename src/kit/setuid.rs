//! Programs whose exec raises privileges: set-user-ID, set-group-ID, or with file capabilities.
//!
//! Each is a stand-in for this program, or a copy of it, on a private tmpfs in a new mount namespace. So nothing is left on
//! any disk, mount options of the system (`nosuid`, `noexec`) do not interfere, and because the file is executed through
//! its descriptor, an unprivileged user needs no access to any directory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;

use caps::{CapSet, Capability};
use linkme::distributed_slice;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags};
use rustix::process::DumpableBehavior;
use serde::{Deserialize, Serialize};

use crate::check::{Failure, Named, Result, errno_of};
use crate::clone3::Clone3;
use crate::kit::channel::{self, Channel};
use crate::kit::helper::{self, Command, HELPERS, Helper};
use crate::kit::privilege::Caps;
use crate::kit::programs::{fd, or_wrong};
use crate::kit::stand_in::stand_in;
use crate::wait::Status;
use crate::{note, procfs};

/// The credentials and related attributes of a program after its exec.
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
    /// Whether AT_SECURE is set: the kernel tells the dynamic linker not to trust anything inherited.
    pub at_secure: bool,
    /// no_new_privs.
    pub no_new_privs: bool,
    /// Whether it is dumpable, so that its own user may trace it.
    pub dumpable: bool,
}

impl Credentials {
    /// Returns those of the caller.
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
    // SAFETY: getauxval only looks up a number.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

#[distributed_slice(HELPERS)]
static CREDENTIALS: Helper =
    Helper { name: "credentials", main: |arguments| or_wrong(say_credentials(arguments)) };

/// `credentials REPORT`: sends its credentials on the channel REPORT.
fn say_credentials(arguments: &[String]) -> Result<i32> {
    Channel::<Result<Credentials>>::adopt(fd(arguments, 0)?)?.send(&Credentials::own())?;
    Ok(0)
}

#[distributed_slice(HELPERS)]
static INTERPRET: Helper = Helper { name: INTERPRETER, main: interpret };

/// The helper name that a [`Script`] passes to its interpreter.
const INTERPRETER: &str = "interpret";

/// `interpret SCRIPT HELPER ARGUMENT…`: the arguments with which the kernel starts the interpreter of a script that was
/// given HELPER and its arguments. Runs that helper, whatever the script contains.
fn interpret(arguments: &[String]) -> i32 {
    match arguments {
        [_, name, rest @ ..] => helper::run(name, rest),
        _ => or_wrong(Err(Failure::broken(format!("a script was given nothing to do: {arguments:?}")))),
    }
}

/// Makes a child by `call` that runs `prepare` and execs `program`; returns its credentials after the exec.
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

/// Like [`credentials_after_exec`], for a child whose leader runs `in_leader` and then starts another thread, which runs
/// `in_thread` and execs.
#[track_caller]
pub fn credentials_after_exec_by_thread(
    call: &Clone3,
    program: BorrowedFd<'_>,
    in_leader: impl FnOnce() -> Result,
    in_thread: impl FnOnce() -> Result + Send,
) -> Result<Credentials> {
    credentials_after_exec_by_waiting_thread(call, program, in_leader, || Ok(()), in_thread)
}

/// Like [`credentials_after_exec_by_thread`], but the leader also runs `meanwhile`: when the thread exists, and before it
/// runs `in_thread`.
#[track_caller]
pub fn credentials_after_exec_by_waiting_thread(
    call: &Clone3,
    program: BorrowedFd<'_>,
    in_leader: impl FnOnce() -> Result,
    meanwhile: impl FnOnce() -> Result,
    in_thread: impl FnOnce() -> Result + Send,
) -> Result<Credentials> {
    credentials_said(call, |command| {
        if let Err(failure) = in_leader() {
            return failure;
        }
        let (leader_is_done, wait_for_it) = mpsc::channel::<()>();
        let exec = move || match wait_for_it.recv() {
            Ok(()) => in_thread().map_or_else(|failure| failure, |()| command.exec_file(program)),
            // Nobody sees this: the leader reports its own failure.
            Err(_) => Failure::broken("the leader failed"),
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(exec);
            if let Err(failure) = meanwhile() {
                // The scope waits for the thread, which must not wait for the leader any more.
                drop(leader_is_done);
                return failure;
            }
            // This fails only if the thread has panicked.
            let _ = leader_is_done.send(());
            thread.join().unwrap_or_else(|_| Failure::broken("a thread panicked"))
        })
    })
}

/// Makes a child by `call` that execs this program that many times in succession; returns its credentials afterwards.
#[track_caller]
pub fn credentials_after_execs(call: &Clone3, count: i32) -> Result<Credentials> {
    let command = Command::new("again", &[])?.number(count - 1).word("credentials")?;
    credentials_said_by(call, command, Command::exec)
}

/// Makes a child by `call` that execs a command which reports its credentials; `exec` returns only if that fails.
#[track_caller]
fn credentials_said(call: &Clone3, exec: impl FnOnce(&Command) -> Failure) -> Result<Credentials> {
    credentials_said_by(call, Command::new("credentials", &[])?, exec)
}

/// Likewise; the command lacks only its last argument, the descriptor of the report.
#[track_caller]
fn credentials_said_by(
    call: &Clone3,
    command: Command,
    exec: impl FnOnce(&Command) -> Failure,
) -> Result<Credentials> {
    let channel = Channel::<Result<Credentials>>::new()?;
    let command = command.with_fd(&channel.sending_end()?);
    let child = call.spawn(|| i32::from(channel.send(&Err(exec(&command))).is_err()))?;
    let credentials = channel.recv_from(&child)??;
    note!("after exec: {credentials:?}");
    child.ends_with(Status::exited(0))?;
    Ok(credentials)
}

/// Makes a copy of this program as a file of root with this mode, for example 04755. Requires root, real or of a user
/// namespace, and moves the caller into a new mount namespace. The caller may change its user afterwards, but must not make
/// a user namespace.
///
/// # Errors
/// `blocked` if the environment forbids mounts.
pub fn file_with_mode(mode: u32) -> Result<OwnedFd> {
    make(mode, &[])
}

/// Like [`file_with_mode`], but the file has these file capabilities, permitted and effective.
///
/// # Errors
/// `blocked` also if a tmpfs cannot have file capabilities.
pub fn file_with_capabilities(capabilities: &[Capability]) -> Result<OwnedFd> {
    make(0o755, &file_capabilities(capabilities, &[], true))
}

/// Like [`file_with_capabilities`], but not effective: the program has to raise them.
///
/// # Errors
/// `blocked` also if a tmpfs cannot have file capabilities.
pub fn file_with_permitted(capabilities: &[Capability]) -> Result<OwnedFd> {
    make(0o755, &file_capabilities(capabilities, &[], false))
}

/// Like [`file_with_capabilities`], but the capabilities are inheritable instead of permitted.
///
/// # Errors
/// `blocked` also if a tmpfs cannot have file capabilities.
pub fn file_with_inheritable(capabilities: &[Capability]) -> Result<OwnedFd> {
    make(0o755, &file_capabilities(&[], capabilities, true))
}

/// Gives a file these file capabilities, permitted and effective, as setcap(8) does.
pub fn give_capabilities(file: impl AsFd, capabilities: &[Capability]) -> std::result::Result<(), Errno> {
    let value = file_capabilities(capabilities, &[], true);
    rustix::fs::fsetxattr(file, "security.capability", &value, XattrFlags::empty()).map_err(errno_of)
}

/// A script (`#!`) that passes its arguments to its interpreter, which is this program.
#[derive(Debug)]
pub struct Script {
    file: OwnedFd,
    /// Kept open because the interpreter's path goes through it.
    _directory: OwnedFd,
}

impl Script {
    /// Makes an ordinary script whose interpreter is a file of root with this mode; otherwise like [`file_with_mode`].
    ///
    /// # Errors
    /// `blocked` if the environment forbids mounts.
    pub fn interpreted_with_mode(mode: u32) -> Result<Script> {
        let directory = tmpfs()?;
        make_in(&directory, mode, &[])?;
        let (number, name) = (directory.as_raw_fd(), helper::NAME);
        let text = format!("#!/proc/self/fd/{number}/{name} {INTERPRETER}\n");
        write_in(&directory, "script", 0o755, |file| channel::write_all(file, text.as_bytes()))?;
        // Not close-on-exec: the script's path that the interpreter receives goes through this descriptor.
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

/// Makes the file with this value of `security.capability`, or without one if it is empty.
fn make_in(directory: &OwnedFd, mode: u32, capabilities: &[u8]) -> Result<OwnedFd> {
    write_in(directory, helper::NAME, mode, |file| {
        write_program(file)?;
        if capabilities.is_empty() {
            return Ok(());
        }
        rustix::fs::fsetxattr(file, "security.capability", capabilities, XattrFlags::empty()).map_err(
            |errno| {
                Failure::blocked(format!(
                    "needs file capabilities on a tmpfs (CONFIG_TMPFS_XATTR): {}",
                    Named(errno_of(errno))
                ))
            },
        )
    })?;
    Ok(rustix::fs::openat(directory, helper::NAME, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes a file of root, fills it by `fill`, and closes it: a file that is open for writing cannot be executed.
fn write_in(directory: &OwnedFd, name: &str, mode: u32, fill: impl FnOnce(&OwnedFd) -> Result) -> Result {
    let writable = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, writable, Mode::RWXU)?;
    rustix::fs::fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
    fill(&file)?;
    // After the writes, because a write clears the set-user-ID bit.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(())
}

fn tmpfs() -> Result<OwnedFd> {
    private_tmpfs().map_err(|errno| {
        Failure::blocked(format!("needs a tmpfs in a mount namespace of its own: {}", Named(errno_of(errno))))
    })
}

/// Writes a stand-in for this program to a file, or the whole program if no stand-in is possible.
fn write_program(to: &OwnedFd) -> Result {
    let mut beginning = [0; 4096];
    let length = rustix::io::pread(helper::program()?, &mut beginning, 0)?;
    // The stand-in needs /proc to find the program.
    match stand_in(&beginning[..length]).filter(|_| procfs::is_mounted()) {
        Some(small) => channel::write_all(to, &small),
        None => copy_program(to),
    }
}

/// Writes this program to a file. Maps the program and writes it in one piece, because sendfile(2) would copy it through a
/// pipe, a few pages at a time.
fn copy_program(to: &OwnedFd) -> Result {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let program = helper::program()?;
    let size = rustix::fs::fstat(program)?.st_size as usize;
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing, and a program that is being executed
    // cannot be written to.
    let mapped = unsafe { mmap(std::ptr::null_mut(), size, ProtFlags::READ, MapFlags::PRIVATE, program, 0)? };
    // SAFETY: mapped above, readable and of this length.
    let bytes: &[u8] = unsafe { std::slice::from_raw_parts(mapped.cast(), size) };
    let copied = channel::write_all(to, bytes);
    // SAFETY: `bytes` is not used after this.
    unsafe { munmap(mapped, size)? };
    copied
}

/// Mounts a new tmpfs. It must be attached somewhere, or the kernel would treat it as `nosuid`; the root directory always
/// exists, and no path lookup goes through this mount.
fn private_tmpfs() -> rustix::io::Result<OwnedFd> {
    use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount};
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| rustix::io::Errno::from_raw_os_error(errno as i32))?;
    // Keep later mounts from propagating outside.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Fewer and larger pages are faster to fill. Not every kernel supports this.
    let _ = fsconfig_set_string(context.as_fd(), "huge", "always");
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(mount)
}

/// Returns a value of `security.capability`: `struct vfs_cap_data` of `linux/capability.h`, revision 2.
fn file_capabilities(permitted: &[Capability], inheritable: &[Capability], effective: bool) -> [u8; 20] {
    const REVISION_2: u32 = 0x0200_0000;
    let first = REVISION_2 | u32::from(effective);
    let [permitted, inheritable] = [permitted, inheritable].map(|set| Caps::of(set).bits());
    let upper = |bits: u64| (bits >> 32) as u32;
    // Permitted and inheritable: first the lower half of each, then the upper half.
    let words = [first, permitted as u32, inheritable as u32, upper(permitted), upper(inheritable)];
    let mut value = [0; 20];
    for (place, word) in value.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    value
}
