// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data side: doorbells polled, descriptors fetched, packets sealed and opened, completions
//! written.

use std::time::{Duration, Instant};

use esp::packet::SlicePacket;
use fpga_regs::descriptor::{Completion, FLAG_EXPLICIT, OP_PROCESS, Submission};
use fpga_regs::registers::{Control, FatalCause};
use offload_api::queue::{Explicit, Status};
use offload_api::sa::Direction;
use openssl::rand::rand_bytes;
use zerocopy::{FromZeros, IntoBytes};

use crate::card::{Card, CardSa, Core, MAX_PACKET, post};
use crate::fault::Fault;

/// Operations of one queue before the next one's turn.
const BURST: u32 = 64;
/// Empty rounds before the card sleeps; each yields the processor.
const IDLE_ROUNDS: u32 = 64;
/// How often SAs without traffic are looked at for limits by time.
const LIFETIME_TICK: Duration = Duration::from_millis(50);

/// Works until the card ends.
pub(crate) fn run(card: &Card) {
    let mut buffer = vec![0; MAX_PACKET as usize];
    let mut idle = 0;
    let mut last_tick = Instant::now();
    while !card.has_ended() {
        let worked = round(card, &mut buffer);
        if last_tick.elapsed() >= LIFETIME_TICK {
            last_tick = Instant::now();
            card.lock().report(last_tick);
        }
        if worked {
            idle = 0;
        } else if idle < IDLE_ROUNDS {
            idle += 1;
            std::thread::yield_now();
        } else {
            card.doorbells.set_sleeping(true);
            // A doorbell that came before the word was seen is found here, a later one wakes.
            if !pending(card) {
                card.sleep();
            }
            card.doorbells.set_sleeping(false);
            idle = 0;
        }
    }
}

fn pending(card: &Card) -> bool {
    let core = card.lock();
    running(&core)
        && core
            .queues
            .iter()
            .zip(0..)
            .any(|(ring, queue)| ring.is_some_and(|ring| ring.head != card.doorbells.tail(queue)))
}

fn running(core: &Core) -> bool {
    core.control.contains(Control::ENABLE) && core.fatal == FatalCause::None && !core.stalled
}

/// One turn for each queue; whether there was anything to do.
fn round(card: &Card, buffer: &mut [u8]) -> bool {
    let mut worked = false;
    for queue in 0..card.doorbells.queues() {
        // Held for a burst: commands and registers wait that long, and a deleted queue is at rest.
        let mut core = card.lock();
        core.heartbeat = core.heartbeat.wrapping_add(1);
        if running(&core) {
            worked |= serve(card, &mut core, queue, buffer);
        }
    }
    worked
}

fn serve(card: &Card, core: &mut Core, queue: u16, buffer: &mut [u8]) -> bool {
    let Some(Some(mut ring)) = core.queues.get(usize::from(queue)).copied() else {
        return false;
    };
    let pending = card.doorbells.tail(queue).wrapping_sub(ring.head);
    if pending == 0 {
        return false;
    }
    if pending > ring.depth {
        // A doorbell beyond the ring: this queue stops, the others go on.
        core.counters.bad_descriptors += 1;
        tracing::warn!(queue, pending, "doorbell beyond the ring");
        if let Some(slot) = core.queues.get_mut(usize::from(queue)) {
            *slot = None;
        }
        return false;
    }
    let now = Instant::now();
    for _ in 0..pending.min(BURST) {
        let slot = u64::from(ring.head % ring.depth);
        let mut submission = Submission::new_zeroed();
        let at = ring.submissions + slot * size_of::<Submission>() as u64;
        let fetched = core.dma.read(at, submission.as_mut_bytes());
        ring.head = ring.head.wrapping_add(1);
        let mut completion = match fetched {
            Ok(()) => process(core, &submission, buffer, now),
            Err(fault) => {
                core.fault(fault);
                complete(&submission, Status::DmaFault)
            }
        };
        if core.faults.strikes(Fault::Stall) {
            core.stalled = true;
            break;
        }
        if core.faults.strikes(Fault::DropCompletion) {
            continue;
        }
        let copies = if core.faults.strikes(Fault::DuplicateCompletion) {
            2
        } else {
            1
        };
        if core.faults.strikes(Fault::ForgeSlot) {
            completion.slot = (completion.slot.get() ^ 0x8000_0001).into();
        }
        if core.faults.strikes(Fault::ForgeLength) {
            completion.len = 0xffff_fff0.into();
        }
        if core.faults.strikes(Fault::ForgeStatus) {
            completion.status = 0xee;
        }
        for _ in 0..copies {
            completion.phase = ring.phase();
            completion.position = (ring.produced as u16).into();
            let slot = u64::from(ring.produced % ring.depth);
            let at = ring.completions + slot * size_of::<Completion>() as u64;
            ring.produced = ring.produced.wrapping_add(1);
            if let Err(fault) = post(&core.dma, at, completion.as_bytes()) {
                core.fault(fault);
            }
        }
    }
    if let Some(slot) = core.queues.get_mut(usize::from(queue)) {
        *slot = Some(ring);
    }
    if card.doorbells.take_arm(queue) && !core.faults.strikes(Fault::LoseInterrupt) {
        core.interrupt(usize::from(queue) + 1);
    }
    true
}

fn complete(submission: &Submission, status: Status) -> Completion {
    Completion {
        slot: submission.slot,
        slot_generation: submission.slot_generation,
        sequence: 0.into(),
        offset: submission.offset,
        next_header: 0,
        reserved: [0; 3],
        len: 0.into(),
        position: 0.into(),
        status: status as u8,
        phase: 0,
    }
}

