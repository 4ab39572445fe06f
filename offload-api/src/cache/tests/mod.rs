// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cache's promises: nothing torn, nothing out of bounds, and no number handed out twice,
//! wherever the writer dies.
#![cfg(not(loom))]

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

mod damage;
mod processes;
mod sharing;

use super::*;
use crate::event::Engine;
use crate::sa::{Direction, Grant, Mode, OuterHeaders, SaUsage, Spi, Suite};

/// Stops the writer after a number of its stores, as a crash would.
pub(super) mod steps {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Set, a process that dies does so by SIGKILL.
    pub(in crate::cache) static KILL: AtomicBool = AtomicBool::new(false);

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    pub(in crate::cache) struct Killed;

    /// Called after each store.
    pub(in crate::cache) fn passed() {
        LEFT.with(|left| match left.get() {
            Some(0) => {
                // Once: nothing is stored while the stack unwinds.
                left.set(None);
                if KILL.load(Ordering::Relaxed) {
                    let own = rustix::process::getpid();
                    let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
                }
                std::panic::panic_any(Killed);
            }
            Some(count) => left.set(Some(count - 1)),
            None => {}
        });
    }

    /// Dies after `count` more stores.
    pub(in crate::cache) fn die_after(count: Option<u64>) {
        LEFT.with(|left| left.set(count));
    }
}

fn entry(spi: u32, direction: Direction) -> CacheEntry {
    CacheEntry {
        spi: Spi::new(spi).unwrap(),
        direction,
        mode: Mode::Tunnel,
        suite: Suite::AES_256_GCM,
        esn: true,
        replay_window: 1024,
        source: "192.0.2.1".parse().unwrap(),
        destination: "2001:db8::2".parse().unwrap(),
        udp: None,
        owner: u64::from(spi) * 5,
        name: SaName::new(&format!("gw/net-{spi}")),
        installed: u64::from(spi) * 3,
    }
}

fn outbound(spi: u32) -> CacheEntry {
    entry(spi, Direction::Outbound)
}

fn cache(capacity: u32) -> Cache {
    Cache::create("test-sa-cache", capacity).unwrap()
}

fn flipped(cache: &Cache, mut flip: impl FnMut(&[AtomicU64])) {
    flip(cache.file.map_writable().unwrap().words());
}

#[test]
fn what_is_entered_is_found_until_it_is_removed() {
    let cache = cache(8);
    let writer = cache.writer().unwrap();
    let reader = cache.reader().unwrap();
    let slots: Vec<_> = (1..=8)
        .map(|n| {
            let engine = Engine::Device;
            writer.insert(&outbound(0x1000 + n), engine, 0).unwrap()
        })
        .collect();
    assert_eq!(
        writer.insert(&outbound(0x2000), Engine::Device, 0),
        Err(InsertError::Full { capacity: 8 })
    );
    assert_eq!(reader.len(), 8);
    let usage = SaUsage {
        packets: 7,
        bytes: 700,
        ..SaUsage::default()
    };
    writer.record_usage(slots[2], &usage);
    writer.place(slots[2], Engine::Software, SaState::Dying);
    let wanted = outbound(0x1003);
    let find =
        |entry: &CacheEntry| reader.find(entry.spi, entry.direction, Some(entry.destination));
    let found = find(&wanted).unwrap();
    assert_eq!(found.entry, wanted);
    assert_eq!(found.usage, usage);
    assert_eq!(found.engine, Some(Engine::Software));
    assert_eq!(found.state, Some(SaState::Dying));
    let other_way = entry(0x1003, Direction::Inbound);
    assert_eq!(find(&other_way), Err(ReadError::NotFound));

    assert!(writer.remove(slots[2]));
    assert!(!writer.remove(slots[2]));
    assert_eq!(find(&wanted), Err(ReadError::NotFound));
    assert_eq!(writer.reserve(slots[2], 1), Err(ReserveError::Stale));
    let again = writer.insert(&outbound(0x3000), Engine::Device, 0).unwrap();
    assert_eq!(again.index, slots[2].index);
    assert_ne!(again.generation, slots[2].generation);
    assert!(matches!(
        reader.slot(8),
        Err(ReadError::OutOfRange { capacity: 8, .. })
    ));
    let kinds: Vec<_> = reader.events().iter().map(|event| event.kind).collect();
    assert_eq!(kinds.first(), Some(&CacheEventKind::Claimed));
    assert_eq!(kinds.last(), Some(&CacheEventKind::Inserted));
}

