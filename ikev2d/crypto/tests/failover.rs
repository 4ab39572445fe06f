// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A cluster's member dies and another one goes on with its IKE SAs (RFC 6311). All members and their
//! peers share one cryptography, which fails when a key sees an IV again.
#![allow(clippy::unwrap_used)]

mod peers;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev2d_proto::cluster::{Claim, TakeUpError};
use ikev2d_proto::config::*;
use ikev2d_proto::deviation::Outgoing;
use ikev2d_proto::endpoint::Endpoint;
use ikev2d_proto::event::*;
use ikev2d_proto::pool::PoolConfig;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::wire::{FLAG_INITIATOR, Header, exchange, notify, payload};
use zeroize::Zeroizing;

use peers::seeded::SeededCrypto;
use peers::{Pair, connection};

const NOW: Duration = Duration::ZERO;

/// Something to ask the peer for.
type Act = fn(&mut Endpoint, Instant, IkeId, ChildId);
type Change = fn(bool, &mut Connection, &mut EndpointConfig);

fn plain(_: bool, _: &mut Connection, config: &mut EndpointConfig) {
    config.retransmit_timeout = Duration::from_secs(1);
}

/// A pair either of whose sides may be a cluster.
struct Cluster {
    pair: Pair,
    crypto: Arc<SeededCrypto>,
    change: Change,
    claims: u32,
}

impl Cluster {
    fn new(seed: u64, change: Change) -> Self {
        let crypto = Arc::new(SeededCrypto::new(seed));
        Self {
            pair: Pair::with(crypto.clone(), change),
            crypto,
            change,
            claims: 0,
        }
    }

    fn up(seed: u64) -> Self {
        let mut cluster = Self::new(seed, plain);
        cluster.pair.up();
        cluster
    }

    fn share(&self, side: usize) -> Zeroizing<Vec<u8>> {
        let ike = self.pair.current_ike(side).unwrap();
        let endpoint = &self.pair.sides[side].endpoint;
        endpoint.share(self.pair.now, ike).unwrap().unwrap()
    }

    /// The member dies with all that it has, and another one is there.
    fn lose(&mut self, side: usize) {
        let (mut config, mut connection) = (EndpointConfig::default(), connection(side == 0));
        (self.change)(side == 0, &mut connection, &mut config);
        let mut endpoint = Endpoint::new(config, self.crypto.clone());
        endpoint.set_connections(vec![Arc::new(connection)]);
        let side = &mut self.pair.sides[side];
        side.endpoint = endpoint;
        side.inbound.clear();
        side.outbound.clear();
        side.offered.clear();
        side.sending.clear();
        side.events.clear();
    }

    fn try_take_up(&mut self, side: usize, state: &[u8]) -> Result<IkeId, TakeUpError> {
        self.claims += 1;
        let claim = Claim(NonZeroU32::new(self.claims).unwrap());
        let now = self.pair.now;
        let endpoint = &mut self.pair.sides[side].endpoint;
        endpoint.take_up(now, claim, (state, NOW))
    }

    fn fail_over(&mut self, side: usize, state: &[u8]) {
        self.lose(side);
        self.try_take_up(side, state).unwrap();
    }

    fn run(&mut self, seconds: u64) {
        self.pair.run(Duration::from_secs(seconds));
    }

    fn is_alive(&mut self) {
        for side in 0..2 {
            let (now, ike) = (self.pair.now, self.pair.current_ike(side).unwrap());
            let endpoint = &mut self.pair.sides[side].endpoint;
            endpoint.check_liveness(now, ike).unwrap();
            let before = endpoint.stats().retransmits;
            self.run(2);
            let endpoint = &self.pair.sides[side].endpoint;
            assert_eq!(endpoint.stats().retransmits, before);
        }
    }

    /// Both have one IKE SA and so many children with the same keys, both ends speak, and nobody has sent
    /// two requests or two answers with one number.
    fn goes_on(&mut self, children: usize) {
        self.pair.settle(children);
        self.pair.assert_no_black_hole("after a failover");
        self.is_alive();
        let mut said = HashMap::new();
        for message in &self.pair.recorded {
            let header = Header::parse(message).unwrap();
            let id = header.message_id.get();
            if id == 0 && header.exchange == exchange::INFORMATIONAL {
                // A synchronisation.
                continue;
            }
            let who = (header.spi_i.get(), header.spi_r.get(), header.flags, id);
            let first = said.entry(who).or_insert(message);
            assert_eq!(*first, message, "number {id} means two things");
        }
    }

