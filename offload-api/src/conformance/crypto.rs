// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cryptography alone: packets of an independent implementation, framed here as their padding and
//! trailer have to be, are sealed to the same octets and opened; and what must not pass.

use serde_json::Value;

use super::Report;
use super::known_answers::{octets, sa, vectors};
use super::rig::{Outcome, Rig, packet, params};
use crate::capability::Features;
use crate::error::{InstallError, InvalidSa};
use crate::queue::{Explicit, Op, Status};
use crate::sa::{Direction, Lifetimes, Limits, Mode, Numbering, SaHandle, SaParams, Suite};
use crate::wire::esp::Header;
use crate::wire::ip::{PROTOCOL_IPV4, PROTOCOL_IPV6};

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    if !rig.has(Features::CRYPTO) {
        let refused = rig.install(&crypto(Direction::Inbound, Suite::AES_128_GCM, false));
        assert_eq!(refused, None);
        return;
    }
    for vector in vectors() {
        known(rig, &vector, report);
    }
    refusals(rig, report);
    beyond(rig);
    in_several_frames(rig, report);
    beside_others(rig, report);
    limited(rig, report);
}

/// An SA with the cryptography alone.
fn crypto(direction: Direction, suite: Suite, esn: bool) -> SaParams {
    alone(SaParams {
        esn,
        ..params(direction, suite)
    })
}

fn alone(sa: SaParams) -> SaParams {
    SaParams {
        mode: Mode::Crypto,
        numbering: match sa.direction {
            Direction::Outbound => Numbering::Explicit,
            Direction::Inbound => Numbering::Granted(None),
        },
        replay_window: 0,
        outer: None,
        ..sa
    }
}

/// ESP of a vector: sealed, and before it was, with its padding (RFC 4303 §2.4) and trailer.
fn esp(vector: &Value) -> (Vec<u8>, Vec<u8>) {
    let suite = Suite::from_name(vector["suite"].as_str().unwrap()).unwrap();
    let (plain, sealed) = (octets(&vector["plain"]), octets(&vector["sealed"]));
    let header_len = |packet: &[u8]| match packet[0] >> 4 {
        4 => usize::from(packet[0] & 15) * 4,
        _ => 40,
    };
    let udp = usize::from(vector["mode"] == "tunnel4udp") * 8;
    let sealed = sealed[header_len(&sealed) + udp..].to_vec();
    let v4 = plain[0] >> 4 == 4;
    let (mut payload, next_header) = match (vector["mode"].as_str(), v4) {
        (Some("transport"), true) => (plain[header_len(&plain)..].to_vec(), plain[9]),
        (Some("transport"), false) => (plain[40..].to_vec(), plain[6]),
        (_, true) => (plain, PROTOCOL_IPV4),
        (_, false) => (plain, PROTOCOL_IPV6),
    };
    let padding = (payload.len() + 2).wrapping_neg() & (suite.alignment() - 1);
    payload.extend(1..=padding as u8);
    payload.extend([padding as u8, next_header]);
    let front = Header::LEN + suite.iv_len();
    assert_eq!(front + payload.len() + suite.icv_len(), sealed.len());
    let framed = [&sealed[..front], &payload].concat();
    (framed, sealed)
}

fn op(rig: &Rig, sa: SaHandle, octets: &[u8], sequence: Option<u64>) -> Op {
    let iv = [0; 16];
    let explicit = sequence.map(|sequence| Explicit { sequence, iv });
    rig.op(sa, octets).numbered(explicit)
}

fn known(rig: &mut Rig, vector: &Value, report: &mut Report) {
    let label = format!("{} esn {}", vector["suite"], vector["esn"]);
    let sequence = vector["sequence"].as_u64().unwrap();
    let (framed, sealed) = esp(vector);
    let mut check = |direction, given: &[u8], expected: &[u8]| {
        let sa = alone(sa(vector, direction));
        let number = sa.esn.then_some(sequence);
        let Some(handle) = rig.install(&sa) else {
            return;
        };
        // Twice, since nobody here minds.
        let ops = (0..2).map(|_| op(rig, handle, given, number)).collect();
        for Outcome {
            status,
            sequence: told,
            octets,
            ..
        } in rig.burst(ops)
        {
            assert_eq!(status, Status::Ok, "{label}");
            assert_eq!(told, sequence, "{label}");
            assert_eq!(hex::encode(octets), hex::encode(expected), "{label}");
            report.crypto += 1;
        }
        let usage = rig.engine.retire(handle).unwrap();
        assert_eq!((usage.packets, usage.errors), (2, 0), "{label}");
    };
    check(Direction::Outbound, &framed, &sealed);
    check(Direction::Inbound, &sealed, &framed);
}

