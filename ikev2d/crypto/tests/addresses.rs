// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B14: the further addresses of a responder (RFC 4555 §3.4, §3.6), and the way to them.
#![allow(clippy::unwrap_used)]

mod peers;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_proto::config::AddressPattern;
use ikev2d_proto::deviation::Deviation;
use ikev2d_proto::event::{Event, Path};
use ikev2d_proto::wire::{exchange, notify, payload};

use peers::Pair;

const SECOND: Duration = Duration::from_secs(1);
/// The initiator, and where else it may be.
const A: [&str; 2] = ["192.0.2.1", "198.51.100.1"];
/// The responder's.
const B: [&str; 4] = ["192.0.2.2", "198.51.100.2", "203.0.113.2", "2001:db8::2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn all(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn patterns(texts: &[&str]) -> Vec<AddressPattern> {
    let single = |address: IpAddr| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        AddressPattern::Prefix(address, bits)
    };
    all(texts).into_iter().map(single).collect()
}

/// Two sides with MOBIKE, whose connections name all addresses; the responder's host has these.
fn pair(own: &[&str]) -> Pair {
    let mut pair = Pair::seeded(8, |a, connection, _| {
        connection.mobike = true;
        connection.dpd_delay = a.then_some(10 * SECOND);
        connection.children.truncate(1);
        let (local, remote) = if a {
            (&A[..], &B[..])
        } else {
            (&B[..], &A[..])
        };
        (connection.local_addrs, connection.remote_addrs) = (patterns(local), patterns(remote));
    });
    let now = pair.now;
    pair.sides[1].endpoint.set_addresses(now, all(own));
    pair
}

/// Notifications of a message: their types and data.
type Said = Vec<(u16, Vec<u8>)>;

/// Notifications of addresses that the responder says from now on, by message.
fn told(pair: &mut Pair) -> Arc<Mutex<Vec<Said>>> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let watch: Deviation = Box::new(move |message| {
        let notifies = message
            .payloads
            .iter()
            .filter(|part| part.0 == payload::NOTIFY);
        let notifies = notifies.filter_map(|(_, body)| notify::Notify::parse(body).ok());
        let kinds = notify::ADDITIONAL_IP4_ADDRESS..=notify::NO_ADDITIONAL_ADDRESSES;
        let of_addresses = notifies.filter(|notify| kinds.contains(&notify.kind));
        let of_addresses: Vec<_> = of_addresses.map(|n| (n.kind, n.data.to_vec())).collect();
        if !of_addresses.is_empty() {
            seen.lock().unwrap().push(of_addresses);
        }
    });
    pair.sides[1].endpoint.deviate(watch);
    told
}

/// Where a side's IKE SA and its only child are, from and to.
fn ends(pair: &Pair, side: usize) -> (IpAddr, IpAddr) {
    let sas: Vec<_> = pair.sides[side].endpoint.ike_sas().collect();
    let [sa] = &sas[..] else { panic!() };
    let child = sa.children[0].sa.path;
    assert_eq!(child, sa.path);
    (child.local.ip(), child.remote.ip())
}

fn assert_between(pair: &Pair, a: &str, b: &str) {
    assert_eq!(ends(pair, 0), (ip(a), ip(b)));
    assert_eq!(ends(pair, 1), (ip(b), ip(a)));
    pair.agree(1);
    let down = |e: &Event| matches!(e, Event::IkeDown { .. });
    assert_eq!((pair.count(0, down), pair.count(1, down)), (0, 0));
}

