// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a rekeyed child SA is for: the traffic of the one that it replaces (RFC 7296 §2.9.2).
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_proto::config::{AddressPattern, SelectorConfig};
use ikev2d_proto::event::{ChildSa, Event};
use ikev2d_proto::ts::TrafficSelector;
use ikev2d_proto::wire::{exchange, payload};

use peers::{Pair, net};

/// The body of a payload with one selector: all traffic of these addresses (RFC 7296 §3.13.1).
fn body(start: [u8; 4], end: [u8; 4]) -> Vec<u8> {
    let mut body = vec![1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 0xff, 0xff];
    body.extend(start);
    body.extend(end);
    body
}

/// A gateway with a child for each of two networks, and a client with one for all; the gateway has set
/// up its second one.
fn gateway() -> Pair {
    let mut pair = Pair::seeded(5, |a, connection, _| {
        connection.children.truncate(1);
        let child = &mut connection.children[0];
        if a {
            (child.local_ts, child.remote_ts) = (vec![net("10.9.0.0/16")], vec![net("10.0.0.0/8")]);
        } else {
            child.remote_ts = vec![net("10.9.0.0/16")];
            let mut second = child.clone();
            (child.name, child.local_ts) = ("a".to_owned(), vec![net("10.0.0.0/16")]);
            (second.name, second.local_ts) = ("b".to_owned(), vec![net("10.1.0.0/16")]);
            connection.children.push(second);
        }
    });
    let now = pair.now;
    let gateway = &mut pair.sides[1].endpoint;
    gateway.initiate(now, "gw", Some("b"), None).unwrap();
    pair.run(Duration::from_secs(10));
    pair.agree(1);
    pair
}

/// The only child of a side.
fn only(pair: &Pair, side: usize) -> ChildSa {
    let sas: Vec<_> = pair.sides[side].endpoint.ike_sas().collect();
    let [sa] = &sas[..] else { panic!() };
    let [child] = &sa.children[..] else { panic!() };
    child.sa.clone()
}

fn rekey(pair: &mut Pair, by: usize) {
    let (now, child) = (pair.now, pair.current_child(by).unwrap());
    pair.sides[by].endpoint.rekey_child(now, child).unwrap();
    pair.run(Duration::from_secs(10));
    pair.agree(1);
}

#[test]
fn a_rekeyed_child_keeps_the_traffic_that_it_had() {
    let SelectorConfig::Fixed(network) = net("10.1.0.0/16") else {
        panic!()
    };
    for (by, whole_policy) in [(0, false), (0, true), (1, false)] {
        let mut pair = gateway();
        let offered = Arc::new(Mutex::new(Vec::new()));
        let seen = offered.clone();
        pair.sides[by].endpoint.deviate(Box::new(move |message| {
            let request = message.header.exchange == exchange::CREATE_CHILD_SA;
            let kind = if by == 0 { payload::TSR } else { payload::TSI };
            let mut payloads = message.payloads.iter_mut().filter(|_| request);
            if let Some((_, told)) = payloads.find(|part| part.0 == kind) {
                seen.lock().unwrap().push(told.clone());
                if whole_policy {
                    *told = body([10, 0, 0, 0], [10, 255, 255, 255]);
                }
            }
        }));
        let old = only(&pair, 0).id;
        rekey(&mut pair, by);
        assert_ne!(only(&pair, 0).id, old);
        let (a, b) = (only(&pair, 0), only(&pair, 1));
        assert_eq!(
            (&a.ts_remote[..], &b.ts_local[..]),
            (&[network][..], &[network][..])
        );
        assert_eq!(&*b.child, "b");
        let first = &body([10, 1, 0, 0], [10, 1, 255, 255])[4..];
        let offered = offered.lock().unwrap();
        assert!(
            offered.len() == 1 && offered[0][4..].starts_with(first),
            "{by}"
        );
    }
}

