// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What quick mode agrees upon beside algorithms, and when a new child SA is used.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::Arc;
use std::time::Duration;

use ikev1_proto::endpoint::Endpoint;
use ikev1_proto::wire::{FLAG_COMMIT, exchange};
use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::config::*;
use ikev2d_proto::event::*;
use ikev2d_proto::proposal::Proposal;

use peers::{Pair, other_child, secret};

const QUICK: u8 = exchange::QUICK;

impl Pair {
    /// Brings so many messages of a quick mode to their receivers; the next one is on the wire.
    fn step(&mut self, messages: usize) {
        self.flush();
        for _ in 0..messages {
            self.deliver(0);
            self.flush();
        }
        assert_eq!(self.wire.len(), 1);
    }

    fn told(&self, side: usize) -> Told {
        let child = self.child(side);
        self.sides[side].offered[&child].told()
    }
}

/// S20: a child that is rekeyed is sent through until the peer has had time to take in message 3: some
/// install nothing before.
#[test]
fn the_old_child_is_used_while_message_3_is_under_way() {
    let mut pair = Pair::plain();
    pair.up();
    let old = pair.sides[0].sending.clone();
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.step(2);
    assert_eq!(pair.wire[0].3[18], QUICK);
    assert_eq!(pair.sides[0].sending, old);
    // It is lost, and the peer asks again.
    pair.wire.clear();
    pair.run(Duration::from_millis(900));
    assert_eq!(pair.sides[0].sending, old);
    pair.run(Duration::from_secs(30));
    assert_ne!(pair.sides[0].sending.last(), old.last());
    pair.agree(1);
    // The deletion of the old one may come before message 3 does: nobody is without a child.
    let gaps = |e: &Event| matches!(e, Event::ChildDown { .. } | Event::ChildUp { .. });
    assert_eq!((pair.count(0, gaps), pair.count(1, gaps)), (1, 1));
}

/// S20: the same where the peer lets the old one go at once.
#[test]
fn a_deletion_of_the_old_child_brings_the_new_one_into_use() {
    let mut pair = Pair::plain();
    pair.up();
    let old = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, old).unwrap();
    pair.step(2);
    pair.deliver(0);
    let gone = pair.sides[1].offered.keys().next().copied().unwrap();
    pair.sides[1]
        .endpoint
        .terminate_child(pair.now, gone)
        .unwrap();
    pair.run(Duration::from_millis(100));
    pair.agree(1);
    assert_eq!(
        pair.count(0, |e| matches!(e, Event::ChildRekeyed { .. })),
        1
    );
    assert_eq!(pair.count(0, |e| matches!(e, Event::ChildDown { .. })), 0);
}

/// S20: kilobytes that one end sets are told to the other one, whoever begins: in the offer, or by
/// RESPONDER-LIFETIME where the responder's are fewer.
#[test]
fn lifetimes_in_kilobytes_are_told() {
    const MIB: u64 = 1 << 20;
    for (initiators, responders, told) in [
        (Some(4 * MIB), None, (None, Some(4 * MIB))),
        (None, Some(MIB), (Some(MIB), None)),
        (Some(4 * MIB), Some(MIB), (Some(MIB), Some(4 * MIB))),
        (Some(MIB), Some(4 * MIB), (None, Some(MIB))),
        (None, None, (None, None)),
    ] {
        let mut pair = Pair::new(|a, connection, _| {
            let bytes = if a { initiators } else { responders };
            connection.children[0].ikev1.life_bytes = bytes;
        });
        pair.up();
        let seen = (pair.told(0).life_bytes, pair.told(1).life_bytes);
        assert_eq!(seen, told, "{initiators:?} {responders:?}");
        // What the engines count ends in a rekeying.
        let old = pair.child(1);
        pair.sides[1].endpoint.rekey_child(pair.now, old).unwrap();
        pair.run(Duration::from_secs(10));
        pair.agree(1);
    }
}

