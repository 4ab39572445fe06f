// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rings, and slots of operations in flight: what the host wrote before a doorbell is what the card
//! finds, what the card wrote before a completion is what the host finds, and a completion that comes
//! again brings nothing home that has taken the slot since.

use std::sync::atomic::Ordering;

use fpga_regs::descriptor::{Completion, Submission};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::Done;
use offload_api::sa::SaHandle;
use sim::handshake as card;
use zerocopy::{FromZeros, IntoBytes};

use super::explore;
use super::memory::{Completions, Doorbells, Submissions};
use crate::handshake;
use crate::ipa::flights::{Flights, Landing};
use crate::ring::{CompletionRing, SubmissionRing};

const DEPTH: u32 = 2;
const SA: SaHandle = SaHandle {
    index: 0,
    generation: 0,
};
/// What sealing adds to a packet of this model.
const SEALED: u64 = 100;

/// The packet of an operation.
fn packet(number: u32) -> u64 {
    u64::from(number) + 1
}

thread_local! {
    /// Memory that no execution leaves changed: loom need not know of it. Of each test's own: loom's threads
    /// are all one thread, and tests that run beside each other are others.
    static POOL: FramePool = FramePool::new(FramePoolConfig {
        slots: 2 * DEPTH,
        ..Default::default()
    })
    .unwrap();
}

/// What a mutant lacks, and what a card does too much.
#[derive(Clone, Copy, Default)]
struct Twist {
    host_fence: bool,
    weak_store: bool,
    weak_load: bool,
    no_generations: bool,
    /// The watchdog's thread looks on.
    is_watched: bool,
    /// The card completes its first operation once more, after the next one was submitted.
    card_repeats: bool,
}

/// A host has so many operations done, one or two at a time; a card does them; a watchdog looks at the
/// completions meanwhile. Each operation has a packet of one word.
fn model(operations: u32, at_once: u32, twist: Twist) {
    let pool = POOL.with(FramePool::clone);
    let doorbells = Doorbells::<true>::new(1);
    let submissions = Submissions::new(DEPTH as usize);
    let completions = Arc::new(Completions {
        weak_store: twist.weak_store,
        weak_load: twist.weak_load,
        ..Completions::new(DEPTH as usize)
    });
    // One packet for each slot in flight.
    let packets = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);

    let serving = thread::spawn({
        let (doorbells, submissions) = (doorbells.clone(), submissions.clone());
        let (completions, packets) = (completions.clone(), packets.clone());
        move || {
            serve(
                operations,
                twist,
                &doorbells,
                submissions,
                &completions,
                &*packets,
            )
        }
    });
    let watching = twist.is_watched.then(|| {
        let ring = CompletionRing::<Completion, _>::over(completions.clone());
        let packets = packets.clone();
        thread::spawn(move || {
            if ring.is_ready(0) {
                let packet = packets[0].load(Ordering::Relaxed);
                assert_ne!(packet, 0, "a completion before its packet");
            }
        })
    });

    let submitting = SubmissionRing::<Submission, _>::over(submissions);
    let completing = CompletionRing::<Completion, _>::over(completions);
    let mut flights = Flights::new(DEPTH.min(at_once), 0);
    flights.no_generations = twist.no_generations;
    let (mut tail, mut head, mut home) = (0u32, 0, 0u32);
    let page = doorbells.page(0, twist.host_fence.then_some(0));
    let mut done: Vec<Done> = Vec::new();
    while home < operations {
        while tail < operations && flights.room() != 0 {
            let frame = pool.alloc().unwrap();
            let place = flights.begin(frame, tail.into(), SA).unwrap();
            packets[place.slot as usize].store(packet(tail), Ordering::Relaxed);
            let mut entry = Submission::new_zeroed();
            entry.slot = place.slot.into();
            entry.slot_generation = place.generation.into();
            entry.sequence = u64::from(tail).into();
            submitting.write(tail, entry);
            tail += 1;
            handshake::ring(&page, tail);
        }
        let Some(completion) = completing.read(head) else {
            thread::yield_now();
            continue;
        };
        head += 1;
        let landing = flights.accept(&completion, &mut done);
        assert_eq!(landing == Landing::Nobody, done.is_empty());
        for done in done.drain(..) {
            let slot = completion.slot.get() as usize;
            assert_eq!(done.sequence, done.cookie, "another operation's completion");
            let found = packets[slot].load(Ordering::Relaxed);
            let sealed = packet(done.cookie as u32) + SEALED;
            assert_eq!(found, sealed, "not the packet that was sealed");
            home += 1;
        }
    }
    drop(done);
    serving.join().unwrap();
    if let Some(watching) = watching {
        watching.join().unwrap();
    }
    assert_eq!((pool.available(), pool.quarantined()), (4, 0));
}

