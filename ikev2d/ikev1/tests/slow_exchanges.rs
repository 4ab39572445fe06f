// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Key exchanges that take long: others do not wait for them, and whatever happens meanwhile is as if the
//! messages that need them had come later.
#![allow(clippy::unwrap_used)]

mod peers;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use ikev1_proto::wire::{exchange, parse_header};
use ikev2d_proto::config::{AddressPattern, Connection, EndpointConfig};
use ikev2d_proto::credential::{JobError, Line};
use ikev2d_proto::event::{Event, IkeId, Path, reason};
use ikev2d_proto::proposal::Proposal;

use peers::Pair;
use peers::open::Open;

const SECOND: Duration = Duration::from_secs(1);
const SLOW: &str = "aes256-sha256-modp2048";
const FAST: &str = "aes256-sha256-ecp256";
const FAST_PFS: &str = "aes128-sha256-ecp256";
const PFS: &str = "aes128-sha256-modp1536";

fn propose(connection: &mut Connection, ike: &str, esp: &str) {
    connection.proposals = vec![Proposal::parse_ike(ike).unwrap()];
    connection.children[0].esp_proposals = vec![Proposal::parse_esp(esp).unwrap()];
}

fn patient(
    (ike, esp): (&str, &str),
    aggressive: bool,
) -> impl Fn(bool, &mut Connection, &mut EndpointConfig) {
    move |_, connection, config| {
        propose(connection, ike, esp);
        connection.ikev1.aggressive = aggressive;
        connection.ikev1.aggressive_psk = true;
        config.retransmit_tries = 60;
        config.retransmit_timeout = SECOND;
        config.retransmit_base = 1.0;
    }
}

/// Two ends that take so long for each job, and are patient.
fn slow(ike: &str, esp: &str, aggressive: bool, takes: Duration) -> Pair {
    let mut pair = Pair::new(patient((ike, esp), aggressive));
    for side in &mut pair.sides {
        side.slowness = takes;
    }
    pair
}

fn jobs(pair: &Pair) -> [usize; 2] {
    [0, 1].map(|side| pair.count(side, |event| matches!(event, Event::Job { .. })))
}

fn sent(pair: &Pair, by: usize, wanted: u8) -> usize {
    let of = |(side, message): &&(usize, Vec<u8>)| {
        *side == by && parse_header(message).unwrap().exchange == wanted
    };
    pair.recorded.iter().filter(of).count()
}

/// Phase 1 of either mode and quick mode wait for their key exchanges on both ends, however often they are
/// asked for meanwhile, and make the same keys; one job for each. Fast groups have none.
#[test]
fn every_exchange_waits_for_its_key_exchange() {
    for aggressive in [false, true] {
        for takes in [Duration::from_millis(300), 3 * SECOND] {
            let mode = if aggressive {
                exchange::AGGRESSIVE
            } else {
                exchange::MAIN
            };
            let mut pair = slow(SLOW, PFS, aggressive, takes);
            pair.initiate(0, Some("net"));
            pair.run(60 * SECOND);
            pair.agree(1);
            // Each time our value and the secret, and the peer's answer.
            assert_eq!(jobs(&pair), [4, 2], "aggressive: {aggressive}");
            let (least, repeats) = (if aggressive { 2 } else { 3 }, takes > SECOND);
            assert_eq!(sent(&pair, 0, mode) > least, repeats);
            assert_eq!(sent(&pair, 0, exchange::QUICK) > 2, repeats);

            // The other end rekeys.
            let child = pair.child(1);
            pair.sides[1].endpoint.rekey_child(pair.now, child).unwrap();
            pair.run(60 * SECOND);
            pair.agree(1);
            assert_ne!(pair.child(1), child);
            assert_eq!(jobs(&pair), [5, 4]);
        }
        let mut pair = slow(FAST, FAST_PFS, aggressive, SECOND);
        pair.up();
        assert_eq!(jobs(&pair), [0, 0]);
    }
}

