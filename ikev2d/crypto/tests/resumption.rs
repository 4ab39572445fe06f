// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B15: sessions that are resumed by a ticket (RFC 5723).
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev2d_proto::config::*;
use ikev2d_proto::endpoint::Verdict;
use ikev2d_proto::event::*;
use ikev2d_proto::wire::payload;
use zeroize::Zeroizing;

use peers::Pair;

const INIT: u8 = 34;
const AUTH: u8 = 35;
const RESUME: u8 = 38;
/// Octet of a header that has the exchange.
const EXCHANGE_AT: usize = 18;
const LIFE: Duration = Duration::from_secs(3600);

fn pair(seed: u64, resumption: [Option<Duration>; 2], cookies: bool) -> Pair {
    Pair::seeded(seed, |a, connection, config| {
        connection.resumption = resumption[usize::from(!a)];
        connection.dpd_delay = Some(Duration::from_secs(10));
        if cookies && !a {
            config.cookie_threshold = 0;
        }
        config.retransmit_tries = 8;
        config.retransmit_timeout = Duration::from_secs(1);
        config.retransmit_base = 1.2;
    })
}

/// Both lose each other.
fn lose(pair: &mut Pair) {
    pair.loss = 100;
    pair.run(Duration::from_secs(300));
    pair.agree(0);
    pair.loss = 0;
}

/// Sets the connection up, and tells the exchanges that it took.
fn connect(pair: &mut Pair) -> Vec<u8> {
    let before = pair.recorded.len();
    let now = pair.now;
    let asked = pair.sides[0]
        .endpoint
        .initiate(now, "gw", Some("net"), None);
    asked.unwrap();
    pair.run(Duration::from_secs(5));
    let said = pair.recorded[before..].iter();
    said.map(|message| message[EXCHANGE_AT]).collect()
}

fn resumptions(pair: &Pair) -> [u64; 2] {
    [0, 1].map(|side| pair.sides[side].endpoint.stats().resumptions)
}

fn failures(pair: &Pair) -> usize {
    pair.count(0, |e| matches!(e, Event::InitiateFailed { .. }))
}

/// A lost session goes on with a ticket, again and again: no key exchange, no preshared key, new keys.
#[test]
fn a_lost_session_is_resumed() {
    for cookies in [false, true] {
        let mut pair = pair(1, [Some(LIFE); 2], cookies);
        pair.up();
        // Who has a ticket needs no other proof.
        for side in &mut pair.sides {
            side.endpoint.set_secrets(Vec::new());
        }
        let mut keys = Vec::new();
        for round in 1..=3 {
            lose(&mut pair);
            let took = connect(&mut pair);
            match cookies {
                false => assert_eq!(took, [RESUME, RESUME, AUTH, AUTH]),
                true => assert_eq!(took, [RESUME, RESUME, RESUME, RESUME, AUTH, AUTH]),
            }
            pair.agree(1);
            assert_eq!(resumptions(&pair), [round, round]);
            assert_eq!(failures(&pair), 0);
        }
        for side in &pair.sides {
            assert_eq!(side.endpoint.ike_sas().count(), 1);
            let of_side = side.offered.values();
            keys.extend(of_side.map(|sa| sa.keys_in.encryption.to_vec()));
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 8, "each child has keys of its own");
    }
}

/// Over a bad network it takes longer.
#[test]
fn loss_and_repetition_delay_a_resumption() {
    for seed in 0..8 {
        let mut pair = pair(seed, [Some(LIFE); 2], seed % 2 == 0);
        pair.up();
        lose(&mut pair);
        pair.random = 88172645463325252 + seed;
        pair.loss = 25;
        connect(&mut pair);
        pair.run(Duration::from_secs(60));
        pair.loss = 0;
        pair.run(Duration::from_secs(60));
        pair.agree(1);
        assert_eq!(resumptions(&pair), [1, 1], "{seed}");
    }
}

