// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP encapsulation (RFC 9329): two endpoints, with or without UDP between.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::Arc;
use std::time::Duration;

use ikev2d_proto::config::*;
use ikev2d_proto::endpoint::StreamUse;
use ikev2d_proto::event::*;
use ikev2d_proto::proposal::Proposal;

use peers::Pair;

const SECOND: Duration = Duration::from_secs(1);

/// Two that may use TCP, the initiator as it is said.
fn pair(tcp: Tcp) -> Pair {
    changed(tcp, |_, _, _| {})
}

fn changed(tcp: Tcp, change: impl Fn(bool, &mut Connection, &mut EndpointConfig)) -> Pair {
    Pair::seeded(7, |a, connection, config| {
        connection.tcp = if a { tcp } else { Tcp::Fallback };
        change(a, connection, config);
    })
}

/// The stream that carries a side's IKE SA.
fn stream(pair: &Pair, side: usize) -> Option<StreamId> {
    let id = pair.current_ike(side).unwrap();
    pair.sides[side].endpoint.ike_sa(id).unwrap().path.stream
}

fn initiate(pair: &mut Pair) {
    let now = pair.now;
    let begun = pair.sides[0]
        .endpoint
        .initiate(now, "gw", Some("net"), None);
    begun.unwrap();
}

fn downs(pair: &Pair, side: usize) -> Vec<&str> {
    let events = pair.sides[side].events.iter();
    let reasons = events.filter_map(|event| match event {
        Event::IkeDown { reason, .. } => Some(&**reason),
        _ => None,
    });
    reasons.collect()
}

/// B19, §6.1: TCP is tried where UDP gets no answer, and not before.
#[test]
fn tcp_is_tried_where_udp_gets_no_answer() {
    let mut open = pair(Tcp::Fallback);
    open.up();
    assert_eq!((stream(&open, 0), open.streams.len()), (None, 0));

    let mut blocked = pair(Tcp::Fallback);
    blocked.no_udp = true;
    blocked.up();
    assert!(stream(&blocked, 0).is_some());
    assert_eq!(stream(&blocked, 0), stream(&blocked, 1));
    // Three first messages by UDP, four messages by TCP.
    assert_eq!((blocked.recorded.len(), blocked.streamed), (7, 4));
    for side in &blocked.sides {
        for child in side.offered.values() {
            assert!(child.path.stream.is_some() && !child.udp_encap);
        }
    }

    let mut off = pair(Tcp::Off);
    off.no_udp = true;
    initiate(&mut off);
    off.run(300 * SECOND);
    assert_eq!(downs(&off, 0), [reason::NO_ANSWER]);
    assert!(off.streams.is_empty());
}

/// B19: by TCP alone, which nobody need take.
#[test]
fn who_wants_tcp_alone_says_nothing_by_udp() {
    let mut alone = pair(Tcp::Always);
    alone.no_udp = true;
    alone.up();
    assert_eq!((alone.recorded.len(), alone.streamed), (4, 4));

    let mut refused = pair(Tcp::Always);
    refused.no_tcp = true;
    initiate(&mut refused);
    refused.run(SECOND);
    assert_eq!(
        downs(&refused, 0),
        ["no TCP connection to the peer: refused"]
    );

    let mut off = changed(Tcp::Always, |a, connection, _| {
        if !a {
            connection.tcp = Tcp::Off;
        }
    });
    initiate(&mut off);
    off.run(300 * SECOND);
    assert_eq!(off.sides[1].endpoint.ike_sas().count(), 0);
    assert_eq!(downs(&off, 0).len(), 1);
}

