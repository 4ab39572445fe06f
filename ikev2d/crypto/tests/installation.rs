// SPDX-License-Identifier: Apache-2.0 OR MIT
//! S76, S77, S80: SAs that an engine refuses: nobody is left sending through what is not there.
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev2d_proto::event::Event;

use peers::Pair;

fn rekeys_by_time() -> Pair {
    let mut pair = Pair::seeded(3, |_, connection, _| {
        connection.children[0].rekey_time = Some(Duration::from_secs(3600));
    });
    pair.up();
    pair
}

fn rekey(pair: &mut Pair, side: usize) {
    let (now, child) = (pair.now, pair.current_child(side).unwrap());
    let endpoint = &mut pair.sides[side].endpoint;
    endpoint.rekey_child(now, child).unwrap();
}

/// RFC 7296 §2.8: the old SA goes on until the new one is there in both directions.
#[test]
fn who_can_not_send_through_a_rekeyed_child_keeps_the_old_one() {
    for side in [0, 1] {
        let mut pair = rekeys_by_time();
        let before = [pair.current_child(0), pair.current_child(1)];
        pair.sides[side].refuse_outbound = true;
        rekey(&mut pair, side);
        for _ in 0..200 {
            pair.run(Duration::from_millis(5));
            pair.assert_no_black_hole("the outbound SA is refused");
        }
        pair.agree(1);
        assert_eq!(before, [pair.current_child(0), pair.current_child(1)]);
        let failed = |e: &Event| matches!(e, Event::RekeyFailed { child, .. } if Some(*child) == before[side]);
        assert_eq!(pair.count(side, failed), 1);
        let down = |e: &Event| matches!(e, Event::ChildDown { .. });
        assert_eq!(pair.count(side, down), 0, "what goes on is not gone");
        pair.sides[side].refuse_outbound = false;
        pair.run(Duration::from_secs(60));
        pair.agree(1);
        assert_ne!(before[side], pair.current_child(side), "tried again");
        assert_eq!(pair.sides[side].endpoint.ike_sas().count(), 1);
    }
}

/// The peer rekeys and has deleted the old SA when the new one turns out to be refused: it is told, and
/// another one takes its place.
#[test]
fn who_can_not_send_through_the_peers_new_child_asks_for_another() {
    for side in [0, 1] {
        let mut pair = rekeys_by_time();
        pair.sides[1 - side].refuse_outbound = true;
        rekey(&mut pair, side);
        pair.run(Duration::from_secs(5));
        pair.agree(0);
        let down = |e: &Event| matches!(e, Event::ChildDown { reason, .. } if reason == "test");
        assert_eq!(pair.count(1 - side, down), 1);
        pair.sides[1 - side].refuse_outbound = false;
        pair.run(Duration::from_secs(30));
        pair.agree(1);
        pair.assert_no_black_hole("after another try");
    }
}

/// The peer has not deleted the old SA yet: both go on with it, whatever is under way.
#[test]
fn the_old_child_goes_on_where_it_is_still_there() {
    let mut pair = rekeys_by_time();
    let before = [pair.current_child(0), pair.current_child(1)];
    pair.sides[1].refuse_outbound = true;
    pair.sides[0].late_outbound = true;
    rekey(&mut pair, 0);
    pair.run(Duration::from_secs(1));
    // The next request is the sign that it has the new one.
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.check_liveness(now, ike).unwrap();
    pair.run(Duration::from_secs(1));
    pair.agree(1);
    assert_eq!(before, [pair.current_child(0), pair.current_child(1)]);
    let failed = |e: &Event| matches!(e, Event::RekeyFailed { .. });
    assert_eq!(pair.count(1, failed), 1);
    pair.sides[1].refuse_outbound = false;
    pair.sides[0].late_outbound = false;
    pair.run(Duration::from_secs(60));
    pair.agree(1);
    assert_ne!(before[0], pair.current_child(0), "tried again");
}

/// What can't be sent through is not there.
#[test]
fn a_first_child_that_can_not_be_sent_through_is_none() {
    let mut pair = Pair::plain();
    pair.sides[0].refuse_outbound = true;
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    pair.run(Duration::from_secs(30));
    pair.agree(0);
    assert_eq!(pair.count(0, |e| matches!(e, Event::ChildUp { .. })), 0);
    assert_eq!(
        pair.count(0, |e| matches!(e, Event::InitiateFailed { .. })),
        1
    );
    assert_eq!(
        pair.sides[0].endpoint.ike_sas().count(),
        1,
        "the IKE SA stands"
    );
}
