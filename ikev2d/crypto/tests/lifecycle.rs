// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The life of IKE SAs: reauthentication, uniqueness, IKE SAs without children, other addresses.
#![allow(clippy::unwrap_used)]

mod peers;

use std::net::SocketAddr;
use std::time::Duration;

use ikev2d_proto::config::*;
use ikev2d_proto::event::*;
use ikev2d_proto::ts::TrafficSelector;

use peers::Pair;

fn ike_downs(pair: &Pair, side: usize, why: &str) -> usize {
    pair.count(
        side,
        |e| matches!(e, Event::IkeDown { reason, .. } if reason.contains(why)),
    )
}

/// S78, S80: a new IKE SA with new keys and new children, by a new authentication, before the old one
/// goes; at no moment does a side send through what the other does not have.
#[test]
fn reauthentication_makes_before_it_breaks() {
    for side in [0, 1] {
        for loss in [0, 15] {
            let mut pair = Pair::seeded(side as u64 + 5, |_, _, config| {
                config.retransmit_tries = 20;
                config.retransmit_timeout = Duration::from_secs(1);
                config.retransmit_base = 1.2;
            });
            pair.up();
            let now = pair.now;
            let more = pair.sides[0]
                .endpoint
                .initiate(now, "gw", Some("pfs"), None);
            more.unwrap();
            pair.run(Duration::from_secs(10));
            pair.agree(2);
            let (old, children) = (pair.ike(side), pair.sides[side].offered.len());
            pair.loss = loss;
            let now = pair.now;
            pair.sides[side].endpoint.reauthenticate(now, old).unwrap();
            for _ in 0..2000 {
                pair.run(Duration::from_millis(5));
                if loss == 0 {
                    pair.assert_no_black_hole("reauthentication");
                }
                assert!(!pair.sides[0].outbound.is_empty() && !pair.sides[1].outbound.is_empty());
            }
            pair.loss = 0;
            pair.run(Duration::from_secs(60));
            pair.agree(2);
            for at in [0, 1] {
                assert_eq!(pair.sides[at].endpoint.ike_sas().count(), 1);
                assert_eq!(pair.count(at, |e| matches!(e, Event::IkeUp { .. })), 2);
                assert_eq!(
                    pair.sides[at].offered.len(),
                    children + 2,
                    "both children anew"
                );
            }
            assert_ne!(pair.ike(side), old);
        }
    }
}

/// S76, S77, S83: rekeyings and reauthentications by frequency, over the IKE SA's life.
#[test]
fn every_nth_rekeying_by_time_is_a_reauthentication() {
    for frequency in [1, 2, 3, 5] {
        let mut pair = Pair::seeded(9, |a, connection, _| {
            if a {
                connection.rekey_time = Some(Duration::from_secs(100));
                connection.rand_time = Some(Duration::from_secs(1));
                connection.reauth_frequency = frequency;
            }
        });
        pair.up();
        pair.run(Duration::from_secs(100 * 15 + 50));
        pair.settle(1);
        let ups = pair.count(0, |e| matches!(e, Event::IkeUp { .. })) as u32;
        let rekeyings = pair.count(0, |e| matches!(e, Event::IkeRekeyed { .. })) as u32;
        assert_eq!(ups - 1, 15 / frequency, "{frequency}");
        assert_eq!(rekeyings, 15 - 15 / frequency, "{frequency}");
        assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
    }
}

/// S81, S76: off unless asked for.
#[test]
fn without_a_setting_nothing_is_reauthenticated() {
    let mut pair = Pair::seeded(9, |_, connection, _| {
        connection.rekey_time = Some(Duration::from_secs(100));
    });
    pair.up();
    pair.run(Duration::from_secs(1000));
    assert_eq!(pair.count(0, |e| matches!(e, Event::IkeUp { .. })), 1);
    assert!(pair.count(0, |e| matches!(e, Event::IkeRekeyed { .. })) >= 8);
}