/// One SA's key exchanges hold up nothing else of it: quick modes go their own ways.
#[test]
fn other_exchanges_go_on_while_a_key_exchange_does() {
    let mut pair = Pair::new(|a, connection, config| {
        propose(connection, FAST, PFS);
        connection.children.push(peers::other_child(a));
        config.retransmit_tries = 60;
        config.retransmit_timeout = SECOND;
        config.retransmit_base = 1.0;
    });
    for side in &mut pair.sides {
        side.slowness = 5 * SECOND;
    }
    pair.initiate(0, Some("net"));
    pair.run(SECOND);
    // It has no key exchange: it is there while the first one has not begun.
    pair.initiate(0, Some("other"));
    pair.run(SECOND);
    pair.agree(1);
    pair.run(30 * SECOND);
    pair.agree(2);
    // A peer that is asked answers, whatever it waits for.
    let mut offered = pair.sides[0].offered.values();
    let child = offered.find(|sa| &*sa.child == "net").unwrap().id;
    let (ike, theirs) = (pair.ike(0), pair.ike(1));
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(7 * SECOND);
    assert_eq!(pair.sides[1].jobs.len(), 1);
    let before = sent(&pair, 1, exchange::INFORMATIONAL);
    pair.sides[0]
        .endpoint
        .check_liveness(pair.now, ike)
        .unwrap();
    pair.run(SECOND);
    assert_eq!(sent(&pair, 1, exchange::INFORMATIONAL), before + 1);
    pair.run(30 * SECOND);
    pair.agree(2);
    assert_eq!((pair.ike(0), pair.ike(1)), (ike, theirs));
}

/// What is answered late finds nobody, and harms nobody; who is half open ends in time.
#[test]
fn answers_for_an_sa_that_is_gone_are_dropped() {
    for aggressive in [false, true] {
        let crypto = Open::slow();
        let mut pair = Pair::with_open(crypto.clone(), patient((SLOW, PFS), aggressive));
        pair.sides[0].slowness = 10 * SECOND;
        pair.sides[1].slowness = 100 * SECOND;
        pair.initiate(0, Some("net"));
        pair.run(15 * SECOND);
        // The responder is at it.
        assert_eq!(pair.sides[1].jobs.len(), 1);
        assert_eq!(pair.sides[1].endpoint.stats().half_open, 1);
        let ike = pair.sides[0].endpoint.ike_sas().next().unwrap().id;
        pair.sides[0].endpoint.terminate_ike(pair.now, ike).unwrap();
        pair.run(40 * SECOND);
        assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));
        // Nobody waits for it, so that it is not made either.
        assert!(crypto.calls().contains(&"generate"));
        pair.run(100 * SECOND);
        assert!(pair.sides[1].jobs.is_empty());
        assert!(!crypto.calls().contains(&"generate"));
        assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));

        // An end that begins, and goes before its own part is made.
        pair.initiate(0, Some("net"));
        pair.run(SECOND);
        assert_eq!(pair.sides[0].jobs.len(), 1);
        let ike = pair.sides[0].endpoint.ike_sas().next().unwrap().id;
        pair.sides[0].endpoint.terminate_ike(pair.now, ike).unwrap();
        pair.run(60 * SECOND);
        assert!(pair.sides[0].jobs.is_empty());
        assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));

        // An SA goes while its quick mode has a key exchange on either end.
        for side in 0..2 {
            pair.sides[0].slowness = Duration::ZERO;
            pair.sides[1].slowness = Duration::ZERO;
            pair.initiate(0, Some("net"));
            pair.run(10 * SECOND);
            pair.agree(1);
            pair.sides[side].slowness = 10 * SECOND;
            let child = pair.child(0);
            pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
            pair.run(3 * SECOND);
            assert_eq!(pair.sides[side].jobs.len(), 1);
            let ike = pair.ike(1);
            pair.sides[1].endpoint.terminate_ike(pair.now, ike).unwrap();
            pair.run(60 * SECOND);
            assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));
            pair.agree(0);
        }
    }
}