/// A packet as it is given to be sealed: header, IV, and text of so many octets.
fn framed(sa: &SaParams, sequence: u32, text: usize) -> Vec<u8> {
    let mut octets = sa.spi.value().to_be_bytes().to_vec();
    octets.extend(sequence.to_be_bytes());
    octets.extend((0..sa.suite.iv_len()).map(|n| n as u8 ^ 0x5a));
    octets.extend((0..text).map(|n| (n as u8).wrapping_mul(3)));
    octets
}

fn refusals(rig: &mut Rig, report: &mut Report) {
    for (suite, esn) in Suite::all().flat_map(|suite| [(suite, false), (suite, true)]) {
        let both = [Direction::Outbound, Direction::Inbound].map(|way| crypto(way, suite, esn));
        let [Some(seal), Some(open)] = both.each_ref().map(|sa| rig.install(sa)) else {
            continue;
        };
        let sequence = 7 + (1 << 32);
        let given = |right: bool| (esn == right).then_some(sequence);
        let plain = framed(&both[0], sequence as u32, 48);
        let good = op(rig, seal, &plain, given(true));
        let sealed = rig.burst(vec![good]).remove(0);
        assert_eq!(sealed.status, Status::Ok, "{suite}");
        let sealed = sealed.octets;
        assert_eq!(&sealed[..Header::LEN], &plain[..Header::LEN]);
        let mut refused = |rig: &mut Rig, sa, octets: &[u8], given, status| {
            let op = op(rig, sa, octets, given);
            assert_eq!(rig.burst(vec![op]).remove(0).status, status, "{suite}");
            report.refusals += 1;
        };
        for (sa, octets) in [(seal, &plain), (open, &sealed)] {
            refused(rig, sa, octets, given(false), Status::WrongNumbering);
            if esn {
                let other = Some(sequence + 1);
                refused(rig, sa, octets, other, Status::WrongNumbering);
            }
            let mut other = octets.clone();
            other[3] ^= 1;
            refused(rig, sa, &other, given(true), Status::OuterMismatch);
            for len in [0, 7, octets.len() - 1] {
                refused(rig, sa, &octets[..len], given(true), Status::BadLength);
            }
        }
        // Behind the header, so that the number is what the operation says.
        for at in Header::LEN..sealed.len() {
            let mut forgery = sealed.clone();
            forgery[at] ^= 1 << (at % 8);
            refused(rig, open, &forgery, given(true), Status::BadIcv);
        }
        if esn {
            // The high half is authenticated, though it is not sent (RFC 4303 §2.2.1).
            let other = Some(sequence + (1 << 32));
            refused(rig, open, &sealed, other, Status::BadIcv);
        }
        let again = op(rig, open, &sealed, given(true));
        let opened = rig.burst(vec![again]).remove(0);
        assert_eq!(
            (opened.status, opened.octets),
            (Status::Ok, plain),
            "{suite}"
        );
        report.crypto += 2;
        for sa in [seal, open] {
            rig.engine.retire(sa).unwrap();
        }
    }
}

/// What would be left undone is refused.
fn beyond(rig: &Rig) {
    let suite = Suite::AES_128_GCM;
    let numbered = SaParams {
        numbering: params(Direction::Outbound, suite).numbering,
        ..crypto(Direction::Outbound, suite, false)
    };
    let windowed = SaParams {
        replay_window: 64,
        ..crypto(Direction::Inbound, suite, false)
    };
    for sa in [numbered, windowed] {
        let refused = rig.engine.install(&sa);
        assert!(
            matches!(
                refused,
                Err(InstallError::Invalid(InvalidSa::BeyondCrypto { .. }))
            ),
            "{refused:?}"
        );
    }
}

