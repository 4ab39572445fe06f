// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every exchange between two endpoints in memory.
#![allow(clippy::unwrap_used)]

mod peers;

use std::net::SocketAddr;
use std::time::Duration;

use ikev2d_proto::config::*;
use ikev2d_proto::event::*;
use ikev2d_proto::proposal::Proposal;
use zeroize::Zeroizing;

use peers::Pair;

/// S1 to S4, S6, S9, S11, S12, S17, S27, S57, S58, B35: parameters, authentication, keys and SAs of both, in
/// four messages.
#[test]
fn a_tunnel_is_negotiated_in_four_messages() {
    let mut pair = Pair::plain();
    pair.up();
    assert_eq!(pair.recorded.len(), 4);
    let sa = &pair.sides[0].offered.values().next().unwrap();
    assert!(sa.suite.esn && sa.suite.group.is_none() && !sa.udp_encap);
    assert_eq!(pair.count(1, |e| matches!(e, Event::ChildUp { .. })), 1);
}

/// B47, B49, B50, B51: ciphers, integrity, PRFs and groups of IKE, with those of ESP.
#[test]
fn every_suite_and_group_works() {
    for ike in [
        "aes128gcm16-prfsha256-ecp256",
        "aes256-sha384-ecp384",
        "aes128-sha256-modp2048",
        "chacha20poly1305-prfsha512-ecp521",
        "aes192-sha512-modp3072",
        "3des-sha1-modp1024",
        "aes128gcm8-prfsha256-ecp256",
        "aes192gcm12-prfsha384-x25519",
        "aes256ccm16-prfsha512-x25519",
        "aes128ccm8-prfsha256-ecp256",
        "aes128-sha256-ecp256bp",
        "aes128gcm16-prfsha1-ecp384bp",
        "aes256-sha512-ecp512bp",
        "aes256-sha1-modp1536",
        "aes128-aesxcbc-x25519",
        "aes256-aescmac-ecp256",
        "aes128gcm16-prfaesxcbc-x25519",
        "aes128-sha256-prfaescmac-x25519",
    ] {
        for esp in [
            "aes256gcm16",
            "aes256-sha512",
            "chacha20poly1305-esn",
            "null-sha256",
            "3des-sha1",
            "aes256ccm12",
            "aes192gcm16",
            "aes128-aesxcbc",
            "null-aescmac-esn",
            "aes128gmac",
            "aes192gmac-esn",
            "aes256gmac",
        ] {
            let mut pair = Pair::new(|_, connection, _| {
                connection.proposals = vec![Proposal::parse_ike(ike).unwrap()];
                connection.children[0].esp_proposals = vec![Proposal::parse_esp(esp).unwrap()];
            });
            pair.up();
        }
    }
}

/// S13, B4: cookies, asked for under load and sent back.
#[test]
fn cookies_are_asked_for_under_load_and_sent_back() {
    let mut pair = Pair::new(|_, _, config| config.cookie_threshold = 0);
    pair.up();
    assert_eq!(pair.recorded.len(), 6);
    assert_eq!(pair.sides[1].endpoint.stats().cookies, 1);
}

/// B2: INVALID_KE_PAYLOAD: the group that the responder names is taken.
#[test]
fn the_responders_group_is_taken_after_invalid_ke() {
    let mut pair = Pair::new(|a, connection, _| {
        let text = if a {
            "aes128gcm16-prfsha256-x25519-ecp256"
        } else {
            "aes128gcm16-prfsha256-ecp256"
        };
        connection.proposals = vec![Proposal::parse_ike(text).unwrap()];
    });
    pair.up();
    assert_eq!(pair.recorded.len(), 6);
}

#[test]
fn a_wrong_secret_is_refused_on_both_sides_and_leaves_nothing() {
    let mut pair = Pair::plain();
    let other = Secret {
        ids: vec![],
        secret: Zeroizing::new(b"wrong".to_vec()),
    };
    pair.sides[1].endpoint.set_secrets(vec![other]);
    pair.sides[0]
        .endpoint
        .initiate(pair.now, "gw", Some("net"), None)
        .unwrap();
    pair.run(Duration::from_secs(60));
    pair.agree(0);
    assert_eq!(pair.sides[1].endpoint.stats().auth_failures, 1);
    let told = |event: &Event| matches!(event, Event::InitiateFailed { reason, .. } if reason.contains("AUTHENTICATION_FAILED"));
    assert_eq!(pair.count(0, told), 1);
    assert_eq!(
        pair.sides[0].endpoint.ike_sas().count() + pair.sides[1].endpoint.ike_sas().count(),
        0
    );
}

