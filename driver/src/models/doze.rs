// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watchdog's sleep: it is roused for every queue that is owed something.

use std::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::explore;
use super::memory::{Doorbells, EventFd, ModelWord};
use crate::handshake::{self, Doze};

/// What a mutant lacks.
#[derive(Clone, Copy, Default)]
struct Lacks {
    host_fence: bool,
    second_look: bool,
}

/// Two queues ring their doorbells; the watchdog must get to see both.
fn model<const WATCHDOG_FENCES: bool>(lacks: Lacks) {
    let doze = Arc::new(Doze::from(ModelWord::<WATCHDOG_FENCES>::new()));
    let owed = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let doorbells = Doorbells::<true>::new(2);
    let bell = EventFd::new(2);
    let hosts: Vec<_> = (0..2)
        .map(|queue| {
            let (doze, owed) = (doze.clone(), owed.clone());
            let (doorbells, bell) = (doorbells.clone(), bell.clone());
            thread::spawn(move || {
                owed[usize::from(queue)].store(1, Ordering::Relaxed);
                // The fence before the doorbell serves here, too.
                let page = doorbells.page(queue, lacks.host_fence.then_some(0));
                handshake::ring(&page, 1);
                if doze.must_rouse() {
                    bell.write();
                }
                bell.leave();
            })
        })
        .collect();

    let look = || [0, 1].map(|queue: usize| owed[queue].load(Ordering::Relaxed));
    let mut seen = [0; 2];
    loop {
        let dozes = doze.lies_down(|| !lacks.second_look && look() != seen);
        if dozes {
            bell.take();
        }
        seen = look();
        if seen == [1; 2] {
            break;
        }
    }
    for host in hosts {
        host.join().unwrap();
    }
}

#[test]
fn loom_a_dozing_watchdog_is_roused_for_every_queue() {
    explore(|| model::<true>(Lacks::default()));
}

#[test]
#[should_panic(expected = "a wake-up was missed")]
fn loom_notices_a_doorbell_that_rouses_without_a_fence() {
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
fn loom_notices_a_watchdog_that_lies_down_without_a_second_look() {
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
fn loom_notices_a_watchdog_that_lies_down_without_a_fence() {
    explore(|| model::<false>(Lacks::default()));
}
