// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A burst: numbered, worked on, and counted.

use std::cell::RefCell;
use std::time::Instant;

use arrayvec::ArrayVec;
use esp_aead::{Packet, open_burst, seal_burst};
use openssl::rand::rand_bytes;

use esp_framing::sa::SaState;
use esp_framing::table::{Entry, StateGuard, event_of};
use offload_api::queue::{Explicit, Op, Status};
use offload_api::sa::Direction;

use super::large::OneSa;
use super::share::{is_large, share_out};
use super::{At, Scratch, State, States, Work, cbc, steady};
use crate::engine::helpers::Helpers;
use crate::engine::totals::Totals;
use crate::engine::{MAX_GATHER, MAX_PACKET, Shared, Table, lock};
use crate::packet::{PacketBuffer, SlicePacket};
use crate::sa_transform::{Context, SaTransform};

/// Packets that one core takes at a time, at most.
pub(super) const BURST: usize = 32;

/// Packets that are worked on together, [`BURST`] at most.
pub(super) struct Chunk<'burst> {
    ops: &'burst mut [Op],
    states: &'burst mut [State],
    /// Their SAs, nothing for those that are stale.
    entries: ArrayVec<Option<&'burst Entry<SaTransform>>, BURST>,
}

/// Packets of an AEAD's burst.
pub(super) type List<'data> = ArrayVec<Packet<'data>, BURST>;

/// The time, read once a burst, and for SAs only that have limits: it costs as much as a packet's headers.
pub(super) struct Clock<'burst> {
    shared: &'burst Shared,
    now: &'burst mut Instant,
    is_read: bool,
}

impl Clock<'_> {
    pub(super) fn read(&mut self) -> Instant {
        if !self.is_read {
            *self.now = (self.shared.clock)();
            self.is_read = true;
        }
        *self.now
    }

    /// When it was last read: for SAs that have no use for it.
    pub(super) fn last(&self) -> Instant {
        *self.now
    }
}

/// Does all there is to do for new packets; what was done.
pub(super) fn run(
    shared: &Shared,
    ops: &mut [Op],
    (states, scratch): (&mut States, &mut Scratch),
    now: &mut Instant,
) -> Totals {
    let mut clock = Clock {
        shared,
        now,
        is_read: false,
    };
    let table = &*shared.read_table();
    match &shared.helpers {
        Some(helpers) if is_large(ops, table) => {
            let states = states.of(ops.len());
            large((shared, helpers), table, ops, states, scratch, &mut clock)
        }
        _ => {
            let mut totals = Totals::default();
            for ops in ops.chunks_mut(BURST) {
                let states = states.of(ops.len());
                states.fill(State::NEW);
                if !steady::run(shared, table, ops, states, &mut clock, &mut totals) {
                    let now = clock.read();
                    let mut chunk = Chunk::new(ops, states, table);
                    chunk.prepare(now, scratch, |_| true);
                    chunk.work();
                    chunk.finish(now, shared, &mut totals);
                }
            }
            totals
        }
    }
}

/// As [`run`], of a burst that is worth other cores' waking.
fn large(
    (shared, helpers): (&Shared, &Helpers),
    table: &Table,
    ops: &mut [Op],
    states: &mut [State],
    scratch: &mut Scratch,
    clock: &mut Clock<'_>,
) -> Totals {
    let prepare = |ops: &mut [Op], states: &mut [State]| {
        if let Some(burst) = OneSa::new(ops, table, clock.last()) {
            return Prepared::OneSa(burst);
        }
        let now = clock.read();
        states.fill(State::NEW);
        // Numbers are given in order; what a packet says of itself is read by who opens it.
        for mut chunk in chunks(ops, states, table) {
            chunk.prepare(now, scratch, |entry| !is_inbound(entry));
        }
        Prepared::InPart(now)
    };
    let share = |prepared: &Prepared<'_>, at, ops: &mut _, states: &mut _| match prepared {
        Prepared::OneSa(burst) => burst.work(at, ops, states),
        Prepared::InPart(now) => {
            for mut chunk in chunks(ops, states, table) {
                SCRATCH.with_borrow_mut(|scratch| chunk.prepare(*now, scratch, is_inbound));
                chunk.work();
            }
            Totals::default()
        }
    };
    let (prepared, mut totals) = share_out(helpers, ops, states, prepare, share);
    match prepared {
        Some(Prepared::OneSa(burst)) => burst.finish(shared, ops, states, &mut totals),
        _ => {
            let now = clock.read();
            for mut chunk in chunks(ops, states, table) {
                chunk.finish(now, shared, &mut totals);
            }
        }
    }
    totals
}

