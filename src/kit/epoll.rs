//! Watching one descriptor with epoll.

use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

use crate::check::{Failure, Result};
use crate::sandbox;

/// An epoll instance that watches one descriptor. It holds no reference to the watched file.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// Watches `fd` for these events.
    pub fn new(fd: impl AsFd, events: EventFlags) -> Result<Watch> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, fd, EventData::new_u64(0), events)?;
        Ok(Watch(epoll))
    }

    /// Changes the events for which it watches `fd`, which must be the same descriptor.
    pub fn modify(&self, fd: impl AsFd, events: EventFlags) -> Result {
        Ok(epoll::modify(&self.0, fd, EventData::new_u64(0), events)?)
    }

    /// Returns the event that epoll_wait(2) reports at this moment.
    pub fn now(&self) -> Result<Option<EventFlags>> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }];
        let count = epoll::wait(&self.0, &mut events[..], Some(&Timespec::default()))?;
        Ok((count > 0).then(|| events[0].flags))
    }

    /// Like [`Watch::next`], but blocks in epoll_wait(2) itself, where `EPOLLEXCLUSIVE` matters.
    #[track_caller]
    pub fn block(&self) -> Result<EventFlags> {
        loop {
            let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }];
            let limit = sandbox::time_left().duration().and_then(|left| Timespec::try_from(left).ok());
            match epoll::wait(&self.0, &mut events[..], limit.as_ref()) {
                Ok(0) if sandbox::time_left() == PollTimeout::ZERO => {
                    let waited = sandbox::patience();
                    return Err(Failure::fail(format!("epoll_wait reported no event within {waited:.1?}")));
                }
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(events[0].flags),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Blocks until there is an event.
    #[track_caller]
    pub fn next(&self) -> Result<EventFlags> {
        loop {
            if let Some(flags) = self.now()? {
                return Ok(flags);
            }
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            if !sandbox::wait_for(&mut fds)? {
                let waited = sandbox::patience();
                return Err(Failure::fail(format!("epoll reported no event within {waited:.1?}")));
            }
        }
    }
}
