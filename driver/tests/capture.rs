// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card's own capture, as tshark reads it.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use driver::DeviceAddress;
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair};
use offload_api::sa::*;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use sim::capture::CaptureConfig;
use sim::pace::{Pace, VirtualClock};
use sim::{CardConfig, RunningCard};

const SPI: u32 = 0x4001;

fn params(direction: Direction) -> SaParams {
    let suite = Suite::AES_128_GCM;
    let numbers = Grant {
        first: 1,
        last: 100_000,
    };
    SaParams {
        numbering: Numbering::Granted((direction == Direction::Outbound).then_some(numbers)),
        ..SaParams::tunnel(
            Spi::new(SPI).unwrap(),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &[5; 20], &[]).unwrap(),
        )
    }
}

fn packet(number: u8) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 128, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ];
    packet.resize(128, number);
    packet
}

/// Seals packets on a card with these settings and opens them again; the card ends.
fn traffic(config: &CardConfig, packets: u8) {
    let simulated = RunningCard::start(config).unwrap();
    let card = driver::open(&DeviceAddress::User(config.socket.clone())).unwrap();
    let pool = FramePool::new(FramePoolConfig {
        slots: 64,
        ..Default::default()
    })
    .unwrap();
    card.register_pool(&pool).unwrap();
    let mut queue = card.open_queue(&QueueConfig { depth: 32 }).unwrap();
    let seal = card.install(&params(Direction::Outbound)).unwrap();
    let open = card.install(&params(Direction::Inbound)).unwrap();
    for number in 0..packets {
        let mut octets = packet(number);
        for sa in [seal, open] {
            octets = pass(&mut *queue, &pool, sa, &octets, config.clock.as_ref());
        }
        assert_eq!(octets, packet(number));
    }
    drop((queue, card));
    simulated.stop().unwrap();
}

fn pass(
    queue: &mut dyn QueuePair,
    pool: &FramePool,
    sa: SaHandle,
    octets: &[u8],
    clock: Option<&VirtualClock>,
) -> Vec<u8> {
    let mut frame = pool.alloc().unwrap();
    assert!(frame.fill(octets));
    let op = Op::new(sa, frame, 0);
    queue.enqueue(&mut vec![op]).unwrap();
    queue.kick().unwrap();
    let start = Instant::now();
    let mut done: Vec<Done> = Vec::new();
    while queue.dequeue(&mut done, 1).unwrap() == 0 {
        if let Some(clock) = clock {
            clock.advance(Duration::from_micros(10));
        }
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert!(done[0].status.is_ok());
    done[0].frame.to_vec()
}

/// What tshark reads: fields of each packet.
fn tshark(file: &Path) -> Vec<Vec<String>> {
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.time_epoch",
        "frame.comment",
        "esp.spi",
        "esp.sequence",
        "frame.len",
    ];
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-n", "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let split = |line: &str| line.split('\t').map(str::to_owned).collect();
    lines.lines().map(split).collect()
}

/// Seen and dropped of each interface, by the file's statistics.
fn statistics(file: &Path) -> Vec<(u32, u64, u64)> {
    let mut reader = PcapNgReader::new(File::open(file).unwrap()).unwrap();
    let mut found = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::InterfaceStatistics(block) = block.unwrap() {
            let (mut seen, mut dropped) = (0, 0);
            for option in &block.options {
                match option {
                    InterfaceStatisticsOption::IsbIfRecv(count) => seen = *count,
                    InterfaceStatisticsOption::IsbIfDrop(count) => dropped = *count,
                    _ => {}
                }
            }
            found.push((block.interface_id, seen, dropped));
        }
    }
    found
}

#[test]
fn tshark_reads_both_sides_with_directions_times_and_sas() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("card.pcapng");
    let mut config = CardConfig::new(dir.path().join("card.sock"));
    config.capture = Some(CaptureConfig::new(&file));
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let before = since(SystemTime::now()).as_secs_f64();
    traffic(&config, 20);
    let after = since(SystemTime::now()).as_secs_f64();
    let shown = tshark(&file);
    assert_eq!(shown.len(), 80);
    let mut last = before - 1e-3;
    for (number, packet) in shown.iter().enumerate() {
        let sequence = (number / 4 + 1).to_string();
        let spi = format!("0x{SPI:08x}");
        let told = format!("SPI {SPI:08x}");
        // In the clear to the engine, protected from it; and the other way with the other SA.
        let (interface, direction, sa, number) = [
            ("plain", 2, 0, None),
            ("cipher", 2, 0, Some(&sequence)),
            ("cipher", 1, 1, None),
            ("plain", 1, 1, Some(&sequence)),
        ][number % 4];
        let number = number.map_or(String::new(), |number| format!(", number {number}"));
        assert_eq!(packet[0], interface);
        assert_eq!(
            u32::from_str_radix(packet[1].trim_start_matches("0x"), 16).unwrap(),
            direction
        );
        assert_eq!(packet[3], format!("SA {sa}, {told}{number}"));
        let esp = if interface == "cipher" {
            [spi, sequence]
        } else {
            [String::new(), String::new()]
        };
        assert_eq!(packet[4..6], esp);
        let at: f64 = packet[2].parse().unwrap();
        assert!(at >= last && at <= after + 1e-3, "{at} after {last}");
        assert_eq!(packet[2].split('.').nth(1).unwrap().len(), 9, "nanoseconds");
        last = at;
    }
    assert_eq!(statistics(&file), [(0, 40, 0), (1, 40, 0)]);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it shows traffic in the clear");
}

#[test]
fn a_full_capture_counts_what_it_leaves_out_and_ends_within_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("card.pcapng");
    let mut config = CardConfig::new(dir.path().join("card.sock"));
    let limit = 8 << 10;
    config.capture = Some(CaptureConfig {
        limit,
        ..CaptureConfig::new(&file)
    });
    traffic(&config, 50);
    assert!(std::fs::metadata(&file).unwrap().len() <= limit);
    let shown = tshark(&file).len() as u64;
    let statistics = statistics(&file);
    let [(0, plain, plain_dropped), (1, cipher, cipher_dropped)] = statistics[..] else {
        panic!("{statistics:?}");
    };
    assert_eq!((plain, cipher), (100, 100));
    assert!(shown > 10, "{shown}");
    assert_eq!(shown + plain_dropped + cipher_dropped, 200);
}

#[test]
fn a_capture_at_a_pace_shows_results_when_they_are_due() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("card.pcapng");
    let mut config = CardConfig::new(dir.path().join("card.sock"));
    config.capture = Some(CaptureConfig::new(&file));
    config.pace = Pace {
        rate: Some("1G".parse().unwrap()),
        latency: Duration::from_micros(3),
    };
    config.clock = Some(VirtualClock::default());
    traffic(&config, 10);
    let shown = tshark(&file);
    assert_eq!(shown.len(), 40);
    let nanoseconds = |packet: &[String]| -> i128 { packet[2].replace('.', "").parse().unwrap() };
    for pair in shown.chunks(2) {
        // 128 octets at 1 Gbit/s, and the latency.
        assert_eq!(
            nanoseconds(&pair[1]) - nanoseconds(&pair[0]),
            128 * 8 + 3000
        );
    }
}
