// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Wrappers change nothing but what they are for, and failover notices a device that lies.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::cache::CacheWriter;
use offload_api::conformance::{self, Report, inner_packet, tunnel};
use offload_api::device::Accelerator;
use offload_api::error::DeviceError;
use offload_api::event::{Engine, Event};
use offload_api::failover::{Failover, FailoverConfig, HoldOff};
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::{Amend, Direction, Numbering, OuterHeaders, SaHandle, SaParams};
use offload_api::wrap::{
    Captured, Counted, Faulty, FaultyPlan, PacketSink, PcapngSink, Seen, Traced,
};
use pcap_file::pcapng::{Block, PcapNgReader};

fn engine() -> Arc<dyn Accelerator> {
    let engine = SoftwareEngine::new(SoftwareConfig {
        threads: 1,
        max_sas: 64,
        ..SoftwareConfig::default()
    });
    Arc::new(engine.unwrap())
}

struct Nobody;

impl PacketSink for Nobody {
    fn packet(&mut self, _: &Seen<'_>) {}
}

fn complete(report: &Report) {
    assert_eq!(report.unsupported, 0);
    assert_eq!((report.known_seals, report.known_opens), (240, 240));
}

#[test]
fn the_contract_holds_through_every_wrapper() {
    let bare = conformance::run(&engine);
    complete(&bare);
    let wrapped = conformance::run(&|| -> Arc<dyn Accelerator> {
        let faulty = Arc::new(Faulty::new(engine(), FaultyPlan::default()));
        let captured = Arc::new(Captured::new(faulty, Box::new(Nobody)));
        let counted = Arc::new(Counted::new(captured));
        Arc::new(Traced::new(counted))
    });
    assert_eq!(format!("{bare:?}"), format!("{wrapped:?}"));
}

/// A failover over a device that misbehaves by plan.
struct Rig {
    both: Failover,
    pool: FramePool,
    queue: Box<dyn QueuePair>,
}

impl Rig {
    fn new(plan: FaultyPlan, sample: u32) -> Self {
        let device = Arc::new(Faulty::new(engine(), plan));
        let cache = Arc::new(CacheWriter::create("lies", 16).unwrap());
        let config = FailoverConfig {
            sample,
            hold_off: HoldOff::NONE,
            ..FailoverConfig::default()
        };
        let both = Failover::new(Some(device), engine(), cache, config);
        let pool = FramePool::new(FramePoolConfig {
            slots: 512,
            ..Default::default()
        })
        .unwrap();
        both.register_pool(&pool).unwrap();
        let queue = both.open_queue(&QueueConfig { depth: 128 }).unwrap();
        Self { both, pool, queue }
    }

    fn run(&mut self, sa: SaHandle, packets: &[Vec<u8>]) -> Vec<Done> {
        let mut done = Vec::new();
        for burst in packets.chunks(32) {
            self.submit(sa, burst);
            self.take_home(&mut done);
        }
        done
    }

    fn submit(&mut self, sa: SaHandle, burst: &[Vec<u8>]) {
        let mut ops: Vec<Op> = burst
            .iter()
            .map(|packet| {
                let mut frame = self.pool.alloc().unwrap();
                assert!(frame.fill(packet));
                Op::new(sa, frame, 0)
            })
            .collect();
        self.queue.enqueue(&mut ops).unwrap();
        self.queue.kick().unwrap();
    }

    fn take_home(&mut self, done: &mut Vec<Done>) {
        for _ in 0..100 {
            self.queue.dequeue(done, 64).unwrap();
            if self.queue.in_flight() == 0 {
                break;
            }
        }
    }

