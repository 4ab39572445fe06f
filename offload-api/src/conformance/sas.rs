// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The life of an SA: refused, installed, amended, retired, and never taken for another.

use super::Report;
use super::rig::{Rig, packet, packets};
use crate::capability::Features;
use crate::error::{InstallError, InvalidSa, SaError};
use crate::queue::Status;
use crate::replay::ReplaySnapshot;
use crate::sa::{Amend, Direction, Grant, OuterHeaders, SaHandle, SaParams, Spi, UdpEncapsulation};

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    invalid(rig, report);
    unfit_changes(rig, report);
    stale_handles(rig, report);
    full_table(rig, report);
    moved_peer(rig);
    counters(rig);
}

type Change = fn(&mut SaParams);

fn invalid(rig: &Rig, report: &mut Report) {
    let changes: [(&str, Change); 6] = [
        ("reserved SPI", |sa| sa.spi = Spi::new(255).unwrap()),
        ("short key", |sa| {
            sa.keys.cipher.pop();
            sa.keys.integrity.pop();
        }),
        ("long key", |sa| sa.keys.integrity.push(0)),
        ("window 31", |sa| sa.replay_window = 31),
        ("window 4097", |sa| sa.replay_window = 4097),
        ("two families", |sa| {
            sa.outer = Some(OuterHeaders {
                source: [192, 0, 2, 1].into(),
                destination: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
                udp: None,
            });
        }),
    ];
    for (what, change) in changes {
        let mut sa = rig.params(Direction::Inbound);
        change(&mut sa);
        let refused = rig.engine.install(&sa);
        let invalid = matches!(refused, Err(InstallError::Invalid(_)));
        assert!(invalid, "{what}: {refused:?}");
        report.refusals += 1;
    }
    assert_eq!(rig.engine.counters().sas, 0);
}

fn unfit_changes(rig: &Rig, report: &mut Report) {
    let (seal, open) = rig.pair();
    let grant = Amend::Grant(Grant {
        first: 1 << 21,
        last: 1 << 22,
    });
    let replay = Amend::Replay(ReplaySnapshot {
        top: 9,
        seen: vec![1],
    });
    for (sa, change) in [(open, &grant), (open, &Amend::Revoke), (seal, &replay)] {
        let refused = rig.engine.amend(sa, change);
        let fits = matches!(refused, Err(SaError::NotApplicable { .. }));
        assert!(fits, "{change:?}: {refused:?}");
        report.refusals += 1;
    }
    let reversed = Amend::Grant(Grant {
        first: 1 << 22,
        last: 1 << 21,
    });
    assert!(matches!(
        rig.engine.amend(seal, &reversed),
        Err(SaError::Invalid(InvalidSa::Grant { .. }))
    ));
    report.refusals += 1;
    rig.engine.retire(seal).unwrap();
    rig.engine.retire(open).unwrap();
}

fn assert_stale(rig: &mut Rig, sa: SaHandle, report: &mut Report) {
    let change = Amend::Grant(Grant {
        first: 1 << 30,
        last: 1 << 31,
    });
    assert_eq!(rig.engine.amend(sa, &change), Err(SaError::Stale));
    assert_eq!(rig.engine.usage(sa), Err(SaError::Stale));
    assert_eq!(rig.engine.retire(sa), Err(SaError::Stale));
    for outcome in rig.each(sa, &packets(3)) {
        let gone = matches!(outcome.status, Status::SaStale | Status::SaInvalid);
        assert!(gone, "{:?}", outcome.status);
        report.refusals += 1;
    }
}

/// A handle whose slot was used again does not reach the SA that is there now.
fn stale_handles(rig: &mut Rig, report: &mut Report) {
    let never = SaHandle {
        index: u32::MAX,
        generation: u32::MAX,
    };
    assert_stale(rig, never, report);
    let mut old: Vec<SaHandle> = Vec::new();
    for _ in 0..5 {
        let (seal, open) = rig.pair();
        assert!(!old.contains(&seal) && !old.contains(&open));
        let wire = rig.seal(seal, &packets(3));
        for handle in old.clone() {
            assert_stale(rig, handle, report);
        }
        assert_eq!(rig.status(open, &wire[0]), Status::Ok);
        let usage = rig.engine.usage(seal).unwrap();
        assert_eq!((usage.packets, usage.sequence), (3, 3));
        assert_eq!(rig.engine.retire(seal).unwrap(), usage);
        rig.engine.retire(open).unwrap();
        old.extend([seal, open]);
    }
}

