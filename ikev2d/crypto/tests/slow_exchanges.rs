// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Key exchanges that take long: others do not wait for them, and whatever happens meanwhile is as if the
//! messages that need them had come later.
#![allow(clippy::unwrap_used)]

mod peers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ikev2d_proto::algorithm::Group;
use ikev2d_proto::config::{AddressPattern, Connection, EndpointConfig, Puzzles};
use ikev2d_proto::credential::{JobError, Line};
use ikev2d_proto::crypto::Crypto;
use ikev2d_proto::event::{Event, Path};
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::wire::{Header, exchange};

use peers::Pair;
use peers::seeded::SeededCrypto;

const SECOND: Duration = Duration::from_secs(1);

fn propose(connection: &mut Connection, ike: &str, esp: &str) {
    connection.proposals = vec![Proposal::parse_ike(ike).unwrap()];
    connection.children[0].esp_proposals = vec![Proposal::parse_esp(esp).unwrap()];
}

/// Two ends that take so long for each key exchange.
fn slow(ike: &str, esp: &str, takes: Duration) -> Pair {
    let mut pair = Pair::new(|_, connection, config| {
        propose(connection, ike, esp);
        config.retransmit_tries = 60;
        config.retransmit_timeout = SECOND;
        config.retransmit_base = 1.0;
    });
    for side in &mut pair.sides {
        side.slowness = takes;
    }
    pair
}

fn jobs(pair: &Pair, side: usize) -> usize {
    pair.count(side, |event| matches!(event, Event::Job { .. }))
}

fn requests(pair: &Pair, wanted: u8) -> usize {
    let of = |message: &&Vec<u8>| {
        let header = Header::parse(message).unwrap();
        header.exchange == wanted && !header.is_response()
    };
    pair.recorded.iter().filter(of).count()
}

/// The fastest groups are not worth another thread, and the slowest are.
#[test]
fn groups_are_slow_or_not() {
    let crypto = ikev2d_crypto::OpensslCrypto::new().unwrap();
    for fast in [Group::X25519, Group::Ecp256, Group::MlKem768] {
        assert!(!crypto.is_slow(fast), "{fast:?}");
    }
    for slow in [Group::Modp4096, Group::Modp2048, Group::Ecp521, Group::X448] {
        assert!(crypto.is_slow(slow), "{slow:?}");
    }
}

const IKE: &str = "aes256gcm16-prfsha384-modp1536-ke1_modp2048-ke2_mlkem768";
const ESP: &str = "aes256gcm16-modp1536-ke1_modp2048-ke2_ecp521";

/// Every exchange that has a key exchange waits for it on either side, however often it is asked for
/// meanwhile, and makes the same keys; one job for each.
#[test]
fn every_exchange_waits_for_its_key_exchange() {
    for takes in [Duration::from_millis(300), 3 * SECOND] {
        let repeats = takes > SECOND;
        let mut pair = slow(IKE, ESP, takes);
        pair.initiate();
        pair.run(60 * SECOND);
        pair.agree(1);
        // IKE_SA_INIT and one IKE_INTERMEDIATE: our values and the secrets; and the peer's answers.
        assert_eq!((jobs(&pair, 0), jobs(&pair, 1)), (4, 2));
        assert_eq!(requests(&pair, exchange::IKE_SA_INIT) > 1, repeats);

        let child = pair.child(0);
        pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
        pair.run(60 * SECOND);
        pair.agree(1);
        assert_ne!(pair.child(0), child);
        // Agreeing on a secret and making the next value are one job.
        assert_eq!((jobs(&pair, 0), jobs(&pair, 1)), (8, 5));
        assert_eq!(requests(&pair, exchange::CREATE_CHILD_SA) > 1, repeats);
        assert_eq!(requests(&pair, exchange::IKE_FOLLOWUP_KE) > 2, repeats);

        let ike = pair.ike(1);
        pair.sides[1].endpoint.rekey_ike(pair.now, ike).unwrap();
        pair.run(60 * SECOND);
        pair.agree(1);
        assert_ne!(pair.ike(1), ike);
        assert_eq!(pair.sides[0].endpoint.ike_sas().count(), 1);
        let ike = pair.ike(0);
        pair.sides[0]
            .endpoint
            .check_liveness(pair.now, ike)
            .unwrap();
        pair.run(10 * SECOND);
        assert_eq!(pair.current_ike(0), Some(ike));
        assert_eq!((jobs(&pair, 0), jobs(&pair, 1)), (10, 8));
    }
}

