// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs that an engine refuses: nobody is left sending through what is not there.
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev2d_proto::event::Event;

use peers::Pair;

fn rekeys_by_time() -> Pair {
    let mut pair = Pair::new(|_, connection, _| {
        connection.children[0].rekey_time = Some(Duration::from_secs(3600));
    });
    pair.up();
    pair
}

fn rekey(pair: &mut Pair, side: usize) {
    let child = pair.child(side);
    let endpoint = &mut pair.sides[side].endpoint;
    endpoint.rekey_child(pair.now, child).unwrap();
}

/// What each side sends through comes in at the other one, unless it is being told otherwise: engines take what
/// is under way for a moment.
fn assert_heard(pair: &Pair) {
    if !pair.wire.is_empty() {
        return;
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let spi = pair.sides[from].sending.last().unwrap();
        assert!(
            pair.sides[to].inbound.contains_key(spi),
            "{from} is not heard"
        );
    }
}

/// S80: whoever can't send through a rekeyed child tells the peer, both go on with the old one, and it is tried
/// again; whoever has begun it.
#[test]
fn who_can_not_send_through_a_rekeyed_child_keeps_the_old_one() {
    for (begins, refuses) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut pair = rekeys_by_time();
        let before = [pair.child(0), pair.child(1)];
        pair.sides[refuses].refuse_outbound = true;
        rekey(&mut pair, begins);
        for _ in 0..400 {
            pair.run(Duration::from_millis(20));
            assert_heard(&pair);
        }
        pair.agree(1);
        assert_eq!(before, [pair.child(0), pair.child(1)]);
        let failed =
            |e: &Event| matches!(e, Event::RekeyFailed { child, .. } if *child == before[refuses]);
        assert_eq!(pair.count(refuses, failed), 1, "{begins} {refuses}");
        for side in [0, 1] {
            let down =
                |e: &Event| matches!(e, Event::ChildDown { child, .. } if *child == before[side]);
            assert_eq!(pair.count(side, down), 0, "what goes on is not gone");
        }
        pair.sides[refuses].refuse_outbound = false;
        pair.run(Duration::from_secs(60));
        pair.agree(1);
        assert_ne!(before[0], pair.child(0), "tried again");
        assert_eq!((pair.sas(0), pair.sas(1)), (1, 1));
    }
}

/// Nothing half-made stays of a first child, and whoever has asked for it hears why.
#[test]
fn a_first_child_that_can_not_be_sent_through_is_none() {
    for refuses in [0, 1] {
        let mut pair = Pair::plain();
        pair.sides[refuses].refuse_outbound = true;
        pair.initiate(0, Some("net"));
        pair.run(Duration::from_secs(30));
        pair.agree(0);
        assert_eq!(
            pair.count(refuses, |e| matches!(e, Event::ChildUp { .. })),
            0
        );
        assert_eq!(pair.failure(refuses).is_some(), refuses == 0);
        for side in [0, 1] {
            assert_eq!(pair.sides[side].endpoint.stats().children, 0);
            assert_eq!(pair.sas(side), 1, "the ISAKMP SA stands");
        }
        let down =
            |e: &Event| matches!(e, Event::ChildDown { reason, .. } if reason.contains("peer"));
        assert_eq!(pair.count(1 - refuses, down), 1, "the peer is told");
        pair.sides[refuses].refuse_outbound = false;
        pair.initiate(0, Some("net"));
        pair.run(Duration::from_secs(30));
        pair.agree(1);
    }
}

/// A child that is terminated just after its rekeying is not gone back from.
#[test]
fn a_termination_takes_the_replaced_child_along() {
    for side in [0, 1] {
        let mut pair = rekeys_by_time();
        rekey(&mut pair, 0);
        pair.run(Duration::from_millis(1500));
        let endpoint = &pair.sides[side].endpoint;
        assert_eq!(endpoint.stats().children, 2);
        let child = pair.child(side);
        let endpoint = &mut pair.sides[side].endpoint;
        endpoint.terminate_child(pair.now, child).unwrap();
        pair.run(Duration::from_millis(100));
        pair.agree(0);
        pair.run(Duration::from_secs(60));
        pair.agree(0);
        assert_eq!(
            pair.count(1 - side, |e| matches!(e, Event::ChildUp { .. })),
            1
        );
    }
}

/// The peer has let the old one go: nothing is left, and the shell hears so of both ends.
#[test]
fn where_the_old_child_is_gone_already_nothing_is_left() {
    let mut pair = rekeys_by_time();
    pair.sides[0].refuse_outbound = true;
    let gone = pair.child(1);
    rekey(&mut pair, 0);
    // Message 2 is there, and message 3 is under way.
    for _ in 0..2 {
        pair.flush();
        pair.deliver(0);
    }
    pair.flush();
    let endpoint = &mut pair.sides[1].endpoint;
    endpoint.terminate_child(pair.now, gone).unwrap();
    pair.run(Duration::from_secs(5));
    pair.agree(0);
    for side in [0, 1] {
        assert_eq!(pair.sides[side].endpoint.stats().children, 0);
        let down = |e: &Event| matches!(e, Event::ChildDown { .. });
        assert!(pair.count(side, down) >= 1);
    }
}
