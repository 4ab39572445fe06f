// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue pair of the software engine: a burst is numbered, worked on, and counted.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use arrayvec::ArrayVec;
use esp_aead::{Packet, open_burst, seal_burst};
use openssl::rand::rand_bytes;
use rayon::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

use offload_api::error::DeviceError;
use offload_api::queue::{Arm, Done, Op, QueuePair, Status};
use offload_api::sa::{Direction, SaHandle};

use esp_framing::framing::Located;
use esp_framing::sa::SaState;
use esp_framing::table::{Entry, event_of};

use super::{MAX_GATHER, MAX_PACKET, Shared, Table, lock};
use crate::packet::{PacketBuffer, SlicePacket};
use crate::sa_transform::{Context, SaTransform};

/// Octets of a burst from which waking other cores pays: the hand-over costs about 10 µs, and a core
/// seals some 3 octets in a nanosecond. `benches/` measures it.
const PARALLEL_FROM: usize = 48 << 10;
/// Packets that one core takes at a time, at least and at most.
const LEAST: usize = 8;
const BURST: usize = 32;

pub(crate) struct SoftwareQueue {
    shared: Arc<Shared>,
    depth: usize,
    /// Enqueued packets, until a kick has ended.
    jobs: Vec<Job>,
    done: VecDeque<Done>,
    ivs: Vec<u8>,
    /// A packet that lies in several frames, for a look at it.
    gathered: Vec<u8>,
    /// Never readable: there is nothing to wait for when `done` is empty.
    idle: OwnedFd,
}

/// One packet on its way through the burst.
struct Job {
    op: Op,
    work: Work,
    sequence: u64,
    iv: Option<[u8; 16]>,
    inner_len: usize,
    next_header: u8,
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
    fn new(op: Op) -> Self {
        Self {
            inner_len: op.frame.packet_len(),
            op,
            work: Work::New,
            sequence: 0,
            iv: None,
            next_header: 0,
        }
    }
}

/// An SA, its moving part locked for as long as packets of it follow each other.
struct Held<'table> {
    sa: SaHandle,
    entry: &'table Entry<SaTransform>,
    state: MutexGuard<'table, SaState>,
}

