// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Child SAs that packets ask for (RFC 7296 §2.9): all that there may be, and no more.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_proto::config::{ChildConfig, SelectorConfig};
use ikev2d_proto::deviation::Deviation;
use ikev2d_proto::event::ChildId;
use ikev2d_proto::ts::{TrafficSelector, Trigger};
use ikev2d_proto::wire::{exchange, payload};

use peers::{Pair, net};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(100);
const NET: &str = "10.2.0.0/16";
const UDP: u8 = 17;
const TCP: u8 = 6;

fn fixed(text: &str) -> TrafficSelector {
    let SelectorConfig::Fixed(ts) = net(text) else {
        panic!()
    };
    ts
}

/// The net's traffic of a protocol and ports.
fn ports(protocol: u8, start_port: u16, end_port: u16) -> TrafficSelector {
    TrafficSelector {
        protocol,
        start_port,
        end_port,
        ..fixed(NET)
    }
}

/// A responder with a child for each of these, and an initiator with one for the whole.
fn pair(whole: &[TrafficSelector], parts: &[TrafficSelector]) -> Pair {
    let fixed = |all: &[TrafficSelector]| all.iter().copied().map(SelectorConfig::Fixed).collect();
    Pair::seeded(8, |a, connection, _| {
        connection.children.truncate(1);
        let child = connection.children[0].clone();
        if a {
            connection.children[0].remote_ts = fixed(whole);
        } else {
            let parts = parts.iter().enumerate().map(|(number, part)| ChildConfig {
                name: format!("part{number}"),
                local_ts: fixed(&[*part]),
                ..child.clone()
            });
            connection.children = parts.collect();
        }
    })
}

/// A responder with so many networks: 10.2.N.0/24.
fn networks(count: u8) -> Pair {
    let parts: Vec<_> = (0..count)
        .map(|number| fixed(&format!("10.2.{number}.0/24")))
        .collect();
    pair(&[fixed(NET)], &parts)
}

fn packet(host: [u8; 4], protocol: u8, ports: (u16, u16)) -> Trigger {
    let addresses = ([10, 1, 7, 7].into(), host.into());
    Trigger::new(addresses, protocol, Some(ports))
}

/// A packet asks for the child.
fn ask(pair: &mut Pair, packet: Trigger, time: Duration) {
    let (now, endpoint) = (pair.now, &mut pair.sides[0].endpoint);
    endpoint
        .initiate_for(now, "gw", Some("net"), None, Some(packet))
        .unwrap();
    pair.run(time);
}

/// The children of a side, with their remote selectors.
fn children(pair: &Pair, side: usize) -> Vec<(ChildId, Vec<TrafficSelector>)> {
    let sa = pair.sides[side].endpoint.ike_sas().next().unwrap();
    let children = sa.children.iter().map(|child| &child.sa);
    children.map(|sa| (sa.id, sa.ts_remote.to_vec())).collect()
}

fn remotes(pair: &Pair) -> Vec<TrafficSelector> {
    let all = children(pair, 0).into_iter();
    all.flat_map(|(_, remote)| remote).collect()
}

fn terminate(pair: &mut Pair) {
    for (child, _) in children(pair, 0) {
        let now = pair.now;
        pair.sides[0].endpoint.terminate_child(now, child).unwrap();
        pair.run(SECOND);
    }
    pair.agree(0);
}

/// B43: where no selectors say what a narrowed child leaves, all is asked for with the packet's own first: the
/// other protocols of all. What the peer does not give by that is not asked for on and on.
#[test]
fn other_protocols_are_asked_for_by_their_packets() {
    let (udp, tcp) = (ports(UDP, 0, 65535), ports(TCP, 0, 65535));
    let mut pair = pair(&[fixed(NET)], &[udp, tcp]);
    ask(&mut pair, packet([10, 2, 1, 5], UDP, (40000, 53)), SECOND);
    assert_eq!(remotes(&pair), [udp]);
    for _ in 0..2 {
        ask(&mut pair, packet([10, 2, 1, 5], TCP, (40000, 80)), SECOND);
        assert_eq!(remotes(&pair), [udp, tcp]);
        pair.agree(2);
    }
    const SCTP: u8 = 132;
    for _ in 0..10 {
        ask(&mut pair, packet([10, 2, 1, 5], SCTP, (5, 5)), SECOND);
    }
    assert_eq!(remotes(&pair), [udp, tcp, udp]);
    pair.agree(3);
}

/// B43: a peer that narrows to each packet's own selectors is asked for each one's, eight at most.
#[test]
fn a_peer_that_narrows_to_a_packet_is_asked_for_the_next() {
    let mut pair = networks(1);
    let asked = Arc::new(Mutex::new(packet([10, 2, 0, 5], UDP, (1, 53))));
    let told = asked.clone();
    let narrow: Deviation = Box::new(move |message| {
        let trigger = *told.lock().unwrap();
        for (kind, body) in &mut message.payloads {
            match *kind {
                payload::TSI => *body = write(trigger.local),
                payload::TSR => *body = write(trigger.remote),
                _ => {}
            }
        }
    });
    pair.sides[1].endpoint.deviate(narrow);
    for port in 1..=10 {
        let packet = packet([10, 2, 0, 5], UDP, (port, 53));
        *asked.lock().unwrap() = packet;
        let sent = pair.recorded.len();
        for _ in 0..2 {
            ask(&mut pair, packet, SECOND);
        }
        let all = children(&pair, 0);
        assert_eq!(all.len(), usize::from(port.min(8)));
        if port > 8 {
            assert_eq!(pair.recorded.len(), sent);
        }
    }
}

