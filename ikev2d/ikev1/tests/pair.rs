// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every exchange between two endpoints in memory.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::Arc;
use std::time::Duration;

use ikev2d_proto::config::*;
use ikev2d_proto::event::*;
use ikev2d_proto::proposal::Proposal;

use peers::{Pair, connection, net, other_child, secret};

fn exchange_of(message: &[u8]) -> u8 {
    message[18]
}

fn is_encrypted(message: &[u8]) -> bool {
    message[19] & 1 != 0
}

/// S1, S3, S5, S6, S8, S17, S19, S20, S27, S37 to S40, S49, S52: six messages, the last two encrypted; then three for the child.
#[test]
fn main_mode_takes_six_messages_and_quick_mode_three() {
    let mut pair = Pair::plain();
    pair.up();
    let seen: Vec<_> = pair
        .recorded
        .iter()
        .map(|(by, m)| (*by, exchange_of(m), is_encrypted(m)))
        .collect();
    let expected = [
        (0, 2, false),
        (1, 2, false),
        (0, 2, false),
        (1, 2, false),
        (0, 2, true),
        (1, 2, true),
        (0, 32, true),
        (1, 32, true),
        (0, 32, true),
    ];
    assert_eq!(seen, expected);
    // The identities are in none of those that anybody can read.
    let readable = pair.recorded.iter().filter(|(_, m)| !is_encrypted(m));
    for (_, message) in readable {
        for name in [&b"a.test"[..], b"b.test"] {
            assert!(!message.windows(name.len()).any(|w| w == name));
        }
    }
    let sa = pair.sides[1].endpoint.ike_sas().next().unwrap();
    assert_eq!((sa.version, sa.state), (1, "ESTABLISHED"));
    assert_eq!(sa.remote_id, &Identity::parse("a.test"));
}

/// S21 to S26, B50: every cipher, hash and group, those of another time as well.
#[test]
fn every_suite_and_group_works() {
    for ike in [
        "aes128-sha256-modp2048",
        "aes192-sha384-ecp384",
        "aes256-sha512-ecp521",
        "aes256-sha256-modp3072",
        "aes128-sha512-modp4096",
        "aes128-sha256-ecp256bp",
        "aes192-sha384-ecp384bp",
        "aes256-sha512-ecp512bp",
        "des-md5-modp768",
        "3des-sha1-modp1024",
        "3des-md5-modp1536",
        "aes256-sha1-modp1024s160",
        "aes128-sha1-modp2048s224",
        "3des-sha256-modp2048s256",
    ] {
        for esp in [
            "aes256gcm16",
            "aes256-sha512",
            "aes192-sha384",
            "null-sha256",
            "3des-sha1",
            "des-md5",
        ] {
            let mut pair = Pair::new(|_, connection, _| {
                connection.proposals = vec![Proposal::parse_ike(ike).unwrap()];
                connection.children[0].esp_proposals = vec![Proposal::parse_esp(esp).unwrap()];
            });
            pair.up();
        }
    }
}

/// S30, S31, S35: of several proposals the responder's best is taken.
#[test]
fn one_of_several_proposals_is_agreed_upon() {
    let parse = |texts: &[&str]| -> Vec<Proposal> {
        texts
            .iter()
            .map(|text| Proposal::parse_ike(text).unwrap())
            .collect()
    };
    let offered = [
        "aes128-sha256-modp2048",
        "aes128-sha512-ecp521",
        "aes192-sha384-ecp384",
        "aes256-sha256-ecp256",
    ];
    let mut pair = Pair::new(|a, connection, _| {
        connection.proposals = match a {
            true => parse(&offered),
            false => parse(&[
                "aes256-sha384-ecp384",
                "aes192-sha384-ecp384",
                "aes128-sha256-modp2048",
            ]),
        };
    });
    pair.up();
    let sa = pair.sides[0].endpoint.ike_sas().next().unwrap();
    assert_eq!(
        sa.suite.unwrap().to_proposal().to_string(),
        "aes192-sha384-prfsha384-ecp384"
    );
}

