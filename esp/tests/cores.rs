// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Large bursts that the engine takes to several cores.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, Status};
use offload_api::sa::{Direction, Grant, KeyMaterial, Numbering, SaParams, Spi, Suite};

const SAS: u32 = 3;
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

/// Every packet through an engine of so many threads, in one burst.
fn through(threads: usize, direction: Direction, suite: Suite, packets: &[Vec<u8>]) -> Vec<Done> {
    let engine = SoftwareEngine::new(SoftwareConfig {
        threads,
        ..SoftwareConfig::default()
    })
    .unwrap();
    let sas: Vec<_> = (0..SAS)
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
        ops.push(Op {
            sa,
            frame,
            cookie: cookie as u64,
            explicit: None,
        });
    }
    assert_eq!(queue.enqueue(&mut ops).unwrap(), PACKETS);
    queue.kick().unwrap();
    let mut done = Vec::new();
    // In two parts, as somebody with less room takes them.
    assert_eq!(queue.dequeue(&mut done, 1000).unwrap(), 1000);
    assert_eq!(queue.dequeue(&mut done, PACKETS).unwrap(), PACKETS - 1000);
    assert_eq!(queue.in_flight(), 0);
    let sums = engine.counters();
    assert_eq!(sums.sealed + sums.opened, PACKETS as u64);
    done
}

#[test]
fn a_burst_on_several_cores_keeps_each_sas_order_and_every_packet() {
    let mut packet = vec![0x5a; 200];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 200, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ]);
    for suite in ["aes128gcm16", "aes256-sha256"].map(|name| Suite::from_name(name).unwrap()) {
        let plain: Vec<_> = (0..PACKETS)
            .map(|n| {
                let mut packet = packet.clone();
                packet[100..108].copy_from_slice(&(n as u64).to_be_bytes());
                packet
            })
            .collect();
        let sealed = through(4, Direction::Outbound, suite, &plain);
        for (at, done) in sealed.iter().enumerate() {
            assert_eq!((done.status, done.cookie), (Status::Ok, at as u64));
            assert_eq!(done.sequence, (at / SAS as usize) as u64 + 1);
        }
        let sealed: Vec<_> = sealed.iter().map(|done| done.frame.to_vec()).collect();
        // The window is far narrower than the burst: one that was counted out of order would be too old.
        for threads in [1, 4] {
            let opened = through(threads, Direction::Inbound, suite, &sealed);
            for (at, (done, plain)) in opened.iter().zip(&plain).enumerate() {
                assert_eq!((done.status, done.cookie), (Status::Ok, at as u64));
                assert!(done.frame.holds(plain));
            }
        }
    }
}
