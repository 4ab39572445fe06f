// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets in several frames, and large ones: cut anywhere they come out as from one frame, and what
//! is beyond the capabilities is refused.

use std::net::IpAddr;

use super::Report;
use super::rig::{DEPTH, Outcome, Rig, assert_home, packet, params};
use crate::capability::Features;
use crate::frame::{Frame, FramePool, FramePoolConfig};
use crate::queue::{Op, QueueConfig, Status};
use crate::sa::{Direction, OuterHeaders, SaHandle, Suite};

/// Most that sealing adds.
const OVERHEAD: usize = 200;
/// An IP packet is no larger.
const LARGEST: usize = u16::MAX as usize;

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    if rig.engine.capabilities().max_gather < 2 {
        let (seal, open) = rig.pair();
        let frame = chain(&rig.pool, &[&packet(false, 17, 40), &[0]]);
        assert_eq!(one(rig, seal, frame).status, Status::BadGather);
        report.refusals += 1;
        large_in_one(rig, seal, open, report);
        return retire(rig, [seal, open]);
    }
    for (n, suite) in Suite::all().enumerate() {
        for outer in [false, true] {
            // Each place with one suite, some with each.
            let step = if n == 0 { 1 } else { 5 };
            cut_anywhere(rig, suite, outer, step, report);
        }
    }
    let (seal, open) = rig.pair();
    many_pieces(rig, seal, open, report);
    large_in_one(rig, seal, open, report);
    large_in_many(rig, seal, open, report);
    beyond(rig, seal, report);
    refused_in_pieces(rig, seal, open, report);
    more_than_fit(rig, seal, report);
    retire(rig, [seal, open]);
    assert_home(&rig.pool);
}

fn retire(rig: &Rig, sas: [SaHandle; 2]) {
    for sa in sas {
        rig.engine.retire(sa).unwrap();
    }
}

/// Frames with these octets, one behind the other.
fn chain(pool: &FramePool, parts: &[&[u8]]) -> Frame {
    let mut frames = parts.iter().map(|part| {
        let mut frame = pool.alloc().expect("a free frame");
        assert!(frame.fill(part));
        frame
    });
    let mut head = frames.next().expect("a part");
    frames.for_each(|frame| head.append(frame).unwrap());
    head
}

fn op(sa: SaHandle, frame: Frame) -> Op {
    Op::new(sa, frame, 0)
}

fn one(rig: &mut Rig, sa: SaHandle, frame: Frame) -> Outcome {
    rig.burst(vec![op(sa, frame)]).pop().unwrap()
}

/// Every cut of a packet in two: sealed so, opened whole; sealed whole, opened so.
fn cut_anywhere(rig: &mut Rig, suite: Suite, outer: bool, step: usize, report: &mut Report) {
    let ends = [Direction::Outbound, Direction::Inbound].map(|direction| {
        let mut sa = params(direction, suite);
        sa.outer = outer.then(|| OuterHeaders {
            source: IpAddr::from([203, 0, 113, 1]),
            destination: IpAddr::from([203, 0, 113, 2]),
            udp: None,
        });
        rig.install(&sa)
    });
    let [Some(seal), Some(open)] = ends else {
        return;
    };
    let plain = packet(false, 17, 45);
    let cuts: Vec<_> = (0..=plain.len()).step_by(step).collect();
    for cuts in cuts.chunks(DEPTH as usize / 2) {
        let ops = cuts.iter().map(|at| {
            let (front, back) = plain.split_at(*at);
            op(seal, chain(&rig.pool, &[front, back]))
        });
        let sealed = rig.burst(ops.collect());
        let wire: Vec<_> = sealed.iter().map(|sealed| sealed.octets.clone()).collect();
        for (sealed, at) in sealed.iter().zip(cuts) {
            assert_eq!(sealed.status, Status::Ok, "{suite} cut at {at}");
        }
        for (opened, at) in rig.each(open, &wire).iter().zip(cuts) {
            assert_eq!(opened.status, Status::Ok, "{suite} cut at {at}");
            assert!(opened.octets == plain, "{suite} cut at {at}");
            report.gathered += 1;
        }
    }
    let wire = rig.seal(seal, std::slice::from_ref(&plain)).remove(0);
    let cuts: Vec<_> = (0..=wire.len()).step_by(step).collect();
    for cuts in cuts.chunks(DEPTH as usize / 2) {
        let packets = vec![plain.clone(); cuts.len()];
        let wire = rig.seal(seal, &packets);
        let ops = wire.iter().zip(cuts).map(|(wire, at)| {
            let (front, back) = wire.split_at(*at);
            op(open, chain(&rig.pool, &[front, back]))
        });
        for (opened, at) in rig.burst(ops.collect()).iter().zip(cuts) {
            assert_eq!(opened.status, Status::Ok, "{suite} cut at {at}");
            assert_eq!(opened.next_header, 4, "{suite} cut at {at}");
            assert!(opened.octets == plain, "{suite} cut at {at}");
            report.gathered += 1;
        }
    }
    retire(rig, [seal, open]);
}