/// B19: a connection that is off is so to whoever came in by another one of the same addresses, comes back
/// with a ticket, or moves.
#[test]
fn who_is_off_is_not_reached_by_tcp_in_any_way() {
    let guarded = |tcp| {
        let change = |a: bool, connection: &mut Connection, _: &mut EndpointConfig| {
            connection.resumption = Some(3600 * SECOND);
            connection.dpd_delay = Some(10 * SECOND);
            connection.mobike = true;
            let nets = [AddressPattern::Prefix([192, 0, 2, 0].into(), 24)];
            if a {
                connection.local_addrs.extend(nets);
            } else {
                connection.remote_addrs = nets.to_vec();
                connection.tcp = Tcp::Off;
            }
        };
        let mut pair = changed(tcp, change);
        let mut off = peers::connection(false);
        change(false, &mut off, &mut EndpointConfig::default());
        let open = Connection {
            name: "others".to_owned(),
            remote_id: Identity::parse("others.test"),
            tcp: Tcp::Fallback,
            ..off.clone()
        };
        let endpoint = &mut pair.sides[1].endpoint;
        endpoint.set_connections([open, off].map(Arc::new).to_vec());
        pair
    };
    let streamed = |pair: &Pair| {
        let mut sas = pair.sides[1].endpoint.ike_sas();
        sas.any(|sa| sa.path.stream.is_some())
    };

    // Another connection lets IKE_SA_INIT in; who it is then says IKE_AUTH.
    let mut pair = guarded(Tcp::Always);
    initiate(&mut pair);
    pair.run(SECOND);
    assert!(pair.streamed >= 3, "{} messages by TCP", pair.streamed);
    assert_eq!(
        pair.count(1, |event| matches!(event, Event::IkeUp { .. })),
        0
    );
    assert!(!streamed(&pair));

    // A ticket that UDP has brought.
    let mut pair = guarded(Tcp::Fallback);
    pair.up();
    pair.loss = 100;
    pair.run(300 * SECOND);
    pair.agree(0);
    (pair.loss, pair.no_udp) = (0, true);
    let ups = pair.count(1, |event| matches!(event, Event::IkeUp { .. }));
    initiate(&mut pair);
    pair.run(60 * SECOND);
    assert!(pair.streamed > 0);
    assert_eq!(pair.sides[1].endpoint.stats().resumptions, 0);
    assert_eq!(
        pair.count(1, |event| matches!(event, Event::IkeUp { .. })),
        ups
    );

    // A new message of an SA that UDP carries.
    let mut pair = guarded(Tcp::Fallback);
    pair.up();
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.check_liveness(now, ike).unwrap();
    pair.flush();
    pair.wire[0].2.stream = Some(Numbers::default().next_stream());
    pair.deliver(0);
    assert!(!streamed(&pair));

    // A peer that moves, and finds no UDP there.
    let mut pair = guarded(Tcp::Fallback);
    pair.up();
    pair.no_udp = true;
    let (now, ike) = (pair.now, pair.ike(0));
    let address = "192.0.2.77".parse().unwrap();
    let moved = pair.sides[0].endpoint.move_to(now, ike, address);
    assert_eq!(moved, Ok(true));
    for _ in 0..30 {
        pair.run(SECOND);
        assert!(!streamed(&pair));
    }
    assert!(pair.streamed > 0);
}

/// B19, §6.2: what TCP carries is not sent again, and a peer that says nothing is given up all the same.
#[test]
fn nothing_is_sent_twice_on_a_stream_that_is_there() {
    for side in [0, 1] {
        let mut pair = changed(Tcp::Always, |_, connection, _| {
            connection.dpd_delay = Some(30 * SECOND);
        });
        pair.up();
        let before = pair.streamed;
        // The other end holds the connection, and says nothing.
        let end = pair.now + 600 * SECOND;
        while downs(&pair, side).is_empty() {
            assert!(pair.now < end, "it is never given up");
            pair.wire.clear();
            pair.flush();
            pair.wire.clear();
            let Some(at) = pair.sides[side].endpoint.poll_timeout() else {
                panic!("nothing is waited for");
            };
            pair.now = pair.now.max(at);
            let now = pair.now;
            pair.sides[side].endpoint.handle_timeout(now);
            pair.flush();
        }
        assert_eq!(downs(&pair, side), [reason::NO_ANSWER]);
        assert_eq!(pair.streamed, before + 1, "one question");
    }
}

