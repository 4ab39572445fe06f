// SPDX-License-Identifier: Apache-2.0 OR MIT
//! With readers and writers in processes of their own, which are killed.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const CHILD: &str = "ESPLANADE_TEST_CACHE_CHILD";

/// Runs `role` of [`child_process`] in a process of its own, with the cache as standard input.
pub(super) fn child(cache: &Cache, role: &str) -> Child {
    command(cache, role).spawn().unwrap()
}

/// To run it as somebody else.
pub(super) fn command(cache: &Cache, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "cache::tests::processes::child_process",
            "--nocapture",
        ])
        .env(CHILD, role)
        .stdin(Stdio::from(cache.as_fd().try_clone_to_owned().unwrap()))
        .stdout(Stdio::piped());
    command
}

/// Does nothing unless another test runs it as a process.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(CHILD) else {
        return;
    };
    let fd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match role {
        "reader" => {
            let reader = CacheReader::open(fd).unwrap();
            let (records, unreadable) = reader.records();
            assert!(matches!(reader.writer(), WriterStatus::Alive(..)));
            println!("\nsaw {} {unreadable}", records.len());
        }
        "watch" => watch(fd, argument.parse().unwrap()),
        "die" => {
            let cache = Cache::open(fd).unwrap();
            let writer = cache.writer().unwrap();
            steps::KILL.store(true, Ordering::Relaxed);
            steps::die_after(Some(argument.parse().unwrap()));
            let mut log = Vec::new();
            script(&writer, &mut log);
            steps::die_after(None);
            println!("\nlived");
        }
        "stranger" => sharing::stranger(Path::new(argument)),
        "member" => sharing::member(Path::new(argument)),
        _ => {
            let writer = Cache::open(fd).unwrap().writer().unwrap();
            let slot = writer.insert(&outbound(0x100), Engine::Device, 0).unwrap();
            // Far more than it lives to do.
            for _ in 0..100_000 {
                println!("\ngranted {}", writer.reserve(slot, 16).unwrap().last);
            }
        }
    }
}

#[test]
fn another_process_reads_it() {
    let cache = cache(8);
    let writer = cache.writer().unwrap();
    for n in 0..5 {
        writer
            .insert(&outbound(0x100 + n), Engine::Device, 0)
            .unwrap();
    }
    let output = child(&cache, "reader").wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("saw 5 0"), "{text}");
}

#[test]
fn s02_a_killed_process_leaves_its_place_and_its_numbers_are_not_granted_again() {
    let cache = cache(8);
    let mut child = child(&cache, "writer");
    let mut last = 0;
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if let Some(granted) = line.strip_prefix("granted ") {
            last = granted.parse().unwrap_or(last);
        }
        if last == 16 * 500 {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "it was killed");
    let reader = cache.reader().unwrap();
    assert!(matches!(reader.writer(), WriterStatus::Dead(_)));
    let next = cache.writer().unwrap();
    let (slot, entry) = next.recovery().live[0].clone();
    assert_eq!(entry, outbound(0x100));
    assert!(next.reserve(slot, 1).unwrap().first > last);
    assert!(matches!(reader.writer(), WriterStatus::Alive(..)));
}

/// Whether a record is one SA's: all fields follow from the SPI, or the peer has moved.
fn assert_whole(record: &CacheRecord) {
    let spi = record.entry.spi.value();
    let mut expected = outbound(spi);
    if record.entry.destination == moved_path().destination {
        expected.destination = moved_path().destination;
    }
    assert_eq!(record.entry, expected);
    assert!((u64::from(spi)..=u64::from(spi) + 1).contains(&record.granted));
    assert!(record.usage.packets == 0 || record.usage.packets == u64::from(spi));
}

const WATCHED: u32 = 8;

