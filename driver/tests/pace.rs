// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A card at a pace, seen through the driver: what it carries, and how long that takes.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use driver::DeviceAddress;
use driver::ipa::IpaCard;
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Arm, Done, Op, QueueConfig, QueuePair};
use offload_api::sa::*;
use rustix::event::{PollFd, PollFlags, poll};
use sim::pace::{Pace, VirtualClock};
use sim::{CardConfig, RunningCard};

const DEPTH: u32 = 256;

struct Rig {
    _card: Arc<IpaCard>,
    queue: Box<dyn QueuePair>,
    sa: SaHandle,
    pool: FramePool,
    done: Vec<Done>,
    _simulated: RunningCard,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(rate: Option<&str>, latency: Duration, clock: Option<&VirtualClock>) -> Self {
        // What a busy machine takes from the card's time is no fault of the card's.
        driver::patience::stretch(50);
        let dir = tempfile::tempdir().unwrap();
        let mut config = CardConfig::new(dir.path().join("card.sock"));
        config.pace = Pace {
            rate: rate.map(|rate| rate.parse().unwrap()),
            latency,
        };
        config.clock = clock.cloned();
        let simulated = RunningCard::start(&config).unwrap();
        let card = driver::open(&DeviceAddress::User(config.socket)).unwrap();
        let pool = FramePool::new(FramePoolConfig {
            slots: 2 * DEPTH,
            slot_size: 10_240,
            ..Default::default()
        })
        .unwrap();
        card.register_pool(&pool).unwrap();
        let queue = card.open_queue(&QueueConfig { depth: DEPTH }).unwrap();
        let suite = Suite::AES_128_GCM;
        let key = KeyMaterial::from_keymat(suite, &[5; 20], &[]).unwrap();
        let numbers = Grant {
            first: 1,
            last: 1_000_000,
        };
        let params = SaParams {
            numbering: Numbering::Granted(Some(numbers)),
            ..SaParams::tunnel(Spi::new(0x4001).unwrap(), Direction::Outbound, suite, key)
        };
        let sa = card.install(&params).unwrap();
        Self {
            _card: card,
            queue,
            sa,
            pool,
            done: Vec::new(),
            _simulated: simulated,
            _dir: dir,
        }
    }

    /// Gives the card packets until so many are on their way.
    fn fill(&mut self, len: usize, in_flight: usize) {
        let mut packet = vec![0x5a; len];
        packet[..20].copy_from_slice(&[
            0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
        ]);
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        let mut ops = Vec::new();
        for _ in self.queue.in_flight()..in_flight {
            let mut frame = self.pool.alloc().unwrap();
            assert!(frame.fill(&packet));
            ops.push(Op::new(self.sa, frame, 0));
        }
        self.queue.enqueue(&mut ops).unwrap();
        self.queue.kick().unwrap();
    }

    /// Takes what is there; how many.
    fn take(&mut self) -> usize {
        self.done.clear();
        self.queue.dequeue(&mut self.done, DEPTH as usize).unwrap();
        assert!(self.done.iter().all(|done| done.status.is_ok()));
        self.done.len()
    }
}

#[test]
fn goodput_is_the_rate_for_every_size() {
    for rate in ["1G", "25G", "100G"] {
        let bits: f64 = rate.parse::<sim::pace::Rate>().unwrap().bits_per_second() as f64;
        for len in [64, 576, 1400, 9000] {
            let clock = VirtualClock::default();
            let mut rig = Rig::new(Some(rate), Duration::ZERO, Some(&clock));
            // Half a ring's time, at most, between two looks.
            let step = Duration::from_secs_f64((len * 8 * 100) as f64 / bits);
            let mut packets = 0;
            for _ in 0..30 {
                rig.fill(len, DEPTH as usize);
                clock.advance(step);
                packets += rig.take();
            }
            let goodput = (packets * len * 8) as f64 / clock.elapsed().as_secs_f64();
            println!("{rate}, {len} octets: {:.3} Gbit/s", goodput / 1e9);
            // A packet more or less of 3000, and time in whole nanoseconds.
            assert!(
                (goodput / bits - 1.0).abs() < 0.002,
                "{rate}, {len}: {goodput}"
            );
        }
    }
}

/// How long a busy machine gets to show what the card can do.
const PATIENCE: Duration = Duration::from_secs(200);

#[test]
fn latency_by_the_clock_on_the_wall_is_never_less_and_comes_near() {
    let latency = Duration::from_millis(10);
    let mut rig = Rig::new(None, latency, None);
    let mut times = Vec::new();
    let first = Instant::now();
    // On a busy machine most are late, which is the machine's: in virtual time it is exact
    // (sim/tests/raw_pace.rs).
    while times.len() < 21 || times[0] > latency * 5 / 4 {
        assert!(first.elapsed() < PATIENCE, "{times:?}");
        let start = Instant::now();
        rig.fill(200, 1);
        while rig.take() == 0 {
            std::thread::yield_now();
        }
        let took = start.elapsed();
        assert!(took >= latency, "{took:?}");
        times.insert(times.partition_point(|time| *time < took), took);
    }
    let (median, count) = (times[times.len() / 2], times.len());
    println!(
        "asked {latency:?}: median {median:?} of {count}, at best {:?}",
        times[0]
    );
}

#[test]
fn goodput_by_the_clock_on_the_wall_is_never_more_and_comes_near() {
    // A full ring lasts for 290 ms, so that the card has something to do while the machine does something
    // else.
    let (bits, len) = (10e6, 1400);
    let mut rig = Rig::new(Some("10M"), Duration::ZERO, None);
    let first = Instant::now();
    loop {
        let (mut packets, start) = (0, Instant::now());
        let waiting = rig.queue.in_flight();
        while start.elapsed() < Duration::from_millis(500) {
            rig.fill(len, DEPTH as usize);
            packets += rig.take();
            std::thread::sleep(Duration::from_millis(1));
        }
        // What was on its way before may have been held up by the machine.
        let carried = |packets: usize| (packets * len * 8) as f64 / start.elapsed().as_secs_f64();
        let least = carried(packets.saturating_sub(waiting));
        assert!(least <= bits, "{least}");
        let goodput = carried(packets) / bits;
        println!("{goodput:.3} of the rate");
        if (0.9..1.1).contains(&goodput) {
            break;
        }
        assert!(first.elapsed() < PATIENCE, "{goodput}");
    }
}

#[test]
fn a_driver_that_sleeps_is_woken_when_a_completion_is_due() {
    let latency = Duration::from_millis(5);
    let mut rig = Rig::new(Some("1G"), latency, None);
    for _ in 0..20 {
        let start = Instant::now();
        rig.fill(200, 3);
        let mut taken = 0;
        while taken < 3 {
            if let Arm::Wait(fd) = rig.queue.arm().unwrap() {
                poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None).unwrap();
            }
            taken += rig.take();
        }
        let took = start.elapsed();
        assert!(took >= latency && took < Duration::from_secs(1), "{took:?}");
        // The card falls asleep too, and is rung.
        std::thread::sleep(Duration::from_millis(1));
    }
}