/// A child that is deleted while another is to take over from it stays so.
#[test]
fn a_child_that_is_gone_is_not_rekeyed() {
    let mut pair = slow(FAST, PFS, false, Duration::ZERO);
    pair.up();
    pair.sides[0].slowness = 5 * SECOND;
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(SECOND);
    assert_eq!(pair.sides[0].jobs.len(), 1);
    pair.sides[0]
        .endpoint
        .terminate_child(pair.now, child)
        .unwrap();
    pair.run(30 * SECOND);
    pair.agree(0);
    assert_eq!(pair.sas(0), 1);
}

/// An SA that another one has taken over from ends what is under way on it.
#[test]
fn a_quick_mode_outlives_the_renewal_of_its_sa() {
    let mut pair = slow(FAST, PFS, false, Duration::ZERO);
    pair.up();
    for side in 0..2 {
        let child = pair.child(0);
        pair.sides[side].slowness = 15 * SECOND;
        for side in &mut pair.sides {
            side.events.clear();
        }
        pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
        pair.run(SECOND);
        assert_eq!(pair.sides[side].jobs.len(), 1);
        let ike = pair.ike(0);
        pair.sides[0].endpoint.rekey_ike(pair.now, ike).unwrap();
        pair.run(300 * SECOND);
        pair.agree(1);
        assert_ne!(pair.child(0), child);
        assert_ne!(pair.ike(0), ike);
        assert_eq!((pair.sas(0), pair.sas(1)), (1, 1));
        // Both shells hear of one change, and of no end.
        for at in 0..2 {
            let rekeyed = |event: &Event| matches!(event, Event::ChildRekeyed { .. });
            let other =
                |event: &Event| matches!(event, Event::ChildUp { .. } | Event::ChildDown { .. });
            assert_eq!((pair.count(at, rekeyed), pair.count(at, other)), (1, 0));
        }
        pair.sides[side].slowness = Duration::ZERO;
    }
}

/// Two ends that give up soon, with a child that is about to be rekeyed on an SA that is replaced meanwhile:
/// the old SA on the second side.
fn rekeying_while_renewed(slowness: Duration, deaf: bool) -> (Pair, IkeId) {
    let mut pair = Pair::new(|_, connection, config| {
        propose(connection, FAST, PFS);
        config.retransmit_tries = 10;
        config.retransmit_timeout = SECOND;
        config.retransmit_base = 1.0;
    });
    pair.up();
    pair.sides[1].slowness = slowness;
    pair.deaf = deaf.then_some(exchange::QUICK);
    let (child, old) = (pair.child(0), pair.ike(1));
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(SECOND);
    let ike = pair.ike(0);
    pair.sides[0].endpoint.rekey_ike(pair.now, ike).unwrap();
    pair.run(SECOND);
    assert_ne!(pair.ike(0), ike);
    (pair, old)
}

/// A quick mode that fails on an SA that another one has taken over from is tried again on that one.
#[test]
fn a_rekeying_that_fails_after_the_renewal_is_tried_again() {
    for case in ["no answer", "not installed", "deleted"] {
        let slowness = match case {
            "no answer" => Duration::ZERO,
            _ => 5 * SECOND,
        };
        let (mut pair, old) = rekeying_while_renewed(slowness, case == "no answer");
        match case {
            "not installed" => pair.sides[0].refuse_installs = true,
            "deleted" => pair.sides[1].endpoint.terminate_ike(pair.now, old).unwrap(),
            _ => {}
        }
        let before = pair.sides[0].events.len();
        pair.run(15 * SECOND);
        let told = pair.sides[0].events[before..].iter();
        let told: Vec<_> = told
            .filter_map(|event| match event {
                Event::RekeyFailed { child, .. } => Some(*child),
                _ => None,
            })
            .collect();
        let [child] = told[..] else {
            panic!("{case}: {told:?}");
        };
        pair.deaf = None;
        pair.sides[0].refuse_installs = false;
        pair.run(200 * SECOND);
        pair.agree(1);
        assert_ne!(pair.child(0), child, "{case}");
        assert_eq!((pair.sas(0), pair.sas(1)), (1, 1), "{case}");
        let down = |event: &Event| matches!(event, Event::ChildDown { .. });
        assert_eq!(pair.count(0, down), 0, "{case}");
    }
}