/// What is done for a large burst before it is shared out.
enum Prepared<'table> {
    /// All that goes by order before the cipher's pass.
    OneSa(OneSa<'table>),
    /// What goes out has its numbers; when that was.
    InPart(Instant),
}

fn is_inbound(entry: &Entry<SaTransform>) -> bool {
    entry.transform.direction() == Direction::Inbound
}

thread_local! {
    /// Of each thread that takes part.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn chunks<'burst>(
    ops: &'burst mut [Op],
    states: &'burst mut [State],
    table: &'burst Table,
) -> impl Iterator<Item = Chunk<'burst>> {
    let chunks = ops.chunks_mut(BURST).zip(states.chunks_mut(BURST));
    chunks.map(|(ops, states)| Chunk::new(ops, states, table))
}

/// An SA, its moving part locked for as long as packets of it follow each other.
#[derive(Default)]
struct Held<'table>(Option<(&'table Entry<SaTransform>, StateGuard<'table>)>);

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

impl<'burst> Chunk<'burst> {
    /// Looks the SAs up, once for packets of one that follow each other.
    #[inline]
    fn new(ops: &'burst mut [Op], states: &'burst mut [State], table: &'burst Table) -> Self {
        let mut last = None;
        let mut entries = ArrayVec::new();
        for op in ops.iter().take(BURST) {
            let entry = match last {
                Some((sa, entry)) if sa == op.sa => entry,
                _ => table.entry(op.sa).ok(),
            };
            last = Some((op.sa, entry));
            entries.push(entry);
        }
        Self {
            ops,
            states,
            entries,
        }
    }

    #[inline]
    pub(super) fn each(
        &mut self,
    ) -> impl Iterator<Item = (&mut Op, &mut State, Option<&'burst Entry<SaTransform>>)> {
        let pairs = self.ops.iter_mut().zip(&mut *self.states);
        let all = pairs.zip(&self.entries);
        all.map(|((op, state), entry)| (op, state, *entry))
    }

    /// Numbers or checks each packet of the SAs that are `wanted`, in order.
    fn prepare(
        &mut self,
        now: Instant,
        scratch: &mut Scratch,
        wanted: impl Fn(&Entry<SaTransform>) -> bool,
    ) {
        let mut random = 0;
        let mut held = Held::default();
        for (op, state, entry) in self.each() {
            let Some(entry) = entry else {
                state.work = Work::Ended(Status::SaStale);
                continue;
            };
            if !wanted(entry) {
                continue;
            }
            let sa = held.of(entry);
            match prepare_one(op, state, entry, sa, now, &mut scratch.gathered) {
                Ok(work) => {
                    state.work = work;
                    if matches!(work, Work::Seal) && !op.is_numbered() {
                        random += entry.transform.random_iv_len();
                    }
                }
                Err(status) => {
                    sa.count_error(status);
                    state.work = Work::Ended(status);
                }
            }
        }
        drop(held);
        if random != 0 {
            self.draw_ivs(random, &mut scratch.ivs);
        }
    }

    /// One call for all the unpredictable IVs.
    #[cold]
    fn draw_ivs(&mut self, len: usize, ivs: &mut Vec<u8>) {
        ivs.resize(len, 0);
        let drawn = rand_bytes(ivs).is_ok();
        let mut ivs = ivs.chunks_exact(16);
        for (op, state, entry) in self.each() {
            let wants = matches!(state.work, Work::Seal) && !op.is_numbered();
            if wants && entry.is_some_and(|entry| entry.transform.random_iv_len() != 0) {
                let iv = ivs.next().filter(|_| drawn);
                let sequence = state.sequence;
                let iv = iv.and_then(|iv| iv.try_into().ok());
                op.set_explicit(iv.map(|iv| Explicit { sequence, iv }));
                if !op.is_numbered() {
                    state.work = Work::Ended(Status::WrongNumbering);
                }
            }
        }
    }