    /// Bursts until the device is found out.
    fn until_quarantined(&mut self, sa: SaHandle, packets: &[Vec<u8>]) -> (String, u64) {
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < Duration::from_secs(30) {
            count += self.run(sa, packets).len() as u64;
            if let Some(reason) = self.both.quarantine() {
                return (reason, count);
            }
        }
        panic!("not noticed in {count} packets");
    }
}

#[test]
fn a_device_that_corrupts_one_packet_in_a_thousand_is_found_out() {
    let plan = FaultyPlan {
        seed: 3,
        corrupt: 1000,
        ..FaultyPlan::default()
    };
    let mut rig = Rig::new(plan, 32);
    let seal = rig
        .both
        .install(&tunnel(0x1000, Direction::Outbound))
        .unwrap();
    let packets: Vec<_> = (0..32).map(|n| inner_packet(n * 20, n as u8)).collect();
    let start = Instant::now();
    let (reason, count) = rig.until_quarantined(seal, &packets);
    println!(
        "found out after {count} packets, {:?}: {reason}",
        start.elapsed()
    );
    // One in 32 is looked at and one in 1,000 is bad: 32,000 on average.
    assert!(count < 500_000);
    assert!(reason.contains("sealed"), "{reason}");

    // Traffic goes on in software; the reason is told; the device stays out until it is released.
    let placement = rig.both.placement(seal).unwrap();
    assert_eq!(placement.engine, Engine::Software);
    let told = placement.reason.unwrap();
    assert!(
        told.contains("quarantined") && told.contains(&reason),
        "{told}"
    );
    let mut events = Vec::new();
    rig.both.poll_events(&mut events);
    assert!(events.contains(&Event::DeviceQuarantined { reason }));
    for done in rig.run(seal, &packets) {
        assert!(done.status.is_ok());
    }
    let refused = rig.both.try_return();
    assert!(
        matches!(refused, Err(DeviceError::Quarantined { .. })),
        "{refused:?}"
    );
    rig.both.release();
    rig.both.try_return().unwrap();
    assert!(rig.both.device_up());
}

#[test]
fn a_device_that_opens_wrongly_or_refuses_good_packets_is_found_out() {
    for (plan, word) in [
        (
            FaultyPlan {
                corrupt: 50,
                ..FaultyPlan::default()
            },
            "other octets",
        ),
        (
            FaultyPlan {
                refuse: 50,
                ..FaultyPlan::default()
            },
            "refused an authentic packet",
        ),
    ] {
        let mut rig = Rig::new(plan, 4);
        let mut peer = Rig::new(FaultyPlan::default(), 0);
        // A refused packet is judged only where its number is told by 32 bits.
        let not_extended = |direction| SaParams {
            esn: false,
            ..tunnel(0x1000, direction)
        };
        let seal = peer
            .both
            .install(&not_extended(Direction::Outbound))
            .unwrap();
        let open = rig.both.install(&not_extended(Direction::Inbound)).unwrap();
        let reason = loop {
            let sealed: Vec<Vec<u8>> = peer
                .run(seal, &vec![inner_packet(64, 1); 32])
                .into_iter()
                .map(|done| done.frame.to_vec())
                .collect();
            rig.run(open, &sealed);
            if let Some(reason) = rig.both.quarantine() {
                break reason;
            }
        };
        assert!(reason.contains(word), "{reason}");
    }
}

#[test]
fn a_number_that_a_device_uses_twice_never_leaves() {
    let plan = FaultyPlan {
        repeat_number: 100,
        ..FaultyPlan::default()
    };
    let mut rig = Rig::new(plan, 0);
    let seal = rig
        .both
        .install(&tunnel(0x1000, Direction::Outbound))
        .unwrap();
    let mut numbers = std::collections::HashSet::new();
    for _ in 0..40 {
        for done in rig.run(seal, &vec![inner_packet(64, 1); 32]) {
            if done.status.is_ok() {
                assert!(numbers.insert(done.sequence), "{} twice", done.sequence);
            } else {
                assert_eq!(done.status, Status::Aborted);
            }
        }
    }
    let reason = rig.both.quarantine().unwrap();
    assert!(reason.contains("twice"), "{reason}");
}

#[test]
fn a_packet_that_was_sealed_before_its_sa_moved_accuses_nobody() {
    let headers = |host| OuterHeaders {
        source: [192, 0, 2, host].into(),
        destination: [198, 51, 100, 1].into(),
        udp: None,
    };
    let mut rig = Rig::new(FaultyPlan::default(), 1);
    let mut sa = tunnel(0x1000, Direction::Outbound);
    sa.outer = Some(headers(1));
    let seal = rig.both.install(&sa).unwrap();
    let mut done = Vec::new();
    for host in 2..10 {
        rig.submit(seal, &[inner_packet(100, host)]);
        let moved = Amend::Outer(headers(host));
        rig.both.amend(seal, &moved).unwrap();
        rig.take_home(&mut done);
        let sealed = &done.pop().unwrap().frame;
        assert_eq!(sealed[15], host - 1, "it was sealed before");
        rig.run(seal, &[inner_packet(100, host)]);
    }
    // Each was looked at, and what came behind a move, too.
    assert_eq!(rig.both.statistics().checked, 16);
    assert_eq!(rig.both.quarantine(), None);
}

#[test]
fn an_honest_device_is_never_accused() {
    let mut rig = Rig::new(FaultyPlan::default(), 1);
    let mut pairs = Vec::new();
    for spi in [0x1000, 0x2000, 0x3000] {
        let seal = rig.both.install(&tunnel(spi, Direction::Outbound)).unwrap();
        let open = rig.both.install(&tunnel(spi, Direction::Inbound)).unwrap();
        pairs.push((seal, open));
    }
    let mut opened = 0;
    for round in 0..60usize {
        for (seal, open) in &pairs {
            let packets: Vec<_> = (0..40)
                .map(|n| inner_packet((round * 40 + n) % 1200, round as u8))
                .collect();
            let mut sealed: Vec<Vec<u8>> = rig
                .run(*seal, &packets)
                .into_iter()
                .map(|done| done.frame.to_vec())
                .collect();
            // The network reorders, repeats and spoils.
            sealed.swap(3, 30);
            sealed.push(sealed[7].clone());
            *sealed[9].last_mut().unwrap() ^= 1;
            opened += rig
                .run(*open, &sealed)
                .into_iter()
                .filter(|done| done.status.is_ok())
                .count();
        }
    }
    assert_eq!(opened, 60 * 3 * 39);
    let statistics = rig.both.statistics();
    assert_eq!((rig.both.quarantine(), statistics.mismatches), (None, 0));
    assert!(statistics.checked > 5_000, "{}", statistics.checked);
    drop(rig.queue);
    assert_eq!(rig.pool.available(), 512, "frames leaked");
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_capture_shows_both_sides_and_counts_tell_what_was_done() {
    let kept = Kept::default();
    let sink = Box::new(PcapngSink::new(kept.clone()).unwrap());
    let counted = Arc::new(Counted::new(Arc::new(Captured::new(engine(), sink))));
    let pool = FramePool::new(FramePoolConfig {
        slots: 64,
        ..Default::default()
    })
    .unwrap();
    counted.register_pool(&pool).unwrap();
    let granted = SaParams {
        numbering: Numbering::Granted(Some(offload_api::sa::Grant {
            first: 1,
            last: 1000,
        })),
        ..tunnel(0x1000, Direction::Outbound)
    };
    let seal = counted.install(&granted).unwrap();
    assert!(counted.install(&granted.clone()).is_ok());
    let mut queue = counted.open_queue(&QueueConfig { depth: 32 }).unwrap();
    let packet = inner_packet(100, 9);
    for number in 0..10 {
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(&packet));
        let op = Op::new(seal, frame, 1000 + number);
        assert_eq!(queue.enqueue(&mut vec![op]).unwrap(), 1);
        queue.kick().unwrap();
        let mut done = Vec::new();
        queue.dequeue(&mut done, 8).unwrap();
        assert_eq!((done.len(), done[0].cookie), (1, 1000 + number));
    }
    let counts = counted.snapshot();
    assert_eq!((counts.installs, counts.queues, counts.kicks), (2, 1, 10));
    assert_eq!((counts.submitted, counts.completed), (10, 10));
    assert_eq!(counts.submitted_bytes, 10 * packet.len() as u64);
    assert_eq!(counts.statuses, [(Status::Ok, 10)]);
    assert_eq!(counts.latency.count, 10);
    assert!(counts.latency.p50 > 0 && counts.latency.p50 <= counts.latency.max);

    let octets = kept.0.lock().unwrap().clone();
    let mut reader = PcapNgReader::new(&octets[..]).unwrap();
    let (mut plain, mut cipher) = (0, 0);
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(shown) = block.unwrap() {
            if shown.interface_id == 0 {
                assert_eq!(&shown.data[..], &packet[..]);
                plain += 1;
            } else {
                // Behind the header that stands in for the missing one.
                assert_eq!(shown.data[9], 50);
                assert_eq!(shown.data[20..24], 0x1000u32.to_be_bytes());
                cipher += 1;
            }
        }
    }
    assert_eq!((plain, cipher), (10, 10));
}
