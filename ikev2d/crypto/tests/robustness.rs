// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What neither forgers nor failures of our own may break.
#![allow(clippy::unwrap_used)]

mod peers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ikev2d_proto::config::*;
use ikev2d_proto::endpoint::{Endpoint, Verdict};
use ikev2d_proto::event::*;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::wire::notify;
use tracing_subscriber::filter::LevelFilter;
use zeroize::Zeroizing;

use peers::Pair;
use peers::seeded::SeededCrypto;
use peers::strangers::{forged, logged};

/// A10, RFC 7296 §2.21.1: nobody is authenticated yet, so what an error says is not acted on at once.
#[test]
fn a_forged_refusal_of_the_first_message_stops_nothing() {
    for kind in [
        notify::NO_PROPOSAL_CHOSEN,
        notify::INVALID_SYNTAX,
        notify::AUTHENTICATION_FAILED,
        notify::UNSUPPORTED_CRITICAL_PAYLOAD,
    ] {
        let mut pair = Pair::seeded(3, |_, _, _| {});
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.initiate(now, "gw", Some("net"), None).unwrap();
        pair.flush();
        let request = pair.recorded[0].clone();
        let path = Path::new(
            "192.0.2.1:500".parse().unwrap(),
            "192.0.2.2:500".parse().unwrap(),
        );
        for _ in 0..3 {
            let message = forged(&request, kind, &[]);
            let endpoint = &mut pair.sides[0].endpoint;
            endpoint.handle_datagram(now, path, &message);
        }
        pair.run(Duration::from_secs(5));
        pair.agree(1);
        let doubted = pair.count(0, |e| matches!(e, Event::Doubted { .. }));
        assert_eq!(doubted, 1, "{kind}");
    }
}

/// S13: a cookie that was gathered is not good for ever.
#[test]
fn cookies_are_good_for_a_minute_at_most() {
    for (age, good) in [
        (0, true),
        (29, true),
        (59, true),
        (61, false),
        (3600, false),
    ] {
        let mut pair = Pair::seeded(3, |_, _, config| config.cookie_threshold = 0);
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.initiate(now, "gw", Some("net"), None).unwrap();
        // Request, cookie, request with the cookie.
        for _ in 0..2 {
            pair.flush();
            pair.deliver(0);
        }
        pair.flush();
        let (_, _, path, with_cookie) = pair.wire.pop_front().unwrap();
        // Somebody keeps the secrets turning.
        for step in 1..=age / 10 {
            let later = now + Duration::from_secs(step * 10);
            let other = Path {
                remote: "203.0.113.9:500".parse().unwrap(),
                ..path
            };
            let first = pair.recorded[0].clone();
            pair.sides[1].endpoint.handle_datagram(later, other, &first);
        }
        let later = now + Duration::from_secs(age);
        pair.sides[1]
            .endpoint
            .handle_datagram(later, path, &with_cookie);
        let half_open = pair.sides[1].endpoint.stats().half_open;
        assert_eq!(half_open == 1, good, "{age} s");
    }
}

/// S13: what asks for cookies in the endpoint's place gives those that it takes, and keeps from it what
/// nobody could answer.
#[test]
fn the_gate_and_the_endpoint_are_of_one_mind() {
    let mut pair = Pair::seeded(3, |_, _, config| config.cookie_threshold = 0);
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    let first = endpoint.poll_transmit().unwrap();
    let (gate, remote) = (pair.sides[1].endpoint.gate(), first.path.local.ip());
    let mut reply = Vec::new();
    let mut meet = |message: &[u8]| (gate.meet(now, remote, message, &mut reply), reply.clone());
    for len in 28..first.payload.len() {
        let mut cut = first.payload[..len].to_vec();
        assert_eq!(
            meet(&cut).0,
            Verdict::Passes,
            "{len}: the header has another length"
        );
        cut[24..28].copy_from_slice(&(len as u32).to_be_bytes());
        let (verdict, reply) = meet(&cut);
        // Cut between two payloads it may have all that is needed.
        let whole = verdict == Verdict::Answered;
        assert_eq!(whole, !reply.is_empty(), "{len}");
        assert!(whole || verdict == Verdict::Dropped, "{len}: {verdict:?}");
    }
    let (verdict, cookie) = meet(&first.payload);
    assert_eq!(verdict, Verdict::Answered);
    let path = first.path;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.handle_datagram(now, path, &cookie);
    let second = endpoint.poll_transmit().unwrap();
    assert_eq!(meet(&second.payload), (Verdict::Passes, Vec::new()));
    let mut foreign = second.payload.clone();
    foreign[0] ^= 1;
    assert_eq!(meet(&foreign).0, Verdict::Answered);
    let path = path.turned();
    let responder = &mut pair.sides[1].endpoint;
    responder.handle_datagram(now, path, &second.payload);
    assert_eq!(responder.stats().half_open, 1);
    assert!(responder.stats().malformed > 0);
}