/// S78, S79: by time; rekeyings do not put it off.
#[test]
fn reauthentication_by_time_comes_whatever_is_rekeyed() {
    let mut pair = Pair::seeded(4, |a, connection, _| {
        connection.rekey_time = Some(Duration::from_secs(70));
        if a {
            connection.reauth_time = Some(Duration::from_secs(300));
        }
    });
    pair.up();
    pair.run(Duration::from_secs(1500));
    pair.settle(1);
    let ups = pair.count(0, |e| matches!(e, Event::IkeUp { .. }));
    assert!((5..=7).contains(&ups), "{ups}");
}

/// S83: the peer rekeys when a reauthentication is due: it follows at once.
#[test]
fn the_peers_rekeyings_count_too() {
    let mut pair = Pair::seeded(4, |a, connection, _| {
        connection.reauth_frequency = if a { 2 } else { 0 };
    });
    pair.up();
    for rekeying in 1..=2 {
        let (now, ike) = (pair.now, pair.ike(1));
        pair.sides[1].endpoint.rekey_ike(now, ike).unwrap();
        pair.run(Duration::from_secs(20));
        pair.agree(1);
        assert_eq!(
            pair.count(0, |e| matches!(e, Event::IkeUp { .. })),
            rekeying
        );
    }
}

/// S78: a peer that can't authenticate any more keeps what there is, for as long as it may live.
#[test]
fn a_reauthentication_that_fails_keeps_the_old_ike_sa_until_its_end() {
    let mut pair = Pair::seeded(4, |a, connection, _| {
        if a {
            connection.reauth_time = Some(Duration::from_secs(100));
            connection.over_time = Duration::from_secs(60);
        }
    });
    pair.up();
    let other = Secret {
        ids: vec![],
        secret: zeroize::Zeroizing::new(b"another one".to_vec()),
    };
    pair.sides[1].endpoint.set_secrets(vec![other]);
    pair.run(Duration::from_secs(130));
    pair.agree(1);
    assert!(pair.sides[1].endpoint.stats().auth_failures >= 1);
    pair.run(Duration::from_secs(60));
    pair.agree(0);
}

/// B3: what becomes of a peer's other IKE SAs.
#[test]
fn uniqueness_keeps_replaces_or_refuses() {
    for (unique, dead, ikes) in [
        (Unique::No, true, 1),
        (Unique::Never, true, 2),
        (Unique::Replace, true, 1),
        (Unique::Keep, true, 1),
    ] {
        let mut pair = Pair::seeded(8, |a, connection, _| {
            if !a {
                connection.unique = unique;
            }
        });
        pair.up();
        // The peer comes again, and knows of nothing.
        let mut again = Pair::seeded(99, |_, _, _| {});
        std::mem::swap(&mut pair.sides[0], &mut again.sides[0]);
        assert!(dead);
        let now = pair.now;
        let _ = pair.sides[0]
            .endpoint
            .initiate(now, "gw", Some("net"), None);
        pair.run(Duration::from_secs(40));
        assert_eq!(pair.sides[1].endpoint.ike_sas().count(), ikes, "{unique:?}");
        let up = pair.sides[0].endpoint.ike_sas().count();
        assert_eq!(up, usize::from(unique != Unique::Keep), "{unique:?}");
    }
}

/// B3: who reauthenticates has not lost what there is.
#[test]
fn initial_contact_is_said_only_by_who_knows_of_no_other_ike_sa() {
    let mut pair = Pair::seeded(8, |_, _, _| {});
    pair.up();
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.reauthenticate(now, ike).unwrap();
    pair.run(Duration::from_secs(20));
    assert_eq!(ike_downs(&pair, 1, "initial contact"), 0);
    pair.agree(1);
}

