// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a responder narrows and allows in further child SAs (RFC 7296 §2.9).
#![allow(clippy::unwrap_used)]

mod peers;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_proto::config::{ChildConfig, SelectorConfig};
use ikev2d_proto::deviation::Deviation;
use ikev2d_proto::event::*;
use ikev2d_proto::ts::{TrafficSelector, Trigger};
use ikev2d_proto::wire::payload;

use peers::{Pair, net};

const SECOND: Duration = Duration::from_secs(1);

/// A responder with so many child configurations, each for a network of its own: 10.2.N.0/24.
fn pair(networks: u8) -> Pair {
    pair_with(networks, |_| {})
}

/// The same, with an initiator whose child is another.
fn pair_with(networks: u8, own: impl Fn(&mut ChildConfig)) -> Pair {
    Pair::seeded(8, |a, connection, _| {
        connection.children.truncate(1);
        if a {
            own(&mut connection.children[0]);
        } else {
            let child = connection.children[0].clone();
            connection.children = (0..networks)
                .map(|number| {
                    let mut child = child.clone();
                    child.name = format!("net{number}");
                    child.local_ts = vec![net(&format!("10.2.{number}.0/24"))];
                    child
                })
                .collect();
        }
    })
}

/// Where the initiator's child SAs lead, in order.
fn networks(pair: &Pair) -> Vec<IpAddr> {
    let sa = pair.current_ike(0).unwrap();
    let sa = pair.sides[0].endpoint.ike_sa(sa).unwrap();
    let starts = sa.children.iter().flat_map(|child| &child.sa.ts_remote);
    let mut starts: Vec<IpAddr> = starts.map(|ts| ts.start).collect();
    starts.sort();
    starts
}

/// The initiator's child SA whose traffic starts there.
fn leading_to(pair: &Pair, start: [u8; 4]) -> ChildId {
    let sa = pair.current_ike(0).unwrap();
    let sa = pair.sides[0].endpoint.ike_sa(sa).unwrap();
    let mut children = sa.children.iter().map(|child| &child.sa);
    let there = children.find(|child| child.ts_remote[0].start == IpAddr::from(start));
    there.unwrap().id
}

fn expected(count: u8) -> Vec<IpAddr> {
    (0..count).map(|n| IpAddr::from([10, 2, n, 0])).collect()
}

fn failures(pair: &Pair) -> usize {
    pair.count(0, |event| matches!(event, Event::InitiateFailed { .. }))
}

/// S90, S94: the initiator asks for what was narrowed away, until it has all that the responder allows.
#[test]
fn the_rest_is_asked_for() {
    for count in 1..=4 {
        let mut pair = pair(count);
        pair.initiate();
        pair.run(30 * SECOND);
        assert_eq!(networks(&pair), expected(count));
        pair.agree(usize::from(count));
        assert_eq!(failures(&pair), 0);
    }
}

/// S90, RFC 7296 §2.9: a responder that allows the first selectors narrows to what includes them, whichever of
/// its configurations comes first.
#[test]
fn the_initiator_s_first_choices_come_first() {
    for first in 0..3 {
        let own = format!("10.2.{first}.5/32");
        let offer = [net(&own), net("10.2.0.0/16")];
        let mut pair = pair_with(3, |child| child.remote_ts = offer.to_vec());
        pair.initiate();
        pair.run(30 * SECOND);
        let made = pair.sides[1].events.iter().find_map(|event| match event {
            Event::InstallInbound { child, .. } => Some(child.sa.clone()),
            _ => None,
        });
        let made = made.unwrap();
        assert_eq!(*made.child, format!("net{first}"));
        let network = net(&format!("10.2.{first}.0/24"));
        assert_eq!([SelectorConfig::Fixed(made.ts_local[0])], [network]);
        assert_eq!(made.ts_local.len(), 1);
        assert_eq!(networks(&pair), expected(3));
        pair.agree(3);
    }
}