#[test]
fn an_sa_whose_peer_moved_is_found_where_it_went() {
    let cache = cache(8);
    let writer = cache.writer().unwrap();
    let reader = cache.reader().unwrap();
    let slot = writer.insert(&outbound(0x100), Engine::Device, 0).unwrap();
    let spi = Spi::new(0x100).unwrap();
    let find = |to| reader.find(spi, Direction::Outbound, to);
    let before = outbound(0x100).destination;
    let after = moved_path().destination;
    assert_eq!(find(Some(before)).unwrap().slot, slot);
    assert!(writer.set_path(slot, &moved_path()));
    assert_eq!(find(Some(before)), Err(ReadError::NotFound));
    assert_eq!(find(Some(after)).unwrap().slot, slot);
    assert_eq!(find(None).unwrap().entry.destination, after);
    // A peer's SPI says nothing alone: another SA of it goes elsewhere.
    let other = writer.insert(&outbound(0x100), Engine::Device, 0).unwrap();
    assert_eq!(find(Some(before)).unwrap().slot, other);
    assert_eq!(find(Some(after)).unwrap().slot, slot);
    assert!(writer.remove(slot));
    assert!(!writer.set_path(slot, &moved_path()));
    assert_eq!(find(Some(after)), Err(ReadError::NotFound));
    assert_eq!(reader.record(slot), Err(ReadError::Stale));
    assert_eq!(reader.record(other).unwrap().slot, other);
}

#[test]
fn numbers_are_handed_out_once_and_never_past_the_end() {
    let cache = cache(4);
    let writer = cache.writer().unwrap();
    let slot = writer.insert(&outbound(0x100), Engine::Device, 0).unwrap();
    let grant = |first, last| Ok(Grant { first, last });
    assert_eq!(writer.reserve(slot, 1 << 16), grant(1, 1 << 16));
    assert_eq!(writer.reserve(slot, 10), grant(65537, 65546));
    assert_eq!(writer.reserve(slot, 0), Err(ReserveError::NotApplicable));

    let mut short = outbound(0x101);
    short.esn = false;
    let end = u64::from(u32::MAX);
    let slot = writer.insert(&short, Engine::Device, end - 5).unwrap();
    assert_eq!(writer.reserve(slot, 100), grant(end - 4, end));
    assert_eq!(
        writer.reserve(slot, 1),
        Err(ReserveError::Exhausted { end })
    );

    let last = u64::MAX;
    let slot = writer
        .insert(&outbound(0x102), Engine::Device, last - 1)
        .unwrap();
    assert_eq!(writer.reserve(slot, 100), grant(last, last));
    let exhausted = Err(ReserveError::Exhausted { end: last });
    assert_eq!(writer.reserve(slot, 1), exhausted);

    let inbound = entry(0x103, Direction::Inbound);
    let slot = writer.insert(&inbound, Engine::Device, 0).unwrap();
    assert_eq!(writer.reserve(slot, 1), Err(ReserveError::NotApplicable));
}

/// A writer's life: SAs come and go, numbers are handed out. Logs each grant that was returned.
fn script(writer: &CacheWriter, log: &mut Vec<(u32, Grant)>) {
    let mut slots = Vec::new();
    for spi in [0x100, 0x101, 0x102] {
        slots.push((
            spi,
            writer.insert(&outbound(spi), Engine::Device, 0).unwrap(),
        ));
    }
    for round in 0..3 {
        for (spi, slot) in &slots {
            log.push((*spi, writer.reserve(*slot, 10 + round).unwrap()));
        }
    }
    let (_, gone) = slots.remove(1);
    writer.remove(gone);
    // Into the same slot: the old SA's numbers are not the new one's.
    let slot = writer.insert(&outbound(0x103), Engine::Device, 0).unwrap();
    assert_eq!(slot.index, gone.index);
    log.push((0x103, writer.reserve(slot, 5).unwrap()));
    writer.place(slot, Engine::Software, SaState::Mature);
    assert!(writer.set_path(slot, &moved_path()));
    log.push((0x103, writer.reserve(slot, 5).unwrap()));
}

