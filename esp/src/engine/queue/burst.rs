// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A burst: numbered, worked on, and counted.

use std::cell::RefCell;
use std::sync::MutexGuard;
use std::time::Instant;

use arrayvec::ArrayVec;
use esp_aead::{Packet, open_burst, seal_burst};
use openssl::rand::rand_bytes;
use rayon::prelude::*;

use esp_framing::sa::SaState;
use esp_framing::table::{Entry, event_of};
use offload_api::queue::Status;
use offload_api::sa::Direction;

use super::{Job, Scratch, Work};
use crate::engine::{MAX_GATHER, MAX_PACKET, Shared, Table, lock};
use crate::packet::{PacketBuffer, SlicePacket};
use crate::sa_transform::{Context, SaTransform};

/// Octets of a burst from which waking other cores pays: the hand-over costs about 10 µs, and a core
/// seals some 3 octets in a nanosecond. `benches/` measures it.
const PARALLEL_FROM: usize = 48 << 10;
/// Packets that one core takes at a time, at least and at most.
const LEAST: usize = 8;
const BURST: usize = 32;

/// The SAs of a chunk of packets, nothing for those that are stale.
type Entries<'table> = ArrayVec<Option<&'table Entry<SaTransform>>, BURST>;

/// Packets of an AEAD's burst.
type List<'data> = ArrayVec<Packet<'data>, BURST>;

/// Does all there is to do for new packets.
pub(super) fn run(shared: &Shared, jobs: &mut [Job], scratch: &mut Scratch) {
    let now = (shared.clock)();
    let table = &*shared.read_table();
    let mut totals = Totals::default();
    let octets = || jobs.iter().map(|job| job.inner_len).sum::<usize>();
    match &shared.pool {
        Some(pool) if octets() >= PARALLEL_FROM => {
            for jobs in jobs.chunks_mut(BURST) {
                prepare(jobs, &entries(jobs, table), now, scratch);
            }
            // Two turns a core, so that one that begins late does less.
            let turns = 2 * pool.current_num_threads();
            let chunk = jobs.len().div_ceil(turns).clamp(LEAST, BURST);
            pool.install(|| {
                jobs.par_chunks_mut(chunk)
                    .for_each(|jobs| work_on(jobs, &entries(jobs, table)));
            });
            for jobs in jobs.chunks_mut(BURST) {
                finish(jobs, &entries(jobs, table), now, shared, &mut totals);
            }
        }
        _ => {
            for jobs in jobs.chunks_mut(BURST) {
                let entries = &entries(jobs, table);
                prepare(jobs, entries, now, scratch);
                work_on(jobs, entries);
                finish(jobs, entries, now, shared, &mut totals);
            }
        }
    }
    totals.add_to(shared);
}

/// Looks the SAs up, once for packets of one that follow each other.
fn entries<'table>(jobs: &[Job], table: &'table Table) -> Entries<'table> {
    let mut last = None;
    jobs.iter()
        .take(BURST)
        .map(|job| match last {
            Some((sa, entry)) if sa == job.sa => entry,
            _ => {
                let entry = table.entry(job.sa).ok();
                last = Some((job.sa, entry));
                entry
            }
        })
        .collect()
}

/// An SA, its moving part locked for as long as packets of it follow each other.
#[derive(Default)]
struct Held<'table>(Option<(&'table Entry<SaTransform>, MutexGuard<'table, SaState>)>);

impl<'table> Held<'table> {
    #[inline]
    fn of(&mut self, entry: &'table Entry<SaTransform>) -> &mut SaState {
        if !matches!(self.0, Some((held, _)) if std::ptr::eq(held, entry)) {
            // Unlocked before the next is locked: no two are ever held.
            self.0 = None;
        }
        let (_, state) = self.0.get_or_insert_with(|| (entry, entry.state()));
        state
    }
}

