// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Long messages in fragments (RFC 7383).
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev2d_proto::config::{Connection, EndpointConfig, SelectorConfig};
use ikev2d_proto::endpoint::IkeSaInfo;
use ikev2d_proto::event::Event;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::wire::{Header, payload};

use peers::{Pair, net};

/// What IP, UDP and the non-ESP marker add to a message.
const AROUND: usize = 32;

/// So many selectors that IKE_AUTH gets long on both ways.
fn long(a: bool, connection: &mut Connection, config: &mut EndpointConfig) {
    let nets = |second: u8| -> Vec<SelectorConfig> {
        (0..120)
            .map(|i| net(&format!("10.{second}.{i}.0/24")))
            .collect()
    };
    let (local, remote) = if a { (1, 2) } else { (2, 1) };
    connection.children[0].local_ts = nets(local);
    connection.children[0].remote_ts = nets(remote);
    config.retransmit_tries = 12;
    config.retransmit_timeout = Duration::from_secs(1);
    config.retransmit_base = 1.2;
}

fn up(pair: &mut Pair) {
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    pair.run(Duration::from_secs(120));
    pair.agree(1);
}

fn is_fragment(message: &[u8]) -> bool {
    Header::parse(message).unwrap().next_payload == payload::SKF
}

fn longest(pair: &Pair) -> usize {
    pair.recorded.iter().map(Vec::len).max().unwrap() + AROUND
}

/// S84, S85, S86, S87: nothing is longer than the smallest path takes, with every kind of cipher.
#[test]
fn long_messages_go_in_fragments_that_ip_need_not_split() {
    for ike in [
        "aes256gcm16-prfsha384-x25519",
        "aes256-sha384-ecp384",
        "chacha20poly1305-prfsha512-x25519",
    ] {
        for size in [None, Some(576), Some(900), Some(1500)] {
            let mut pair = Pair::new(|a, connection, config| {
                long(a, connection, config);
                connection.proposals = vec![Proposal::parse_ike(ike).unwrap()];
                config.fragment_size = size;
            });
            up(&mut pair);
            assert!(longest(&pair) <= size.unwrap_or(1280), "{ike} {size:?}");
            assert!(pair.recorded.iter().filter(|m| is_fragment(m)).count() >= 4);
            assert_eq!(
                pair.sides[0]
                    .offered
                    .values()
                    .next()
                    .unwrap()
                    .ts_local
                    .len(),
                120
            );
            // A short message goes in one piece.
            let child = pair.child(0);
            pair.recorded.clear();
            pair.sides[0]
                .endpoint
                .terminate_child(pair.now, child)
                .unwrap();
            pair.run(Duration::from_secs(5));
            assert!(!pair.recorded.iter().any(|m| is_fragment(m)));
            pair.agree(0);
        }
    }
}

/// S85: the ladder, for requests (which are sent again) and for responses (which are asked for again).
#[test]
fn smaller_fragments_are_tried_where_large_ones_do_not_arrive() {
    for mtu in [600, 1300] {
        let mut pair = Pair::new(|a, connection, config| {
            long(a, connection, config);
            config.fragment_size = Some(1500);
        });
        pair.mtu = mtu;
        up(&mut pair);
        assert!(
            pair.recorded.iter().any(|m| m.len() + AROUND > mtu),
            "the first try was long"
        );
        // What was found out stays: the next long message passes at once, on the next IKE SA too.
        let ike = pair.ike(1);
        pair.sides[1].endpoint.rekey_ike(pair.now, ike).unwrap();
        pair.run(Duration::from_secs(5));
        pair.recorded.clear();
        for side in [0, 1] {
            let child = pair.child(side);
            pair.sides[side]
                .endpoint
                .rekey_child(pair.now, child)
                .unwrap();
            pair.run(Duration::from_secs(20));
            pair.agree(1);
        }
    }
}

/// B1: who does not offer fragments gets none.
#[test]
fn fragments_are_sent_only_when_both_have_offered_them() {
    for refuses in [true, false] {
        let mut pair = Pair::new(|a, connection, config| {
            long(a, connection, config);
            connection.fragmentation = a == refuses;
        });
        up(&mut pair);
        assert!(!pair.recorded.iter().any(|m| is_fragment(m)));
        assert!(longest(&pair) > 1280);
    }
}

/// S87, I03.
#[test]
fn lost_doubled_and_reordered_fragments_delay_but_never_break() {
    for seed in 1..25u64 {
        let mut pair = Pair::seeded(seed, |a, connection, config| {
            long(a, connection, config);
            config.fragment_size = Some(576);
            config.retransmit_tries = 40;
        });
        pair.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        pair.loss = 10;
        up(&mut pair);
    }
}

