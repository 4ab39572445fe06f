// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue pair: numbers and headers here, ciphers in the device, the rest here again.
//!
//! It has a ring pair of each function; an SA stays with its function as long as that lives, so its
//! operations keep their order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use esp_framing::framing::{Located, wipe};
use esp_framing::table::{Entry, Table, event_of};
use offload_api::device::Counters;
use offload_api::error::{DeviceError, OpenQueueError};
use offload_api::frame::Frame;
use offload_api::queue::{Arm, Done, Op, QueuePair, Status};
use offload_api::sa::{Direction, Mode, SaHandle};

use super::extra::{OWN, Work};
use super::life::Life;
use super::ring::{Flight, Held, RingPair};
use super::session::Session;
use crate::lock;

/// How long a queue that closes waits for what the device has.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long a retirement waits for an SA's operations.
const RETIREMENT: Duration = Duration::from_secs(2);
const IV: usize = 16;
/// Octets that the first of several frames is made to hold: outer and inner headers are read there.
const HEADERS: usize = 256;

/// The part of a queue that a retirement looks into, too.
pub(super) struct Inner {
    life: Arc<Life>,
    depth: usize,
    /// Enqueued and not kicked.
    pending: Vec<Op>,
    rings: Vec<RingPair>,
    done: VecDeque<Done>,
    /// Unpredictable IVs of a burst.
    ivs: Vec<u8>,
    last_pool: Option<(u32, u64)>,
    totals: Counters,
}

/// A queue pair of a QAT device.
pub(super) struct QatQueue {
    life: Arc<Life>,
    number: usize,
    is_shut: bool,
    inner: Arc<Mutex<Inner>>,
}