/// The peer's request is not lost while an answer to ours waits, nor the other way round.
#[test]
fn other_requests_go_on_while_a_key_exchange_does() {
    let mut pair = slow(
        "aes256gcm16-prfsha384-x25519",
        "aes128gcm16-modp2048",
        20 * SECOND,
    );
    pair.up();
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    let (mine, theirs) = (pair.ike(0), pair.ike(1));
    for _ in 0..7 {
        pair.run(10 * SECOND);
        let before = requests(&pair, exchange::INFORMATIONAL);
        let lives = |pair: &Pair| {
            let responses = |message: &&Vec<u8>| {
                let header = Header::parse(message).unwrap();
                header.exchange == exchange::INFORMATIONAL && header.is_response()
            };
            pair.recorded.iter().filter(responses).count()
        };
        let answered = lives(&pair);
        pair.sides[1]
            .endpoint
            .check_liveness(pair.now, theirs)
            .unwrap();
        pair.run(SECOND / 2);
        assert_eq!(requests(&pair, exchange::INFORMATIONAL), before + 1);
        assert_eq!(lives(&pair), answered + 1);
    }
    pair.run(60 * SECOND);
    pair.agree(1);
    assert_ne!(pair.child(0), child);
    assert_eq!((pair.ike(0), pair.ike(1)), (mine, theirs));
}

/// What is answered late finds nobody, and harms nobody.
#[test]
fn answers_for_an_ike_sa_that_is_gone_are_dropped() {
    let mut pair = slow(
        "aes256gcm16-prfsha384-modp1536",
        "aes128gcm16-modp1536",
        10 * SECOND,
    );
    pair.initiate();
    let ike = pair.ike(0);
    pair.run(15 * SECOND);
    // The responder is at it.
    assert_eq!(pair.sides[1].jobs.len(), 1);
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 1);
    pair.sides[0].endpoint.terminate_ike(pair.now, ike).unwrap();
    pair.run(60 * SECOND);
    for side in &pair.sides {
        assert_eq!(side.endpoint.ike_sas().count(), 0);
        assert!(side.jobs.is_empty());
    }

    pair.initiate();
    pair.run(60 * SECOND);
    pair.agree(1);
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(15 * SECOND);
    assert_eq!(pair.sides[1].jobs.len(), 1);
    let ike = pair.ike(1);
    pair.sides[1].endpoint.lose_ike(pair.now, ike).unwrap();
    pair.run(5 * SECOND);
    assert!(pair.sides[1].inbound.is_empty());
    pair.run(60 * SECOND);
    assert!(pair.sides[0].inbound.is_empty() && pair.sides[1].inbound.is_empty());
}

/// A first message is waited for no longer than any: who has begun it may have gone.
#[test]
fn half_open_ones_end_in_time_with_or_without_their_key_exchange() {
    let mut pair = slow("aes256gcm16-prfsha384-modp1536", "aes128gcm16", 10 * SECOND);
    pair.sides[1].slowness = 100 * SECOND;
    pair.initiate();
    pair.run(15 * SECOND);
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 1);
    let ike = pair.ike(0);
    pair.sides[0].endpoint.terminate_ike(pair.now, ike).unwrap();
    pair.run(30 * SECOND);
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 0);
    pair.run(100 * SECOND);
    assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 0);
}