fn serve(
    operations: u32,
    twist: Twist,
    doorbells: &Doorbells,
    submissions: Arc<Submissions>,
    completions: &Completions,
    packets: &[AtomicU64],
) {
    use crate::handshake::Slots;
    let (mut head, mut produced) = (0, 0);
    let mut post = |mut entry: Completion| {
        entry.phase = card::phase(produced, DEPTH);
        let iova = u64::from(produced % DEPTH) * size_of::<Completion>() as u64;
        let Ok(()) = card::post(completions, iova, entry.as_bytes());
        produced += 1;
    };
    let mut first = None;
    while head < operations {
        if card::tail(doorbells, 0) == head {
            thread::yield_now();
            continue;
        }
        if let Some(first) = first.take().filter(|_| twist.card_repeats) {
            post(first);
        }
        let submission = submissions.read(head);
        assert_eq!(
            submission.sequence.get(),
            u64::from(head),
            "an old descriptor"
        );
        let at = &packets[submission.slot.get() as usize];
        let plain = at.load(Ordering::Relaxed);
        assert_eq!(plain, packet(head), "an old packet");
        at.store(plain + SEALED, Ordering::Relaxed);
        let mut entry = Completion::new_zeroed();
        entry.slot = submission.slot;
        entry.slot_generation = submission.slot_generation;
        entry.sequence = submission.sequence;
        first = (head == 0).then_some(entry);
        post(entry);
        head += 1;
    }
}

#[test]
fn loom_a_watchdog_sees_no_completion_before_its_packet() {
    let is_watched = true;
    explore(move || {
        model(
            1,
            1,
            Twist {
                is_watched,
                ..Twist::default()
            },
        )
    });
}

#[test]
fn loom_operations_go_around_the_rings() {
    explore(|| model(3, 1, Twist::default()));
}

#[test]
fn loom_operations_are_in_flight_together() {
    explore(|| model(2, 2, Twist::default()));
}

#[test]
#[should_panic(expected = "an old")]
fn loom_notices_a_doorbell_without_a_fence() {
    let host_fence = true;
    explore(move || {
        model(
            1,
            1,
            Twist {
                host_fence,
                ..Twist::default()
            },
        )
    });
}

#[test]
#[should_panic(expected = "not the packet that was sealed")]
fn loom_notices_a_phase_that_is_stored_too_early() {
    let weak_store = true;
    explore(move || {
        model(
            1,
            1,
            Twist {
                weak_store,
                ..Twist::default()
            },
        )
    });
}

#[test]
#[should_panic(expected = "not the packet that was sealed")]
fn loom_notices_a_phase_that_is_loaded_too_late() {
    let weak_load = true;
    explore(move || {
        model(
            1,
            1,
            Twist {
                weak_load,
                ..Twist::default()
            },
        )
    });
}

#[test]
fn loom_a_slot_that_is_used_again_is_not_brought_home_by_a_repeated_completion() {
    let card_repeats = true;
    explore(move || {
        model(
            2,
            1,
            Twist {
                card_repeats,
                ..Twist::default()
            },
        )
    });
}

#[test]
#[should_panic(expected = "another operation's completion")]
fn loom_notices_slots_without_generations() {
    let twist = Twist {
        card_repeats: true,
        no_generations: true,
        ..Twist::default()
    };
    explore(move || model(2, 1, twist));
}