/// A child whose quick mode has ended is sent through, though the SA that made it goes before its time has come.
#[test]
fn a_child_is_used_though_its_sa_goes_with_the_renewal() {
    let mut pair = slow(FAST, FAST_PFS, false, Duration::ZERO);
    pair.up();
    let (child, ours, theirs) = (pair.child(0), pair.ike(0), pair.ike(1));
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(SECOND / 10);
    // Message 3 is sent, and the peer has some time to install what it is about.
    pair.sides[0].endpoint.rekey_ike(pair.now, ours).unwrap();
    pair.run(SECOND / 5);
    let rekeyed = |event: &Event| matches!(event, Event::ChildRekeyed { .. });
    assert_eq!((pair.count(0, rekeyed), pair.count(1, rekeyed)), (0, 1));
    assert_ne!(pair.ike(0), ours);
    let peer = &mut pair.sides[1].endpoint;
    peer.terminate_ike(pair.now, theirs).unwrap();
    pair.run(SECOND / 10);
    assert_eq!((pair.sas(0), pair.sas(1)), (1, 1));
    assert_eq!(pair.count(0, rekeyed), 1);
    pair.run(60 * SECOND);
    pair.agree(1);
    assert_ne!(pair.child(0), child);
}

/// A child that nothing could take over from says so in the words that it is begun anew for.
#[test]
fn a_child_that_is_never_rekeyed_expires() {
    let mut pair = Pair::new(|a, connection, config| {
        propose(connection, FAST, PFS);
        connection.children[0].rekey_time = a.then_some(60 * SECOND);
        config.retransmit_tries = 3;
        config.retransmit_timeout = SECOND;
        config.retransmit_base = 1.0;
    });
    pair.up();
    pair.deaf = Some(exchange::QUICK);
    pair.run(60 * SECOND);
    let expired = |event: &Event| matches!(event, Event::ChildDown { reason, .. } if reason == reason::EXPIRED);
    assert_eq!(pair.count(0, expired), 1);
}

/// A rekeying that has waited for its key exchange is not asked for where the peer's was faster.
#[test]
fn a_child_that_the_peer_has_rekeyed_is_not_rekeyed() {
    let mut pair = slow(FAST, PFS, false, Duration::ZERO);
    pair.up();
    pair.sides[0].slowness = 5 * SECOND;
    let (child, theirs) = (pair.child(0), pair.child(1));
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(SECOND);
    pair.sides[0].slowness = 2 * SECOND;
    pair.sides[1]
        .endpoint
        .rekey_child(pair.now, theirs)
        .unwrap();
    pair.run(60 * SECOND);
    pair.agree(1);
    assert_ne!(pair.child(0), child);
    // Its answers to the peer alone.
    let messages: HashSet<u32> = pair
        .recorded
        .iter()
        .filter_map(|(side, message)| {
            let header = parse_header(message).unwrap();
            (*side == 0 && header.exchange == exchange::QUICK).then(|| header.message_id.get())
        })
        .collect();
    assert_eq!(messages.len(), 2);
}

/// One peer's messages leave the others room: what it has too many of is as if it had been lost.
#[test]
fn one_peer_has_few_key_exchanges_at_once() {
    const ASKED: usize = 20;
    let mut pair = slow(FAST, PFS, false, Duration::ZERO);
    pair.up();
    pair.sides[1].slowness = 5 * SECOND;
    let before = jobs(&pair)[1];
    for _ in 0..ASKED {
        pair.initiate(0, Some("net"));
    }
    pair.run(SECOND);
    assert_eq!(pair.sides[1].jobs.len(), 8);
    pair.run(59 * SECOND);
    assert_eq!(jobs(&pair)[1] - before, ASKED);
    assert_eq!(pair.failure(0), None);
}

/// Where there is no room, the peer's next repetition finds some.
#[test]
fn a_key_exchange_without_room_is_asked_for_again() {
    for aggressive in [false, true] {
        let mut pair = slow(SLOW, PFS, aggressive, Duration::ZERO);
        for side in &mut pair.sides {
            side.busy = 2;
        }
        pair.up();
        // Our own initiations bound themselves.
        let left = pair.sides.each_ref().map(|side| side.busy);
        assert_eq!(left, [2, 0], "aggressive: {aggressive}");
        assert_eq!((pair.sas(0), pair.sas(1)), (1, 1));
        pair.sides[1].busy = 2;
        let child = pair.child(0);
        pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
        pair.run(30 * SECOND);
        pair.agree(1);
        assert_ne!(pair.child(0), child);
        assert_eq!(pair.sides[1].busy, 0);
    }
}