/// RFC 4555 §3.4, §3.6: a responder tells those of its addresses that its connection names, in IKE_AUTH and
/// whenever they change, and none to who has not agreed on MOBIKE.
#[test]
fn a_responder_tells_its_further_addresses() {
    let v4 = |octets: [u8; 4]| (notify::ADDITIONAL_IP4_ADDRESS, octets.to_vec());
    let IpAddr::V6(six) = ip(B[3]) else { panic!() };
    let v6 = (notify::ADDITIONAL_IP6_ADDRESS, six.octets().to_vec());
    let (second, third) = (v4([198, 51, 100, 2]), v4([203, 0, 113, 2]));
    let none = (notify::NO_ADDITIONAL_ADDRESSES, vec![]);

    let mut pair = pair(&[B[3], "10.99.0.1", B[1], B[0], "127.0.0.1"]);
    let said = told(&mut pair);
    pair.up();
    let mut expected = vec![vec![second.clone(), v6]];
    assert_eq!(*said.lock().unwrap(), expected);
    for (own, say) in [
        (&[B[0], B[1], B[2]][..], vec![second.clone(), third]),
        // The same ones, and one that is not named.
        (&[B[2], B[1], B[0], "10.99.0.2"], vec![]),
        (&[B[0]], vec![none]),
        (&[B[1], B[0]], vec![second]),
    ] {
        let now = pair.now;
        pair.sides[1].endpoint.set_addresses(now, all(own));
        pair.run(5 * SECOND);
        expected.extend(Some(say).filter(|say| !say.is_empty()));
        assert_eq!(*said.lock().unwrap(), expected);
    }

    for can in [0, 1] {
        let mut pair = Pair::seeded(8, |a, connection, _| {
            connection.mobike = a == (can == 0);
            connection.local_addrs = patterns(if a { &A } else { &B });
        });
        let said = told(&mut pair);
        for own in [&B[..2], &B[..3]] {
            let now = pair.now;
            pair.sides[1].endpoint.set_addresses(now, all(own));
            pair.run(5 * SECOND);
            if pair.sides[0].events.is_empty() {
                pair.up();
            }
        }
        assert!(said.lock().unwrap().is_empty());
    }
}

/// RFC 4555 §3.5: the initiator goes where the responder is reached still, with its child, and back; also
/// once the IKE SA was rekeyed.
#[test]
fn an_initiator_goes_to_the_address_that_answers() {
    for rekeyed in [None, Some(0), Some(1)] {
        let mut pair = pair(&B[..3]);
        pair.up();
        assert_between(&pair, A[0], B[0]);
        if let Some(side) = rekeyed {
            let (now, ike) = (pair.now, pair.ike(side));
            pair.sides[side].endpoint.rekey_ike(now, ike).unwrap();
            pair.run(5 * SECOND);
        }
        for (alive, dead) in [(1, [0, 2]), (2, [0, 1]), (0, [1, 2])] {
            pair.dead = dead.iter().map(|at| ip(B[*at])).collect();
            pair.run(120 * SECOND);
            assert_between(&pair, A[0], B[alive]);
        }
        // It goes on from there.
        let (now, child) = (pair.now, pair.current_child(1).unwrap());
        pair.sides[1].endpoint.rekey_child(now, child).unwrap();
        pair.run(10 * SECOND);
        assert_between(&pair, A[0], B[0]);
    }
}

/// The same from another address of its own, where that is what leads there.
#[test]
fn an_initiator_tries_its_own_further_addresses() {
    let mut pair = pair(&B[..1]);
    let now = pair.now;
    pair.sides[0].endpoint.set_addresses(now, all(&A));
    pair.up();
    pair.dead = all(&A[..1]);
    pair.run(120 * SECOND);
    assert_between(&pair, A[1], B[0]);
}

/// §3.6: what a responder says later replaces what it has said before.
#[test]
fn a_set_of_addresses_is_replaced() {
    let mut pair = pair(&B[..2]);
    pair.up();
    let now = pair.now;
    pair.sides[1]
        .endpoint
        .set_addresses(now, all(&[B[0], B[2]]));
    pair.run(5 * SECOND);
    pair.dead = all(&B[..1]);
    for _ in 0..60 {
        pair.run(SECOND);
        let sa = pair.sides[0].endpoint.ike_sas().next().unwrap();
        assert_ne!(sa.path.remote.ip(), ip(B[1]));
    }
    assert_between(&pair, A[0], B[2]);

    let now = pair.now;
    pair.sides[1].endpoint.set_addresses(now, all(&[B[2]]));
    pair.run(5 * SECOND);
    pair.dead = all(&[B[2]]);
    pair.run(40 * SECOND);
    // Where it was before it may be still; nowhere else is it looked for.
    let sa = pair.sides[0].endpoint.ike_sas().next().unwrap();
    assert_eq!(sa.path.remote.ip(), ip(B[2]));
}