    /// Seals and opens: AEADs of many SAs at once, and likewise CBC with an HMAC; of what is left each run
    /// of packets of one SA with one context.
    fn work(&mut self) {
        if !self.aead_burst() {
            return;
        }
        cbc::run(self);
        let mut held: Option<(&Entry<SaTransform>, Context)> = None;
        for (op, state, entry) in self.each() {
            let Some(entry) = entry.filter(|_| !state.is_over()) else {
                continue;
            };
            if let Some((before, context)) = held.take_if(|held| !std::ptr::eq(held.0, entry)) {
                before.transform.put_context(context);
            }
            if held.is_none() {
                held = entry.transform.take_context().ok().map(|new| (entry, new));
            }
            let Some((_, context)) = &mut held else {
                state.work = Work::Ended(Status::NoSpace);
                continue;
            };
            let result = if op.frame.is_chained() {
                transform_chain(context, op, state, entry)
            } else {
                let iv = op.iv();
                transform(context, state, iv.as_ref(), entry, &mut op.frame)
            };
            end(op, state, result, entry);
        }
        if let Some((entry, context)) = held {
            entry.transform.put_context(context);
        }
    }

    /// Seals and opens the packets of AEADs that lie in one frame each; tells whether others are left.
    fn aead_burst(&mut self) -> bool {
        let mut results = [None; BURST];
        let mut left = false;
        {
            let (mut seals, mut seal_places) = (List::new(), ArrayVec::<_, BURST>::new());
            let (mut opens, mut open_places) = (List::new(), ArrayVec::<_, BURST>::new());
            for ((op, state, entry), result) in self.each().zip(&mut results) {
                let Some(entry) = entry else { continue };
                let transform = match entry.transform.aead() {
                    Some(transform) if !op.frame.is_chained() => transform,
                    _ => {
                        left |= !state.is_over();
                        continue;
                    }
                };
                // Neither list is longer than the burst.
                match state.work {
                    Work::Seal => {
                        let iv = op.iv();
                        match transform.frame_aead(state.sequence, iv.as_ref(), &mut op.frame) {
                            Ok(packet) => {
                                seals.push(packet);
                                seal_places.push(result);
                            }
                            Err(status) => *result = Some(Err(status)),
                        }
                    }
                    Work::Open(at) => {
                        let (located, sequence) = (state.located(at), state.sequence);
                        match transform.packet_aead(located, sequence, &mut op.frame) {
                            Ok(packet) => {
                                opens.push(packet);
                                open_places.push(result);
                            }
                            Err(status) => *result = Some(Err(status)),
                        }
                    }
                    _ => {}
                }
            }
            seal_burst(&mut seals);
            open_burst(&mut opens);
            let tell = |packets: &List<'_>, places: ArrayVec<&mut Option<_>, BURST>, bad| {
                for (packet, place) in packets.iter().zip(places) {
                    *place = Some(packet.is_authentic().then_some(()).ok_or(bad));
                }
            };
            tell(&seals, seal_places, Status::NoSpace);
            tell(&opens, open_places, Status::BadIcv);
        }
        for ((op, state, entry), result) in self.each().zip(results) {
            let (Some(result), Some(entry)) = (result, entry) else {
                continue;
            };
            let result = match (state.work, entry.transform.aead()) {
                (Work::Open(at), Some(transform)) => {
                    transform.finish_aead(state.located(at), result, &mut op.frame)
                }
                _ => result.map(|()| 0),
            };
            end(op, state, result, entry);
        }
        left
    }

    /// Moves windows and counts, in order.
    fn finish(&mut self, now: Instant, shared: &Shared, totals: &mut Totals) {
        let mut held = Held::default();
        for (op, state, entry) in self.each() {
            let mut status = match state.work {
                Work::Ended(status) => status,
                Work::Done => Status::Ok,
                // Nobody worked on it: it is neither sealed nor authentic.
                Work::New | Work::Seal | Work::Open(_) => Status::Aborted,
            };
            if let Some(entry) = entry {
                let sa = held.of(entry);
                if status.is_ok() {
                    status = admit(op, state, entry, sa, now, totals);
                }
                sa.take_notices(|notice| {
                    lock(&shared.events).push(event_of(op.sa, notice));
                });
            }
            totals.errors += u64::from(!status.is_ok());
            state.complete(op, status);
        }
    }
}