/// A gateway that still has the old session drops it for the new one.
#[test]
fn a_gateway_that_has_lost_nothing_lets_the_old_one_go() {
    let mut pair = Pair::seeded(3, |a, connection, config| {
        connection.resumption = Some(LIFE);
        // The gateway does not look.
        connection.dpd_delay = a.then_some(Duration::from_secs(10));
        config.retransmit_tries = 3;
    });
    pair.up();
    pair.loss = 100;
    pair.run(Duration::from_secs(300));
    pair.loss = 0;
    assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
    pair.initiate();
    // As long as four messages take: nothing more goes through what the peer has given up.
    pair.run(Duration::from_millis(100));
    pair.assert_no_black_hole("at once");
    pair.run(Duration::from_secs(25));
    pair.agree(1);
    assert_eq!(resumptions(&pair), [1, 1]);
    assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
}

/// What was deleted, by either side, is not resumed; nor what is too old, nor without the settings.
#[test]
fn a_full_exchange_follows_where_nothing_can_be_resumed() {
    let full = [INIT, INIT, AUTH, AUTH];
    for side in [0, 1] {
        let mut pair = pair(4, [Some(LIFE); 2], false);
        pair.up();
        let (now, ike) = (pair.now, pair.ike(side));
        pair.sides[side].endpoint.terminate_ike(now, ike).unwrap();
        pair.run(Duration::from_secs(10));
        pair.agree(0);
        assert_eq!(connect(&mut pair), full, "deleted by {side}");
    }
    for settings in [
        [None, None],
        [Some(LIFE), None],
        [None, Some(LIFE)],
        // Over by the time.
        [Some(LIFE), Some(Duration::from_secs(100))],
        [Some(Duration::from_secs(100)), Some(LIFE)],
    ] {
        let mut pair = pair(5, settings, false);
        pair.up();
        lose(&mut pair);
        assert_eq!(connect(&mut pair), full, "{settings:?}");
        pair.agree(1);
        assert_eq!(resumptions(&pair), [0, 0]);
    }
}

/// A gateway that knows nothing of the ticket, or has another policy, says so, and the initiator goes on
/// with a full exchange at once.
#[test]
fn a_refused_ticket_leads_to_a_full_exchange() {
    let refused = [RESUME, RESUME, INIT, INIT, AUTH, AUTH];
    let mut pair = pair(6, [Some(LIFE); 2], false);
    pair.up();
    lose(&mut pair);
    // It has died, and its keys with it.
    let mut other = self::pair(7, [Some(LIFE); 2], false);
    std::mem::swap(&mut pair.sides[1], &mut other.sides[1]);
    assert_eq!(connect(&mut pair), refused);
    pair.agree(1);
    assert_eq!(pair.sides[1].endpoint.stats().refused_tickets, 1);
    assert_eq!((resumptions(&pair), failures(&pair)), ([0, 0], 0));

    let mut pair = self::pair(8, [Some(LIFE); 2], false);
    pair.up();
    lose(&mut pair);
    let mut stricter = peers::connection(false);
    stricter.proposals =
        vec![ikev2d_proto::proposal::Proposal::parse_ike("aes256gcm16-prfsha384-ecp256").unwrap()];
    stricter.resumption = Some(LIFE);
    let endpoint = &mut pair.sides[1].endpoint;
    endpoint.set_connections(vec![std::sync::Arc::new(stricter)]);
    assert_eq!(connect(&mut pair)[..3], refused[..3]);
}

/// A rekeyed IKE SA's ticket is good still.
#[test]
fn a_ticket_outlives_rekeyings() {
    for side in [0, 1] {
        let mut pair = pair(9, [Some(LIFE); 2], false);
        pair.up();
        let (now, ike) = (pair.now, pair.ike(side));
        pair.sides[side].endpoint.rekey_ike(now, ike).unwrap();
        pair.run(Duration::from_secs(10));
        lose(&mut pair);
        assert_eq!(connect(&mut pair), [RESUME, RESUME, AUTH, AUTH]);
        pair.agree(1);
    }
}

