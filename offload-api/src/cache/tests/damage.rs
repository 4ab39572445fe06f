// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Damage by others: foreign headers, garbage in the index, sizes, handles that outlived their SAs.

use rustix::fs::{FallocateFlags, fallocate, ftruncate};

use super::*;
use crate::cache::layout::{LAYOUT_HASH, VERSION, digest};

fn numbers(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 27
    }
}

fn reopened(cache: &Cache) -> Result<Cache, OpenError> {
    Cache::open(cache.as_fd().try_clone_to_owned().unwrap())
}

#[test]
fn s04_a_cache_of_another_build_is_told_apart() {
    for (word, value) in [(1, VERSION + 1), (2, LAYOUT_HASH ^ 1)] {
        let cache = cache(2);
        flipped(&cache, |words| {
            words[word].store(value, Ordering::Relaxed);
            let header: Vec<u64> = words[..layout::LINE - 1]
                .iter()
                .map(|word| word.load(Ordering::Relaxed))
                .collect();
            words[layout::LINE - 1].store(digest(&header), Ordering::Relaxed);
        });
        let error = reopened(&cache).unwrap_err();
        assert!(matches!(error, OpenError::Version { .. }), "{error}");
    }
}

#[test]
fn s04_an_index_of_garbage_leads_to_no_wrong_sa_and_is_laid_anew() {
    let cache = cache(64);
    let writer = cache.writer().unwrap();
    let reader = cache.reader().unwrap();
    for n in 0..64 {
        writer
            .insert(&outbound(0x100 + n), Engine::Device, 0)
            .unwrap();
    }
    let find = |n: u32| {
        let wanted = outbound(0x100 + n);
        let found = reader.find(wanted.spi, wanted.direction, Some(wanted.destination));
        (found, wanted)
    };
    let mut random = numbers(4);
    for round in 0..50 {
        let areas = cache.file.geometry().areas();
        flipped(&cache, |words| {
            let garbage = areas.iter().flat_map(|area| &words[area.clone()]);
            for word in garbage {
                let value = match round % 3 {
                    0 => random(),
                    // Some slot, under whatever tag is there.
                    1 => (word.load(Ordering::Relaxed) >> 32 << 32) | (random() % 70),
                    _ => u64::MAX,
                };
                word.store(value, Ordering::Relaxed);
            }
        });
        for n in 0..64 {
            match find(n) {
                (Ok(record), wanted) => assert_eq!(record.entry, wanted),
                (Err(error), _) => assert!(matches!(
                    error,
                    ReadError::NotFound | ReadError::OutOfRange { .. }
                )),
            }
        }
        assert_eq!(reader.records().0.len(), 64);
        writer.rebuild_index();
        for n in 0..64 {
            assert_eq!(find(n).0.unwrap().entry, find(n).1);
        }
    }
}

#[test]
fn s04_random_words_anywhere_are_stood_by_readers_and_successors() {
    let mut random = numbers(7);
    for trial in 0..300 {
        let cache = cache(8);
        let writer = cache.writer().unwrap();
        for n in 0..6 {
            writer
                .insert(&outbound(0x100 + n), Engine::Device, 0)
                .unwrap();
        }
        drop(writer);
        let words = cache.file.geometry().words();
        flipped(&cache, |memory| {
            for _ in 0..1 << (trial % 8) {
                let place = layout::LINE + random() as usize % (words - layout::LINE);
                let value = random() >> (random() % 64);
                memory[place].store(value, Ordering::Relaxed);
            }
        });
        let reader = cache.reader().unwrap();
        for record in reader.records().0 {
            assert_eq!(record.entry, outbound(0x100 + record.slot.index));
        }
        reader.events();
        let next = cache.writer().unwrap();
        assert_eq!(next.recovery().live.len(), next.len() as usize);
        for n in next.len()..8 {
            next.insert(&outbound(0x900 + n), Engine::Device, 0)
                .unwrap();
        }
        assert!(next.insert(&outbound(0xa00), Engine::Device, 0).is_err());
        assert_eq!(reader.records(), (reader.records().0, 0), "{trial}");
        assert_eq!(reader.records().0.len(), 8, "{trial}");
    }
}

#[test]
fn s05_nobody_takes_the_memory_from_under_a_reader() {
    let cache = cache(64);
    let writer = cache.writer().unwrap();
    let reader = cache.reader().unwrap();
    writer.insert(&outbound(0x100), Engine::Device, 0).unwrap();
    let length = rustix::fs::fstat(&cache).unwrap().st_size as u64;
    let read_only = cache.read_only_fd().unwrap();
    for size in [0, length / 2, length - 1, length + 1, length * 2] {
        assert!(ftruncate(&cache, size).is_err(), "{size}");
        assert!(ftruncate(&read_only, size).is_err(), "{size}");
    }
    let grow = FallocateFlags::empty();
    assert!(fallocate(&cache, grow, length, 4096).is_err());
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert!(fallocate(&read_only, punch, 0, length).is_err());
    assert_eq!(reader.records().0.len(), 1);
    // Who may write may also erase, which is no worse than zeros.
    fallocate(&cache, punch, 0, length).unwrap();
    assert_eq!(reader.records(), (Vec::new(), 0));
    assert_eq!(reader.writer(), WriterStatus::None);
    assert!(reopened(&cache).is_err());
}