/// S48, S53: with a group each child has a key exchange of its own.
#[test]
fn forward_secrecy_is_negotiated_by_group() {
    for group in ["ecp256", "modp2048", "ecp384"] {
        let mut pair = Pair::new(|_, connection, _| {
            let esp = format!("aes128-sha256-{group}");
            connection.children[0].esp_proposals = vec![Proposal::parse_esp(&esp).unwrap()];
        });
        pair.up();
        let child = pair.child(0);
        assert!(pair.sides[0].offered[&child].suite.group.is_some());
    }
    let mut pair = Pair::new(|a, connection, _| {
        let esp = if a {
            "aes128-sha256"
        } else {
            "aes128-sha256-ecp256"
        };
        connection.children[0].esp_proposals = vec![Proposal::parse_esp(esp).unwrap()];
    });
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(60));
    pair.agree(0);
    assert!(pair.failure(0).unwrap().contains("NO-PROPOSAL-CHOSEN"));
}

/// S50, S51, S93: what one calls local must be what the other calls remote.
#[test]
fn proxy_ids_that_do_not_match_are_refused_and_told() {
    let mut pair = Pair::new(|a, connection, _| {
        if a {
            connection.children[0].remote_ts = vec![net("10.2.0.0/24")];
        }
    });
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(60));
    pair.agree(0);
    let told = pair.failure(0).unwrap();
    assert!(told.contains("INVALID-ID-INFORMATION"), "{told}");
    assert!(told.contains("10.1.0.0/16 === 10.2.0.0/24"), "{told}");
    assert_eq!((pair.sas(0), pair.sas(1)), (1, 1));
}

/// S91, S94, S95: several selectors become as many SAs, whose quick modes are under way at once.
#[test]
fn several_selectors_become_several_sas() {
    let mut pair = Pair::new(|a, connection, _| {
        let (one, other) = (&mut connection.children[0].local_ts, net("10.7.0.0/16"));
        if a {
            one.push(other);
        } else {
            connection.children[0].remote_ts.push(other);
        }
    });
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(10));
    pair.agree(2);
}

#[test]
fn several_children_are_made_on_one_isakmp_sa() {
    let mut pair = Pair::new(|a, connection, _| {
        connection.children.push(other_child(a));
    });
    pair.up();
    pair.initiate(1, Some("other"));
    pair.run(Duration::from_secs(10));
    pair.agree(2);
    assert_eq!(pair.sas(0), 1);
}

/// A05: nobody is told what was wrong with a key, and nothing comes of it.
#[test]
fn a_wrong_secret_makes_no_sa() {
    let mut pair = Pair::plain();
    pair.sides[1].endpoint.set_secrets(vec![secret("wrong")]);
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(600));
    pair.agree(0);
    assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));
    assert!(pair.failure(0).unwrap().contains("does not answer"));
}

#[test]
fn a_peer_with_another_identity_is_refused() {
    let mut pair = Pair::new(|a, connection, _| {
        if !a {
            connection.remote_id = Identity::parse("c.test");
        }
    });
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(600));
    pair.agree(0);
    assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));
    assert_eq!(pair.sides[1].endpoint.stats().auth_failures, 1);
}

/// Several peers at one address, behind one NAT perhaps: the identity tells which one it is.
#[test]
fn the_identity_chooses_the_connection() {
    let mut pair = Pair::plain();
    let mut other = connection(false);
    other.name = "first".to_owned();
    other.remote_id = Identity::parse("c.test");
    let both = [Arc::new(other), Arc::new(connection(false))];
    pair.sides[1].endpoint.set_connections(&both);
    pair.up();
    let sa = pair.sides[1].endpoint.ike_sas().next().unwrap();
    assert_eq!(sa.connection, "gw");
}

#[test]
fn a_proposal_that_fits_nothing_is_told() {
    let mut pair = Pair::new(|a, connection, _| {
        let text = if a {
            "aes128-sha256-ecp256"
        } else {
            "aes256-sha256-ecp256"
        };
        connection.proposals = vec![Proposal::parse_ike(text).unwrap()];
    });
    pair.initiate(0, None);
    pair.run(Duration::from_secs(600));
    // Anybody could have said it, so that it is told only with the end.
    let told = pair.failure(0).unwrap();
    assert!(
        told.contains("does not answer") && told.contains("NO-PROPOSAL-CHOSEN"),
        "{told}"
    );
}

