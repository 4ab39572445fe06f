// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must not pass: forged, cut, misdirected and malformed packets. None of them moves a window
//! or leaves octets in a frame.

use std::net::IpAddr;

use super::Report;
use super::rig::{Rig, ends, packet, params};
use crate::capability::Features;
use crate::frame::{FramePool, FramePoolConfig};
use crate::queue::{Op, Status};
use crate::sa::{
    Direction, Mode, Numbering, OuterHeaders, SaHandle, SaParams, Spi, Suite, UdpEncapsulation,
};
use crate::wire::esp::{Header, NEXT_HEADER_DUMMY};

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    for suite in Suite::all() {
        forged(rig, suite, false, report);
        forged(rig, suite, true, report);
        cut(rig, suite, report);
    }
    extended_half(rig, report);
    misdirected(rig, report);
    unfit_for_sealing(rig, report);
    wrong_next_header(rig, report);
    no_room(rig, report);
}

/// Both ends, changed alike.
fn ends_with(rig: &Rig, suite: Suite, change: impl Fn(&mut SaParams)) -> Option<[SaHandle; 2]> {
    let install = |direction| {
        let mut sa = params(direction, suite);
        sa.replay_window = sa.replay_window.min(32);
        change(&mut sa);
        rig.install(&sa)
    };
    Some([install(Direction::Outbound)?, install(Direction::Inbound)?])
}

fn retire(rig: &Rig, sas: [SaHandle; 2]) {
    for sa in sas {
        rig.engine.retire(sa).unwrap();
    }
}

/// Every octet of a packet in turn, one bit of it turned over.
fn forged(rig: &mut Rig, suite: Suite, esn: bool, report: &mut Report) {
    let Some([seal, open]) = ends_with(rig, suite, |sa| sa.esn = esn) else {
        report.unsupported += 1;
        return;
    };
    let plain = packet(false, 17, 61);
    let wire = rig.seal(seal, std::slice::from_ref(&plain)).remove(0);
    let forgeries: Vec<_> = (0..wire.len())
        .map(|at| {
            let mut forgery = wire.clone();
            forgery[at] ^= 1 << (at % 8);
            forgery
        })
        .collect();
    let mut bad_icv = 0;
    for (at, outcome) in rig.each(open, &forgeries).iter().enumerate() {
        let expected = match at {
            0..4 => outcome.status == Status::OuterMismatch,
            // A changed number may also lie outside of the window.
            4..8 => matches!(outcome.status, Status::BadIcv | Status::TooOld),
            _ => outcome.status == Status::BadIcv,
        };
        assert!(expected, "{suite} octet {at}: {:?}", outcome.status);
        bad_icv += u64::from(outcome.status == Status::BadIcv);
        report.refusals += 1;
    }
    let usage = rig.engine.usage(open).unwrap();
    assert_eq!((usage.packets, usage.bad_icv), (0, bad_icv), "{suite}");
    let genuine = rig.one(open, &wire);
    assert_eq!(
        genuine.status,
        Status::Ok,
        "{suite}: forgeries changed the SA"
    );
    assert!(genuine.octets == plain, "{suite}");
    retire(rig, [seal, open]);
}

/// Every length short of a packet, and some octets more.
fn cut(rig: &mut Rig, suite: Suite, report: &mut Report) {
    let Some([seal, open]) = ends_with(rig, suite, |_| {}) else {
        report.unsupported += 1;
        return;
    };
    let wire = rig.seal(seal, &[packet(false, 17, 61)]).remove(0);
    let lengths: Vec<_> = (0..wire.len()).map(|len| wire[..len].to_vec()).collect();
    let longer = (1..=16).map(|more| [&wire[..], &vec![0; more]].concat());
    let wrong: Vec<_> = lengths.into_iter().chain(longer).collect();
    for (outcome, wrong) in rig.each(open, &wrong).iter().zip(&wrong) {
        let fits = matches!(outcome.status, Status::BadLength | Status::BadIcv);
        assert!(fits, "{suite} length {}: {:?}", wrong.len(), outcome.status);
        report.refusals += 1;
    }
    assert_eq!(rig.status(open, &wire), Status::Ok, "{suite}");
    retire(rig, [seal, open]);
}