#[test]
fn a_proposal_that_fits_nothing_is_told() {
    let mut pair = Pair::new(|a, connection, _| {
        let text = if a {
            "aes128gcm16-prfsha256-x25519"
        } else {
            "aes256gcm16-prfsha256-x25519"
        };
        connection.proposals = vec![Proposal::parse_ike(text).unwrap()];
    });
    pair.sides[0]
        .endpoint
        .initiate(pair.now, "gw", None, None)
        .unwrap();
    // Asked once more, and no longer.
    pair.run(Duration::from_secs(12));
    let told = |event: &Event| matches!(event, Event::InitiateFailed { reason, .. } if reason.contains("NO_PROPOSAL_CHOSEN"));
    assert_eq!(pair.count(0, told), 1);
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
    }
}

#[test]
fn a_new_outbound_sa_is_used_only_when_the_peer_has_its_inbound() {
    // Whenever a side starts to send through an SA, the other must have it.
    let mut pair = Pair::plain();
    pair.up();
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    for _ in 0..100 {
        pair.run(Duration::from_millis(5));
        let [a, b] = &pair.sides;
        for (from, to) in [(a, b), (b, a)] {
            let newest = from
                .outbound
                .iter()
                .max_by_key(|(_, (id, _))| *id)
                .unwrap()
                .0;
            assert!(
                to.inbound.contains_key(newest),
                "{} sends into the void",
                from.address
            );
        }
    }
}

#[test]
fn ike_sas_are_rekeyed_from_either_side_and_keep_their_children() {
    for side in [0, 1] {
        let mut pair = Pair::plain();
        pair.up();
        for _ in 0..3 {
            let old = pair.ike(side);
            pair.sides[side].endpoint.rekey_ike(pair.now, old).unwrap();
            pair.run(Duration::from_secs(10));
            pair.agree(1);
            assert_ne!(pair.ike(side), old);
            for side in &pair.sides {
                assert_eq!(side.endpoint.ike_sas().count(), 1);
            }
            // The children work under the new SA.
            let child = pair.child(1 - side);
            pair.sides[1 - side]
                .endpoint
                .rekey_child(pair.now, child)
                .unwrap();
            pair.run(Duration::from_secs(10));
            pair.agree(1);
        }
    }
}

#[test]
fn both_rekeying_at_once_end_in_one_sa() {
    let mut pair = Pair::plain();
    pair.up();
    for what in ["child", "ike", "both"] {
        for side in [0, 1] {
            let (ike, child) = (pair.ike(side), pair.child(side));
            let endpoint = &mut pair.sides[side].endpoint;
            if what != "ike" {
                endpoint.rekey_child(pair.now, child).unwrap();
            }
            if what != "child" {
                endpoint.rekey_ike(pair.now, ike).unwrap();
            }
        }
        pair.run(Duration::from_secs(60));
        pair.agree(1);
        for side in &pair.sides {
            assert_eq!(side.endpoint.ike_sas().count(), 1, "{what}");
        }
    }
}

/// S48, S53, S59a: another child on the same IKE SA, with a key exchange of its own.
#[test]
fn further_children_are_made_on_the_same_ike_sa_with_pfs() {
    let mut pair = Pair::plain();
    pair.up();
    pair.sides[0]
        .endpoint
        .initiate(pair.now, "gw", Some("pfs"), None)
        .unwrap();
    pair.run(Duration::from_secs(10));
    pair.agree(2);
    assert_eq!(pair.sides[0].endpoint.ike_sas().count(), 1);
}

/// RFC 7296 §1.3: INVALID_KE_PAYLOAD names the group of the proposal that is chosen, whatever other
/// children are configured with.
#[test]
fn the_group_that_a_child_is_to_have_is_named() {
    let mut pair = Pair::new(|a, connection, _| {
        let text = match a {
            true => "aes128gcm16-ecp384-ecp256",
            false => "aes128gcm16-x25519-ecp256",
        };
        connection.children[1].esp_proposals = vec![Proposal::parse_esp(text).unwrap()];
    });
    pair.up();
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("pfs"), None).unwrap();
    pair.run(Duration::from_secs(10));
    pair.agree(2);
}

/// RFC 7296 §1.3: a key exchange that the chosen proposal has no group for is left alone.
#[test]
fn a_child_is_made_without_a_key_exchange_where_that_is_chosen() {
    let mut pair = Pair::new(|a, connection, _| {
        let texts: &[&str] = match a {
            true => &["aes128gcm16-ecp256", "aes256gcm16"],
            false => &["aes256gcm16"],
        };
        let proposals = texts.iter().map(|text| Proposal::parse_esp(text).unwrap());
        connection.children[1].esp_proposals = proposals.collect();
    });
    pair.up();
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("pfs"), None).unwrap();
    pair.run(Duration::from_secs(10));
    pair.agree(2);
}