/// S20, RFC 2407 §4.6.3.1: the initiator rekeys in the responder's time where that is shorter.
#[test]
fn the_responders_shorter_lifetime_is_kept_to() {
    let mut pair = Pair::new(|a, connection, _| {
        let time = Duration::from_secs(if a { 3000 } else { 200 });
        connection.children[0].rekey_time = Some(time);
    });
    pair.up();
    let sa = pair.sides[0].endpoint.ike_sas().next().unwrap();
    let rekey_at = sa.children[0].rekey_at.unwrap();
    assert!(rekey_at <= pair.now + Duration::from_secs(220));
}

/// S20, RFC 2407 §4.6.3.2: the responder tells whether it refuses replayed packets.
#[test]
fn the_initiator_is_told_of_replay_protection() {
    for replay in [true, false] {
        let mut pair = Pair::new(|a, connection, _| {
            connection.children[0].ikev1.replay = replay && !a;
        });
        pair.up();
        assert_eq!(pair.told(0).replay, Some(replay));
        assert_eq!(pair.told(1).replay, None);
    }
}

/// RFC 4301 §4.1: a packet names its SA by its SPI alone, whichever version of IKE has made that.
#[test]
fn an_inbound_spi_is_nobody_elses_as_long_as_its_child_lives() {
    let (mut pair, numbers) = (Pair::plain(), Numbers::default());
    let crypto = Arc::new(OpensslCrypto::new().unwrap());
    let mut endpoint = Endpoint::new(EndpointConfig::default(), crypto, &numbers);
    endpoint.set_connections(&[Arc::new(peers::connection(false))]);
    endpoint.set_secrets(vec![secret("correct horse")]);
    pair.sides[1].endpoint = endpoint;
    pair.up();
    let spi = *pair.sides[1].inbound.keys().next().unwrap();
    assert!(!numbers.spis.reserve(spi));
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(Duration::from_secs(300));
    pair.agree(1);
    assert!(numbers.spis.reserve(spi));
    let new = *pair.sides[1].inbound.keys().next().unwrap();
    assert!(!numbers.spis.reserve(new));
}

/// S20, RFC 2408 §3.1: with the commit bit the initiator waits for CONNECTED, which is sent again when it is
/// lost.
#[test]
fn a_peer_that_sets_the_commit_bit_is_waited_for() {
    let mut pair = Pair::new(|a, connection, _| connection.ikev1.commit = !a);
    pair.initiate(0, Some("net"));
    pair.step(6 + 2);
    let has_bit = |m: &[u8]| m[19] & FLAG_COMMIT != 0;
    let quick = |m: &&Vec<u8>| m[18] == QUICK;
    let bits: Vec<bool> = pair
        .recorded
        .iter()
        .map(|(_, m)| m)
        .filter(quick)
        .map(|m| has_bit(m))
        .collect();
    assert_eq!(bits, [false, true, false]);
    assert_eq!(pair.sides[0].sending.len(), 0);
    // CONNECTED is lost once.
    pair.deliver(0);
    pair.flush();
    let (.., connected) = pair.wire.pop_front().unwrap();
    assert_eq!(connected[18], exchange::INFORMATIONAL);
    assert_eq!(pair.sides[1].sending.len(), 1);
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.sides[0].sending.len(), 0);
    pair.run(Duration::from_secs(3));
    pair.agree(1);
    let ups = |e: &Event| matches!(e, Event::ChildUp { .. });
    assert_eq!((pair.count(0, ups), pair.count(1, ups)), (1, 1));
    // Nor does a rekeying leave a gap.
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(Duration::from_secs(20));
    pair.agree(1);
}