/// §3.6: a responder that says from elsewhere that it is not where it was is gone after at once.
#[test]
fn an_address_that_a_responder_has_no_more_is_left() {
    let mut pair = pair(&B[..2]);
    pair.up();
    let now = pair.now;
    pair.sides[1]
        .endpoint
        .set_addresses(now, all(&[B[1], B[2]]));
    pair.flush();
    pair.dead = all(&[B[0], B[2]]);
    for (_, to, path, _) in &mut pair.wire {
        assert_eq!(*to, 0);
        path.remote.set_ip(ip(B[1]));
    }
    pair.run(3 * SECOND);
    assert_between(&pair, A[0], B[1]);
}

/// A network that is away for a while costs no tunnel, wherever it was looked for meanwhile.
#[test]
fn who_is_found_nowhere_is_looked_for_at_home_again() {
    let mut pair = pair(&B[..3]);
    pair.up();
    pair.dead = all(&B);
    pair.run(90 * SECOND);
    pair.dead.clear();
    pair.run(120 * SECOND);
    assert_between(&pair, A[0], B[0]);
}

/// A request of the second side's, which arrives from and at other addresses; what is dead stays so.
fn asks_from(pair: &mut Pair, path: Path) {
    let dead = std::mem::take(&mut pair.dead);
    let (now, ike) = (pair.now, pair.ike(1));
    pair.flush();
    pair.wire.clear();
    pair.sides[1].endpoint.check_liveness(now, ike).unwrap();
    pair.flush();
    pair.dead = dead;
    let (_, to, _, message) = pair.wire.pop_front().unwrap();
    assert_eq!(to, 0);
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.handle_datagram(now, path, &message);
}

fn path_of(pair: &Pair) -> Path {
    pair.sides[0].endpoint.ike_sas().next().unwrap().path
}

/// RFC 4555 §3.6: a responder whose address in use is gone says so from another one, to which it also takes what
/// it has asked; if there is none, it waits until there is.
#[test]
fn a_responder_leaves_an_address_that_is_gone() {
    for asking in [false, true] {
        let mut pair = pair(&B[..2]);
        pair.up();
        pair.dead = all(&B[..1]);
        let (now, ike) = (pair.now, pair.ike(1));
        let endpoint = &mut pair.sides[1].endpoint;
        if asking {
            endpoint.check_liveness(now, ike).unwrap();
        }
        endpoint.set_addresses(now, all(&B[1..3]));
        pair.run(5 * SECOND);
        assert_between(&pair, A[0], B[1]);
    }
    let mut pair = pair(&B[..2]);
    pair.up();
    let (now, said) = (pair.now, told(&mut pair));
    let endpoint = &mut pair.sides[1].endpoint;
    endpoint.set_addresses(now, all(&["10.99.0.1", B[3]]));
    pair.run(SECOND);
    assert!(said.lock().unwrap().is_empty());
    let now = pair.now;
    pair.sides[1].endpoint.set_addresses(now, all(&B[..2]));
    pair.run(SECOND);
    assert_eq!(said.lock().unwrap().len(), 1);
    assert_between(&pair, A[0], B[0]);
}

/// RFC 7296 §2.11: an answer goes from where its request came to, to where that came from.
#[test]
fn an_answer_goes_to_where_its_request_came_from() {
    let mut pair = pair(&B[..2]);
    pair.up();
    let mut path = path_of(&pair);
    path.local.set_ip(ip(A[1]));
    path.remote = "203.0.113.2:40001".parse().unwrap();
    asks_from(&mut pair, path);
    pair.flush();
    let (_, to, seen, _) = pair.wire.front().unwrap();
    assert_eq!((*to, *seen), (1, path.turned()));
    assert_between(&pair, A[0], B[0]);
}

/// Of no addresses at all nobody is told, since who looks for them may fail, nor of such as only this host or its
/// link knows.
#[test]
fn no_address_is_told_that_is_nobody_s() {
    let any = |net: &str| AddressPattern::Prefix(ip(net), 0);
    let mut pair = Pair::seeded(8, |a, connection, _| {
        connection.mobike = true;
        connection.children.truncate(1);
        if !a {
            connection.local_addrs = vec![any("0.0.0.0"), any("::")];
        }
    });
    let own = [B[0], B[1], "127.0.0.1", "::1", "fe80::1", "169.254.0.1"];
    let now = pair.now;
    pair.sides[1].endpoint.set_addresses(now, all(&own));
    let said = told(&mut pair);
    pair.up();
    let second = (notify::ADDITIONAL_IP4_ADDRESS, vec![198, 51, 100, 2]);
    assert_eq!(*said.lock().unwrap(), [vec![second]]);
    let now = pair.now;
    pair.sides[1].endpoint.set_addresses(now, vec![]);
    pair.run(5 * SECOND);
    assert_eq!(said.lock().unwrap().len(), 1);
}

