//! A builder over the raw `clone3(2)`, and the children it makes.
//!
//! The builder can express ill-formed calls on purpose: odd sizes, bad pointers, contradictory flags. A call
//! shows itself with its flags decoded, which is how it appears in every message.

use std::cell::Cell;
use std::ffi::c_int;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::FdFlags;
use rustix::time::Timespec;

use crate::abi::{CloneArgs, Flags};
pub use crate::address::{Address, Unmapped};
use crate::check::{self, Context as _, Failure, Named, Result};
use crate::errand::Errand;
use crate::kit::errands;
use crate::kit::unheard::Unheard;
use crate::pidfd::Pidfd;
use crate::wait::{self, Status, signal_name};
use crate::{arch, note, sandbox};

/// What the word that receives the pidfd holds before the call: no descriptor, and not what the kernel writes.
pub const PIDFD_UNTOUCHED: c_int = -7;

/// An address that no process can map.
pub const NOWHERE: Unmapped = Unmapped::Nowhere;

/// A word for the kernel to write a pidfd to, which holds [`PIDFD_UNTOUCHED`]. It is never freed.
pub fn pidfd_word() -> &'static AtomicI32 {
    Box::leak(Box::new(AtomicI32::new(PIDFD_UNTOUCHED)))
}

/// Stacks that no child can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStack {
    /// A size and no address.
    WithoutAddress,
    /// An address and no size.
    WithoutSize,
    /// In the kernel's half of the address space.
    OfTheKernel,
    /// One that reaches into that half.
    TooLarge,
}

impl NoStack {
    /// All of them.
    pub const ALL: [NoStack; 4] =
        [NoStack::WithoutAddress, NoStack::WithoutSize, NoStack::OfTheKernel, NoStack::TooLarge];

    /// Address and size. Should a kernel take one, the child finds no memory at its end.
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

/// Where the call says the pidfd shall be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PidfdAt {
    /// A variable of ours.
    Variable,
    /// Elsewhere, so that nobody owns the pidfd.
    Address(Address),
}