/// S20: nothing authenticates the header: whoever sets the bit on the way stops nobody for long.
#[test]
fn a_forged_commit_bit_only_delays() {
    let mut pair = Pair::plain();
    pair.initiate(0, Some("net"));
    pair.step(6 + 1);
    pair.wire[0].3[19] |= FLAG_COMMIT;
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.sides[0].sending.len(), 0);
    pair.run(Duration::from_secs(15));
    pair.agree(1);
}

/// B40: what two hosts say to each other; behind a NAT, and for what is behind a host, it is a tunnel.
#[test]
fn transport_mode_is_for_the_two_hosts_themselves() {
    for (dynamic, nat, transport) in [
        (true, false, true),
        (true, true, true),
        (false, false, false),
    ] {
        let mut pair = Pair::new(|a, connection, _| {
            let child = &mut connection.children[0];
            child.transport = true;
            if dynamic {
                child.local_ts = vec![SelectorConfig::Dynamic];
                child.remote_ts = vec![SelectorConfig::Dynamic];
            }
            if nat && !a {
                connection.remote_addrs = vec![AddressPattern::Any];
            }
        });
        pair.nat = nat;
        pair.up();
        for side in [0, 1] {
            let sa = &pair.sides[side].offered[&pair.child(side)];
            assert_eq!(sa.transport, transport, "{dynamic} {nat}");
        }
    }
    // Who wants a tunnel gets no transport mode.
    let mut pair = Pair::new(|a, connection, _| {
        let child = &mut connection.children[0];
        child.transport = a;
        child.local_ts = vec![SelectorConfig::Dynamic];
        child.remote_ts = vec![SelectorConfig::Dynamic];
    });
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(60));
    pair.agree(0);
}

/// B40, S105, RFC 3947 §5.2: behind a NAT each end is told which addresses the other one's packets have, whoever
/// begins and by either numbering; what it names by them is what it has here. Without that it is refused.
#[test]
fn transport_mode_behind_a_nat_tells_the_original_addresses() {
    let between = |pair: &Pair, side: usize| {
        let sa = &pair.sides[side].offered[&pair.child(side)];
        let addresses = (sa.ts_local[0].start, sa.ts_remote[0].start);
        assert!(sa.transport && sa.udp_encap);
        (addresses, sa.told().original)
    };
    let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let (inside, there) = (address(peers::A), address(peers::B));
    let outside = address(peers::OUTSIDE);
    let hosts = |a: bool, connection: &mut Connection, _: &mut EndpointConfig| {
        let child = &mut connection.children[0];
        child.transport = true;
        child.local_ts = vec![SelectorConfig::Dynamic];
        child.remote_ts = vec![SelectorConfig::Dynamic];
        if !a {
            connection.remote_addrs = vec![AddressPattern::Any];
        }
    };
    let mut pair = Pair::new(hosts);
    pair.nat = true;
    pair.up();
    for _ in 0..2 {
        let (first, second) = (between(&pair, 0), between(&pair, 1));
        assert_eq!(first, ((inside, there), Some((there, outside))));
        assert_eq!(second, ((there, outside), Some((inside, there))));
        // The other end begins this time.
        let child = pair.child(1);
        pair.sides[1].endpoint.rekey_child(pair.now, child).unwrap();
        pair.run(Duration::from_secs(20));
        pair.agree(1);
    }
    // A peer that tells nothing of them has no transport mode.
    let mut pair = Pair::open(hosts);
    pair.nat = true;
    pair.up();
    let (_, quick) = pair.recorded.iter().find(|(_, m)| m[18] == QUICK).unwrap();
    let quick = ikev1_proto::wire::Payloads::parse(quick[16], &quick[28..], true).unwrap();
    let parts: Vec<(u8, Vec<u8>)> = quick
        .all
        .iter()
        .skip(1)
        .map(|part| (part.kind, part.body.to_vec()))
        .collect();
    use ikev1_proto::wire::payload::{ID, NAT_OA};
    let count = |kind| parts.iter().filter(|(of, _)| *of == kind).count();
    assert_eq!((count(ID), count(NAT_OA)), (2, 2));
    let before = pair.sides[1].endpoint.stats().children;
    for (id, left_out) in [(7, vec![NAT_OA]), (8, vec![NAT_OA, ID])] {
        let some = parts.iter().filter(|(kind, _)| !left_out.contains(kind));
        let some: Vec<(u8, &[u8])> = some.map(|(kind, body)| (*kind, &body[..])).collect();
        assert_eq!(pair.say(QUICK, id, &some), 1);
        let (_, answer) = pair.recorded.last().unwrap();
        assert_eq!(answer[18], exchange::INFORMATIONAL);
        assert_eq!(pair.sides[1].endpoint.stats().children, before);
    }
}

