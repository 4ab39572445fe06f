// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Gather lists as a driver may write them: good ones, and D04's.
#![allow(clippy::unwrap_used)]

mod raw;

use fpga_regs::context::FLAG_OUTBOUND;
use fpga_regs::descriptor::{FLAG_GATHER, GatherEntry, MAX_BUFFER, Submission};
use fpga_regs::registers::{identity, statistics};
use offload_api::queue::Status;
use zerocopy::IntoBytes;

use raw::*;

/// Where lists lie.
const LIST: u64 = 0x7000;

/// Writes a list: IOVA and length of each piece.
fn write_list(raw: &Raw, pieces: &[(u64, u32)]) {
    for (piece, at) in pieces.iter().zip((LIST..).step_by(16)) {
        let entry = GatherEntry {
            iova: piece.0.into(),
            len: piece.1.into(),
            reserved: 0.into(),
        };
        raw.poke(at, entry.as_bytes());
    }
}

/// A submission whose list is where lists are.
fn gathered(sa: (u32, u32), pieces: &[(u64, u32)], offset: u32, len: usize) -> Submission {
    let mut work = submission(sa, LIST, offset, len);
    work.flags |= FLAG_GATHER;
    work.entries = (pieces.len() as u16).into();
    let sum = pieces
        .iter()
        .fold(0u32, |sum, piece| sum.wrapping_add(piece.1));
    work.buffer_len = sum.into();
    work
}

#[test]
fn a_packet_in_pieces_is_sealed_and_opened_where_it_lies() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    assert_eq!(raw.read_register(identity::MAX_GATHER), 16);
    let seal = raw.add(&sa(FLAG_OUTBOUND, 100));
    let open = raw.add(&sa(0, 0));
    let packet = inner(300);
    // The first with 128 octets of room in front of 100, the second whole, the third with room behind.
    let pieces = [
        (IOVA + BUFFERS, 228),
        (IOVA + BUFFERS + 0x800, 50),
        (IOVA + BUFFERS + 0x1000, 1000),
    ];
    raw.poke(BUFFERS + 128, &packet[..100]);
    raw.poke(BUFFERS + 0x800, &packet[100..150]);
    raw.poke(BUFFERS + 0x1000, &packet[150..]);
    // Behind a middle piece nothing is written.
    raw.poke(BUFFERS + 0x800 + 50, &[0x77; 8]);
    write_list(&raw, &pieces);
    let sealed = raw.run(&gathered(seal, &pieces, 128, packet.len()));
    assert_eq!(sealed.status, Status::Ok as u8);
    assert!(sealed.offset.get() < 128);
    assert_eq!(raw.octets(BUFFERS + 0x800 + 50, 8), [0x77; 8]);
    let (at, len) = (sealed.offset.get(), sealed.len.get() as usize);
    let opened = raw.run(&gathered(open, &pieces, at, len));
    assert_eq!(opened.status, Status::Ok as u8);
    assert_eq!(opened.len.get() as usize, packet.len());
    // In a tunnel the packet is back where it was.
    assert_eq!(opened.offset.get(), 128);
    assert_eq!(raw.octets(BUFFERS + 128, 100), packet[..100]);
    assert_eq!(raw.octets(BUFFERS + 0x800, 50), packet[100..150]);
    assert_eq!(
        raw.octets(BUFFERS + 0x1000, packet.len() - 150),
        packet[150..]
    );
    rig.end();
}