/// S10: who speaks IKEv2 alone does not answer IKEv1 at all.
#[test]
fn a_connection_of_ikev2_alone_never_answers() {
    let mut pair = Pair::new(|a, connection, _| {
        if !a {
            connection.version = Version::V2;
        }
    });
    pair.initiate(0, None);
    pair.run(Duration::from_secs(600));
    assert!(pair.recorded.iter().all(|(by, _)| *by == 0));
}

#[test]
fn children_are_rekeyed_from_either_side_without_a_gap() {
    for side in [0, 1] {
        let mut pair = Pair::plain();
        pair.up();
        for round in 0..3 {
            let old = pair.child(side);
            pair.sides[side]
                .endpoint
                .rekey_child(pair.now, old)
                .unwrap();
            pair.run(Duration::from_secs(10));
            pair.agree(1);
            assert_ne!(pair.child(side), old, "round {round}");
        }
        assert_eq!(
            pair.count(side, |e| matches!(e, Event::ChildRekeyed { .. })),
            3
        );
        assert_eq!(
            pair.count(side, |e| matches!(e, Event::ChildDown { .. })),
            0
        );
    }
}

/// A08: both sides rekey a child in the same moment.
#[test]
fn both_rekeying_a_child_at_once_end_in_one() {
    let mut pair = Pair::plain();
    pair.up();
    for round in 0..8 {
        for side in [0, 1] {
            let old = pair.child(side);
            pair.sides[side]
                .endpoint
                .rekey_child(pair.now, old)
                .unwrap();
        }
        pair.run(Duration::from_secs(20));
        pair.agree(1);
        assert_eq!(pair.sides[0].endpoint.stats().children, 1, "round {round}");
    }
}

/// Point 3: phase 1 is renewed, and its children stay.
#[test]
fn isakmp_sas_are_replaced_from_either_side_and_keep_their_children() {
    for side in [0, 1] {
        let mut pair = Pair::plain();
        pair.up();
        let child = pair.child(side);
        for _ in 0..3 {
            let old = pair.ike(side);
            pair.sides[side].endpoint.rekey_ike(pair.now, old).unwrap();
            // The old one stays while something of it may have to be repeated.
            pair.run(Duration::from_secs(150));
            pair.agree(1);
            assert_ne!(pair.ike(side), old);
            assert_eq!((pair.sas(0), pair.sas(1)), (1, 1));
            assert_eq!(pair.child(side), child);
        }
        for at in [0, 1] {
            assert_eq!(pair.count(at, |e| matches!(e, Event::IkeRekeyed { .. })), 3);
            assert_eq!(pair.count(at, |e| matches!(e, Event::IkeDown { .. })), 0);
            assert_eq!(pair.count(at, |e| matches!(e, Event::ChildDown { .. })), 0);
        }
        // The children work under the new SA.
        let old = pair.child(1 - side);
        pair.sides[1 - side]
            .endpoint
            .rekey_child(pair.now, old)
            .unwrap();
        pair.run(Duration::from_secs(10));
        pair.agree(1);
    }
}

#[test]
fn rekeying_by_time_goes_on_by_itself() {
    let mut pair = Pair::new(|a, connection, _| {
        connection.rekey_time = Some(Duration::from_secs(if a { 300 } else { 900 }));
        let child = Duration::from_secs(if a { 1000 } else { 100 });
        connection.children[0].rekey_time = Some(child);
    });
    pair.up();
    pair.run(Duration::from_secs(1500));
    let children = pair.sides[0].endpoint.stats().children;
    assert!((1..=2).contains(&children), "{children}");
    assert!(pair.count(0, |e| matches!(e, Event::ChildRekeyed { .. })) >= 10);
    assert!(pair.count(0, |e| matches!(e, Event::IkeRekeyed { .. })) >= 4);
    assert_eq!(pair.count(0, |e| matches!(e, Event::ChildDown { .. })), 0);
}