/// However often a session is resumed, its peers authenticate each other again when they would have.
#[test]
fn resumptions_do_not_put_off_reauthentication() {
    const TIME: Duration = Duration::from_secs(2000);
    for side in [0, 1] {
        let mut pair = Pair::seeded(13, |a, connection, config| {
            connection.resumption = Some(LIFE);
            connection.dpd_delay = Some(Duration::from_secs(10));
            connection.reauth_time = (a == (side == 0)).then_some(TIME);
            config.retransmit_tries = 3;
            config.retransmit_timeout = Duration::from_secs(1);
        });
        let end = |pair: &Pair| {
            pair.sides[side]
                .endpoint
                .ike_sas()
                .next()
                .unwrap()
                .expire_at
        };
        pair.up();
        let last = end(&pair).unwrap();
        for round in 1..=4 {
            lose(&mut pair);
            assert_eq!(connect(&mut pair), [RESUME, RESUME, AUTH, AUTH]);
            assert_eq!(resumptions(&pair), [round, round]);
            // Tickets have times in milliseconds.
            let left = last.saturating_duration_since(end(&pair).unwrap());
            assert!(end(&pair).unwrap() <= last && left < Duration::from_secs(1));
        }
        pair.run(last - pair.now);
        let again = pair.sides[side].endpoint.stats().reauthentications;
        assert_eq!(again, 1, "by {side}");
        pair.agree(1);
        assert!(end(&pair).unwrap() > last);
    }
}

/// S83: rekeyings before a resumption count as those after it, whoever has made them.
#[test]
fn resumptions_do_not_begin_to_count_rekeyings_anew() {
    for (side, by) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut pair = Pair::seeded(17, |a, connection, config| {
            connection.resumption = Some(LIFE);
            connection.dpd_delay = Some(Duration::from_secs(10));
            connection.reauth_frequency = if a == (side == 0) { 3 } else { 0 };
            config.retransmit_tries = 3;
            config.retransmit_timeout = Duration::from_secs(1);
        });
        pair.up();
        for rekeying in 1..=3 {
            let again = pair.sides[side].endpoint.stats().reauthentications;
            assert_eq!(again, 0, "{side} {by}");
            let (now, ike) = (pair.now, pair.ike(by));
            pair.sides[by].endpoint.rekey_ike(now, ike).unwrap();
            pair.run(Duration::from_secs(5));
            if rekeying < 3 {
                lose(&mut pair);
                assert_eq!(connect(&mut pair), [RESUME, RESUME, AUTH, AUTH]);
            }
        }
        let again = pair.sides[side].endpoint.stats().reauthentications;
        assert_eq!(again, 1, "{side} {by}");
        pair.settle(1);
    }
}

/// A ticket is not spent by attempts that nobody answers, as long as it lives, and is shown in each other
/// one; one that was called off is not tried again.
#[test]
fn a_ticket_outlives_unanswered_attempts() {
    let full = [INIT, INIT, AUTH, AUTH];
    for (attempts, called_off, took) in [
        (1, false, full),
        (2, false, [RESUME, RESUME, AUTH, AUTH]),
        (3, false, full),
        (4, false, [RESUME, RESUME, AUTH, AUTH]),
        (1, true, full),
        // Over by the time.
        (20, false, full),
    ] {
        let mut pair = pair(15, [Some(LIFE); 2], false);
        pair.up();
        lose(&mut pair);
        pair.loss = 100;
        for attempt in 1..=attempts {
            connect(&mut pair);
            if called_off {
                let (now, ike) = (pair.now, pair.ike(0));
                pair.sides[0].endpoint.terminate_ike(now, ike).unwrap();
            }
            pair.run(Duration::from_secs(300));
            assert_eq!(failures(&pair), attempt);
        }
        pair.loss = 0;
        assert_eq!(connect(&mut pair), took, "{attempts} {called_off}");
        pair.agree(1);
    }
}