/// B16: RFC 6023.
#[test]
fn ike_sas_without_a_child_are_made_where_both_want_them() {
    use Childless::{Allow, Force, Never, Prefer};
    for (a, b, messages, works) in [
        (Allow, Allow, 4, true),
        (Prefer, Allow, 6, true),
        (Prefer, Never, 4, true),
        (Force, Allow, 6, true),
        (Force, Never, 4, false),
        (Allow, Force, 4, false),
        (Force, Force, 6, true),
    ] {
        let mut pair = Pair::seeded(8, |is_a, connection, _| {
            connection.childless = if is_a { a } else { b };
        });
        let now = pair.now;
        pair.sides[0]
            .endpoint
            .initiate(now, "gw", Some("net"), None)
            .unwrap();
        pair.run(Duration::from_secs(10));
        pair.agree(usize::from(works));
        assert_eq!(pair.recorded.len(), messages, "{a:?} {b:?}");
    }
    // And with no child at all.
    let mut pair = Pair::seeded(8, |_, _, _| {});
    let now = pair.now;
    pair.sides[0]
        .endpoint
        .initiate(now, "gw", None, None)
        .unwrap();
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.sides[1].endpoint.stats().established, 1);
    pair.agree(0);
}

fn mobile(a: bool, connection: &mut Connection, _: &mut EndpointConfig) {
    connection.mobike = true;
    let elsewhere = AddressPattern::Prefix("198.51.100.0".parse().unwrap(), 24);
    if a {
        connection.local_addrs.push(elsewhere);
    } else {
        connection.remote_addrs.push(elsewhere);
    }
}

fn moved(pair: &Pair, side: usize) -> usize {
    pair.count(side, |e| matches!(e, Event::PathChanged { .. }))
}

/// B14, B63: both sides' paths follow the initiator to its new address, with ESP.
#[test]
fn an_established_tunnel_moves_to_another_address() {
    let mut pair = Pair::seeded(8, mobile);
    pair.up();
    // From IKE_AUTH on port 4500 (RFC 4555 §3.3).
    let path = pair.sides[0].endpoint.ike_sas().next().unwrap().path;
    assert_eq!((path.local.port(), path.remote.port()), (4500, 4500));
    let (now, ike) = (pair.now, pair.ike(0));
    let new: SocketAddr = "198.51.100.9:4500".parse().unwrap();
    assert!(pair.sides[0].endpoint.move_to(now, ike, new.ip()).unwrap());
    pair.run(Duration::from_secs(5));
    assert_eq!(
        pair.sides[0].endpoint.ike_sas().next().unwrap().path.local,
        new
    );
    assert_eq!(
        pair.sides[1].endpoint.ike_sas().next().unwrap().path.remote,
        new
    );
    assert_eq!((moved(&pair, 0), moved(&pair, 1)), (1, 1));
    pair.agree(1);
    // It goes on from there.
    for side in [1, 0] {
        let (now, ike, child) = (pair.now, pair.ike(side), pair.child(side));
        pair.sides[side].endpoint.rekey_child(now, child).unwrap();
        pair.run(Duration::from_secs(5));
        let now = now + Duration::from_secs(5);
        pair.sides[side].endpoint.rekey_ike(now, ike).unwrap();
        pair.run(Duration::from_secs(5));
        pair.agree(1);
    }
    assert_eq!(
        pair.sides[1].endpoint.ike_sas().next().unwrap().path.remote,
        new
    );
}

/// B14: after a rekeying too.
#[test]
fn a_rekeyed_ike_sa_can_move_still() {
    let mut pair = Pair::seeded(8, mobile);
    pair.up();
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.rekey_ike(now, ike).unwrap();
    pair.run(Duration::from_secs(5));
    let (now, ike) = (pair.now, pair.ike(0));
    let new = "198.51.100.9".parse().unwrap();
    assert!(pair.sides[0].endpoint.move_to(now, ike, new).unwrap());
    pair.run(Duration::from_secs(5));
    assert_eq!(
        pair.sides[1]
            .endpoint
            .ike_sas()
            .next()
            .unwrap()
            .path
            .remote
            .ip(),
        new
    );
}