/// Where there is no room, the peer's next repetition finds some.
#[test]
fn a_key_exchange_without_room_is_asked_for_again() {
    let mut pair = slow(
        "aes256gcm16-prfsha384-modp1536",
        "aes128gcm16-modp1536",
        Duration::ZERO,
    );
    pair.sides[1].busy = 2;
    pair.up();
    assert_eq!(pair.sides[1].busy, 0);
    assert_eq!(requests(&pair, exchange::IKE_SA_INIT), 3);
    pair.sides[1].busy = 2;
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(30 * SECOND);
    pair.agree(1);
    assert_ne!(pair.child(0), child);
    assert_eq!(requests(&pair, exchange::CREATE_CHILD_SA), 3);
}

/// RFC 7296 §1.2: another group than ours is told at once, without a key exchange.
#[test]
fn another_group_is_asked_for_at_once() {
    let mut pair = Pair::new(|a, connection, _| {
        let groups = if a { "modp1536-modp2048" } else { "modp2048" };
        let ike = format!("aes256gcm16-prfsha384-{groups}");
        propose(connection, &ike, &format!("aes128gcm16-{groups}"));
    });
    pair.up();
    assert_eq!(jobs(&pair, 1), 1);
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(10 * SECOND);
    pair.agree(1);
    assert_ne!(pair.child(0), child);
    assert_eq!(jobs(&pair, 1), 2);
}

/// §2.8.1, §2.8.2: both rekey at once, while key exchanges take their time.
#[test]
fn collisions_are_settled_whatever_time_key_exchanges_take() {
    let mut pair = slow(
        "aes256gcm16-prfsha384-modp1536",
        "aes128gcm16-modp1536",
        SECOND,
    );
    for side in &mut pair.sides {
        side.slowness = Duration::ZERO;
    }
    pair.up();
    for round in 0..24_u32 {
        let (first, second) = (round % 4, round / 4 % 3);
        pair.sides[0].slowness = Duration::from_millis(1 + u64::from(first) * 17);
        pair.sides[1].slowness = Duration::from_millis(1 + u64::from(second) * 23);
        let now = pair.now;
        for side in 0..2 {
            let (child, ike) = (
                pair.current_child(side).unwrap(),
                pair.current_ike(side).unwrap(),
            );
            let endpoint = &mut pair.sides[side].endpoint;
            match (round / 12, side == 1 && round % 2 == 1) {
                (0, false) => endpoint.rekey_child(now, child).unwrap(),
                _ => endpoint.rekey_ike(now, ike).unwrap(),
            }
        }
        pair.run(90 * SECOND);
        pair.settle(1);
        pair.assert_no_black_hole(&format!("round {round}"));
        for side in &pair.sides {
            let established = side
                .endpoint
                .ike_sas()
                .filter(|sa| sa.state == "ESTABLISHED");
            assert_eq!(established.count(), 1, "round {round}");
        }
    }
}

/// The same over a network that loses and doubles.
#[test]
fn nothing_is_lost_for_good_while_key_exchanges_take_their_time() {
    for seed in 0..8 {
        let mut pair = Pair::seeded(seed, |_, connection, config| {
            propose(connection, IKE, ESP);
            config.retransmit_tries = 30;
            config.retransmit_timeout = SECOND;
            config.retransmit_base = 1.0;
        });
        pair.loss = 15;
        pair.lenient = true;
        for (side, millis) in [(0, 40 * seed + 1), (1, 700)] {
            pair.sides[side].slowness = Duration::from_millis(millis);
        }
        pair.initiate();
        pair.run(200 * SECOND);
        pair.settle(1);
        let child = pair.current_child(1).unwrap();
        pair.sides[1].endpoint.rekey_child(pair.now, child).unwrap();
        pair.run(200 * SECOND);
        pair.settle(1);
        let ike = pair.current_ike(0).unwrap();
        pair.sides[0].endpoint.rekey_ike(pair.now, ike).unwrap();
        pair.run(400 * SECOND);
        pair.settle(1);
    }
}