/// One call of `clone3(2)`, not made yet.
///
/// Where the kernel shall write is no number, which could be that of anybody's memory:
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
    /// A call with these flags, exit_signal 0 and everything else zero.
    pub fn new(flags: Flags) -> Clone3 {
        Clone3 {
            args: CloneArgs { flags: flags.bits(), ..CloneArgs::default() },
            size: size_of::<CloneArgs>(),
            tail: Vec::new(),
            set_tid: Vec::new(),
            pidfd_at: PidfdAt::Variable,
        }
    }

    /// An ordinary child, as `fork(2)` makes it: no flags, exit_signal SIGCHLD.
    pub fn fork() -> Clone3 {
        Clone3::new(Flags::empty()).exit_signal(libc::SIGCHLD as u64)
    }

    /// With this raw exit_signal.
    pub fn exit_signal(mut self, signal: u64) -> Clone3 {
        self.args.exit_signal = signal;
        self
    }

    /// With this size of `struct clone_args`; beyond the 88 bytes known here the tail is zero.
    pub fn size(mut self, size: usize) -> Clone3 {
        self.size = size;
        self
    }

    /// With these bytes behind the 88 known ones, and the size to match.
    pub fn tail(mut self, bytes: &[u8]) -> Clone3 {
        self.tail = bytes.to_vec();
        self.size = size_of::<CloneArgs>() + bytes.len();
        self
    }

    /// With the pidfd written to this address. Nobody owns it then.
    pub fn pidfd_address(mut self, address: impl Into<Address>) -> Clone3 {
        self.pidfd_at = PidfdAt::Address(address.into());
        self
    }

    /// With this address in `parent_tid`.
    pub fn parent_tid(mut self, address: impl Into<Address>) -> Clone3 {
        self.args.parent_tid = address.into().number();
        self
    }

    /// With this address in `child_tid`.
    pub fn child_tid(mut self, address: impl Into<Address>) -> Clone3 {
        self.args.child_tid = address.into().number();
        self
    }

    /// With this memory in `tls`.
    pub fn tls(mut self, storage: &'static [u64]) -> Clone3 {
        self.args.tls = storage.as_ptr() as u64;
        self
    }

    /// With the child placed in this cgroup. Sets `CLONE_INTO_CGROUP`.
    pub fn into_cgroup(self, cgroup: impl AsFd) -> Clone3 {
        self.into_cgroup_raw(cgroup.as_fd().as_raw_fd() as u64)
    }

    /// With this number as the cgroup's descriptor, open or not. Sets `CLONE_INTO_CGROUP`.
    pub fn into_cgroup_raw(mut self, fd: u64) -> Clone3 {
        self.args.cgroup = fd;
        self.with(Flags::CLONE_INTO_CGROUP)
    }

    /// With these pids asked for, innermost namespace first.
    pub fn set_tid(mut self, pids: &[c_int]) -> Clone3 {
        self.set_tid = pids.to_vec();
        self
    }

    /// With these pids in `set_tid`, and 0 in `set_tid_size`.
    pub fn set_tid_without_size(mut self, pids: &'static [c_int]) -> Clone3 {
        self.args.set_tid = pids.as_ptr() as u64;
        self
    }

    /// With this address in `set_tid`, and this count in `set_tid_size`.
    pub fn set_tid_unmapped(mut self, address: Unmapped, count: u64) -> Clone3 {
        self.args.set_tid = address.number();
        self.args.set_tid_size = count;
        self
    }

    /// With a stack that no child can have. See [`Clone3::try_spawn_on`] for others.
    pub fn no_stack(mut self, which: NoStack) -> Clone3 {
        (self.args.stack, self.args.stack_size) = which.parts();
        self
    }

    /// Whether a process has the pid that is asked for in the caller's pid namespace.
    pub fn asks_for_a_pid_in_use(&self) -> bool {
        let asked = self.set_tid.first().map(|pid| nix::unistd::Pid::from_raw(*pid));
        asked.is_some_and(|pid| nix::sys::signal::kill(pid, None) != Err(Errno::ESRCH))
    }

    /// With these flags too.
    pub fn with(mut self, flags: Flags) -> Clone3 {
        self.args.flags |= flags.bits();
        self
    }

    /// Without these flags.
    pub fn without(mut self, flags: Flags) -> Clone3 {
        self.args.flags &= !flags.bits();
        self
    }

    /// The flags of this call.
    pub fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.args.flags)
    }

    /// The structure as the kernel will read it, `size` bytes long at least.
    ///
    /// Returned as words, so that it is aligned.
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

    /// Makes the call; the child runs `body` and exits with what it returns.
    ///
    /// The child is a copy of the caller, so the body may do anything if the caller is single-threaded, and
    /// only what is async-signal-safe otherwise.
    ///
    /// # Panics
    /// With `CLONE_VM`: such a child needs a stack, see [`Clone3::try_spawn_on`]. With `CLONE_SETTLS`: a body needs the
    /// thread-local storage that it knows.
    pub fn try_spawn(&self, body: impl FnOnce() -> i32) -> std::result::Result<Child, Errno> {
        assert!(!self.flags().contains(Flags::CLONE_VM), "{self} needs a stack of its own");
        assert!(
            !self.flags().contains(Flags::CLONE_SETTLS),
            "{self} is for a child that uses no such storage"
        );
        let mut pidfd = PIDFD_UNTOUCHED;
        let image = self.image(&raw mut pidfd);
        // SAFETY: without CLONE_VM the child works on a copy of this memory; `image` and `pidfd` are live, and other addresses in
        // the image are such that the kernel may write there (see `Address`).
        let pid = unsafe { libc::syscall(libc::SYS_clone3, image.as_ptr(), self.size) };
        if pid == 0 {
            exit_child(body);
        }
        let pid = Errno::result(pid);
        self.outcome(pid.map(|pid| pid as i32), pidfd)
    }

    /// Makes the call and expects it to succeed; see [`Clone3::try_spawn`].
    #[track_caller]
    pub fn spawn(&self, body: impl FnOnce() -> i32) -> Result<Child> {
        check::succeeds(self, self.try_spawn(body))
    }

    /// Makes the call with a stack for the child, which does this errand and then ends its thread with the value that this
    /// returns (`SYS_exit`, not exit_group).
    ///
    /// # Panics
    /// When a child that shares its memory and does not hold it up is to do what only others can; and when the stack is that of a
    /// child that may be there still.
    pub fn try_spawn_on(&self, stack: &Stack, errand: Errand) -> std::result::Result<Child, Errno> {
        assert!(errand.suits(self.flags()), "{self} is for a child that does less than {errand:?}");
        let mut pidfd = PIDFD_UNTOUCHED;
        let mut call = self.clone();
        call.args.stack = stack.base as u64;
        call.args.stack_size = Stack::SIZE as u64;
        if self.flags().contains(Flags::CLONE_CHILD_CLEARTID) {
            call.args.child_tid = stack.tid.as_ptr() as u64;
            call.args.parent_tid = stack.tid.as_ptr() as u64;
        }
        let (image, (entry, argument)) = (call.image(&raw mut pidfd), errand.parts());
        stack.lend(self.flags());
        // SAFETY: the child starts on a stack of its own, which outlives it (`Stack` is never unmapped) and is no other
        // child's, and never returns from the assembly. Other addresses in the image are such that the kernel may write there.
        let pid = unsafe { arch::clone3_on_stack(image.as_ptr(), self.size, entry, argument) };
        if pid < 0 {
            stack.take_back();
        }
        self.outcome(if pid < 0 { Err(Errno::from_raw(-pid as i32)) } else { Ok(pid as i32) }, pidfd)
    }

    /// As [`Clone3::try_spawn_on`], expecting success.
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
        // SAFETY: on success the kernel wrote a new descriptor that nobody else owns.
        let pidfd = wrote.then(|| Pidfd::from(unsafe { OwnedFd::from_raw_fd(pidfd) }));
        Ok(Child { pid, pidfd, reaps_itself: self.flags().contains(Flags::AUTOREAP) })
    }

    /// The control of a refusal: this call must succeed. The child exits at once and is cleared away; the signal that its end
    /// sends is not to be found afterwards.
    #[track_caller]
    pub fn accepted(&self) -> Result {
        // Numbers that are no signal are the kernel's to refuse.
        let signal =
            Some(self.args.exit_signal as c_int).filter(|_| (1..=64).contains(&self.args.exit_signal));
        let unheard = signal.map(Unheard::begin).transpose()?;
        let done = self.comes_and_goes();
        unheard.map_or(Ok(()), Unheard::end)?;
        done
    }

    #[track_caller]
    fn comes_and_goes(&self) -> Result {
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

    /// Makes a call for a thread, which ends at once; a thread that came to be is over on return.
    ///
    /// # Errors
    /// The outer one says that there is no stack for it, or that it did not end; the inner one is the kernel's answer.
    #[track_caller]
    pub fn try_thread(&self) -> Result<std::result::Result<(), Errno>> {
        let stack = Stack::new()?;
        let joinable = self.clone().with(Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
        match joinable.try_spawn_on(&stack, errands::exit(0)) {
            Ok(_) => stack.join().map(Ok),
            Err(errno) => Ok(Err(errno)),
        }
    }

    /// As [`Clone3::accepted`], for a child that `CLONE_PARENT` gives to the caller's parent, who reaps it.
    #[track_caller]
    pub fn accepted_elsewhere(&self) -> Result {
        check::succeeds(self, self.try_spawn(|| 0)).context("control").map(drop)
    }

    /// This call must be refused with `expected`, and leave no child, no descriptor and no pidfd behind.
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
            // A child of the caller's parent is that one's to clear away.
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

/// `clone3(CLONE_PIDFD|CLONE_AUTOREAP, exit_signal 0)`, and what else differs from the plain form.
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
        f.write_str(")")
    }
}