/// B14: not without the peer's word.
#[test]
fn who_has_not_agreed_on_it_does_not_move() {
    for can in [0, 1] {
        let mut pair = Pair::seeded(8, |a, connection, _| connection.mobike = a == (can == 0));
        pair.up();
        let (now, ike) = (pair.now, pair.ike(0));
        let new = "198.51.100.9".parse().unwrap();
        assert!(!pair.sides[0].endpoint.move_to(now, ike, new).unwrap());
    }
}

/// A09, B14: neither a forged message, nor a recorded one that is sent again, moves anything.
#[test]
fn only_a_new_authenticated_message_moves_an_ike_sa() {
    for mobike in [true, false] {
        let mut pair = Pair::seeded(8, |a, connection, config| {
            mobile(a, connection, config);
            connection.mobike = mobike;
            connection.encap = a && !mobike;
        });
        pair.up();
        let (now, ike) = (pair.now, pair.ike(0));
        pair.sides[0].endpoint.check_liveness(now, ike).unwrap();
        if mobike {
            let new = "198.51.100.9".parse().unwrap();
            assert!(pair.sides[0].endpoint.move_to(now, ike, new).unwrap());
        }
        pair.run(Duration::from_secs(5));
        let before = pair.sides[1].endpoint.ike_sas().next().unwrap().path;
        let attacker = Path::new(before.local, "203.0.113.66:4500".parse().unwrap());
        for message in pair.recorded.clone() {
            for bit in [None, Some(18 * 8), Some(200), Some(message.len() * 8 - 1)] {
                let mut message = message.clone();
                if let Some(bit) = bit {
                    message[bit / 8] ^= 1 << (bit % 8);
                }
                for side in [0, 1] {
                    let now = pair.now;
                    pair.sides[side]
                        .endpoint
                        .handle_datagram(now, attacker, &message);
                }
            }
        }
        let ikes: Vec<_> = pair.sides[1]
            .endpoint
            .ike_sas()
            .map(|sa| (sa.state, sa.path))
            .collect();
        assert!(ikes.contains(&("ESTABLISHED", before)), "{ikes:?}");
        assert!(!ikes.contains(&("ESTABLISHED", attacker)));
    }
}

/// S88, S90, S94: the responder narrows; what no selector of both covers gets no child.
#[test]
fn selectors_are_narrowed_to_what_both_allow() {
    let udp = |text: &str, port: u16| {
        let SelectorConfig::Fixed(ts) = peers::net(text) else {
            panic!();
        };
        SelectorConfig::Fixed(TrafficSelector {
            protocol: 17,
            start_port: port,
            end_port: port,
            ..ts
        })
    };
    let mut pair = Pair::seeded(8, |a, connection, _| {
        connection.children.truncate(1);
        let child = &mut connection.children[0];
        if a {
            child.local_ts = vec![peers::net("10.1.0.0/16"), peers::net("10.9.0.0/16")];
            child.remote_ts = vec![peers::net("10.2.0.0/16")];
        } else {
            child.local_ts = vec![udp("10.2.0.0/24", 53), udp("10.2.1.0/24", 123)];
            child.remote_ts = vec![peers::net("10.1.128.0/17"), peers::net("10.8.0.0/16")];
        }
    });
    pair.up();
    let a = pair.sides[0].offered.values().next().unwrap();
    let b = pair.sides[1].offered.values().next().unwrap();
    assert_eq!((&a.ts_local, &a.ts_remote), (&b.ts_remote, &b.ts_local));
    assert_eq!(a.ts_local.len(), 1);
    assert_eq!(a.ts_remote.len(), 2);
    assert!(a.ts_remote.iter().all(|ts| ts.protocol == 17));
}