/// S13: cookies are asked for from the moment on that a peer's answer was lost. With one it begins anew,
/// instead of waiting until it is forgotten.
#[test]
fn who_was_half_open_before_cookies_were_asked_for_gets_in() {
    let mut pair = Pair::seeded(3, |_, _, config| config.cookie_threshold = 1);
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    pair.flush();
    pair.deliver(0);
    pair.flush();
    // The answer is lost, and what the peer sends again meets the gate.
    pair.wire.clear();
    let first = pair.recorded[0].clone();
    let gate = pair.sides[1].endpoint.gate();
    let mut cookie = Vec::new();
    let (a, b) = (pair.sides[0].address, pair.sides[1].address);
    let path = Path::new(
        SocketAddr::new(a.parse().unwrap(), 500),
        SocketAddr::new(b.parse().unwrap(), 500),
    );
    let verdict = gate.meet(now, path.local.ip(), &first, &mut cookie);
    assert_eq!(verdict, Verdict::Answered);
    pair.sides[0].endpoint.handle_datagram(now, path, &cookie);
    pair.run(Duration::from_secs(2));
    pair.agree(1);
    assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
}

/// S13: a host with a whole IPv6 network counts as one.
#[test]
fn an_ipv6_network_is_one_peer_to_the_half_open_limit() {
    let mut pair = Pair::seeded(3, |_, connection, config| {
        config.half_open_per_address = 4;
        (connection.local_addrs, connection.remote_addrs) = (vec![], vec![]);
    });
    for host in 0..20_u64 {
        let path = Path {
            local: "[2001:db8::1]:500".parse().unwrap(),
            remote: format!("[2001:db8:7:7:{host:x}::9]:500").parse().unwrap(),
            stream: None,
        };
        let mut other = Pair::seeded(host + 50, |_, _, _| {});
        let endpoint = &mut other.sides[0].endpoint;
        endpoint.initiate(pair.now, "gw", None, None).unwrap();
        let message = endpoint.poll_transmit().unwrap().payload;
        let now = pair.now;
        pair.sides[1].endpoint.handle_datagram(now, path, &message);
    }
    let stats = pair.sides[1].endpoint.stats();
    assert_eq!((stats.half_open, stats.cookies), (4, 16));
}

/// RFC 4301 §4.1: a packet names its SA by nothing else, whatever IKE SA that is of.
#[test]
fn an_inbound_spi_is_never_two_children_s() {
    let mut pair = Pair::seeded(3, |_, _, _| {});
    let crypto = Arc::new(SeededCrypto::with_few_spis(9));
    let mut endpoint = Endpoint::new(EndpointConfig::default(), crypto);
    let connection = Connection {
        unique: Unique::Never,
        ..peers::connection(false)
    };
    endpoint.set_connections(vec![connection.into()]);
    endpoint.set_secrets(vec![Secret {
        ids: vec![],
        secret: Zeroizing::new(b"correct horse".to_vec()),
    }]);
    pair.sides[1].endpoint = endpoint;
    let second = Connection {
        name: "second".to_owned(),
        ..peers::connection(true)
    };
    let both = vec![peers::connection(true).into(), second.into()];
    pair.sides[0].endpoint.set_connections(both);
    for connection in ["gw", "second"] {
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint
            .initiate(now, connection, Some("net"), None)
            .unwrap();
        pair.run(Duration::from_secs(20));
    }
    // `Pair` itself refuses an SPI that is there already.
    pair.agree(2);
}

/// A rekeying whose new SA our own engine refuses leaves the old one at work on both sides.
#[test]
fn a_failed_installation_while_we_rekey_keeps_the_child() {
    let mut pair = Pair::seeded(3, |_, _, _| {});
    pair.up();
    let (now, child) = (pair.now, pair.child(0));
    pair.sides[0].refuse_installs = true;
    pair.sides[0].endpoint.rekey_child(now, child).unwrap();
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.child(0), child);
    pair.agree(1);
    pair.assert_no_black_hole("a failed rekeying");
    assert_eq!(pair.count(0, |e| matches!(e, Event::ChildDown { .. })), 0);
    // It is tried again, and succeeds where the engine has room.
    pair.sides[0].refuse_installs = false;
    pair.run(Duration::from_secs(30));
    assert_ne!(pair.child(0), child);
    pair.agree(1);
}