#[inline]
fn prepare_one(
    op: &Op,
    state: &mut State,
    entry: &Entry<SaTransform>,
    sa: &mut SaState,
    now: Instant,
    gathered: &mut Vec<u8>,
) -> Result<Work, Status> {
    let frame = &op.frame;
    let chained = frame.is_chained();
    let len = frame.packet_len();
    state.inner_len = len as u32;
    if chained && frame.segment_count() > MAX_GATHER {
        return Err(Status::BadGather);
    }
    if len > MAX_PACKET {
        return Err(Status::BadLength);
    }
    if let Some(transform) = entry.transform.crypto() {
        sa.check_hard(now)?;
        let head: &[u8] = if chained {
            gathered.clear();
            frame.gather(gathered);
            gathered
        } else {
            frame
        };
        state.sequence = transform.locate_crypto(head, len, op.explicit())?;
        return Ok(match transform.direction() {
            Direction::Outbound => Work::Seal,
            Direction::Inbound => Work::Open(At(0)),
        });
    }
    match entry.transform.direction() {
        Direction::Outbound => {
            state.sequence = match op.explicit() {
                None => sa.next_number(now)?,
                Some(_) => sa.next_outbound(op.explicit(), now)?.0,
            };
            Ok(Work::Seal)
        }
        Direction::Inbound => {
            if op.is_numbered() {
                return Err(Status::WrongNumbering);
            }
            let located = if chained {
                gathered.clear();
                frame.gather(gathered);
                entry.transform.locate(gathered)?
            } else {
                entry.transform.locate(frame)?
            };
            state.sequence = sa.check_inbound(located.sequence_low, now)?;
            Ok(Work::Open(At(located.esp as u32)))
        }
    }
}

/// Notes how sealing or opening went.
#[inline]
pub(super) fn end(
    op: &Op,
    state: &mut State,
    result: Result<u8, Status>,
    entry: &Entry<SaTransform>,
) {
    let result = result.and_then(|next_header| {
        // What is sealed without an outer header could grow beyond.
        let fits = op.frame.packet_len() <= MAX_PACKET;
        fits.then_some(next_header).ok_or(Status::BadLength)
    });
    match result {
        Ok(next_header) => {
            state.next_header = next_header;
            state.work = Work::Done;
        }
        Err(status) => {
            state.work = Work::Ended(status);
            entry.state().count_error(status);
        }
    }
}

/// Moves the window for a packet, and counts it.
#[inline(always)]
pub(super) fn admit(
    op: &Op,
    state: &mut State,
    entry: &Entry<SaTransform>,
    sa: &mut SaState,
    now: Instant,
    totals: &mut Totals,
) -> Status {
    let inbound = entry.transform.direction() == Direction::Inbound;
    if inbound {
        state.inner_len = op.frame.packet_len() as u32;
    }
    let len = state.inner_len as usize;
    let mut admitted = sa.check_hard(now);
    if inbound && admitted.is_ok() && entry.transform.crypto().is_none() {
        admitted = sa.accept_inbound(state.sequence);
    }
    match admitted {
        Ok(()) => {
            totals.add(inbound, len);
            sa.count(state.sequence, len, now)
        }
        Err(refused) => {
            sa.count_error(refused);
            refused
        }
    }
}

fn transform(
    context: &mut Context,
    state: &State,
    iv: Option<&[u8; 16]>,
    entry: &Entry<SaTransform>,
    packet: &mut impl PacketBuffer,
) -> Result<u8, Status> {
    let (transform, sequence) = (&entry.transform, state.sequence);
    match state.work {
        Work::Seal => transform.seal(context, sequence, iv, packet).map(|()| 0),
        Work::Open(at) => transform.open(context, state.located(at), sequence, packet),
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
    op: &mut Op,
    state: &State,
    entry: &Entry<SaTransform>,
) -> Result<u8, Status> {
    BUFFER.with_borrow_mut(|buffer| {
        let iv = op.iv();
        let frame = &mut op.frame;
        let (headroom, len) = (frame.headroom(), frame.packet_len());
        buffer.clear();
        buffer.resize(headroom, 0);
        frame.gather(buffer);
        buffer.resize(headroom + len + frame.tailroom(), 0);
        let mut packet = SlicePacket::new(buffer, headroom, len).ok_or(Status::BadGather)?;
        let result = transform(context, state, iv.as_ref(), entry, &mut packet);
        let (offset, len) = packet.extent();
        let back = result.is_err() || frame.put_back(buffer, offset, len);
        back.then_some(result).ok_or(Status::BadGather)?
    })
}
