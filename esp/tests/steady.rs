// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A burst ends the same whichever way it goes through the engine: the short one, of bursts whose packets
//! are all as most are, or the long one.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::device::Accelerator;
use offload_api::event::Event;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Op, QueueConfig, Status};
use offload_api::sa::{
    Direction, Grant, KeyMaterial, Lifetimes, Limits, Mode, Numbering, OuterHeaders, SaHandle,
    SaParams, SaUsage, Spi, Suite, UdpEncapsulation,
};
use proptest::prelude::*;

/// Packets that the engine takes together.
const TOGETHER: usize = 32;
const SAS: usize = 8;
/// These have their cryptography alone done; the second with limits.
const CRYPTO: std::ops::RangeInclusive<usize> = 6..=7;

/// SAs that differ in all that a burst looks at.
fn params(direction: Direction, sa: usize) -> SaParams {
    let suite = [
        Suite::AES_128_GCM,
        Suite::AES_256_GCM,
        Suite::CHACHA20_POLY1305,
    ][sa % 3];
    let key = vec![sa as u8 + 1; suite.cipher_key_len() + suite.salt_len()];
    let outbound = direction == Direction::Outbound;
    let first = if sa == 4 { u64::from(u32::MAX) - 20 } else { 1 };
    let packets_of = |packets| Limits {
        packets: Some(packets),
        ..Limits::default()
    };
    let outer = |source: [u8; 16], destination: [u8; 16], udp| OuterHeaders {
        source: source.into(),
        destination: destination.into(),
        udp,
    };
    let four = OuterHeaders {
        source: [192, 0, 2, 1].into(),
        destination: [192, 0, 2, 2].into(),
        udp: None,
    };
    let udp = UdpEncapsulation {
        source_port: 4500,
        destination_port: 4501,
    };
    SaParams {
        mode: match sa {
            5 => Mode::Transport,
            _ if CRYPTO.contains(&sa) => Mode::Crypto,
            _ => Mode::Tunnel,
        },
        esn: sa != 4 && !CRYPTO.contains(&sa),
        numbering: if outbound && CRYPTO.contains(&sa) {
            Numbering::Explicit
        } else {
            Numbering::Granted(outbound.then_some(Grant {
                first,
                // One has less than a burst may want, one ends with its space.
                last: match sa {
                    1 => 9,
                    4 => u64::from(u32::MAX),
                    _ => 1 << 20,
                },
            }))
        },
        replay_window: if outbound || CRYPTO.contains(&sa) {
            0
        } else {
            64
        },
        outer: match sa {
            0 | 4 => Some(four),
            2 => Some(outer([0x20; 16], [0x21; 16], Some(udp))),
            3 => Some(OuterHeaders {
                udp: Some(udp),
                ..four
            }),
            _ => None,
        },
        lifetimes: match sa {
            3 | 7 => Lifetimes {
                soft: packets_of(5),
                hard: packets_of(11),
            },
            _ => Lifetimes::default(),
        },
        ..SaParams::tunnel(
            Spi::new(0x1000 + sa as u32).unwrap(),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &key, &[]).unwrap(),
        )
    }
}

/// All that can be seen of how packets ended.
#[derive(Debug, PartialEq)]
struct Ended {
    packets: Vec<(u64, Status, u64, u8, Vec<u8>)>,
    usages: Vec<SaUsage>,
    events: Vec<Event>,
    sums: [u64; 5],
}

