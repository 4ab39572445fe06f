// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs a case once: a round of it.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use hdrhistogram::Histogram;
use offload_api::capability::Features;
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, HEADROOM, TAILROOM};
use offload_api::queue::{Done, Status};
use offload_api::sa::{Direction, SaHandle};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::case::{Case, Level, Ptest};
use crate::cycles;
use crate::packet;
use crate::reference::Reference;
use crate::rig::{Patience, Rig, RigError, Setup};

/// Sealed packets that a case opens over and over, at most.
const SEALED: usize = 64;
/// Longest latency that is told apart, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// How to run cases.
#[derive(Clone, Debug)]
pub struct Options {
    /// Packets of a round.
    pub total_ops: u64,
    /// Frames of a queue pair.
    pub pool: usize,
    /// Operations that a queue pair holds.
    pub depth: u32,
    /// Processors that threads are kept to, in turn; none leaves them to the scheduler.
    pub processors: Vec<usize>,
    /// Between handing over and collecting, in `pmd-cyclecount`.
    pub delay: Duration,
    /// Spoil every so-manieth result before it is checked: what `verify` must find.
    pub corrupt: Option<u64>,
}

/// What a round has measured.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Packets.
    pub packets: u64,
    /// Seconds from the first thread's start to the last one's end.
    pub seconds: f64,
    /// Cycles of all threads.
    pub cycles: u64,
    /// Cycles by stage: building, enqueueing, dequeueing.
    pub stages: [u64; 3],
    /// Nanoseconds from handing over to the completion.
    pub latency: Option<Histogram<u64>>,
    /// Results that were checked.
    pub checked: u64,
    /// Results that were wrong.
    pub wrong: u64,
    /// What was wrong first.
    pub first_wrong: Option<String>,
    /// Spoiled packets that were found, and how many there were: the negative control.
    pub control: (u64, u64),
}

/// An engine with SAs installed for a case, ready to run it again and again.
pub struct Prepared {
    case: Case,
    engine: Arc<dyn Accelerator>,
    pool: FramePool,
    /// Of each queue pair: its SAs, their numbers, and what it sends.
    lanes: Vec<Lane>,
}

struct Lane {
    sas: Vec<SaHandle>,
    references: Vec<Reference>,
    packets: Vec<Vec<u8>>,
}

/// Octets of a frame for packets up to `most` octets: an odd number of cache lines, so that frames do
/// not compete for the same sets of a cache.
pub fn slot_size(most: usize) -> u32 {
    let lines = (HEADROOM + most + TAILROOM).div_ceil(64);
    (lines | 1) as u32 * 64
}

impl Prepared {
    /// Installs a case's SAs. `first` numbers them: each case of an engine has its own.
    ///
    /// # Errors
    /// The engine takes none of them, or the reference doesn't.
    pub fn new(
        case: &Case,
        engine: Arc<dyn Accelerator>,
        pool: FramePool,
        first: u32,
    ) -> Result<Self, RigError> {
        let sizes = case.sizes.sequence();
        let mut lanes = Vec::new();
        for lane in 0..case.queues {
            let (mut sas, mut references) = (Vec::new(), Vec::new());
            for sa in 0..case.sas {
                let number = first + (lane * case.sas + sa) as u32;
                let params = packet::sa_at(case.level, case.direction, case.suite, number);
                sas.push(engine.install(&params)?);
                references.push(Reference::new(&params)?);
            }
            // With the cryptography alone a lane has one SA, whose header all its packets have.
            let header = packet::sa_at(
                case.level,
                case.direction,
                case.suite,
                first + (lane * case.sas) as u32,
            );
            let plain = sizes.iter().map(|size| match (case.level, case.direction) {
                (Level::Packet, _) => packet::inner(*size),
                (Level::Crypto, Direction::Outbound) => packet::framed(&header, *size),
                (Level::Crypto, Direction::Inbound) => packet::inner(size.saturating_sub(2)),
            });
            let packets = match case.direction {
                Direction::Outbound => plain.collect(),
                Direction::Inbound => {
                    // Long enough that each SA meets each size in the same turn over and over.
                    let plain: Vec<_> = plain.collect();
                    let count = plain.len() * case.sas;
                    let count = count.max(SEALED.next_multiple_of(count));
                    let pairs = plain.iter().cycle().zip(references.iter().cycle());
                    let seal = |(n, (plain, sa)): (u32, (&Vec<u8>, &Reference))| sa.seal(n, plain);
                    let sealed = (1..).zip(pairs).take(count).map(seal);
                    sealed.collect::<Result<_, _>>()?
                }
            };
            lanes.push(Lane {
                sas,
                references,
                packets,
            });
        }
        Ok(Self {
            case: case.clone(),
            engine,
            pool,
            lanes,
        })
    }