/// RFC 7296 §1.3: a peer that asks for child SAs without end is told that there are no more; those that it
/// has are rekeyed as ever.
#[test]
fn one_peer_holds_a_bounded_number_of_children() {
    let mut pair = Pair::seeded(4, |_, _, _| {});
    pair.up();
    let held = |pair: &Pair, side: usize| {
        let sa = pair.sides[side].endpoint.ike_sas().next().unwrap();
        sa.children.len()
    };
    for _ in 0..80 {
        pair.initiate();
        pair.run(Duration::from_secs(2));
    }
    assert_eq!((held(&pair, 0), held(&pair, 1)), (64, 64));
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(Duration::from_secs(5));
    assert_eq!((held(&pair, 0), held(&pair, 1)), (64, 64));
    assert_ne!(pair.child(0), child, "it was rekeyed");
}

/// B14: the one that began the first IKE SA moves, whoever has rekeyed it since (RFC 4555 §2).
#[test]
fn the_original_initiator_moves_after_the_responder_has_rekeyed() {
    let mut pair = Pair::seeded(8, |a, connection, _| {
        connection.mobike = true;
        if !a {
            connection.remote_addrs.clear();
        } else {
            let more = AddressPattern::Prefix("198.51.100.9".parse().unwrap(), 32);
            connection.local_addrs.push(more);
        }
    });
    pair.up();
    let (now, ike) = (pair.now, pair.ike(1));
    pair.sides[1].endpoint.rekey_ike(now, ike).unwrap();
    pair.run(Duration::from_secs(5));
    let (now, ikes) = (pair.now, [pair.ike(0), pair.ike(1)]);
    let new = "198.51.100.9".parse().unwrap();
    let moves = |side: usize| pair.sides[side].endpoint.ike_sas().next().unwrap().moves;
    assert_eq!((moves(0), moves(1)), (true, false));
    assert!(!pair.sides[1].endpoint.move_to(now, ikes[1], new).unwrap());
    assert!(pair.sides[0].endpoint.move_to(now, ikes[0], new).unwrap());
    pair.run(Duration::from_secs(5));
    let sa = pair.sides[1].endpoint.ike_sas().next().unwrap();
    assert_eq!(sa.path.remote.ip(), new);
    pair.agree(1);
}

/// B14, A09: nobody moves out of what the configuration allows.
#[test]
fn a_move_stays_within_the_configured_addresses() {
    let new = "198.51.100.9".parse().unwrap();
    // Ours.
    let mut pair = Pair::seeded(8, |_, connection, _| connection.mobike = true);
    pair.up();
    let (now, ike) = (pair.now, pair.ike(0));
    assert!(!pair.sides[0].endpoint.move_to(now, ike, new).unwrap());
    // The peer's.
    let mut pair = Pair::seeded(8, |a, connection, _| {
        connection.mobike = true;
        if a {
            let more = AddressPattern::Prefix(new, 32);
            connection.local_addrs.push(more);
        }
    });
    pair.up();
    let before = pair.sides[1].endpoint.ike_sas().next().unwrap().path;
    let (now, ike) = (pair.now, pair.ike(0));
    assert!(pair.sides[0].endpoint.move_to(now, ike, new).unwrap());
    pair.run(Duration::from_secs(5));
    let sa = pair.sides[1].endpoint.ike_sas().next().unwrap();
    assert_eq!(sa.path, before);
    assert_eq!(sa.children[0].sa.path, before);
}

/// RFC 7296 §2.23, A09: ESP moves a peer that is behind a NAT, and no other.
#[test]
fn esp_moves_only_a_peer_behind_a_nat() {
    let port: SocketAddr = "192.0.2.1:61000".parse().unwrap();
    let address: SocketAddr = "198.51.100.7:4500".parse().unwrap();
    for (nat, mobike, to_port, to_address) in [
        (false, false, false, false),
        (true, false, true, true),
        // It says so itself when it moves (RFC 4555).
        (true, true, true, false),
        (false, true, false, false),
    ] {
        let mut pair = Pair::seeded(8, |a, connection, _| {
            connection.encap = a && nat;
            connection.mobike = mobike;
        });
        pair.up();
        for (to, expected) in [(address, to_address), (port, to_port)] {
            let (now, child) = (pair.now, pair.child(1));
            let endpoint = &mut pair.sides[1].endpoint;
            let moved = endpoint.peer_moved(now, child, to).unwrap();
            assert_eq!(moved, expected, "NAT {nat}, MOBIKE {mobike}, {to}");
            let sa = endpoint.ike_sas().next().unwrap();
            assert_eq!(sa.path.remote == to, expected);
            assert_eq!(sa.children[0].sa.path.remote == to, expected);
        }
    }
}