#[test]
fn a_rekeying_for_less_than_what_is_in_use_is_refused() {
    let mut pair = gateway();
    pair.sides[0].endpoint.deviate(Box::new(|message| {
        let request = message.header.exchange == exchange::CREATE_CHILD_SA;
        let mut payloads = message.payloads.iter_mut().filter(|_| request);
        if let Some((_, told)) = payloads.find(|part| part.0 == payload::TSR) {
            *told = body([10, 1, 0, 0], [10, 1, 127, 255]);
        }
    }));
    let old = (only(&pair, 0).id, only(&pair, 1).id);
    let (now, child) = (pair.now, pair.current_child(0).unwrap());
    pair.sides[0].endpoint.rekey_child(now, child).unwrap();
    pair.run(Duration::from_secs(5));
    let refused = |e: &Event| matches!(e, Event::RekeyFailed { reason, .. } if reason.contains("TS_UNACCEPTABLE"));
    assert!(pair.count(0, refused) != 0);
    pair.agree(1);
    assert_eq!((only(&pair, 0).id, only(&pair, 1).id), old);
}

/// What stands for an end's own address follows it (RFC 4555), on the next rekeying: also where the
/// other side's policy would allow the one before.
#[test]
fn the_child_of_an_end_that_has_moved_is_rekeyed_for_its_new_address() {
    let any = || vec![net("0.0.0.0/0")];
    let dynamic = || vec![SelectorConfig::Dynamic];
    for (own, peers) in [
        (dynamic(), dynamic()),
        (dynamic(), any()),
        (any(), dynamic()),
    ] {
        for by in 0..2 {
            let mut pair = Pair::seeded(5, |a, connection, _| {
                connection.mobike = true;
                connection.local_addrs = vec![AddressPattern::Any];
                connection.remote_addrs.insert(0, AddressPattern::Any);
                connection.children.truncate(1);
                let child = &mut connection.children[0];
                match a {
                    true => child.local_ts = own.clone(),
                    false => child.remote_ts = peers.clone(),
                }
            });
            let (now, local) = (pair.now, "192.0.2.1".parse().unwrap());
            let client = &mut pair.sides[0].endpoint;
            client
                .initiate(now, "gw", Some("net"), Some(local))
                .unwrap();
            pair.run(Duration::from_secs(10));
            assert_eq!(*only(&pair, 1).ts_remote, [TrafficSelector::host(local)]);
            let (now, ike, moved) = (pair.now, pair.ike(0), "192.0.2.7".parse().unwrap());
            let client = &mut pair.sides[0].endpoint;
            assert!(client.move_to(now, ike, moved).unwrap());
            pair.run(Duration::from_secs(10));
            rekey(&mut pair, by);
            assert_eq!(*only(&pair, 0).ts_local, [TrafficSelector::host(moved)]);
            assert_eq!(*only(&pair, 1).ts_remote, [TrafficSelector::host(moved)]);
        }
    }
}

/// S88, RFC 7296 §3.13.1, RFC 4301 §4.4.1.1: selectors of OPAQUE ports are well formed. A policy of any port
/// includes them, and in one of others they are left out like any other selector.
#[test]
fn opaque_ports_are_narrowed_like_others() {
    let SelectorConfig::Fixed(network) = net("10.2.0.0/16") else {
        panic!()
    };
    let ports = |start_port, end_port| TrafficSelector {
        protocol: 17,
        start_port,
        end_port,
        ..network
    };
    let (opaque, dns) = (ports(65535, 0), ports(53, 53));
    for (policy, offer, expected) in [
        (network, vec![opaque, dns], vec![opaque, dns]),
        (dns, vec![opaque, dns], vec![dns]),
        (dns, vec![opaque], vec![]),
        (opaque, vec![ports(0, 65535)], vec![opaque]),
    ] {
        let mut pair = Pair::seeded(5, |a, connection, _| {
            connection.children.truncate(1);
            let child = &mut connection.children[0];
            let fixed =
                |all: &[TrafficSelector]| all.iter().copied().map(SelectorConfig::Fixed).collect();
            match a {
                true => child.remote_ts = fixed(&offer),
                false => child.local_ts = fixed(&[policy]),
            }
        });
        pair.initiate();
        pair.run(Duration::from_secs(10));
        if expected.is_empty() {
            let refused = |e: &Event| matches!(e, Event::InitiateFailed { reason, .. } if reason.contains("TS_UNACCEPTABLE"));
            assert_eq!(pair.count(0, refused), 1);
        } else {
            pair.agree(1);
            assert_eq!(*only(&pair, 0).ts_remote, expected[..]);
            assert_eq!(*only(&pair, 1).ts_local, expected[..]);
        }
    }
}