/// The half of the number that is not sent is authenticated (RFC 4303 §2.2.1): a packet of one
/// 2^32 does not pass in another.
fn extended_half(rig: &mut Rig, report: &mut Report) {
    for suite in Suite::all() {
        let ends = ends_with(rig, suite, |sa| {
            sa.esn = true;
            if sa.direction == Direction::Outbound {
                sa.numbering = Numbering::Granted(None);
            }
        });
        let Some([seal, open]) = ends else { continue };
        let wire = rig.seal_as(seal, (7 << 32) + 5, &packet(false, 17, 20));
        // The window stands at 0: it takes the packet for number 5.
        assert_eq!(rig.status(open, &wire), Status::BadIcv, "{suite}");
        report.refusals += 1;
        retire(rig, [seal, open]);
    }
}

/// A wrong SPI, wrong outer addresses, wrong ports, a fragment.
fn misdirected(rig: &mut Rig, report: &mut Report) {
    let suite = *rig.engine.capabilities().suites.first().unwrap();
    let mut refuse = |rig: &mut Rig, open, wire: &[u8], status, what: &str| {
        assert_eq!(rig.status(open, wire), status, "{what}");
        report.refusals += 1;
    };

    if let Some([seal, open]) = ends_with(rig, suite, |sa| {
        if sa.direction == Direction::Inbound {
            sa.spi = Spi::new(sa.spi.value() + 1).unwrap();
        }
    }) {
        let wire = rig.seal(seal, &[packet(false, 17, 20)]).remove(0);
        refuse(rig, open, &wire, Status::OuterMismatch, "SPI");
        retire(rig, [seal, open]);
    }

    let outer = |source: [u8; 4], udp| OuterHeaders {
        source: IpAddr::from(source),
        destination: IpAddr::from([203, 0, 113, 2]),
        udp,
    };
    let udp = |source_port| {
        Some(UdpEncapsulation {
            source_port,
            destination_port: 4500,
        })
    };
    let sent = outer([203, 0, 113, 1], None);
    let encapsulated = outer([203, 0, 113, 1], udp(4500));
    for (sends, expects, what) in [
        (sent, outer([203, 0, 113, 9], None), "outer source"),
        (encapsulated, outer([203, 0, 113, 1], udp(4501)), "UDP port"),
        (encapsulated, sent, "UDP where ESP is expected"),
        (sent, encapsulated, "ESP where UDP is expected"),
    ] {
        let ends = ends_with(rig, suite, |sa| {
            sa.outer = Some(match sa.direction {
                Direction::Outbound => sends,
                Direction::Inbound => expects,
            });
        });
        let Some(sas) = ends else { continue };
        let wire = rig.seal(sas[0], &[packet(false, 17, 20)]).remove(0);
        refuse(rig, sas[1], &wire, Status::OuterMismatch, what);
        retire(rig, sas);
    }

    if let Some([seal, open]) = ends_with(rig, suite, |sa| sa.outer = Some(sent)) {
        let wire = rig.seal(seal, &[packet(false, 17, 20)]).remove(0);
        for (what, flags) in [("first fragment", [0x20, 0]), ("later one", [0, 3])] {
            let mut fragment = wire.clone();
            fragment[6..8].copy_from_slice(&flags);
            checksum_again(&mut fragment);
            refuse(rig, open, &fragment, Status::Fragment, what);
        }
        let mut shorter = wire.clone();
        shorter.truncate(wire.len() - 4);
        refuse(rig, open, &shorter, Status::BadIpHeader, "cut behind IP");
        let mut version = wire.clone();
        version[0] = 0x55;
        refuse(rig, open, &version, Status::BadIpHeader, "IP version 5");
        refuse(rig, open, &wire[..19], Status::BadIpHeader, "half a header");
        assert_eq!(rig.status(open, &wire), Status::Ok);
        retire(rig, [seal, open]);
    }
}

