// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TFC padding (RFC 4303 §2.7) and dummy packets (§2.6): those of an independent implementation, and
//! lengths that lie.

use super::Report;
use super::known_answers::{octets, opens_as, read, sa, seals_as};
use super::rig::{Rig, packet, params};
use crate::capability::Features;
use crate::queue::Status;
use crate::sa::{Direction, Mode};
use crate::wire::esp::NEXT_HEADER_DUMMY;
use crate::wire::ip::{PROTOCOL_IPV4, PROTOCOL_IPV6};

/// Octets of padding: around words and blocks, and beyond what ESP's own can have.
const PADDINGS: [usize; 9] = [0, 1, 3, 4, 16, 255, 256, 257, 1000];

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    for vector in read(include_str!("vectors/scapy-padded.json")) {
        let label = format!("{} {} padded", vector["suite"], vector["mode"]);
        let dummy = vector["plain"] == "";
        if let Some(outcome) = opens_as(rig, &vector, &label) {
            if dummy {
                assert_eq!(outcome.next_header, NEXT_HEADER_DUMMY, "{label}");
            } else {
                let plain = vector["plain"].as_str();
                assert_eq!(Some(&hex::encode(outcome.octets)[..]), plain, "{label}");
            }
            report.padded += 1;
        }
        let mut outbound = sa(&vector, Direction::Outbound);
        outbound.tfc_padding = true;
        let sent = [octets(&vector["plain"]), octets(&vector["padding"])].concat();
        if !dummy && seals_as(rig, outbound, &vector, &sent, &label) {
            report.padded += 1;
        }
    }
    lengths(rig, report);
    only_where_it_is_said(rig, report);
}

/// What is behind an inner packet's own length goes; one that is shorter than it says is refused, whatever
/// is behind it.
fn lengths(rig: &mut Rig, report: &mut Report) {
    let suite = *rig.engine.capabilities().suites.first().unwrap();
    // Sealed in transport mode, any octets go inside.
    let mut sealing = params(Direction::Outbound, suite);
    sealing.mode = Mode::Transport;
    let ends = [sealing, params(Direction::Inbound, suite)].map(|sa| rig.install(&sa));
    let [Some(seal), Some(open)] = ends else {
        return;
    };
    for (ipv6, protocol) in [(false, PROTOCOL_IPV4), (true, PROTOCOL_IPV6)] {
        for inner_len in [0, 1, 13, 500] {
            let inner = packet(ipv6, 17, inner_len);
            for padding in PADDINGS {
                let sent = [&inner[..], &vec![0xa5; padding]].concat();
                let wire = rig.seal(seal, &[around(protocol, &sent)]).remove(0);
                let opened = rig.one(open, &wire[20..]);
                assert_eq!(opened.status, Status::Ok, "{inner_len} and {padding}");
                assert_eq!(opened.octets, inner, "{inner_len} and {padding}");
                report.padded += 1;
            }
            let short = &inner[..inner.len() - 1];
            let wire = rig.seal(seal, &[around(protocol, short)]).remove(0);
            assert_eq!(rig.status(open, &wire[20..]), Status::BadIpHeader);
            report.refusals += 1;
        }
    }
    for sa in [seal, open] {
        rig.engine.retire(sa).unwrap();
    }
}

/// An IPv4 packet of this protocol and payload.
fn around(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut outer = packet(false, protocol, payload.len());
    outer.truncate(20);
    outer.extend(payload);
    outer
}

/// Octets behind a packet are padding in SAs that say so, and a mistake in others.
fn only_where_it_is_said(rig: &mut Rig, report: &mut Report) {
    let suite = *rig.engine.capabilities().suites.first().unwrap();
    let mut outbound = params(Direction::Outbound, suite);
    let Some(plain) = rig.install(&outbound) else {
        return;
    };
    let sent = |padding: usize| [packet(false, 17, 30), vec![0; padding]].concat();
    assert_eq!(rig.status(plain, &sent(1)), Status::BadIpHeader);
    rig.engine.retire(plain).unwrap();
    report.refusals += 1;
    outbound.tfc_padding = true;
    let Some(seal) = rig.install(&outbound) else {
        assert!(!rig.has(Features::TFC_PADDING));
        return;
    };
    let open = rig.install(&params(Direction::Inbound, suite)).unwrap();
    let paddings = PADDINGS.map(sent);
    for (wire, padding) in rig.seal(seal, &paddings).iter().zip(PADDINGS) {
        assert!(wire.len() > sent(padding).len());
        let opened = rig.one(open, wire);
        assert_eq!(
            (opened.status, opened.octets),
            (Status::Ok, sent(0)),
            "{padding}"
        );
        report.padded += 1;
    }
    // Padding makes no packet of what is shorter than it says.
    let short = &sent(0)[..49];
    assert_eq!(rig.status(seal, short), Status::BadIpHeader);
    report.refusals += 1;
    for sa in [seal, open] {
        rig.engine.retire(sa).unwrap();
    }
}