fn full_table(rig: &Rig, report: &mut Report) {
    let capacity = rig.engine.capabilities().max_sas;
    if capacity > 4096 {
        return;
    }
    let sa = rig.params(Direction::Inbound);
    let mut handles: Vec<_> = (0..capacity)
        .map(|_| rig.engine.install(&sa).unwrap())
        .collect();
    assert_eq!(rig.engine.counters().sas, u64::from(capacity));
    let full = Err(InstallError::TableFull { capacity });
    assert_eq!(rig.engine.install(&sa), full);
    report.refusals += 1;
    rig.engine.retire(handles.swap_remove(0)).unwrap();
    handles.push(rig.engine.install(&sa).unwrap());
    assert_eq!(rig.engine.install(&sa), full);
    for handle in handles {
        rig.engine.retire(handle).unwrap();
    }
    assert_eq!(rig.engine.counters().sas, 0);
}

/// New outer headers hold from the next packet on, both ways.
fn moved_peer(rig: &mut Rig) {
    if !rig.has(Features::OUTER_HEADERS | Features::UDP_ENCAPSULATION | Features::TUNNEL) {
        return;
    }
    let headers = |last, source_port| OuterHeaders {
        source: [203, 0, 113, last].into(),
        destination: [203, 0, 113, 200].into(),
        udp: Some(UdpEncapsulation {
            source_port,
            destination_port: 4500,
        }),
    };
    let (before, after) = (headers(1, 4500), headers(77, 61000));
    let install = |direction| {
        let mut sa = rig.params(direction);
        sa.outer = Some(before);
        rig.install(&sa).unwrap()
    };
    let (seal, open) = (install(Direction::Outbound), install(Direction::Inbound));
    let plain = packet(false, 17, 40);
    let old = rig.seal(seal, &vec![plain.clone(); 2]);
    assert_eq!(rig.status(open, &old[0]), Status::Ok);
    for sa in [seal, open] {
        rig.engine.amend(sa, &Amend::Outer(after)).unwrap();
    }
    let new = rig.one(seal, &plain);
    assert_eq!((new.status, new.sequence), (Status::Ok, 3));
    assert_eq!(&new.octets[12..16], &[203, 0, 113, 77]);
    assert_eq!(&new.octets[20..22], &61000u16.to_be_bytes());
    let opened = rig.one(open, &new.octets);
    assert_eq!(opened.status, Status::Ok);
    assert!(opened.octets == plain);
    assert_eq!(rig.status(open, &old[1]), Status::OuterMismatch);
    rig.engine.retire(seal).unwrap();
    rig.engine.retire(open).unwrap();
}

/// The engine's counters add up.
fn counters(rig: &mut Rig) {
    let before = rig.engine.counters();
    let (seal, open) = rig.pair();
    assert_eq!(rig.engine.counters().sas, before.sas + 2);
    let plain = packets(10);
    let octets: u64 = plain.iter().map(|packet| packet.len() as u64).sum();
    let wire = rig.seal(seal, &plain);
    rig.each(open, &wire);
    rig.each(open, &wire[..4]);
    let after = rig.engine.counters();
    assert_eq!(after.sealed - before.sealed, 10);
    assert_eq!(after.sealed_bytes - before.sealed_bytes, octets);
    assert_eq!(after.opened - before.opened, 10);
    assert_eq!(after.opened_bytes - before.opened_bytes, octets);
    assert_eq!(after.errors - before.errors, 4);
    let usage = rig.engine.retire(open).unwrap();
    let found = (usage.packets, usage.bytes, usage.replayed);
    assert_eq!(found, (10, octets, 4));
    rig.engine.retire(seal).unwrap();
    assert_eq!(rig.engine.counters().sas, before.sas);
}

/// A reset leaves no SA and no old handle behind, and the engine carries new ones.
pub(super) fn reset(rig: &mut Rig, report: &mut Report) {
    let (seal, open) = rig.pair();
    rig.seal(seal, &packets(3));
    rig.engine.reset().unwrap();
    assert_eq!(rig.engine.counters().sas, 0);
    rig.open_queue_again();
    assert_stale(rig, seal, report);
    assert_stale(rig, open, report);
    let (new_seal, new_open) = rig.pair();
    assert!(![seal, open].contains(&new_seal) && ![seal, open].contains(&new_open));
    let wire = rig.seal(new_seal, &packets(3));
    for outcome in rig.each(new_open, &wire) {
        assert_eq!(outcome.status, Status::Ok);
    }
    assert_stale(rig, seal, report);
    assert_stale(rig, open, report);
}
