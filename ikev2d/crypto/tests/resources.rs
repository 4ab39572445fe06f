// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B21: several child SAs for the same traffic, each with a resource of its own (RFC 9611).
#![allow(clippy::unwrap_used)]

mod peers;

use std::collections::BTreeSet;
use std::time::Duration;

use ikev2d_proto::config::*;
use ikev2d_proto::event::*;

use peers::Pair;

/// Two ends that set up and take so many child SAs for the same traffic.
fn pair(seed: u64, a: (u16, u16), b: (u16, u16)) -> Pair {
    Pair::seeded(seed, |first, connection, config| {
        let (own, most) = if first { a } else { b };
        connection.children[0].resources = Resources { own, most };
        config.retransmit_tries = 20;
        config.retransmit_timeout = Duration::from_secs(1);
        config.retransmit_base = 1.2;
    })
}

fn initiate(pair: &mut Pair) {
    let now = pair.now;
    let asked = pair.sides[0]
        .endpoint
        .initiate(now, "gw", Some("net"), None);
    asked.unwrap();
}

/// The children that a side sends through, by the resource that each is for.
fn resources(pair: &Pair, side: usize) -> Vec<(Option<u16>, ChildId)> {
    let side = &pair.sides[side];
    let sending = side.outbound.values();
    let mut all: Vec<_> = sending
        .map(|(child, _)| (side.offered[child].resource, *child))
        .collect();
    all.sort();
    all
}

fn numbers(pair: &Pair, side: usize) -> Vec<Option<u16>> {
    let all = resources(pair, side).into_iter();
    all.map(|(resource, _)| resource).collect()
}

fn upto(count: u16) -> Vec<Option<u16>> {
    (0..count).map(Some).collect()
}

fn failures(pair: &Pair, side: usize, why: &str) -> usize {
    pair.count(
        side,
        |e| matches!(e, Event::InitiateFailed { reason, .. } if reason.contains(why)),
    )
}

/// Each end has one for each of its resources; they differ in their keys and SPIs alone.
#[test]
fn each_resource_has_a_child_sa_for_the_same_traffic() {
    for loss in [0, 20] {
        let mut pair = pair(3, (4, 16), (4, 16));
        pair.loss = loss;
        initiate(&mut pair);
        pair.run(Duration::from_secs(240));
        pair.agree(4);
        for side in [0, 1] {
            assert_eq!(numbers(&pair, side), upto(4), "{loss}");
            let offered = &pair.sides[side].offered;
            let first = offered.values().next().unwrap();
            let mut keys = BTreeSet::new();
            for sa in offered.values() {
                assert_eq!(sa.suite.encryption, first.suite.encryption);
                assert_eq!((sa.suite.esn, sa.transport), (first.suite.esn, false));
                assert_eq!(sa.ts_local, first.ts_local);
                assert_eq!(sa.ts_remote, first.ts_remote);
                keys.insert(sa.keys_in.encryption.to_vec());
                keys.insert(sa.keys_out.encryption.to_vec());
            }
            assert_eq!(keys.len(), 8);
            let ups = pair.count(side, |e| matches!(e, Event::ChildUp { .. }));
            assert_eq!(ups, 4);
        }
    }
}

/// A peer that takes fewer says so, and is not asked again; what there is goes on.
#[test]
fn a_peers_limit_is_kept_to() {
    for loss in [0, 20] {
        let mut pair = pair(4, (8, 16), (1, 3));
        pair.loss = loss;
        initiate(&mut pair);
        pair.run(Duration::from_secs(240));
        pair.agree(3);
        assert_eq!(numbers(&pair, 0), upto(3));
        assert_eq!(failures(&pair, 0, ""), 0, "nobody has asked for them");
        pair.loss = 0;
        let said = pair.recorded.len();
        pair.run(Duration::from_secs(600));
        assert_eq!(pair.recorded.len(), said);
        // Who asks is told.
        initiate(&mut pair);
        pair.run(Duration::from_secs(10));
        pair.agree(3);
        assert_eq!(failures(&pair, 0, "TS_MAX_QUEUE"), 1);
    }
}

/// With a peer that does not speak of resources there is one child SA, as ever.
#[test]
fn a_peer_that_knows_of_no_resources_is_not_asked_for_more() {
    for (a, b) in [((4, 16), (1, 1)), ((1, 1), (4, 16))] {
        let mut pair = pair(5, a, b);
        initiate(&mut pair);
        pair.run(Duration::from_secs(60));
        pair.agree(1);
        assert_eq!(numbers(&pair, 0), [None]);
        assert_eq!(numbers(&pair, 1), [None]);
    }
}