/// A gateway that does not so much as refuse what it doesn't know: the attempt after is a full one.
#[test]
fn a_gateway_that_ignores_tickets_is_reached_without() {
    let mut pair = pair(16, [Some(LIFE); 2], false);
    pair.up();
    lose(&mut pair);
    pair.blocked = Some(RESUME);
    let took = connect(&mut pair);
    assert!(took.iter().all(|exchange| *exchange == RESUME));
    pair.run(Duration::from_secs(120));
    assert_eq!(failures(&pair), 1);
    assert_eq!(connect(&mut pair), [INIT, INIT, AUTH, AUTH]);
    pair.agree(1);
    assert_eq!((resumptions(&pair), failures(&pair)), ([0, 0], 1));
    // It has given another one.
    lose(&mut pair);
    pair.blocked = None;
    assert_eq!(connect(&mut pair), [RESUME, RESUME, AUTH, AUTH]);
}

/// I and A: what was recorded is no ticket, nor is what was changed; a peer with the keys of another
/// session proves nothing.
#[test]
fn recorded_and_forged_tickets_lead_nowhere() {
    let mut pair = pair(10, [Some(LIFE); 2], false);
    pair.up();
    lose(&mut pair);
    let from = pair.recorded.len();
    connect(&mut pair);
    pair.agree(1);
    let said: Vec<Vec<u8>> = pair.recorded[from..].to_vec();
    lose(&mut pair);
    let path = |remote: &str| Path {
        local: "192.0.2.2:500".parse().unwrap(),
        remote: remote.parse().unwrap(),
        stream: None,
    };
    let established = |pair: &Pair| pair.sides[1].endpoint.stats().established;
    assert_eq!(established(&pair), 0);
    // Again, the whole of it.
    let now = pair.now;
    for message in [&said[0], &said[2]] {
        let endpoint = &mut pair.sides[1].endpoint;
        endpoint.handle_datagram(now, path("192.0.2.1:500"), message);
        pair.flush();
    }
    assert_eq!(established(&pair), 0);
    assert_eq!(resumptions(&pair), [1, 1]);
    // A ticket that is good, cut short, and with each octet changed.
    pair.loss = 100;
    let from = pair.recorded.len();
    connect(&mut pair);
    let resume = pair.recorded[from].clone();
    assert_eq!(resume[EXCHANGE_AT], RESUME);
    let mut answers = 0;
    for at in 0..resume.len() {
        for message in [resume[..at].to_vec(), {
            let mut changed = resume.clone();
            changed[at] ^= 0x40;
            changed
        }] {
            let endpoint = &mut pair.sides[1].endpoint;
            endpoint.handle_datagram(now, path("192.0.2.1:501"), &message);
            while let Some(reply) = endpoint.poll_transmit() {
                answers += 1;
                assert!(reply.payload.len() <= message.len() + 128);
            }
        }
    }
    assert!(answers > 0);
    assert_eq!(established(&pair), 0);
    pair.run(Duration::from_secs(120));
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 0);
}