/// The SA of the next packet; nothing when it is stale.
fn hold<'held, 'table>(
    held: &'held mut Option<Held<'table>>,
    table: &'table Table,
    sa: SaHandle,
) -> Option<&'held mut Held<'table>> {
    if held.as_ref().is_none_or(|held| held.sa != sa) {
        // Unlocked before the next is locked: no two are ever held.
        *held = None;
        let entry = table.entry(sa).ok()?;
        let state = entry.state();
        *held = Some(Held { sa, entry, state });
    }
    held.as_mut()
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
            jobs: Vec::with_capacity(depth),
            done: VecDeque::with_capacity(depth),
            ivs: Vec::new(),
            gathered: Vec::new(),
            idle,
        })
    }

    /// Numbers or checks each packet, in order.
    fn prepare(&mut self, table: &Table, now: Instant) {
        let mut random = 0;
        let mut held = None;
        for job in &mut self.jobs {
            let Some(held) = hold(&mut held, table, job.op.sa) else {
                job.work = Work::Ended(Status::SaStale);
                continue;
            };
            match prepare_one(job, held, now, &mut self.gathered) {
                Ok(work) => {
                    job.work = work;
                    if matches!(work, Work::Seal) && job.iv.is_none() {
                        random += held.entry.transform.random_iv_len();
                    }
                }
                Err(status) => {
                    held.state.count_error(status);
                    job.work = Work::Ended(status);
                }
            }
        }
        drop(held);
        if random != 0 {
            self.draw_ivs(table, random);
        }
    }

    /// One call for all the burst's unpredictable IVs.
    fn draw_ivs(&mut self, table: &Table, len: usize) {
        self.ivs.resize(len, 0);
        let drawn = rand_bytes(&mut self.ivs).is_ok();
        let mut ivs = self.ivs.chunks_exact(16);
        for job in &mut self.jobs {
            let Ok(entry) = table.entry(job.op.sa) else {
                continue;
            };
            let wants = matches!(job.work, Work::Seal) && job.iv.is_none();
            if wants && entry.transform.random_iv_len() != 0 {
                job.iv = ivs
                    .next()
                    .filter(|_| drawn)
                    .and_then(|iv| iv.try_into().ok());
                if job.iv.is_none() {
                    job.work = Work::Ended(Status::WrongNumbering);
                }
            }
        }
    }

    fn work(&mut self, table: &Table) {
        let octets: usize = self.jobs.iter().map(|job| job.inner_len).sum();
        match &self.shared.pool {
            Some(pool) if octets >= PARALLEL_FROM => {
                // Two turns a core, so that one that begins late does less.
                let turns = 2 * pool.current_num_threads();
                let chunk = self.jobs.len().div_ceil(turns).clamp(LEAST, BURST);
                pool.install(|| {
                    self.jobs
                        .par_chunks_mut(chunk)
                        .for_each(|chunk| work_on(chunk, table));
                });
            }
            _ => work_on(&mut self.jobs, table),
        }
    }

    /// Moves windows and counts, in order.
    fn finish(&mut self, table: &Table, now: Instant) {
        let mut totals = Totals::default();
        let mut held = None;
        for job in &mut self.jobs {
            let mut status = match job.work {
                Work::Ended(status) => status,
                _ => Status::Ok,
            };
            if let Some(held) = hold(&mut held, table, job.op.sa) {
                let state = &mut held.state;
                if status.is_ok() {
                    let inbound = held.entry.transform.direction() == Direction::Inbound;
                    if inbound {
                        job.inner_len = job.op.frame.packet_len();
                    }
                    let mut admitted = state.check_hard(now);
                    if inbound && admitted.is_ok() {
                        admitted = state.accept_inbound(job.sequence);
                    }
                    match admitted {
                        Ok(()) => {
                            status = state.count(job.sequence, job.inner_len, now);
                            totals.add(inbound, job.inner_len);
                        }
                        Err(refused) => {
                            state.count_error(refused);
                            status = refused;
                        }
                    }
                }
                state.take_notices(|notice| {
                    lock(&self.shared.events).push(event_of(job.op.sa, notice));
                });
            }
            if !status.is_ok() {
                totals.errors += 1;
                job.op.frame.clear();
            }
            job.work = Work::Ended(status);
        }
        // What is no longer needed of a job is not moved.
        self.done.extend(self.jobs.drain(..).map(|job| Done {
            sa: job.op.sa,
            frame: job.op.frame,
            cookie: job.op.cookie,
            status: match job.work {
                Work::Ended(status) => status,
                _ => Status::Aborted,
            },
            sequence: job.sequence,
            next_header: job.next_header,
        }));
        drop(held);
        let mut counters = lock(&self.shared.counters);
        counters.sealed += totals.sealed;
        counters.sealed_bytes += totals.sealed_bytes;
        counters.opened += totals.opened;
        counters.opened_bytes += totals.opened_bytes;
        counters.errors += totals.errors;
    }
}

#[derive(Default)]
struct Totals {
    sealed: u64,
    sealed_bytes: u64,
    opened: u64,
    opened_bytes: u64,
    errors: u64,
}

impl Totals {
    fn add(&mut self, inbound: bool, octets: usize) {
        if inbound {
            self.opened += 1;
            self.opened_bytes += octets as u64;
        } else {
            self.sealed += 1;
            self.sealed_bytes += octets as u64;
        }
    }
}

