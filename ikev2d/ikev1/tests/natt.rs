// SPDX-License-Identifier: Apache-2.0 OR MIT
//! NAT traversal beside what `pair` has of it: the drafts' numbers, and keepalives.
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev1_proto::wire::{Payloads, exchange, payload};
use ikev2d_proto::config::*;

use peers::{Pair, net};

/// MD5 of "RFC 3947", its vendor id.
const RFC_3947: [u8; 16] = [
    0x4a, 0x13, 0x1c, 0x81, 0x07, 0x03, 0x58, 0x45, 0x5c, 0x57, 0x28, 0xf2, 0x0e, 0x95, 0x45, 0x2f,
];

fn behind_a_nat(transport: bool) -> Pair {
    let mut pair = Pair::open(|a, connection, _| {
        let child = &mut connection.children[0];
        if transport {
            child.transport = true;
            child.local_ts = vec![SelectorConfig::Dynamic];
            child.remote_ts = vec![SelectorConfig::Dynamic];
        }
        if !a {
            connection.remote_addrs = vec![AddressPattern::Any];
        }
    });
    pair.nat = true;
    pair
}

/// S104 to S106: a peer that knows the drafts alone is met by their numbers: NAT-D 130, NAT-OA 131, modes 61443
/// and 61444 (draft-ietf-ipsec-nat-t-ike-02 §3.2, §5.1, §5.2).
#[test]
fn a_peer_of_the_drafts_is_met_by_their_numbers() {
    for transport in [false, true] {
        let mut pair = behind_a_nat(transport);
        pair.initiate(0, Some("net"));
        // The other end does not hear that this one knows the RFC, and answers by what it has heard.
        pair.flush();
        let message = &mut pair.wire[0].3;
        let at = message.windows(16).position(|part| part == RFC_3947);
        message[at.unwrap()] ^= 0xff;
        pair.run(Duration::from_secs(30));
        pair.agree(1);
        let kinds = |exchange: u8, by: usize, nth: usize| -> Vec<u8> {
            let of = |(from, m): &&(usize, Vec<u8>)| *from == by && m[18] == exchange;
            let (_, message) = pair.recorded.iter().filter(of).nth(nth).unwrap();
            let padded = message[19] & 1 != 0;
            let parts = Payloads::parse(message[16], &message[28..], padded).unwrap();
            parts.all.iter().map(|part| part.kind).collect()
        };
        let count = |kinds: Vec<u8>, of: u8| kinds.iter().filter(|kind| **kind == of).count();
        for by in [0, 1] {
            assert_eq!(count(kinds(exchange::MAIN, by, 1), payload::NAT_D_DRAFT), 2);
            let originals = count(kinds(exchange::QUICK, by, 0), payload::NAT_OA_DRAFT);
            assert_eq!(originals, if transport { 2 } else { 0 });
            assert_eq!(count(kinds(exchange::QUICK, by, 0), payload::NAT_OA), 0);
        }
        let quick = pair.recorded.iter().find(|(_, m)| m[18] == exchange::QUICK);
        // Encapsulation mode, in the short form.
        let mode: [u8; 4] = [0x80, 4, 0xf0, if transport { 4 } else { 3 }];
        assert!(quick.unwrap().1.windows(4).any(|part| part == mode));
        for (at, side) in pair.sides.iter().enumerate() {
            let sa = side.offered.values().next().unwrap();
            assert!(sa.udp_encap && sa.transport == transport, "{at}");
        }
    }
}

/// S107: who is behind the NAT sends an octet each twenty seconds when there is nothing else to say, and who is
/// not sends none (RFC 3948 §2.3).
#[test]
fn who_is_behind_a_nat_keeps_its_mapping() {
    let mut pair = behind_a_nat(false);
    pair.up();
    let begun = pair.now;
    let mut sent = [0, 0];
    for _ in 0..300 {
        pair.now += Duration::from_secs(1);
        for (at, side) in pair.sides.iter_mut().enumerate() {
            side.endpoint.handle_timeout(pair.now);
            while let Some(transmit) = side.endpoint.poll_transmit() {
                assert!(transmit.keepalive);
                assert_eq!(
                    (&transmit.payload[..], transmit.path.local.port()),
                    (&[0xff][..], 4500)
                );
                sent[at] += 1;
            }
        }
    }
    assert_eq!(pair.now - begun, Duration::from_secs(300));
    assert!((14..=16).contains(&sent[0]) && sent[1] == 0, "{sent:?}");
}

/// RFC 3947 §5.2: NAT-OA is of transport mode. A tunnel whose peer tells it all the same is about the addresses that
/// the proxy ids name, which are within it and no NAT's.
#[test]
fn the_original_addresses_say_nothing_about_a_tunnel() {
    let host = |text: &str| net(&format!("{text}/32"));
    let mut pair = Pair::open(|a, connection, _| {
        let child = &mut connection.children[0];
        let ends = (vec![host(peers::A)], vec![host("10.2.0.1")]);
        (child.local_ts, child.remote_ts) = if a { ends } else { (ends.1, ends.0) };
        if !a {
            connection.remote_addrs = vec![AddressPattern::Any];
        }
    });
    pair.nat = true;
    pair.up();
    let (_, quick) = pair
        .recorded
        .iter()
        .find(|(_, m)| m[18] == exchange::QUICK)
        .unwrap()
        .clone();
    let quick = Payloads::parse(quick[16], &quick[28..], true).unwrap();
    let mut said: Vec<(u8, &[u8])> = quick.all.iter().skip(1).map(|p| (p.kind, p.body)).collect();
    assert!(said.iter().all(|(kind, _)| *kind != payload::NAT_OA));
    // Its own address, and ours.
    for body in [&[1, 0, 0, 0, 192, 0, 2, 1], &[1, 0, 0, 0, 192, 0, 2, 2]] {
        said.push((payload::NAT_OA, body));
    }
    assert_eq!(pair.say(exchange::QUICK, 7, &said), 1);
    let (_, answer) = pair.recorded.last().unwrap();
    assert_eq!(answer[18], exchange::QUICK);
}