/// Three threads read all the time, for so many milliseconds; 0 is until killed.
fn watch(fd: OwnedFd, milliseconds: u64) {
    let reader = CacheReader::open(fd).unwrap();
    println!("\nwatching");
    let end = Instant::now() + Duration::from_millis(milliseconds);
    let goes_on = || milliseconds == 0 || Instant::now() < end;
    let seen: u64 = std::thread::scope(|scope| {
        let look = || {
            let mut seen = 0;
            while goes_on() {
                for index in 0..WATCHED {
                    let Ok(record) = reader.slot(index) else {
                        continue;
                    };
                    assert_whole(&record);
                    seen += 1;
                    let entry = &record.entry;
                    let to = Some(entry.destination);
                    if let Ok(found) = reader.find(entry.spi, entry.direction, to) {
                        assert_eq!(found.entry.spi, entry.spi);
                        assert_whole(&found);
                    }
                }
            }
            seen
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(look)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    println!("\nwhole {seen}");
}

/// SAs come, are used, move and go.
fn churn(writer: &CacheWriter, numbers: impl Iterator<Item = u32>, goes_on: impl Fn() -> bool) {
    for spi in numbers {
        if !goes_on() {
            return;
        }
        let slot = writer
            .insert(&outbound(spi), Engine::Device, u64::from(spi))
            .unwrap();
        writer.reserve(slot, 1).unwrap();
        let usage = SaUsage {
            packets: u64::from(spi),
            ..SaUsage::default()
        };
        writer.record_usage(slot, &usage);
        assert!(writer.set_path(slot, &moved_path()));
        assert!(writer.remove(slot));
    }
}

#[test]
fn s01_nothing_is_torn_for_six_threads_in_two_processes_while_two_write() {
    let cache = cache(WATCHED);
    let writer = cache.writer().unwrap();
    let readers = [0, 1].map(|_| child(&cache, "watch 1000"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for parity in 0..2 {
            let (writer, done) = (&writer, &done);
            let numbers = (0x100 + parity..u32::MAX).step_by(2);
            scope.spawn(move || churn(writer, numbers, || !done.load(Ordering::Relaxed)));
        }
        let outputs = readers.map(|reader| reader.wait_with_output().unwrap());
        done.store(true, Ordering::Relaxed);
        for output in outputs {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{text}");
            let seen = text.lines().find_map(|line| line.strip_prefix("whole "));
            assert!(seen.unwrap().parse::<u64>().unwrap() > 0, "{text}");
        }
    });
}

#[test]
fn s02_a_process_that_is_killed_at_one_of_its_steps_leaves_a_table_that_works() {
    for step in (0..).step_by(11) {
        let cache = cache(4);
        let output = child(&cache, &format!("die {step}"))
            .wait_with_output()
            .unwrap();
        if String::from_utf8_lossy(&output.stdout).contains("\nlived") {
            assert!(step > 150, "the script has only {step} steps");
            return;
        }
        assert!(!output.status.success(), "it was killed");
        let reader = cache.reader().unwrap();
        assert!(matches!(reader.writer(), WriterStatus::Dead(_)));
        // What a reader sees of the dead one's is whole.
        let (records, unreadable) = reader.records();
        assert!(unreadable <= 1, "step {step}");
        let next = cache.writer().unwrap();
        assert_eq!(next.recovery().corrupt, 0, "step {step}");
        let live = &next.recovery().live;
        assert!(live.len() >= records.len(), "step {step}");
        for record in &records {
            let again = next.reserve(record.slot, 1).unwrap();
            assert!(again.first > record.granted, "step {step}");
        }
        for spi in 0..4 - next.len() {
            next.insert(&outbound(0x900 + spi), Engine::Device, 0)
                .unwrap();
        }
        assert_eq!(reader.records().0.len(), 4, "step {step}");
    }
}

#[test]
fn s03_a_reader_that_is_killed_while_it_reads_holds_nobody_up() {
    let cache = cache(WATCHED);
    let writer = cache.writer().unwrap();
    let numbers = AtomicU64::new(0x100);
    for _ in 0..10 {
        let mut reader = child(&cache, "watch 0");
        let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "watching"));
        let first = numbers.fetch_add(1000, Ordering::Relaxed) as u32;
        churn(&writer, first..first + 500, || true);
        reader.kill().unwrap();
        churn(&writer, first + 500..first + 1000, || true);
        reader.wait().unwrap();
    }
    assert_eq!(writer.len(), 0);
    let slots: Vec<_> = (0..WATCHED)
        .map(|n| writer.insert(&outbound(0x100 + n), Engine::Device, 0))
        .collect();
    assert!(slots.iter().all(Result::is_ok));
    assert_eq!(cache.reader().unwrap().records().0.len(), WATCHED as usize);
}
