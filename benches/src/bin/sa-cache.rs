// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SA cache with a million SAs: memory, inserts, look-ups from another process while the writer
//! is at work, and taking over. See `benches/sa-cache.sh`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use hdrhistogram::Histogram;
use offload_api::cache::{
    Cache, CacheEntry, CacheReader, CacheSlot, CacheWriter, ReadError, SaName,
};
use offload_api::event::Engine;
use offload_api::sa::{Direction, Mode, SaUsage, Spi, Suite};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::json;

/// SAs of which every look-up finds its own; those behind come and go.
const STEADY: u32 = 15;
const PARTS: u32 = 16;
/// SPIs up to 255 are reserved (RFC 4303 §2.1).
const FIRST_SPI: u32 = 256;
const LOOKUPS: u64 = 4_000_000;
const WARM_UP: u64 = 200_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let sas = arguments
        .next()
        .map_or(1_000_000, |sas| sas.parse().unwrap());
    match arguments.next().as_deref() {
        Some("reader") => read(sas),
        _ => write(sas),
    }
}

/// A process of its own for each core, so that neither waits for the other.
fn pin(cpu: usize) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(cpu % cpus);
    let _ = sched_setaffinity(None, &set);
}

/// One SA in two is inbound.
fn entry(number: u32) -> CacheEntry {
    let direction = if number.is_multiple_of(2) {
        Direction::Inbound
    } else {
        Direction::Outbound
    };
    CacheEntry {
        spi: Spi::new(FIRST_SPI + number).unwrap(),
        direction,
        mode: Mode::Tunnel,
        suite: Suite::AES_256_GCM,
        esn: true,
        replay_window: 1024,
        source: Ipv4Addr::new(192, 0, 2, 1).into(),
        destination: destination(number),
        udp: None,
        owner: u64::from(number),
        name: SaName::new("gateway/net"),
        installed: 1_800_000_000,
    }
}

fn destination(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 | number >> 2).into()
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn below(&mut self, limit: u32) -> u32 {
        (((self.next() >> 32) * u64::from(limit)) >> 32) as u32
    }
}

/// Of this process, without what it shares: octets.
fn private_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

fn shared_memory(cache: &impl AsFd) -> u64 {
    rustix::fs::fstat(cache).unwrap().st_blocks as u64 * 512
}

