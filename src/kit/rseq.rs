//! Restartable sequences: whether a thread has registered for them, see `rseq(2)` and `linux/rseq.h`.

use nix::errno::Errno;

use crate::arch;

/// What a thread registers: as large and as aligned as the first version asks for.
#[repr(C, align(32))]
struct Area([u32; 8]);

/// Registers a new area for the calling thread: refused if that has one (EINVAL).
pub fn register() -> Result<(), Errno> {
    let area = Box::into_raw(Box::new(Area([0; 8])));
    // SAFETY: the area is never freed, and nobody but the kernel knows of it.
    let done =
        unsafe { libc::syscall(libc::SYS_rseq, area, size_of::<Area>() as u32, 0, arch::RSEQ_SIGNATURE) };
    Errno::result(done).map(drop)
}
