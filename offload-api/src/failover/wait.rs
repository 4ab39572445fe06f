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
    device: Option<RawFd>,
    software: Option<RawFd>,
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
        make().map_err(|error| DeviceError::Host {
            what: "epoll",
            error: error.to_string(),
        })
    }

    /// The device's queue was closed, and its descriptor with it.
    pub(super) fn forget_device(&mut self) {
        self.device = None;
    }

    /// Waits for this descriptor too.
    pub(super) fn watch(&mut self, source: Source, fd: RawFd, borrowed: BorrowedFd<'_>) {
        let known = match source {
            Source::Device => &mut self.device,
            Source::Software => &mut self.software,
        };
        if *known != Some(fd) {
            *known = Some(fd);
            // One that is there already needs nothing.
            let _ = epoll::add(&self.epoll, borrowed, EventData::new_u64(0), EventFlags::IN);
        }
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

/// Wakes the owner of a waker.
pub(super) fn ring(waker: &OwnedFd) {
    let _ = rustix::io::write(waker, &1u64.to_ne_bytes());
}

/// The number of a descriptor.
pub(super) fn number(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}