/// Over a network that loses and doubles.
#[test]
fn nothing_is_lost_for_good_while_key_exchanges_take_their_time() {
    for seed in 0..16 {
        let mut pair = slow(SLOW, PFS, seed % 2 == 0, SECOND);
        pair.random ^= seed << 32;
        pair.loss = 15;
        for (side, millis) in [(0, 40 * seed + 1), (1, 700)] {
            pair.sides[side].slowness = Duration::from_millis(millis);
        }
        pair.initiate(0, Some("net"));
        pair.run(200 * SECOND);
        let child = pair.child(1);
        pair.sides[1].endpoint.rekey_child(pair.now, child).unwrap();
        pair.run(200 * SECOND);
        assert_ne!(pair.child(1), child, "seed {seed}");
        pair.loss = 0;
        pair.run(200 * SECOND);
        pair.agree(1);
    }
}

/// A11: while the key exchanges of many strangers go on, everybody else is answered; they are bounded.
#[test]
fn strangers_key_exchanges_hold_up_nobody() {
    let mut stranger = slow(SLOW, PFS, true, Duration::ZERO);
    stranger.initiate(0, Some("net"));
    stranger.flush();
    let (_, message) = stranger.recorded.swap_remove(0);

    let mut pair = Pair::new(
        |a, connection: &mut Connection, config: &mut EndpointConfig| {
            connection.ikev1.aggressive = true;
            connection.ikev1.aggressive_psk = true;
            if !a {
                let both = [FAST, SLOW].map(|text| Proposal::parse_ike(text).unwrap());
                connection.proposals = both.to_vec();
                connection.remote_addrs =
                    vec![AddressPattern::Prefix("0.0.0.0".parse().unwrap(), 0)];
                config.half_open_limit = 100;
            }
        },
    );
    pair.sides[1].slowness = 25 * SECOND;
    let before = pair.recorded.len();
    for number in 1..=200_u16 {
        let mut message = message.clone();
        message[..2].copy_from_slice(&number.to_be_bytes());
        let [high, low] = number.to_be_bytes();
        let remote = SocketAddr::from(([10, 9, high, low], 500));
        let path = Path::new("192.0.2.2:500".parse().unwrap(), remote);
        for _ in 0..2 {
            let b = &mut pair.sides[1].endpoint;
            b.handle_datagram(pair.now, path, &message);
        }
    }
    pair.flush();
    // No more than may be half open; each is asked for once, and waits with its like.
    assert_eq!(pair.sides[1].jobs.len(), 100);
    let mut lines = pair.sides[1].jobs.iter().map(|(_, _, work)| work.line());
    assert!(lines.all(|line| line == Line::Strangers));
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 100);
    assert_eq!(pair.recorded.len(), before, "nobody is answered before");

    // Some are not done at all, and leave their place to a peer.
    for _ in 0..10 {
        let (_, job, _) = pair.sides[1].jobs.remove(0);
        let busy = Err(JobError::Busy);
        pair.sides[1].endpoint.handle_job(pair.now, job, &busy);
    }
    let stats = pair.sides[1].endpoint.stats();
    assert_eq!((stats.half_open, stats.malformed), (90, 0));
    pair.initiate(0, Some("net"));
    pair.run(SECOND);
    pair.agree(1);

    // And all of them are answered when their turn has come.
    let before = sent(&pair, 1, exchange::AGGRESSIVE);
    for (_, job, work) in std::mem::take(&mut pair.sides[1].jobs) {
        let b = &mut pair.sides[1].endpoint;
        b.handle_job(pair.now, job, &work.run());
    }
    pair.flush();
    assert_eq!(sent(&pair, 1, exchange::AGGRESSIVE), before + 90);
}