    /// Runs it once. Queue pairs live as long as the round, since a device has but a few.
    ///
    /// # Errors
    /// See [`RigError`].
    pub fn round(&mut self, options: &Options) -> Result<Round, RigError> {
        let pauses = self
            .engine
            .capabilities()
            .features
            .contains(Features::SOFTWARE);
        let depth = options.depth.min(self.engine.capabilities().max_depth);
        let mut rigs = Vec::new();
        for lane in &self.lanes {
            let setup = Setup {
                depth,
                frames: options.pool,
                sas: lane.sas.clone(),
                direction: self.case.direction,
                packets: lane.packets.clone(),
                pauses,
            };
            rigs.push(Rig::new(&*self.engine, &self.pool, setup)?);
        }
        let cores = self.case.cores.min(rigs.len()).max(1);
        let mut shares: Vec<Vec<(Rig, &Lane)>> = (0..cores).map(|_| Vec::new()).collect();
        for ((n, rig), lane) in rigs.into_iter().enumerate().zip(&self.lanes) {
            if let Some(share) = shares.get_mut(n % cores) {
                share.push((rig, lane));
            }
        }
        let barrier = Barrier::new(cores);
        let case = &self.case;
        let queues = self.lanes.len() as u64;
        let rounds: Vec<Result<Round, RigError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = shares
                .into_iter()
                .enumerate()
                .map(|(core, mut share)| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        if let Some(processor) = options
                            .processors
                            .get(core % options.processors.len().max(1))
                        {
                            pin(*processor);
                        }
                        barrier.wait();
                        thread_round(case, &mut share, options, queues)
                    })
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            threads.into_iter().map(join).collect()
        });
        let mut all = Round::default();
        for round in rounds {
            all.add(round?);
        }
        Ok(all)
    }

    /// The case.
    pub fn case(&self) -> &Case {
        &self.case
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for sa in self.lanes.iter().flat_map(|lane| &lane.sas) {
            // A device that is gone has no SAs.
            let _ = self.engine.retire(*sa);
        }
    }
}

impl Round {
    /// Adds what another thread, or another round, has measured at the same time.
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.seconds = self.seconds.max(other.seconds);
        self.cycles += other.cycles;
        for (sum, stage) in self.stages.iter_mut().zip(other.stages) {
            *sum += stage;
        }
        match (&mut self.latency, other.latency) {
            (Some(histogram), Some(other)) => {
                // Both have the same bounds.
                let _ = histogram.add(other);
            }
            (mine, theirs) => *mine = mine.take().or(theirs),
        }
        self.checked += other.checked;
        self.wrong += other.wrong;
        self.first_wrong = self.first_wrong.take().or(other.first_wrong);
        self.control.0 += other.control.0;
        self.control.1 += other.control.1;
    }
}

/// Keeps this thread to a processor.
pub(crate) fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    // Where it is not allowed the scheduler decides.
    let _ = sched_setaffinity(None, &set);
}

/// Processors that this process may use, the last one first: the first has most interrupts.
pub fn processors() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    let mut all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|n| set.is_set(*n)).collect();
    all.reverse();
    all
}

/// One thread's queue pairs, a burst of each in turn where there are several.
fn thread_round(
    case: &Case,
    share: &mut [(Rig, &Lane)],
    options: &Options,
    queues: u64,
) -> Result<Round, RigError> {
    let mut round = Round::default();
    let total = options.total_ops.div_ceil(queues);
    // With several queues a turn is short enough that all are busy, and long enough to be a stream.
    let turns = if share.len() > 1 && case.ptest == Ptest::Throughput {
        16
    } else {
        1
    };
    let mut left = vec![total; share.len()];
    let start = cycles::now();
    for turn in 0..turns {
        for ((rig, lane), left) in share.iter_mut().zip(&mut left) {
            let packets = left.div_ceil(turns - turn);
            *left -= packets;
            match case.ptest {
                Ptest::Throughput => {
                    round.cycles += rig.stream(packets, case.burst)?;
                    round.packets += packets;
                }
                Ptest::Latency => latency(case, rig, packets, &mut round)?,
                Ptest::PmdCyclecount => stages(case, rig, packets, options, &mut round)?,
                Ptest::Verify => verify(case, rig, lane, packets, options, &mut round)?,
                // Of daemons, not of an engine's queue pairs.
                Ptest::Tunnel => {}
            }
        }
    }
    round.seconds = match case.ptest {
        // What was measured, without what was left out of it.
        Ptest::Throughput => cycles::duration(round.cycles).as_secs_f64(),
        _ => cycles::duration(cycles::now() - start).as_secs_f64(),
    };
    Ok(round)
}