fn checksum_again(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = crate::wire::ip::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// What is no IP packet, or a fragment in transport mode, is not sealed.
fn unfit_for_sealing(rig: &mut Rig, report: &mut Report) {
    let suite = *rig.engine.capabilities().suites.first().unwrap();
    let good = packet(false, 17, 40);
    let mut version = good.clone();
    version[0] = 0x15;
    let mut header_len = good.clone();
    header_len[0] = 0x44;
    let mut too_long = good.clone();
    too_long[2..4].copy_from_slice(&61u16.to_be_bytes());
    checksum_again(&mut too_long);
    let unfit = [
        Vec::new(),
        vec![0x45],
        good[..19].to_vec(),
        version,
        header_len,
        too_long,
        packet(true, 6, 40)[..39].to_vec(),
        [&good[..], &[0]].concat(),
    ];
    let mut fragment = good.clone();
    fragment[6..8].copy_from_slice(&[0x20, 0]);
    checksum_again(&mut fragment);

    for mode in [Mode::Tunnel, Mode::Transport] {
        let ends = ends_with(rig, suite, |sa| sa.mode = mode);
        let Some([seal, open]) = ends else { continue };
        for (n, outcome) in rig.each(seal, &unfit).iter().enumerate() {
            let status = outcome.status;
            assert_eq!(status, Status::BadIpHeader, "{mode:?} packet {n}");
            report.refusals += 1;
        }
        let status = match mode {
            // RFC 4303 §3.3.4: a tunnel carries fragments, transport mode does not.
            Mode::Tunnel => Status::Ok,
            Mode::Transport | Mode::Crypto => Status::Fragment,
        };
        assert_eq!(rig.status(seal, &fragment), status, "{mode:?}");
        report.refusals += u64::from(!status.is_ok());
        assert_eq!(rig.status(seal, &good), Status::Ok);
        retire(rig, [seal, open]);
    }
}

/// An authentic packet whose next header does not fit a tunnel is refused; a dummy (RFC 4303 §2.6)
/// is told by its next header.
fn wrong_next_header(rig: &mut Rig, report: &mut Report) {
    let suite = *rig.engine.capabilities().suites.first().unwrap();
    // Sealed in transport mode, the inner protocol becomes the next header.
    let ends = ends_with(rig, suite, |sa| {
        if sa.direction == Direction::Outbound {
            sa.mode = Mode::Transport;
        }
    });
    let Some([seal, open]) = ends else { return };
    for (protocol, status) in [
        (17, Status::BadNextHeader),
        // The payload is no IPv4 packet.
        (4, Status::BadIpHeader),
        (NEXT_HEADER_DUMMY, Status::Ok),
    ] {
        let wire = rig.seal(seal, &[packet(false, protocol, 40)]).remove(0);
        let esp = &wire[20..];
        assert!(Header::parse(esp).is_some());
        let outcome = rig.one(open, esp);
        assert_eq!(outcome.status, status, "next header {protocol}");
        if status.is_ok() {
            assert_eq!(outcome.next_header, protocol);
        } else {
            report.refusals += 1;
        }
    }
    retire(rig, [seal, open]);
}

/// A frame without the room that sealing needs is refused, in front and behind.
fn no_room(rig: &mut Rig, report: &mut Report) {
    let (source, destination) = ends(false);
    let outer = OuterHeaders {
        source,
        destination,
        udp: None,
    };
    let suite = *rig.engine.capabilities().suites.first().unwrap();
    let ends = ends_with(rig, suite, |sa| {
        if rig.has(Features::OUTER_HEADERS) {
            sa.outer = Some(outer);
        }
    });
    let Some([seal, open]) = ends else { return };
    for (headroom, len) in [(0, 100), (4, 100), (128, 512 - 128)] {
        let narrow = FramePool::new(FramePoolConfig {
            slots: 1,
            slot_size: 512,
            headroom,
            huge_pages: false,
        })
        .unwrap();
        rig.engine.register_pool(&narrow).unwrap();
        let mut frame = narrow.alloc().unwrap();
        assert!(frame.fill(&packet(false, 17, len - 20)));
        let op = Op::new(seal, frame, 0);
        let outcome = rig.burst(vec![op]).pop().unwrap();
        assert_eq!(outcome.status, Status::NoSpace, "headroom {headroom}");
        super::rig::assert_home(&narrow);
        report.refusals += 1;
    }
    retire(rig, [seal, open]);
}
