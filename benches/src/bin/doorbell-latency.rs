// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the doorbell to the completion: one 64-octet packet at a time to a simulated card in a
//! process of its own over vfio-user, both polling. See `benches/doorbell-latency.sh`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use bench_harness::packet::{inner, sa};
use benches::own_card::{OwnCard, be_the_card_if_asked, pin};
use driver::DeviceAddress;
use hdrhistogram::Histogram;
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Op, QueueConfig};
use offload_api::sa::{Direction, Suite};

/// Octets of the packet.
const LEN: usize = 64;
/// Packets before the first that is measured.
const WARM_UP: u64 = 100_000;
const PACKETS: u64 = 2_000_000;

fn main() {
    be_the_card_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] => measure("null", PACKETS),
        [crypto @ ("null" | "aes-gcm")] => measure(crypto, PACKETS),
        [crypto @ ("null" | "aes-gcm"), packets] => measure(crypto, packets.parse().unwrap()),
        _ => panic!("doorbell-latency [null|aes-gcm [PACKETS]]"),
    }
}

fn measure(crypto: &str, packets: u64) {
    let process = OwnCard::start(crypto == "null").unwrap();
    let card = driver::open_null_crypto(&DeviceAddress::User(process.socket())).unwrap();
    // After opening: the watchdog's thread is not this one's neighbour by force.
    pin(1).unwrap();
    let pool = FramePool::new(FramePoolConfig::default()).unwrap();
    card.register_pool(&pool).unwrap();
    let handle = card
        .install(&sa(Direction::Outbound, Suite::AES_128_GCM, 0))
        .unwrap();
    let mut queue = card.open_queue(&QueueConfig { depth: 64 }).unwrap();
    let packet = inner(LEN);
    let mut frame = pool.alloc().unwrap();
    let (mut ops, mut done) = (Vec::with_capacity(1), Vec::with_capacity(1));
    let mut times = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3).unwrap();
    for number in 0..WARM_UP + packets {
        assert!(frame.fill(&packet));
        ops.push(Op::new(handle, frame, number));
        assert_eq!(queue.enqueue(&mut ops).unwrap(), 1);
        let rung = Instant::now();
        queue.kick().unwrap();
        while queue.dequeue(&mut done, 1).unwrap() == 0 {
            std::hint::spin_loop();
        }
        let took = rung.elapsed().as_nanos() as u64;
        let completed = done.pop().unwrap();
        assert!(completed.status.is_ok());
        assert_eq!((completed.cookie, completed.sequence), (number, number + 1));
        frame = completed.frame;
        if number >= WARM_UP {
            times.record(took).unwrap();
        }
    }
    let at = |percentile: f64| times.value_at_percentile(percentile);
    let report = serde_json::json!({
        "crypto": crypto,
        "packets": times.len(),
        "min_ns": times.min(),
        "p50_ns": at(50.0),
        "p90_ns": at(90.0),
        "p99_ns": at(99.0),
        "p99_9_ns": at(99.9),
        "max_ns": times.max(),
    });
    println!("{report:#}");
    drop(process);
}