#[test]
fn deletions_from_either_side_leave_nothing() {
    for side in [0, 1] {
        let mut pair = Pair::plain();
        pair.up();
        let child = pair.child(side);
        pair.sides[side]
            .endpoint
            .terminate_child(pair.now, child)
            .unwrap();
        pair.run(Duration::from_secs(10));
        pair.agree(0);
        assert_eq!(pair.sas(1 - side), 1);
        pair.initiate(side, Some("net"));
        pair.run(Duration::from_secs(10));
        pair.agree(1);
        let ike = pair.ike(side);
        pair.sides[side]
            .endpoint
            .terminate_ike(pair.now, ike)
            .unwrap();
        pair.run(Duration::from_secs(10));
        pair.agree(0);
        assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));
    }
}

/// Nothing is left of an SA that had taken over from others.
#[test]
fn a_deletion_takes_what_was_replaced_along() {
    for side in [0, 1] {
        let mut pair = Pair::plain();
        pair.up();
        let old = pair.ike(0);
        pair.sides[0].endpoint.rekey_ike(pair.now, old).unwrap();
        pair.run(Duration::from_secs(2));
        assert_eq!((pair.sas(0), pair.sas(1)), (2, 2));
        let ike = pair.ike(side);
        let endpoint = &mut pair.sides[side].endpoint;
        endpoint.terminate_ike(pair.now, ike).unwrap();
        pair.run(Duration::from_secs(2));
        pair.agree(0);
        assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));
    }
}

#[test]
fn an_installation_that_fails_makes_no_child_on_either_side() {
    for side in [0, 1] {
        let mut pair = Pair::plain();
        pair.sides[side].refuse_installs = true;
        pair.initiate(0, Some("net"));
        pair.run(Duration::from_secs(600));
        pair.agree(0);
        assert_eq!(pair.sides[0].endpoint.stats().children, 0);
        assert_eq!(pair.sides[1].endpoint.stats().children, 0);
        assert!(pair.failure(0).is_some());
    }
}

/// B56: errors are counted where they are told and where they are heard, with proof or without.
#[test]
fn errors_are_counted_by_name() {
    let mut pair = Pair::new(|a, connection, _| {
        if a {
            connection.children[0].local_ts = vec![peers::net("10.7.0.0/16")];
        }
    });
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(10));
    let counted = |pair: &Pair, side: usize| pair.sides[side].endpoint.notified().clone();
    let one = std::collections::BTreeMap::from([("INVALID-ID-INFORMATION", 1)]);
    assert_eq!(counted(&pair, 1).sent, one);
    assert_eq!(counted(&pair, 0).received, one);
    assert!(counted(&pair, 0).sent.is_empty() && counted(&pair, 1).received.is_empty());

    let mut pair = Pair::new(|a, connection, config| {
        config.retransmit_tries = 0;
        if a {
            connection.proposals = vec![Proposal::parse_ike("aes128-sha512-ecp384").unwrap()];
        }
    });
    pair.initiate(0, None);
    pair.run(Duration::from_secs(60));
    let one = std::collections::BTreeMap::from([("NO-PROPOSAL-CHOSEN", 1)]);
    assert_eq!(counted(&pair, 1).sent, one);
    assert_eq!(counted(&pair, 0).received, one);
}

/// RFC 3706: asked after silence, answered; without an answer the peer is given up.
#[test]
fn a_dead_peer_is_noticed_and_given_up() {
    let mut pair =
        Pair::new(|_, connection, _| connection.dpd_delay = Some(Duration::from_secs(10)));
    pair.up();
    pair.run(Duration::from_secs(120));
    assert_eq!((pair.sas(0), pair.sas(1)), (1, 1));
    pair.loss = 100;
    pair.run(Duration::from_secs(400));
    pair.agree(0);
    let given_up = |e: &Event| matches!(e, Event::IkeDown { reason, .. } if reason.contains("does not answer"));
    assert_eq!(pair.count(0, given_up), 1);
}