fn write(sas: u32) {
    pin(0);
    let before = private_memory();
    let cache = Cache::create("sa-cache-benchmark", sas).unwrap();
    let writer = cache.writer().unwrap();
    let start = Instant::now();
    let mut slots: Vec<CacheSlot> = Vec::with_capacity(sas as usize);
    for number in 0..sas {
        slots.push(writer.insert(&entry(number), Engine::Device, 0).unwrap());
    }
    let insert = start.elapsed();
    assert!(writer.insert(&entry(sas), Engine::Device, 0).is_err());
    let own = u64::from(sas) * size_of::<CacheSlot>() as u64;
    let private = private_memory() - before - own;
    let shared = shared_memory(&cache);

    let mut reader = Command::new("/proc/self/exe")
        .args([&sas.to_string(), "reader"])
        .stdin(Stdio::from(cache.read_only_fd().unwrap()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut done = 0u64;
    let mut churned = 0u64;
    let mut random = Random(1);
    let start = Instant::now();
    while reader.try_wait().unwrap().is_none() {
        for _ in 0..1000 {
            work(&writer, &mut slots, &mut random, &mut churned);
        }
        done += 1000;
    }
    let working = start.elapsed().as_secs_f64();
    let mut report = String::new();
    reader
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut report)
        .unwrap();
    assert!(reader.wait().unwrap().success(), "{report}");
    let mut report: serde_json::Value = serde_json::from_str(&report).unwrap();

    drop(writer);
    let before = private_memory();
    let start = Instant::now();
    let writer = cache.writer().unwrap();
    let take_over = start.elapsed();
    assert_eq!(writer.recovery().live.len(), sas as usize);
    let private_again = private_memory().saturating_sub(before);
    let start = Instant::now();
    writer.rebuild_index();
    let rebuild = start.elapsed();
    let view = cache.reader().unwrap();
    for number in 0..sas {
        let wanted = entry(number);
        let found = view.find(wanted.spi, wanted.direction, Some(wanted.destination));
        assert_eq!(found.unwrap().entry, wanted);
    }
    let each = |octets: u64| octets as f64 / f64::from(sas);
    report["sas"] = json!(sas);
    report["insert_per_second"] = json!(f64::from(sas) / insert.as_secs_f64());
    report["shared_octets_per_sa"] = json!(each(shared));
    report["private_octets_per_sa"] = json!(each(private));
    report["private_octets_per_sa_after_take_over"] = json!(each(private_again.max(private)));
    report["shared_octets_per_sa_after_take_over"] = json!(each(shared_memory(&cache)));
    report["writes_per_second"] = json!(done as f64 / working);
    report["sas_replaced"] = json!(churned);
    report["take_over_seconds"] = json!(take_over.as_secs_f64());
    report["rebuild_seconds"] = json!(rebuild.as_secs_f64());
    println!("{report}");
}

/// What a busy writer does: counters, grants, SAs that come and go.
fn work(writer: &CacheWriter, slots: &mut [CacheSlot], random: &mut Random, churned: &mut u64) {
    let sas = slots.len() as u32;
    let number = random.below(sas);
    let slot = &mut slots[number as usize];
    match random.below(4) {
        0 => drop(writer.reserve(*slot, 64)),
        1 if number >= steady(sas) => {
            assert!(writer.remove(*slot));
            *slot = writer.insert(&entry(number), Engine::Device, 0).unwrap();
            *churned += 1;
        }
        _ => {
            let packets = random.next() >> 32;
            let usage = SaUsage {
                packets,
                bytes: packets * 1400,
                ..SaUsage::default()
            };
            writer.record_usage(*slot, &usage);
        }
    }
}

fn steady(sas: u32) -> u32 {
    (u64::from(sas) * u64::from(STEADY) / u64::from(PARTS)) as u32
}

fn read(sas: u32) {
    pin(1);
    let fd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let reader = CacheReader::open(fd).unwrap();
    let mut random = Random(2);
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).unwrap();
    let mut clock = histogram.clone();
    for _ in 0..WARM_UP {
        let start = Instant::now();
        clock.saturating_record(start.elapsed().as_nanos() as u64);
        look(&reader, sas, random.below(sas));
    }
    let (mut missing, mut gone) = (0u64, 0u64);
    let begin = Instant::now();
    for _ in 0..LOOKUPS {
        // One in sixteen is of an SA that never was.
        let number = random.below(sas + sas / 16);
        let start = Instant::now();
        let found = look(&reader, sas, number);
        histogram.saturating_record(start.elapsed().as_nanos() as u64);
        missing += u64::from(number >= sas);
        gone += u64::from(number < sas && !found);
    }
    let report = json!({
        "lookups": LOOKUPS,
        "lookups_per_second": LOOKUPS as f64 / begin.elapsed().as_secs_f64(),
        "lookup_p50_ns": histogram.value_at_quantile(0.5),
        "lookup_p99_ns": histogram.value_at_quantile(0.99),
        "lookup_p999_ns": histogram.value_at_quantile(0.999),
        "lookup_max_ns": histogram.max(),
        "clock_p50_ns": clock.value_at_quantile(0.5),
        "lookups_of_none": missing,
        "lookups_of_replaced": gone,
    });
    println!("{report}");
}

/// Looks one up, and whether it is there.
fn look(reader: &CacheReader, sas: u32, number: u32) -> bool {
    let direction = if number.is_multiple_of(2) {
        Direction::Inbound
    } else {
        Direction::Outbound
    };
    let spi = Spi::new(FIRST_SPI + number).unwrap();
    match reader.find(spi, direction, Some(destination(number))) {
        Ok(record) => {
            assert!(number < sas && record.entry.owner == u64::from(number));
            true
        }
        Err(ReadError::NotFound) => {
            assert!(number >= steady(sas), "SA {number} is hidden");
            false
        }
        Err(error) => panic!("SA {number}: {error}"),
    }
}