/// As many pieces as the engine takes: of one octet, of all lengths, with empty ones between.
fn many_pieces(rig: &mut Rig, seal: SaHandle, open: SaHandle, report: &mut Report) {
    let max = usize::from(rig.engine.capabilities().max_gather).min(64);
    let plain = packet(false, 17, 300);
    for size in [1, 7, 16, 17] {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut rest = &plain[..];
        while parts.len() < max - 1 {
            let (part, behind) = rest.split_at(size.min(rest.len()));
            parts.push(part);
            rest = behind;
        }
        parts.push(rest);
        let sealed = one(rig, seal, chain(&rig.pool, &parts));
        assert_eq!(sealed.status, Status::Ok, "pieces of {size}");
        let wire: Vec<_> = sealed
            .octets
            .chunks(sealed.octets.len() / max + 1)
            .collect();
        let opened = one(rig, open, chain(&rig.pool, &wire));
        assert_eq!(opened.status, Status::Ok, "pieces of {size}");
        assert!(opened.octets == plain, "pieces of {size}");
        report.gathered += 2;
    }
}

/// Payload sizes of large packets within the capabilities: a jumbo frame, and the largest.
fn large(rig: &Rig) -> Vec<Vec<u8>> {
    let max = rig.engine.capabilities().max_packet as usize;
    let largest = max.min(LARGEST) - OVERHEAD;
    [9000, largest]
        .into_iter()
        .filter(|len| *len <= largest)
        .map(|len| packet(false, 17, len - 20))
        .collect()
}

/// A pool of our own, known to the engine.
fn pool(rig: &Rig, slots: u32, slot_size: u32) -> FramePool {
    let config = FramePoolConfig {
        slots,
        slot_size,
        ..FramePoolConfig::default()
    };
    let pool = FramePool::new(config).unwrap();
    rig.engine.register_pool(&pool).unwrap();
    pool
}

fn large_in_one(rig: &mut Rig, seal: SaHandle, open: SaHandle, report: &mut Report) {
    let frames = pool(rig, 2, (LARGEST + 1024).next_multiple_of(64) as u32);
    for plain in large(rig) {
        let sealed = one(rig, seal, chain(&frames, &[&plain]));
        assert_eq!(sealed.status, Status::Ok, "{} octets", plain.len());
        let opened = one(rig, open, chain(&frames, &[&sealed.octets]));
        assert_eq!(opened.status, Status::Ok, "{} octets", plain.len());
        assert!(opened.octets == plain, "{} octets", plain.len());
        report.gathered += 2;
    }
    assert_home(&frames);
}

fn large_in_many(rig: &mut Rig, seal: SaHandle, open: SaHandle, report: &mut Report) {
    let max = usize::from(rig.engine.capabilities().max_gather);
    for plain in large(rig) {
        // Slots that make it take most of the pieces that there may be.
        let part = (plain.len() + OVERHEAD).div_ceil(max - 1);
        let frames = pool(rig, 64, (part + 192).next_multiple_of(64) as u32);
        let frame = frames.hold(&plain).unwrap();
        assert!((2..=max).contains(&frame.segment_count()));
        let sealed = one(rig, seal, frame);
        assert_eq!(sealed.status, Status::Ok, "{} octets", plain.len());
        assert!(sealed.octets.len() > plain.len());
        let opened = one(rig, open, frames.hold(&sealed.octets).unwrap());
        assert_eq!(opened.status, Status::Ok, "{} octets", plain.len());
        assert!(opened.octets == plain, "{} octets", plain.len());
        report.gathered += 2;
        assert_home(&frames);
    }
}

