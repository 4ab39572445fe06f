// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AH (RFC 4302): packets of an independent implementation (scapy; `vectors/generate_ah.py`), round
//! trips, replays, and what must not pass. An engine without AH must say so.

use std::net::IpAddr;

use serde_json::Value;

use super::Report;
use super::rig::{Rig, ends, packet, params};
use crate::error::{InstallError, InvalidSa, Unsupported};
use crate::queue::{Explicit, Status};
use crate::replay::ReplaySnapshot;
use crate::sa::{
    Amend, Direction, Grant, KeyMaterial, Mode, Numbering, OuterHeaders, Protocol, SaHandle,
    SaParams, Spi, Suite, UdpEncapsulation,
};
use crate::wire::ah::{Header, PROTOCOL};
use crate::wire::ip::{Facts, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_TCP, PROTOCOL_UDP};

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    if !rig.engine.capabilities().has_protocol(Protocol::Ah) {
        let suite = Suite::all_ah().next().unwrap();
        let refused = rig.engine.install(&sa(Direction::Inbound, suite, None));
        let protocol = Protocol::Ah;
        let reason = InstallError::Unsupported(Unsupported::Protocol { protocol });
        assert_eq!(refused, Err(reason));
        return;
    }
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("vectors/scapy-ah.json")).expect("vectors");
    for vector in &vectors {
        known(rig, vector, report);
    }
    for suite in Suite::all_ah() {
        for outer in [None, Some(false), Some(true)] {
            for esn in [false, true] {
                round_trips(rig, suite, outer, esn, report);
            }
        }
        forged(rig, suite, report);
    }
    replays(rig, report);
    senseless(rig);
}

/// Parameters with a tunnel over IPv4 or IPv6, or in transport mode.
fn sa(direction: Direction, suite: Suite, outer_ipv6: Option<bool>) -> SaParams {
    let mut sa = params(direction, suite);
    sa.mode = match outer_ipv6 {
        Some(_) => Mode::Tunnel,
        None => Mode::Transport,
    };
    sa.outer = outer_ipv6.map(|ipv6| {
        let (source, destination) = if ipv6 {
            ("2001:db8::1", "2001:db8::2")
        } else {
            ("192.0.2.1", "192.0.2.2")
        };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        OuterHeaders {
            source: address(source),
            destination: address(destination),
            udp: None,
        }
    });
    sa
}

fn known(rig: &mut Rig, vector: &Value, report: &mut Report) {
    let label = format!(
        "{} {} esn {}",
        vector["suite"], vector["shape"], vector["esn"]
    );
    let octets = |name: &str| hex::decode(vector[name].as_str().unwrap()).unwrap();
    let sequence = vector["sequence"].as_u64().unwrap();
    let suite = Suite::from_name(vector["suite"].as_str().unwrap()).unwrap();
    let outer = vector["outer"].as_u64().map(|version| version == 6);
    let given = |direction| {
        let mut sa = sa(direction, suite, outer);
        sa.spi = Spi::new(vector["spi"].as_u64().unwrap() as u32).unwrap();
        sa.keys = KeyMaterial::from_keymat(suite, &[], &octets("key")).unwrap();
        sa.esn = vector["esn"].as_bool().unwrap();
        sa
    };
    if !vector["sealed"].is_null() {
        let mut sa = given(Direction::Outbound);
        sa.numbering = Numbering::Explicit;
        let handle = rig.install(&sa).expect("AH");
        let mut iv = [0; 16];
        let wire_iv = octets("iv");
        iv[..wire_iv.len()].copy_from_slice(&wire_iv);
        let mut op = rig.op(handle, &octets("plain"));
        op.set_explicit(Some(Explicit { sequence, iv }));
        let sealed = rig.burst(vec![op]).pop().unwrap();
        assert_eq!(sealed.status, Status::Ok, "{label}");
        let found = hex::encode(sealed.octets);
        assert_eq!(found, vector["sealed"].as_str().unwrap(), "{label}: sealed");
        rig.engine.retire(handle).unwrap();
        report.ah_known += 1;
    }
    let mut sa = given(Direction::Inbound);
    if sa.esn {
        // The window must stand near the number for its high half to be known.
        sa.replay_state = Some(ReplaySnapshot {
            top: sequence - 1,
            seen: vec![0],
        });
    }
    let handle = rig.install(&sa).expect("AH");
    let opened = rig.one(handle, &octets("received"));
    assert_eq!(opened.status, Status::Ok, "{label}");
    assert_eq!(opened.sequence, sequence, "{label}");
    let found = hex::encode(opened.octets);
    assert_eq!(found, vector["opened"].as_str().unwrap(), "{label}: opened");
    rig.engine.retire(handle).unwrap();
    report.ah_known += 1;
}