/// Packets through an engine of their own, in one burst. In front of those that go together is one that is
/// refused: on the `long` way of no SA, which is not as most packets are, else of one that takes nothing.
fn through(direction: Direction, packets: &[(usize, Vec<u8>)], long: bool) -> Ended {
    let now = Instant::now();
    let engine = SoftwareEngine::new(SoftwareConfig {
        threads: 1,
        clock: std::sync::Arc::new(move || now + Duration::from_secs(1)),
        ..SoftwareConfig::default()
    })
    .unwrap();
    let sas: Vec<SaHandle> = (0..SAS)
        .map(|sa| engine.install(&params(direction, sa)).unwrap())
        .collect();
    let idle = SaParams {
        numbering: Numbering::Granted(None),
        ..params(direction, 0)
    };
    let idle = engine.install(&idle).unwrap();
    let none = SaHandle { index: 99, ..idle };
    let pool = FramePool::new(FramePoolConfig {
        slots: 256,
        slot_size: 512,
        ..FramePoolConfig::default()
    })
    .unwrap();
    let op = |sa, packet: &[u8], cookie| {
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(packet));
        Op::new(sa, frame, cookie)
    };
    let mut queue = engine.open_queue(&QueueConfig { depth: 256 }).unwrap();
    let mut ops = Vec::new();
    for (cookie, (sa, packet)) in packets.iter().enumerate() {
        if ops.len() % TOGETHER == 0 {
            ops.push(op(if long { none } else { idle }, &[], u64::MAX));
        }
        ops.push(op(sas[*sa], packet, cookie as u64));
    }
    let count = ops.len();
    queue.enqueue(&mut ops).unwrap();
    queue.kick().unwrap();
    let mut done = Vec::new();
    queue.dequeue(&mut done, count).unwrap();
    done.retain(|done| done.cookie != u64::MAX);
    let sums = engine.counters();
    let mut events = Vec::new();
    engine.poll_events(&mut events);
    // Of one SA in order; which SA's come first is nobody's business.
    events.sort_by_key(|event| {
        format!("{event:?}")
            .find("index")
            .map(|at| format!("{event:?}")[at..].to_owned())
    });
    let strangers = (count - packets.len()) as u64;
    Ended {
        packets: done
            .iter()
            .map(|done| {
                (
                    done.cookie,
                    done.status,
                    done.sequence,
                    done.next_header,
                    done.frame.to_vec(),
                )
            })
            .collect(),
        usages: sas.iter().map(|sa| engine.usage(*sa).unwrap()).collect(),
        events,
        sums: [
            sums.sealed,
            sums.sealed_bytes,
            sums.opened,
            sums.opened_bytes,
            sums.errors - strangers,
        ],
    }
}

/// An IPv4 or IPv6 packet with `len` octets of payload, in order or, by `flaw`, not.
fn inner(v4: bool, len: usize, flaw: u8) -> Vec<u8> {
    let mut packet = if v4 {
        let [high, low] = (20 + len as u16).to_be_bytes();
        vec![
            0x45, 3, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
        ]
    } else {
        let [high, low] = (len as u16).to_be_bytes();
        let mut header = vec![0x60, 0x10, 0, 0, high, low, 17, 64];
        header.extend([0xfd; 32]);
        header
    };
    packet.resize(packet.len() + len, 0x5a);
    match flaw {
        0 => packet.truncate(10),
        1 => packet.push(0),
        2 => packet[0] = 0x55,
        3 => packet.resize(380, 0),
        _ => {}
    }
    packet
}

/// ESP header, IV and what is to be enciphered, mostly of a length that can be.
fn framed(sa: usize, packet: Vec<u8>) -> Vec<u8> {
    let mut framed = (0x1000 + sa as u32).to_be_bytes().to_vec();
    framed.extend((packet.len() as u32).to_be_bytes());
    framed.extend([9; 8]);
    framed.extend(packet);
    if !framed.len().is_multiple_of(5) {
        framed.truncate(framed.len() & !3);
    }
    framed.truncate(384);
    framed
}

fn packets() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    // Runs of an SA, and packets that are mostly in order.
    let packet = (any::<bool>(), 0..200usize, 0..40u8);
    let run = (0..SAS, proptest::collection::vec(packet, 1..20));
    proptest::collection::vec(run, 1..8).prop_map(|runs| {
        let each = |(sa, packets): (usize, Vec<_>)| {
            let packets = packets.into_iter();
            let packets = packets.map(move |(v4, len, flaw)| (sa, inner(v4, len, flaw)));
            packets.map(|(sa, packet)| match CRYPTO.contains(&sa) {
                true => (sa, framed(sa, packet)),
                false => (sa, packet),
            })
        };
        runs.into_iter().flat_map(each).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_burst_ends_the_same_by_the_short_and_by_the_long_way(
        packets in packets(),
        spoil in proptest::collection::vec((any::<u16>(), 0..8u8), 160),
    ) {
        let sealed = through(Direction::Outbound, &packets, false);
        prop_assert_eq!(&sealed, &through(Direction::Outbound, &packets, true));

        let mut sealed: Vec<(usize, Vec<u8>)> = (sealed.packets.into_iter())
            .filter(|(_, status, ..)| status.is_ok())
            .map(|(cookie, .., octets)| (packets[cookie as usize].0, octets))
            .collect();
        for n in 0..sealed.len() {
            let (at, how) = spoil[n % spoil.len()];
            let len = sealed[n].1.len();
            match how {
                // Forged, cut, or another's; or it comes again.
                0 => sealed[n].1[usize::from(at) % len] ^= 1,
                1 => sealed[n].1.truncate(usize::from(at) % len),
                2 => sealed[n].0 = usize::from(at) % SAS,
                3 => sealed[n] = sealed[usize::from(at) % sealed.len()].clone(),
                _ => {}
            }
        }
        let opened = through(Direction::Inbound, &sealed, false);
        prop_assert_eq!(opened, through(Direction::Inbound, &sealed, true));
    }
}