    /// Those of the side that has not begun the IKE SA.
    fn answers_to_sync(&self) -> usize {
        let recorded = self.pair.recorded.iter();
        let headers = recorded.map(|message| Header::parse(message).unwrap());
        let sync = |h: &Header| h.message_id.get() == 0 && h.exchange == exchange::INFORMATIONAL;
        let of_peer = |h: &Header| h.is_response() && h.flags & FLAG_INITIATOR == 0;
        headers.filter(|h| sync(h) && of_peer(h)).count()
    }
}

/// B17, B18: whichever side it is, with the newest state or with one from before many exchanges, a rekeyed
/// child and a further one.
#[test]
fn another_member_goes_on_where_one_has_died() {
    for side in 0..2 {
        for lost in [0, 1, 2, 40] {
            let mut cluster = Cluster::up(side as u64 * 10 + lost);
            let state = cluster.share(side);
            for at in 0..lost {
                cluster.is_alive();
                if at == 1 {
                    let (now, child) = (cluster.pair.now, cluster.pair.child(1));
                    let endpoint = &mut cluster.pair.sides[1].endpoint;
                    endpoint.rekey_child(now, child).unwrap();
                    cluster.run(5);
                }
            }
            let before = cluster.pair.sides[1 - side].events.len();
            let initiations = cluster.pair.recorded.len();
            cluster.fail_over(side, &state);
            cluster.run(60);
            let peer = &cluster.pair.sides[1 - side];
            let down = |e: &Event| matches!(e, Event::IkeDown { .. });
            assert!(!peer.events[before..].iter().any(down));
            if lost < 2 {
                let rekeyed = |e: &Event| matches!(e, Event::ChildRekeyed { .. });
                assert!(peer.events[before..].iter().any(rekeyed));
                cluster.goes_on(1);
            } else {
                // The peer keeps what the taker has never heard of until it rekeys it.
                let (now, orphan) = (cluster.pair.now, cluster.pair.child(1 - side));
                let endpoint = &mut cluster.pair.sides[1 - side].endpoint;
                endpoint.rekey_child(now, orphan).unwrap();
                cluster.run(20);
                cluster.goes_on(1);
            }
            let first = |message: &Vec<u8>| {
                Header::parse(message).unwrap().exchange == exchange::IKE_SA_INIT
            };
            assert!(!cluster.pair.recorded[initiations..].iter().any(first));
        }
    }
}

/// A state that is older than the jump of the first try: the tries jump ever further. And one member after
/// the other goes on.
#[test]
fn a_state_of_any_age_does_and_members_follow_each_other() {
    for side in 0..2 {
        let mut cluster = Cluster::up(31 + side as u64);
        let state = cluster.share(side);
        for _ in 0..4 {
            cluster.fail_over(side, &state);
            cluster.run(90);
            // A further child was made each time for the first state's, which nobody has any more.
            let peer = &cluster.pair.sides[1 - side];
            let own = &cluster.pair.sides[side];
            assert_eq!(own.outbound.len(), 1);
            let sent = own.sending.last().unwrap();
            assert!(peer.inbound.contains_key(sent));
            cluster.pair.assert_no_black_hole("");
            cluster.is_alive();
        }
        for _ in 0..4 {
            let state = cluster.share(side);
            cluster.fail_over(side, &state);
            cluster.run(60);
            cluster.pair.assert_no_black_hole("");
            cluster.is_alive();
        }
    }
}

/// The synchronisation and its answer get lost and come twice.
#[test]
fn a_failover_survives_loss() {
    for seed in 0..30 {
        let mut cluster = Cluster::up(100 + seed);
        let side = (seed % 2) as usize;
        let state = cluster.share(side);
        cluster.is_alive();
        cluster.pair.random = 88172645463325252 ^ seed << 7;
        cluster.pair.loss = 35;
        cluster.fail_over(side, &state);
        cluster.run(8);
        cluster.pair.loss = 0;
        cluster.run(200);
        cluster.goes_on(1);
    }
}