/// A11: a message lost, doubled or late delays, and breaks neither IV chain nor keys.
#[test]
fn loss_doubling_and_reordering_delay_but_never_break() {
    for seed in 1..40u64 {
        let mut pair = Pair::new(|_, _, config| {
            config.retransmit_tries = 20;
            config.retransmit_timeout = Duration::from_secs(1);
            config.retransmit_base = 1.2;
        });
        pair.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        pair.loss = 20;
        pair.initiate(0, Some("net"));
        pair.run(Duration::from_secs(100));
        pair.loss = 0;
        pair.run(Duration::from_secs(100));
        pair.agree(1);
        pair.loss = 20;
        let old = pair.child(1);
        pair.sides[1].endpoint.rekey_child(pair.now, old).unwrap();
        pair.run(Duration::from_secs(2));
        let ike = pair.ike(0);
        pair.sides[0].endpoint.rekey_ike(pair.now, ike).unwrap();
        pair.run(Duration::from_secs(100));
        pair.loss = 0;
        pair.run(Duration::from_secs(300));
        for side in &pair.sides {
            let Some(last) = side.sending.last() else {
                panic!(
                    "seed {seed}: {} has nothing to send through: {:#?}",
                    side.address,
                    pair.sides.each_ref().map(|s| &s.events)
                );
            };
            let peer = if side.address == peers::A { 1 } else { 0 };
            assert!(
                pair.sides[peer].inbound.contains_key(last),
                "seed {seed}: a black hole"
            );
        }
    }
}

/// S104 to S106: a NAT is found, and both go on from port 4500.
#[test]
fn a_nat_is_detected_and_both_float_to_4500() {
    let mut pair = Pair::new(|a, connection, _| {
        if !a {
            connection.remote_addrs = vec![AddressPattern::Any];
        }
    });
    pair.nat = true;
    pair.up();
    for (at, side) in pair.sides.iter().enumerate() {
        let sa = side.offered.values().next().unwrap();
        assert!(sa.udp_encap);
        assert_eq!(sa.path.local.port(), 4500);
        let ike = side.endpoint.ike_sas().next().unwrap();
        assert_eq!((ike.nat_local, ike.nat_remote), (at == 0, at == 1));
    }
    let child = pair.child(1);
    pair.sides[1].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(Duration::from_secs(10));
    pair.agree(1);
}

/// Who asks for it gets UDP without a NAT, too.
#[test]
fn encapsulation_can_be_forced() {
    let mut pair = Pair::new(|a, connection, _| connection.encap = a);
    pair.up();
    assert!(
        pair.sides
            .iter()
            .all(|s| s.offered.values().all(|sa| sa.udp_encap))
    );
}

/// A08: a child that is there is asked for once more: the responder takes that for a rekeying, and the
/// initiator sees it the same way.
#[test]
fn a_child_that_is_asked_for_again_is_replaced_on_both_sides() {
    for _ in 0..8 {
        let mut pair = Pair::plain();
        pair.up();
        for side in [0, 1, 0] {
            pair.initiate(side, Some("net"));
            pair.run(Duration::from_secs(30));
            pair.agree(1);
        }
    }
}

/// A08: a quick mode that was begun at the same time as the peer's, and heard of by the peer only when
/// that one had ended: to the peer it takes over, to us one of the two has lost.
#[test]
fn a_quick_mode_that_comes_late_leaves_one_child() {
    for _ in 0..16 {
        let mut pair = Pair::plain();
        pair.initiate(0, None);
        pair.run(Duration::from_secs(5));
        pair.initiate(0, Some("net"));
        pair.flush();
        pair.wire.clear();
        pair.initiate(1, Some("net"));
        pair.run(Duration::from_secs(60));
        pair.agree(1);
    }
}

/// A08: rekeyings of a child that either end begins at any distance from the other's end with one child, which both
/// send through, and nothing is told to have gone.
#[test]
fn rekeyings_of_a_child_at_any_distance_end_in_one() {
    for distance in 0..=1050 {
        if distance > 60 && distance % 45 != 0 {
            continue;
        }
        for first in [0, 1] {
            let mut pair = Pair::plain();
            pair.up();
            for (at, side) in [(0, first), (distance, 1 - first)] {
                pair.run(Duration::from_millis(at));
                let old = pair.child(side);
                let _ = pair.sides[side].endpoint.rekey_child(pair.now, old);
            }
            pair.run(Duration::from_secs(60));
            pair.agree(1);
            for side in [0, 1] {
                let gone = pair.count(side, |e| matches!(e, Event::ChildDown { .. }));
                assert_eq!(gone, 0, "{distance} ms, {first} first, side {side}");
            }
        }
    }
}