fn prepare_one(
    job: &mut Job,
    held: &mut Held<'_>,
    now: Instant,
    gathered: &mut Vec<u8>,
) -> Result<Work, Status> {
    let (entry, state) = (held.entry, &mut held.state);
    let frame = &job.op.frame;
    if frame.is_chained() && frame.segment_count() > MAX_GATHER {
        return Err(Status::BadGather);
    }
    if job.inner_len > MAX_PACKET {
        return Err(Status::BadLength);
    }
    match entry.transform.direction() {
        Direction::Outbound => {
            (job.sequence, job.iv) = state.next_outbound(job.op.explicit, now)?;
            Ok(Work::Seal)
        }
        Direction::Inbound => {
            if job.op.explicit.is_some() {
                return Err(Status::WrongNumbering);
            }
            let located = if frame.is_chained() {
                gathered.clear();
                frame.gather(gathered);
                entry.transform.locate(gathered)?
            } else {
                entry.transform.locate(frame)?
            };
            let sequence = state.check_inbound(located.sequence_low, now)?;
            job.sequence = sequence;
            Ok(Work::Open(located))
        }
    }
}

/// Seals and opens: AEADs in bursts of many SAs at once, of what is left each run of packets of one SA
/// with one context.
fn work_on(jobs: &mut [Job], table: &Table) {
    let mut left = false;
    for jobs in jobs.chunks_mut(BURST) {
        left |= aead_burst(jobs, table);
    }
    if !left {
        return;
    }
    for run in jobs.chunk_by_mut(|a, b| a.op.sa == b.op.sa) {
        let Some(first) = run.first() else { continue };
        if run.iter().all(Job::is_over) {
            continue;
        }
        let Ok(entry) = table.entry(first.op.sa) else {
            continue;
        };
        let Ok(mut context) = entry.transform.take_context() else {
            for job in run.iter_mut().filter(|job| !job.is_over()) {
                job.work = Work::Ended(Status::NoSpace);
            }
            continue;
        };
        for job in run.iter_mut().filter(|job| !job.is_over()) {
            let result = if job.op.frame.is_chained() {
                transform_chain(&mut context, job, entry)
            } else {
                let (sequence, iv) = (job.sequence, job.iv.as_ref());
                let frame = &mut job.op.frame;
                transform(&mut context, job.work, sequence, iv, entry, frame)
            };
            job.end(result, entry);
        }
        entry.transform.put_context(context);
    }
}

impl Job {
    fn is_over(&self) -> bool {
        matches!(self.work, Work::Done | Work::Ended(_))
    }

    /// Notes how sealing or opening went.
    fn end(&mut self, result: Result<u8, Status>, entry: &Entry<SaTransform>) {
        let result = result.and_then(|next_header| {
            // What is sealed without an outer header could grow beyond.
            let fits = self.op.frame.packet_len() <= MAX_PACKET;
            fits.then_some(next_header).ok_or(Status::BadLength)
        });
        match result {
            Ok(next_header) => {
                self.next_header = next_header;
                self.work = Work::Done;
            }
            Err(status) => {
                self.work = Work::Ended(status);
                entry.state().count_error(status);
            }
        }
    }
}

/// Seals and opens the packets of AEADs that lie in one frame each, [`BURST`] at most; tells whether
/// others are left.
fn aead_burst(jobs: &mut [Job], table: &Table) -> bool {
    let mut results = [None; BURST];
    let mut left = false;
    {
        let (mut seals, mut seal_places) = (List::new(), ArrayVec::<_, BURST>::new());
        let (mut opens, mut open_places) = (List::new(), ArrayVec::<_, BURST>::new());
        for (job, result) in jobs.iter_mut().zip(&mut results) {
            let Ok(entry) = table.entry(job.op.sa) else {
                continue;
            };
            let transform = match entry.transform.aead() {
                Some(transform) if !job.op.frame.is_chained() => transform,
                _ => {
                    left |= !job.is_over();
                    continue;
                }
            };
            let frame = &mut job.op.frame;
            // Neither list is longer than the burst.
            match job.work {
                Work::Seal => match transform.frame_aead(job.sequence, job.iv.as_ref(), frame) {
                    Ok(packet) => {
                        seals.push(packet);
                        seal_places.push(result);
                    }
                    Err(status) => *result = Some(Err(status)),
                },
                Work::Open(located) => match transform.packet_aead(located, job.sequence, frame) {
                    Ok(packet) => {
                        opens.push(packet);
                        open_places.push(result);
                    }
                    Err(status) => *result = Some(Err(status)),
                },
                _ => {}
            }
        }
        seal_burst(&mut seals);
        open_burst(&mut opens);
        let tell = |packets: List<'_>, places: ArrayVec<&mut Option<_>, BURST>, bad| {
            for (packet, place) in packets.iter().zip(places) {
                *place = Some(packet.is_authentic().then_some(()).ok_or(bad));
            }
        };
        tell(seals, seal_places, Status::NoSpace);
        tell(opens, open_places, Status::BadIcv);
    }
    for (job, result) in jobs.iter_mut().zip(results) {
        let Some(result) = result else { continue };
        let Ok(entry) = table.entry(job.op.sa) else {
            continue;
        };
        let result = match (job.work, entry.transform.aead()) {
            (Work::Open(located), Some(transform)) => {
                transform.finish_aead(located, result, &mut job.op.frame)
            }
            _ => result.map(|()| 0),
        };
        job.end(result, entry);
    }
    left
}

