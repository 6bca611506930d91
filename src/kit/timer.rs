//! POSIX timers.

use nix::errno::Errno;

use crate::note;

/// Makes a timer that is not started, and leaves it to the end of the process.
pub(crate) fn keep_one() -> std::result::Result<(), Errno> {
    // SAFETY: plain data for which all zeroes is a valid value.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_NONE;
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: both structures are live.
    Errno::result(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) }).map(drop)
}

/// Makes a timer that signals this thread when it expires (`timer_create(2)`, `SIGEV_THREAD_ID`), and deletes it.
pub fn make_for_thread(tid: i32) -> std::result::Result<(), Errno> {
    // SAFETY: plain data for which all zeroes is a valid value.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    (event.sigev_notify, event.sigev_signo) = (libc::SIGEV_THREAD_ID, libc::SIGUSR1);
    event.sigev_notify_thread_id = tid;
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: both structures are live, and the timer is deleted before it could expire.
    let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
    note!("timer_create(SIGEV_THREAD_ID, thread {tid}) = {made}");
    Errno::result(made)?;
    // SAFETY: this timer has just been created.
    Errno::result(unsafe { libc::timer_delete(timer) }).map(drop)
}
