//! Restartable sequences: whether a thread has registered for them, see `rseq(2)` and `linux/rseq.h`.

use std::cell::UnsafeCell;

use nix::errno::Errno;

/// What a thread registers.
#[repr(C, align(32))]
pub struct Area(UnsafeCell<[u32; 8]>);

// SAFETY: nobody here reads or writes it; the kernel writes to it for the one thread that has registered it.
unsafe impl Sync for Area {}

impl Area {
    /// An unused one.
    pub const fn new() -> Area {
        Area(UnsafeCell::new([0; 8]))
    }

    /// Registers it for the calling thread: refused if that has registered another one (EINVAL).
    pub fn register(&'static self) -> Result<(), Errno> {
        // The signature that every library on this processor uses.
        const SIGNATURE: u32 = 0x5305_3053;
        // SAFETY: the area is never freed, and as large and as aligned as the first version asks for.
        let done =
            unsafe { libc::syscall(libc::SYS_rseq, self.0.get(), size_of::<Area>() as u32, 0, SIGNATURE) };
        Errno::result(done).map(drop)
    }
}