#[test]
fn d04_lists_that_make_no_sense_are_refused_one_by_one() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let packet = inner(80);
    raw.poke(BUFFERS + 128, &packet);
    let (a, b) = ((IOVA + BUFFERS, 1024), (IOVA + BUFFERS + 0x800, 1024));
    let refuse = |raw: &mut Raw, pieces: &[(u64, u32)], status: Status, what: &str| {
        write_list(raw, pieces);
        let done = raw.run(&gathered(seal, pieces, 128, packet.len()));
        assert_eq!(Status::from_code(done.status), Some(status), "{what}");
        assert_eq!(done.len.get(), 0, "{what}");
    };
    let bad = Status::BadGather;
    refuse(&mut raw, &[], bad, "no entry");
    refuse(&mut raw, &[a, (b.0, 0)], bad, "an empty piece");
    refuse(&mut raw, &[(a.0, 0), b], bad, "an empty first piece");
    refuse(&mut raw, &[a, a], bad, "the same piece twice");
    refuse(&mut raw, &[a, (a.0 + 1023, 2)], bad, "a shared octet");
    refuse(
        &mut raw,
        &[b, a, (b.0 - 1, 2)],
        bad,
        "overlap with the first",
    );
    refuse(&mut raw, &[a, (u64::MAX, 2)], bad, "beyond all addresses");
    let half = MAX_BUFFER / 2 + 1;
    let many = [(IOVA, half), (IOVA + u64::from(half), half)];
    refuse(&mut raw, &many, bad, "too large");
    refuse(
        &mut raw,
        &[a, (b.0, u32::MAX - 1023)],
        bad,
        "a sum that wraps",
    );
    let seventeen: Vec<_> = (0..17).map(|n| (IOVA + BUFFERS + n * 64, 64)).collect();
    refuse(&mut raw, &seventeen, bad, "seventeen pieces");

    let fault = Status::DmaFault;
    let (hole, end) = (0x9999_0000, IOVA + SIZE - 8);
    refuse(&mut raw, &[(hole, 1024), b], fault, "an unmapped piece");
    refuse(&mut raw, &[(a.0, 212), (end, 16)], fault, "half a piece");

    write_list(&raw, &[a, b]);
    let good = gathered(seal, &[a, b], 128, packet.len());
    let run = |raw: &mut Raw, change: &dyn Fn(&mut Submission)| {
        let mut work = good;
        change(&mut work);
        Status::from_code(raw.run(&work).status).unwrap()
    };
    assert_eq!(run(&mut raw, &|work| work.buffer_len = 2047.into()), bad);
    assert_eq!(run(&mut raw, &|work| work.buffer_len = 2049.into()), bad);
    assert_eq!(
        run(&mut raw, &|work| work.buffer = (IOVA + LIST + 8).into()),
        bad
    );
    assert_eq!(run(&mut raw, &|work| work.buffer = hole.into()), fault);
    assert_eq!(run(&mut raw, &|work| work.entries = 0xffff.into()), bad);
    let plain = |work: &mut Submission| work.flags &= !FLAG_GATHER;
    assert_eq!(run(&mut raw, &plain), Status::BadDescriptor, "no flag");
    let beyond = |work: &mut Submission| work.offset = 2000.into();
    assert_eq!(run(&mut raw, &beyond), Status::BadDescriptor);
    raw.poke(LIST + 12, &[1]);
    assert_eq!(run(&mut raw, &|_| ()), bad, "a reserved field");
    raw.poke(LIST + 12, &[0]);

    // None of them cost a number, and the queue goes on.
    let sealed = raw.run(&good);
    assert_eq!((sealed.status, sealed.sequence.get()), (0, 1));
    assert_eq!(raw.read_register(statistics::DMA_FAULTS), 3);
    assert!(raw.read_register(statistics::BAD_DESCRIPTORS) >= 15);
    rig.end();
}

#[test]
fn d04_a_list_that_is_part_of_its_own_buffer_was_copied_before() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let packet = inner(0);
    raw.poke(BUFFERS + 128, &packet);
    // Sealing writes its trailer over the list that tells where to.
    let pieces = [
        (IOVA + BUFFERS, 128 + packet.len() as u32),
        (IOVA + LIST, 64),
    ];
    write_list(&raw, &pieces);
    let sealed = raw.run(&gathered(seal, &pieces, 128, packet.len()));
    assert_eq!(sealed.status, Status::Ok as u8);
    let entry: GatherEntry = raw.peek(LIST);
    assert_ne!(entry.iova.get(), IOVA + BUFFERS, "written over");
    rig.end();
}