fn latency(case: &Case, rig: &mut Rig, total: u64, round: &mut Round) -> Result<(), RigError> {
    // Three digits from 1 ns up: the bounds make sense.
    let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST, 3).ok();
    let nanos = 1e9 / cycles::per_second();
    let mut sent = 0;
    while sent < total {
        let burst = case.burst.min((total - sent) as usize);
        let stages = rig.burst(burst, Duration::ZERO, |count, cycles| {
            if let Some(histogram) = &mut histogram {
                let value = (cycles as f64 * nanos) as u64;
                histogram.saturating_record_n(value.max(1), count as u64);
            }
        })?;
        round.cycles += stages.build + stages.enqueue + stages.dequeue;
        sent += burst as u64;
    }
    round.packets += sent;
    round.add(Round {
        latency: histogram,
        ..Round::default()
    });
    Ok(())
}

fn stages(
    case: &Case,
    rig: &mut Rig,
    total: u64,
    options: &Options,
    round: &mut Round,
) -> Result<(), RigError> {
    let mut sent = 0;
    while sent < total {
        let burst = case.burst.min((total - sent) as usize);
        let stages = rig.burst(burst, options.delay, |_, _| ())?;
        let each = [stages.build, stages.enqueue, stages.dequeue];
        for (sum, stage) in round.stages.iter_mut().zip(each) {
            *sum += stage;
        }
        sent += burst as u64;
    }
    round.packets += sent;
    // Building is not the engine's.
    round.cycles = round.stages[1] + round.stages[2];
    Ok(())
}

/// Every packet is another one, and its result is checked by [`Reference`].
fn verify(
    case: &Case,
    rig: &mut Rig,
    lane: &Lane,
    total: u64,
    options: &Options,
    round: &mut Round,
) -> Result<(), RigError> {
    let mut verifier = Verifier::new(case, lane, options.corrupt);
    // Sealing goes on with the numbers of earlier rounds.
    let mut expected: Vec<Option<u64>> = vec![None; lane.sas.len()];
    let mut sent = 0;
    while sent < total {
        let burst = case
            .burst
            .min((total - sent) as usize)
            .min(rig.frames.len());
        let mut plain = Vec::with_capacity(burst);
        for n in 0..burst as u64 {
            let (sa, octets) = verifier.packet(sent + n)?;
            rig.submit(sa, &octets.wire, n)?;
            plain.push(octets);
        }
        let mut done = rig.finish(burst)?;
        done.sort_by_key(|done| done.cookie);
        for (done, packet) in done.into_iter().zip(plain) {
            verifier.judge(done, &packet, &mut expected, rig, round)?;
        }
        sent += burst as u64;
    }
    round.packets += sent;
    Ok(())
}

/// A packet in the clear, as it is given to the engine, and whether it was spoiled.
struct Probe {
    plain: Vec<u8>,
    wire: Vec<u8>,
    spoiled: bool,
}

struct Verifier<'lane> {
    direction: Direction,
    sizes: Vec<usize>,
    lane: &'lane Lane,
    corrupt: Option<u64>,
    random: fastrand::Rng,
    judged: u64,
}

/// One packet in so many is spoiled to see that it is found.
const CONTROL: u64 = 16;

impl<'lane> Verifier<'lane> {
    fn new(case: &Case, lane: &'lane Lane, corrupt: Option<u64>) -> Self {
        Self {
            direction: case.direction,
            sizes: case.sizes.sequence(),
            lane,
            corrupt,
            random: fastrand::Rng::with_seed(1),
            judged: 0,
        }
    }