/// S59b: a child SA, then its IKE SA, deleted by either side or both.
#[test]
fn deletions_from_either_side_and_from_both_leave_nothing() {
    for sides in [&[0usize][..], &[1], &[0, 1]] {
        let mut pair = Pair::plain();
        pair.up();
        for side in sides {
            let child = pair.child(*side);
            pair.sides[*side]
                .endpoint
                .terminate_child(pair.now, child)
                .unwrap();
        }
        pair.run(Duration::from_secs(10));
        pair.agree(0);
        assert_eq!(pair.sides[0].endpoint.ike_sas().count(), 1);
        for side in sides {
            let ike = pair.ike(*side);
            pair.sides[*side]
                .endpoint
                .terminate_ike(pair.now, ike)
                .unwrap();
        }
        pair.run(Duration::from_secs(10));
        for side in &pair.sides {
            assert_eq!(side.endpoint.ike_sas().count(), 0);
        }
    }
}

#[test]
fn an_installation_that_fails_makes_no_child_on_either_side() {
    for side in [0, 1] {
        let mut pair = Pair::plain();
        pair.sides[side].refuse_installs = true;
        pair.sides[0]
            .endpoint
            .initiate(pair.now, "gw", Some("net"), None)
            .unwrap();
        pair.run(Duration::from_secs(10));
        pair.sides[0].outbound.clear();
        pair.agree(0);
        assert_eq!(pair.sides[1].endpoint.stats().established, 1);
        assert_eq!(pair.sides[1].endpoint.stats().children, 0);
    }
}

/// S104, S106: a NAT is detected, and both ends go to port 4500 with UDP around ESP.
#[test]
fn a_nat_is_detected_and_both_float_to_4500() {
    let mut pair = Pair::new(|a, connection, _| connection.encap = a);
    pair.up();
    for side in &pair.sides {
        let sa = side.offered.values().next().unwrap();
        assert!(sa.udp_encap);
        assert_eq!((sa.path.local.port(), sa.path.remote.port()), (4500, 4500));
    }
    assert!(pair.sides[1].endpoint.ike_sas().next().unwrap().nat_remote);
}

/// S107: who is behind the NAT sends an octet each twenty seconds when there is nothing else to say, and who is
/// not sends none (RFC 7296 §2.23, RFC 3948 §2.3); nor does anybody without a NAT.
#[test]
fn who_is_behind_a_nat_keeps_its_mapping() {
    for nat in [true, false] {
        let mut pair = Pair::new(|a, connection, _| {
            if !a {
                connection.remote_addrs = vec![AddressPattern::Any];
            }
        });
        pair.nat = nat;
        pair.up();
        let [own, peer] = [0, 1].map(|at| pair.sides[at].endpoint.ike_sas().next().unwrap());
        assert_eq!((own.nat_local, own.nat_remote), (nat, false));
        assert_eq!((peer.nat_local, peer.nat_remote), (false, nat));
        // What goes before is heard already, and is on the wire no more.
        pair.run(Duration::from_secs(1));
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
        let wanted = if nat { 14..=16 } else { 0..=0 };
        assert!(wanted.contains(&sent[0]) && sent[1] == 0, "{nat}: {sent:?}");
    }
}

#[test]
fn an_authenticated_message_from_another_port_moves_the_path_and_a_forged_one_does_not() {
    let mut pair = Pair::new(|a, connection, _| connection.encap = a);
    pair.up();
    let moved: SocketAddr = "192.0.2.1:61000".parse().unwrap();
    let path = Path::new("192.0.2.2:4500".parse().unwrap(), moved);
    let ike = pair.ike(0);
    pair.sides[0]
        .endpoint
        .check_liveness(pair.now, ike)
        .unwrap();
    let message = pair.sides[0].endpoint.poll_transmit().unwrap().payload;
    let mut forged = message.clone();
    *forged.last_mut().unwrap() ^= 1;
    pair.sides[1]
        .endpoint
        .handle_datagram(pair.now, path, &forged);
    assert_ne!(
        pair.sides[1].endpoint.ike_sas().next().unwrap().path.remote,
        moved
    );
    pair.sides[1]
        .endpoint
        .handle_datagram(pair.now, path, &message);
    assert_eq!(
        pair.sides[1].endpoint.ike_sas().next().unwrap().path.remote,
        moved
    );
}

/// S59b, B44: who does not answer is given up.
#[test]
fn a_dead_peer_is_noticed_and_given_up() {
    let mut pair =
        Pair::new(|_, connection, _| connection.dpd_delay = Some(Duration::from_secs(10)));
    pair.up();
    pair.loss = 100;
    pair.run(Duration::from_secs(400));
    pair.agree(0);
    assert_eq!(
        pair.count(
            0,
            |e| matches!(e, Event::IkeDown { reason, .. } if reason.contains("does not answer"))
        ),
        1
    );
}

