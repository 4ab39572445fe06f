// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue pair of the software engine: packets wait here for a kick, and for whoever takes them home.

mod burst;
mod cbc;
mod large;
mod share;
mod steady;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};

use esp_framing::framing::Located;
use offload_api::error::DeviceError;
use offload_api::queue::{Arm, Done, Op, QueuePair, Status};

use super::tally::Tally;
use super::{Shared, lock};

/// In cache lines of its own, and those that a processor takes beside them: another core may have the next one.
#[repr(align(128))]
pub(crate) struct SoftwareQueue {
    shared: Arc<Shared>,
    depth: usize,
    /// Packets in flight, as they were handed over: a packet that is moved costs as much as a header.
    /// Those that are finished are in front, then come those that wait for a kick.
    ops: Vec<Op>,
    finished: usize,
    /// Finished before, and not all taken home at once.
    rest: VecDeque<Done>,
    states: States,
    scratch: Scratch,
    tally: Tally,
    /// When a clock was last read for packets of it.
    now: Instant,
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

/// How a packet stands on its way through the burst. Cores hand it to each other, so it takes little of a cache line.
#[derive(Clone, Copy)]
struct State {
    work: Work,
    sequence: u64,
    inner_len: u32,
    next_header: u8,
}

#[derive(Clone, Copy)]
enum Work {
    New,
    Seal,
    Open(At),
    /// Sealed or opened.
    Done,
    Ended(Status),
}

/// Where ESP (or AH) starts in a packet.
#[derive(Clone, Copy)]
struct At(u32);

const _: () = assert!(size_of::<State>() == 24);

/// States of as many packets as were worked on at once, between [`APART`](Self::APART) that tell nothing.
struct States(Vec<State>);

impl States {
    /// So many that they fill the cache lines at each end, and those that a processor takes beside them: another core may
    /// work on what lies there.
    const APART: usize = size_of::<CachePadded<u8>>().div_ceil(size_of::<State>());

    /// With room for bursts that one core works on.
    fn new() -> Self {
        Self(Vec::with_capacity(burst::BURST + 2 * Self::APART))
    }

    fn of(&mut self, packets: usize) -> &mut [State] {
        let all = packets + 2 * Self::APART;
        if self.0.len() < all {
            self.0.resize(all, State::NEW);
        }
        let these = self.0.get_mut(Self::APART..Self::APART + packets);
        these.unwrap_or_default()
    }
}

impl State {
    const NEW: Self = Self {
        work: Work::New,
        sequence: 0,
        inner_len: 0,
        next_header: 0,
    };

    #[inline]
    fn to_seal(op: &Op, sequence: u64) -> Self {
        Self {
            work: Work::Seal,
            sequence,
            inner_len: op.frame.len() as u32,
            next_header: 0,
        }
    }

    #[inline]
    fn located(&self, at: At) -> Located {
        Located {
            esp: at.0 as usize,
            sequence_low: self.sequence as u32,
        }
    }

    /// Tells a packet's caller how it went.
    #[inline]
    fn complete(&self, op: &mut Op, status: Status) {
        if !status.is_ok() {
            op.frame.clear();
        }
        op.complete(status, self.sequence, self.next_header);
    }

    /// As [`complete`](Self::complete), of what is refused already.
    #[cold]
    fn complete_refused(&self, op: &mut Op) {
        let status = match self.work {
            Work::Ended(status) => status,
            // Nobody worked on it: it is neither sealed nor authentic.
            _ => Status::Aborted,
        };
        self.complete(op, status);
    }

    #[inline]
    fn is_over(&self) -> bool {
        matches!(self.work, Work::Done | Work::Ended(_))
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
            now: (shared.clock)(),
            tally: shared.tallies.open(),
            shared,
            depth,
            ops: Vec::with_capacity(depth),
            finished: 0,
            rest: VecDeque::new(),
            states: States::new(),
            scratch: Scratch::default(),
            idle,
        })
    }
}

impl Drop for SoftwareQueue {
    fn drop(&mut self) {
        self.shared.tallies.close(&self.tally);
    }
}

impl QueuePair for SoftwareQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        let room = self.depth - self.in_flight();
        let accepted = ops.len().min(room);
        if self.ops.is_empty() && accepted == ops.len() && ops.capacity() >= self.depth {
            // Whole vectors change hands: nothing is copied, and what is taken has room for all.
            std::mem::swap(&mut self.ops, ops);
        } else if accepted == ops.len() {
            self.ops.append(ops);
        } else {
            self.ops.extend(ops.drain(..accepted));
        }
        Ok(accepted)
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        if let Some(ops @ [_, ..]) = self.ops.get_mut(self.finished..) {
            let totals = burst::run(
                &self.shared,
                ops,
                (&mut self.states, &mut self.scratch),
                &mut self.now,
            );
            lock(&self.tally).merge(&totals);
            self.finished = self.ops.len();
        }
        Ok(())
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let count = limit.min(self.rest.len() + self.finished);
        if self.rest.is_empty() && count == self.finished {
            if done.is_empty() && count == self.ops.len() && done.capacity() >= self.depth {
                // As they were handed over.
                std::mem::swap(&mut self.ops, done);
            } else {
                done.extend(self.ops.drain(..count));
            }
        } else {
            self.rest.extend(self.ops.drain(..self.finished));
            done.extend(self.rest.drain(..count));
        }
        self.finished = 0;
        Ok(count)
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        if self.rest.is_empty() && self.finished == 0 {
            Ok(Arm::Wait(self.idle.as_fd()))
        } else {
            Ok(Arm::Ready)
        }
    }

    fn in_flight(&self) -> usize {
        self.rest.len() + self.ops.len()
    }

    fn close(mut self: Box<Self>) -> Vec<Done> {
        let mut home: Vec<Done> = self.rest.drain(..).collect();
        home.extend(self.ops.drain(..self.finished));
        // What no kick has seen is aborted.
        home.extend(self.ops.drain(..).map(|op| op.refused(Status::Aborted)));
        home
    }
}