/// RFC 4555 §3.5: where the responder does not move along, the IKE SA stays with its child.
#[test]
fn who_may_not_move_stays_with_its_child() {
    let mut pair = Pair::seeded(8, |a, connection, _| {
        connection.mobike = true;
        connection.children.truncate(1);
        if a {
            connection.local_addrs = patterns(&A);
        }
    });
    pair.up();
    for (own, at) in [(&A[..], 0), (&A[1..], 1)] {
        let (now, ike) = (pair.now, pair.ike(0));
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.set_addresses(now, all(own));
        assert!(endpoint.move_to(now, ike, ip(A[1])).unwrap());
        pair.run(5 * SECOND);
        // To one that is gone there is no way back.
        assert_eq!(path_of(&pair).local.ip(), ip(A[at]));
    }
}

/// ESP goes by no pair that nobody has answered by; a peer that is heard where it was is looked for no further.
#[test]
fn a_peer_that_is_heard_at_home_is_spoken_to_there() {
    let mut pair = pair(&B[..2]);
    let now = pair.now;
    pair.sides[0].endpoint.set_addresses(now, all(&A));
    pair.up();
    let home = path_of(&pair);
    pair.dead = [all(&A), all(&B)].concat();
    let mut away = home;
    away.local.set_ip(ip(A[1]));
    for _ in 0..120 {
        pair.run(SECOND);
        if path_of(&pair) == away {
            break;
        }
    }
    assert_eq!(path_of(&pair), away);
    let moved = pair.count(0, |e| matches!(e, Event::PathChanged { .. }));
    asks_from(&mut pair, home);
    assert_eq!(ends(&pair, 0), (ip(A[0]), ip(B[0])));
    let sa = pair.sides[0].endpoint.ike_sas().next().unwrap();
    assert!(!sa.searching);
    pair.dead.clear();
    pair.flush();
    assert_eq!(
        pair.count(0, |e| matches!(e, Event::PathChanged { .. })),
        moved
    );
    pair.run(60 * SECOND);
    assert_between(&pair, A[0], B[0]);
}

/// What the peer may not have heard before the IKE SA was rekeyed it is told after.
#[test]
fn the_heir_of_an_ike_sa_tells_again() {
    let mut pair = pair(&B[..2]);
    pair.up();
    let now = pair.now;
    let endpoint = &mut pair.sides[1].endpoint;
    endpoint.set_addresses(now, all(&[B[0], B[2]]));
    pair.flush();
    assert_eq!(pair.wire.len(), 1);
    pair.wire.clear();
    let ike = pair.ike(0);
    pair.sides[0].endpoint.rekey_ike(now, ike).unwrap();
    pair.run(5 * SECOND);
    pair.dead = all(&B[..1]);
    pair.run(60 * SECOND);
    assert_between(&pair, A[0], B[2]);
}

/// Where none of its own addresses is configured, whoever knows the routes says which leads to another one of the
/// peer's: that is no end of the search.
#[test]
fn the_routes_may_say_from_where_a_peer_is_looked_for() {
    let mut pair = pair(&B[..3]);
    pair.up();
    let home = path_of(&pair);
    pair.dead = all(&[A[0], B[0], B[1]]);
    for _ in 0..120 {
        pair.run(SECOND);
        let sa = pair.sides[0].endpoint.ike_sas().next().unwrap();
        let (ike, at) = (sa.id, sa.path.remote.ip());
        if sa.searching && at != home.remote.ip() {
            let (now, endpoint) = (pair.now, &mut pair.sides[0].endpoint);
            assert!(endpoint.move_to(now, ike, ip(A[1])).unwrap());
        }
    }
    assert_between(&pair, A[1], B[2]);
}