/// Packets of a burst.
type List<'data> = ArrayVec<Packet<'data>, BURST>;

fn transform(
    context: &mut Context,
    work: Work,
    sequence: u64,
    iv: Option<&[u8; 16]>,
    entry: &Entry<SaTransform>,
    packet: &mut impl PacketBuffer,
) -> Result<u8, Status> {
    match work {
        Work::Seal => entry
            .transform
            .seal(context, sequence, iv, packet)
            .map(|()| 0),
        Work::Open(located) => entry.transform.open(context, located, sequence, packet),
        Work::Ended(status) => Err(status),
        Work::New | Work::Done => Err(Status::BadDescriptor),
    }
}

thread_local! {
    /// Where a packet that lies in several frames is brought together; kept by each thread.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Seals or opens a packet that lies in several frames: in a buffer that has the shape of their
/// [pieces](offload_api::frame::Frame::pieces).
fn transform_chain(
    context: &mut Context,
    job: &mut Job,
    entry: &Entry<SaTransform>,
) -> Result<u8, Status> {
    BUFFER.with_borrow_mut(|buffer| {
        let frame = &mut job.op.frame;
        let (headroom, len) = (frame.headroom(), frame.packet_len());
        buffer.clear();
        buffer.resize(headroom, 0);
        frame.gather(buffer);
        buffer.resize(headroom + len + frame.tailroom(), 0);
        let mut packet = SlicePacket::new(buffer, headroom, len).ok_or(Status::BadGather)?;
        let (sequence, iv) = (job.sequence, job.iv.as_ref());
        let result = transform(context, job.work, sequence, iv, entry, &mut packet);
        let (offset, len) = packet.extent();
        let back = result.is_err() || frame.put_back(buffer, offset, len);
        back.then_some(result).ok_or(Status::BadGather)?
    })
}

impl QueuePair for SoftwareQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        let room = self.depth - self.in_flight();
        let accepted = ops.len().min(room);
        self.jobs.extend(ops.drain(..accepted).map(Job::new));
        Ok(accepted)
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        let now = (shared.clock)();
        let table = shared.read_table();
        self.prepare(&table, now);
        self.work(&table);
        self.finish(&table, now);
        Ok(())
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let count = limit.min(self.done.len());
        done.extend(self.done.drain(..count));
        Ok(count)
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        if self.done.is_empty() {
            Ok(Arm::Wait(self.idle.as_fd()))
        } else {
            Ok(Arm::Ready)
        }
    }

    fn in_flight(&self) -> usize {
        self.jobs.len() + self.done.len()
    }

    fn close(mut self: Box<Self>) -> Vec<Done> {
        let aborted = self.jobs.drain(..).map(|Job { op, .. }| Done {
            sa: op.sa,
            frame: op.frame,
            cookie: op.cookie,
            status: Status::Aborted,
            sequence: 0,
            next_header: 0,
        });
        let mut home: Vec<Done> = self.done.drain(..).collect();
        home.extend(aborted.map(|mut done| {
            done.frame.clear();
            done
        }));
        home
    }
}