/// §9: both sides are clusters, and both fail over at once, each with a state of its own age.
#[test]
fn both_sides_fail_over_at_once() {
    for seed in 0..30 {
        let mut cluster = Cluster::up(200 + seed);
        let mut states = [cluster.share(0), cluster.share(1)];
        for _ in 0..seed % 3 {
            cluster.is_alive();
        }
        let at = seed as usize % 2;
        states[at] = cluster.share(at);
        cluster.lose(0);
        cluster.lose(1);
        cluster.pair.random = 88172645463325252 ^ seed << 9;
        cluster.pair.loss = if seed < 10 { 0 } else { 25 };
        cluster.try_take_up(0, &states[0]).unwrap();
        if seed % 5 == 0 {
            cluster.pair.run(Duration::from_millis(15));
        }
        cluster.try_take_up(1, &states[1]).unwrap();
        cluster.run(8);
        cluster.pair.loss = 0;
        cluster.run(200);
        cluster.goes_on(1);
    }
}

/// §8.1: what the peer was asking is asked anew, and what the dead member was asking is nobody's.
#[test]
fn exchanges_that_were_half_done_are_done_again_or_forgotten() {
    let acts: [(&str, Act); 4] = [
        ("rekey the child", |e, now, _, child| {
            e.rekey_child(now, child).unwrap();
        }),
        ("rekey the IKE SA", |e, now, ike, _| {
            e.rekey_ike(now, ike).unwrap();
        }),
        ("a liveness check", |e, now, ike, _| {
            e.check_liveness(now, ike).unwrap();
        }),
        ("another child", |e, now, _, _| {
            e.initiate(now, "gw", Some("pfs"), None).unwrap();
        }),
    ];
    for side in 0..2 {
        for asker in 0..2 {
            for (name, act) in &acts {
                // The request is lost, or only its answer, or that has come.
                for delivered in 0..3 {
                    let mut cluster = Cluster::up(300 + delivered);
                    let state = cluster.share(side);
                    let pair = &mut cluster.pair;
                    let (now, ike, child) = (pair.now, pair.ike(asker), pair.child(asker));
                    act(&mut pair.sides[asker].endpoint, now, ike, child);
                    pair.flush();
                    for _ in 0..delivered {
                        pair.deliver(0);
                        pair.flush();
                    }
                    // It is delivered to the dead.
                    pair.wire.clear();
                    // Then the peer has answered, or knows the answer.
                    let known = if asker == side { 1 } else { 2 };
                    let rekeyed = *name == "rekey the IKE SA" && delivered >= known;
                    cluster.fail_over(side, &state);
                    cluster.run(100);
                    if rekeyed {
                        // The peer knows the IKE SA by another name already, and does not answer.
                        let taken = cluster.pair.current_ike(side);
                        assert_eq!(taken, None, "{side} {asker} {delivered}");
                        continue;
                    }
                    let told = format!("{side} {asker} {name} {delivered}");
                    cluster.pair.assert_no_black_hole(&told);
                    cluster.is_alive();
                    // What the peer has made of an answer that the taker knows nothing of goes with its rekeying.
                    let made = *name == "another child" && asker != side && delivered < 2;
                    let expected = 1 + usize::from(made);
                    let own = &cluster.pair.sides[side];
                    assert_eq!(
                        own.inbound.len(),
                        expected,
                        "{side} {asker} {name} {delivered}"
                    );
                }
            }
        }
    }
}

/// A deletion that the peer was asking for goes through, of a child and of the IKE SA.
#[test]
fn deletions_go_through() {
    for whole in [false, true] {
        let mut cluster = Cluster::up(41);
        let state = cluster.share(0);
        let (now, ike, child) = (cluster.pair.now, cluster.pair.ike(1), cluster.pair.child(1));
        let peer = &mut cluster.pair.sides[1].endpoint;
        match whole {
            true => peer.terminate_ike(now, ike).unwrap(),
            false => peer.terminate_child(now, child).unwrap(),
        }
        cluster.pair.flush();
        cluster.pair.wire.clear();
        cluster.fail_over(0, &state);
        cluster.run(100);
        for side in &cluster.pair.sides {
            assert!(!whole || side.endpoint.ike_sas().next().is_none());
            // Who takes up a child has it made anew, if the peer has not deleted it by then.
            assert!(side.outbound.len() <= usize::from(!whole));
        }
    }
}

