//! A child that ends in the middle of what its parent does.

use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::check::Result;
use crate::clone3::{Child, Clone3};
use crate::kit::Channel;
use crate::kit::processors::{go_first, stay_on, this};
use crate::note;

/// A child on its parent's own processor, and with priority there, asleep until a timer goes off. Wherever the parent is at that
/// moment, in the kernel too, it stands still until the child has ended.
///
/// An ordinary user may not have priority: there, the two take turns as all processes do.
#[derive(Debug)]
pub struct Ambush {
    child: Child,
    timer: OwnedFd,
}

impl Ambush {
    /// Lays it; the child will exit with `code`. The caller stays on one processor from here on.
    #[track_caller]
    pub fn lay(call: &Clone3, code: i32) -> Result<Ambush> {
        let (here, ready) = (this()?, Channel::<()>::new()?);
        stay_on(here)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let child = call.spawn(|| {
            go_first();
            // A failure to report is seen as the end of the stream.
            let _ = ready.send(&());
            let mut expirations = [0; 8];
            while rustix::io::read(&timer, &mut expirations) == Err(rustix::io::Errno::INTR) {}
            code
        })?;
        ready.recv()?;
        Ok(Ambush { child, timer })
    }

    /// Sets the timer.
    pub fn spring_after(&self, microseconds: u32) -> Result {
        note!("timer set to {microseconds} us");
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec {
            it_interval: never,
            it_value: Timespec { tv_sec: 0, tv_nsec: i64::from(microseconds) * 1000 },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// The child.
    pub fn child(&self) -> &Child {
        &self.child
    }
}
