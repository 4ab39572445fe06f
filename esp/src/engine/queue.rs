// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue pair of the software engine: packets wait here for a kick, and for whoever takes them home.

mod burst;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use esp_framing::framing::Located;
use offload_api::error::DeviceError;
use offload_api::frame::Frame;
use offload_api::queue::{Arm, Done, Explicit, Op, QueuePair, Status};
use offload_api::sa::SaHandle;

use super::Shared;

pub(crate) struct SoftwareQueue {
    shared: Arc<Shared>,
    depth: usize,
    /// Packets in flight: those that are finished in front, then those that wait for a kick. They stay
    /// where they are from hand-over to hand-over.
    jobs: VecDeque<Job>,
    finished: usize,
    scratch: Scratch,
    /// Never readable: there is nothing to wait for when nothing is finished.
    idle: OwnedFd,
}

/// Memory that is kept from burst to burst.
#[derive(Default)]
struct Scratch {
    ivs: Vec<u8>,
    /// A packet that lies in several frames, for a look at it.
    gathered: Vec<u8>,
}

/// One packet on its way through the burst.
struct Job {
    sa: SaHandle,
    frame: Frame,
    cookie: u64,
    /// The caller's own, or what the burst gives.
    sequence: u64,
    inner_len: usize,
    work: Work,
    /// The number is the caller's.
    explicit: bool,
    next_header: u8,
    iv: Option<[u8; 16]>,
}

#[derive(Clone, Copy)]
enum Work {
    New,
    Seal,
    Open(Located),
    /// Sealed or opened.
    Done,
    Ended(Status),
}

impl Job {
    #[inline]
    fn new(op: Op) -> Self {
        Self {
            inner_len: op.frame.packet_len(),
            sa: op.sa,
            frame: op.frame,
            cookie: op.cookie,
            sequence: op.explicit.map_or(0, |explicit| explicit.sequence),
            work: Work::New,
            explicit: op.explicit.is_some(),
            next_header: 0,
            iv: op.explicit.map(|explicit| explicit.iv),
        }
    }

    /// Number and IV that the caller gave.
    #[inline]
    fn explicit(&self) -> Option<Explicit> {
        let iv = self.iv.filter(|_| self.explicit)?;
        Some(Explicit {
            sequence: self.sequence,
            iv,
        })
    }

    #[inline]
    fn is_over(&self) -> bool {
        matches!(self.work, Work::Done | Work::Ended(_))
    }

    #[inline]
    fn into_done(self) -> Done {
        Done {
            sa: self.sa,
            frame: self.frame,
            cookie: self.cookie,
            status: match self.work {
                Work::Ended(status) => status,
                _ => Status::Aborted,
            },
            sequence: self.sequence,
            next_header: self.next_header,
        }
    }
}

impl SoftwareQueue {
    pub(crate) fn new(shared: Arc<Shared>, depth: u32) -> Result<Self, DeviceError> {
        let depth = depth as usize;
        let idle = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| DeviceError::Host {
            what: "eventfd",
            error: error.to_string(),
        })?;
        Ok(Self {
            shared,
            depth,
            jobs: VecDeque::with_capacity(depth),
            finished: 0,
            scratch: Scratch::default(),
            idle,
        })
    }
}

impl QueuePair for SoftwareQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        let room = self.depth - self.in_flight();
        let accepted = ops.len().min(room);
        self.jobs.extend(ops.drain(..accepted).map(Job::new));
        Ok(accepted)
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        let jobs = self.jobs.make_contiguous();
        if let Some(fresh @ [_, ..]) = jobs.get_mut(self.finished..) {
            burst::run(&self.shared, fresh, &mut self.scratch);
            self.finished = self.jobs.len();
        }
        Ok(())
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let count = limit.min(self.finished);
        done.extend(self.jobs.drain(..count).map(Job::into_done));
        self.finished -= count;
        Ok(count)
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        if self.finished == 0 {
            Ok(Arm::Wait(self.idle.as_fd()))
        } else {
            Ok(Arm::Ready)
        }
    }

    fn in_flight(&self) -> usize {
        self.jobs.len()
    }

    fn close(mut self: Box<Self>) -> Vec<Done> {
        for job in self.jobs.iter_mut().skip(self.finished) {
            job.frame.clear();
            job.sequence = 0;
        }
        self.jobs.drain(..).map(Job::into_done).collect()
    }
}