/// §5.1: who sends a recorded synchronisation again gets nothing, and moves nothing.
#[test]
fn a_recorded_synchronisation_is_dropped() {
    let mut cluster = Cluster::up(51);
    let state = cluster.share(0);
    let before = cluster.pair.recorded.len();
    cluster.fail_over(0, &state);
    cluster.pair.flush();
    let sync = cluster.pair.recorded[before].clone();
    cluster.run(30);
    cluster.goes_on(1);
    let answers = cluster.answers_to_sync();
    assert_eq!(answers, 1);
    let path = |remote: &str| Path::new("192.0.2.2:500".parse().unwrap(), remote.parse().unwrap());
    for remote in ["192.0.2.1:500", "203.0.113.9:666"] {
        for _ in 0..5 {
            cluster.run(1);
            let now = cluster.pair.now;
            let peer = &mut cluster.pair.sides[1].endpoint;
            peer.handle_datagram(now, path(remote), &sync);
        }
    }
    cluster.run(5);
    assert_eq!(cluster.answers_to_sync(), answers);
    cluster.goes_on(1);
}

/// The answer may get lost (RFC 7296 §2.1): the same request gets it again, octet for octet, but not faster
/// than twice a second.
#[test]
fn a_repeated_synchronisation_is_answered_the_same_and_not_too_often() {
    let mut cluster = Cluster::up(52);
    let before = cluster.share(0);
    cluster.fail_over(0, &before);
    cluster.pair.flush();
    let (_, _, path, sync) = cluster.pair.wire.pop_front().unwrap();
    let mut answers = Vec::new();
    for _ in 0..20 {
        cluster.pair.now += Duration::from_millis(100);
        let now = cluster.pair.now;
        let peer = &mut cluster.pair.sides[1].endpoint;
        peer.handle_datagram(now, path, &sync);
        answers.extend(peer.poll_transmit().map(|transmit| transmit.payload));
    }
    assert_eq!(answers.len(), 4);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    // The member dies at once, and another one is heard although the last request was just repeated.
    cluster.fail_over(0, &before);
    cluster.run(90);
    cluster.goes_on(1);
}

/// §5.1: neither does another member of ours answer what the one before has answered, nor follow whoever
/// has recorded it.
#[test]
fn a_recorded_synchronisation_is_dropped_by_the_next_member_too() {
    let mut cluster = Cluster::up(57);
    let state = cluster.share(0);
    cluster.fail_over(0, &state);
    cluster.pair.flush();
    let (_, _, path, sync) = cluster.pair.wire.pop_front().unwrap();
    let now = cluster.pair.now;
    let peer = &mut cluster.pair.sides[1].endpoint;
    peer.handle_datagram(now, path, &sync);
    assert!(peer.poll_transmit().is_some());
    let state = cluster.share(1);
    cluster.fail_over(1, &state);
    let own = cluster.pair.sides[1].endpoint.poll_transmit().unwrap();
    assert!(!Header::parse(&own.payload).unwrap().is_response());
    for _ in 0..3 {
        cluster.pair.now += Duration::from_millis(600);
        let now = cluster.pair.now;
        let peer = &mut cluster.pair.sides[1].endpoint;
        peer.handle_datagram(now, path, &sync);
        assert!(peer.poll_transmit().is_none());
    }
    cluster.run(90);
    cluster.goes_on(1);
}

/// A new try is nobody's recording: where an answer is lost, the next one comes at once.
#[test]
fn the_next_synchronisation_does_not_wait() {
    let mut cluster = Cluster::new(58, |_, _, config| {
        config.retransmit_timeout = Duration::from_millis(100);
    });
    cluster.pair.up();
    let state = cluster.share(0);
    cluster.fail_over(0, &state);
    for _ in 0..3 {
        cluster.pair.flush();
        let (_, side, path, sync) = cluster.pair.wire.pop_front().unwrap();
        assert_eq!(side, 1);
        let peer = &mut cluster.pair.sides[1].endpoint;
        peer.handle_datagram(cluster.pair.now, path, &sync);
        assert!(peer.poll_transmit().is_some(), "its answer is lost");
        let end = cluster.pair.now + Duration::from_millis(400);
        assert!(cluster.pair.advance(end));
    }
    cluster.run(30);
    cluster.goes_on(1);
}