/// S94: a part stays a part when either side rekeys it, and all of them come again with a new IKE SA.
#[test]
fn parts_are_rekeyed_as_parts() {
    let mut pair = pair(3);
    pair.initiate();
    pair.run(30 * SECOND);
    for side in [0, 1, 0] {
        let sa = pair.sides[side].endpoint.ike_sas().next().unwrap();
        let children: Vec<ChildId> = sa.children.iter().map(|child| child.sa.id).collect();
        for child in children {
            let now = pair.now;
            pair.sides[side].endpoint.rekey_child(now, child).unwrap();
            pair.run(30 * SECOND);
        }
        assert_eq!(networks(&pair), expected(3), "{side}");
        pair.agree(3);
    }
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.reauthenticate(now, ike).unwrap();
    pair.run(60 * SECOND);
    assert_eq!(networks(&pair), expected(3));
    pair.agree(3);
    assert_eq!(failures(&pair), 0);
}

/// The parts are asked for again where the first one is gone, once and no more, and one that the
/// responder has lost comes back alone.
#[test]
fn parts_come_back_without_the_first() {
    let mut pair = pair(3);
    pair.initiate();
    pair.run(30 * SECOND);
    for network in [1, 0] {
        let lost = Arc::new(AtomicBool::new(true));
        let once: Deviation = Box::new(move |message| {
            const NOTIFY: u8 = 41;
            const CREATE_CHILD_SA: u8 = 36;
            let response = message.header.exchange == CREATE_CHILD_SA;
            if response && lost.swap(false, Ordering::Relaxed) {
                message.payloads = vec![(NOTIFY, vec![3, 4, 0, 44, 0, 0, 0, 1])];
            }
        });
        pair.sides[1].endpoint.deviate(once);
        let (now, part) = (pair.now, leading_to(&pair, [10, 2, network, 0]));
        pair.sides[0].endpoint.rekey_child(now, part).unwrap();
        pair.run(30 * SECOND);
        assert_eq!(networks(&pair), expected(3));
        assert_ne!(leading_to(&pair, [10, 2, network, 0]), part);
    }

    let (now, first) = (pair.now, leading_to(&pair, [10, 2, 0, 0]));
    pair.sides[0].endpoint.terminate_child(now, first).unwrap();
    pair.run(30 * SECOND);
    assert_eq!(networks(&pair), expected(3)[1..]);
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.reauthenticate(now, ike).unwrap();
    pair.run(60 * SECOND);
    assert_eq!(networks(&pair), expected(3));
    pair.agree(3);
    assert_eq!(failures(&pair), 0);
}

/// RFC 9611: several child SAs for the same traffic are told apart by their configuration's name, so the
/// rest is left there.
#[test]
fn the_rest_is_left_where_there_is_a_child_for_each_resource() {
    let mut pair = Pair::seeded(8, |a, connection, _| {
        connection.children.truncate(1);
        let child = &mut connection.children[0];
        child.resources.most = 4;
        child.resources.own = 2;
        if !a {
            let mut other = child.clone();
            child.local_ts = vec![net("10.2.0.0/24")];
            other.name = "other".to_owned();
            other.local_ts = vec![net("10.2.1.0/24")];
            connection.children.push(other);
        }
    });
    pair.initiate();
    pair.run(30 * SECOND);
    assert_eq!(networks(&pair), [IpAddr::from([10, 2, 0, 0]); 2]);
    pair.agree(2);
}

/// S90, A: a responder that allows more and more is asked for eight child SAs at most, and one that says
/// so whatever there is, for what was narrowed away and nothing else.
#[test]
fn a_responder_that_always_allows_more_is_asked_within_bounds() {
    let mut many = pair(40);
    many.initiate();
    many.run(300 * SECOND);
    let (count, asked) = (networks(&many).len(), many.recorded.len());
    assert_eq!(count, 8);
    assert!(asked < 40, "{asked} messages");

    for networks in [0, 2] {
        let mut liar = match networks {
            0 => Pair::seeded(8, |_, connection, _| connection.children.truncate(1)),
            networks => pair(networks),
        };
        let always: Deviation = Box::new(|message| {
            const NOTIFY: u8 = 41;
            message.payloads.push((NOTIFY, vec![0, 0, 0x40, 0x02]));
        });
        liar.sides[1].endpoint.deviate(always);
        liar.initiate();
        liar.run(300 * SECOND);
        let children = liar.sides[0].outbound.len();
        assert_eq!(children, usize::from(networks.max(1)));
        assert!(liar.recorded.len() <= 12, "{}", liar.recorded.len());
        assert_eq!(failures(&liar), 0);
    }
}

