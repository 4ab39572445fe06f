// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Arming and looking once more: a host that sleeps is woken by every completion, and by the card's loss.

use std::sync::atomic::Ordering;

use fpga_regs::descriptor::Completion;
use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::thread;
use sim::handshake as card;
use zerocopy::{FromZeros, IntoBytes};

use super::explore;
use super::memory::{Completions, Doorbells, EventFd};
use crate::handshake;
use crate::ring::CompletionRing;

/// What a mutant lacks.
#[derive(Clone, Copy, Default)]
struct Lacks {
    host_fence: bool,
    second_look: bool,
    look_for_loss: bool,
}

/// A host takes two completions as they come, and learns that the card is lost; a thread of its own
/// notices the loss.
fn model<const CARD_FENCES: bool>(lacks: Lacks) {
    let doorbells = Doorbells::<CARD_FENCES>::new(1);
    let entries = Arc::new(Completions::new(2));
    let interrupt = EventFd::new(2);
    let is_lost = Arc::new(AtomicBool::new(false));

    let serving = thread::spawn({
        let (doorbells, entries, interrupt) =
            (doorbells.clone(), entries.clone(), interrupt.clone());
        move || {
            for position in 0..2 {
                let mut entry = Completion::new_zeroed();
                entry.phase = card::phase(position, 2);
                let iova = u64::from(position) * size_of::<Completion>() as u64;
                let Ok(()) = card::post(&*entries, iova, entry.as_bytes());
                if card::take_arm(&*doorbells, 0) {
                    interrupt.write();
                }
            }
            interrupt.leave();
        }
    });
    let watching = thread::spawn({
        let (is_lost, interrupt) = (is_lost.clone(), interrupt.clone());
        move || {
            is_lost.store(true, Ordering::Release);
            interrupt.write();
            interrupt.leave();
        }
    });

    let completions = CompletionRing::<Completion, _>::over(entries);
    let mut head = 0;
    loop {
        while completions.read(head).is_some() {
            head += 1;
        }
        let knows = is_lost.load(Ordering::Acquire);
        if head == 2 && knows {
            break;
        }
        let page = doorbells.page(0, lacks.host_fence.then_some(0));
        let is_ready = || {
            let completed = !lacks.second_look && completions.is_ready(head);
            // A loss that is known already is no reason to stay awake.
            let lost = !lacks.look_for_loss && !knows && is_lost.load(Ordering::Acquire);
            completed || lost
        };
        if !handshake::arm(&page, || interrupt.drain(), is_ready) {
            interrupt.wait();
        }
    }
    serving.join().unwrap();
    watching.join().unwrap();
}

#[test]
fn loom_an_armed_host_misses_no_completion_and_no_loss() {
    explore(|| model::<true>(Lacks::default()));
}

#[test]
#[should_panic(expected = "a wake-up was missed")]
fn loom_notices_a_host_that_arms_without_a_fence() {
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
fn loom_notices_a_host_that_arms_without_a_second_look() {
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
fn loom_notices_a_host_that_arms_without_a_look_for_the_loss() {
    let look_for_loss = true;
    explore(move || {
        model::<true>(Lacks {
            look_for_loss,
            ..Lacks::default()
        })
    });
}

#[test]
#[should_panic(expected = "a wake-up was missed")]
fn loom_notices_a_card_that_looks_for_arm_without_a_fence() {
    explore(|| model::<false>(Lacks::default()));
}