pub(crate) fn process(
    core: &mut Core,
    submission: &Submission,
    buffer: &mut [u8],
    now: Instant,
) -> Completion {
    let mut completion = complete(submission, Status::Ok);
    let status = match process_inner(core, submission, buffer, now, &mut completion) {
        Ok(status) | Err(status) => status,
    };
    completion.status = status as u8;
    if !status.is_ok() {
        core.counters.errors += 1;
        completion.len = 0.into();
        completion.offset = submission.offset;
    }
    let (index, generation) = (submission.sa_index.get(), submission.sa_generation.get());
    let mut notices = [None; 4];
    if let Some(sa) = core.sas.find(index, generation) {
        if !status.is_ok() {
            sa.state.count_error(status);
        }
        let mut places = notices.iter_mut();
        sa.state.take_notices(|notice| {
            if let Some(place) = places.next() {
                *place = Some(notice);
            }
        });
    }
    for notice in notices.into_iter().flatten() {
        core.event(index, generation, notice);
    }
    completion
}

fn process_inner(
    core: &mut Core,
    submission: &Submission,
    buffer: &mut [u8],
    now: Instant,
    completion: &mut Completion,
) -> Result<Status, Status> {
    let (offset, len) = (
        submission.offset.get() as usize,
        submission.len.get() as usize,
    );
    let room = submission.buffer_len.get();
    let end = offset.checked_add(len);
    let known_flags = submission.flags & !FLAG_EXPLICIT == 0;
    if submission.opcode != OP_PROCESS || !known_flags || room > MAX_PACKET {
        core.counters.bad_descriptors += 1;
        return Err(Status::BadDescriptor);
    }
    let buffer = buffer
        .get_mut(..room as usize)
        .ok_or(Status::BadDescriptor)?;
    if end.is_none_or(|end| end > buffer.len()) {
        core.counters.bad_descriptors += 1;
        return Err(Status::BadDescriptor);
    }
    let Core {
        sas,
        dma,
        counters,
        faults,
        ..
    } = core;
    let sa = sas
        .find(submission.sa_index.get(), submission.sa_generation.get())
        .ok_or(Status::SaStale)?;
    let iova = submission.buffer.get();
    let packet = buffer
        .get_mut(offset..offset + len)
        .ok_or(Status::BadDescriptor)?;
    let fault = |counters: &mut crate::card::CardCounters| {
        counters.dma_faults += 1;
        Status::DmaFault
    };
    iova.checked_add(offset as u64)
        .ok_or(Status::BadDescriptor)
        .and_then(|at| dma.read(at, packet).map_err(|_| fault(counters)))?;

    let mut packet = SlicePacket::new(buffer, offset, len).ok_or(Status::BadDescriptor)?;
    let inbound = sa.transform.direction() == Direction::Inbound;
    let explicit = (submission.flags & FLAG_EXPLICIT != 0).then(|| Explicit {
        sequence: submission.sequence.get(),
        iv: submission.iv,
    });
    let (sequence, next_header) = if inbound {
        if explicit.is_some() {
            return Err(Status::WrongNumbering);
        }
        open(sa, &mut packet, len, now)?
    } else {
        (seal(sa, &mut packet, explicit, now)?, 0)
    };
    let (out_offset, out_len) = packet.extent();
    let inner_len = if inbound { out_len } else { len };
    let output = buffer
        .get_mut(out_offset..out_offset + out_len)
        .ok_or(Status::BadLength)?;
    if !inbound
        && faults.strikes(Fault::CorruptOutput)
        && let Some(last) = output.last_mut()
    {
        *last ^= 1;
    }
    iova.checked_add(out_offset as u64)
        .ok_or(Status::BadDescriptor)
        .and_then(|at| dma.write(at, output).map_err(|_| fault(counters)))?;
    let status = sa.state.count(sequence, inner_len, now);
    if inbound {
        counters.opened += 1;
        counters.opened_bytes += inner_len as u64;
    } else {
        counters.sealed += 1;
        counters.sealed_bytes += inner_len as u64;
    }
    completion.sequence = sequence.into();
    completion.next_header = next_header;
    completion.offset = (out_offset as u32).into();
    completion.len = (out_len as u32).into();
    Ok(status)
}

fn seal(
    sa: &mut CardSa,
    packet: &mut SlicePacket<'_>,
    explicit: Option<Explicit>,
    now: Instant,
) -> Result<u64, Status> {
    let (sequence, mut iv) = sa.state.next_outbound(explicit, now)?;
    if iv.is_none() && sa.transform.random_iv_len() != 0 {
        let mut random = [0; 16];
        rand_bytes(&mut random).map_err(|_| Status::WrongNumbering)?;
        iv = Some(random);
    }
    let mut context = sa.transform.take_context().map_err(|_| Status::NoSpace)?;
    let result = sa
        .transform
        .seal(&mut context, sequence, iv.as_ref(), packet);
    sa.transform.put_context(context);
    result.map(|()| sequence)
}

fn open(
    sa: &mut CardSa,
    packet: &mut SlicePacket<'_>,
    len: usize,
    now: Instant,
) -> Result<(u64, u8), Status> {
    use esp::packet::PacketBuffer;
    debug_assert_eq!(packet.packet().len(), len);
    let located = sa.transform.locate(packet.packet())?;
    let sequence = sa.state.check_inbound(located.sequence_low, now)?;
    let mut context = sa.transform.take_context().map_err(|_| Status::NoSpace)?;
    let result = sa.transform.open(&mut context, located, sequence, packet);
    sa.transform.put_context(context);
    let next_header = result?;
    sa.state.accept_inbound(sequence)?;
    Ok((sequence, next_header))
}
