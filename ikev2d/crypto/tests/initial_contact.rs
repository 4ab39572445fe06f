// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A peer that was killed comes back (INITIAL_CONTACT, RFC 7296 §2.4), and its accelerator has gone on
//! with its old SAs: nothing is ever sent that the other side can't open.
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev2d_proto::event::*;
use peers::Pair;

/// Another process at the first side, whose accelerator still has what the one before had installed.
fn restart(pair: &mut Pair) {
    restart_as(pair, Pair::plain());
}

fn restart_as(pair: &mut Pair, mut fresh: Pair) {
    std::mem::swap(&mut pair.sides[0].endpoint, &mut fresh.sides[0].endpoint);
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
}

/// Goes on message by message and timer by timer, as long as `goes_on`, and looks at each step.
fn step_while(pair: &mut Pair, told: &str, mut goes_on: impl FnMut(&mut Pair) -> bool) {
    for _ in 0..200 {
        pair.flush();
        pair.assert_no_black_hole(told);
        if !goes_on(pair) {
            return;
        }
        if pair.wire.is_empty() {
            let end = pair.now + Duration::from_secs(3);
            if !pair.advance(end) {
                return;
            }
        } else {
            pair.deliver(0);
        }
    }
    panic!("no end in sight: {told}");
}

/// IKE SAs of the second side, without those of a peer that was killed before it had authenticated.
fn established(pair: &Pair) -> usize {
    let sas = pair.sides[1].endpoint.ike_sas();
    sas.filter(|sa| sa.established.is_some()).count()
}

/// Child SAs that the second side sends through.
fn sending(pair: &Pair) -> Vec<u32> {
    pair.sides[1].sending.clone()
}

#[test]
fn the_old_child_is_sent_through_until_the_peer_says_that_it_has_the_new_one() {
    let mut pair = Pair::plain();
    pair.up();
    let old = sending(&pair);
    restart(&mut pair);
    let up = |pair: &Pair| pair.count(0, |e| matches!(e, Event::ChildUp { .. })) == 2;
    step_while(&mut pair, "until the new child is there", |pair| !up(pair));
    assert_eq!(sending(&pair), old, "it has not heard yet");
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.check_liveness(now, ike).unwrap();
    step_while(&mut pair, "until it has heard", |pair| sending(pair) == old);
    assert!(pair.now - now < Duration::from_millis(100));
    assert_eq!(established(&pair), 1);
    assert_eq!((sending(&pair).len(), pair.sides[1].inbound.len()), (1, 1));
}

#[test]
fn a_peer_that_says_nothing_more_is_believed_after_a_second() {
    let mut pair = Pair::plain();
    pair.up();
    let (old, then) = (sending(&pair), pair.now);
    restart(&mut pair);
    step_while(&mut pair, "until the second is over", |pair| {
        sending(pair) == old
    });
    let took = pair.now - then;
    assert!(
        took > Duration::from_secs(1) && took < Duration::from_millis(1200),
        "{took:?}"
    );
    assert_eq!(established(&pair), 1);
}

#[test]
fn a_peer_that_is_killed_again_on_its_way_loses_nothing_either() {
    // How many messages of the first return are delivered before the second one.
    for messages in 0..4 {
        let told = format!("killed again after {messages} messages");
        let mut pair = Pair::plain();
        pair.up();
        let old = sending(&pair);
        restart(&mut pair);
        let mut left = messages;
        step_while(&mut pair, &told, |_| {
            left -= 1;
            left >= 0
        });
        restart(&mut pair);
        let (now, before) = (
            pair.now,
            pair.count(0, |e| matches!(e, Event::ChildUp { .. })),
        );
        step_while(&mut pair, &told, |pair| {
            pair.count(0, |e| matches!(e, Event::ChildUp { .. })) == before
        });
        assert_eq!(sending(&pair), old, "{told}");
        let ike = pair.ike(0);
        pair.sides[0].endpoint.check_liveness(now, ike).unwrap();
        step_while(&mut pair, &told, |pair| sending(pair) == old);
        // The one that died on its way is gone with the first one.
        assert_eq!(established(&pair), 1, "{told}");
        assert_eq!(sending(&pair).len(), 1, "{told}");
        pair.run(Duration::from_secs(3));
        pair.assert_no_black_hole(&told);
    }
}

#[test]
fn a_first_contact_sends_at_once() {
    let mut pair = Pair::plain();
    let then = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(then, "gw", Some("net"), None).unwrap();
    pair.run(Duration::from_millis(60));
    pair.agree(1);
}

/// The new IKE SA is rekeyed before its child has been heard of: by the peer at once, as one with
/// postquantum preshared keys does (RFC 8784 §4), by us, or by both.
#[test]
fn an_ike_sa_that_is_rekeyed_at_once_is_not_taken_for_the_lost_one() {
    for (by, seed) in [([true, false], 0), ([false, true], 0)]
        .into_iter()
        .chain((0..16).map(|seed| ([true, true], seed)))
    {
        let told = format!("rekeyed by {by:?}, seed {seed}");
        let mut pair = Pair::seeded(1000 + seed, |_, _, _| {});
        pair.up();
        let old = sending(&pair);
        restart_as(&mut pair, Pair::seeded(seed, |_, _, _| {}));
        step_while(&mut pair, &told, |pair| {
            pair.count(0, |e| matches!(e, Event::ChildUp { .. })) != 2
        });
        assert_eq!(sending(&pair), old, "{told}");
        let (now, newest) = (pair.now, |pair: &Pair, side: usize| {
            pair.sides[side].endpoint.ike_sas().map(|sa| sa.id).max()
        });
        for side in (0..2).filter(|side| by[*side]) {
            let ike = newest(&pair, side).unwrap();
            pair.sides[side].endpoint.rekey_ike(now, ike).unwrap();
        }
        let sent = pair.recorded.len();
        step_while(&mut pair, &told, |_| true);
        // Whoever deletes an IKE SA gets an answer: nothing is sent again.
        assert!(pair.recorded.len() - sent <= 8, "{told}");
        assert_eq!(sending(&pair).len(), 1, "{told}");
        assert_ne!(sending(&pair), old, "{told}");
        pair.run(Duration::from_secs(300));
        pair.assert_no_black_hole(&told);
        let spis = |side: usize| {
            let sas = pair.sides[side].endpoint.ike_sas();
            sas.map(|sa| (sa.spi_i, sa.spi_r)).collect::<Vec<_>>()
        };
        assert_eq!(spis(0), spis(1), "{told}");
        assert_eq!(spis(0).len(), 1, "{told}");
    }
}
