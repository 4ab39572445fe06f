// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every interleaving of a writer with a reader, by loom.
#![cfg(loom)]

use std::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;

use super::index::{Index, Unsettled};
use super::layout::{EVENT_WORDS, RING};
use super::ring::{self, CacheEvent, CacheEventKind};
use super::seqlock::{Word, read, write};

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    fn fence(order: Ordering) {
        fence(order);
    }
}

fn words<const N: usize>() -> Arc<[AtomicU64; N]> {
    Arc::new(std::array::from_fn(|_| AtomicU64::new(0)))
}

#[test]
fn loom_a_record_is_read_whole_or_not_at_all() {
    loom::model(|| {
        let record = words::<3>();
        let writer = thread::spawn({
            let record = record.clone();
            move || {
                write(&record[..], &[1, 10]);
                write(&record[..], &[2, 20]);
            }
        });
        let mut data = [0; 2];
        if read(&record[..], &mut data).is_ok() {
            assert_eq!(data[1], data[0] * 10);
        }
        writer.join().unwrap();
        read(&record[..], &mut data).unwrap();
        assert_eq!(data, [2, 20]);
    });
}

#[test]
fn loom_a_record_that_was_abandoned_is_not_read_and_is_written_over() {
    loom::model(|| {
        let record = words::<3>();
        // A writer died after its first data word.
        record[0].store(1, Ordering::Relaxed);
        record[1].store(9, Ordering::Relaxed);
        let writer = thread::spawn({
            let record = record.clone();
            move || write(&record[..], &[3, 30])
        });
        let mut data = [0; 2];
        if read(&record[..], &mut data).is_ok() {
            assert_eq!(data, [3, 30]);
        }
        writer.join().unwrap();
    });
}

/// A slot is one record (generation, SA) and a word behind it that belongs to the SA; readers take
/// all as one. The order is the writer's: remove, then the new SA's word, then its record.
#[test]
fn loom_a_reused_slot_never_mixes_two_sas() {
    loom::model(|| {
        let slot = words::<4>();
        write(&slot[..3], &[1, 1]);
        slot[3].store(100, Ordering::Release);
        let writer = thread::spawn({
            let slot = slot.clone();
            move || {
                write(&slot[..3], &[2, 0]);
                slot[3].store(200, Ordering::Release);
                write(&slot[..3], &[2, 2]);
            }
        });
        let mut data = [0; 3];
        if read(&slot[..], &mut data).is_ok() && data[1] != 0 {
            assert_eq!(data[2], data[1] * 100);
        }
        writer.join().unwrap();
    });
}

/// Three threads: what one reader sees, another that it tells of it sees too.
#[test]
fn loom_two_readers_see_whole_records_in_the_order_of_their_writing() {
    bounded().check(|| {
        let record = words::<2>();
        let told = words::<1>();
        let writer = thread::spawn({
            let record = record.clone();
            move || {
                write(&record[..], &[1]);
                write(&record[..], &[2]);
            }
        });
        let first = thread::spawn({
            let (record, told) = (record.clone(), told.clone());
            move || {
                let mut data = [0];
                if read(&record[..], &mut data).is_ok() {
                    told[0].store(data[0], Ordering::Release);
                }
            }
        });
        let before = told[0].load(Ordering::Acquire);
        let mut data = [0];
        if read(&record[..], &mut data).is_ok() {
            assert!(data[0] >= before, "{} after {before}", data[0]);
        }
        writer.join().unwrap();
        first.join().unwrap();
    });
}

/// Preemptions that are tried, where trying all would take hours.
fn bounded() -> loom::model::Builder {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model
}

const HASH: u64 = 7 << 32;

fn index(memory: &[AtomicU64; 5]) -> Index<'_, AtomicU64> {
    let (version, areas) = memory.split_at(1);
    let (even, odd) = areas.split_at(2);
    Index::new(version.first(), [even, odd])
}

/// The index is laid anew twice, so that each area goes out of use and is cleared, while two readers
/// look an SA up that is there all the time.
#[test]
fn loom_an_index_that_is_laid_anew_hides_nobody() {
    bounded().check(|| {
        let memory = words::<5>();
        index(&memory).insert(HASH, 3);
        let look = |memory: &[AtomicU64; 5]| match index(memory).find(HASH, Some) {
            Ok(found) => assert_eq!(found, Some(3)),
            Err(Unsettled) => {}
        };
        let writer = thread::spawn({
            let memory = memory.clone();
            move || {
                for _ in 0..2 {
                    let index = index(&memory);
                    index.clear_idle();
                    index.rebuild([(HASH, 3)].into_iter());
                }
            }
        });
        let reader = thread::spawn({
            let memory = memory.clone();
            move || look(&memory)
        });
        look(&memory);
        writer.join().unwrap();
        reader.join().unwrap();
        look(&memory);
    });
}

/// SAs that come and go on the same way to be looked for hide none that stays.
#[test]
fn loom_a_place_that_is_cleared_is_on_nobodys_way() {
    bounded().check(|| {
        let memory = Arc::new(std::array::from_fn::<_, 9, _>(|_| AtomicU64::new(0)));
        fn wide(memory: &[AtomicU64; 9]) -> Index<'_, AtomicU64> {
            let (version, areas) = memory.split_at(1);
            let (even, odd) = areas.split_at(4);
            Index::new(version.first(), [even, odd])
        }
        wide(&memory).insert(HASH, 1);
        wide(&memory).insert(HASH, 2);
        let writer = thread::spawn({
            let memory = memory.clone();
            move || {
                let index = wide(&memory);
                index.remove(HASH, 1);
                index.insert(HASH, 5);
                index.remove(HASH, 5);
                index.insert(HASH, 6);
            }
        });
        let found = wide(&memory).find(HASH, |slot| (slot == 2).then_some(slot));
        assert_eq!(found.unwrap(), Some(2));
        writer.join().unwrap();
        let found = wide(&memory).find(HASH, |slot| (slot == 6).then_some(slot));
        assert_eq!(found.unwrap(), Some(6));
    });
}

/// Two events come to lie in one place of the ring.
#[test]
fn loom_an_event_that_is_written_over_is_not_mixed_with_its_follower() {
    loom::model(|| {
        let ring = words::<{ RING * EVENT_WORDS }>();
        let event = |number: u64| CacheEvent {
            number,
            time: number * 10,
            kind: CacheEventKind::Granted,
            sa: None,
            value: number * 100,
        };
        let [old, new] = [1, 1 + RING as u64];
        ring::write(&ring[..], &event(old));
        let writer = thread::spawn({
            let ring = ring.clone();
            move || ring::write(&ring[..], &event(new))
        });
        for number in [old, new] {
            if let Some(seen) = ring::read(&ring[..], number) {
                assert_eq!(seen, event(number));
            }
        }
        writer.join().unwrap();
        assert_eq!(ring::read(&ring[..], new), Some(event(new)));
    });
}

/// A grant's record is there for whoever sees the grant in use.
#[test]
fn loom_a_grant_is_recorded_before_it_can_be_used() {
    loom::model(|| {
        let shared = words::<3>();
        let writer = thread::spawn({
            let shared = shared.clone();
            move || {
                shared[0].store(64, Ordering::Release);
                shared[1].store(!64, Ordering::Release);
                // The engine's doorbell.
                shared[2].store(1, Ordering::Release);
            }
        });
        if shared[2].load(Ordering::Acquire) == 1 {
            let end = shared[0].load(Ordering::Acquire);
            let inverse = shared[1].load(Ordering::Acquire);
            assert_eq!(end.max(!inverse), 64);
        }
        writer.join().unwrap();
    });
}