/// The end with more resources asks for the rest, whichever it is.
#[test]
fn the_end_with_more_resources_gets_as_many_as_it_has() {
    for (a, b) in [(2, 5), (5, 2)] {
        for loss in [0, 20] {
            let mut pair = pair(6, (a, 16), (b, 16));
            pair.loss = loss;
            initiate(&mut pair);
            pair.run(Duration::from_secs(240));
            pair.agree(5);
            for side in [0, 1] {
                assert_eq!(numbers(&pair, side), upto(5), "{a} {b} {loss}");
            }
        }
    }
}

/// Each is rekeyed by itself and stays for its resource.
#[test]
fn each_is_rekeyed_apart() {
    for side in [0, 1] {
        for resource in 0..3 {
            let mut pair = pair(7, (3, 16), (3, 16));
            initiate(&mut pair);
            pair.run(Duration::from_secs(60));
            pair.agree(3);
            let before = resources(&pair, side);
            let (now, old) = (pair.now, before[resource].1);
            pair.sides[side].endpoint.rekey_child(now, old).unwrap();
            pair.run(Duration::from_secs(60));
            pair.agree(3);
            assert_eq!(numbers(&pair, 1 - side), upto(3));
            for (at, (before, after)) in before.iter().zip(resources(&pair, side)).enumerate() {
                assert_eq!(before.0, after.0);
                assert_eq!(*before == after, at != resource);
            }
        }
    }
}

/// Each is deleted by itself, and stays away until somebody asks for it.
#[test]
fn each_is_deleted_apart() {
    for side in [0, 1] {
        for resource in 0..3u16 {
            let mut pair = pair(8, (3, 16), (3, 16));
            initiate(&mut pair);
            pair.run(Duration::from_secs(60));
            let (now, gone) = (pair.now, resources(&pair, side)[usize::from(resource)].1);
            let endpoint = &mut pair.sides[side].endpoint;
            endpoint.terminate_child(now, gone).unwrap();
            pair.run(Duration::from_secs(600));
            pair.agree(2);
            let left = upto(3).into_iter().filter(|r| *r != Some(resource));
            assert_eq!(numbers(&pair, side), left.collect::<Vec<_>>());
            initiate(&mut pair);
            pair.run(Duration::from_secs(60));
            pair.agree(3);
            assert_eq!(numbers(&pair, 0), upto(3));
            assert_eq!(numbers(&pair, 1), upto(3));
        }
    }
}

/// TEMPORARY_FAILURE while the IKE SA is rekeyed puts a child SA off, and no more than that.
#[test]
fn a_rekeying_in_between_delays_them() {
    for side in [0, 1] {
        for steps in 0..24 {
            let mut pair = pair(9, (4, 16), (4, 16));
            initiate(&mut pair);
            pair.run(Duration::from_millis(45 + 5 * steps));
            let now = pair.now;
            if let Some(ike) = pair.current_ike(side) {
                pair.sides[side].endpoint.rekey_ike(now, ike).unwrap();
            }
            pair.run(Duration::from_secs(60));
            pair.agree(4);
            for side in [0, 1] {
                assert_eq!(numbers(&pair, side), upto(4), "{steps}");
                assert_eq!(pair.sides[side].endpoint.ike_sas().count(), 1);
            }
        }
    }
}

/// S78: a reauthentication makes all of them anew.
#[test]
fn all_of_them_come_back_with_a_reauthentication() {
    for side in [0, 1] {
        let mut pair = pair(10, (4, 16), (4, 16));
        initiate(&mut pair);
        pair.run(Duration::from_secs(60));
        pair.agree(4);
        let (now, old) = (pair.now, pair.ike(side));
        pair.sides[side].endpoint.reauthenticate(now, old).unwrap();
        pair.run(Duration::from_secs(60));
        pair.agree(4);
        for side in [0, 1] {
            assert_eq!(numbers(&pair, side), upto(4));
            assert_eq!(pair.sides[side].endpoint.ike_sas().count(), 1);
            assert_eq!(failures(&pair, side, ""), 0);
        }
        assert_ne!(pair.ike(side), old);
    }
}

/// One that can't be installed leaves the others.
#[test]
fn one_that_can_t_be_installed_leaves_the_others() {
    for side in [0, 1] {
        let mut pair = pair(11, (4, 16), (1, 16));
        initiate(&mut pair);
        for _ in 0..1000 {
            if pair.sides[0].outbound.len() == 2 {
                break;
            }
            pair.run(Duration::from_millis(5));
        }
        pair.sides[side].refuse_installs = true;
        pair.run(Duration::from_secs(120));
        let there = pair.sides[0].outbound.len();
        assert!((2..4).contains(&there), "{there}");
        pair.agree(there);
        assert_eq!(failures(&pair, 0, ""), 0);
    }
}
