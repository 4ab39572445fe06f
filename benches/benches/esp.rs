// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Software ESP: bursts of 32 through the engine, sealed and opened; the cryptography alone, which no
//! engine can beat; and growing bursts on the caller's thread and on all cores. Where those two lines
//! cross is the size from which waking other cores pays.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench_harness::packet::{inner, op, sa};
use bench_harness::reference::Reference;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use esp::cipher::CipherContext;
use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::device::Accelerator;
use offload_api::frame::{Frame, FramePool, FramePoolConfig};
use offload_api::queue::{Done, QueueConfig, QueuePair, Status};
use offload_api::sa::{Direction, SaHandle, Suite};

const BURST: usize = 32;
const SUITES: [&str; 4] = [
    "aes128gcm16",
    "aes256gcm16",
    "chacha20poly1305",
    "aes128-sha256",
];
const SIZES: [usize; 5] = [64, 256, 512, 1024, 1420];

fn seal(criterion: &mut Criterion) {
    for name in SUITES {
        let suite = Suite::from_name(name).unwrap();
        let mut group = criterion.benchmark_group(format!("seal/{name}"));
        for threads in [1, 0] {
            let engine = SoftwareEngine::new(SoftwareConfig {
                threads,
                ..Default::default()
            })
            .unwrap();
            let sa = engine.install(&sa(Direction::Outbound, suite, 0)).unwrap();
            let pool = FramePool::new(FramePoolConfig {
                slots: 64,
                ..Default::default()
            })
            .unwrap();
            let mut queue = engine.open_queue(&QueueConfig { depth: 64 }).unwrap();
            let (mut ops, mut done) = (Vec::with_capacity(BURST), Vec::with_capacity(BURST));
            for len in SIZES {
                let packet = inner(len);
                group.throughput(Throughput::Bytes((len * BURST) as u64));
                let label = if threads == 1 {
                    "one thread"
                } else {
                    "all threads"
                };
                group.bench_with_input(BenchmarkId::new(label, len), &packet, |bencher, packet| {
                    bencher.iter(|| {
                        for _ in 0..BURST {
                            let mut frame = pool.alloc().unwrap();
                            assert!(frame.fill(packet));
                            ops.push(op(sa, frame));
                        }
                        queue.enqueue(&mut ops).unwrap();
                        queue.kick().unwrap();
                        queue.dequeue(&mut done, BURST).unwrap();
                        assert!(done.drain(..).all(|done| black_box(done).status.is_ok()));
                    });
                });
            }
        }
        group.finish();
    }
}

/// Packets that OpenSSL's ESP has sealed, opened. No window is set, so that they can come again.
fn open(criterion: &mut Criterion) {
    for name in SUITES {
        let suite = Suite::from_name(name).unwrap();
        let mut group = criterion.benchmark_group(format!("open/{name}"));
        for len in SIZES {
            let reference = Reference::new(&sa(Direction::Inbound, suite, 0)).unwrap();
            let packets: Vec<_> = (1..=BURST as u32)
                .map(|number| reference.seal(number, &inner(len)).unwrap())
                .collect();
            let mut rig = Rig::new(1, suite, Direction::Inbound);
            group.throughput(Throughput::Bytes((len * BURST) as u64));
            group.bench_function(BenchmarkId::new("one thread", len), |bencher| {
                bencher.iter_custom(|bursts| rig.time(bursts, &packets));
            });
        }
        group.finish();
    }
}

/// ESP header and an AEAD's IV.
const TEXT: usize = 16;

/// One keyed context, one packet after the other: what no engine can be faster than.
fn cipher(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cipher");
    for name in SUITES {
        let suite = Suite::from_name(name).unwrap();
        if !suite.is_aead() {
            continue;
        }
        for size in SIZES {
            let mut context =
                CipherContext::new(suite, &sa(Direction::Outbound, suite, 0).keys, true).unwrap();
            let body = (size + 2).next_multiple_of(suite.alignment());
            let mut packet = vec![0x5a; TEXT + body + suite.icv_len()];
            let mut sequence = 0u64;
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    sequence += 1;
                    packet[8..TEXT].copy_from_slice(&sequence.to_be_bytes());
                    context.seal(black_box(&mut packet), None).unwrap();
                });
            });
        }
    }
    group.finish();
}

/// The same burst on the caller's thread and on all cores: where the lines cross, the engine should
/// begin to wake them.
fn cores(criterion: &mut Criterion) {
    let suite = Suite::AES_128_GCM;
    let mut group = criterion.benchmark_group("cores");
    for burst in [8, 16, 32, 64, 128, 512] {
        let packets = vec![inner(1420); burst];
        for (name, threads) in [("callers", 1), ("all", 0)] {
            let mut rig = Rig::new(threads, suite, Direction::Outbound);
            group.throughput(Throughput::Bytes((burst * 1420) as u64));
            group.bench_function(BenchmarkId::new(name, burst), |bencher| {
                bencher.iter_custom(|bursts| rig.time(bursts, &packets));
            });
        }
    }
    group.finish();
}

/// An engine with a queue and a tunnel-mode SA, and frames that go round.
struct Rig {
    pool: FramePool,
    queue: Box<dyn QueuePair>,
    sa: SaHandle,
    done: Vec<Done>,
}

impl Rig {
    fn new(threads: usize, suite: Suite, direction: Direction) -> Self {
        let engine = SoftwareEngine::new(SoftwareConfig {
            threads,
            ..SoftwareConfig::default()
        })
        .unwrap();
        let pool = FramePool::new(FramePoolConfig {
            slots: 1024,
            ..FramePoolConfig::default()
        })
        .unwrap();
        engine.register_pool(&pool).unwrap();
        let sa = engine.install(&sa(direction, suite, 0)).unwrap();
        let queue = engine.open_queue(&QueueConfig { depth: 1024 }).unwrap();
        let done = Vec::with_capacity(1024);
        Self {
            pool,
            queue,
            sa,
            done,
        }
    }

    /// Runs bursts of the same packets and takes the time from hand-over to the last completion;
    /// filling the frames is not in it.
    fn time(&mut self, bursts: u64, packets: &[Vec<u8>]) -> Duration {
        let mut total = Duration::ZERO;
        let mut frames: Vec<Frame> = Vec::with_capacity(packets.len());
        let mut ops = Vec::with_capacity(packets.len());
        for _ in 0..bursts {
            for packet in packets {
                let mut frame = frames.pop().or_else(|| self.pool.alloc()).unwrap();
                assert!(frame.fill(packet));
                ops.push(op(self.sa, frame));
            }
            let start = Instant::now();
            self.queue.enqueue(&mut ops).unwrap();
            self.queue.kick().unwrap();
            self.queue.dequeue(&mut self.done, packets.len()).unwrap();
            total += start.elapsed();
            assert_eq!(self.done.len(), packets.len());
            for done in self.done.drain(..) {
                assert_eq!(done.status, Status::Ok);
                frames.push(done.frame);
            }
        }
        total
    }
}

criterion_group!(benches, seal, open, cipher, cores);
criterion_main!(benches);
