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
    /// How each of them stands, once it is kicked, between [`APART`] that tell nothing.
    states: Vec<State>,
    finished: usize,
    /// Finished before, and not all taken home at once.
    rest: VecDeque<Done>,
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

/// States that fill the cache lines at both ends, and those that a processor takes beside them: another core may work on
/// what comes behind in memory.
const APART: usize = size_of::<CachePadded<u8>>().div_ceil(size_of::<State>());

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

    #[inline]
    fn is_over(&self) -> bool {
        matches!(self.work, Work::Done | Work::Ended(_))
    }
}

/// Those of packets, the first that are finished in front.
fn of_packets(states: &[State]) -> &[State] {
    states.get(APART..).unwrap_or_default()
}

#[inline(always)]
fn to_done(op: Op, state: &State) -> Done {
    let Op {
        sa, frame, cookie, ..
    } = op;
    Done {
        sa,
        frame,
        cookie,
        status: match state.work {
            Work::Ended(status) => status,
            _ => Status::Aborted,
        },
        sequence: state.sequence,
        next_header: state.next_header,
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
            states: Vec::with_capacity(depth + 2 * APART),
            finished: 0,
            rest: VecDeque::new(),
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
        let count = self.ops.len();
        if self.states.len() < count + 2 * APART {
            self.states.resize(count + 2 * APART, State::NEW);
        }
        if let (Some(ops @ [_, ..]), Some(states)) = (
            self.ops.get_mut(self.finished..),
            self.states.get_mut(APART + self.finished..APART + count),
        ) {
            let totals = burst::run(&self.shared, ops, states, &mut self.scratch, &mut self.now);
            lock(&self.tally).merge(&totals);
            self.finished = count;
        }
        Ok(())
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let count = limit.min(self.rest.len() + self.finished);
        let states = of_packets(&self.states);
        let home = self.ops.drain(..self.finished).zip(states);
        if self.rest.is_empty() && count == self.finished {
            done.extend(home.map(|(op, state)| to_done(op, state)));
        } else {
            self.rest.extend(home.map(|(op, state)| to_done(op, state)));
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
        for op in self.ops.iter_mut().skip(self.finished) {
            op.frame.clear();
        }
        // What no kick has seen is aborted.
        let states = of_packets(&self.states).iter().take(self.finished);
        let states = states.chain(std::iter::repeat(&State::NEW));
        let home_last = self.ops.drain(..).zip(states);
        home.extend(home_last.map(|(op, state)| to_done(op, state)));
        home
    }
}
