// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets are sealed to the form of RFC 4303 and come back as they were: suites × modes × address
//! families × ESN × sizes.

use std::collections::HashSet;
use std::net::IpAddr;

use super::Report;
use super::rig::{Rig, ends, packet, params};
use crate::queue::Status;
use crate::replay::ReplaySnapshot;
use crate::sa::{
    Direction, Grant, Mode, Numbering, OuterHeaders, SaParams, Suite, UdpEncapsulation,
};
use crate::wire::esp::{Header, PROTOCOL};
use crate::wire::ip::{Facts, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::natt::UdpHeader;

/// Octets behind the inner header: around blocks and words, an ordinary packet, a jumbo.
const SIZES: [usize; 12] = [0, 1, 2, 3, 13, 14, 15, 16, 17, 500, 1400, 8900];
/// Most that sealing adds, and an inner header.
const OVERHEAD: usize = 200;

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    for suite in Suite::all() {
        for shape in shapes() {
            for esn in [false, true] {
                round_trip(rig, suite, &shape, esn, report);
            }
        }
    }
    let mut further = Report::default();
    for (n, suite) in Suite::further().enumerate() {
        // The framing is every suite's; some of it does for each.
        for shape in shapes().iter().skip(n % 3).step_by(3) {
            for esn in [false, true] {
                round_trip(rig, suite, shape, esn, &mut further);
            }
        }
    }
    report.further += further.round_trips;
}

/// What is around the payload.
struct Shape {
    mode: Mode,
    outer: Option<OuterHeaders>,
    inner_ipv6: bool,
}

fn shapes() -> Vec<Shape> {
    let udp = Some(UdpEncapsulation {
        source_port: 4500,
        destination_port: 40961,
    });
    let outer = |ipv6, udp| {
        let (source, destination) = if ipv6 {
            ("2001:db8::7:1", "2001:db8::7:2")
        } else {
            ("203.0.113.1", "203.0.113.2")
        };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        Some(OuterHeaders {
            source: address(source),
            destination: address(destination),
            udp,
        })
    };
    let mut shapes = Vec::new();
    for inner_ipv6 in [false, true] {
        let outers = [
            None,
            outer(false, None),
            outer(true, None),
            outer(false, udp),
            outer(true, udp),
        ];
        shapes.extend(outers.map(|outer| Shape {
            mode: Mode::Tunnel,
            outer,
            inner_ipv6,
        }));
        let (source, destination) = ends(inner_ipv6);
        let natted = OuterHeaders {
            source,
            destination,
            udp,
        };
        shapes.extend([None, Some(natted)].map(|outer| Shape {
            mode: Mode::Transport,
            outer,
            inner_ipv6,
        }));
    }
    shapes
}

