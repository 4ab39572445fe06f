// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is done to one submission: its packet read, sealed or opened, and written back.

use std::time::Instant;

use esp::packet::SlicePacket;
use fpga_regs::admin::ErrorKind;
use fpga_regs::descriptor::{Completion, FLAG_EXPLICIT, FLAG_GATHER, OP_PROCESS, Submission};
use offload_api::queue::{Explicit, Status};
use offload_api::sa::Direction;
use offload_api::wire::ip::PROTOCOL_IPV4;
use openssl::rand::rand_bytes;

use crate::capture::About;
use crate::card::{Core, MAX_PACKET};
use crate::fault::Fault;
use crate::gather::{BadBuffer, Buffer};
use crate::sas::CardSa;

/// Where a descriptor was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) queue: u16,
    pub(crate) position: u32,
}

pub(crate) fn complete(submission: &Submission, status: Status) -> Completion {
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
    place: Place,
    submission: &Submission,
    buffer: &mut [u8],
    now: Instant,
) -> Completion {
    let mut completion = complete(submission, Status::Ok);
    let status = match process_inner(core, place, submission, buffer, now, &mut completion) {
        Ok(status) | Err(status) => status,
    };
    completion.status = status as u8;
    if !status.is_ok() {
        core.counters.errors += 1;
        completion.len = 0.into();
        completion.offset = submission.offset;
        let (kind, detail) = match status {
            Status::DmaFault => (Some(ErrorKind::Dma), submission.buffer.get()),
            Status::BadDescriptor | Status::BadGather => {
                (Some(ErrorKind::Descriptor), submission.opcode.into())
            }
            _ => (None, 0),
        };
        if let Some(kind) = kind {
            core.note(kind, place.queue.into(), detail);
        }
    }
    let (index, generation) = (submission.sa_index.get(), submission.sa_generation.get());
    if !status.is_ok()
        && let Some(sa) = core.sas.find(index, generation)
    {
        sa.state.count_error(status);
    }
    core.tell(index, generation);
    completion
}

fn process_inner(
    core: &mut Core,
    place: Place,
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
    let known_flags = submission.flags & !(FLAG_EXPLICIT | FLAG_GATHER) == 0;
    if submission.opcode != OP_PROCESS || !known_flags {
        core.counters.bad_descriptors += 1;
        return Err(Status::BadDescriptor);
    }
    let memory = Buffer::of(&core.dma, submission).map_err(|bad| match bad {
        BadBuffer::Refused(status) => {
            core.counters.bad_descriptors += 1;
            status
        }
        BadBuffer::Fault(_) => {
            core.counters.dma_faults += 1;
            Status::DmaFault
        }
    })?;
    let buffer = buffer
        .get_mut(..room as usize)
        .ok_or(Status::BadDescriptor)?;
    if end.is_none_or(|end| end > buffer.len()) {
        core.counters.bad_descriptors += 1;
        return Err(Status::BadDescriptor);
    }
    if len > MAX_PACKET as usize {
        return Err(Status::BadLength);
    }
    let Core {
        sas,
        dma,
        counters,
        faults,
        null_crypto,
        tap,
        ..
    } = core;
    let sa = sas
        .find(submission.sa_index.get(), submission.sa_generation.get())
        .ok_or(Status::SaStale)?;
    if sa.refuses(place.queue, place.position) {
        return Err(Status::SaStale);
    }
    let packet = buffer
        .get_mut(offset..offset + len)
        .ok_or(Status::BadDescriptor)?;
    let fault = |counters: &mut crate::card::CardCounters| {
        counters.dma_faults += 1;
        Status::DmaFault
    };
    memory
        .read(dma, offset, packet)
        .map_err(|_| fault(counters))?;

    let explicit = (submission.flags & FLAG_EXPLICIT != 0).then(|| Explicit {
        sequence: submission.sequence.get(),
        iv: submission.iv,
    });
    let mut about = About::sa(submission.sa_index.get(), &sa.transform);
    about.sequence = explicit.as_ref().map_or(0, |explicit| explicit.sequence);
    if let Some(tap) = tap {
        tap.takes(about, packet);
    }
    let mut packet = SlicePacket::new(buffer, offset, len).ok_or(Status::BadDescriptor)?;
    let inbound = sa.transform.direction() == Direction::Inbound;
    let (sequence, next_header) = if *null_crypto {
        pass(sa, explicit, now)?
    } else if inbound {
        if explicit.is_some() {
            return Err(Status::WrongNumbering);
        }
        open(sa, &mut packet, len, now)?
    } else {
        (seal(sa, &mut packet, explicit, now)?, 0)
    };
    let (out_offset, out_len) = packet.extent();
    let inner_len = if inbound { out_len } else { len };
    if out_len > MAX_PACKET as usize {
        return Err(Status::BadLength);
    }
    let output = buffer
        .get_mut(out_offset..out_offset + out_len)
        .ok_or(Status::BadLength)?;
    let mut told_len = out_len;
    if !faults.is_empty() {
        let corrupt = if inbound {
            faults.strikes(Fault::CorruptPlain)
        } else {
            faults.strikes(Fault::CorruptOutput)
        };
        if corrupt && let Some(last) = output.last_mut() {
            *last ^= 1;
        }
        if !inbound && faults.strikes(Fault::TruncateOutput) {
            told_len = out_len.saturating_sub(4);
        }
        if !inbound && faults.strikes(Fault::WrongSa) {
            let spi = sa.transform.spi().value().to_be_bytes();
            let at = output.windows(spi.len()).position(|octets| octets == spi);
            if let Some(octet) = at.and_then(|at| output.get_mut(at + 3)) {
                *octet ^= 1;
            }
        }
    }
    memory
        .write(dma, out_offset, output)
        .map_err(|_| fault(counters))?;
    if let Some(tap) = tap {
        about.sequence = sequence;
        tap.gives(about, output.get(..told_len).unwrap_or_default());
    }
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
    completion.len = (told_len as u32).into();
    Ok(status)
}

/// What remains of sealing and opening on a card that does neither.
fn pass(sa: &mut CardSa, explicit: Option<Explicit>, now: Instant) -> Result<(u64, u8), Status> {
    match sa.transform.direction() {
        Direction::Outbound => Ok((sa.state.next_outbound(explicit, now)?.0, 0)),
        Direction::Inbound => Ok((0, PROTOCOL_IPV4)),
    }
}

pub(crate) fn seal(
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

pub(crate) fn open(
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