/// I03, S87: a fragment that was tampered with is as if it had never come; half a message is forgotten.
#[test]
fn forged_fragments_and_messages_that_never_end_leave_nothing() {
    let mut pair = Pair::new(|a, connection, config| {
        long(a, connection, config);
        config.half_open_timeout = Duration::from_secs(300);
    });
    let now = pair.now;
    pair.sides[0]
        .endpoint
        .initiate(now, "gw", Some("net"), None)
        .unwrap();
    // IKE_SA_INIT passes, and of IKE_AUTH the first fragment.
    pair.flush();
    pair.deliver(0);
    pair.flush();
    pair.deliver(0);
    pair.flush();
    let fragments: Vec<_> = pair.wire.drain(..).collect();
    assert!(fragments.len() >= 2 && fragments.iter().all(|(.., m)| is_fragment(m)));
    for (_, side, path, octets) in &fragments {
        for at in 0..octets.len() {
            let mut bad = octets.clone();
            bad[at] ^= 0x40;
            pair.sides[*side]
                .endpoint
                .handle_datagram(pair.now, *path, &bad);
        }
        // Only another major version is told of, with the header and a notification.
        while let Some(reply) = pair.sides[*side].endpoint.poll_transmit() {
            assert_eq!(reply.payload.len(), 36);
        }
    }
    let (_, side, path, first) = &fragments[0];
    pair.sides[*side]
        .endpoint
        .handle_datagram(pair.now, *path, first);
    assert!(pair.sides[1].endpoint.stats().fragment_octets > 0);
    pair.sides[1]
        .endpoint
        .handle_timeout(pair.now + Duration::from_secs(31));
    assert_eq!(pair.sides[1].endpoint.stats().fragment_octets, 0);
    // All of them, now: the message is whole and answered.
    for (_, side, path, octets) in &fragments {
        pair.sides[*side]
            .endpoint
            .handle_datagram(pair.now, *path, octets);
    }
    pair.run(Duration::from_secs(30));
    pair.agree(1);
    assert_eq!(pair.sides[1].endpoint.stats().fragment_octets, 0);
}

/// A07, S87, S14: one answer for all the fragments of a request that was answered before.
#[test]
fn a_repeated_request_in_fragments_is_answered_once() {
    let mut pair = Pair::new(long);
    let now = pair.now;
    pair.sides[0]
        .endpoint
        .initiate(now, "gw", Some("net"), None)
        .unwrap();
    pair.flush();
    pair.deliver(0);
    pair.flush();
    pair.deliver(0);
    pair.flush();
    let fragments: Vec<_> = pair.wire.drain(..).collect();
    let mut answers = Vec::new();
    for _ in 0..2 {
        for (_, side, path, octets) in &fragments {
            pair.sides[*side]
                .endpoint
                .handle_datagram(pair.now, *path, octets);
        }
        pair.flush();
        answers.push(pair.wire.drain(..).count());
    }
    assert!(answers[0] >= 2);
    // The second time in smaller pieces, but of one answer.
    assert!(
        answers[1] >= answers[0] && answers[1] <= 2 * answers[0] + 2,
        "{answers:?}"
    );
    assert_eq!(pair.sides[1].inbound.len(), 1);
}

/// After both have rekeyed the IKE SA at once, the peer's first request on what has come of it comes in
/// fragments: it decides which one stays, and is answered at once.
#[test]
fn a_request_in_fragments_decides_a_collision_and_is_answered() {
    let mut decided = 0;
    for seed in 0..8 {
        let mut pair = Pair::seeded(seed, long);
        up(&mut pair);
        let now = pair.now;
        for side in 0..2 {
            let ike = pair.ike(side);
            pair.sides[side].endpoint.rekey_ike(now, ike).unwrap();
        }
        pair.flush();
        assert_eq!(pair.wire.len(), 2);
        pair.deliver(0);
        pair.deliver(0);
        pair.flush();
        // The answer to the second side's own rekeying is lost.
        pair.wire.retain(|(_, to, ..)| *to == 0);
        pair.deliver(0);
        let Some(Event::IkeRekeyed { new, .. }) = pair.sides[0].endpoint.poll_event() else {
            panic!("seed {seed}");
        };
        let own = |sa: IkeSaInfo<'_>| sa.id == new && sa.initiator;
        if !pair.sides[0].endpoint.ike_sas().any(own) {
            // The second side's own one stays, which it knows nothing of yet.
            continue;
        }
        decided += 1;
        let (now, child) = (pair.now, pair.current_child(0).unwrap());
        pair.sides[0].endpoint.rekey_child(now, child).unwrap();
        pair.flush();
        // The old one's deletion, which decides it too, comes later.
        pair.wire.retain(|(.., message)| is_fragment(message));
        assert!(pair.wire.len() > 1);
        while !pair.wire.is_empty() {
            pair.deliver(0);
        }
        pair.flush();
        let rekeyed = pair.count(1, |e| matches!(e, Event::IkeRekeyed { .. }));
        assert_eq!(rekeyed, 1, "seed {seed}");
        let answers = pair.wire.iter().filter(|m| is_fragment(&m.3)).count();
        assert!(answers > 1, "no answer yet: seed {seed}");
        pair.run(Duration::from_secs(120));
        pair.agree(1);
    }
    assert!(decided > 0);
}