/// A body of one IPv4 selector (RFC 7296 §3.13.1).
fn write(ts: TrafficSelector) -> Vec<u8> {
    let mut body = vec![1, 0, 0, 0, 7, ts.protocol, 0, 16];
    body.extend([ts.start_port, ts.end_port].map(u16::to_be_bytes).concat());
    for address in [ts.start, ts.end] {
        let std::net::IpAddr::V4(address) = address else {
            panic!()
        };
        body.extend(address.octets());
    }
    body
}

/// B43: more selectors than a rest is reckoned with.
#[test]
fn packets_of_many_selectors_ask_for_them() {
    let whole: Vec<_> = (0..40)
        .map(|number| fixed(&format!("10.2.{number}.0/24")))
        .collect();
    let mut pair = pair(&whole, &whole[..2]);
    ask(&mut pair, packet([10, 2, 0, 5], UDP, (1, 53)), SECOND);
    assert_eq!(remotes(&pair), whole[..1]);
    ask(&mut pair, packet([10, 2, 1, 5], UDP, (1, 53)), SECOND);
    assert_eq!(remotes(&pair), whole[..2]);
    pair.agree(2);
}

/// S88, S90, RFC 4301 §4.4.1.1: a child of OPAQUE ports leaves those that can be seen.
#[test]
fn ports_that_can_be_seen_are_asked_for_beside_opaque_ones() {
    let (opaque, dns) = (ports(UDP, 65535, 0), ports(UDP, 53, 53));
    let mut pair = pair(&[ports(UDP, 0, 65535)], &[opaque, dns]);
    pair.initiate();
    pair.run(30 * SECOND);
    assert_eq!(remotes(&pair), [opaque, dns]);
    pair.agree(2);
}

/// B43: what is asked for already is not asked for again by packets: while IKE_SA_INIT, IKE_AUTH or
/// CREATE_CHILD_SA is unanswered, and before it is tried again.
#[test]
fn a_child_that_is_asked_for_is_not_asked_for_again_by_packets() {
    let trigger = packet([10, 2, 0, 5], UDP, (40000, 53));
    for blocked in [
        Some(exchange::IKE_SA_INIT),
        Some(exchange::IKE_AUTH),
        Some(exchange::CREATE_CHILD_SA),
        None,
    ] {
        let mut pair = networks(1);
        if matches!(blocked, None | Some(exchange::CREATE_CHILD_SA)) {
            pair.initiate();
            pair.run(SECOND);
            terminate(&mut pair);
        }
        let busy = Arc::new(AtomicBool::new(blocked.is_none()));
        let fails = busy.clone();
        fail(&mut pair, move || fails.load(Ordering::Relaxed));
        pair.blocked = blocked;
        for _ in 0..30 {
            ask(&mut pair, trigger, MOMENT);
        }
        pair.blocked = None;
        busy.store(false, Ordering::Relaxed);
        pair.run(30 * SECOND);
        assert_eq!(remotes(&pair).len(), 1, "{blocked:?}");
    }
}

/// Requests for a child are answered by TEMPORARY_FAILURE while this is so.
fn fail(pair: &mut Pair, fails: impl Fn() -> bool + Send + Sync + 'static) {
    let failure: Deviation = Box::new(move |message| {
        const TEMPORARY_FAILURE: [u8; 4] = [0, 0, 0, 43];
        let of_child = message.payloads.iter().any(|part| part.0 == payload::TSI);
        if message.header.is_response() && of_child && fails() {
            message.payloads = vec![(payload::NOTIFY, TEMPORARY_FAILURE.to_vec())];
        }
    });
    pair.sides[1].endpoint.deviate(failure);
}

/// How many selectors of the peer's side the initiator offers from now on.
fn watch(pair: &mut Pair) -> Arc<Mutex<Vec<u8>>> {
    let offers = Arc::new(Mutex::new(Vec::new()));
    let seen = offers.clone();
    let watch: Deviation = Box::new(move |message| {
        let tsr = message
            .payloads
            .iter()
            .filter(|part| part.0 == payload::TSR);
        seen.lock().unwrap().extend(tsr.map(|(_, body)| body[0]));
    });
    pair.sides[0].endpoint.deviate(watch);
    offers
}

/// B43: a packet that nothing is asked for because of has no part in what is asked for later.
#[test]
fn a_packet_that_asked_for_nothing_is_forgotten() {
    // There are as many children as there may be.
    let mut full = networks(40);
    full.initiate();
    full.run(300 * SECOND);
    assert_eq!(remotes(&full).len(), 8);
    let sent = full.recorded.len();
    ask(&mut full, packet([10, 2, 30, 5], UDP, (1, 53)), SECOND);
    assert_eq!(full.recorded.len(), sent);
    terminate(&mut full);
    let offers = watch(&mut full);
    full.initiate();
    full.run(SECOND);
    assert_eq!(offers.lock().unwrap()[0], 1);
}

/// B43: a packet's selectors come first on the IKE SA, too, that takes over before its child is asked for.
#[test]
fn a_packet_is_remembered_by_the_next_ike_sa() {
    let mut pair = networks(2);
    pair.initiate();
    pair.run(SECOND);
    terminate(&mut pair);
    let once = AtomicBool::new(true);
    fail(&mut pair, move || once.swap(false, Ordering::Relaxed));
    ask(&mut pair, packet([10, 2, 1, 5], UDP, (1, 53)), MOMENT);
    let (now, old) = (pair.now, pair.current_ike(0).unwrap());
    pair.sides[0].endpoint.rekey_ike(now, old).unwrap();
    pair.run(MOMENT);
    assert_ne!(pair.current_ike(0).unwrap(), old);
    let offers = watch(&mut pair);
    pair.run(5 * SECOND);
    assert_eq!(offers.lock().unwrap()[0], 2);
    assert_eq!(remotes(&pair)[0], fixed("10.2.1.0/24"));
}
