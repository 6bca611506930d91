//! A builder for raw `clone3(2)` calls.
//!
//! The builder can express invalid calls on purpose: odd sizes, bad pointers, contradictory flags. The
//! `Display` form of a call shows its flags by name, and messages use that form.

use std::ffi::c_int;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicI32;

use nix::errno::Errno;
use rustix::io::FdFlags;

use crate::abi::{CloneArgs, Flags};
pub use crate::address::{Address, OddWord, Unmapped};
use crate::check::{self, Context as _, Failure, Named, Result};
pub use crate::child::Child;
use crate::errand::Errand;
use crate::kit::discarded_signal::DiscardedSignal;
use crate::kit::errands;
use crate::pidfd::Pidfd;
pub use crate::stack::Stack;
use crate::wait::signal_name;
use crate::{arch, note};

/// The initial value of the word that receives the pidfd: not a descriptor, and not a value that the kernel
/// writes.
pub const PIDFD_UNTOUCHED: c_int = -7;

/// An address that no process can map.
pub const NOWHERE: Unmapped = Unmapped::Nowhere;

/// Returns a word for the kernel to write a pidfd to. It contains [`PIDFD_UNTOUCHED`] and is never freed.
pub fn pidfd_word() -> &'static AtomicI32 {
    Box::leak(Box::new(AtomicI32::new(PIDFD_UNTOUCHED)))
}

/// Stack arguments that no child can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStack {
    /// A size without an address.
    WithoutAddress,
    /// An address without a size.
    WithoutSize,
    /// A stack in the kernel's half of the address space.
    OfTheKernel,
    /// A stack that extends into that half.
    TooLarge,
}

impl NoStack {
    /// All variants.
    pub const ALL: [NoStack; 4] =
        [NoStack::WithoutAddress, NoStack::WithoutSize, NoStack::OfTheKernel, NoStack::TooLarge];

    /// Returns address and size. If a kernel accepts them, the child finds no memory at the top of its stack.
    const fn parts(self) -> (u64, u64) {
        const KERNEL: u64 = 1 << 63;
        const PAGE: u64 = 4096;
        match self {
            NoStack::WithoutAddress => (0, PAGE),
            NoStack::WithoutSize => (PAGE, 0),
            NoStack::OfTheKernel => (KERNEL, PAGE),
            NoStack::TooLarge => (PAGE, KERNEL),
        }
    }
}

/// The address that the call gives for the pidfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PidfdAt {
    /// A local variable.
    Variable,
    /// Another address. Nothing owns the pidfd then.
    Address(Address),
}

/// A `clone3(2)` call that has not been made yet.
///
/// The addresses that the kernel writes to are not given as numbers, because a number could refer to any
/// memory:
///
/// ```compile_fail
/// clone3_conformance::clone3::Clone3::fork().parent_tid(0x40_0000_u64);
/// ```
#[derive(Clone, Debug)]
pub struct Clone3 {
    args: CloneArgs,
    size: usize,
    tail: Vec<u8>,
    set_tid: Vec<c_int>,
    pidfd_at: PidfdAt,
}

impl Clone3 {
    /// Creates a call with these flags, exit_signal 0 and all other fields zero.
    pub fn new(flags: Flags) -> Clone3 {
        Clone3 {
            args: CloneArgs { flags: flags.bits(), ..CloneArgs::default() },
            size: size_of::<CloneArgs>(),
            tail: Vec::new(),
            set_tid: Vec::new(),
            pidfd_at: PidfdAt::Variable,
        }
    }

    /// Creates a call for an ordinary child as `fork(2)` creates it: no flags, exit_signal SIGCHLD.
    pub fn fork() -> Clone3 {
        Clone3::new(Flags::empty()).exit_signal(libc::SIGCHLD as u64)
    }

    /// Sets the raw exit_signal.
    pub fn exit_signal(mut self, signal: u64) -> Clone3 {
        self.args.exit_signal = signal;
        self
    }

    /// Sets the size of `struct clone_args`. Bytes beyond the 88 known here are zero.
    pub fn size(mut self, size: usize) -> Clone3 {
        self.size = size;
        self
    }

    /// Appends these bytes to the 88 known ones, and sets the size to match.
    pub fn tail(mut self, bytes: &[u8]) -> Clone3 {
        self.tail = bytes.to_vec();
        self.size = size_of::<CloneArgs>() + bytes.len();
        self
    }