    /// The packet of this number, and the index of its SA.
    fn packet(&mut self, number: u64) -> Result<(usize, Probe), RigError> {
        let sa = (number % self.lane.sas.len() as u64) as usize;
        let turn = number as usize % self.sizes.len().max(1);
        let mut plain = packet::inner(self.sizes.get(turn).copied().unwrap_or(0));
        if let Some(payload) = plain.get_mut(packet::LEAST..) {
            self.random.fill(payload);
        }
        let mut spoiled = false;
        let wire = match (self.direction, self.lane.references.get(sa)) {
            (Direction::Inbound, Some(reference)) => {
                let mut sealed = reference.seal(number as u32 + 1, &plain)?;
                spoiled = number.is_multiple_of(CONTROL);
                if spoiled {
                    // Behind the SPI, by which an engine tells whose packet it is.
                    let bit = self.random.usize(32..sealed.len() * 8);
                    flip(&mut sealed, bit);
                }
                sealed
            }
            _ => plain.clone(),
        };
        Ok((
            sa,
            Probe {
                plain,
                wire,
                spoiled,
            },
        ))
    }

    fn judge(
        &mut self,
        done: Done,
        probe: &Probe,
        expected: &mut [Option<u64>],
        rig: &mut Rig,
        round: &mut Round,
    ) -> Result<(), RigError> {
        self.judged += 1;
        round.checked += 1;
        let sa = rig.sas.iter().position(|sa| *sa == done.sa).unwrap_or(0);
        let mut octets = done.frame.to_vec();
        if self
            .corrupt
            .is_some_and(|every| self.judged.is_multiple_of(every))
            && !octets.is_empty()
        {
            let bit = self.random.usize(..octets.len() * 8);
            flip(&mut octets, bit);
        }
        let flaw = match (self.direction, self.lane.references.get(sa)) {
            (Direction::Outbound, Some(reference)) if done.status.is_ok() => {
                let number = done.sequence;
                let last = expected.get_mut(sa).and_then(|last| last.replace(number));
                let follows = last.is_none_or(|last| number == last + 1);
                let verdict = reference.check(&octets, &probe.plain, number)?;
                if self.judged % CONTROL == 1 && verdict.is_ok() {
                    round.control.1 += 1;
                    let bit = self.random.usize(..octets.len() * 8);
                    flip(&mut octets, bit);
                    let found = reference.check(&octets, &probe.plain, number)?.is_err();
                    round.control.0 += u64::from(found);
                }
                match verdict {
                    Ok(()) if !follows => Some(format!("number {number} after {last:?}")),
                    Ok(()) => None,
                    Err(flaw) => Some(flaw.to_string()),
                }
            }
            (Direction::Inbound, Some(_)) if probe.spoiled => {
                round.control.1 += 1;
                round.control.0 += u64::from(done.status == Status::BadIcv);
                let open = done.status.is_ok();
                open.then(|| "a packet with a flipped bit was opened".to_owned())
            }
            (Direction::Inbound, Some(_)) if done.status.is_ok() => {
                (octets != probe.plain).then(|| "other octets than were sealed".to_owned())
            }
            _ => Some(format!("refused as {}", done.status.name())),
        };
        if let Some(flaw) = flaw {
            round.wrong += 1;
            let number = self.judged;
            let len = probe.plain.len();
            round
                .first_wrong
                .get_or_insert_with(|| format!("packet {number} of {len} octets: {flaw}"));
        }
        rig.frames.push(done.frame);
        Ok(())
    }
}

fn flip(octets: &mut [u8], bit: usize) {
    if let Some(octet) = octets.get_mut(bit / 8) {
        *octet ^= 1 << (bit % 8);
    }
}

impl Rig {
    /// Prepares one packet of one SA.
    fn submit(&mut self, sa: usize, octets: &[u8], cookie: u64) -> Result<(), RigError> {
        let frame = self.frames.pop();
        let (Some(mut frame), Some(sa)) = (frame, self.sas.get(sa)) else {
            return Err(RigError::Frames {
                wanted: 1,
                octets: octets.len(),
            });
        };
        if !frame.fill(octets) {
            return Err(RigError::Frames {
                wanted: 1,
                octets: octets.len(),
            });
        }
        let mut op = packet::op(*sa, frame);
        op.cookie = cookie;
        self.ops.push(op);
        Ok(())
    }

    /// Hands over what was prepared, and brings all of it back.
    fn finish(&mut self, count: usize) -> Result<Vec<Done>, RigError> {
        let mut patience = Patience::new();
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let before = (all.len(), self.ops.len());
            if !self.ops.is_empty() {
                self.queue.enqueue(&mut self.ops)?;
                self.queue.kick()?;
            }
            self.queue.dequeue(&mut self.done, count)?;
            all.append(&mut self.done);
            if before == (all.len(), self.ops.len()) {
                patience.wait(self.queue.in_flight())?;
            }
        }
        Ok(all)
    }
}
