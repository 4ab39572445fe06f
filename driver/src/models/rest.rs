// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SLEEPING and WAKE: a card that sleeps is woken by every doorbell, of whichever queue.

use loom::thread;
use sim::handshake as card;

use super::explore;
use super::memory::{Doorbells, EventFd};
use crate::handshake;

/// What a mutant lacks.
#[derive(Clone, Copy, Default)]
struct Lacks {
    host_fence: bool,
    second_look: bool,
}

/// Two hosts ring a doorbell each; the card rests whenever it has nothing to do.
fn model<const CARD_FENCES: bool>(lacks: Lacks) {
    let doorbells = Doorbells::<CARD_FENCES>::new(2);
    let wake = EventFd::new(2);
    let hosts: Vec<_> = (0..2)
        .map(|queue| {
            let (doorbells, wake) = (doorbells.clone(), wake.clone());
            thread::spawn(move || {
                // The first fence is the doorbell's own.
                let page = doorbells.page(queue, lacks.host_fence.then_some(1));
                handshake::ring(&page, 1);
                if handshake::must_wake(&page) {
                    wake.write();
                }
                wake.leave();
            })
        })
        .collect();

    let mut taken = [0; 2];
    let tails = || [0, 1].map(|queue| card::tail(&*doorbells, queue));
    while taken != [1; 2] {
        let found = tails();
        if found != taken {
            taken = found;
            continue;
        }
        let has_work = || !lacks.second_look && tails() != taken;
        card::rest(&[&*doorbells], has_work, || wake.take());
    }
    for host in hosts {
        host.join().unwrap();
    }
}

#[test]
fn loom_a_resting_card_misses_no_doorbell() {
    explore(|| model::<true>(Lacks::default()));
}

#[test]
#[should_panic(expected = "a wake-up was missed")]
fn loom_notices_a_host_that_looks_for_a_sleeper_without_a_fence() {
    let host_fence = true;
    explore(move || {
        model::<true>(Lacks {
            host_fence,
            ..Lacks::default()
        })
    });
}

#[test]
#[should_panic(expected = "a wake-up was missed")]
fn loom_notices_a_card_that_rests_without_a_second_look() {
    let second_look = true;
    explore(move || {
        model::<true>(Lacks {
            second_look,
            ..Lacks::default()
        })
    });
}

#[test]
#[should_panic(expected = "a wake-up was missed")]
fn loom_notices_a_card_that_rests_without_a_fence() {
    explore(|| model::<false>(Lacks::default()));
}