/// B69, §8.1: a request of the dead member's whose key exchange goes on holds up no other's.
#[test]
fn a_key_exchange_of_the_dead_member_is_forgotten() {
    let mut cluster = Cluster::new(59, |a, connection, config| {
        plain(a, connection, config);
        let esp = Proposal::parse_esp("aes128gcm16-modp1536").unwrap();
        connection.children[0].esp_proposals = vec![esp];
    });
    cluster.pair.up();
    let state = cluster.share(0);
    cluster.pair.sides[1].slowness = Duration::from_secs(20);
    let (now, child) = (cluster.pair.now, cluster.pair.child(0));
    let endpoint = &mut cluster.pair.sides[0].endpoint;
    endpoint.rekey_child(now, child).unwrap();
    cluster.pair.run(Duration::from_millis(100));
    assert_eq!(cluster.pair.sides[1].jobs.len(), 1);
    cluster.fail_over(0, &state);
    // Its own rekeying is one more that takes its time.
    cluster.pair.run(Duration::from_millis(500));
    assert_eq!(cluster.pair.sides[1].jobs.len(), 2);
    cluster.run(120);
    cluster.goes_on(1);
}

/// A peer that has the keys, and asks for synchronisation with these numbers in its next INFORMATIONAL.
fn sync_with(cluster: &mut Cluster, send: u32, recv: u32, jump: &'static [u8]) {
    cluster.pair.sides[0]
        .endpoint
        .deviate(Box::new(move |message: &mut Outgoing| {
            if message.header.exchange == exchange::INFORMATIONAL && !message.header.is_response() {
                message.header.message_id = 0.into();
                let nonce = [send as u8, recv as u8, 1, 2];
                let data = [nonce, send.to_be_bytes(), recv.to_be_bytes()].concat();
                let body = notify::emit(0, &[], notify::IKEV2_MESSAGE_ID_SYNC, &data);
                message.payloads.push((payload::NOTIFY, body));
                let body = notify::emit(0, &[], notify::IPSEC_REPLAY_COUNTER_SYNC, jump);
                message.payloads.push((payload::NOTIFY, body));
            }
        }));
    let (now, ike) = (cluster.pair.now, cluster.pair.ike(0));
    let endpoint = &mut cluster.pair.sides[0].endpoint;
    endpoint.check_liveness(now, ike).unwrap();
    cluster.pair.run(Duration::from_millis(500));
}

/// §5.1: a number that was seen, by requests or by synchronisations, goes no further; nor does one that no
/// living IKE SA gets to.
#[test]
fn numbers_never_go_back() {
    // Requests 0 and 1 were seen.
    for (send, recv, answered) in [
        (0, 0, 0),
        (1, 0, 0),
        (2, 0, 1),
        (100, 7, 1),
        (1 << 31, 0, 0),
        (u32::MAX, 0, 0),
        (2, 1 << 31, 0),
        (2, u32::MAX, 0),
    ] {
        let mut cluster = Cluster::up(61);
        sync_with(&mut cluster, send, recv, &[]);
        assert_eq!(cluster.answers_to_sync(), answered, "{send} {recv}");
    }
}

/// §6.4: what goes out through the children jumps, where the number is as long as theirs.
#[test]
fn counters_jump_as_far_as_the_peer_says() {
    let cases: [(&[u8], &[u64]); 5] = [
        (&[0, 0, 0, 0, 0, 1, 0, 0], &[65536]),
        (&[0, 1, 0, 0], &[]),
        (&[0; 8], &[]),
        (&[1; 7], &[]),
        (&[], &[]),
    ];
    for (data, expected) in cases {
        let mut cluster = Cluster::up(71);
        sync_with(&mut cluster, 9, 0, data);
        assert_eq!(cluster.answers_to_sync(), 1);
        let events = cluster.pair.sides[1].events.iter();
        let jumps = events.filter_map(|event| match event {
            Event::AdvanceOutbound { by, .. } => Some(*by),
            _ => None,
        });
        let jumps: Vec<u64> = jumps.collect();
        assert_eq!(jumps, expected, "{data:?}");
    }
}