/// Selectors of the payloads of this type that a side sends from now on.
fn watch(pair: &mut Pair, side: usize, kind: u8) -> Arc<Mutex<Vec<Vec<TrafficSelector>>>> {
    let offers = Arc::new(Mutex::new(Vec::new()));
    let seen = offers.clone();
    let watch: Deviation = Box::new(move |message| {
        let of_kind = message.payloads.iter().filter(|part| part.0 == kind);
        seen.lock()
            .unwrap()
            .extend(of_kind.map(|(_, body)| read(body)));
    });
    pair.sides[side].endpoint.deviate(watch);
    offers
}

/// A body of IPv4 selectors (RFC 7296 §3.13.1).
fn read(body: &[u8]) -> Vec<TrafficSelector> {
    let selectors = body[4..].chunks_exact(16);
    let selectors = selectors.map(|octets| {
        let number = |at: usize| u16::from_be_bytes([octets[at], octets[at + 1]]);
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&octets[at..at + 4]).unwrap());
        assert_eq!((octets[0], number(2)), (7, 16));
        TrafficSelector {
            start: address(8),
            end: address(12),
            protocol: octets[1],
            start_port: number(4),
            end_port: number(6),
        }
    });
    selectors.collect()
}

fn write(selectors: &[TrafficSelector]) -> Vec<u8> {
    let mut body = vec![selectors.len() as u8, 0, 0, 0];
    for ts in selectors {
        body.extend([7, ts.protocol, 0, 16]);
        body.extend([ts.start_port, ts.end_port].map(u16::to_be_bytes).concat());
        for address in [ts.start, ts.end] {
            let IpAddr::V4(address) = address else {
                panic!()
            };
            body.extend(address.octets());
        }
    }
    body
}

fn fixed(text: &str) -> TrafficSelector {
    let SelectorConfig::Fixed(ts) = net(text) else {
        panic!()
    };
    ts
}

/// A packet from one network into the other.
fn packet() -> Trigger {
    let addresses = ([10, 1, 7, 7].into(), [10, 2, 1, 5].into());
    Trigger::new(addresses, 17, Some((40000, 53)))
}

/// B43, RFC 7296 §2.9: a packet that asks for a child has its own selectors first in the offer, in IKE_AUTH and
/// in CREATE_CHILD_SA, whenever that is tried again; without a packet, and beside the policy, there are none.
#[test]
fn the_selectors_of_a_packet_that_asks_for_a_child_come_first() {
    let (local, remote) = (fixed("10.1.0.0/16"), fixed("10.2.0.0/16"));
    let Trigger {
        local: source,
        remote: destination,
    } = packet();
    for (of_auth, trigger, expected) in [
        (true, Some(packet()), vec![destination, remote]),
        (false, Some(packet()), vec![destination, remote]),
        (false, None, vec![remote]),
        (
            true,
            Some(Trigger {
                remote: fixed("10.3.0.0/32"),
                ..packet()
            }),
            vec![remote],
        ),
    ] {
        let mut pair = pair(2);
        if !of_auth {
            pair.initiate();
            pair.run(30 * SECOND);
            pair.agree(2);
            for network in 0..2 {
                let (now, child) = (pair.now, leading_to(&pair, [10, 2, network, 0]));
                pair.sides[0].endpoint.terminate_child(now, child).unwrap();
                pair.run(SECOND);
            }
            pair.agree(0);
        }
        let again = Arc::new(AtomicBool::new(!of_auth));
        let once: Deviation = Box::new(move |message| {
            const TEMPORARY_FAILURE: [u8; 4] = [0, 0, 0, 43];
            if message.header.is_response() && again.swap(false, Ordering::Relaxed) {
                message.payloads = vec![(payload::NOTIFY, TEMPORARY_FAILURE.to_vec())];
            }
        });
        pair.sides[1].endpoint.deviate(once);
        let offers = watch(&mut pair, 0, payload::TSR);
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint
            .initiate_for(now, "gw", Some("net"), None, trigger)
            .unwrap();
        pair.run(10 * SECOND);
        let offers = offers.lock().unwrap();
        assert_eq!(offers[0], expected);
        if !of_auth {
            assert_eq!(offers[1], expected);
        }
        // What lies within the rest is not kept beside it, and nothing is left out.
        assert!(!pair.sides[0].outbound.is_empty());
        for side in &pair.sides {
            for child in side.offered.values() {
                let all = [&child.ts_local[..], &child.ts_remote[..]].concat();
                assert!(all.len() == 2 && !all.contains(&destination) && !all.contains(&source));
                assert!(all.contains(&local));
            }
        }
        assert_eq!(failures(&pair), 0);
    }
}

