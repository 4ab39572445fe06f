// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Both peers rekey by time, so often that their rekeyings of child and IKE SA meet in all the ways that
//! chance brings (RFC 7296 §2.8, §2.25): nothing that is replaced stays.
//!
//! `ESPLANADE_SEEDS=1..2000` plays more of them; a failure names its seed.
#![allow(clippy::unwrap_used)]

mod peers;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use peers::Pair;

/// Between two looks.
const STEP: Duration = Duration::from_millis(50);

fn seeds() -> Range<u64> {
    let given = std::env::var("ESPLANADE_SEEDS").ok();
    let given = given.as_deref().and_then(|text| text.split_once(".."));
    let read = |text: &str| text.parse().unwrap();
    given.map_or(1..9, |(from, to)| read(from)..read(to))
}

/// How long each thing has been there, of those that are.
#[derive(Default)]
struct Ages(BTreeMap<(usize, &'static str, u64), Instant>);

impl Ages {
    fn look(&mut self, pair: &Pair) {
        let mut there = BTreeMap::new();
        for (at, side) in pair.sides.iter().enumerate() {
            // Where the answer to a deletion is lost, it is asked for until all tries are over; one whose
            // creator has never heard of it is forgotten in the end. Neither has children.
            let ikes = side.endpoint.ike_sas();
            let ikes = ikes.filter(|sa| pair.loss == 0 || sa.state == "ESTABLISHED");
            let ikes = ikes.map(|sa| ("IKE SA", sa.id.0));
            let inbound = side.inbound.keys().map(|spi| ("inbound", (*spi).into()));
            let outbound = side.outbound.keys().map(|spi| ("outbound", (*spi).into()));
            for (what, id) in ikes.chain(inbound).chain(outbound) {
                let key = (at, what, id);
                let since = self.0.get(&key).copied();
                there.insert(key, since.unwrap_or(pair.now));
            }
        }
        self.0 = there;
    }
}

/// Plays for a minute; what is rekeyed by either side goes within its time and `over`.
fn play(seed: u64, loss: u64, over: Duration) {
    let told = format!("seed {seed}, {loss} % lost");
    let seconds =
        |of: u64, at: u64| Duration::from_secs([2, 3, 5, 8][(of >> (at * 2)) as usize % 4]);
    let of = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let mut pair = Pair::seeded(seed, |a, connection, config| {
        let at = u64::from(a) * 2;
        connection.rekey_time = Some(seconds(of, at));
        connection.children[0].rekey_time = Some(seconds(of, at + 1));
        config.retransmit_tries = 20;
        config.retransmit_timeout = Duration::from_millis(500);
        config.retransmit_base = 1.2;
    });
    let ike_life = seconds(of, 0).min(seconds(of, 2)) + over;
    let child_life = seconds(of, 1).min(seconds(of, 3)) + over;
    pair.initiate();
    pair.run(Duration::from_millis(500));
    (pair.random, pair.loss) = (of | 1, loss);
    let (mut ages, end) = (Ages::default(), pair.now + Duration::from_secs(60));
    while pair.now < end {
        pair.run(STEP);
        if loss == 0 {
            pair.assert_no_black_hole(&told);
        }
        ages.look(&pair);
        for ((side, what, id), since) in &ages.0 {
            let life = match *what {
                "IKE SA" => ike_life,
                _ => child_life,
            };
            let age = pair.now - *since;
            assert!(age <= life, "{what} {id:x} of side {side} stays: {told}");
        }
        for side in &pair.sides {
            assert!(!side.outbound.is_empty(), "nothing left: {told}");
        }
    }
}

/// A08, B1: whatever meets, in order or not.
#[test]
fn what_rekeyings_replace_goes_however_they_meet() {
    for seed in seeds() {
        play(seed, 0, Duration::from_secs(5));
    }
}

/// A08, B1: the same on a bad network, where all takes longer.
#[test]
fn what_rekeyings_replace_goes_on_a_bad_network_too() {
    for seed in seeds().step_by(2) {
        play(seed, 10, Duration::from_secs(30));
    }
}