/// A hard lifetime ends a child, on both sides; a rekeying that is under way still succeeds.
#[test]
fn a_hard_lifetime_ends_a_child_at_once() {
    let mut pair = Pair::seeded(8, |_, _, _| {});
    pair.up();
    let (now, child) = (pair.now, pair.child(0));
    pair.sides[0].endpoint.child_expired(now, child).unwrap();
    pair.run(Duration::from_secs(5));
    pair.agree(0);
    let why = |e: &Event| matches!(e, Event::ChildDown { reason, .. } if reason == reason::EXPIRED);
    assert_eq!(pair.count(0, why), 1);
    assert_eq!(pair.count(0, |e| matches!(e, Event::ChildDown { .. })), 1);
    let mut pair = Pair::seeded(8, |_, _, _| {});
    pair.up();
    let (now, child) = (pair.now, pair.child(0));
    pair.sides[0].endpoint.rekey_child(now, child).unwrap();
    pair.sides[0].endpoint.child_expired(now, child).unwrap();
    pair.run(Duration::from_secs(5));
    pair.agree(1);
    assert_ne!(pair.child(0), child);
    assert_eq!(pair.count(0, why), 0);
}

/// S90, RFC 7296 §2.9: what is narrowed away, but another child of ours would cover, is told.
#[test]
fn more_selectors_are_possible_where_another_child_covers_them() {
    for (second, more) in [
        ("10.2.64.0/18", true),
        // Within the first already, or nothing of what was asked for.
        ("10.2.0.0/20", false),
        ("10.3.0.0/16", false),
    ] {
        let mut pair = Pair::seeded(8, |a, connection, _| {
            if !a {
                let mut other = connection.children[0].clone();
                other.name = "other".to_owned();
                other.local_ts = vec![peers::net(second)];
                connection.children[0].local_ts = vec![peers::net("10.2.0.0/18")];
                connection.children.truncate(1);
                connection.children.push(other);
            }
        });
        let now = pair.now;
        pair.sides[0]
            .endpoint
            .initiate(now, "gw", Some("net"), None)
            .unwrap();
        pair.run(Duration::from_secs(5));
        // Which is then asked for.
        pair.agree(1 + usize::from(more));
        let sa = pair.sides[0].endpoint.ike_sas().next().unwrap();
        assert_eq!(sa.children[0].more_possible, more, "{second}");
    }
}

/// P05: a flood of first messages that fit nothing is a line a second, which says what was not said.
#[test]
fn a_flood_of_misfits_fills_no_log() {
    let mut pair = Pair::new(|a, connection, _| {
        if a {
            let other = Proposal::parse_ike("aes128gcm16-prfsha256-ecp256").unwrap();
            connection.proposals = vec![other];
        }
    });
    let now = pair.now;
    pair.sides[0]
        .endpoint
        .initiate(now, "gw", Some("net"), None)
        .unwrap();
    pair.flush();
    let (_, _, path, message) = pair.wire.pop_front().unwrap();
    let text = logged(LevelFilter::INFO, || {
        for n in 0..2500 {
            let now = now + Duration::from_millis(n);
            pair.sides[1].endpoint.handle_datagram(now, path, &message);
        }
    });
    let text = String::from_utf8(text).unwrap();
    let said: Vec<&str> = text
        .lines()
        .filter(|l| l.contains("no connection or proposal fits"))
        .collect();
    assert_eq!(said.len(), 3, "{text}");
    for (line, unsaid) in said.iter().zip(["unsaid=0", "unsaid=999", "unsaid=999"]) {
        assert!(line.contains(unsaid), "{line}");
    }
}

/// S109: what one peer has on a connection holds nothing up that another one sets up.
#[test]
fn peers_that_share_a_connection_do_not_wait_for_each_other() {
    let mut pair = Pair::seeded(8, |a, connection, _| {
        if !a {
            connection.remote_id = Identity::Any;
        }
    });
    let second = Connection {
        name: "second".to_owned(),
        local_id: Identity::parse("c.test"),
        ..peers::connection(true)
    };
    let both = vec![peers::connection(true).into(), second.into()];
    pair.sides[0].endpoint.set_connections(both);
    for name in ["gw", "second"] {
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.initiate(now, name, Some("net"), None).unwrap();
        pair.run(Duration::from_secs(1));
    }
    pair.agree(2);
}
