// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Software ESP: bursts of 32 through the engine, on one thread and on all. Where the two lines cross
//! is the size from which waking other cores pays.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Op, QueueConfig};
use offload_api::sa::{
    Direction, Grant, KeyMaterial, Lifetimes, Mode, Numbering, SaParams, Spi, Suite,
};

const BURST: usize = 32;

fn outbound(suite: Suite) -> SaParams {
    let key = vec![1; suite.cipher_key_len() + suite.salt_len()];
    SaParams {
        spi: Spi::new(0x1000).unwrap(),
        direction: Direction::Outbound,
        mode: Mode::Tunnel,
        suite,
        keys: KeyMaterial::from_keymat(suite, &key, &vec![2; suite.integrity_key_len()]).unwrap(),
        esn: true,
        replay_window: 0,
        replay_state: None,
        numbering: Numbering::Granted(Some(Grant {
            first: 1,
            last: u64::MAX,
        })),
        outer: None,
        lifetimes: Lifetimes::default(),
        selectors: Vec::new(),
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

fn seal(criterion: &mut Criterion) {
    let suites = [
        "aes128gcm16",
        "aes256gcm16",
        "chacha20poly1305",
        "aes128-sha256",
    ];
    for name in suites {
        let suite = Suite::from_name(name).unwrap();
        let mut group = criterion.benchmark_group(format!("seal/{name}"));
        for threads in [1, 0] {
            let engine = SoftwareEngine::new(SoftwareConfig {
                threads,
                ..Default::default()
            })
            .unwrap();
            let sa = engine.install(&outbound(suite)).unwrap();
            let pool = FramePool::new(FramePoolConfig {
                slots: 64,
                ..Default::default()
            })
            .unwrap();
            let mut queue = engine.open_queue(&QueueConfig { depth: 64 }).unwrap();
            let (mut ops, mut done) = (Vec::with_capacity(BURST), Vec::with_capacity(BURST));
            for len in [64, 256, 512, 1024, 1420] {
                let packet = inner(len);
                group.throughput(Throughput::Bytes((len * BURST) as u64));
                let label = if threads == 1 {
                    "one thread"
                } else {
                    "all threads"
                };
                group.bench_with_input(BenchmarkId::new(label, len), &packet, |bencher, packet| {
                    bencher.iter(|| {
                        for cookie in 0..BURST as u64 {
                            let mut frame = pool.alloc().unwrap();
                            assert!(frame.fill(packet));
                            ops.push(Op {
                                sa,
                                frame,
                                cookie,
                                explicit: None,
                            });
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

criterion_group!(benches, seal);
criterion_main!(benches);
