// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every interleaving of a writer with a reader, by loom.
#![cfg(loom)]

use std::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;

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

/// A slot is one record (generation, SA) and a word beside it that belongs to the SA. The order is
/// the writer's: remove, then the new SA's word, then its record.
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
        let (mut before, mut after) = ([0; 2], [0; 2]);
        if read(&slot[..3], &mut before).is_ok() {
            let beside = slot[3].load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if read(&slot[..3], &mut after).is_ok() && before == after && before[1] != 0 {
                assert_eq!(beside, before[1] * 100);
            }
        }
        writer.join().unwrap();
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