/// S95: several children, each with its own selectors.
#[test]
fn several_children_share_an_ike_sa() {
    let mut pair = Pair::seeded(8, |a, connection, _| {
        let template = connection.children[0].clone();
        connection.children = (0..20u8)
            .map(|i| {
                let (local, remote) = if a { (1, 2) } else { (2, 1) };
                ChildConfig {
                    name: format!("c{i}"),
                    local_ts: vec![peers::net(&format!("10.{local}.{i}.0/24"))],
                    remote_ts: vec![peers::net(&format!("10.{remote}.{i}.0/24"))],
                    ..template.clone()
                }
            })
            .collect();
    });
    for i in 0..20 {
        let (now, name) = (pair.now, format!("c{i}"));
        pair.sides[0]
            .endpoint
            .initiate(now, "gw", Some(&name), None)
            .unwrap();
    }
    pair.run(Duration::from_secs(30));
    pair.agree(20);
    assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
}

/// B40: the mode is what both want.
#[test]
fn transport_mode_is_negotiated() {
    for (a, b) in [(true, true), (true, false), (false, true)] {
        let mut pair = Pair::seeded(8, |is_a, connection, _| {
            let child = &mut connection.children[0];
            child.transport = if is_a { a } else { b };
            child.local_ts = vec![SelectorConfig::Dynamic];
            child.remote_ts = vec![SelectorConfig::Dynamic];
        });
        pair.up();
        for side in &pair.sides {
            assert_eq!(side.offered.values().next().unwrap().transport, a && b);
        }
    }
}

/// B40: what is behind the two ends needs a tunnel, whatever is configured.
#[test]
fn transport_mode_is_for_the_two_hosts_themselves() {
    let mut pair = Pair::seeded(8, |_, connection, _| {
        connection.children[0].transport = true;
    });
    pair.up();
    for side in &pair.sides {
        assert!(!side.offered.values().next().unwrap().transport);
    }
}

/// B40: a NAT makes addresses other ones than the hosts' own (RFC 7296 §2.23.1): a tunnel then.
#[test]
fn transport_mode_gives_way_where_udp_must_carry_esp() {
    let mut pair = Pair::seeded(8, |is_a, connection, _| {
        let child = &mut connection.children[0];
        child.transport = true;
        child.local_ts = vec![SelectorConfig::Dynamic];
        child.remote_ts = vec![SelectorConfig::Dynamic];
        connection.encap = is_a;
    });
    pair.up();
    for side in &pair.sides {
        let sa = side.offered.values().next().unwrap();
        assert!(sa.udp_encap && !sa.transport);
    }
}

/// Nothing is due that was due already: else whoever waits for it spins.
fn assert_timers_go_on(pair: &mut Pair, side: usize, time: Duration) {
    let end = pair.now + time;
    while let Some(next) = pair.sides[side].endpoint.poll_timeout() {
        if next > end {
            break;
        }
        pair.now = pair.now.max(next);
        let endpoint = &mut pair.sides[side].endpoint;
        endpoint.handle_timeout(pair.now);
        let next = endpoint.poll_timeout();
        assert!(next.is_none_or(|next| next > pair.now), "due in the past");
        pair.flush();
        pair.wire.clear();
    }
    pair.now = end;
}

#[test]
fn a_replaced_child_of_an_ike_sa_that_is_being_deleted_is_not_due_for_ever() {
    let mut pair = Pair::seeded(8, |_, _, _| {});
    pair.up();
    let (now, child) = (pair.now, pair.child(1));
    pair.sides[1].endpoint.rekey_child(now, child).unwrap();
    pair.flush();
    pair.deliver(0);
    pair.flush();
    pair.wire.clear();
    assert_timers_go_on(&mut pair, 0, Duration::from_secs(150));
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.terminate_ike(now, ike).unwrap();
    assert_timers_go_on(&mut pair, 0, Duration::from_secs(300));
    assert_eq!(pair.sides[0].endpoint.ike_sas().count(), 0);
}