/// A first message in a slow group.
fn first_message() -> Vec<u8> {
    let mut stranger = Pair::new(|_, connection, _| {
        propose(connection, "aes256gcm16-prfsha384-modp2048", "aes128gcm16");
    });
    stranger.initiate();
    stranger.flush();
    stranger.recorded.swap_remove(0)
}

/// The same, from one of many.
fn first_of(message: &[u8], number: u16) -> (Path, Vec<u8>) {
    let mut message = message.to_vec();
    message[..2].copy_from_slice(&number.to_be_bytes());
    let [high, low] = number.to_be_bytes();
    let remote = SocketAddr::from(([10, 9, high, low], 500));
    (Path::new("192.0.2.2:500".parse().unwrap(), remote), message)
}

fn open_to_all(_: bool, connection: &mut Connection, config: &mut EndpointConfig) {
    connection.remote_addrs = vec![AddressPattern::Prefix("0.0.0.0".parse().unwrap(), 0)];
    config.cookie_threshold = 1000;
    config.half_open_limit = 100;
}

/// A11: while the key exchanges of many strangers go on, everybody else is answered.
#[test]
fn strangers_key_exchanges_hold_up_nobody() {
    let message = first_message();

    let mut pair = Pair::new(|a, connection, config| {
        if a {
            return;
        }
        open_to_all(a, connection, config);
        let both = [
            "aes256gcm16-prfsha384-x25519",
            "aes256gcm16-prfsha384-modp2048",
        ];
        connection.proposals = both.map(|text| Proposal::parse_ike(text).unwrap()).to_vec();
    });
    pair.sides[1].slowness = 100 * SECOND;
    let sent = pair.recorded.len();
    let b = &mut pair.sides[1].endpoint;
    for number in 1..=200 {
        let (path, message) = first_of(&message, number);
        for _ in 0..2 {
            b.handle_datagram(pair.now, path, &message);
        }
    }
    pair.flush();
    // No more than may be half open; each is asked for once, and waits with its like.
    assert_eq!(pair.sides[1].jobs.len(), 100);
    let mut lines = pair.sides[1].jobs.iter().map(|(_, _, work)| work.line());
    assert!(lines.all(|line| line == Line::Strangers));
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 100);
    assert_eq!(pair.recorded.len(), sent, "nobody is answered before");

    // Some are not done at all, and leave their place to a peer.
    for _ in 0..10 {
        let (_, job, _) = pair.sides[1].jobs.remove(0);
        let busy = Err(JobError::Busy);
        pair.sides[1].endpoint.handle_job(pair.now, job, &busy);
    }
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 90);
    pair.initiate();
    pair.run(SECOND);
    pair.agree(1);
    let ike = pair.ike(0);
    pair.sides[0]
        .endpoint
        .check_liveness(pair.now, ike)
        .unwrap();
    let before = pair.recorded.len();
    pair.run(SECOND);
    assert_eq!(pair.recorded.len(), before + 2);

    // And all of them are answered when their turn has come.
    let before = pair.recorded.len();
    for (_, job, work) in std::mem::take(&mut pair.sides[1].jobs) {
        pair.sides[1]
            .endpoint
            .handle_job(pair.now, job, &work.run());
    }
    pair.flush();
    let responses = pair.recorded[before..].iter();
    let responses = responses.filter(|m| Header::parse(m).unwrap().is_response());
    assert_eq!(responses.count(), 90);
}