/// B19, §6.7: the SAs stay when the connection ends, and the original initiator makes another, whoever
/// has something to say, and whoever has rekeyed meanwhile.
#[test]
fn sas_outlive_their_stream() {
    for rekeyed in [false, true] {
        for asks in [None, Some(0), Some(1)] {
            let mut pair = pair(Tcp::Always);
            pair.up();
            if rekeyed {
                let (now, ike) = (pair.now, pair.ike(1));
                pair.sides[1].endpoint.rekey_ike(now, ike).unwrap();
                pair.run(20 * SECOND);
            }
            let child = pair.child(0);
            let before = stream(&pair, 0);
            if let Some(side) = asks {
                let (now, ike) = (pair.now, pair.current_ike(side).unwrap());
                pair.sides[side].endpoint.check_liveness(now, ike).unwrap();
                pair.flush();
            }
            pair.cut();
            pair.run(20 * SECOND);
            assert_ne!(stream(&pair, 0), before);
            assert_eq!(stream(&pair, 0), stream(&pair, 1));
            assert_eq!(
                pair.streams.len(),
                1,
                "one connection, not one for each IKE SA"
            );
            assert_eq!(pair.child(0), child);
            pair.agree(1);
            for side in 0..2 {
                // Nothing is awaited: both have got their answers.
                assert_eq!(pair.sides[side].endpoint.stats().retransmits, 0);
                let moved = pair.count(side, |event| {
                    let Event::PathChanged { path, .. } = event else {
                        return false;
                    };
                    path.stream == stream(&pair, side)
                });
                assert!(moved > 0, "the children go along");
                let used = pair.sides[side].endpoint.stream_use(before.unwrap());
                assert_eq!(used, StreamUse::Nothing);
                let on = stream(&pair, side).unwrap();
                let used = pair.sides[side].endpoint.stream_use(on);
                assert_eq!(used, StreamUse::Established);
            }
        }
    }
}

/// B19: a connection that ends after any message of a tunnel's set-up or renewal costs time, and no SA.
#[test]
fn a_stream_may_end_after_any_message() {
    for cut in 0..9 {
        let mut pair = pair(Tcp::Always);
        initiate(&mut pair);
        let mut renewed = false;
        for step in 0..400 {
            pair.flush();
            if step == cut {
                pair.cut();
                pair.flush();
            }
            if !pair.wire.is_empty() {
                pair.deliver(0);
            } else if !pair.advance(pair.now + 20 * SECOND) || step > 300 {
                if renewed {
                    break;
                }
                renewed = true;
                let (now, child) = (pair.now, pair.child(0));
                pair.sides[0].endpoint.rekey_child(now, child).unwrap();
                let ike = pair.current_ike(1).unwrap();
                pair.sides[1].endpoint.rekey_ike(now, ike).unwrap();
            }
        }
        assert!(renewed, "{cut}");
        pair.run(60 * SECOND);
        pair.agree(1);
        assert_eq!(stream(&pair, 0), stream(&pair, 1), "{cut}");
        assert_eq!(pair.sides[0].endpoint.ike_sas().count(), 1, "{cut}");
    }
}

/// B19: who can't be reached for a while is asked for again and again, not faster than once a second,
/// and given up in the end.
#[test]
fn a_peer_that_refuses_connections_is_given_up_in_time() {
    let mut pair = pair(Tcp::Always);
    pair.up();
    let begun = pair.now;
    pair.no_tcp = true;
    pair.cut();
    pair.run(600 * SECOND);
    assert_eq!(downs(&pair, 0), [reason::NO_ANSWER]);
    let tries = pair.count(0, |event| matches!(event, Event::Connect { .. }));
    assert!((3..=8).contains(&tries), "{tries} connections");
    // The responder can't ask, and has no setting that has it ask.
    assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
    assert!(pair.now > begun);
}