/// RFC 7296 §2.4: only what is new shows that a peer lives. Anybody can say again what it said once.
#[test]
fn recorded_messages_keep_no_dead_peer_alive() {
    let mut pair =
        Pair::new(|_, connection, _| connection.dpd_delay = Some(Duration::from_secs(10)));
    pair.up();
    let mut recorded = Vec::new();
    let end = pair.now + Duration::from_secs(60);
    loop {
        pair.flush();
        let to_a = pair.wire.iter().filter(|(_, side, ..)| *side == 0);
        recorded.extend(to_a.map(|(_, _, path, octets)| (*path, octets.clone())));
        if !pair.wire.is_empty() {
            pair.deliver(0);
        } else if !pair.advance(end) {
            break;
        }
    }
    assert!(recorded.len() >= 2, "{}", recorded.len());
    pair.loss = 100;
    for _ in 0..100 {
        for (path, octets) in &recorded {
            pair.sides[0]
                .endpoint
                .handle_datagram(pair.now, *path, octets);
        }
        pair.run(Duration::from_secs(4));
    }
    assert_eq!(pair.sides[0].endpoint.ike_sas().count(), 0);
}

/// S14 to S16: numbers, answers, and the initiator's retransmissions.
#[test]
fn loss_and_duplication_delay_but_never_break() {
    for seed in 1..30u64 {
        // So many tries that giving up by bad luck is out of the question.
        let mut pair = Pair::new(|_, _, config| {
            config.retransmit_tries = 20;
            config.retransmit_timeout = Duration::from_secs(1);
            config.retransmit_base = 1.2;
        });
        pair.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        pair.loss = 20;
        pair.sides[0]
            .endpoint
            .initiate(pair.now, "gw", Some("net"), None)
            .unwrap();
        pair.run(Duration::from_secs(120));
        pair.agree(1);
        let child = pair.child(1);
        pair.sides[1].endpoint.rekey_child(pair.now, child).unwrap();
        let ike = pair.ike(0);
        pair.sides[0].endpoint.rekey_ike(pair.now, ike).unwrap();
        pair.run(Duration::from_secs(300));
        pair.agree(1);
    }
}

/// The first of these seeds has a rekeying under way when time is up.
#[test]
fn rekeying_by_time_goes_on_by_itself() {
    for seed in [1011, 1] {
        let mut pair = Pair::seeded(seed, |a, connection, _| {
            connection.rekey_time = Some(Duration::from_secs(if a { 300 } else { 900 }));
            let of_child = Duration::from_secs(if a { 1000 } else { 100 });
            connection.children[0].rekey_time = Some(of_child);
        });
        pair.up();
        pair.run(Duration::from_secs(1500));
        pair.settle(1);
        assert!(pair.count(0, |e| matches!(e, Event::ChildRekeyed { .. })) >= 10);
        assert!(pair.count(0, |e| matches!(e, Event::IkeRekeyed { .. })) >= 4);
    }
}

/// I01, S13, B4: messages that are cut anywhere, with lengths that lie or fit, and with any bit changed: no SA,
/// no long answer, and few half-open.
#[test]
fn garbage_makes_no_sa_and_breaks_nothing() {
    let mut pair = Pair::plain();
    pair.up();
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(Duration::from_secs(10));
    let path = Path::new(
        "192.0.2.2:500".parse().unwrap(),
        "192.0.2.1:500".parse().unwrap(),
    );
    for message in pair.recorded.clone() {
        let mut fresh = Pair::plain();
        for len in 0..message.len() {
            let mut cut = message[..len].to_vec();
            for side in [&mut fresh.sides[1], &mut pair.sides[1]] {
                side.endpoint.handle_datagram(pair.now, path, &cut);
            }
            if len >= 28 {
                // With a length field that fits, so that the parser goes deeper.
                cut[24..28].copy_from_slice(&(len as u32).to_be_bytes());
                fresh.sides[1]
                    .endpoint
                    .handle_datagram(pair.now, path, &cut);
            }
        }
        for bit in 0..message.len() * 8 {
            let mut bad = message.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            for side in [&mut fresh.sides[1], &mut pair.sides[1]] {
                side.endpoint.handle_datagram(pair.now, path, &bad);
                while let Some(transmit) = side.endpoint.poll_transmit() {
                    assert!(transmit.payload.len() <= 3 * bad.len());
                }
            }
        }
        assert_eq!(fresh.sides[1].endpoint.stats().children, 0);
        assert_eq!(fresh.sides[1].endpoint.stats().established, 0);
        assert!(fresh.sides[1].endpoint.stats().half_open <= 64);
    }
    assert_eq!(pair.sides[1].endpoint.stats().children, 1);
}