/// `clone3(2)` with a pointer to nothing, and a size. A child, should there be one, exits with 99 at once.
pub fn unreadable(args: Unmapped, size: usize) -> std::result::Result<i32, Errno> {
    // SAFETY: the kernel finds no arguments there; should it accept the call, the child leaves at once.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args.number(), size) };
    if pid == 0 {
        exit_now(99);
    }
    Errno::result(pid).map(|pid| pid as i32)
}

/// Runs a child's body and exits with its result. A panic is shown on stderr and exits with 101, as ever.
pub(crate) fn exit_child(body: impl FnOnce() -> i32) -> ! {
    let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
    exit_now(code)
}

/// Ends the process without running destructors or exit handlers, which belong to the parent's copy.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Ends the calling thread alone, where libc's `_exit` would end the group. The process ends with its last
/// thread.
pub fn exit_thread(code: i32) -> ! {
    // SAFETY: SYS_exit never returns and touches no user memory (but for a CLEARTID word that is never freed).
    unsafe { libc::syscall(libc::SYS_exit, code) };
    unreachable!("exit(2) returned")
}

/// Waits for a signal that ends the process.
pub fn park() -> i32 {
    loop {
        // SAFETY: pause has no preconditions.
        unsafe { libc::pause() };
    }
}

/// The pipe must be at its end: no process has the other end open, so no child was left.
fn nobody_holds(pipe: &OwnedFd) -> Result {
    rustix::io::ioctl_fionbio(pipe, true)?;
    match rustix::io::read(pipe, &mut [0_u8; 1]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::fail("the call failed, yet a child ran")),
        Err(rustix::io::Errno::AGAIN) => Err(Failure::fail("the call failed, yet it left a child")),
        Err(errno) => Err(errno.into()),
    }
}