/// Events that tell of an IKE SA's end find it as it was; whoever has taken them all finds nothing.
#[test]
fn an_ike_sa_that_is_gone_is_shown_until_its_last_event_is_taken() {
    let mut pair = Pair::seeded(8, |_, _, _| {});
    pair.up();
    let (mut now, ike) = (pair.now, pair.ike(0));
    let endpoint = &mut pair.sides[0].endpoint;
    while endpoint.poll_event().is_some() {}
    endpoint.check_liveness(now, ike).unwrap();
    // Nobody answers.
    while endpoint.ike_sa(ike).is_some() {
        now = endpoint.poll_timeout().unwrap().max(now);
        endpoint.handle_timeout(now);
    }
    let mut down = false;
    while let Some(event) = endpoint.poll_event() {
        let gone = endpoint.ike_sa_lately(ike).unwrap();
        assert!(gone.established.is_some());
        assert_eq!(gone.connection, "gw");
        down |= matches!(event, Event::IkeDown { .. });
    }
    assert!(down);
    assert!(endpoint.ike_sa_lately(ike).is_none());
}

#[test]
fn liveness_is_not_due_while_a_refused_task_waits() {
    let mut pair = Pair::seeded(8, |a, connection, _| {
        connection.dpd_delay = a.then_some(Duration::from_millis(200));
    });
    pair.up();
    // A peer that is busy refuses for a while.
    let (now, child) = (pair.now, pair.child(1));
    pair.sides[1].endpoint.rekey_child(now, child).unwrap();
    pair.flush();
    pair.wire.clear();
    let ike = pair.ike(0);
    pair.sides[0].endpoint.rekey_ike(now, ike).unwrap();
    for _ in 0..2 {
        pair.flush();
        pair.deliver(0);
    }
    assert_timers_go_on(&mut pair, 0, Duration::from_millis(800));
}

/// The peer rekeys the IKE SA before it has heard of the move: what comes of that moves all the same.
#[test]
fn a_move_under_way_is_not_lost_to_the_peers_rekeying() {
    let mut pair = Pair::seeded(8, mobile);
    pair.up();
    let (now, ikes) = (pair.now, [pair.ike(0), pair.ike(1)]);
    let new = "198.51.100.9".parse().unwrap();
    assert!(pair.sides[0].endpoint.move_to(now, ikes[0], new).unwrap());
    pair.flush();
    pair.wire.clear();
    pair.sides[1].endpoint.rekey_ike(now, ikes[1]).unwrap();
    pair.run(Duration::from_secs(60));
    let sa = pair.sides[1].endpoint.ike_sas().next().unwrap();
    assert_ne!(sa.id, ikes[1], "it is rekeyed");
    assert_eq!(sa.path.remote.ip(), new);
    assert_eq!(sa.children[0].sa.path.remote.ip(), new);
}

/// Rekeyings do not lengthen what an authentication is good for.
#[test]
fn an_authentication_ends_whatever_is_rekeyed() {
    let mut pair = Pair::seeded(4, |a, connection, _| {
        if a {
            connection.rekey_time = Some(Duration::from_secs(40));
            connection.reauth_time = Some(Duration::from_secs(100));
        }
    });
    pair.up();
    let other = Secret {
        ids: vec![],
        secret: zeroize::Zeroizing::new(b"another one".to_vec()),
    };
    pair.sides[1].endpoint.set_secrets(vec![other]);
    pair.run(Duration::from_secs(60));
    assert!(pair.count(0, |e| matches!(e, Event::IkeRekeyed { .. })) >= 1);
    // As the peer may: the last one when a reauthentication has failed already.
    let (now, ike) = (pair.now, pair.ike(1));
    pair.run(Duration::from_secs(60));
    let _ = pair.sides[1].endpoint.rekey_ike(now, ike);
    pair.run(Duration::from_secs(60));
    pair.agree(0);
}