impl QatQueue {
    pub(super) fn open(life: Arc<Life>, depth: u32) -> Result<Self, OpenQueueError> {
        life.check()?;
        let number = life.take_queue()?;
        let rings = life.functions.iter().filter(|function| !function.is_lost());
        let rings = rings.map(|function| {
            let pair = function.pairs.get(number).copied();
            let pair = pair.ok_or_else(|| DeviceError::Protocol {
                what: "a ring pair that there is not".to_owned(),
            })?;
            RingPair::open(function.clone(), pair, depth)
        });
        let mut opened = Vec::new();
        for ring in rings {
            match ring {
                Ok(ring) => opened.push(ring),
                Err(error) => {
                    opened.iter_mut().for_each(RingPair::close);
                    life.put_queue(number);
                    return Err(error.into());
                }
            }
        }
        let depth = depth as usize;
        let inner = Arc::new(Mutex::new(Inner {
            life: life.clone(),
            depth,
            pending: Vec::with_capacity(depth),
            rings: opened,
            done: VecDeque::with_capacity(depth),
            ivs: vec![0; depth * IV],
            last_pool: None,
            totals: Counters::default(),
        }));
        life.know_queue(&inner);
        Ok(Self {
            life,
            number,
            is_shut: false,
            inner,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

/// Frees what an SA's operation came with.
fn refused(op: Op, status: Status) -> Flight {
    Flight {
        number: 0,
        sa: op.sa,
        cookie: op.cookie,
        sequence: 0,
        esp: 0,
        inner_len: 0,
        seals: false,
        frame: Held::Host(op.frame),
        ended: Some(status),
    }
}

impl Inner {
    fn in_flight(&self) -> usize {
        let rings: usize = self.rings.iter().map(RingPair::len).sum();
        self.pending.len() + self.done.len() + rings
    }

    /// The ring of an SA's function, or of the next one that lives.
    fn route(&self, sa: SaHandle) -> Option<usize> {
        let count = self.rings.len();
        let first = sa.index as usize % count.max(1);
        let lives = |at: &usize| {
            let ring = self.rings.get(*at);
            ring.is_some_and(|ring| !ring.function.is_lost())
        };
        (0..count).map(|step| (first + step) % count).find(lives)
    }

    fn pool_iova(&mut self, frame: &Frame) -> Option<u64> {
        let id = frame.pool().id();
        match self.last_pool {
            Some((known, iova)) if known == id => Some(iova),
            _ => {
                let iova = self.life.pool_iova(id)?;
                self.last_pool = Some((id, iova));
                Some(iova)
            }
        }
    }

    /// Builds requests of what is pending.
    fn flush(&mut self, now: Instant) {
        // An SA that changes its function waits until the last one's operations are home.
        let mut rings = self.rings.iter();
        if self.pending.is_empty() || rings.any(|ring| ring.function.is_lost() && ring.len() != 0) {
            return;
        }
        let life = self.life.clone();
        let table = life.read_table();
        let wants = |op: &Op| {
            let entry = table.entry(op.sa).ok()?;
            let framing = &entry.transform.framing;
            let random = !op.is_numbered()
                && framing.direction() == Direction::Outbound
                && framing.random_iv_len() != 0;
            random.then_some(())
        };
        // One call for all the burst's unpredictable IVs (RFC 3602 §2.1).
        let count = self.pending.iter().filter_map(wants).count();
        let mut ivs = std::mem::take(&mut self.ivs);
        let drawn = ivs.get_mut(..count * IV).unwrap_or_default();
        let drawn = if getrandom::fill(drawn).is_ok() {
            &*drawn
        } else {
            &[]
        };
        let mut fresh = drawn.as_chunks::<IV>().0.iter();
        let mut pending = std::mem::take(&mut self.pending);
        for op in pending.drain(..) {
            let iv = wants(&op).and_then(|()| fresh.next());
            self.submit(op, &table, iv, now);
        }
        (self.pending, self.ivs) = (pending, ivs);
    }

    fn submit(&mut self, op: Op, table: &Table<Session>, iv: Option<&[u8; IV]>, now: Instant) {
        let sa = op.sa;
        let Some(at) = self.route(sa) else {
            return self.refuse_all(op, Status::Aborted);
        };
        let pool = self.pool_iova(&op.frame);
        let Some(ring) = self.rings.get_mut(at) else {
            return self.refuse_all(op, Status::Aborted);
        };
        let entry = match table.entry(sa) {
            Ok(entry) if !entry.transform.is_retiring() => entry,
            _ => return ring.refuse(refused(op, Status::SaStale)),
        };
        let Some(pool) = pool else {
            return ring.refuse(refused(op, Status::DmaFault));
        };
        if op.frame.segment_count() > super::MAX_GATHER {
            return ring.refuse(refused(op, Status::BadGather));
        }
        if op.frame.packet_len() > super::MAX_PACKET as usize {
            return ring.refuse(refused(op, Status::BadLength));
        }
        if let Err((op, status)) = start(ring, entry, op, pool, iv, now) {
            entry.state().count_error(status);
            ring.refuse(refused(op, status));
        }
    }

    /// Where there is no ring to keep its place in.
    fn refuse_all(&mut self, op: Op, status: Status) {
        self.done.push_back(op.refused(status));
    }

    /// Takes in what came, and finishes it.
    pub(super) fn reap(&mut self, now: Instant) {
        let life = self.life.clone();
        let mut rings = std::mem::take(&mut self.rings);
        for ring in &mut rings {
            let bogus = ring.reap();
            if bogus != 0 {
                self.totals.bogus_completions += bogus;
            }
            // Until that is known, frames stay where they are, and traffic need not wait for it.
            if ring.waits()
                && ring.function.is_lost()
                && let Some(let_go) = ring.function.knows_let_go()
            {
                self.totals.aborted += ring.abort(let_go);
            }
            if ring.first_ended().is_some() {
                let table = life.read_table();
                self.finish(ring, &table, now);
            }
        }
        self.rings = rings;
        if life.check().is_err() {
            let mut pending = std::mem::take(&mut self.pending);
            for op in pending.drain(..) {
                self.totals.aborted += 1;
                self.refuse_all(op, Status::Aborted);
            }
            self.pending = pending;
        }
        if self.totals != Counters::default() {
            life.count(&std::mem::take(&mut self.totals));
        }
    }

    /// Finishes what has ended, in order.
    fn finish(&mut self, ring: &mut RingPair, table: &Table<Session>, now: Instant) {
        while let Some(status) = ring.first_ended() {
            let entry = ring.first_sa().and_then(|sa| table.entry(sa).ok());
            let mut icv = [0; OWN];
            ring.first_extra().read(&mut icv);
            let Some(flight) = ring.pop() else { break };
            let (done, octets) = land(flight, status, entry, &icv, now);
            let inbound = entry
                .is_some_and(|entry| entry.transform.framing.direction() == Direction::Inbound);
            match (done.status.is_ok(), inbound) {
                (true, true) => {
                    self.totals.opened += 1;
                    self.totals.opened_bytes += octets;
                }
                (true, false) => {
                    self.totals.sealed += 1;
                    self.totals.sealed_bytes += octets;
                }
                (false, _) => {
                    self.totals.errors += u64::from(done.status != Status::Aborted);
                }
            }
            if let Some(entry) = entry {
                let tell = |notice| {
                    lock(&self.life.events).push(event_of(done.sa, notice));
                };
                entry.state().take_notices(tell);
            }
            self.done.push_back(done);
        }
    }

    /// Waits until none of an SA's operations is with the device; a function that keeps them is lost.
    pub(super) fn settle(&mut self, sa: SaHandle) {
        let begun = Instant::now();
        loop {
            self.reap(Instant::now());
            let mut rings = self.rings.iter();
            let Some(ring) = rings.find(|ring| ring.waits_for(sa)) else {
                return;
            };
            if begun.elapsed() > RETIREMENT {
                ring.function.lose("an operation is not answered");
                ring.function.has_let_go();
            }
            std::thread::yield_now();
        }
    }

    fn ring_all(&mut self) -> Result<(), DeviceError> {
        for ring in &mut self.rings {
            if !ring.function.is_lost() {
                // Its loss is seen by whoever looks next; the others go on.
                let _ = ring.ring();
            }
        }
        self.life.check()
    }

    fn close(&mut self) -> Vec<Done> {
        let begun = Instant::now();
        for op in std::mem::take(&mut self.pending) {
            self.totals.aborted += 1;
            self.refuse_all(op, Status::Aborted);
        }
        // The queue's own end: what was refused last comes last.
        let unstarted = std::mem::take(&mut self.done);
        loop {
            self.reap(Instant::now());
            let waits = |ring: &RingPair| ring.waits() && !ring.function.is_lost();
            if !self.rings.iter().any(waits) || begun.elapsed() > FAREWELL {
                break;
            }
            std::thread::yield_now();
        }
        for ring in &mut self.rings {
            if ring.waits() {
                let function = &ring.function;
                let reset = !function.is_lost() && function.reset_pair(ring.pair);
                if !reset {
                    function.lose("a queue that closes is not answered");
                }
                let let_go = reset || function.has_let_go();
                self.totals.aborted += ring.abort(let_go);
            }
        }
        self.reap(Instant::now());
        for ring in &mut self.rings {
            ring.close();
        }
        let mut home: Vec<Done> = self.done.drain(..).collect();
        home.extend(unstarted);
        home
    }
}

/// Frames or locates a packet and submits its request; the operation back with the reason why not.
fn start(
    ring: &mut RingPair,
    entry: &Entry<Session>,
    mut op: Op,
    pool: u64,
    iv: Option<&[u8; IV]>,
    now: Instant,
) -> Result<(), (Op, Status)> {
    let session = &entry.transform;
    let inner_len = op.frame.packet_len();
    if op.frame.is_chained() && !op.frame.pull_up(HEADERS) {
        return Err((op, Status::BadGather));
    }
    let crypto = session.framing.mode() == Mode::Crypto;
    let placed = match session.framing.direction() {
        _ if crypto => {
            let given = op.explicit().map(|explicit| explicit.sequence);
            let found = session.framing.locate_crypto(&op.frame, inner_len, given);
            found.and_then(|sequence| {
                entry.state().check_hard(now)?;
                if session.framing.direction() == Direction::Outbound {
                    session.framing.frame(sequence, None, &mut op.frame)?;
                }
                Ok((sequence, 0))
            })
        }
        Direction::Outbound => {
            let numbered = entry.state().next_outbound(op.explicit(), now);
            numbered.and_then(|(sequence, given)| {
                let iv = given.as_ref().or(iv);
                let esp = session.framing.frame(sequence, iv, &mut op.frame)?;
                Ok((sequence, esp))
            })
        }
        Direction::Inbound if op.is_numbered() => Err(Status::WrongNumbering),
        Direction::Inbound => {
            let located = session.framing.locate_in(&op.frame, inner_len);
            located.and_then(|located| {
                let sequence = entry.state().check_inbound(located.sequence_low, now)?;
                Ok((sequence, located.esp))
            })
        }
    };
    let (sequence, esp) = match placed {
        Ok(placed) => placed,
        Err(status) => return Err((op, status)),
    };
    // What is sealed without an outer header could grow beyond.
    if op.frame.packet_len() > super::MAX_PACKET as usize {
        return Err((op, Status::BadLength));
    }
    let (number, extra) = ring.next();
    let work = Work {
        frame: &mut op.frame,
        pool,
        esp,
        sequence,
        extra,
    };
    let request = match session.request(number, work) {
        Ok(request) => request,
        Err(status) => return Err((op, status)),
    };
    let flight = Flight {
        number,
        sa: op.sa,
        cookie: op.cookie,
        sequence,
        esp,
        inner_len,
        seals: session.framing.direction() == Direction::Outbound,
        frame: Held::Device(op.frame.into_device()),
        ended: None,
    };
    ring.submit(flight, request);
    Ok(())
}

/// Finishes an operation that has come home: what ESP wants behind the cipher. The octets of its inner
/// packet.
fn land(
    flight: Flight,
    status: Status,
    entry: Option<&Entry<Session>>,
    own: &[u8; OWN],
    now: Instant,
) -> (Done, u64) {
    let place = Place {
        esp: flight.esp,
        sequence: flight.sequence,
        inner_len: flight.inner_len,
    };
    let (mut frame, was_sent) = match flight.frame {
        Held::Host(frame) => (frame, false),
        // Where the packet lies the device has no say in.
        Held::Device(frame) => (frame.reclaim(), true),
    };
    let mut octets = 0;
    let mut next_header = 0;
    let mut status = status;
    if was_sent && let Some(entry) = entry {
        let ended = match status {
            Status::Ok => conclude(entry, &mut frame, &place, own, now),
            status => Err(status),
        };
        match ended {
            Ok(concluded) => {
                (status, next_header, octets) = concluded;
            }
            Err(failed) => {
                status = failed;
                // Aborted ones are the device's fault, and nobody's packet.
                if failed != Status::Aborted {
                    entry.state().count_error(failed);
                }
            }
        }
    } else if status.is_ok() {
        status = Status::SaStale;
    }
    if !status.is_ok() {
        if was_sent {
            // A device may decipher what is not authentic.
            wipe(&mut frame);
        }
        frame.clear();
    }
    let sequence = if was_sent { flight.sequence } else { 0 };
    let mut done = Done::new(flight.sa, frame, flight.cookie);
    done.complete(status, sequence, next_header);
    (done, octets)
}

/// What an operation knows of its packet.
struct Place {
    esp: usize,
    sequence: u64,
    /// Octets before sealing.
    inner_len: usize,
}

fn conclude(
    entry: &Entry<Session>,
    frame: &mut Frame,
    place: &Place,
    own: &[u8; OWN],
    now: Instant,
) -> Result<(Status, u8, u64), Status> {
    let session = &entry.transform;
    let inbound = session.framing.direction() == Direction::Inbound;
    let (mut octets, mut next_header) = (place.inner_len, 0);
    if inbound {
        let located = Located {
            esp: place.esp,
            sequence_low: place.sequence as u32,
        };
        next_header = session.framing.deframe(located, frame)?;
        octets = frame.packet_len();
    } else {
        session.finish_sealing(frame, own)?;
    }
    let mut state = entry.state();
    // Those before it in the burst may have reached a limit.
    state.check_hard(now)?;
    if inbound && session.framing.mode() != Mode::Crypto {
        state.accept_inbound(place.sequence)?;
    }
    let status = state.count(place.sequence, octets, now);
    Ok((status, next_header, octets as u64))
}

impl QueuePair for QatQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        self.life.check()?;
        let mut inner = self.lock();
        let room = inner.depth.saturating_sub(inner.in_flight());
        let accepted = ops.len().min(room);
        inner.pending.extend(ops.drain(..accepted));
        Ok(accepted)
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        self.life.check()?;
        let mut inner = self.lock();
        inner.flush(Instant::now());
        inner.ring_all()
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let mut inner = self.lock();
        inner.reap(Instant::now());
        let count = limit.min(inner.done.len());
        done.extend(inner.done.drain(..count));
        if count == 0 && inner.in_flight() == 0 {
            self.life.check()?;
        }
        Ok(count)
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        let Some(vector) = self.life.vector(self.number) else {
            return Ok(Arm::Ready);
        };
        // What fired before this look at the rings is seen in the rings.
        let mut count = [0; 8];
        let _ = rustix::io::read(vector, &mut count);
        let inner = self.lock();
        let ready = |ring: &RingPair| ring.is_ready() || ring.first_ended().is_some();
        if !inner.done.is_empty() || self.life.check().is_err() || inner.rings.iter().any(ready) {
            return Ok(Arm::Ready);
        }
        let mut lives = inner.rings.iter().filter(|ring| !ring.function.is_lost());
        // A function that has a response already interrupts at once: it looks when it is armed.
        let armed = lives.all(RingPair::arm);
        let lost = inner
            .rings
            .iter()
            .any(|ring| ring.function.is_lost() && ring.len() != 0);
        drop(inner);
        if armed && !lost {
            Ok(Arm::Wait(vector))
        } else {
            Ok(Arm::Ready)
        }
    }

    fn in_flight(&self) -> usize {
        self.lock().in_flight()
    }

    fn close(mut self: Box<Self>) -> Vec<Done> {
        self.shut()
    }
}

impl Drop for QatQueue {
    fn drop(&mut self) {
        if !self.is_shut {
            // One that is forgotten must not cost its frames, nor its number.
            drop(self.shut());
        }
    }
}

impl QatQueue {
    fn shut(&mut self) -> Vec<Done> {
        self.is_shut = true;
        let home = self.lock().close();
        self.life.put_queue(self.number);
        home
    }
}
