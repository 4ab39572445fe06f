// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets of AES-CBC with an HMAC end the same in a burst, where their chains may run side by side, as one
//! by one.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Explicit, Op, QueueConfig, Status};
use offload_api::sa::{Direction, KeyMaterial, Mode, Numbering, SaParams, Spi, Suite};

const SUITES: [&str; 6] = [
    "aes128-sha256",
    "aes192-sha1",
    "aes256-sha384",
    "aes128-sha512",
    "aes256-sha1",
    "aes192-sha256",
];

fn params(direction: Direction, n: usize, crypto: bool) -> SaParams {
    let suite = Suite::from_name(SUITES[n]).unwrap();
    let [cipher, integrity] =
        [suite.cipher_key_len(), suite.integrity_key_len()].map(|len| vec![n as u8 + 1; len]);
    let outbound = direction == Direction::Outbound;
    SaParams {
        mode: if crypto { Mode::Crypto } else { Mode::Tunnel },
        esn: n.is_multiple_of(2),
        numbering: if outbound || crypto {
            Numbering::Explicit
        } else {
            Numbering::Granted(None)
        },
        replay_window: if outbound || crypto { 0 } else { 64 },
        ..SaParams::tunnel(
            Spi::new(0x1000 + n as u32).unwrap(),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &cipher, &integrity).unwrap(),
        )
    }
}

/// A packet of one of the SAs, and the number that it is given.
type Given = (usize, Option<u64>, Vec<u8>);

/// How packets end in bursts of so many.
fn through(
    direction: Direction,
    crypto: bool,
    packets: &[Given],
    burst: usize,
) -> Vec<(Status, u64, Vec<u8>)> {
    let engine = SoftwareEngine::new(SoftwareConfig {
        threads: 1,
        ..SoftwareConfig::default()
    })
    .unwrap();
    let install = |n| engine.install(&params(direction, n, crypto)).unwrap();
    let sas: Vec<_> = (0..SUITES.len()).map(install).collect();
    let pool = FramePool::new(FramePoolConfig {
        slots: 64,
        slot_size: 4096,
        ..FramePoolConfig::default()
    })
    .unwrap();
    let mut queue = engine.open_queue(&QueueConfig { depth: 64 }).unwrap();
    let mut ended = Vec::new();
    for (n, packets) in packets.chunks(burst).enumerate() {
        let op = |(sa, sequence, packet): &Given| {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.fill(packet));
            Op::new(sas[*sa], frame, n as u64).numbered(sequence.map(|sequence| Explicit {
                sequence,
                iv: [sequence as u8; 16],
            }))
        };
        let mut ops: Vec<_> = packets.iter().map(op).collect();
        queue.enqueue(&mut ops).unwrap();
        queue.kick().unwrap();
        let mut done = Vec::new();
        queue.dequeue(&mut done, packets.len()).unwrap();
        let one = |done: &offload_api::queue::Done| {
            // What is refused may be so before or after its number is known.
            let sequence = if done.status.is_ok() {
                done.sequence
            } else {
                0
            };
            (done.status, sequence, done.frame.to_vec())
        };
        ended.extend(done.iter().map(one));
    }
    ended
}

fn check(direction: Direction, crypto: bool, packets: &[Given]) -> Vec<(Status, u64, Vec<u8>)> {
    let together = through(direction, crypto, packets, 32);
    let alone = through(direction, crypto, packets, 1);
    for (n, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert_eq!(together, alone, "{direction:?} {crypto} {n}");
    }
    together
}

fn inner(len: usize) -> Vec<u8> {
    let [high, low] = (len as u16).to_be_bytes();
    let mut packet = vec![
        0x45, 0, high, low, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ];
    packet.resize(len, 0x5a);
    packet
}

#[test]
fn whole_packets_end_in_a_burst_as_they_do_alone() {
    let plain: Vec<Given> = (0..64)
        .map(|n| (n % SUITES.len(), Some(n as u64 + 1), inner(28 + n * 41)))
        .collect();
    let sealed = check(Direction::Outbound, false, &plain);
    assert!(sealed.iter().all(|sealed| sealed.0 == Status::Ok));
    let mut wire: Vec<Given> = sealed
        .into_iter()
        .zip(&plain)
        .map(|((_, _, octets), (sa, ..))| (*sa, None, octets))
        .collect();
    let opened = check(Direction::Inbound, false, &wire);
    for ((status, _, octets), (.., plain)) in opened.iter().zip(&plain) {
        assert_eq!((*status, octets), (Status::Ok, plain));
    }
    // Forged, cut, replayed, and nothing but around a body.
    for (n, (_, _, octets)) in wire.iter_mut().enumerate() {
        let at = n * 7 % octets.len();
        match n % 5 {
            0 => octets[at] ^= 4,
            1 => octets.truncate(octets.len() - 1 - n),
            2 => octets.truncate(24 + 12 + n % 30),
            _ => {}
        }
    }
    wire[4] = wire[3].clone();
    let opened = check(Direction::Inbound, false, &wire);
    assert!(opened.iter().any(|opened| opened.0 == Status::BadIcv));
    assert_eq!(opened[4].0, Status::Replayed);
    assert_eq!(opened[8].0, Status::Ok);
}

#[test]
fn cryptography_alone_ends_in_a_burst_as_it_does_alone() {
    let given: Vec<Given> = (0..64u64)
        .map(|n| {
            let sa = n as usize % SUITES.len();
            let high = if sa.is_multiple_of(2) { 7 << 32 } else { 0 };
            // Some have no body, or none of whole blocks.
            let body = [0, 16, 17, 64, 1424][n as usize % 5];
            let mut packet = (0x1000 + sa as u32).to_be_bytes().to_vec();
            packet.extend((n as u32 + 1).to_be_bytes());
            packet.extend([n as u8; 16]);
            packet.resize(24 + body, 0x77);
            (sa, (high != 0).then_some(high + n + 1), packet)
        })
        .collect();
    let sealed = check(Direction::Outbound, true, &given);
    assert!(
        sealed
            .iter()
            .filter(|sealed| sealed.0 == Status::Ok)
            .count()
            > 40
    );
    let wire: Vec<Given> = sealed
        .into_iter()
        .zip(&given)
        .map(|((_, _, octets), (sa, sequence, _))| (*sa, *sequence, octets))
        .collect();
    let opened = check(Direction::Inbound, true, &wire);
    assert!(
        opened
            .iter()
            .filter(|opened| opened.0 == Status::Ok)
            .count()
            > 40
    );
}
