// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hostile bytes in the SA cache's memory: at a reader, and at the writer that takes it over. Half of
//! the inputs are the whole memory, header and all; the others are changes to a cache that was sound.
//! (Checksums of entries are not looked at here, or a fuzzer would never get past them.)
#![no_main]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use libfuzzer_sys::fuzz_target;
use offload_api::cache::{Cache, CacheEntry, CacheReader, CacheSlot, SaLabel};
use offload_api::event::Engine;
use offload_api::sa::{
    Direction, KeyMaterial, OuterHeaders, SaParams, SaUsage, Spi, Suite,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

const CAPACITY: u32 = 4;
/// Header, event ring, index and slots of so small a cache.
const OCTETS: u64 = 160 << 10;

fn entry(n: u32) -> CacheEntry {
    let direction = if n % 2 == 0 { Direction::Inbound } else { Direction::Outbound };
    let suite = Suite::AES_128_GCM;
    let keys = KeyMaterial::from_keymat(suite, &[1; 20], &[]).unwrap();
    let sa = SaParams::tunnel(Spi::new(0x100 + n).unwrap(), direction, suite, keys);
    CacheEntry::new(&sa, &SaLabel::from(u64::from(n)), 1)
}

/// Memory with these octets at its start.
fn memory(data: &[u8]) -> OwnedFd {
    let fd = memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let file = File::from(fd);
    // Its own idea of its size, where that can be had.
    let words = data.get(48..56).map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap()));
    let size = words.saturating_mul(8).clamp(data.len() as u64, OCTETS * 4);
    ftruncate(&file, size).unwrap();
    file.write_all_at(data, 0).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    file.into()
}

/// A cache that was sound, changed in places: two octets of where, one of how much, and what.
fn changed(mut data: &[u8]) -> OwnedFd {
    let cache = Cache::create("fuzz", CAPACITY).unwrap();
    let writer = cache.writer().unwrap();
    for n in 0..3 {
        let slot = writer.insert(&entry(n), Engine::Device, 0).unwrap();
        let _ = writer.reserve(slot, 64);
    }
    drop(writer);
    let file = File::from(cache.as_fd().try_clone_to_owned().unwrap());
    let size = file.metadata().unwrap().len();
    while let [low, high, len, rest @ ..] = data {
        // From both ends: what matters is there, and the ring in the middle.
        let place = u64::from(u16::from_le_bytes([*low, *high]));
        let place = if place & 1 == 0 { place % size } else { size - 1 - place % size };
        let (what, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        let fits = what.len().min((size - place) as usize);
        file.write_all_at(&what[..fits], place).unwrap();
        data = rest;
    }
    file.into()
}

fn read(reader: &CacheReader) {
    let (records, unreadable) = reader.records();
    assert!(records.len() + unreadable as usize <= reader.capacity() as usize);
    for record in &records {
        assert!(record.slot.index < reader.capacity());
        let entry = &record.entry;
        let _ = reader.find(entry.spi, entry.direction, Some(entry.destination));
    }
    for n in 0..4 {
        let entry = entry(n);
        let _ = reader.find(entry.spi, entry.direction, Some(entry.destination));
    }
    reader.events();
    reader.writer();
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let fd = if kind & 1 == 0 { memory(data) } else { changed(data) };
    let Ok(cache) = Cache::open(fd) else {
        return;
    };
    if let Ok(reader) = cache.reader() {
        read(&reader);
    }
    let Ok(writer) = cache.writer() else {
        return;
    };
    let live = writer.recovery().live.clone();
    assert_eq!(live.len(), writer.len() as usize);
    assert!(writer.len() <= writer.capacity());
    let usage = SaUsage { packets: 1, ..SaUsage::default() };
    let path = OuterHeaders {
        source: [192, 0, 2, 1].into(),
        destination: [192, 0, 2, 2].into(),
        udp: None,
    };
    for (slot, entry) in &live {
        let before = writer.granted_end(*slot).unwrap();
        if let Ok(grant) = writer.reserve(*slot, 10) {
            assert!(entry.direction == Direction::Outbound && grant.first > before);
        }
        writer.record_usage(*slot, &usage);
        assert!(writer.set_path(*slot, &path));
    }
    let mut inserted = Vec::new();
    while let Ok(slot) = writer.insert(&entry(inserted.len() as u32), Engine::Software, 0) {
        inserted.push(slot);
    }
    assert_eq!(writer.len(), writer.capacity());
    let reader = cache.reader().unwrap();
    assert_eq!(reader.records().1, 0, "a successor has mended all of it");
    let all = live.iter().map(|(slot, _)| *slot).chain(inserted);
    for slot in all.collect::<Vec<CacheSlot>>() {
        assert!(reader.record(slot).is_ok());
        assert!(writer.remove(slot));
    }
    assert!(writer.is_empty());
});
