// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every fault of the simulated card, now and then, rarely, and in bursts: the driver and the failover
//! neither crash nor hang, lose no frame, deliver no wrong packet, and let no number out twice.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::cache::CacheWriter;
use offload_api::device::Accelerator;
use offload_api::failover::{Failover, FailoverConfig, HoldOff};
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair};
use offload_api::sa::{Direction, KeyMaterial, SaHandle, SaParams, Spi, Suite};
use sim::fault::{Fault, FaultPlan, FaultRule};
use sim::qat::{Generation, QatConfig};
use sim::{CardConfig, RunningCard};

/// A card that is lost is given up by then; under a sanitizer the driver's deadlines are as many times longer.
const LONGEST: Duration = Duration::from_secs(if cfg!(sanitized) { 200 } else { 10 });

const FRAMES: u32 = 512;
const PACKETS: u64 = 1500;
const BURST: u64 = 25;

fn software() -> Arc<SoftwareEngine> {
    let config = SoftwareConfig {
        threads: 1,
        max_sas: 64,
        ..SoftwareConfig::default()
    };
    Arc::new(SoftwareEngine::new(config).unwrap())
}

fn params(direction: Direction) -> SaParams {
    let suite = Suite::AES_128_GCM;
    SaParams {
        esn: false,
        replay_window: if direction == Direction::Inbound {
            4096
        } else {
            0
        },
        ..SaParams::tunnel(
            Spi::new(0x4001).unwrap(),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &[5; 20], &[]).unwrap(),
        )
    }
}

fn packet(number: u64) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 128, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ];
    packet.resize(128, number as u8);
    packet[20..28].copy_from_slice(&number.to_be_bytes());
    packet
}

struct End {
    both: Failover,
    pool: FramePool,
    queue: Box<dyn QueuePair>,
    sa: SaHandle,
    quarantines: u64,
}

impl End {
    fn new(device: Option<Arc<dyn Accelerator>>, direction: Direction, sample: u32) -> Self {
        let cache = Arc::new(CacheWriter::create("matrix", 8).unwrap());
        let config = FailoverConfig {
            sample,
            hold_off: HoldOff::NONE,
            ..FailoverConfig::default()
        };
        let both = Failover::new(device, software(), cache, config);
        let pool = FramePool::new(FramePoolConfig {
            slots: FRAMES,
            ..Default::default()
        })
        .unwrap();
        both.register_pool(&pool).unwrap();
        let queue = both.open_queue(&QueueConfig { depth: 64 }).unwrap();
        let sa = both.install(&params(direction)).unwrap();
        Self {
            both,
            pool,
            queue,
            sa,
            quarantines: 0,
        }
    }