fn ah(connection: &mut Connection, text: &str) {
    connection.children[0].esp_proposals = vec![Proposal::parse_ah(text).unwrap()];
}

/// S47: AH by every code and with forward secrecy, rekeyed from either side, and deleted.
#[test]
fn ah_is_negotiated_rekeyed_and_deleted() {
    for text in [
        "sha256",
        "sha384-esn",
        "sha512-ecp256",
        "sha1",
        "aes256gmac",
        "aesxcbc",
    ] {
        let mut pair = Pair::new(|_, connection, _| ah(connection, text));
        pair.up();
        let sa = &pair.sides[0].offered[&pair.child(0)];
        assert!(sa.suite.ah && sa.keys_in.encryption.is_empty());
        assert!(!sa.keys_in.integrity.is_empty(), "{text}");
        for side in [0, 1] {
            let old = pair.child(side);
            let endpoint = &mut pair.sides[side].endpoint;
            endpoint.rekey_child(pair.now, old).unwrap();
            pair.run(Duration::from_secs(10));
            pair.agree(1);
        }
        let child = pair.child(1);
        let endpoint = &mut pair.sides[1].endpoint;
        endpoint.terminate_child(pair.now, child).unwrap();
        pair.run(Duration::from_secs(1));
        pair.agree(0);
    }
}

/// S46, S47: one end's AH is not the other's ESP; what both have is taken.
#[test]
fn ah_and_esp_are_never_taken_for_each_other() {
    let mut pair = Pair::new(|a, connection, _| {
        if a {
            ah(connection, "sha256");
        }
    });
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(60));
    pair.agree(0);
    assert!(pair.failure(0).unwrap().contains("NO-PROPOSAL-CHOSEN"));
    let mut pair = Pair::new(|a, connection, _| {
        let esp = connection.children[0].esp_proposals.clone();
        if a {
            ah(connection, "sha256");
            connection.children[0].esp_proposals.extend(esp);
        }
    });
    pair.up();
    assert!(!pair.sides[0].offered[&pair.child(0)].suite.ah);
}

/// S46, S47: an AH child and an ESP child of one ISAKMP SA go with it.
#[test]
fn children_of_both_protocols_are_deleted_with_their_isakmp_sa() {
    let mut pair = Pair::new(|a, connection, _| {
        ah(connection, "sha256");
        connection.children.push(other_child(a));
    });
    pair.up();
    pair.initiate(0, Some("other"));
    pair.run(Duration::from_secs(10));
    pair.agree(2);
    let ike = pair.ike(0);
    pair.sides[0].endpoint.terminate_ike(pair.now, ike).unwrap();
    pair.run(Duration::from_secs(1));
    pair.agree(0);
}

/// S47, RFC 3715 §2.1: AH is neither asked for nor taken where a NAT is between.
#[test]
fn ah_does_not_go_through_a_nat() {
    let mut pair = Pair::new(|a, connection, _| {
        ah(connection, "sha256");
        if !a {
            connection.remote_addrs = vec![AddressPattern::Any];
        }
    });
    pair.nat = true;
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(60));
    pair.agree(0);
    let told = pair.failure(0).unwrap();
    assert!(told.contains("NAT"), "{told}");
}