/// B14, B19, §8.4: a peer that moves tries UDP, and TCP where that gets no answer; and it comes back.
#[test]
fn a_move_goes_from_udp_to_tcp_and_back() {
    let mut pair = changed(Tcp::Fallback, |a, connection, _| {
        connection.mobike = true;
        let nets = ["192.0.2.0", "198.51.100.0"];
        let nets = nets.map(|net| AddressPattern::Prefix(net.parse().unwrap(), 24));
        if a {
            connection.local_addrs.extend(nets);
        } else {
            connection.remote_addrs = nets.to_vec();
        }
    });
    pair.up();
    assert_eq!(stream(&pair, 0), None);
    for (address, no_udp) in [
        ("198.51.100.7", true),
        ("198.51.100.8", true),
        ("192.0.2.77", false),
    ] {
        pair.no_udp = no_udp;
        let (now, ike) = (pair.now, pair.ike(0));
        let address = address.parse().unwrap();
        let moved = pair.sides[0].endpoint.move_to(now, ike, address);
        assert_eq!(moved, Ok(true));
        pair.run(120 * SECOND);
        for side in 0..2 {
            let sa = pair.sides[side].endpoint.ike_sas().next().unwrap();
            let path = if side == 0 { sa.path } else { sa.path.turned() };
            assert_eq!(path.local.ip(), address, "{side}");
            assert_eq!(path.stream.is_some(), no_udp, "{side}");
        }
        pair.agree(1);
        // What TCP carries may not be taken away by what comes by UDP.
        let child = pair.child(1);
        let from = "203.0.113.5:4500".parse().unwrap();
        let now = pair.now;
        let followed = pair.sides[1].endpoint.peer_moved(now, child, from);
        assert_eq!(followed, Ok(false));
    }
}

/// B19, §6.6, §6.8: long messages go whole, and no NAT is kept awake.
#[test]
fn neither_fragments_nor_keepalives_go_by_tcp() {
    let mut pair = changed(Tcp::Always, |_, connection, config| {
        connection.proposals =
            vec![Proposal::parse_ike("aes256gcm16-prfsha384-x25519-ke1_mlkem1024").unwrap()];
        // Both say that they are behind a NAT.
        connection.encap = true;
        config.fragment_size = Some(576);
    });
    pair.up();
    assert_eq!(pair.streamed, 6, "IKE_SA_INIT, IKE_INTERMEDIATE, IKE_AUTH");
    assert!(pair.recorded.iter().any(|message| message.len() > 1500));
    pair.run(300 * SECOND);
    assert_eq!(pair.streamed, 6);
    for side in 0..2 {
        assert!(pair.sides[side].offered.values().all(|sa| !sa.udp_encap));
    }
}

/// B19, S47, B40: what TCP can't carry is not agreed upon.
#[test]
fn ah_and_transport_mode_give_way_to_tcp() {
    let mut ah = changed(Tcp::Always, |_, connection, _| {
        connection.children[0].esp_proposals = vec![Proposal::parse_ah("sha256").unwrap()];
    });
    initiate(&mut ah);
    ah.run(30 * SECOND);
    assert!(ah.sides.iter().all(|side| side.inbound.is_empty()));

    let mut transport = changed(Tcp::Always, |_, connection, _| {
        let child = &mut connection.children[0];
        child.transport = true;
        child.local_ts = vec![SelectorConfig::Dynamic];
        child.remote_ts = vec![SelectorConfig::Dynamic];
    });
    transport.up();
    for side in &transport.sides {
        assert!(side.offered.values().all(|sa| !sa.transport));
    }
}

/// B4, B19: cookies are asked for on streams, too, and a stream's own port is no part of them.
#[test]
fn cookies_are_asked_for_on_streams() {
    let mut pair = changed(Tcp::Always, |a, _, config| {
        if !a {
            config.cookie_threshold = 0;
        }
    });
    pair.up();
    assert_eq!(pair.streamed, 6);
    assert_eq!(pair.sides[1].endpoint.stats().cookies, 1);
}

/// B19: reauthentication by either side stays on TCP.
#[test]
fn reauthentication_stays_on_tcp() {
    for side in [0, 1] {
        let mut pair = pair(Tcp::Fallback);
        pair.no_udp = true;
        pair.up();
        let (now, ike) = (pair.now, pair.ike(side));
        pair.sides[side].endpoint.reauthenticate(now, ike).unwrap();
        pair.run(60 * SECOND);
        pair.agree(1);
        assert_ne!(pair.ike(side), ike);
        assert!(stream(&pair, 0).is_some());
        assert_eq!(stream(&pair, 0), stream(&pair, 1));
    }
}