    /// Has the kernel write the pidfd to this address. Nothing owns the pidfd then.
    pub fn pidfd_address(mut self, address: impl Into<Address>) -> Clone3 {
        self.pidfd_at = PidfdAt::Address(address.into());
        self
    }

    /// Sets `parent_tid` to this address.
    pub fn parent_tid(mut self, address: impl Into<Address>) -> Clone3 {
        self.args.parent_tid = address.into().number();
        self
    }

    /// Sets `child_tid` to this address.
    pub fn child_tid(mut self, address: impl Into<Address>) -> Clone3 {
        self.args.child_tid = address.into().number();
        self
    }

    /// Sets `tls` to this memory.
    pub fn tls(mut self, storage: &'static [u64]) -> Clone3 {
        self.args.tls = storage.as_ptr() as u64;
        self
    }

    /// Places the child in this cgroup. Sets `CLONE_INTO_CGROUP`.
    pub fn into_cgroup(self, cgroup: impl AsFd) -> Clone3 {
        self.into_cgroup_raw(cgroup.as_fd().as_raw_fd() as u64)
    }

    /// Uses this number as the cgroup's descriptor, whether it is open or not. Sets `CLONE_INTO_CGROUP`.
    pub fn into_cgroup_raw(mut self, fd: u64) -> Clone3 {
        self.args.cgroup = fd;
        self.with(Flags::CLONE_INTO_CGROUP)
    }

    /// Requests these pids, innermost namespace first.
    pub fn set_tid(mut self, pids: &[c_int]) -> Clone3 {
        self.set_tid = pids.to_vec();
        self
    }

    /// Puts these pids in `set_tid`, with 0 in `set_tid_size`.
    pub fn set_tid_without_size(mut self, pids: &'static [c_int]) -> Clone3 {
        self.args.set_tid = pids.as_ptr() as u64;
        self
    }

    /// Puts this address in `set_tid` and this count in `set_tid_size`.
    pub fn set_tid_unmapped(mut self, address: Unmapped, count: u64) -> Clone3 {
        self.args.set_tid = address.number();
        self.args.set_tid_size = count;
        self
    }

    /// Sets a stack that no child can run on. See [`Clone3::try_spawn_on`] for usable stacks.
    pub fn no_stack(mut self, which: NoStack) -> Clone3 {
        (self.args.stack, self.args.stack_size) = which.parts();
        self
    }

    /// Returns whether a process already has the pid that this call requests in the caller's pid namespace.
    pub fn asks_for_a_pid_in_use(&self) -> bool {
        let asked = self.set_tid.first().map(|pid| nix::unistd::Pid::from_raw(*pid));
        asked.is_some_and(|pid| nix::sys::signal::kill(pid, None) != Err(Errno::ESRCH))
    }

    /// Adds these flags.
    pub fn with(mut self, flags: Flags) -> Clone3 {
        self.args.flags |= flags.bits();
        self
    }

    /// Removes these flags.
    pub fn without(mut self, flags: Flags) -> Clone3 {
        self.args.flags &= !flags.bits();
        self
    }

