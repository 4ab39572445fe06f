// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a connection's and the endpoint's settings do to ISAKMP SAs.
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev2d_proto::config::*;
use ikev2d_proto::event::*;

use peers::Pair;

/// B57: the key log has what Wireshark decrypts IKEv1 by: the initiator's cookie and the cipher's key.
#[test]
fn the_key_log_has_the_ciphers_key() {
    let mut pair = Pair::new(|_, _, config| config.key_log = true);
    pair.up();
    let logged = |side: usize| {
        let keys = pair.sides[side]
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Ikev1Keys(keys) => Some((keys.cky_i, keys.key.to_vec())),
                _ => None,
            });
        keys.collect::<Vec<_>>()
    };
    assert_eq!(logged(0), logged(1));
    let [(cookie, key)] = &logged(0)[..] else {
        panic!("{} SAs", logged(0).len());
    };
    let sa = pair.sides[0].endpoint.ike_sas().next().unwrap();
    assert_eq!((*cookie, key.len()), (sa.spi_i, 32));
}

/// B3: a peer that comes a second time from elsewhere, without INITIAL_CONTACT.
#[test]
fn uniqueness_keeps_replaces_or_refuses() {
    for (unique, at_first, new) in [
        (Unique::No, true, true),
        (Unique::Never, true, true),
        (Unique::Replace, false, true),
        (Unique::Keep, true, false),
    ] {
        let mut pair = Pair::new(|a, connection, _| {
            connection.unique = unique;
            if !a {
                connection.remote_addrs = vec![AddressPattern::Any];
            }
        });
        let mut again = peers::connection(true);
        again.name = "again".to_owned();
        let both = [peers::connection(true), again].map(std::sync::Arc::new);
        pair.sides[0].endpoint.set_connections(&both);
        pair.up();
        let first = pair.ike(1);
        pair.nat = true;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.initiate(pair.now, "again", None, None).unwrap();
        pair.run(Duration::from_secs(20));
        let there: Vec<IkeId> = pair.sides[1].endpoint.ike_sas().map(|sa| sa.id).collect();
        let seen = (there.contains(&first), there.iter().any(|id| *id != first));
        assert_eq!(seen, (at_first, new), "{unique:?}");
        // The initiator has been told.
        let names: Vec<String> = pair.sides[0]
            .endpoint
            .ike_sas()
            .map(|sa| sa.connection.to_owned())
            .collect();
        let seen = ["gw", "again"].map(|name| names.iter().any(|has| has == name));
        assert_eq!(seen, [at_first, new], "{unique:?}");
    }
}

/// B3, RFC 2407 §4.6.3.3: a peer that has lost its state says so, and what it had before is gone, in either mode; one
/// that renews keeps it.
#[test]
fn initial_contact_clears_what_was_before() {
    for aggressive in [false, true] {
        let change = |_: bool, connection: &mut Connection, _: &mut EndpointConfig| {
            connection.ikev1.aggressive = aggressive;
            connection.ikev1.aggressive_psk = aggressive;
        };
        let mut pair = Pair::new(change);
        pair.up();
        let before = pair.child(1);
        let ike = pair.ike(0);
        pair.sides[0].endpoint.rekey_ike(pair.now, ike).unwrap();
        pair.run(Duration::from_secs(60));
        assert_eq!(pair.child(1), before, "a renewal keeps it");
        // The first side is started anew.
        let mut fresh = Pair::new(change);
        std::mem::swap(&mut pair.sides[0], &mut fresh.sides[0]);
        pair.initiate(0, Some("net"));
        pair.run(Duration::from_secs(30));
        let down =
            |event: &Event| matches!(event, Event::ChildDown { child, .. } if *child == before);
        assert_eq!(pair.count(1, down), 1);
        pair.agree(1);
        assert_eq!(pair.sas(1), 1);
    }
}

/// B55: a child that is added while the ISAKMP SA is there comes on it, from either side.
#[test]
fn a_child_that_is_added_comes_on_the_isakmp_sa_that_is_there() {
    for side in [0, 1] {
        let mut pair = Pair::plain();
        pair.up();
        for (side, a) in [(0, true), (1, false)] {
            let mut policy = peers::connection(a);
            policy.children.push(peers::other_child(a));
            let policy = std::sync::Arc::new(policy);
            let endpoint = &mut pair.sides[side].endpoint;
            endpoint.set_connections(std::slice::from_ref(&policy));
            endpoint.add_children(&policy);
        }
        let (ike, now) = (pair.ike(side), pair.now);
        let name = peers::other_child(true).name;
        let endpoint = &mut pair.sides[side].endpoint;
        assert!(!endpoint.asks_for("gw", &name));
        let by = endpoint.initiate(now, "gw", Some(&name), None).unwrap();
        assert_eq!(by, ike);
        assert!(endpoint.asks_for("gw", &name));
        pair.run(Duration::from_secs(5));
        pair.agree(2);
        assert!(!pair.sides[side].endpoint.asks_for("gw", &name));
    }
}