fn pair(rig: &Rig, change: impl Fn(Direction) -> SaParams) -> [SaHandle; 2] {
    [Direction::Outbound, Direction::Inbound].map(|direction| {
        let sa = change(direction);
        rig.install(&sa).expect("AH")
    })
}

fn retire(rig: &Rig, sas: [SaHandle; 2]) {
    for sa in sas {
        rig.engine.retire(sa).unwrap();
    }
}

fn round_trips(rig: &mut Rig, suite: Suite, outer: Option<bool>, esn: bool, report: &mut Report) {
    let label = format!("{suite} outer {outer:?} esn {esn}");
    // With ESN the numbers cross into the second 2^32.
    let first = if esn { (1 << 32) - 4 } else { 1 };
    let [seal, open] = pair(rig, |direction| {
        let mut sa = sa(direction, suite, outer);
        sa.esn = esn;
        if direction == Direction::Outbound {
            let last = first + 1000;
            sa.numbering = Numbering::Granted(Some(Grant { first, last }));
        } else if esn {
            sa.replay_state = Some(ReplaySnapshot {
                top: first - 1,
                seen: vec![0],
            });
        }
        sa
    });
    let mut plain = Vec::new();
    for size in [0, 1, 2, 3, 15, 16, 17, 500, 1400, 8900] {
        plain.push(packet(false, PROTOCOL_UDP, size));
        plain.push(packet(true, PROTOCOL_TCP, size));
    }
    let sealed = rig.seal(seal, &plain);
    for ((wire, plain), sequence) in sealed.iter().zip(&plain).zip(first..) {
        let facts = Facts::of(wire).unwrap();
        assert_eq!(facts.total_len, wire.len(), "{label}");
        assert_eq!(facts.protocol, PROTOCOL, "{label}");
        let header = Header::parse(&wire[facts.header_len..]).unwrap();
        assert_eq!(header.sequence.get(), sequence as u32, "{label}");
        let len = (Header::LEN + suite.iv_len() + suite.icv_len())
            .next_multiple_of(if facts.source.is_ipv4() { 4 } else { 8 });
        assert_eq!(header.whole_len(), len, "{label}: RFC 4302 §2.2");
        // What it protects is in the clear.
        let kept = if outer.is_some() { 0 } else { facts.header_len };
        assert_eq!(&wire[facts.header_len + len..], &plain[kept..], "{label}");
    }
    for (opened, (plain, sequence)) in rig
        .each(open, &sealed)
        .iter()
        .zip(plain.iter().zip(first..))
    {
        let ipv6 = plain[0] >> 4 == 6;
        let next_header = match (outer.is_some(), ipv6) {
            (true, false) => PROTOCOL_IPV4,
            (true, true) => PROTOCOL_IPV6,
            (false, false) => PROTOCOL_UDP,
            (false, true) => PROTOCOL_TCP,
        };
        let found = (opened.status, opened.sequence, opened.next_header);
        assert_eq!(found, (Status::Ok, sequence, next_header), "{label}");
        assert!(opened.octets == *plain, "{label}");
        report.ah_round_trips += 1;
    }
    retire(rig, [seal, open]);
}