#[test]
fn s06_a_handle_that_outlived_its_sa_is_never_anothers() {
    let cache = cache(1);
    let writer = cache.writer().unwrap();
    let reader = cache.reader().unwrap();
    let mut old: Vec<CacheSlot> = Vec::new();
    for n in 0..2000 {
        let slot = writer
            .insert(&outbound(0x100 + n), Engine::Device, 0)
            .unwrap();
        for stale in old.iter().rev().take(3).chain(old.first()) {
            assert_eq!(stale.index, slot.index);
            assert_eq!(reader.record(*stale), Err(ReadError::Stale));
            assert_eq!(writer.reserve(*stale, 1), Err(ReserveError::Stale));
            assert_eq!(writer.granted_end(*stale), None);
            assert!(!writer.remove(*stale));
        }
        assert_eq!(reader.record(slot).unwrap().entry, outbound(0x100 + n));
        writer.remove(slot);
        assert_eq!(reader.record(slot), Err(ReadError::Stale));
        old.push(slot);
    }
    // Nor by a successor.
    drop(writer);
    let next = cache.writer().unwrap();
    let slot = next.insert(&outbound(0x999), Engine::Device, 0).unwrap();
    assert!(!old.contains(&slot));
}

#[test]
fn s07_a_full_table_refuses_and_evicts_nobody() {
    let cache = cache(16);
    let writer = cache.writer().unwrap();
    let slots: Vec<_> = (0..16)
        .map(|n| {
            let slot = writer.insert(&outbound(0x100 + n), Engine::Device, 0);
            slot.unwrap()
        })
        .collect();
    for n in 0..100 {
        assert_eq!(
            writer.insert(&outbound(0x900 + n), Engine::Device, 0),
            Err(InsertError::Full { capacity: 16 })
        );
    }
    let reader = cache.reader().unwrap();
    for (slot, n) in slots.iter().zip(0..) {
        assert_eq!(reader.record(*slot).unwrap().entry, outbound(0x100 + n));
        writer.reserve(*slot, 1).unwrap();
    }
    assert!(writer.remove(slots[3]));
    writer.insert(&outbound(0x900), Engine::Device, 0).unwrap();
}

#[test]
fn s02_a_successor_that_dies_while_it_takes_over_loses_nothing() {
    let mut died = 0;
    for step in (0..).step_by(17) {
        let mut ended = false;
        for again in 0.. {
            let cache = cache(4);
            let writer = cache.writer().unwrap();
            let mut log = Vec::new();
            steps::die_after(Some(step));
            let end = catch_unwind(AssertUnwindSafe(|| script(&writer, &mut log)));
            ended = end.is_ok();
            steps::die_after(Some(again));
            drop(writer);
            let second = catch_unwind(AssertUnwindSafe(|| drop(cache.writer().unwrap())));
            steps::die_after(None);
            let third = cache.writer().unwrap();
            let place = format!("step {step}, then {again}");
            assert_eq!(third.recovery().corrupt, 0, "{place}");
            for (spi, grant) in &log {
                if *spi == 0x101 {
                    continue;
                }
                let live = &third.recovery().live;
                let found = live.iter().find(|(_, e)| e.spi.value() == *spi);
                let (slot, _) = found.unwrap_or_else(|| panic!("{place}: {spi:x} is lost"));
                assert!(third.granted_end(*slot).unwrap() >= grant.last, "{place}");
            }
            let reader = cache.reader().unwrap();
            assert_eq!(reader.records().1, 0, "{place}");
            match second {
                Ok(()) => break,
                Err(_) => died += 1,
            }
        }
        if ended {
            break;
        }
    }
    assert!(died > 100, "successors have only {died} steps");
}

#[test]
fn memory_is_taken_as_sas_come_and_looking_takes_none() {
    let cache = cache(1 << 20);
    let blocks = || rustix::fs::fstat(&cache).unwrap().st_blocks * 512;
    let writer = cache.writer().unwrap();
    for n in 0..100 {
        writer
            .insert(&outbound(0x100 + n), Engine::Device, 0)
            .unwrap();
    }
    let taken = blocks();
    assert!(taken < 4 << 20, "{taken} octets for 100 SAs");
    let reader = cache.reader().unwrap();
    assert_eq!(reader.records().0.len(), 100);
    let spi = Spi::new(0x9999).unwrap();
    assert!(reader.find(spi, Direction::Outbound, None).is_err());
    drop(writer);
    let next = cache.writer().unwrap();
    assert_eq!(next.recovery().live.len(), 100);
    let now = blocks();
    assert!(now <= 2 * taken, "{now} octets where there were {taken}");
}