fn round_trip(rig: &mut Rig, suite: Suite, shape: &Shape, esn: bool, report: &mut Report) {
    let label = format!(
        "{suite} {:?} outer {:?} inner IPv6 {} esn {esn}",
        shape.mode, shape.outer, shape.inner_ipv6
    );
    // With ESN the numbers cross into the second 2^32.
    let first = if esn { (1 << 32) - 4 } else { 1 };
    let mut outbound = params(Direction::Outbound, suite);
    outbound.numbering = Numbering::Granted(Some(Grant {
        first,
        last: first + 1000,
    }));
    let mut inbound = params(Direction::Inbound, suite);
    inbound.replay_state = esn.then(|| ReplaySnapshot {
        top: first - 1,
        seen: vec![0],
    });
    for sa in [&mut outbound, &mut inbound] {
        sa.mode = shape.mode;
        sa.outer = shape.outer;
        sa.esn = esn;
    }
    let (Some(seal), Some(open)) = (rig.install(&outbound), rig.install(&inbound)) else {
        report.unsupported += 1;
        return;
    };

    let limit = (rig.engine.capabilities().max_packet as usize).saturating_sub(OVERHEAD);
    let protocol = if shape.inner_ipv6 {
        PROTOCOL_TCP
    } else {
        PROTOCOL_UDP
    };
    let plain: Vec<_> = SIZES
        .into_iter()
        .filter(|size| *size <= limit)
        .map(|size| packet(shape.inner_ipv6, protocol, size))
        .collect();
    let sealed = rig.each(seal, &plain);
    let mut ivs = HashSet::new();
    for ((sealed, plain), sequence) in sealed.iter().zip(&plain).zip(first..) {
        assert_eq!(sealed.status, Status::Ok, "{label}: {} octets", plain.len());
        assert_eq!(sealed.sequence, sequence, "{label}");
        let iv = check_sealed(&sealed.octets, plain, sequence, &outbound, &label);
        assert!(iv.is_empty() || ivs.insert(iv), "{label}: an IV came twice");
    }

    let wire: Vec<_> = sealed.into_iter().map(|sealed| sealed.octets).collect();
    let next_header = match (shape.mode, shape.inner_ipv6) {
        (Mode::Tunnel, false) => PROTOCOL_IPV4,
        (Mode::Tunnel, true) => PROTOCOL_IPV6,
        (Mode::Transport | Mode::Crypto, _) => protocol,
    };
    let opened = rig.each(open, &wire);
    for ((opened, plain), sequence) in opened.iter().zip(&plain).zip(first..) {
        let found = (opened.status, opened.sequence, opened.next_header);
        let expected = (Status::Ok, sequence, next_header);
        assert_eq!(found, expected, "{label}: {} octets", plain.len());
        assert!(opened.octets == *plain, "{label}: {} octets", plain.len());
        report.round_trips += 1;
    }
    let last = first + plain.len() as u64 - 1;
    for sa in [seal, open] {
        let usage = rig.engine.retire(sa).unwrap();
        let found = (usage.packets, usage.sequence, usage.errors, usage.replayed);
        assert_eq!(found, (plain.len() as u64, last, 0, 0), "{label}: usage");
    }
}

/// Outer headers, ESP header and length of a sealed packet (RFC 4303 §2); returns its IV.
fn check_sealed(sealed: &[u8], plain: &[u8], sequence: u64, sa: &SaParams, label: &str) -> Vec<u8> {
    let inner_header = if plain[0] >> 4 == 6 { 40 } else { 20 };
    let (kept, payload) = match sa.mode {
        Mode::Tunnel => (0, plain),
        Mode::Transport | Mode::Crypto => (inner_header, &plain[inner_header..]),
    };
    let mut at = kept;
    let udp = sa.outer.and_then(|outer| outer.udp);
    if kept != 0 || sa.outer.is_some() {
        let facts = Facts::of(sealed).expect("an IP header in front");
        assert_eq!(facts.total_len, sealed.len(), "{label}: IP length");
        let protocol = if udp.is_some() {
            PROTOCOL_UDP
        } else {
            PROTOCOL
        };
        assert_eq!(facts.protocol, protocol, "{label}");
        if let Some(outer) = sa.outer {
            assert_eq!(facts.source, outer.source, "{label}");
            assert_eq!(facts.destination, outer.destination, "{label}");
        }
        at = facts.header_len;
    }
    if let Some(udp) = udp {
        let header = UdpHeader::parse(&sealed[at..]).unwrap();
        let ports = (header.source_port.get(), header.destination_port.get());
        assert_eq!(ports, (udp.source_port, udp.destination_port), "{label}");
        assert_eq!(usize::from(header.len.get()), sealed.len() - at, "{label}");
        assert_eq!(header.checksum.get(), 0, "{label}: RFC 3948 §2.1");
        at += UdpHeader::LEN;
    }
    let esp = &sealed[at..];
    let header = Header::parse(esp).unwrap();
    assert_eq!(header.spi.get(), sa.spi.value(), "{label}");
    assert_eq!(header.sequence.get(), sequence as u32, "{label}");
    let suite = sa.suite;
    let body = (payload.len() + 2).next_multiple_of(suite.alignment());
    let expected = Header::LEN + suite.iv_len() + body + suite.icv_len();
    assert_eq!(esp.len(), expected, "{label}: ESP length");
    let text = &esp[Header::LEN + suite.iv_len()..];
    if payload.len() >= 16 {
        let plain_text = text.starts_with(payload);
        assert_eq!(plain_text, !suite.cipher().encrypts(), "{label}");
    }
    esp[Header::LEN..Header::LEN + suite.iv_len()].to_vec()
}