    /// Returns the flags of this call.
    pub fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.args.flags)
    }

    /// Returns the structure as the kernel will read it, at least `size` bytes long.
    ///
    /// The elements are 64-bit words, so that the structure is aligned.
    fn image(&self, pidfd: *mut c_int) -> Vec<u64> {
        let mut args = self.args;
        args.pidfd = match self.pidfd_at {
            PidfdAt::Address(address) => address.number(),
            PidfdAt::Variable => pidfd as u64,
        };
        if !self.set_tid.is_empty() {
            args.set_tid = self.set_tid.as_ptr() as u64;
            args.set_tid_size = self.set_tid.len() as u64;
        }
        let words = [
            args.flags,
            args.pidfd,
            args.child_tid,
            args.parent_tid,
            args.exit_signal,
            args.stack,
            args.stack_size,
            args.tls,
            args.set_tid,
            args.set_tid_size,
            args.cgroup,
        ];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend_from_slice(&self.tail);
        bytes.resize(bytes.len().max(self.size).next_multiple_of(8), 0);
        bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect()
    }

    /// Makes the call. The child runs `body` and exits with the value that it returns.
    ///
    /// The child is a copy of the caller, so the body may do anything if the caller is single-threaded, and
    /// only what is async-signal-safe otherwise.
    ///
    /// # Panics
    /// With `CLONE_VM`, because such a child needs a stack (see [`Clone3::try_spawn_on`]), and with
    /// `CLONE_SETTLS`, because a body needs the thread-local storage of its creator.
    pub fn try_spawn(&self, body: impl FnOnce() -> i32) -> std::result::Result<Child, Errno> {
        assert!(!self.flags().contains(Flags::CLONE_VM), "{self} needs a stack of its own");
        assert!(
            !self.flags().contains(Flags::CLONE_SETTLS),
            "{self} is for a child that uses no such storage"
        );
        let mut pidfd = PIDFD_UNTOUCHED;
        let image = self.image(&raw mut pidfd);
        // SAFETY: without CLONE_VM the child works on a copy of this memory; `image` and `pidfd` are live,
        // and the kernel may write to the other addresses in the image (see `Address`).
        let pid = unsafe { libc::syscall(libc::SYS_clone3, image.as_ptr(), self.size) };
        if pid == 0 {
            exit_child(body);
        }
        let pid = Errno::result(pid);
        self.outcome(pid.map(|pid| pid as i32), pidfd)
    }

    /// Makes the call and expects it to succeed. See [`Clone3::try_spawn`].
    #[track_caller]
    pub fn spawn(&self, body: impl FnOnce() -> i32) -> Result<Child> {
        check::succeeds(self, self.try_spawn(body))
    }

    /// Makes the call with a stack for the child. The child runs this errand and then ends its thread with
    /// the errand's return value as exit code (`SYS_exit`, not exit_group).
    ///
    /// # Panics
    /// If the child shares the caller's memory without suspending the caller and the errand is not one that
    /// such a child can run; and if the stack belongs to a child that may still exist.
    pub fn try_spawn_on(&self, stack: &Stack, errand: Errand) -> std::result::Result<Child, Errno> {
        assert!(errand.suits(self.flags()), "{self} is for a child that does less than {errand:?}");
        let mut pidfd = PIDFD_UNTOUCHED;
        let mut call = self.clone();
        call.args.stack = stack.base() as u64;
        call.args.stack_size = Stack::SIZE as u64;
        if self.flags().contains(Flags::CLONE_CHILD_CLEARTID) {
            call.args.child_tid = stack.tid.as_ptr() as u64;
            call.args.parent_tid = stack.tid.as_ptr() as u64;
        }
        let (image, (entry, argument)) = (call.image(&raw mut pidfd), errand.parts());
        stack.lend(self.flags());
        // SAFETY: the child starts on its own stack, which outlives it (`Stack` is never unmapped) and which
        // no other child uses, and it never returns from the assembly. The kernel may write to the other
        // addresses in the image.
        let pid = unsafe { arch::clone3_on_stack(image.as_ptr(), self.size, entry, argument) };
        if pid < 0 {
            stack.take_back();
        }
        self.outcome(if pid < 0 { Err(Errno::from_raw(-pid as i32)) } else { Ok(pid as i32) }, pidfd)
    }

    /// Like [`Clone3::try_spawn_on`], but expects success.
    #[track_caller]
    pub fn spawn_on(&self, stack: &Stack, errand: Errand) -> Result<Child> {
        check::succeeds(self, self.try_spawn_on(stack, errand))
    }

    fn outcome(
        &self,
        pid: std::result::Result<i32, Errno>,
        pidfd: c_int,
    ) -> std::result::Result<Child, Errno> {
        let pid = match pid {
            Ok(pid) => pid,
            Err(errno) => {
                note!("{self} = {errno:?}");
                return Err(errno);
            }
        };
        let wrote = self.flags().contains(Flags::PIDFD) && self.pidfd_at == PidfdAt::Variable && pidfd >= 0;
        note!("{self} = {pid}{}", if wrote { format!(", pidfd {pidfd}") } else { String::new() });
        // SAFETY: on success the kernel wrote a new descriptor that nothing else owns.
        let pidfd = wrote.then(|| Pidfd::from(unsafe { OwnedFd::from_raw_fd(pidfd) }));
        Ok(Child::new(pid, pidfd, self.flags().contains(Flags::AUTOREAP)))
    }

    /// Checks that this call succeeds, as the control for a call that must fail. The child exits at once or
    /// is killed, and is cleaned up; the exit signal that it sends is discarded.
    #[track_caller]
    pub fn accepted(&self) -> Result {
        // The kernel must reject numbers that are not signals.
        let signal =
            Some(self.args.exit_signal as c_int).filter(|_| (1..=64).contains(&self.args.exit_signal));
        let discarded_signal = signal.map(DiscardedSignal::begin).transpose()?;
        let done = self.spawn_and_reap();
        discarded_signal.map_or(Ok(()), DiscardedSignal::end)?;
        done
    }

    #[track_caller]
    fn spawn_and_reap(&self) -> Result {
        let child = if self.flags().contains(Flags::CLONE_VM) {
            let stack = Stack::new()?;
            if self.flags().contains(Flags::CLONE_THREAD) {
                let joinable = self.clone().with(Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
                check::succeeds(self, joinable.try_spawn_on(&stack, errands::exit(0))).context("control")?;
                return stack.join();
            }
            check::succeeds(self, self.try_spawn_on(&stack, errands::exit(0))).context("control")?
        } else {
            check::succeeds(self, self.try_spawn(park)).context("control")?
        };
        child.clear_away().context("control")
    }

    /// Makes a call for a thread that exits at once. If a thread was created, it has exited on return.
    ///
    /// # Errors
    /// The outer error says that no stack could be allocated, or that the thread did not exit; the inner one
    /// is the error of the call.
    #[track_caller]
    pub fn try_thread(&self) -> Result<std::result::Result<(), Errno>> {
        let stack = Stack::new()?;
        let joinable = self.clone().with(Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
        match joinable.try_spawn_on(&stack, errands::exit(0)) {
            Ok(_) => stack.join().map(Ok),
            Err(errno) => Ok(Err(errno)),
        }
    }

    /// Like [`Clone3::accepted`], for a child that `CLONE_PARENT` gives to the caller's parent, which reaps
    /// it.
    #[track_caller]
    pub fn accepted_elsewhere(&self) -> Result {
        check::succeeds(self, self.try_spawn(|| 0)).context("control").map(drop)
    }

    /// Checks that this call fails with `expected` and leaves no child, no descriptor and no pidfd behind.
    #[track_caller]
    pub fn refused(&self, expected: Errno) -> Result {
        let (mine, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let free = lowest_free_fd()?;
        let got = if self.flags().contains(Flags::CLONE_VM) {
            self.try_spawn_on(&Stack::new()?, errands::trip(&theirs))
        } else {
            self.try_spawn(|| errands::trip(&theirs).run())
        };
        if let Ok(child) = got {
            let pid = child.pid();
            let ran = if self.flags().contains(Flags::CLONE_THREAD) { "thread" } else { "child" };
            // With CLONE_PARENT, the caller's parent cleans up the child.
            if ran == "child" && !self.flags().contains(Flags::CLONE_PARENT) {
                child.clear_away()?;
            }
            let expected = Named(expected);
            return Err(Failure::fail(format!("{self}: expected {expected}, got success ({ran} {pid})")));
        }
        check::refused(self, got, expected)?;
        check::equal(format_args!("{self}: lowest free descriptor afterwards"), lowest_free_fd()?, free)?;
        drop(theirs);
        nobody_holds(&mine).context(self)
    }
}

/// Formats as `clone3(CLONE_PIDFD|CLONE_AUTOREAP, exit_signal 0)`, plus whatever differs from the plain form.
impl fmt::Display for Clone3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clone3({}, exit_signal ", self.flags())?;
        match self.args.exit_signal {
            0 => f.write_str("0")?,
            number @ 1..=64 => f.write_str(&signal_name(number as i32))?,
            number => write!(f, "{number:#x}")?,
        }
        if let PidfdAt::Address(address) = self.pidfd_at {
            write!(f, ", pidfd at {address}")?;
        }
        if self.size != size_of::<CloneArgs>() {
            write!(f, ", size {}", self.size)?;
        }
        if !self.set_tid.is_empty() {
            write!(f, ", set_tid {:?}", self.set_tid)?;
        }
        if (self.args.set_tid, self.args.set_tid_size) != (0, 0) {
            write!(f, ", set_tid {} at {:#x}", self.args.set_tid_size, self.args.set_tid)?;
        }
        if (self.args.stack, self.args.stack_size) != (0, 0) {
            write!(f, ", stack of {} at {:#x}", self.args.stack_size, self.args.stack)?;
        }
        if self.args.parent_tid != 0 {
            write!(f, ", parent_tid at {:#x}", self.args.parent_tid)?;
        }
        if self.args.child_tid != 0 {
            write!(f, ", child_tid at {:#x}", self.args.child_tid)?;
        }
        if self.args.tls != 0 {
            write!(f, ", tls {:#x}", self.args.tls)?;
        }
        if self.flags().contains(Flags::CLONE_INTO_CGROUP) {
            write!(f, ", cgroup descriptor {}", self.args.cgroup as i64)?;
        }
        f.write_str(")")
    }
}

/// Calls `clone3(2)` with an unmapped pointer and a size. If a child is created, it exits with 99 at once.
pub fn unreadable(args: Unmapped, size: usize) -> std::result::Result<i32, Errno> {
    // SAFETY: the kernel finds no arguments there; if it accepts the call, the child exits at once.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args.number(), size) };
    if pid == 0 {
        exit_now(99);
    }
    Errno::result(pid).map(|pid| pid as i32)
}

/// Runs a child's body and exits with its result. A panic is printed to stderr and exits with 101, as usual.
pub(crate) fn exit_child(body: impl FnOnce() -> i32) -> ! {
    let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
    exit_now(code)
}

/// Ends the process without running destructors or exit handlers, which belong to the parent's copy.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Ends only the calling thread, where libc's `_exit` would end the thread group. The process ends with its
/// last thread.
pub fn exit_thread(code: i32) -> ! {
    // SAFETY: SYS_exit never returns and touches no user memory (except a CLEARTID word that is never freed).
    unsafe { libc::syscall(libc::SYS_exit, code) };
    unreachable!("exit(2) returned")
}

/// Blocks until a signal ends the process.
pub fn park() -> i32 {
    loop {
        // SAFETY: pause has no preconditions.
        unsafe { libc::pause() };
    }
}

/// Checks that the pipe is at end of file: no process holds the other end, so no child was left behind.
#[track_caller]
fn nobody_holds(pipe: &OwnedFd) -> Result {
    rustix::io::ioctl_fionbio(pipe, true)?;
    match rustix::io::read(pipe, &mut [0_u8; 1]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::fail("the call failed, yet a child ran")),
        Err(rustix::io::Errno::AGAIN) => Err(Failure::fail("the call failed, yet it left a child")),
        Err(errno) => Err(errno.into()),
    }
}

