// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue pair with its SAs, and packets that go round.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bench_harness::packet::{inner, op, sa};
use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::device::Accelerator;
use offload_api::frame::{Frame, FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair, Status};
use offload_api::replay::WINDOW_MAX;
use offload_api::sa::{Direction, OuterHeaders, SaHandle, SaParams, Suite};

/// Octets of a frame.
pub(crate) const FRAME: usize = 2048;

const SUITE: Suite = Suite::AES_128_GCM;

fn params(direction: Direction, number: usize) -> SaParams {
    SaParams {
        esn: true,
        // Bursts of one SA fit, of several workers, too.
        replay_window: match direction {
            Direction::Outbound => 0,
            Direction::Inbound => WINDOW_MAX,
        },
        outer: Some(OuterHeaders {
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
            udp: None,
        }),
        ..sa(direction, SUITE, number as u32)
    }
}

/// With so many threads, of which the helpers stay awake for so long.
pub(crate) fn engine(threads: usize, busy_poll: Duration) -> SoftwareEngine {
    let config = SoftwareConfig {
        threads,
        busy_poll,
        ..SoftwareConfig::default()
    };
    SoftwareEngine::new(config).unwrap()
}

/// SAs to seal with, and to open.
pub(crate) type Sas = [Vec<SaHandle>; 2];

pub(crate) fn install(engine: &SoftwareEngine, count: usize) -> Sas {
    [Direction::Outbound, Direction::Inbound].map(|direction| {
        let each = (0..count).map(|sa| engine.install(&params(direction, sa)).unwrap());
        each.collect()
    })
}

/// A queue pair with its SAs, and frames that go round.
struct Rig {
    queue: Box<dyn QueuePair>,
    sas: Vec<SaHandle>,
    ops: Vec<Op>,
    done: Vec<Done>,
    /// The last burst's are behind.
    frames: Vec<Frame>,
    /// Filled before, the earliest in front.
    filled: VecDeque<Vec<Frame>>,
    /// Bursts between filling and handing over.
    ahead: usize,
    packets: Vec<Vec<u8>>,
    /// Others open with its SA, too: what was stopped for long comes too late.
    may_be_late: bool,
}

impl Rig {
    /// For packets that are sealed, or, sealed by another rig, opened.
    fn new(engine: &SoftwareEngine, sas: &[SaHandle], packets: Vec<Vec<u8>>, ahead: usize) -> Self {
        let frames = packets.len() * (ahead + 1);
        let pool = FramePool::new(FramePoolConfig {
            slots: frames as u32,
            slot_size: FRAME as u32,
            ..FramePoolConfig::default()
        })
        .unwrap();
        let burst = packets.len();
        let depth = (burst as u32).next_power_of_two().max(2);
        Self {
            sas: sas.to_vec(),
            queue: engine.open_queue(&QueueConfig { depth }).unwrap(),
            ops: Vec::with_capacity(burst),
            done: Vec::with_capacity(burst),
            frames: (0..frames).map(|_| pool.alloc().unwrap()).collect(),
            filled: (0..=ahead).map(|_| Vec::with_capacity(burst)).collect(),
            ahead: ahead + 1,
            packets,
            may_be_late: false,
        }
    }

    /// A burst from hand-over to the last completion; filling the frames is not in it. Nothing as long as
    /// none was filled long enough ago.
    fn burst(&mut self) -> Option<Duration> {
        let count = self.packets.len();
        // Emptied by the burst before.
        let mut set = self.filled.pop_front().unwrap();
        for (mut frame, packet) in self.frames.drain(..count).zip(&self.packets) {
            assert!(frame.fill(packet));
            set.push(frame);
        }
        self.filled.push_back(set);
        if self.ahead > 1 {
            self.ahead -= 1;
            return None;
        }
        let sas = self.sas.iter().cycle();
        let set = self.filled.front_mut().unwrap();
        self.ops
            .extend(set.drain(..).zip(sas).map(|(frame, &sa)| op(sa, frame)));
        let start = Instant::now();
        self.queue.enqueue(&mut self.ops).unwrap();
        self.queue.kick().unwrap();
        self.queue.dequeue(&mut self.done, count).unwrap();
        let taken = start.elapsed();
        let late = self.may_be_late;
        let good = |done: &Done| match done.status {
            Status::Ok => true,
            // Left of the window a number is taken for one of the next 2^32 (RFC 4303 appendix A2.2).
            status => late && matches!(status, Status::TooOld | Status::BadIcv),
        };
        assert!(self.done.len() == count && self.done.iter().all(good));
        self.frames
            .extend(self.done.drain(..).map(|done| done.frame));
        Some(taken)
    }
}

/// What each burst of a round took.
pub(crate) struct Times(pub(crate) Vec<Duration>);

impl Times {
    pub(crate) fn with_room(bursts: usize) -> Self {
        Self(Vec::with_capacity(bursts))
    }

    /// Nanoseconds a packet in the round's middle burst, and room for the next round.
    pub(crate) fn take(&mut self, packets: usize) -> f64 {
        let middle = self.0.len() / 2;
        let (_, median, _) = self.0.select_nth_unstable(middle);
        let taken = median.as_nanos() as f64 / packets as f64;
        self.0.clear();
        taken
    }
}

/// A rig that seals, and one that opens what it sealed; in cache lines of its own.
#[repr(align(128))]
pub(crate) struct Pair {
    seal: Rig,
    open: Rig,
    times: [Times; 2],
    bursts: usize,
}

impl Pair {
    pub(crate) fn new(
        engine: &SoftwareEngine,
        [outbound, inbound]: &Sas,
        (size, burst): (usize, usize),
        bursts: usize,
        ahead: usize,
    ) -> Self {
        // Room for sealed packets.
        let roomy = vec![Vec::with_capacity(size + 128); burst];
        Self {
            seal: Rig::new(engine, outbound, vec![inner(size); burst], ahead),
            open: Rig::new(engine, inbound, roomy, ahead),
            times: [(); 2].map(|()| Times::with_room(bursts)),
            bursts,
        }
    }

    /// Others open with its SA, too.
    pub(crate) fn shares_its_sa(&mut self) {
        self.open.may_be_late = true;
    }

    /// Each number once: nanoseconds a packet of sealing and of opening.
    pub(crate) fn round(&mut self) -> [f64; 2] {
        let count = self.seal.packets.len();
        while self.times[1].0.len() < self.bursts {
            let Some(taken) = self.seal.burst() else {
                continue;
            };
            self.times[0].0.push(taken);
            let sealed = self.seal.frames.iter().rev().take(count);
            for (packet, frame) in self.open.packets.iter_mut().rev().zip(sealed) {
                packet.clear();
                packet.extend_from_slice(frame);
            }
            self.times[1].0.extend(self.open.burst());
        }
        self.times.each_mut().map(|times| times.take(count))
    }
}