/// Numbers or checks each packet, in order.
fn prepare(jobs: &mut [Job], entries: &Entries<'_>, now: Instant, scratch: &mut Scratch) {
    let mut random = 0;
    let mut held = Held::default();
    for (job, entry) in jobs.iter_mut().zip(entries) {
        let Some(entry) = entry else {
            (job.sequence, job.work) = (0, Work::Ended(Status::SaStale));
            continue;
        };
        let state = held.of(entry);
        match prepare_one(job, entry, state, now, &mut scratch.gathered) {
            Ok(work) => {
                job.work = work;
                if matches!(work, Work::Seal) && job.iv.is_none() {
                    random += entry.transform.random_iv_len();
                }
            }
            Err(status) => {
                state.count_error(status);
                (job.sequence, job.work) = (0, Work::Ended(status));
            }
        }
    }
    drop(held);
    if random != 0 {
        draw_ivs(jobs, entries, random, &mut scratch.ivs);
    }
}

#[inline]
fn prepare_one(
    job: &mut Job,
    entry: &Entry<SaTransform>,
    state: &mut SaState,
    now: Instant,
    gathered: &mut Vec<u8>,
) -> Result<Work, Status> {
    let frame = &job.frame;
    let chained = frame.is_chained();
    if chained && frame.segment_count() > MAX_GATHER {
        return Err(Status::BadGather);
    }
    if job.inner_len > MAX_PACKET {
        return Err(Status::BadLength);
    }
    match entry.transform.direction() {
        Direction::Outbound => {
            (job.sequence, job.iv) = state.next_outbound(job.explicit(), now)?;
            Ok(Work::Seal)
        }
        Direction::Inbound => {
            if job.explicit {
                return Err(Status::WrongNumbering);
            }
            let located = if chained {
                gathered.clear();
                frame.gather(gathered);
                entry.transform.locate(gathered)?
            } else {
                entry.transform.locate(frame)?
            };
            job.sequence = state.check_inbound(located.sequence_low, now)?;
            Ok(Work::Open(located))
        }
    }
}

/// One call for all the burst's unpredictable IVs.
#[cold]
fn draw_ivs(jobs: &mut [Job], entries: &Entries<'_>, len: usize, ivs: &mut Vec<u8>) {
    ivs.resize(len, 0);
    let drawn = rand_bytes(ivs).is_ok();
    let mut ivs = ivs.chunks_exact(16);
    for (job, entry) in jobs.iter_mut().zip(entries) {
        let wants = matches!(job.work, Work::Seal) && job.iv.is_none();
        if wants && entry.is_some_and(|entry| entry.transform.random_iv_len() != 0) {
            let iv = ivs.next().filter(|_| drawn);
            job.iv = iv.and_then(|iv| iv.try_into().ok());
            if job.iv.is_none() {
                job.work = Work::Ended(Status::WrongNumbering);
            }
        }
    }
}

/// Seals and opens: AEADs in bursts of many SAs at once, of what is left each run of packets of one SA
/// with one context.
fn work_on(jobs: &mut [Job], entries: &Entries<'_>) {
    if !aead_burst(jobs, entries) {
        return;
    }
    let mut entries = entries.iter();
    for run in jobs.chunk_by_mut(|a, b| a.sa == b.sa) {
        let entry = entries.by_ref().take(run.len()).last();
        if run.iter().all(Job::is_over) {
            continue;
        }
        let Some(Some(entry)) = entry else { continue };
        let Ok(mut context) = entry.transform.take_context() else {
            for job in run.iter_mut().filter(|job| !job.is_over()) {
                job.work = Work::Ended(Status::NoSpace);
            }
            continue;
        };
        for job in run.iter_mut().filter(|job| !job.is_over()) {
            let result = if job.frame.is_chained() {
                transform_chain(&mut context, job, entry)
            } else {
                let (sequence, iv) = (job.sequence, job.iv.as_ref());
                let frame = &mut job.frame;
                transform(&mut context, job.work, sequence, iv, entry, frame)
            };
            job.end(result, entry);
        }
        entry.transform.put_context(context);
    }
}

