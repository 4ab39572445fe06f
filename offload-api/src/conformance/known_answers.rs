// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ESP packets of an independent implementation (scapy with pyca/cryptography;
//! `vectors/generate.py`): sealed to the same octets by every engine, and opened.

use std::net::IpAddr;

use serde_json::Value;

use super::Report;
use super::rig::{Outcome, Rig, params};
use crate::queue::{Explicit, Status};
use crate::replay::ReplaySnapshot;
use crate::sa::{
    Direction, KeyMaterial, Mode, Numbering, OuterHeaders, SaParams, Spi, Suite, UdpEncapsulation,
};

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    let [vectors, further] = FILES.map(read);
    known(rig, &vectors, report);
    let mut of_further = Report::default();
    known(rig, &further, &mut of_further);
    report.further += of_further.known_seals + of_further.known_opens;
}

const FILES: [&str; 2] = [
    include_str!("vectors/scapy.json"),
    include_str!("vectors/scapy-further.json"),
];

pub(super) fn read(text: &str) -> Vec<Value> {
    serde_json::from_str(text).expect("vectors")
}

/// All of them.
pub(super) fn vectors() -> Vec<Value> {
    FILES.map(read).concat()
}

fn known(rig: &mut Rig, vectors: &[Value], report: &mut Report) {
    for vector in vectors {
        let label = format!(
            "{} {} esn {}",
            vector["suite"], vector["mode"], vector["esn"]
        );
        seals(rig, vector, &label, report);
        opens(rig, vector, &label, report);
    }
}

fn seals(rig: &mut Rig, vector: &Value, label: &str, report: &mut Report) {
    let outbound = sa(vector, Direction::Outbound);
    if seals_as(rig, outbound, vector, &octets(&vector["plain"]), label) {
        report.known_seals += 1;
    } else {
        report.unsupported += 1;
    }
}

/// Whether an engine that carries such an SA seals what is sent to a vector's octets.
pub(super) fn seals_as(
    rig: &mut Rig,
    mut sa: SaParams,
    vector: &Value,
    sent: &[u8],
    label: &str,
) -> bool {
    let sequence = vector["sequence"].as_u64().unwrap();
    let given = octets(&vector["iv"]);
    let mut iv = [0; 16];
    iv[..given.len()].copy_from_slice(&given);

    sa.numbering = Numbering::Explicit;
    let Some(handle) = rig.install(&sa) else {
        return false;
    };
    let mut op = rig.op(handle, sent);
    op.set_explicit(Some(Explicit { sequence, iv }));
    let sealed = rig.burst(vec![op]).pop().unwrap();
    assert_eq!(sealed.status, Status::Ok, "{label}");
    assert_eq!(sealed.sequence, sequence, "{label}");
    let mut expected = octets(&vector["sealed"]);
    if vector["mode"] == "tunnel4udp" {
        // RFC 3948 §2.1 wants zero; scapy computes the checksum.
        expected[26..28].fill(0);
    }
    assert_eq!(
        hex::encode(sealed.octets),
        hex::encode(expected),
        "{label}: sealed octets"
    );
    rig.engine.retire(handle).unwrap();
    true
}

fn opens(rig: &mut Rig, vector: &Value, label: &str, report: &mut Report) {
    let Some(opened) = opens_as(rig, vector, label) else {
        report.unsupported += 1;
        return;
    };
    assert_eq!(
        hex::encode(opened.octets),
        hex::encode(octets(&vector["plain"])),
        "{label}: opened octets"
    );
    report.known_opens += 1;
}

/// A vector's packet, opened by an engine that carries such an SA.
pub(super) fn opens_as(rig: &mut Rig, vector: &Value, label: &str) -> Option<Outcome> {
    let sequence = vector["sequence"].as_u64().unwrap();
    let mut sa = sa(vector, Direction::Inbound);
    if sa.esn {
        // The window must stand near the number for its high half to be known.
        sa.replay_state = Some(ReplaySnapshot {
            top: sequence - 1,
            seen: vec![0],
        });
    }
    let handle = rig.install(&sa)?;
    let opened = rig.one(handle, &octets(&vector["sealed"]));
    assert_eq!(opened.status, Status::Ok, "{label}");
    assert_eq!(opened.sequence, sequence, "{label}");
    rig.engine.retire(handle).unwrap();
    Some(opened)
}

pub(super) fn octets(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

pub(super) fn sa(vector: &Value, direction: Direction) -> SaParams {
    let suite = Suite::from_name(vector["suite"].as_str().unwrap()).unwrap();
    let headers = |source: &str, destination: &str, udp| OuterHeaders {
        source: source.parse::<IpAddr>().unwrap(),
        destination: destination.parse::<IpAddr>().unwrap(),
        udp,
    };
    let udp = UdpEncapsulation {
        source_port: 4500,
        destination_port: 61234,
    };
    let outer = match vector["mode"].as_str().unwrap() {
        "transport" => None,
        "tunnel6" => Some(headers("2001:db8::1", "2001:db8::2", None)),
        "tunnel4" => Some(headers("192.0.2.1", "192.0.2.2", None)),
        _ => Some(headers("192.0.2.1", "192.0.2.2", Some(udp))),
    };
    let mut sa = params(direction, suite);
    sa.spi = Spi::new(vector["spi"].as_u64().unwrap() as u32).unwrap();
    sa.mode = match outer {
        Some(_) => Mode::Tunnel,
        None => Mode::Transport,
    };
    let (key, integrity_key) = (octets(&vector["key"]), octets(&vector["integrity_key"]));
    sa.keys = KeyMaterial::from_keymat(suite, &key, &integrity_key).unwrap();
    sa.esn = vector["esn"].as_bool().unwrap();
    sa.outer = outer;
    sa
}
