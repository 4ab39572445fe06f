// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Large bursts that the engine takes to several cores.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::device::{Accelerator, Counters};
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, Status};
use offload_api::sa::{Direction, Grant, KeyMaterial, Numbering, SaParams, SaUsage, Spi, Suite};

/// Enough of an AEAD that the engine wakes other cores.
const PACKETS: usize = 6000;

fn params(direction: Direction, suite: Suite, sa: u32) -> SaParams {
    let key = vec![sa as u8 + 1; suite.cipher_key_len() + suite.salt_len()];
    let integrity = vec![7; suite.integrity_key_len()];
    SaParams {
        numbering: Numbering::Granted((direction == Direction::Outbound).then_some(Grant {
            first: 1,
            last: 100_000,
        })),
        replay_window: if direction == Direction::Inbound {
            64
        } else {
            0
        },
        ..SaParams::tunnel(
            Spi::new(0x1000 + sa).unwrap(),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &key, &integrity).unwrap(),
        )
    }
}

/// Every packet through an engine of so many threads, in one burst of so many SAs by turns; and what the engine has
/// counted, of itself and of its first SA.
fn through(
    (threads, sas): (usize, u32),
    direction: Direction,
    suite: Suite,
    packets: &[Vec<u8>],
) -> (Vec<Done>, Counters, SaUsage) {
    let engine = SoftwareEngine::new(SoftwareConfig {
        threads,
        ..SoftwareConfig::default()
    })
    .unwrap();
    let sas: Vec<_> = (0..sas)
        .map(|sa| engine.install(&params(direction, suite, sa)).unwrap())
        .collect();
    let pool = FramePool::new(FramePoolConfig {
        slots: PACKETS as u32,
        slot_size: 512,
        ..FramePoolConfig::default()
    })
    .unwrap();
    let mut queue = engine.open_queue(&QueueConfig { depth: 8192 }).unwrap();
    let mut ops = Vec::new();
    for ((cookie, packet), &sa) in packets.iter().enumerate().zip(sas.iter().cycle()) {
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(packet));
        ops.push(Op::new(sa, frame, cookie as u64));
    }
    assert_eq!(queue.enqueue(&mut ops).unwrap(), PACKETS);
    queue.kick().unwrap();
    let mut done = Vec::new();
    // In two parts, as somebody with less room takes them.
    assert_eq!(queue.dequeue(&mut done, 1000).unwrap(), 1000);
    assert_eq!(queue.dequeue(&mut done, PACKETS).unwrap(), PACKETS - 1000);
    assert_eq!(queue.in_flight(), 0);
    let usage = engine.usage(sas[0]).unwrap();
    (done, engine.counters(), usage)
}

/// An IPv4 packet of so many octets.
fn inner(octets: u16) -> Vec<u8> {
    let mut packet = vec![0x5a; octets.into()];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ]);
    packet[2..4].copy_from_slice(&octets.to_be_bytes());
    packet
}

#[test]
fn a_burst_on_several_cores_keeps_each_sas_order_and_every_packet() {
    let packet = inner(200);
    for (suite, sas) in [("aes128gcm16", 1), ("aes128gcm16", 3), ("aes256-sha256", 3)] {
        let suite = Suite::from_name(suite).unwrap();
        let plain: Vec<_> = (0..PACKETS)
            .map(|n| {
                let mut packet = packet.clone();
                packet[100..108].copy_from_slice(&(n as u64).to_be_bytes());
                packet
            })
            .collect();
        let (sealed, sums, _) = through((4, sas), Direction::Outbound, suite, &plain);
        assert_eq!(sums.sealed, PACKETS as u64);
        for (at, done) in sealed.iter().enumerate() {
            assert_eq!((done.status, done.cookie), (Status::Ok, at as u64));
            assert_eq!(done.sequence, (at / sas as usize) as u64 + 1);
        }
        let sealed: Vec<_> = sealed.iter().map(|done| done.frame.to_vec()).collect();
        // The window is far narrower than the burst: one that was counted out of order would be too old.
        for threads in [1, 4] {
            let (opened, sums, _) = through((threads, sas), Direction::Inbound, suite, &sealed);
            assert_eq!(sums.opened, PACKETS as u64);
            for (at, (done, plain)) in opened.iter().zip(&plain).enumerate() {
                assert_eq!((done.status, done.cookie), (Status::Ok, at as u64));
                assert!(done.frame.holds(plain));
            }
        }
    }
}

#[test]
fn a_packet_that_cannot_be_sealed_in_a_burst_on_several_cores_is_counted_as_on_one() {
    let suite = Suite::from_name("aes128gcm16").unwrap();
    // It fits its frame, but what is added does not.
    let full = 512 - FramePoolConfig::default().headroom as u16;
    let plain: Vec<_> = (0..PACKETS)
        .map(|n| inner(if n % 1000 == 7 { full } else { 200 }))
        .collect();
    let [one, four] = [1, 4].map(|threads| {
        let (done, sums, usage) = through((threads, 1), Direction::Outbound, suite, &plain);
        let told: Vec<_> = done
            .into_iter()
            .map(|done| (done.status, done.sequence, done.frame.to_vec()))
            .collect();
        (told, sums, usage.packets, usage.bytes, usage.sequence)
    });
    assert_eq!(one, four);
    let refused = |told: &&(Status, u64, Vec<u8>)| told.0 == Status::NoSpace && told.2.is_empty();
    assert_eq!(four.0.iter().filter(refused).count(), PACKETS / 1000);
    assert_eq!((four.1.errors, four.2), (6, PACKETS as u64 - 6));
}

#[test]
fn what_is_refused_in_a_burst_that_several_cores_open_is_told_and_counted_as_on_one() {
    let suite = Suite::from_name("aes128gcm16").unwrap();
    let plain: Vec<_> = (0..PACKETS).map(|_| inner(200)).collect();
    let (sealed, ..) = through((1, 1), Direction::Outbound, suite, &plain);
    let mut sealed: Vec<_> = sealed.iter().map(|done| done.frame.to_vec()).collect();
    for at in (7..PACKETS).step_by(1000) {
        // An ICV that is wrong, a packet twice, one that is no ESP.
        *sealed[at].last_mut().unwrap() ^= 1;
        sealed[at + 20] = sealed[at + 19].clone();
        sealed[at + 40].truncate(9);
    }
    let [one, four] = [1, 4].map(|threads| {
        let (done, sums, usage) = through((threads, 1), Direction::Inbound, suite, &sealed);
        // Who is refused for its number may have been opened before.
        let told = |done: Done| {
            let good = done
                .status
                .is_ok()
                .then_some((done.sequence, done.next_header));
            (done.status, good, done.frame.to_vec())
        };
        (done.into_iter().map(told).collect::<Vec<_>>(), sums, usage)
    });
    for (at, (one, four)) in one.0.iter().zip(&four.0).enumerate() {
        assert!(one == four, "{at}: {:?} {:?}", one.0, four.0);
    }
    assert_eq!((one.1, &one.2), (four.1, &four.2));
    let count = |status| four.0.iter().filter(|told| told.0 == status).count();
    assert_eq!(count(Status::BadIcv), PACKETS / 1000);
    assert_eq!(count(Status::Replayed), PACKETS / 1000);
    assert!(four.2.errors > 0 && four.2.packets < PACKETS as u64);
    assert_eq!(count(Status::Ok) as u64, four.2.packets);
}