/// The peer rekeys the IKE SA that is being replaced: what comes of that is replaced.
#[test]
fn a_reauthentication_replaces_what_the_peer_has_rekeyed_meanwhile() {
    let mut pair = Pair::seeded(4, |_, _, _| {});
    pair.up();
    let (now, ikes) = (pair.now, [pair.ike(0), pair.ike(1)]);
    pair.sides[0].endpoint.reauthenticate(now, ikes[0]).unwrap();
    pair.flush();
    pair.wire.clear();
    pair.sides[1].endpoint.rekey_ike(now, ikes[1]).unwrap();
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.sides[0].endpoint.ike_sas().count(), 1);
    assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
    pair.agree(1);
}

/// A connection that believes any identity has no say over the IKE SAs of another one.
#[test]
fn an_identity_claimed_over_another_connection_ends_nothing() {
    for unique in [Unique::No, Unique::Replace] {
        let mut pair = Pair::seeded(8, |_, _, _| {});
        pair.up();
        let any = Connection {
            name: "any".to_owned(),
            remote_id: Identity::Any,
            unique,
            ..peers::connection(false)
        };
        pair.sides[1].endpoint.set_connections(vec![any.into()]);
        let mut again = Pair::seeded(99, |_, _, _| {});
        std::mem::swap(&mut pair.sides[0], &mut again.sides[0]);
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.initiate(now, "gw", Some("net"), None).unwrap();
        pair.run(Duration::from_secs(40));
        assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 2, "{unique:?}");
    }
}

/// RFC 7296 §2.4: it is about the two identities, not about a connection.
#[test]
fn a_second_connection_of_the_same_identities_makes_no_initial_contact() {
    let mut pair = Pair::seeded(8, |_, _, _| {});
    let second = Connection {
        name: "second".to_owned(),
        ..peers::connection(true)
    };
    let both = vec![peers::connection(true).into(), second.into()];
    pair.sides[0].endpoint.set_connections(both);
    pair.up();
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "second", Some("net"), None).unwrap();
    pair.run(Duration::from_secs(20));
    assert_eq!(ike_downs(&pair, 1, "initial contact"), 0);
    assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 2);
}

/// B3: a peer that may have one IKE SA only reauthenticates it, and has one afterwards. What comes
/// beside and stays is not there for long.
#[test]
fn a_reauthentication_is_no_second_ike_sa() {
    let keep = |a: bool, connection: &mut Connection, _: &mut EndpointConfig| {
        if !a {
            connection.unique = Unique::Keep;
        }
    };
    let mut pair = Pair::seeded(8, keep);
    pair.up();
    for _ in 0..3 {
        let (now, ike) = (pair.now, pair.ike(0));
        pair.sides[0].endpoint.reauthenticate(now, ike).unwrap();
        pair.run(Duration::from_secs(60));
        assert_ne!(pair.ike(0), ike);
        assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
        pair.agree(1);
    }
    assert_eq!(pair.sides[1].endpoint.stats().auth_failures, 0);
    // Another one that does not replace the first.
    let mut pair = Pair::seeded(8, keep);
    let second = Connection {
        name: "second".to_owned(),
        ..peers::connection(true)
    };
    let both = vec![peers::connection(true).into(), second.into()];
    pair.sides[0].endpoint.set_connections(both);
    pair.up();
    let (now, first) = (pair.now, pair.ike(1));
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "second", Some("net"), None).unwrap();
    pair.run(Duration::from_secs(60));
    let left: Vec<_> = pair.sides[1].endpoint.ike_sas().map(|sa| sa.id).collect();
    assert_eq!(left, [first]);
}