/// §4: it is negotiated, and who does not want it hears nothing of it and takes nothing in.
#[test]
fn either_side_can_do_without() {
    for off in 0..2 {
        let change: Change = match off {
            0 => |a, connection, _| connection.message_id_sync = !a,
            _ => |a, connection, _| connection.message_id_sync = a,
        };
        let mut cluster = Cluster::new(81, change);
        cluster.pair.up();
        for side in 0..2 {
            let (now, ike) = (cluster.pair.now, cluster.pair.ike(side));
            let endpoint = &cluster.pair.sides[side].endpoint;
            assert_eq!(endpoint.share(now, ike), Ok(None));
        }
        sync_with(&mut cluster, 100, 0, &[0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(cluster.answers_to_sync(), 0);
        let jumps = |event: &Event| matches!(event, Event::AdvanceOutbound { .. });
        assert_eq!(cluster.pair.count(1, jumps), 0);
    }
}

/// It lasts over rekeyings of the IKE SA, whose first INFORMATIONAL has the number 0, too.
#[test]
fn a_rekeyed_ike_sa_is_taken_up_too() {
    for side in 0..2 {
        for asker in 0..2 {
            let mut cluster = Cluster::up(91);
            let (now, ike) = (cluster.pair.now, cluster.pair.ike(asker));
            let endpoint = &mut cluster.pair.sides[asker].endpoint;
            endpoint.rekey_ike(now, ike).unwrap();
            cluster.run(300);
            let state = cluster.share(side);
            cluster.is_alive();
            cluster.fail_over(side, &state);
            cluster.run(60);
            cluster.goes_on(1);
        }
    }
}

/// What a peer was given stays its own, what we were given is ours, and the times go on.
#[test]
fn addresses_and_times_are_taken_up() {
    let change: Change = |a, connection, _| {
        connection.rekey_time = Some(Duration::from_secs(3600));
        connection.reauth_time = Some(Duration::from_secs(86400));
        if a {
            connection.vips = vec!["0.0.0.0".parse().unwrap()];
            connection.children[0].local_ts = vec![SelectorConfig::Dynamic];
        } else {
            connection.pools = vec!["p".to_owned()];
            connection.children[0].remote_ts = vec![SelectorConfig::Dynamic];
        }
    };
    let pools = || {
        let pool = PoolConfig {
            start: "10.9.0.1".parse().unwrap(),
            end: "10.9.0.9".parse().unwrap(),
            attributes: Vec::new(),
        };
        [("p".to_owned(), pool)].into()
    };
    for side in 0..2 {
        let mut cluster = Cluster::new(95, change);
        cluster.pair.sides[1].endpoint.pools_mut().set(pools());
        cluster.pair.up();
        let known = |cluster: &Cluster| {
            let sa = cluster.pair.sides[side].endpoint.ike_sas().next().unwrap();
            let vips = (sa.local_vips.to_vec(), sa.remote_vips.to_vec());
            (
                vips,
                sa.rekey_at,
                sa.expire_at,
                sa.local_id.clone(),
                sa.path,
            )
        };
        let before = known(&cluster);
        let state = cluster.share(side);
        cluster.lose(side);
        if side == 1 {
            cluster.pair.sides[1].endpoint.pools_mut().set(pools());
        }
        cluster.try_take_up(side, &state).unwrap();
        let after = known(&cluster);
        assert_eq!(
            (&before.0, &before.3, before.4),
            (&after.0, &after.3, after.4)
        );
        for (before, after) in [(before.1, after.1), (before.2, after.2)] {
            let (before, after) = (before.unwrap(), after.unwrap());
            assert!(before >= after && before - after < Duration::from_millis(2));
        }
        assert_eq!(cluster.try_take_up(side, &state), Err(TakeUpError::Present));
        cluster.run(60);
        cluster.goes_on(1);
        let configured = |e: &Event| matches!(e, Event::Configured { .. });
        assert_eq!(cluster.pair.count(side, configured), 1 - side);
    }
}

/// Whatever the octets are, nothing panics, and what is cut off or of another version is not taken up.
#[test]
fn broken_states_are_refused() {
    let mut cluster = Cluster::up(97);
    let state = cluster.share(0);
    cluster.lose(0);
    for len in 0..state.len() {
        let cut = cluster.try_take_up(0, &state[..len]);
        assert_eq!(cut, Err(TakeUpError::Malformed));
    }
    let mut other = state.to_vec();
    other[0] += 1;
    assert_eq!(cluster.try_take_up(0, &other), Err(TakeUpError::Malformed));
    for at in 0..state.len() {
        let mut other = state.to_vec();
        other[at] ^= 0xff;
        // Whoever has made it up may have chosen IVs that were there.
        cluster.crypto = Arc::new(SeededCrypto::new(at as u64));
        cluster.lose(0);
        let _ = cluster.try_take_up(0, &other);
    }
    let mut without = connection(true);
    without.name = "other".to_owned();
    let endpoint = &mut cluster.pair.sides[0].endpoint;
    endpoint.set_connections(vec![Arc::new(without)]);
    let name = "gw".to_owned();
    let unknown = Err(TakeUpError::UnknownConnection { name });
    assert_eq!(cluster.try_take_up(0, &state), unknown);
}
