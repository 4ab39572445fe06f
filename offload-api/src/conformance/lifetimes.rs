// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits in packets and octets (RFC 4301 §4.4.2.1): the soft one is told once, the hard one stops
//! the SA with the very next packet, also within a burst.

use super::Report;
use super::rig::{Rig, packet};
use crate::capability::Features;
use crate::event::{Event, Limit};
use crate::queue::Status::{self, HardExpired, Ok, OkSoftExpired};
use crate::sa::{Amend, Direction, Lifetimes, Limits, SaHandle};

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    if !rig.has(Features::LIFETIMES) {
        return;
    }
    for one_burst in [false, true] {
        by_packets(rig, Direction::Outbound, one_burst, report);
        by_packets(rig, Direction::Inbound, one_burst, report);
        by_octets(rig, one_burst, report);
    }
    forgeries_do_not_count(rig, report);
}

fn packets_of(packets: u64) -> Limits {
    Limits {
        packets: Some(packets),
        ..Limits::default()
    }
}

fn expect(
    rig: &mut Rig,
    sa: SaHandle,
    packets: &[Vec<u8>],
    one_burst: bool,
    statuses: &[Status],
    report: &mut Report,
) {
    let outcomes = if one_burst {
        rig.each(sa, packets)
    } else {
        packets.iter().map(|packet| rig.one(sa, packet)).collect()
    };
    let found: Vec<_> = outcomes.iter().map(|outcome| outcome.status).collect();
    assert_eq!(found, statuses, "in one burst: {one_burst}");
    let refused = found.iter().filter(|status| !status.is_ok()).count();
    report.refusals += refused as u64;
}

fn by_packets(rig: &mut Rig, direction: Direction, one_burst: bool, report: &mut Report) {
    let (sealer, opener) = rig.pair();
    let plain = vec![packet(false, 17, 60); 6];
    let packets = match direction {
        Direction::Outbound => plain,
        Direction::Inbound => rig.seal(sealer, &plain),
    };
    let mut sa = rig.params(direction);
    sa.lifetimes = Lifetimes {
        soft: packets_of(2),
        hard: packets_of(4),
    };
    let sa = rig.install(&sa).unwrap();
    let statuses = [
        Ok,
        OkSoftExpired,
        OkSoftExpired,
        OkSoftExpired,
        HardExpired,
        HardExpired,
    ];
    expect(rig, sa, &packets, one_burst, &statuses, report);
    let hard = Event::HardExpired {
        sa,
        limit: Limit::Packets,
    };
    let soft = Event::SoftExpired {
        sa,
        limit: Limit::Packets,
    };
    let events = rig.await_event("of the hard limit", |event| *event == hard);
    let times = |wanted: &Event| events.iter().filter(|event| *event == wanted).count();
    assert_eq!((times(&soft), times(&hard)), (1, 1), "in {events:?}");
    assert_eq!(rig.engine.usage(sa).unwrap().packets, 4);

    let longer = Lifetimes {
        soft: packets_of(100),
        hard: packets_of(5),
    };
    rig.engine.amend(sa, &Amend::Lifetimes(longer)).unwrap();
    // Inbound, a packet that was refused as expired was not seen.
    let packets = &packets[4..];
    expect(rig, sa, packets, one_burst, &[Ok, HardExpired], report);
    for sa in [sa, sealer, opener] {
        rig.engine.retire(sa).unwrap();
    }
}

fn by_octets(rig: &mut Rig, one_burst: bool, report: &mut Report) {
    let octets = |octets| Limits {
        bytes: Some(octets),
        ..Limits::default()
    };
    let mut sa = rig.params(Direction::Outbound);
    sa.lifetimes.hard = octets(201);
    let sa = rig.install(&sa).unwrap();
    // 100 octets each: the third reaches the limit, the fourth is refused.
    let packets = vec![packet(false, 17, 80); 5];
    let statuses = [Ok, Ok, Ok, HardExpired, HardExpired];
    expect(rig, sa, &packets, one_burst, &statuses, report);
    rig.await_event("of the hard limit", |event| {
        let limit = Limit::Bytes;
        *event == Event::HardExpired { sa, limit }
    });
    let usage = rig.engine.retire(sa).unwrap();
    assert_eq!((usage.packets, usage.bytes), (3, 300));
}

/// Nobody without the keys uses up a lifetime.
fn forgeries_do_not_count(rig: &mut Rig, report: &mut Report) {
    let (sealer, opener) = rig.pair();
    let wire = rig.seal(sealer, &vec![packet(false, 17, 60); 2]);
    let mut sa = rig.params(Direction::Inbound);
    sa.lifetimes.hard = packets_of(2);
    let sa = rig.install(&sa).unwrap();
    let mut forged = wire[0].clone();
    *forged.last_mut().unwrap() ^= 1;
    let mut packets = vec![forged; 5];
    packets.extend(wire);
    let mut statuses = vec![Status::BadIcv; 5];
    statuses.extend([Ok, Ok]);
    expect(rig, sa, &packets, true, &statuses, report);
    for sa in [sa, sealer, opener] {
        rig.engine.retire(sa).unwrap();
    }
}