/// Where an SA's peer has moved.
fn moved_path() -> OuterHeaders {
    OuterHeaders {
        source: "192.0.2.1".parse().unwrap(),
        destination: "198.51.100.9".parse().unwrap(),
        udp: None,
    }
}

#[test]
fn s02_a_writer_that_dies_at_any_step_never_lets_a_number_be_granted_twice() {
    let mut died = 0;
    for step in 0.. {
        let cache = cache(4);
        let writer = cache.writer().unwrap();
        let mut log = Vec::new();
        steps::die_after(Some(step));
        let end = catch_unwind(AssertUnwindSafe(|| script(&writer, &mut log)));
        steps::die_after(None);
        drop(writer);

        let next = cache.writer().unwrap();
        assert_eq!(next.recovery().corrupt, 0, "step {step}");
        let mut used: HashMap<u32, u64> = HashMap::new();
        for (spi, grant) in &log {
            let end = used.entry(*spi).or_default();
            assert!(grant.first > *end, "step {step}");
            *end = grant.last;
        }
        let live = &next.recovery().live;
        for (slot, entry) in live {
            let again = next.reserve(*slot, 10).unwrap();
            let before = used.get(&entry.spi.value()).copied().unwrap_or(0);
            assert!(again.first > before, "step {step}: {again:?}");
            // The gap is the one block that may have been under way.
            assert!(again.first <= before + 13, "step {step}: {again:?}");
        }
        // What was granted from is there to be taken over, unless it was being removed.
        for spi in used.keys().filter(|spi| **spi != 0x101) {
            assert!(live.iter().any(|(_, entry)| entry.spi.value() == *spi));
        }
        // The table works: it takes SAs until it is full, and readers see all of them.
        let room = 4 - next.len();
        for spi in 0..room {
            next.insert(&outbound(0x900 + spi), Engine::Device, 0)
                .unwrap();
        }
        assert!(next.insert(&outbound(0x999), Engine::Device, 0).is_err());
        let reader = cache.reader().unwrap();
        assert_eq!(reader.records().0.len(), 4);
        for record in reader.records().0 {
            let entry = &record.entry;
            let found = reader.find(entry.spi, entry.direction, Some(entry.destination));
            assert_eq!(found.unwrap(), record, "step {step}");
        }
        match end {
            Err(payload) if payload.is::<steps::Killed>() => died += 1,
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(()) => break,
        }
    }
    assert!(died > 150, "the script has only {died} steps");
}

#[test]
fn s01_readers_see_whole_entries_while_slots_change_hands() {
    let cache = cache(2);
    let writer = cache.writer().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let reader = cache.reader().unwrap();
                let stop = &stop;
                scope.spawn(move || {
                    let mut seen = 0u64;
                    while !stop.load(Ordering::Relaxed) {
                        for index in 0..2 {
                            let Ok(record) = reader.slot(index) else {
                                continue;
                            };
                            // All fields follow from the SPI.
                            let spi = record.entry.spi.value();
                            assert_eq!(record.entry, outbound(spi));
                            assert!(record.granted >= u64::from(spi));
                            assert!(record.granted <= u64::from(spi) + 1);
                            assert_eq!(record.usage.packets % 1000, record.usage.packets);
                            seen += 1;
                        }
                    }
                    seen
                })
            })
            .collect();
        for n in 0..20_000 {
            let spi = 0x100 + n;
            let slot = writer
                .insert(&outbound(spi), Engine::Device, u64::from(spi))
                .unwrap();
            writer.reserve(slot, 1).unwrap();
            if n % 64 == 0 {
                std::thread::yield_now();
            }
            assert!(writer.remove(slot));
        }
        stop.store(true, Ordering::Relaxed);
        let seen: u64 = readers.into_iter().map(|r| r.join().unwrap()).sum();
        assert!(seen > 0);
    });
}

