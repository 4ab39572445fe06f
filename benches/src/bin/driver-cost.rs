// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the driver costs a packet: enqueue, kick and dequeue in bursts of 32 on one core, with an
//! in-process card that does nothing to packets. See `benches/driver-cost.sh`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use bench_harness::packet::{inner, op, sa};
use benches::counting::{Counting, allocations};
use benches::null_card::NullCard;
use benches::null_qat::NullQat;
use driver::ipa::IpaCard;
use driver::qat::QatCard;
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair};
use offload_api::sa::{Direction, Suite};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BURST: usize = 32;
/// Octets of a packet.
const LEN: usize = 64;
/// Bursts of a round, of which the median is taken.
const BURSTS: u32 = 10_000;
const ROUNDS: usize = 31;

/// Nanoseconds a packet.
struct Cost {
    enqueue: f64,
    card: f64,
    dequeue: f64,
    all: f64,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("qat") {
        let function = NullQat::new().unwrap();
        let transport = function.clone();
        let connect = move || Ok(Box::new(transport.clone()) as _);
        let qat = QatCard::open("null".to_owned(), vec![Box::new(connect)]).unwrap();
        measure(&qat, &|| function.work());
    } else {
        let card = NullCard::new().unwrap();
        let transport = card.clone();
        let connect = move || Ok(Box::new(transport.clone()) as _);
        let ipa = IpaCard::open("null".to_owned(), Box::new(connect)).unwrap();
        measure(&ipa, &|| card.work());
    }
}

fn measure(device: &dyn Accelerator, work: &dyn Fn()) {
    let pool = FramePool::new(FramePoolConfig::default()).unwrap();
    device.register_pool(&pool).unwrap();
    let handle = device
        .install(&sa(Direction::Outbound, Suite::AES_128_GCM, 0))
        .unwrap();
    let packet = inner(LEN);
    let mut queue = device.open_queue(&QueueConfig::default()).unwrap();
    let mut ops: Vec<Op> = (0..BURST)
        .map(|_| {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.fill(&packet));
            op(handle, frame)
        })
        .collect();
    let mut done = Vec::with_capacity(BURST);
    round(work, &mut *queue, &packet, &mut ops, &mut done);
    let before = allocations();
    let mut costs: [Cost; ROUNDS] =
        std::array::from_fn(|_| round(work, &mut *queue, &packet, &mut ops, &mut done));
    let allocated = allocations() - before;
    let median = |of: fn(&Cost) -> f64, costs: &mut [Cost; ROUNDS]| {
        costs.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&costs[ROUNDS / 2])
    };
    let packets = u64::from(BURSTS) * (BURST * ROUNDS) as u64;
    let report = serde_json::json!({
        "packets": packets,
        "burst": BURST,
        "driver_ns": median(|cost| cost.enqueue + cost.dequeue, &mut costs),
        "enqueue_kick_ns": median(|cost| cost.enqueue, &mut costs),
        "dequeue_ns": median(|cost| cost.dequeue, &mut costs),
        "card_ns": median(|cost| cost.card, &mut costs),
        "whole_loop_ns": median(|cost| cost.all, &mut costs),
        "allocations": allocated,
    });
    println!("{report:#}");
    assert_eq!(allocated, 0, "the data path allocates nothing");
}

/// One round: frames of completions go into the next operations, as in a forwarder.
fn round(
    work: &dyn Fn(),
    queue: &mut dyn QueuePair,
    packet: &[u8],
    ops: &mut Vec<Op>,
    done: &mut Vec<Done>,
) -> Cost {
    let (mut enqueue, mut worked, mut dequeue) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let start = Instant::now();
    for _ in 0..BURSTS {
        let begin = Instant::now();
        assert_eq!(queue.enqueue(ops).unwrap(), BURST);
        queue.kick().unwrap();
        let kicked = Instant::now();
        work();
        let completed = Instant::now();
        assert_eq!(queue.dequeue(done, BURST).unwrap(), BURST);
        let end = Instant::now();
        ops.extend(done.drain(..).map(|mut done| {
            assert!(done.status.is_ok());
            // A device without a protocol has the host put one around the packet.
            assert!(done.frame.fill(packet));
            op(done.sa, done.frame)
        }));
        enqueue += kicked - begin;
        worked += completed - kicked;
        dequeue += end - completed;
    }
    let all = start.elapsed();
    let packets = f64::from(BURSTS) * BURST as f64;
    let each = |time: Duration| time.as_secs_f64() * 1e9 / packets;
    Cost {
        enqueue: each(enqueue),
        card: each(worked),
        dequeue: each(dequeue),
        all: each(all),
    }
}
