// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole ESP in tunnel mode through the software engine's queue pair, against the AEAD alone, in turn:
//! `benches/esp-engine.sh` reads it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use benches::counting::{Counting, allocations};
use clap::Parser;
use esp::engine::{SoftwareConfig, SoftwareEngine};
use esp_aead::{Aad, Algorithm, Packet, seal_burst};
use offload_api::device::Accelerator;
use offload_api::frame::{Frame, FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::{
    Direction, Grant, KeyMaterial, Numbering, OuterHeaders, SaHandle, SaParams, Spi, Suite,
};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Parser)]
struct Options {
    /// Rounds, each of every cell in turn.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Octets of an inner packet, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "64,1420")]
    sizes: Vec<usize>,
    /// SAs that a burst's packets have in turn.
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    sas: Vec<usize>,
    /// Packets of a burst on one core.
    #[arg(long, default_value_t = 32)]
    burst: usize,
    /// Packets of a burst where cores are compared.
    #[arg(long, default_value_t = 1024)]
    large_burst: usize,
    /// Octets of packets that a round works on, in thousands.
    #[arg(long, default_value_t = 4000)]
    kilobytes: usize,
}

const SUITE: Suite = Suite::AES_128_GCM;

fn params(direction: Direction, sa: usize) -> SaParams {
    let key: Vec<u8> = (0..20).map(|n| (n + sa) as u8).collect();
    SaParams {
        direction,
        numbering: match direction {
            Direction::Outbound => Numbering::Granted(Some(Grant {
                first: 1,
                last: u64::MAX,
            })),
            Direction::Inbound => Numbering::Granted(None),
        },
        // A burst of one SA fits.
        replay_window: match direction {
            Direction::Outbound => 0,
            Direction::Inbound => 2048,
        },
        outer: Some(OuterHeaders {
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
            udp: None,
        }),
        ..SaParams::tunnel(
            Spi::new(0x1000 + sa as u32).unwrap(),
            direction,
            SUITE,
            KeyMaterial::from_keymat(SUITE, &key, &[]).unwrap(),
        )
    }
}

fn inner(len: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; len];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ]);
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet
}

/// An engine with its SAs, and frames that go round.
struct Rig {
    queue: Box<dyn QueuePair>,
    sas: Vec<SaHandle>,
    ops: Vec<Op>,
    done: Vec<Done>,
    frames: Vec<Frame>,
    packets: Vec<Vec<u8>>,
}

impl Rig {
    /// For packets that are sealed, or, sealed by another rig, opened.
    fn new(threads: usize, direction: Direction, sas: usize, packets: Vec<Vec<u8>>) -> Self {
        let engine = SoftwareEngine::new(SoftwareConfig {
            threads,
            ..SoftwareConfig::default()
        })
        .unwrap();
        let pool = FramePool::new(FramePoolConfig {
            slots: packets.len() as u32,
            ..FramePoolConfig::default()
        })
        .unwrap();
        let burst = packets.len();
        Self {
            sas: (0..sas)
                .map(|sa| engine.install(&params(direction, sa)).unwrap())
                .collect(),
            queue: engine.open_queue(&QueueConfig { depth: 1024 }).unwrap(),
            ops: Vec::with_capacity(burst),
            done: Vec::with_capacity(burst),
            frames: (0..burst).map(|_| pool.alloc().unwrap()).collect(),
            packets,
        }
    }

    /// A burst from hand-over to the last completion; filling the frames is not in it.
    fn burst(&mut self) -> Duration {
        let sas = self.sas.iter().cycle();
        for ((mut frame, packet), &sa) in self.frames.drain(..).zip(&self.packets).zip(sas) {
            assert!(frame.fill(packet));
            self.ops.push(Op {
                sa,
                frame,
                cookie: 0,
                explicit: None,
            });
        }
        let count = self.ops.len();
        let start = Instant::now();
        self.queue.enqueue(&mut self.ops).unwrap();
        self.queue.kick().unwrap();
        self.queue.dequeue(&mut self.done, count).unwrap();
        let taken = start.elapsed();
        assert!(self.done.len() == count && self.done.iter().all(|done| done.status == Status::Ok));
        self.frames
            .extend(self.done.drain(..).map(|done| done.frame));
        taken
    }
}