#[test]
fn s04_flipped_bits_in_a_thousand_places_are_detected_and_never_lead_out_of_bounds() {
    let mut state = 0x5eed_u64;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let mut noticed = 0;
    for trial in 0..1000 {
        let cache = cache(4);
        let writer = cache.writer().unwrap();
        let slots: Vec<_> = (0..4)
            .map(|n| {
                let entry = outbound(0x100 + n);
                let slot = writer.insert(&entry, Engine::Device, 0).unwrap();
                writer.reserve(slot, 100).unwrap();
                slot
            })
            .collect();
        let geometry = cache.file.geometry();
        // Anywhere but in the header, which is looked at when the memory is mapped.
        let range = layout::LINE..geometry.words();
        flipped(&cache, |words| {
            let place = range.start + random() as usize % range.len();
            let value = words[place].load(Ordering::Relaxed);
            words[place].store(value ^ 1 << (random() % 64), Ordering::Relaxed);
        });
        let reader = cache.reader().unwrap();
        let (records, unreadable) = reader.records();
        noticed += unreadable;
        for record in &records {
            assert_eq!(record.entry, outbound(0x100 + record.slot.index), "{trial}");
        }
        for n in 0..4 {
            let wanted = outbound(0x100 + n);
            let found = reader.find(wanted.spi, wanted.direction, None);
            assert!(found.is_err() || found.unwrap().entry == wanted);
        }
        // The writer believes itself.
        for slot in &slots {
            assert_eq!(writer.reserve(*slot, 1).unwrap().first, 101);
        }
        drop(writer);
        let next = cache.writer().unwrap();
        for (slot, _) in &next.recovery().live {
            match next.reserve(*slot, 1) {
                Ok(grant) => assert!(grant.first > 101, "{trial}: {grant:?}"),
                Err(error) => assert!(matches!(error, ReserveError::Exhausted { .. })),
            }
        }
        assert_eq!(cache.reader().unwrap().records().1, 0);
    }
    assert!(noticed > 0);
}

#[test]
fn a_damaged_or_foreign_file_is_no_cache() {
    let intact = cache(2);
    for word in 0..layout::LINE {
        flipped(&intact, |words| {
            words[word].fetch_xor(1 << 7, Ordering::Relaxed);
        });
        assert!(Cache::open(intact.as_fd().try_clone_to_owned().unwrap()).is_err());
        flipped(&intact, |words| {
            words[word].fetch_xor(1 << 7, Ordering::Relaxed);
        });
    }
    Cache::open(intact.as_fd().try_clone_to_owned().unwrap()).unwrap();

    let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
    let open = rustix::fs::memfd_create("unsealed", flags).unwrap();
    rustix::fs::ftruncate(&open, 1 << 20).unwrap();
    assert!(matches!(Cache::open(open), Err(OpenError::NotSealed)));
    assert!(rustix::fs::ftruncate(&intact, 64).is_err(), "it is sealed");
    assert!(matches!(
        Cache::create("none", 0),
        Err(CreateError::Capacity { .. })
    ));
}

#[test]
fn s09_there_is_one_writer() {
    let cache = cache(2);
    let first = cache.writer().unwrap();
    let taken = Cache::open(cache.as_fd().try_clone_to_owned().unwrap())
        .unwrap()
        .writer();
    assert!(matches!(taken, Err(ClaimError::Taken { writer: Some(w) }) if w == first.identity()));
    drop(first);
    assert_eq!(cache.writer().unwrap().identity().epoch, 2);
}

#[test]
fn a_descriptor_for_reading_gives_no_writer() {
    let cache = cache(2);
    let fd = cache.read_only_fd().unwrap();
    let opened = Cache::open(fd).unwrap();
    assert!(opened.file.map_writable().is_err());
    assert!(opened.writer().is_err());
    // And nobody else opens it by its path under /proc.
    let mode = rustix::fs::fstat(&cache).unwrap().st_mode;
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_index_survives_many_changes() {
    let cache = cache(64);
    let writer = cache.writer().unwrap();
    let reader = cache.reader().unwrap();
    let mut slots = std::collections::VecDeque::new();
    for n in 0..2000 {
        let entry = outbound(0x100 + n);
        slots.push_back((writer.insert(&entry, Engine::Device, 0).unwrap(), entry));
        if slots.len() == 60 {
            let (slot, _) = slots.pop_front().unwrap();
            writer.remove(slot);
        }
        if n % 97 == 0 {
            for (slot, entry) in &slots {
                let found = reader
                    .find(entry.spi, entry.direction, Some(entry.destination))
                    .unwrap();
                assert_eq!(found.slot, *slot);
            }
        }
    }
}