    /// Runs a burst; what a card has lost does not come back at once.
    fn pass(&mut self, packets: &[Vec<u8>]) -> Vec<Done> {
        let mut ops: Vec<Op> = packets
            .iter()
            .filter_map(|packet| {
                // One in three lies in two frames, cut at a place of its own.
                let cut = usize::from(*packet.last()?);
                let at = if cut % 3 == 0 {
                    cut % packet.len()
                } else {
                    packet.len()
                };
                let (front, back) = packet.split_at(at);
                let mut frame = self.pool.alloc()?;
                assert!(frame.fill(front));
                if !back.is_empty() {
                    let mut second = self.pool.alloc()?;
                    assert!(second.fill(back));
                    frame.append(second).unwrap();
                }
                Some(Op::new(self.sa, frame, 0))
            })
            .collect();
        let mut done = Vec::new();
        let start = Instant::now();
        while self.queue.in_flight() != 0 || !ops.is_empty() {
            self.queue.enqueue(&mut ops).unwrap();
            self.queue.kick().unwrap();
            self.queue.dequeue(&mut done, 64).unwrap();
            self.both.tick();
            assert!(start.elapsed() < LONGEST, "it hangs");
            if start.elapsed() > Duration::from_millis(2) {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        done
    }

    /// Takes a card back that was lost or caught.
    fn recover(&mut self) {
        if self.both.device_up() {
            return;
        }
        if self.both.quarantine().is_some() {
            self.quarantines += 1;
            self.both.release();
        }
        let _ = self.both.try_return();
    }

    fn end(self) -> u64 {
        let quarantined = u64::from(self.pool.quarantined());
        drop(self.queue.close());
        drop(self.both);
        assert_eq!(
            self.pool.available() as u64 + u64::from(self.pool.quarantined()),
            u64::from(FRAMES),
            "frames are lost"
        );
        quarantined
    }
}

fn gathered(done: &Done) -> Vec<u8> {
    let mut octets = Vec::new();
    done.frame.gather(&mut octets);
    octets
}

/// What is to suffer.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Ipa,
    Qat(Generation),
}

impl Kind {
    fn start(self, socket: &Path, faults: FaultPlan) -> RunningCard {
        let card = match self {
            Self::Ipa => {
                let mut config = CardConfig::new(socket);
                config.queues = 2;
                config.faults = faults;
                RunningCard::start(&config)
            }
            Self::Qat(generation) => RunningCard::start_qat(&QatConfig {
                generation,
                faults,
                ..QatConfig::new(socket)
            }),
        };
        card.unwrap()
    }
}

/// A device with a fault at one end of a tunnel, software at the other.
fn suffer(kind: Kind, rule: &FaultRule, number: usize) {
    let dir = tempfile::tempdir().unwrap();
    for direction in [Direction::Outbound, Direction::Inbound] {
        let socket = dir.path().join("card");
        let faults = FaultPlan::new(vec![rule.clone()], number as u64);
        let card = kind.start(&socket, faults);
        let address = format!("vfio-user:{}", socket.display());
        // A card that misbehaves from the first register on may not even open.
        let opened = (0..20).find_map(|_| driver::open_card(&address.parse().unwrap()).ok());
        let device = opened.map(|card| card.accelerator());
        // A lie about an opened packet is seen by those that are done again only: here, all.
        let mut near = End::new(device, direction, 1);
        let opposite = match direction {
            Direction::Outbound => Direction::Inbound,
            Direction::Inbound => Direction::Outbound,
        };
        let mut far = End::new(None, opposite, 0);
        let (mut numbers, mut delivered, mut wrong) = (HashSet::new(), 0, 0);
        let start = Instant::now();
        for first in (0..PACKETS).step_by(BURST as usize) {
            let packets: Vec<_> = (first..first + BURST).map(packet).collect();
            let (sealer, opener) = match direction {
                Direction::Outbound => (&mut near, &mut far),
                Direction::Inbound => (&mut far, &mut near),
            };
            let sealed: Vec<Vec<u8>> = sealer
                .pass(&packets)
                .into_iter()
                .filter(|done| done.status.is_ok())
                .map(|done| gathered(&done))
                .collect();
            for packet in &sealed {
                let number = u32::from_be_bytes(packet[4..8].try_into().unwrap());
                assert!(numbers.insert(number), "{rule}: {number} left twice");
                let clear = packet
                    .windows(8)
                    .any(|octets| octets == &packets[0][12..20]);
                assert!(!clear, "{rule}: in the clear");
            }
            for done in opener.pass(&sealed) {
                if !done.status.is_ok() {
                    continue;
                }
                delivered += 1;
                let octets = gathered(&done);
                let number = octets.get(20..28).map_or(u64::MAX, |octets| {
                    u64::from_be_bytes(octets.try_into().unwrap())
                });
                let right = number < PACKETS && octets == packet(number);
                wrong += u64::from(!right);
            }
            near.recover();
            // Faults that cost the card's life each time are seen often enough before long.
            if delivered > 0 && start.elapsed() > Duration::from_secs(2) {
                break;
            }
        }
        assert!(delivered > 0, "{rule}: nothing arrived");
        if wrong > 0 {
            // Only after the ICV was checked can a card spoil a packet unseen, and not for long.
            assert_eq!(
                (direction, rule.fault),
                (Direction::Inbound, Fault::CorruptPlain)
            );
            assert!(near.quarantines > 0, "{rule}: not caught");
        }
        near.end();
        assert_eq!(far.end(), 0);
        card.stop().unwrap();
    }
}

fn every_fault(when: &str) {
    for (number, (fault, ..)) in Fault::ALL.iter().enumerate() {
        let rule: FaultRule = format!("{fault}={when}").parse().unwrap();
        suffer(Kind::Ipa, &rule, number);
    }
}

#[test]
fn every_fault_once_in_ten() {
    every_fault("1/10");
}

#[test]
fn every_fault_once_in_a_thousand() {
    every_fault("1/1000");
}

#[test]
fn every_fault_in_bursts() {
    every_fault("8x200");
}

/// The faults that a device without SAs, events and admin queue can have.
const QAT_FAULTS: [Fault; 24] = [
    Fault::DropCompletion,
    Fault::DuplicateCompletion,
    Fault::ReorderCompletion,
    Fault::DelayCompletion,
    Fault::ForgeSlot,
    Fault::ForgeGeneration,
    Fault::ForgeStatus,
    Fault::ForgeBadIcv,
    Fault::CorruptOutput,
    Fault::CorruptPlain,
    Fault::LoseDoorbell,
    Fault::LateDoorbell,
    Fault::LoseInterrupt,
    Fault::DuplicateInterrupt,
    Fault::StormInterrupt,
    Fault::WrongVector,
    Fault::Stall,
    Fault::Hang,
    Fault::VanishRegisters,
    Fault::ResetItself,
    Fault::StrayDma,
    Fault::DropAnswer,
    Fault::ForgeAnswerStatus,
    Fault::BusError,
];

fn every_fault_of_a_qat(generation: Generation, when: &str) {
    for (number, fault) in QAT_FAULTS.into_iter().enumerate() {
        let rule: FaultRule = format!("{fault}={when}").parse().unwrap();
        suffer(Kind::Qat(generation), &rule, number);
    }
}

#[test]
fn every_fault_of_a_qat_once_in_ten() {
    every_fault_of_a_qat(Generation::Gen4, "1/10");
}

#[test]
fn every_fault_of_a_qat_once_in_a_thousand() {
    every_fault_of_a_qat(Generation::Gen4, "1/1000");
}

#[test]
fn every_fault_of_a_qat_in_bursts() {
    every_fault_of_a_qat(Generation::Gen4, "8x200");
}

#[test]
fn every_fault_of_a_c62x_once_in_ten() {
    every_fault_of_a_qat(Generation::Gen2, "1/10");
}