/// Whoever moves the IKE SA back while its peer is looked for, as a look at the routes may, does not keep it for
/// ever: it is given up about as soon.
#[test]
fn a_search_that_is_broken_off_ends() {
    let seconds_to_the_end = |moving: bool| {
        let mut pair = pair(&B[..2]);
        let now = pair.now;
        pair.sides[0].endpoint.set_addresses(now, all(&A));
        pair.up();
        pair.no_udp = true;
        let mut moved = 0;
        for second in 0..1200 {
            pair.run(SECOND);
            let endpoint = &mut pair.sides[0].endpoint;
            let Some(sa) = endpoint.ike_sas().next() else {
                assert_eq!(moved != 0, moving);
                return second;
            };
            let (ike, local) = (sa.id, sa.path.local.ip());
            assert!(!sa.searching || sa.path != sa.children[0].sa.path);
            if moving && local != ip(A[0]) {
                assert!(endpoint.move_to(pair.now, ike, ip(A[0])).unwrap());
                moved += 1;
            }
        }
        panic!("the peer is never given up");
    };
    let alone = seconds_to_the_end(false);
    assert!(seconds_to_the_end(true) < 2 * alone);
}

/// The same where a NAT gives the peer another port meanwhile.
#[test]
fn a_search_with_ports_that_change_ends() {
    let mut pair = pair(&B[..2]);
    pair.up();
    pair.dead = all(&B);
    let mut heard = 0;
    for _ in 0..600 {
        pair.run(SECOND);
        let Some(sa) = pair.sides[0].endpoint.ike_sas().next() else {
            assert_ne!(heard, 0);
            return;
        };
        let mut path = sa.path;
        if path.remote.ip() == ip(B[1]) && heard == 0 {
            path.remote.set_port(40_001);
            asks_from(&mut pair, path);
            assert_eq!(path_of(&pair), path);
            heard += 1;
        }
    }
    panic!("the peer is never given up");
}

/// A09: what is no host's address, or none that the policy allows, is never spoken to; a responder that
/// has very many is looked for at some, and given up after a while.
#[test]
fn further_addresses_are_bounded_and_the_policy_s() {
    let v4 = |octets: [u8; 4]| (payload::NOTIFY, [&[0, 0, 0x40, 13][..], &octets].concat());
    let many: Vec<_> = (0..20).map(|host| v4([198, 51, 100, host])).collect();
    let foreign = vec![
        v4([0, 0, 0, 0]),
        v4([127, 0, 0, 1]),
        v4([224, 0, 0, 1]),
        v4([255, 255, 255, 255]),
        v4([10, 0, 0, 1]),
        (payload::NOTIFY, vec![0, 0, 0x40, 13, 198, 51, 100]),
        (payload::NOTIFY, vec![0, 0, 0x40, 14, 198, 51, 100, 7]),
        (
            payload::NOTIFY,
            [&[0, 0, 0x40, 14][..], &[0xff; 16]].concat(),
        ),
    ];
    let nets = |nets: &[(&str, u8)]| -> Vec<AddressPattern> {
        let nets = nets.iter();
        nets.map(|(net, bits)| AddressPattern::Prefix(ip(net), *bits))
            .collect()
    };
    let of_none = [
        ("0.0.0.0", 32),
        ("127.0.0.0", 8),
        ("224.0.0.0", 3),
        ("::", 0),
    ];
    for (says, policy, most) in [
        (many, nets(&[("198.51.100.0", 24)]), 9),
        (foreign, nets(&of_none), 1),
    ] {
        let mut pair = Pair::seeded(8, |a, connection, _| {
            connection.mobike = true;
            if a {
                connection.remote_addrs.extend(policy.clone());
            }
        });
        let says = says.clone();
        pair.sides[1].endpoint.deviate(Box::new(move |message| {
            if message.header.exchange == exchange::IKE_AUTH {
                message.payloads.extend(says.clone());
            }
        }));
        pair.up();
        pair.no_udp = true;
        let (now, ike) = (pair.now, pair.ike(0));
        pair.sides[0].endpoint.check_liveness(now, ike).unwrap();
        let mut spoken = std::collections::BTreeSet::new();
        for _ in 0..600 {
            pair.run(SECOND);
            let sas = pair.sides[0].endpoint.ike_sas();
            spoken.extend(sas.map(|sa| sa.path.remote.ip()));
        }
        assert!(spoken.len() <= most, "{spoken:?}");
        assert!(most == 1 || spoken.len() > 2, "{spoken:?}");
        assert_eq!(pair.sides[0].endpoint.ike_sas().count(), 0);
        assert!(pair.recorded.len() < 80, "{}", pair.recorded.len());
    }
}