/// Each octet of a packet in turn, one bit of it turned over; then each length.
fn forged(rig: &mut Rig, suite: Suite, report: &mut Report) {
    // Class, flags, hop limit and checksum of IPv4 may change on the way.
    const MUTABLE: [usize; 6] = [1, 6, 7, 8, 10, 11];
    let [seal, open] = pair(rig, |direction| sa(direction, suite, Some(false)));
    let wire = rig.seal(seal, &[packet(false, PROTOCOL_UDP, 61)]).remove(0);
    let mut passed = 0;
    for at in 0..wire.len() {
        let mut forgery = wire.clone();
        // The top bit of the flags is reserved, those behind make a fragment.
        forgery[at] ^= if at == 6 { 0x40 } else { 1 << (at % 8) };
        if at == 7 {
            continue;
        }
        let outcome = rig.one(open, &forgery);
        if MUTABLE.contains(&at) {
            let expected = if passed == 0 {
                Status::Ok
            } else {
                Status::Replayed
            };
            assert_eq!(outcome.status, expected, "{suite} octet {at}");
            passed += 1;
        } else {
            let status = outcome.status;
            let fits = match at {
                // Version, length, protocol, addresses; AH's length; SPI.
                ..=19 | 21 | 24..28 => !status.is_ok(),
                28..32 => matches!(status, Status::BadIcv | Status::TooOld | Status::Replayed),
                _ => matches!(status, Status::BadIcv | Status::Replayed),
            };
            assert!(fits, "{suite} octet {at}: {status:?}");
        }
        report.ah_refusals += 1;
    }
    assert_eq!(rig.engine.usage(open).unwrap().packets, 1, "{suite}");
    let cut: Vec<_> = (0..wire.len()).map(|len| wire[..len].to_vec()).collect();
    for outcome in rig.each(open, &cut) {
        assert!(!outcome.status.is_ok(), "{suite}");
        report.ah_refusals += 1;
    }
    retire(rig, [seal, open]);
}

/// S54, S55: each number once, none from left of the window; S56: with window 0 none is held against
/// another.
fn replays(rig: &mut Rig, report: &mut Report) {
    let suite = Suite::from_name("ah-sha256").unwrap();
    let most = rig.engine.capabilities().replay_window_max;
    for window in [0, 32, 64, 1024, 4096] {
        if window > most {
            continue;
        }
        let [seal, open] = pair(rig, |direction| {
            let mut sa = sa(direction, suite, Some(true));
            match direction {
                Direction::Outbound => sa.numbering = Numbering::Granted(None),
                Direction::Inbound => sa.replay_window = window,
            }
            sa
        });
        let plain = packet(true, PROTOCOL_UDP, 20);
        let edge = 5000 - u64::from(window.max(2));
        let wires = [edge, edge + 1, 5000].map(|number| rig.seal_as(seal, number, &plain));
        let [left, inside, top] = &wires;
        assert_eq!(rig.status(open, top), Status::Ok);
        let (again, late) = if window == 0 {
            (Status::Ok, Status::Ok)
        } else {
            (Status::Replayed, Status::TooOld)
        };
        for (wire, expected) in [
            (top, again),
            (left, late),
            (inside, Status::Ok),
            (inside, again),
        ] {
            assert_eq!(rig.status(open, wire), expected, "window {window}");
            report.ah_refusals += u64::from(!expected.is_ok());
        }
        retire(rig, [seal, open]);
    }
}

/// What no engine takes.
fn senseless(rig: &Rig) {
    let suite = Suite::from_name("ah-sha256").unwrap();
    let mut without = sa(Direction::Inbound, suite, Some(false));
    without.outer = None;
    let refused = rig.engine.install(&without);
    assert_eq!(refused, Err(InvalidSa::AhWithoutOuter.into()));
    let mut in_udp = sa(Direction::Inbound, suite, Some(false));
    if let Some(outer) = &mut in_udp.outer {
        outer.udp = Some(UdpEncapsulation {
            source_port: 4500,
            destination_port: 4500,
        });
    }
    assert_eq!(rig.engine.install(&in_udp), Err(InvalidSa::AhInUdp.into()));
    // A peer that moves is followed, and packets from where it was are refused.
    let mut moved = sa(Direction::Inbound, suite, Some(false));
    let handle = rig.install(&moved).expect("AH");
    let (source, destination) = ends(false);
    let outer = OuterHeaders {
        source,
        destination,
        udp: None,
    };
    rig.engine.amend(handle, &Amend::Outer(outer)).unwrap();
    rig.engine.retire(handle).unwrap();
    moved.replay_window = 31;
    assert!(rig.engine.install(&moved).is_err());
}