/// Many of them are asked for cookies first, as any half-open ones are.
#[test]
fn many_slow_first_messages_need_cookies() {
    let message = first_message();
    let mut pair = Pair::new(|a, connection, config| {
        open_to_all(a, connection, config);
        propose(connection, "aes256gcm16-prfsha384-modp2048", "aes128gcm16");
        config.cookie_threshold = 10;
    });
    pair.sides[1].slowness = 100 * SECOND;
    for number in 1..=50 {
        let (path, message) = first_of(&message, number);
        pair.sides[1]
            .endpoint
            .handle_datagram(pair.now, path, &message);
    }
    pair.flush();
    assert_eq!(pair.sides[1].jobs.len(), 10);
    assert_eq!(pair.recorded.len(), 40);
    assert_eq!(pair.sides[1].endpoint.stats().cookies, 40);
}

/// A11: a key exchange whose IKE SA has gone is not made. A peer that begins anew with each message would
/// keep all others waiting otherwise.
#[test]
fn what_nobody_waits_for_is_not_made() {
    let crypto = Arc::new(SeededCrypto::new(11));
    let mut pair = Pair::with(crypto.clone(), |a, connection, config| {
        if !a {
            config.cookie_threshold = 0;
        }
        propose(connection, "aes256gcm16-prfsha384-modp2048", "aes128gcm16");
    });
    pair.sides[1].slowness = 100 * SECOND;
    pair.initiate();
    pair.run(SECOND);
    // One cookie is good for all of them.
    let message = pair.recorded.last().unwrap().clone();
    let (own, peer) = ("192.0.2.2:500", "192.0.2.1:500");
    let path = Path::new(own.parse().unwrap(), peer.parse().unwrap());
    for change in 1..10 {
        let mut message = message.clone();
        *message.last_mut().unwrap() ^= change;
        pair.sides[1]
            .endpoint
            .handle_datagram(pair.now, path, &message);
    }
    pair.flush();
    let jobs = std::mem::take(&mut pair.sides[1].jobs);
    assert_eq!(jobs.len(), 10);
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 1);
    let before = crypto.answered();
    for (_, job, work) in jobs {
        pair.sides[1]
            .endpoint
            .handle_job(pair.now, job, &work.run());
    }
    assert_eq!(crypto.answered() - before, 1);
}

/// RFC 7296 §2.6: who begins anew with a cookie, once a puzzle is solved (RFC 8019 §7.1), has no use for an answer
/// to its first message before, whose key exchange goes on meanwhile.
#[test]
fn an_answer_to_an_earlier_first_message_is_not_used() {
    let slow = |connection: &mut Connection| {
        propose(connection, "aes256gcm16-prfsha384-modp2048", "aes128gcm16");
    };
    let mut pair = Pair::new(|_, connection, _| slow(connection));
    pair.initiate();
    pair.flush();
    let message = pair.recorded.last().unwrap().clone();
    // Somebody on the way asks for a cookie; the peer itself answers as well.
    let mut forger = Pair::new(|a, connection, config| {
        slow(connection);
        if !a {
            config.puzzles = Puzzles {
                threshold: Some(0),
                difficulty: 8,
                hardest: 20,
                legacy: 0,
            };
        }
    });
    let (own, peer) = ("192.0.2.1:500", "192.0.2.2:500");
    let path = Path::new(own.parse().unwrap(), peer.parse().unwrap());
    forger.sides[1]
        .endpoint
        .handle_datagram(forger.now, path.turned(), &message);
    forger.flush();
    let asked = forger.recorded.last().unwrap().clone();
    pair.sides[0].slowness = 10 * SECOND;
    pair.sides[0]
        .endpoint
        .handle_datagram(pair.now, path, &asked);
    pair.run(SECOND);
    let lines = pair.sides[0].jobs.iter().map(|(_, _, work)| work.line());
    assert_eq!(lines.collect::<Vec<_>>(), [Line::Puzzles, Line::Quick]);
    assert_eq!(requests(&pair, exchange::IKE_SA_INIT), 1);
    pair.run(60 * SECOND);
    assert!(requests(&pair, exchange::IKE_SA_INIT) > 1);
    pair.agree(1);
}
