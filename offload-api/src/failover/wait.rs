// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sleeping on two engines at once, and being woken when the device is lost or comes back.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use crate::error::DeviceError;

/// One descriptor that is readable when any of its sources is.
#[derive(Debug)]
pub(super) struct Waiter {
    epoll: OwnedFd,
    pub(super) waker: Arc<OwnedFd>,
    device: Option<Watched>,
    software: Option<Watched>,
}

/// A source: its number at its owner, and our copy of it. The owner's could stay open elsewhere, and
/// signalled for ever, after its queue is closed.
#[derive(Debug)]
struct Watched {
    number: RawFd,
    copy: OwnedFd,
}

/// Which engine a descriptor is of.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Device,
    Software,
}

impl Waiter {
    pub(super) fn new() -> Result<Self, DeviceError> {
        let make = || -> io::Result<Self> {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            epoll::add(&epoll, &waker, EventData::new_u64(0), EventFlags::IN)?;
            Ok(Self {
                epoll,
                waker: Arc::new(waker),
                device: None,
                software: None,
            })
        };
        make().map_err(failed)
    }

    /// The device's queue was closed.
    pub(super) fn forget_device(&mut self) {
        if let Some(old) = self.device.take() {
            let _ = epoll::delete(&self.epoll, &old.copy);
        }
    }

    /// Waits for this descriptor too.
    ///
    /// # Errors
    /// The system refuses; sleeping now could last for ever.
    pub(super) fn watch(&mut self, source: Source, fd: BorrowedFd<'_>) -> Result<(), DeviceError> {
        let known = match source {
            Source::Device => &mut self.device,
            Source::Software => &mut self.software,
        };
        let number = fd.as_raw_fd();
        if known
            .as_ref()
            .is_some_and(|watched| watched.number == number)
        {
            return Ok(());
        }
        if let Some(old) = known.take() {
            let _ = epoll::delete(&self.epoll, &old.copy);
        }
        let copy = fd.try_clone_to_owned().map_err(failed)?;
        epoll::add(&self.epoll, &copy, EventData::new_u64(0), EventFlags::IN)
            .map_err(|error| failed(error.into()))?;
        *known = Some(Watched { number, copy });
        Ok(())
    }

    /// Forgets rings so far; a later one is seen.
    pub(super) fn quiet(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.waker, &mut count);
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn failed(error: io::Error) -> DeviceError {
    DeviceError::Host {
        what: "waiting for two engines",
        error: error.to_string(),
    }
}

/// Wakes the owner of a waker.
pub(super) fn ring(waker: &OwnedFd) {
    let _ = rustix::io::write(waker, &1u64.to_ne_bytes());
}