/// The number that the next open file gets: what a leaked descriptor would change.
pub fn lowest_free_fd() -> Result<RawFd> {
    let (probe, _other) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok(probe.as_raw_fd())
}

/// A stack for a child that shares memory, and the word by which the end of a thread on it is seen.
///
/// Never unmapped: a child may outlive the function that made it. A case is a short-lived process.
pub struct Stack {
    base: *mut std::ffi::c_void,
    tid: &'static AtomicU32,
    user: Cell<User>,
}

/// Who is on a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Nobody,
    /// Somebody of whose end the word tells.
    Joinable,
    /// Somebody, for good as far as anybody can tell.
    Other,
}

impl Stack {
    /// Its size in bytes.
    pub const SIZE: usize = 64 * 1024;

    /// Maps a new one.
    pub fn new() -> Result<Stack> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), Stack::SIZE, access, MapFlags::PRIVATE)? };
        Ok(Stack { base, tid: Box::leak(Box::new(AtomicU32::new(0))), user: Cell::new(User::Nobody) })
    }

    /// Where it begins: its lowest address.
    pub fn base(&self) -> *mut std::ffi::c_void {
        self.base
    }

    /// Has a child with these flags on it. One that does not share the caller's memory has a copy.
    fn lend(&self, flags: Flags) {
        assert_eq!(self.user.get(), User::Nobody, "two children on one stack");
        if flags.contains(Flags::CLONE_VM) {
            let tells = flags.contains(Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
            self.user.set(if tells { User::Joinable } else { User::Other });
        }
    }

    /// Nobody is on it any more.
    fn take_back(&self) {
        self.user.set(User::Nobody);
    }

    /// Blocks until the thread that was started on this stack has left user mode for good.
    ///
    /// # Errors
    /// When the kernel has not cleared the thread's word (`CLONE_CHILD_CLEARTID`), or not woken the caller, within the patience of the
    /// case.
    #[track_caller]
    pub fn join(&self) -> Result {
        use rustix::io::Errno;
        use rustix::thread::futex;
        loop {
            let tid = self.tid.load(Ordering::Acquire);
            if tid == 0 {
                if self.user.get() == User::Joinable {
                    self.take_back();
                }
                return Ok(());
            }
            let left =
                sandbox::time_left().duration().map(Timespec::try_from).and_then(std::result::Result::ok);
            match futex::wait(self.tid, futex::Flags::empty(), tid, left.as_ref()) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::TIMEDOUT) => {
                    return Err(never_woken(tid as i32, self.tid.load(Ordering::Acquire) == 0));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// What a join that took too long says: whether the thread runs on, or has gone and was not accounted for, and whether its word was
/// cleared and nobody told.
#[track_caller]
fn never_woken(tid: i32, is_cleared: bool) -> Failure {
    let there = match kill(Pid::from_raw(tid), None) {
        Err(Errno::ESRCH) => "which is gone",
        _ => "which still exists",
    };
    let undone = match is_cleared {
        true => "cleared the word, and did not wake the FUTEX_WAIT on it, for",
        false => "did not clear the word of",
    };
    let waited = sandbox::patience();
    Failure::fail(format!(
        "CLONE_CHILD_CLEARTID: within {waited:.1?} the kernel {undone} thread {tid}, {there}"
    ))
}

/// A child made by [`Clone3`].
///
/// Dropping it closes the pidfd and does nothing else: what a failing case leaves behind is the sandbox's to
/// clear away.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: Option<Pidfd>,
    reaps_itself: bool,
}

impl Child {
    /// Its pid, as the call returned it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it was made with `CLONE_AUTOREAP`, so that nobody is to wait for it.
    pub fn reaps_itself(&self) -> bool {
        self.reaps_itself
    }

    /// The pidfd that the call returned.
    #[track_caller]
    pub fn pidfd(&self) -> Result<&Pidfd> {
        self.pidfd.as_ref().ok_or_else(no_pidfd)
    }

    /// The pidfd that the call returned, out of this child's hands.
    #[track_caller]
    pub fn take_pidfd(&mut self) -> Result<Pidfd> {
        self.pidfd.take().ok_or_else(no_pidfd)
    }

    /// Closes the pidfd that the call returned. What happens then is the kernel's to show.
    #[track_caller]
    pub fn close_pidfd(&mut self) -> Result {
        self.take_pidfd()?.close()
    }

    /// A second pidfd for the child, through `pidfd_open(2)`: a plain one, which neither holds nor kills.
    /// Take it while the child is provably there.
    #[track_caller]
    pub fn observe(&self) -> Result<Pidfd> {
        Pidfd::open(self.pid)
    }

    /// Sends the child a signal by pid.
    #[track_caller]
    pub fn kill(&self, signal: Signal) -> Result {
        note!("kill({}, {signal})", self.pid);
        let sent = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
        check::succeeds(format_args!("kill({}, {signal})", self.pid), sent)
    }

    /// Kills the child if need be and waits until nothing of it is left, reaping it if it is an ordinary one.
    #[track_caller]
    pub fn clear_away(self) -> Result {
        if !self.reaps_itself {
            self.kill(Signal::SIGKILL)?;
            wait::reap(self.pid)?;
            return Ok(());
        }
        let observer = match &self.pidfd {
            Some(pidfd) => pidfd.try_clone()?,
            None => match Pidfd::try_open(self.pid) {
                Err(Errno::ESRCH) => return Ok(()),
                // The number may be another process's by now.
                Ok(pidfd) if !wait::is_child(&pidfd) => return Ok(()),
                other => other?,
            },
        };
        // ESRCH says that it is gone already.
        let _ = observer.send_signal(Signal::SIGKILL);
        observer.wait_reaped()
    }

    /// Blocks until the child is a zombie, which must have exited with `code`, and leaves it one.
    #[track_caller]
    pub fn is_a_zombie(&self, code: i32) -> Result {
        check::equal("the zombie", wait::find_zombie(self.pid)?, wait::Event::exited(self.pid, code))
    }

    /// Waits until nothing is left of a child with a pidfd, which nobody is to wait for, but this status on record.
    #[track_caller]
    pub fn is_gone_with(&self, expected: Status) -> Result {
        self.pidfd()?.gone_with(self.pid, expected)
    }

    /// Waits until nothing is left of a child that ends like this: reaps an ordinary one, and sees that the kernel has reaped an
    /// auto-reaped one.
    #[track_caller]
    pub fn ends_with(self, expected: Status) -> Result {
        if self.reaps_itself { self.is_gone_with(expected) } else { self.reap_expecting(expected) }
    }

    /// Reaps an ordinary child and checks how it ended.
    #[track_caller]
    pub fn reap_expecting(self, expected: Status) -> Result {
        wait::reap_expecting(self.pid, expected)
    }
}

#[track_caller]
fn no_pidfd() -> Failure {
    Failure::broken(
        "this child has no pidfd: cloned without CLONE_PIDFD, taken already, or the kernel wrote none",
    )
}

/// Whether a descriptor is close-on-exec.
pub fn is_cloexec(fd: impl AsFd) -> Result<bool> {
    Ok(rustix::io::fcntl_getfd(fd)?.contains(FdFlags::CLOEXEC))
}

/// Whether this number is an open descriptor, whoever owns it.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only asks, and any number may be asked about.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::limits::lowered;
    use crate::kit::process::answers;

    #[test]
    fn a_child_that_shares_memory_does_what_it_can() {
        // SAFETY: exit does nothing that anybody could not do.
        let whole = unsafe { Errand::whole(errands::exit(0).parts().0, 0) };
        let held_up = Flags::CLONE_VM | Flags::CLONE_VFORK;
        assert!(errands::exit(0).suits(Flags::CLONE_VM | Flags::CLONE_SETTLS));
        assert!(whole.suits(Flags::empty()) && whole.suits(held_up));
        assert!(!whole.suits(Flags::CLONE_VM) && !whole.suits(held_up | Flags::CLONE_SETTLS));
    }

    #[test]
    #[should_panic(expected = "two children on one stack")]
    fn a_stack_is_one_childs() {
        let stack = Stack::new().unwrap();
        stack.lend(Flags::CLONE_VM);
        // The word tells nothing of that child.
        stack.join().unwrap();
        stack.lend(Flags::CLONE_VM);
    }

    #[test]
    fn a_stack_is_free_after_its_thread() {
        let stack = Stack::new().unwrap();
        for _ in 0..2 {
            stack.lend(Flags::CLONE_VM | Flags::CLONE_CHILD_CLEARTID | Flags::CLONE_PARENT_SETTID);
            stack.join().unwrap();
        }
        stack.lend(Flags::empty());
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
