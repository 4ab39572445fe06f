// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ESP packets of an independent implementation (scapy with pyca/cryptography; `vectors/generate.py`)
//! through the engine's own entry points: sealed byte for byte, and opened.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Done, Explicit, Op, QueueConfig, Status};
use offload_api::sa::{
    Direction, KeyMaterial, Lifetimes, Mode, Numbering, OuterHeaders, SaParams, Spi, Suite,
    UdpEncapsulation,
};
use serde_json::Value;

fn octets(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn params(vector: &Value, direction: Direction) -> SaParams {
    let suite = Suite::from_name(vector["suite"].as_str().unwrap()).unwrap();
    let ends = |a: &str, b: &str| (a.parse::<IpAddr>().unwrap(), b.parse::<IpAddr>().unwrap());
    let outer = match vector["mode"].as_str().unwrap() {
        "transport" => None,
        "tunnel6" => Some((ends("2001:db8::1", "2001:db8::2"), None)),
        "tunnel4" => Some((ends("192.0.2.1", "192.0.2.2"), None)),
        _ => Some((
            ends("192.0.2.1", "192.0.2.2"),
            Some(UdpEncapsulation {
                source_port: 4500,
                destination_port: 61234,
            }),
        )),
    };
    SaParams {
        spi: Spi::new(vector["spi"].as_u64().unwrap() as u32).unwrap(),
        direction,
        mode: if outer.is_some() {
            Mode::Tunnel
        } else {
            Mode::Transport
        },
        suite,
        keys: KeyMaterial::from_keymat(
            suite,
            &octets(&vector["key"]),
            &octets(&vector["integrity_key"]),
        )
        .unwrap(),
        esn: vector["esn"].as_bool().unwrap(),
        replay_window: if direction == Direction::Inbound {
            64
        } else {
            0
        },
        replay_state: None,
        numbering: Numbering::Explicit,
        outer: outer.map(|((source, destination), udp)| OuterHeaders {
            source,
            destination,
            udp,
        }),
        lifetimes: Lifetimes::default(),
        selectors: Vec::new(),
    }
}

fn run(engine: &dyn Accelerator, sa: &SaParams, packet: &[u8], explicit: Option<Explicit>) -> Done {
    let pool = FramePool::new(FramePoolConfig {
        slots: 4,
        ..FramePoolConfig::default()
    })
    .unwrap();
    engine.register_pool(&pool).unwrap();
    let handle = engine.install(sa).unwrap();
    let mut queue = engine.open_queue(&QueueConfig { depth: 4 }).unwrap();
    let mut frame = pool.alloc().unwrap();
    assert!(frame.fill(packet));
    let mut ops = vec![Op {
        sa: handle,
        frame,
        cookie: 7,
        explicit,
    }];
    assert_eq!(queue.enqueue(&mut ops).unwrap(), 1);
    queue.kick().unwrap();
    let mut done = Vec::new();
    assert_eq!(queue.dequeue(&mut done, 4).unwrap(), 1);
    engine.retire(handle).unwrap();
    done.pop().unwrap()
}

#[test]
fn packets_are_sealed_and_opened_as_scapy_does() {
    let engine = esp::engine::SoftwareEngine::new(Default::default()).unwrap();
    let vectors: Vec<Value> = serde_json::from_str(include_str!("vectors/scapy.json")).unwrap();
    assert!(vectors.len() >= 100);
    for vector in &vectors {
        let label = format!(
            "{} {} esn {}",
            vector["suite"], vector["mode"], vector["esn"]
        );
        let (plain, mut sealed) = (octets(&vector["plain"]), octets(&vector["sealed"]));
        let mut iv = [0; 16];
        let given = octets(&vector["iv"]);
        iv[..given.len()].copy_from_slice(&given);
        let sequence = vector["sequence"].as_u64().unwrap();
        let explicit = Explicit { sequence, iv };

        let done = run(
            &engine,
            &params(vector, Direction::Outbound),
            &plain,
            Some(explicit),
        );
        assert_eq!(
            (done.status, done.sequence),
            (Status::Ok, sequence),
            "{label}"
        );
        // scapy leaves the UDP checksum computed for encapsulated packets; RFC 3948 wants zero.
        let mut ours = done.frame.to_vec();
        if vector["mode"] == "tunnel4udp" {
            ours[26..28].fill(0);
            sealed[26..28].fill(0);
        }
        assert_eq!(hex::encode(&ours), hex::encode(&sealed), "{label}");

        let mut inbound = params(vector, Direction::Inbound);
        if inbound.esn {
            // The window must stand near the number for its high half to be known.
            inbound.replay_state = Some(offload_api::replay::ReplaySnapshot {
                top: sequence - 1,
                seen: vec![0],
            });
        }
        let done = run(&engine, &inbound, &sealed, None);
        assert_eq!(
            (done.status, done.sequence),
            (Status::Ok, sequence),
            "{label}"
        );
        assert_eq!(hex::encode(&done.frame[..]), hex::encode(&plain), "{label}");
    }
}

#[test]
fn any_flipped_bit_and_any_truncation_is_refused() {
    let engine = esp::engine::SoftwareEngine::new(Default::default()).unwrap();
    let vectors: Vec<Value> = serde_json::from_str(include_str!("vectors/scapy.json")).unwrap();
    let mut seen = std::collections::HashSet::new();
    for vector in vectors
        .iter()
        .filter(|v| v["mode"] == "tunnel4" && v["esn"] == false)
    {
        if !seen.insert(vector["suite"].as_str().unwrap()) {
            continue;
        }
        let sealed = octets(&vector["sealed"]);
        let sa = params(vector, Direction::Inbound);
        // Outer TTL, traffic class and the like are not authenticated: start at ESP.
        for bit in (20 * 8..sealed.len().min(200) * 8).step_by(5) {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let done = run(&engine, &sa, &bad, None);
            assert!(!done.status.is_ok(), "{} bit {bit}", vector["suite"]);
            assert!(done.frame.is_empty());
        }
        for len in 0..sealed.len() {
            assert!(
                !run(&engine, &sa, &sealed[..len], None).status.is_ok(),
                "length {len}"
            );
        }
    }
    assert!(seen.len() >= 7);
}