/// B55: a child that is added while the IKE SA is there comes on it, from either side, and is rekeyed like the
/// others, also after its IKE SA was; those that were there stay as they were.
#[test]
fn a_child_that_is_added_comes_on_the_ike_sa_that_is_there() {
    for side in [0, 1] {
        let mut pair = Pair::new(|_, connection, _| connection.children.truncate(1));
        pair.up();
        for (side, a) in [(0, true), (1, false)] {
            let mut policy = peers::connection(a);
            let [kept, added] = &mut policy.children[..] else {
                panic!("{:?}", policy.children);
            };
            kept.esp_proposals.clear();
            added.name = "late".to_owned();
            let policy = std::sync::Arc::new(policy);
            let endpoint = &mut pair.sides[side].endpoint;
            endpoint.set_connections(vec![policy.clone()]);
            endpoint.add_children(&policy);
        }
        let (ike, now) = (pair.ike(side), pair.now);
        let endpoint = &mut pair.sides[side].endpoint;
        assert!(!endpoint.asks_for("gw", "late"));
        let by = endpoint.initiate(now, "gw", Some("late"), None).unwrap();
        assert_eq!(by, ike);
        assert!(endpoint.asks_for("gw", "late") && !endpoint.asks_for("gw", "net"));
        pair.run(Duration::from_secs(1));
        pair.agree(2);
        assert!(!pair.sides[side].endpoint.asks_for("gw", "late"));
        for of_ike in [false, true] {
            let now = pair.now;
            if of_ike {
                pair.sides[side].endpoint.rekey_ike(now, ike).unwrap();
                pair.run(Duration::from_secs(5));
            }
            for side in [side, 1 - side] {
                let sas = pair.sides[side].endpoint.ike_sas();
                let all: Vec<ChildId> = sas.flat_map(|sa| sa.children).map(|c| c.sa.id).collect();
                assert_eq!(all.len(), 2);
                for child in all {
                    let now = pair.now;
                    pair.sides[side].endpoint.rekey_child(now, child).unwrap();
                    pair.run(Duration::from_secs(5));
                    pair.agree(2);
                }
            }
        }
        let rekeyed = pair.count(side, |e| matches!(e, Event::ChildRekeyed { .. }));
        assert_eq!(rekeyed, 8);
    }
}

/// B55: who has come by an older policy gets no child of one that lets others in; it comes on an IKE SA of its
/// own then, from whom we ask for it.
#[test]
fn a_child_that_is_added_for_another_peer_does_not_come_on_the_ike_sa_that_is_there() {
    for by_us in [true, false] {
        let mut pair = Pair::new(|_, connection, _| connection.children.truncate(1));
        pair.up();
        let (ike, now) = (pair.ike(0), pair.now);
        for (side, a) in [(0, true), (1, false)] {
            let mut policy = peers::connection(a);
            if let Some(added) = policy.children.get_mut(1) {
                added.name = "late".to_owned();
            }
            // The first end lets others in as well; the other one would give the child.
            if side == 0 {
                let net = "198.51.100.0".parse().unwrap();
                policy.remote_addrs.push(AddressPattern::Prefix(net, 24));
            }
            let policy = std::sync::Arc::new(policy);
            let endpoint = &mut pair.sides[side].endpoint;
            endpoint.set_connections(vec![policy.clone()]);
            endpoint.add_children(&policy);
        }
        let side = usize::from(!by_us);
        let endpoint = &mut pair.sides[side].endpoint;
        let begun = endpoint.initiate(now, "gw", Some("late"), None).unwrap();
        pair.run(Duration::from_secs(1));
        let late_on = |id| {
            let mut sas = pair.sides[0].endpoint.ike_sas().filter(|sa| sa.id == id);
            sas.any(|sa| sa.children.iter().any(|c| *c.sa.child == *"late"))
        };
        assert!(!late_on(ike));
        if by_us {
            assert!(begun != ike && late_on(begun));
        } else {
            let refused = |e: &Event| matches!(e, Event::InitiateFailed { .. });
            assert_eq!(pair.count(1, refused), 1);
        }
    }
}
