// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A seqlock over atomic words: one writer, readers that never block it and never see a torn record.

use super::atomic::{AtomicU64, Ordering, fence};

/// Attempts before a reader gives a record up as abandoned (its writer died half-way).
const ATTEMPTS: usize = 1000;

/// Writes a record. `version` is odd meanwhile.
pub(super) fn write(version: &AtomicU64, words: &[AtomicU64], values: &[u64]) {
    // A writer that died half-way left it odd: go on from the next even number.
    let before = version.load(Ordering::Relaxed).next_multiple_of(2);
    version.store(before.wrapping_add(1), Ordering::Relaxed);
    // Pairs with the acquire fence in `read`: who sees a new word sees the odd version.
    fence(Ordering::Release);
    for (word, value) in words.iter().zip(values) {
        word.store(*value, Ordering::Relaxed);
    }
    // Pairs with the acquire load in `read`: who sees the even version sees every word.
    version.store(before.wrapping_add(2), Ordering::Release);
}

/// Reads a record, or nothing while it is being written (or was abandoned).
pub(super) fn read<const N: usize>(version: &AtomicU64, words: &[AtomicU64]) -> Option<[u64; N]> {
    for _ in 0..ATTEMPTS {
        let before = version.load(Ordering::Acquire);
        if before.is_multiple_of(2) {
            let mut values = [0; N];
            for (value, word) in values.iter_mut().zip(words) {
                *value = word.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if version.load(Ordering::Relaxed) == before {
                return Some(values);
            }
        }
        #[cfg(loom)]
        loom::thread::yield_now();
        #[cfg(not(loom))]
        std::hint::spin_loop();
    }
    None
}

#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;

    use super::*;

    #[test]
    fn loom_a_reader_never_sees_a_torn_record() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Arc::new((AtomicU64::new(0), [AtomicU64::new(0), AtomicU64::new(0)]));
            let writer = {
                let shared = shared.clone();
                loom::thread::spawn(move || {
                    write(&shared.0, &shared.1, &[1, 1]);
                    write(&shared.0, &shared.1, &[2, 2]);
                })
            };
            // One attempt each: retries only repeat the same interleavings.
            let before = shared.0.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let values = [0, 1].map(|n: usize| shared.1[n].load(Ordering::Relaxed));
                fence(Ordering::Acquire);
                if shared.0.load(Ordering::Relaxed) == before {
                    assert_eq!(values[0], values[1]);
                }
            }
            writer.join().unwrap();
            assert_eq!(read::<2>(&shared.0, &shared.1), Some([2, 2]));
        });
    }
}
