//! Restartable sequences: registration of a thread, see `rseq(2)` and `linux/rseq.h`.

use nix::errno::Errno;

use crate::arch;

/// The area that a thread registers, with the size and alignment of the first version.
#[repr(C, align(32))]
struct Area([u32; 8]);

/// Registers a new area for the calling thread; fails with EINVAL if the thread has one already.
pub fn register() -> Result<(), Errno> {
    let area = Box::into_raw(Box::new(Area([0; 8])));
    // SAFETY: the area is never freed, and only the kernel refers to it.
    let done =
        unsafe { libc::syscall(libc::SYS_rseq, area, size_of::<Area>() as u32, 0, arch::RSEQ_SIGNATURE) };
    Errno::result(done).map(drop)
}