/// B43: a responder whose policy is for the packet's own traffic alone, or that says both, is understood.
#[test]
fn what_a_responder_narrows_to_a_packet_s_selectors_is_taken() {
    let (local, remote) = (fixed("10.1.0.0/16"), fixed("10.2.0.0/16"));
    let trigger = packet();
    for whole in [false, true] {
        let mut pair = pair(1);
        let narrow = |ts: TrafficSelector, all| match whole {
            true => vec![ts, all],
            false => vec![ts],
        };
        let (tsi, tsr) = (narrow(trigger.local, local), narrow(trigger.remote, remote));
        let answer: Deviation = Box::new(move |message| {
            for (kind, body) in &mut message.payloads {
                match *kind {
                    payload::TSI => *body = write(&tsi),
                    payload::TSR => *body = write(&tsr),
                    _ => {}
                }
            }
        });
        pair.sides[1].endpoint.deviate(answer);
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint
            .initiate_for(now, "gw", Some("net"), None, Some(trigger))
            .unwrap();
        pair.run(10 * SECOND);
        let child = pair.sides[0].offered.values().next().unwrap();
        let expected = match whole {
            true => (local, remote),
            false => (trigger.local, trigger.remote),
        };
        assert_eq!(*child.ts_local, [expected.0]);
        assert_eq!(*child.ts_remote, [expected.1]);
        assert_eq!(failures(&pair), 0);
    }
}

/// B43: a packet that a narrowed child does not carry is asked for with the rest, where the peer says nothing
/// of more; once, and what the peer refuses within bounds.
#[test]
fn what_a_narrowed_child_does_not_carry_is_asked_for_by_its_packets() {
    let mut pair = pair(2);
    let silent: Deviation = Box::new(|message| {
        let additional = [0, 0, 0x40, 0x02];
        message
            .payloads
            .retain(|(kind, body)| *kind != payload::NOTIFY || *body != additional);
    });
    pair.sides[1].endpoint.deviate(silent);
    pair.initiate();
    pair.run(30 * SECOND);
    assert_eq!(networks(&pair), expected(1));
    let ask = |pair: &mut Pair, host: [u8; 4], time: Duration| {
        let addresses = ([10, 1, 7, 7].into(), host.into());
        let trigger = Some(Trigger::new(addresses, 17, Some((40000, 53))));
        let (now, endpoint) = (pair.now, &mut pair.sides[0].endpoint);
        endpoint
            .initiate_for(now, "gw", Some("net"), None, trigger)
            .unwrap();
        pair.run(time);
    };
    let sent = pair.recorded.len();
    ask(&mut pair, [10, 2, 0, 9], SECOND);
    assert_eq!(pair.recorded.len(), sent);
    for _ in 0..2 {
        ask(&mut pair, [10, 2, 1, 5], SECOND);
        assert_eq!(networks(&pair), expected(2));
        assert_eq!(pair.recorded.len(), sent + 2);
    }
    // So many at once, and then one each two seconds.
    for host in 0..100 {
        ask(&mut pair, [10, 2, 9, host], SECOND / 10);
    }
    let refused = pair.recorded.len();
    assert!(refused <= sent + 2 * (32 + 5), "{refused}");
    for host in 0..200 {
        ask(&mut pair, [10, 2, 9, host], SECOND / 10);
    }
    assert_eq!(pair.recorded.len(), refused + 2 * 10);
    assert_eq!(networks(&pair), expected(2));
    pair.agree(2);
    assert_eq!(failures(&pair), 0);
}