/// One piece, or some octets, too many; the SA goes on.
fn beyond(rig: &mut Rig, seal: SaHandle, report: &mut Report) {
    let (max, max_packet) = {
        let capabilities = rig.engine.capabilities();
        (capabilities.max_gather, capabilities.max_packet as usize)
    };
    let plain = packet(false, 17, 300);
    if usize::from(max) < 64 {
        let (parts, rest) = plain.split_at(usize::from(max));
        let mut parts: Vec<_> = parts.chunks(1).collect();
        parts.push(rest);
        let outcome = one(rig, seal, chain(&rig.pool, &parts));
        assert_eq!(outcome.status, Status::BadGather, "{} pieces", parts.len());
        report.refusals += 1;
    }
    let frames = pool(rig, 32, 16 << 10);
    // Too large before sealing, and by sealing.
    for len in [max_packet + 1, max_packet.min(LARGEST)] {
        let mut octets = packet(false, 17, 100);
        octets.resize(len, 0);
        octets[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        octets[10..12].fill(0);
        let sum = crate::wire::ip::checksum(&octets[..20]);
        octets[10..12].copy_from_slice(&sum.to_be_bytes());
        let outcome = one(rig, seal, frames.hold(&octets).unwrap());
        assert_eq!(outcome.status, Status::BadLength, "{len} octets");
        report.refusals += 1;
    }
    assert_home(&frames);
    assert_eq!(
        one(rig, seal, chain(&rig.pool, &[&plain])).status,
        Status::Ok
    );
}

/// A forged packet in pieces leaves nothing behind.
fn refused_in_pieces(rig: &mut Rig, seal: SaHandle, open: SaHandle, report: &mut Report) {
    let plain = packet(false, 17, 300);
    let wire = rig.seal(seal, std::slice::from_ref(&plain)).remove(0);
    for at in [60, 150, wire.len() - 1] {
        let mut forged = wire.clone();
        forged[at] ^= 1;
        let parts: Vec<_> = forged.chunks(100).collect();
        let outcome = one(rig, open, chain(&rig.pool, &parts));
        assert_eq!(outcome.status, Status::BadIcv, "octet {at}");
        assert!(outcome.octets.is_empty());
        report.refusals += 1;
    }
    let parts: Vec<_> = wire.chunks(100).collect();
    assert!(one(rig, open, chain(&rig.pool, &parts)).octets == plain);
}

/// Packets in pieces and whole ones share a ring; what does not fit stays with the caller, and
/// closing brings all frames home.
fn more_than_fit(rig: &mut Rig, seal: SaHandle, report: &mut Report) {
    let mut queue = rig.engine.open_queue(&QueueConfig { depth: 16 }).unwrap();
    let plain = packet(false, 17, 100);
    let mut ops: Vec<_> = (0..40)
        .map(|n| {
            let parts: Vec<_> = plain.chunks(if n % 3 == 0 { 200 } else { 50 }).collect();
            Op::new(seal, chain(&rig.pool, &parts), n)
        })
        .collect();
    let taken = queue.enqueue(&mut ops).unwrap();
    assert!((1..=16).contains(&taken), "took {taken}");
    assert!(ops.iter().map(|op| op.cookie).eq(taken as u64..40));
    queue.kick().unwrap();
    let interrupts = rig.has(Features::INTERRUPTS);
    let done = super::rig::collect(&mut *queue, taken, interrupts);
    assert!(done.iter().map(|done| done.cookie).eq(0..taken as u64));
    for done in &done {
        assert_eq!(done.status, Status::Ok);
        assert_eq!(done.frame.is_chained(), done.cookie % 3 != 0);
        report.gathered += 1;
    }
    let more = queue.enqueue(&mut ops).unwrap();
    assert_eq!(more, 16);
    if rig.has(Features::INTERRUPTS) {
        queue.kick().unwrap();
    }
    drop((done, ops));
    assert_eq!(queue.close().len(), 16);
    assert_home(&rig.pool);
}