/// S13: floods of tickets end where those of first messages do. Whoever has a cookie passes, and where
/// nobody takes tickets the gate says so.
#[test]
fn the_gate_asks_for_cookies_and_refuses_tickets() {
    const NACK: u16 = 16412;
    let mut pair = pair(14, [Some(LIFE); 2], true);
    pair.up();
    lose(&mut pair);
    let now = pair.now;
    let asked = pair.sides[0].endpoint.initiate(now, "gw", None, None);
    asked.unwrap();
    let first = pair.sides[0].endpoint.poll_transmit().unwrap();
    assert_eq!(first.payload[EXCHANGE_AT], RESUME);
    let (gate, remote) = (pair.sides[1].endpoint.gate(), first.path.local.ip());
    let meet = |message: &[u8]| {
        let mut reply = vec![1];
        (gate.meet(now, remote, message, &mut reply), reply)
    };
    let mut dropped = 0;
    for len in 28..first.payload.len() {
        let mut cut = first.payload[..len].to_vec();
        cut[24..28].copy_from_slice(&(len as u32).to_be_bytes());
        let (verdict, reply) = meet(&cut);
        assert_eq!(verdict == Verdict::Answered, !reply.is_empty(), "{len}");
        assert_ne!(verdict, Verdict::Passes, "{len}");
        dropped += usize::from(verdict == Verdict::Dropped);
    }
    assert!(dropped > 100, "without a nonce or a ticket");
    let (verdict, cookie) = meet(&first.payload);
    assert_eq!(verdict, Verdict::Answered);
    let (path, client) = (first.path, &mut pair.sides[0].endpoint);
    client.handle_datagram(now, path, &cookie);
    let second = client.poll_transmit().unwrap().payload;
    assert_eq!(meet(&second), (Verdict::Passes, vec![]));
    let gateway = &mut pair.sides[1].endpoint;
    gateway.handle_datagram(now, path.turned(), &second);
    assert_eq!(gateway.stats().half_open, 1);

    // Tickets are taken no more: no cookie is asked for what is refused anyway.
    let connection = peers::connection(false);
    gateway.set_connections(vec![std::sync::Arc::new(connection)]);
    assert_eq!(gateway.stats().refused_tickets, 0);
    for message in [&first.payload, &second] {
        let (verdict, reply) = meet(message);
        assert_eq!(verdict, Verdict::Answered);
        assert!(reply.len() < message.len());
        assert_eq!(reply[34..36], NACK.to_be_bytes());
    }
    assert_eq!(pair.sides[1].endpoint.stats().refused_tickets, 2);
}

/// The password of a session that goes on may change; that of a new one counts.
#[test]
fn a_changed_secret_counts_from_the_next_full_exchange() {
    let mut pair = pair(11, [Some(LIFE); 2], false);
    pair.up();
    let other = Secret {
        ids: vec![],
        secret: Zeroizing::new(b"another one".to_vec()),
    };
    pair.sides[1].endpoint.set_secrets(vec![other]);
    lose(&mut pair);
    connect(&mut pair);
    pair.agree(1);
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.terminate_ike(now, ike).unwrap();
    pair.run(Duration::from_secs(10));
    connect(&mut pair);
    pair.agree(0);
}

/// A: who has the ticket and the keys, and says anything else than it should in IKE_AUTH, gets nothing;
/// nor does a gateway that does.
#[test]
fn a_broken_proof_is_refused() {
    for side in [0, 1] {
        let id = [payload::IDI, payload::IDR][side];
        for kind in [payload::AUTH, id] {
            for change in 0..3 {
                let mut pair = pair(12, [Some(LIFE); 2], false);
                pair.up();
                lose(&mut pair);
                let endpoint = &mut pair.sides[side].endpoint;
                endpoint.deviate(Box::new(move |message| {
                    let of_auth = message.header.exchange == AUTH;
                    match change {
                        0 if of_auth => message.payloads.retain(|(of, _)| *of != kind),
                        1 | 2 if of_auth => {
                            let mut found = message.payloads.iter_mut();
                            if let Some((_, body)) = found.find(|(of, _)| *of == kind) {
                                let last = body.pop().unwrap();
                                body.extend((change == 1).then_some(last ^ 1));
                            }
                        }
                        _ => {}
                    }
                }));
                assert_eq!(connect(&mut pair)[..3], [RESUME, RESUME, AUTH]);
                pair.run(Duration::from_secs(60));
                pair.agree(0);
                assert_eq!(resumptions(&pair)[1 - side], 0, "{side} {kind} {change}");
                assert_eq!(pair.sides[0].endpoint.ike_sas().count(), 0);
                let up = pair.count(1 - side, |e| matches!(e, Event::IkeUp { .. }));
                assert_eq!(up, 1, "only the first one");
            }
        }
    }
}