impl Job {
    /// Notes how sealing or opening went.
    #[inline]
    fn end(&mut self, result: Result<u8, Status>, entry: &Entry<SaTransform>) {
        let result = result.and_then(|next_header| {
            // What is sealed without an outer header could grow beyond.
            let fits = self.frame.packet_len() <= MAX_PACKET;
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

/// Seals and opens the packets of AEADs that lie in one frame each; tells whether others are left.
fn aead_burst(jobs: &mut [Job], entries: &Entries<'_>) -> bool {
    let mut results = [None; BURST];
    let mut left = false;
    {
        let (mut seals, mut seal_places) = (List::new(), ArrayVec::<_, BURST>::new());
        let (mut opens, mut open_places) = (List::new(), ArrayVec::<_, BURST>::new());
        for ((job, result), entry) in jobs.iter_mut().zip(&mut results).zip(entries) {
            let Some(entry) = entry else { continue };
            let transform = match entry.transform.aead() {
                Some(transform) if !job.frame.is_chained() => transform,
                _ => {
                    left |= !job.is_over();
                    continue;
                }
            };
            let frame = &mut job.frame;
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
    for ((job, result), entry) in jobs.iter_mut().zip(results).zip(entries) {
        let (Some(result), Some(entry)) = (result, entry) else {
            continue;
        };
        let result = match (job.work, entry.transform.aead()) {
            (Work::Open(located), Some(transform)) => {
                transform.finish_aead(located, result, &mut job.frame)
            }
            _ => result.map(|()| 0),
        };
        job.end(result, entry);
    }
    left
}

/// Moves windows and counts, in order.
fn finish(
    jobs: &mut [Job],
    entries: &Entries<'_>,
    now: Instant,
    shared: &Shared,
    totals: &mut Totals,
) {
    let mut held = Held::default();
    for (job, entry) in jobs.iter_mut().zip(entries) {
        let mut status = match job.work {
            Work::Ended(status) => status,
            Work::Done => Status::Ok,
            // Nobody worked on it: it is neither sealed nor authentic.
            Work::New | Work::Seal | Work::Open(_) => Status::Aborted,
        };
        if let Some(entry) = entry {
            let state = held.of(entry);
            if status.is_ok() {
                status = admit(job, entry, state, now, totals);
            }
            state.take_notices(|notice| {
                lock(&shared.events).push(event_of(job.sa, notice));
            });
        }
        if !status.is_ok() {
            totals.errors += 1;
            job.frame.clear();
        }
        job.work = Work::Ended(status);
    }
}

/// Moves the window for a packet, and counts it.
#[inline]
fn admit(
    job: &mut Job,
    entry: &Entry<SaTransform>,
    state: &mut SaState,
    now: Instant,
    totals: &mut Totals,
) -> Status {
    let inbound = entry.transform.direction() == Direction::Inbound;
    if inbound {
        job.inner_len = job.frame.packet_len();
    }
    let mut admitted = state.check_hard(now);
    if inbound && admitted.is_ok() {
        admitted = state.accept_inbound(job.sequence);
    }
    match admitted {
        Ok(()) => {
            totals.add(inbound, job.inner_len);
            state.count(job.sequence, job.inner_len, now)
        }
        Err(refused) => {
            state.count_error(refused);
            refused
        }
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
    #[inline]
    fn add(&mut self, inbound: bool, octets: usize) {
        if inbound {
            self.opened += 1;
            self.opened_bytes += octets as u64;
        } else {
            self.sealed += 1;
            self.sealed_bytes += octets as u64;
        }
    }

    fn add_to(&self, shared: &Shared) {
        let mut counters = lock(&shared.counters);
        counters.sealed += self.sealed;
        counters.sealed_bytes += self.sealed_bytes;
        counters.opened += self.opened;
        counters.opened_bytes += self.opened_bytes;
        counters.errors += self.errors;
    }
}

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
        let frame = &mut job.frame;
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