/// Returns the number that the next open file will get. A leaked descriptor changes it.
pub fn lowest_free_fd() -> Result<RawFd> {
    let (probe, _other) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok(probe.as_raw_fd())
}

/// Returns whether a descriptor is close-on-exec.
pub fn is_cloexec(fd: impl AsFd) -> Result<bool> {
    Ok(rustix::io::fcntl_getfd(fd)?.contains(FdFlags::CLOEXEC))
}

/// Returns whether this number is an open descriptor, whatever owns it.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only queries, and any number may be queried.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::limits::lowered;
    use crate::kit::process::answers;

    #[test]
    fn a_child_that_shares_memory_does_what_it_can() {
        // SAFETY: this exit errand does nothing that any process could not do.
        let whole = unsafe { Errand::whole(errands::exit(0).parts().0, 0) };
        let held_up = Flags::CLONE_VM | Flags::CLONE_VFORK;
        assert!(errands::exit(0).suits(Flags::CLONE_VM | Flags::CLONE_SETTLS));
        assert!(whole.suits(Flags::empty()) && whole.suits(held_up));
        assert!(!whole.suits(Flags::CLONE_VM) && !whole.suits(held_up | Flags::CLONE_SETTLS));
    }

    #[test]
    fn a_stack_that_cannot_be_had_is_no_answer_of_the_kernels() {
        use rustix::process::Resource;
        let call = Clone3::new(Flags::THREAD | Flags::CLONE_PARENT);
        let tried = || lowered(Resource::As, 0, || call.try_thread()).is_ok_and(|tried| tried.is_err());
        assert!(answers(tried));
    }

    #[test]
    #[should_panic(expected = "is for a child that uses no such storage")]
    fn a_body_keeps_its_thread_local_storage() {
        let _ = Clone3::fork().with(Flags::CLONE_SETTLS).tls(&[0]).try_spawn(|| 0);
    }
}