/// Bursts that one rig seals and the other opens, each number once: nanoseconds a packet of either.
fn round(seal: &mut Rig, open: &mut Rig, bursts: usize) -> [f64; 2] {
    let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..bursts {
        sealing += seal.burst();
        for (packet, frame) in open.packets.iter_mut().zip(&seal.frames) {
            packet.clear();
            packet.extend_from_slice(frame);
        }
        opening += open.burst();
    }
    let packets = (bursts * seal.packets.len()) as f64;
    [sealing, opening].map(|taken| taken.as_nanos() as f64 / packets)
}

/// The AEAD alone, on bodies of the length that ESP makes of a packet.
fn bare(keys: &[esp_aead::Key], bodies: &mut [Vec<u8>], bursts: usize) -> f64 {
    let mut tags = vec![[0; 16]; bodies.len()];
    let mut taken = Duration::ZERO;
    for n in 0..bursts {
        let start = Instant::now();
        for (bodies, tags) in bodies.chunks_mut(32).zip(tags.chunks_mut(32)) {
            let mut packets: ArrayVec<_, 32> = bodies
                .iter_mut()
                .zip(tags)
                .zip(keys.iter().cycle())
                .map(|((body, tag), key)| {
                    Packet::new(key, &[n as u8; 12], Aad::from([7; 8]), body, tag)
                })
                .collect();
            seal_burst(&mut packets);
        }
        taken += start.elapsed();
    }
    taken.as_nanos() as f64 / (bursts * bodies.len()) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Room for sealed packets.
fn roomy(size: usize, burst: usize) -> Vec<Vec<u8>> {
    vec![Vec::with_capacity(size + 128); burst]
}

fn main() {
    let options = Options::parse();
    let mut cells = Vec::new();
    for &size in &options.sizes {
        for &sas in &options.sas {
            let bursts = (options.kilobytes * 1000 / (size * options.burst)).max(1);
            let packets = vec![inner(size); options.burst];
            let mut seal = Rig::new(1, Direction::Outbound, sas, packets.clone());
            let mut open = Rig::new(1, Direction::Inbound, sas, roomy(size, options.burst));
            let keys: Vec<_> = (0..sas)
                .map(|sa| {
                    let key: Vec<u8> = (0..16).map(|n| (n + sa) as u8).collect();
                    esp_aead::Key::new(Algorithm::Aes128Gcm, esp_aead::Direction::Seal, &key)
                        .unwrap()
                })
                .collect();
            let mut bodies = vec![vec![0; (size + 2).next_multiple_of(4)]; options.burst];
            let [mut sealing, mut opening, mut alone] =
                [(); 3].map(|()| Vec::with_capacity(options.rounds + 1));
            let mut allocated = 0;
            for turn in 0..=options.rounds {
                alone.push(bare(&keys, &mut bodies, bursts));
                let before = allocations();
                let [sealed, opened] = round(&mut seal, &mut open, bursts);
                sealing.push(sealed);
                opening.push(opened);
                // The first round is a warm-up.
                if turn == 0 {
                    for times in [&mut alone, &mut sealing, &mut opening] {
                        times.clear();
                    }
                } else {
                    allocated += allocations() - before;
                }
            }
            cells.push(json!({
                "size": size,
                "sas": sas,
                "aead_ns": median(alone),
                "seal_ns": median(sealing),
                "open_ns": median(opening),
                "allocations": allocated,
            }));
        }
    }
    let mut cores = Vec::new();
    for sas in [1, 64] {
        let size = 1420;
        let packets = vec![inner(size); options.large_burst];
        let bursts = (options.kilobytes * 1000 / (size * options.large_burst)).max(2);
        let mut rigs = [1, 2].map(|threads| {
            (
                Rig::new(threads, Direction::Outbound, sas, packets.clone()),
                Rig::new(
                    threads,
                    Direction::Inbound,
                    sas,
                    roomy(size, options.large_burst),
                ),
            )
        });
        let mut times = [const { (Vec::new(), Vec::new()) }; 2];
        for _ in 0..options.rounds {
            for ((seal, open), times) in rigs.iter_mut().zip(&mut times) {
                let [sealed, opened] = round(seal, open, bursts);
                times.0.push(sealed);
                times.1.push(opened);
            }
        }
        let [one, two] = times.map(|(seal, open)| (median(seal), median(open)));
        cores.push(json!({
            "sas": sas,
            "size": size,
            "burst": options.large_burst,
            "seal_ns": [one.0, two.0],
            "open_ns": [one.1, two.1],
        }));
    }
    println!("{:#}", json!({ "one_core": cells, "cores": cores }));
}
