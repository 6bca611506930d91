//! A child that exits in the middle of a system call of its parent.

use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::abi::Flags;
use crate::check::Result;
use crate::clone3::{Child, Clone3};
use crate::kit::Channel;
use crate::kit::processors::{first_allowed, stay_on, take_real_time_priority};
use crate::note;

/// A child on its parent's CPU, with a higher priority, that sleeps until a timer expires. It then preempts the parent at
/// whatever point, also in the kernel, until it has exited.
///
/// An unprivileged user may not raise the priority; then the two are scheduled as usual.
#[derive(Debug)]
pub struct ExitRace {
    child: Child,
    timer: OwnedFd,
}

impl ExitRace {
    /// Runs one race per round: an auto-reaped child exits with `code` while the caller runs `ask` on it. Binds the
    /// caller to one CPU.
    pub fn each(mut rounds: impl Iterator<Item = u32>, code: i32, ask: impl Fn(&Child) -> Result) -> Result {
        rounds.try_for_each(|round| {
            let race = ExitRace::new(code)?;
            // Vary the delay by a microsecond per round: the window of interest is shorter than that.
            race.exit_after(100 + round % 10)?;
            ask(&race.child)?;
            race.child.pidfd()?.wait_reaped()
        })
    }

    #[track_caller]
    fn new(code: i32) -> Result<ExitRace> {
        let (here, ready) = (first_allowed()?, Channel::<()>::new()?);
        stay_on(here)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let child = Clone3::new(Flags::REAPED).spawn(|| {
            take_real_time_priority();
            // If this fails, the parent sees the end of the stream.
            let _ = ready.send(&());
            let mut expirations = [0; 8];
            while rustix::io::read(&timer, &mut expirations) == Err(rustix::io::Errno::INTR) {}
            code
        })?;
        ready.recv_from(&child)?;
        Ok(ExitRace { child, timer })
    }

    fn exit_after(&self, microseconds: u32) -> Result {
        note!("timer set to {microseconds} us");
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec {
            it_interval: never,
            it_value: Timespec { tv_sec: 0, tv_nsec: i64::from(microseconds) * 1000 },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}
