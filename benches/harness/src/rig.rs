// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One thread's way into an engine, and the frames that go round on it.

use std::time::{Duration, Instant};

use offload_api::device::Accelerator;
use offload_api::error::{DeviceError, InstallError, OpenQueueError};
use offload_api::frame::{Frame, FramePool};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::{Direction, SaHandle};
use thiserror::Error;

use crate::cycles;
use crate::packet::{self, LEAST};
use crate::reference::ReferenceError;

/// How long an engine may give no completion.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a measurement ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RigError {
    /// The engine takes no queue pair like this.
    #[error("no queue pair: {0}")]
    Queue(#[from] OpenQueueError),
    /// The engine does not take the SA.
    #[error("the SA: {0}")]
    Install(#[from] InstallError),
    /// The device was lost.
    #[error("{0}")]
    Device(#[from] DeviceError),
    /// It refused a packet that is in order.
    #[error("a packet of {octets} octets was refused as {}", status.name())]
    Refused {
        /// Its status.
        status: Status,
        /// The packet's size.
        octets: usize,
    },
    /// It holds packets, and nothing comes back.
    #[error("nothing came back for {} s, of {in_flight} packets in the engine", PATIENCE.as_secs())]
    Stalled {
        /// Packets that it holds.
        in_flight: usize,
    },
    /// The pool has fewer frames than were asked for.
    #[error("{wanted} frames of {octets} octets do not fit the pool")]
    Frames {
        /// Frames.
        wanted: usize,
        /// Octets of the largest packet.
        octets: usize,
    },
    /// Results could not be checked.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// A queue pair with frames for it. The last frame that came home is the next that goes out, so that
/// memory stays as warm as in a forwarder.
pub struct Rig {
    pub(crate) queue: Box<dyn QueuePair>,
    pub(crate) sas: Vec<SaHandle>,
    direction: Direction,
    /// What goes out, in turn: packets in the clear, or sealed ones.
    pub(crate) packets: Vec<Vec<u8>>,
    /// The packet, and the SA, that is next.
    turn: (usize, usize),
    pub(crate) frames: Vec<Frame>,
    pub(crate) ops: Vec<Op>,
    pub(crate) done: Vec<Done>,
    start: u32,
    pauses: bool,
}

/// What a rig is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Operations that its queue pair holds.
    pub depth: u32,
    /// Frames that it takes.
    pub frames: usize,
    /// SAs, whose turn comes with each packet.
    pub sas: Vec<SaHandle>,
    /// Theirs.
    pub direction: Direction,
    /// What goes out in turn.
    pub packets: Vec<Vec<u8>>,
    /// Whether putting octets back that opening has overwritten is left out of the time: where the host
    /// does the work. A device would go on meanwhile.
    pub pauses: bool,
}

/// Cycles of a burst's stages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    /// Making the operations.
    pub build: u64,
    /// `enqueue` and `kick`.
    pub enqueue: u64,
    /// `dequeue`, until all are back.
    pub dequeue: u64,
}

impl Rig {
    /// Opens a queue pair and takes frames.
    ///
    /// # Errors
    /// The engine refuses it, or the pool is too small.
    pub fn new(engine: &dyn Accelerator, pool: &FramePool, setup: Setup) -> Result<Self, RigError> {
        let Setup {
            depth,
            frames,
            sas,
            direction,
            packets,
            pauses,
        } = setup;
        let octets = packets.iter().map(Vec::len).max().unwrap_or(0);
        let queue = engine.open_queue(&QueueConfig { depth })?;
        let taken: Vec<Frame> = (0..frames)
            .map_while(|_| {
                let mut frame = pool.alloc()?;
                // So that the pages are there, and every frame holds a packet.
                packets.first().map(|packet| frame.fill(packet));
                Some(frame)
            })
            .collect();
        let room = pool
            .config()
            .slot_size
            .saturating_sub(pool.config().headroom) as usize;
        if taken.len() < frames || room < octets || sas.is_empty() || packets.is_empty() {
            return Err(RigError::Frames {
                wanted: frames,
                octets,
            });
        }
        Ok(Self {
            queue,
            sas,
            direction,
            packets,
            turn: (0, 0),
            frames: taken,
            ops: Vec::with_capacity(frames),
            done: Vec::with_capacity(frames),
            start: pool.config().headroom,
            pauses,
        })
    }

    /// Makes operations until there are `count`, or no frame is left; gives the cycles that are not to
    /// count.
    #[inline]
    pub(crate) fn build(&mut self, count: usize) -> Result<u64, RigError> {
        let refills = self.direction == Direction::Inbound && self.pauses;
        // Once a burst: reading the clock takes as long as a small packet.
        let apart = if refills {
            let before = cycles::now();
            self.refill(count.saturating_sub(self.ops.len()))?;
            cycles::now() - before
        } else {
            0
        };
        let count = count.saturating_sub(self.ops.len()).min(self.frames.len());
        let first = self.frames.len() - count;
        let next = |at: usize, of: usize| if at + 1 >= of { 0 } else { at + 1 };
        // Where they lie, and moved when all are in order: one that is moved as soon as it was changed waits
        // for its stores, longer than a cipher takes for a small packet.
        for frame in self.frames.iter_mut().skip(first).rev() {
            let Some(packet) = self.packets.get(self.turn.0) else {
                break;
            };
            self.turn.0 = next(self.turn.0, self.packets.len());
            let fits = if self.direction == Direction::Outbound {
                // The payload is whatever the last turn has left there: nothing reads it but the cipher.
                let fits = frame.place(self.start, packet.len() as u32);
                if let (Some(to), Some(from)) = (frame.get_mut(..LEAST), packet.get(..LEAST)) {
                    to.copy_from_slice(from);
                }
                fits
            } else {
                refills || frame.fill(packet)
            };
            if !fits {
                return Err(RigError::Frames {
                    wanted: 1,
                    octets: packet.len(),
                });
            }
        }
        let (sas, turn) = (&self.sas, &mut self.turn.1);
        if let Some(&any) = sas.first() {
            let ops = self.frames.drain(first..).rev().map(|frame| {
                let sa = sas.get(*turn).copied().unwrap_or(any);
                *turn = next(*turn, sas.len());
                packet::op(sa, frame)
            });
            self.ops.extend(ops);
        }
        Ok(apart)
    }

    /// Puts back what opening has overwritten, into the frames that go out next.
    fn refill(&mut self, count: usize) -> Result<(), RigError> {
        let packets = self.packets.iter().cycle().skip(self.turn.0);
        for (frame, packet) in self.frames.iter_mut().rev().take(count).zip(packets) {
            if !frame.fill(packet) {
                return Err(RigError::Frames {
                    wanted: 1,
                    octets: packet.len(),
                });
            }
        }
        Ok(())
    }

    /// Takes completions home and tells how many; a refused packet is an error.
    #[inline]
    fn collect(&mut self, limit: usize) -> Result<usize, RigError> {
        let count = self.queue.dequeue(&mut self.done, limit)?;
        if let Some(done) = self.done.iter().find(|done| !done.status.is_ok()) {
            return Err(RigError::Refused {
                status: done.status,
                octets: done.frame.len(),
            });
        }
        let home = self.done.drain(..).map(|done| done.frame);
        self.frames.extend(home);
        Ok(count)
    }

    /// Packets in bursts, as many under way as there are frames: cycles from the first operation's
    /// making to the last completion.
    ///
    /// # Errors
    /// See [`RigError`].
    pub fn stream(&mut self, total: u64, burst: usize) -> Result<u64, RigError> {
        let (mut handed, mut back, mut apart) = (0, 0, 0);
        let mut patience = Patience::new();
        let start = cycles::now();
        while back < total {
            let before = (handed, back);
            let rest = total - handed;
            if rest > 0 {
                apart += self.build(burst.min(rest as usize))?;
                if !self.ops.is_empty() {
                    handed += self.queue.enqueue(&mut self.ops)? as u64;
                    self.queue.kick()?;
                }
            }
            back += self.collect(burst)? as u64;
            if before == (handed, back) {
                patience.wait(self.queue.in_flight())?;
            } else {
                patience = Patience::new();
            }
        }
        Ok((cycles::now() - start).saturating_sub(apart))
    }

    /// One burst from its making until it is all back, by stages. `pause` lies between handing over and
    /// collecting, and counts nowhere; `seen` is told how many came back, and the cycles since handing
    /// over began.
    ///
    /// # Errors
    /// See [`RigError`].
    pub fn burst(
        &mut self,
        burst: usize,
        pause: Duration,
        mut seen: impl FnMut(usize, u64),
    ) -> Result<Stages, RigError> {
        let begin = cycles::now();
        let apart = self.build(burst)?;
        let count = self.ops.len();
        let built = cycles::now();
        let mut enqueue = 0;
        let mut dequeue = 0;
        let mut back = 0;
        let mut patience = Patience::new();
        while back < count {
            if !self.ops.is_empty() {
                let from = cycles::now();
                self.queue.enqueue(&mut self.ops)?;
                self.queue.kick()?;
                enqueue += cycles::now() - from;
                if !pause.is_zero() {
                    std::thread::sleep(pause);
                }
            }
            let from = cycles::now();
            let got = self.collect(count - back)?;
            let until = cycles::now();
            dequeue += until - from;
            if got == 0 {
                patience.wait(self.queue.in_flight())?;
                dequeue += cycles::now() - until;
            } else {
                seen(got, until - built);
                back += got;
            }
        }
        Ok(Stages {
            build: (built - begin).saturating_sub(apart),
            enqueue,
            dequeue,
        })
    }
}

/// Waiting for a device that may share this processor.
pub(crate) struct Patience {
    idle: u32,
    since: Option<Instant>,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self {
            idle: 0,
            since: None,
        }
    }

    /// Spins, then gives way, and in the end gives up.
    pub(crate) fn wait(&mut self, in_flight: usize) -> Result<(), RigError> {
        self.idle += 1;
        if !self.idle.is_multiple_of(256) {
            std::hint::spin_loop();
            return Ok(());
        }
        if self.since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err(RigError::Stalled { in_flight });
        }
        std::thread::yield_now();
        Ok(())
    }
}