fn in_several_frames(rig: &mut Rig, report: &mut Report) {
    for suite in Suite::all() {
        let both = [Direction::Outbound, Direction::Inbound].map(|way| crypto(way, suite, false));
        let [Some(seal), Some(open)] = both.each_ref().map(|sa| rig.install(sa)) else {
            continue;
        };
        if rig.engine.capabilities().max_gather > 1 {
            let plain = framed(&both[0], 9, 3200);
            let mut whole = |rig: &mut Rig, sa, octets: &[u8]| {
                let mut op = rig.op(sa, &octets[..600]);
                for part in octets[600..].chunks(1500) {
                    op.frame.append(rig.frame(part)).unwrap();
                }
                let outcome = rig.burst(vec![op]).remove(0);
                assert_eq!(outcome.status, Status::Ok, "{suite}");
                report.crypto += 1;
                outcome.octets
            };
            let sealed = whole(rig, seal, &plain);
            assert_eq!(whole(rig, open, &sealed), plain, "{suite}");
            let one = rig.one(seal, &plain);
            assert_eq!(one.octets, sealed, "{suite}: in one frame");
        }
        for sa in [seal, open] {
            rig.engine.retire(sa).unwrap();
        }
    }
}

/// In one burst with packets of an SA that is carried whole.
fn beside_others(rig: &mut Rig, report: &mut Report) {
    let suite = rig.params(Direction::Outbound).suite;
    let both = [Direction::Outbound, Direction::Inbound].map(|way| crypto(way, suite, false));
    let [Some(seal), Some(open)] = both.each_ref().map(|sa| rig.install(sa)) else {
        return;
    };
    let whole = rig.install(&rig.params(Direction::Outbound)).unwrap();
    let plain: Vec<_> = (1..=8)
        .map(|n| framed(&both[0], n, 16 * n as usize))
        .collect();
    let inner = packet(false, 17, 99);
    let mixed = plain
        .iter()
        .flat_map(|plain| [(seal, plain), (whole, &inner)]);
    let ops = mixed.map(|(sa, octets)| rig.op(sa, octets)).collect();
    let outcomes = rig.burst(ops);
    assert!(outcomes.iter().all(|outcome| outcome.status == Status::Ok));
    let sealed = outcomes.iter().filter(|outcome| outcome.sa == seal);
    let sealed: Vec<_> = sealed.map(|outcome| outcome.octets.clone()).collect();
    let numbers = outcomes.iter().filter(|outcome| outcome.sa == whole);
    assert!(numbers.map(|outcome| outcome.sequence).eq(1..=8));
    for (opened, plain) in rig.each(open, &sealed).into_iter().zip(plain) {
        assert_eq!((opened.status, opened.octets), (Status::Ok, plain));
        report.crypto += 1;
    }
    for sa in [seal, open, whole] {
        rig.engine.retire(sa).unwrap();
    }
}

/// A hard limit holds here as well.
fn limited(rig: &mut Rig, report: &mut Report) {
    if !rig.has(Features::LIFETIMES) {
        return;
    }
    let suite = rig.params(Direction::Outbound).suite;
    let sa = SaParams {
        lifetimes: Lifetimes {
            hard: Limits {
                packets: Some(3),
                ..Limits::default()
            },
            ..Lifetimes::default()
        },
        ..crypto(Direction::Outbound, suite, false)
    };
    let Some(seal) = rig.install(&sa) else { return };
    let packets: Vec<_> = (1..=5).map(|n| framed(&sa, n, 64)).collect();
    let ended = rig.each(seal, &packets).into_iter();
    let passed: Vec<_> = ended.map(|outcome| outcome.status).collect();
    assert!(
        passed
            .iter()
            .all(|status| matches!(status, Status::Ok | Status::HardExpired))
    );
    assert_eq!(passed.iter().filter(|status| status.is_ok()).count(), 3);
    report.crypto += 3;
    assert_eq!(rig.engine.retire(seal).unwrap().packets, 3);
}
