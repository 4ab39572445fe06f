// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Instructions of the data path's own code, for `cargo xtask instructions`, which runs this under
//! callgrind: the driver's queue pair, ESP's framing, the replay window. No cipher: which instructions
//! one takes depends on the processor.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use bench_harness::packet::{inner, op, sa};
use benches::null_card::NullCard;
use driver::ipa::IpaCard;
use esp_framing::framing::Framing;
use esp_framing::packet::SlicePacket;
use esp_framing::sa::SaState;
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::QueueConfig;
use offload_api::sa::{Direction, OuterHeaders, SaParams, Suite};

const BURST: usize = 32;
/// Bursts of a run.
const BURSTS: usize = 64;
const SUITE: Suite = Suite::AES_128_GCM;

/// What callgrind counts: all that is called from here. One call is a burst.
#[inline(never)]
fn counted<T>(run: impl FnOnce() -> T) -> T {
    black_box(run())
}

fn main() {
    let case = std::env::args().nth(1);
    match case.as_deref() {
        Some("enqueue") => queue(true),
        Some("dequeue") => queue(false),
        Some("seal-framing") => seal_framing(),
        Some("open-framing") => open_framing(),
        Some("replay-in-order") => replay(&|n| n),
        // Pairs change places.
        Some("replay-out-of-order") => replay(&|n| ((n - 1) ^ 1) + 1),
        // Told to whoever counts.
        Some("packets") => println!("{}", BURST * BURSTS),
        _ => panic!(
            "one of enqueue, dequeue, seal-framing, open-framing, replay-in-order, replay-out-of-order"
        ),
    }
}

/// The ipa card's driver; the card, which is in this process, is not counted.
fn queue(enqueue: bool) {
    let card = NullCard::new().unwrap();
    let transport = card.clone();
    let connect = move || Ok(Box::new(transport.clone()) as _);
    let ipa = IpaCard::open("null".to_owned(), Box::new(connect)).unwrap();
    let pool = FramePool::new(FramePoolConfig::default()).unwrap();
    ipa.register_pool(&pool).unwrap();
    let handle = ipa.install(&sa(Direction::Outbound, SUITE, 0)).unwrap();
    let mut queue = ipa.open_queue(&QueueConfig::default()).unwrap();
    let (mut ops, mut done) = (Vec::with_capacity(BURST), Vec::with_capacity(BURST));
    let packet = inner(64);
    for _ in 0..BURSTS {
        for _ in 0..BURST {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.fill(&packet));
            ops.push(op(handle, frame));
        }
        let mut hand_over = || {
            assert_eq!(queue.enqueue(&mut ops).unwrap(), BURST);
            queue.kick().unwrap();
        };
        if enqueue {
            counted(hand_over);
        } else {
            hand_over();
        }
        card.work();
        let mut collect = || assert_eq!(queue.dequeue(&mut done, BURST).unwrap(), BURST);
        if enqueue {
            collect();
        } else {
            counted(collect);
        }
        assert!(done.drain(..).all(|done| done.status.is_ok()));
    }
}

fn tunnel(direction: Direction) -> SaParams {
    SaParams {
        outer: Some(OuterHeaders {
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
            udp: None,
        }),
        ..sa(direction, SUITE, 0)
    }
}

/// Room in front of a packet.
const ROOM: usize = 128;
const LEN: usize = 1420;

fn buffers() -> Vec<Vec<u8>> {
    let packet = inner(LEN);
    let mut buffer = vec![0; ROOM + LEN + ROOM];
    buffer[ROOM..ROOM + LEN].copy_from_slice(&packet);
    vec![buffer; BURST]
}

fn seal_framing() {
    let framing = Framing::new(&tunnel(Direction::Outbound));
    let mut state = SaState::new(&tunnel(Direction::Outbound), Instant::now());
    let now = Instant::now();
    for _ in 0..BURSTS {
        let mut buffers = buffers();
        counted(|| {
            for buffer in &mut buffers {
                let (sequence, _) = state.next_outbound(None, now).unwrap();
                let mut packet = SlicePacket::new(buffer, ROOM, LEN).unwrap();
                framing.frame(sequence, None, &mut packet).unwrap();
                black_box(state.count(sequence, LEN, now));
            }
        });
    }
}

fn open_framing() {
    let seal = Framing::new(&tunnel(Direction::Outbound));
    let inbound = SaParams {
        replay_window: 1024,
        ..tunnel(Direction::Inbound)
    };
    let open = Framing::new(&inbound);
    let mut state = SaState::new(&inbound, Instant::now());
    let now = Instant::now();
    for burst in 0..BURSTS {
        let mut buffers = buffers();
        let mut extents = Vec::new();
        for (n, buffer) in buffers.iter_mut().enumerate() {
            let mut packet = SlicePacket::new(buffer, ROOM, LEN).unwrap();
            let sequence = (burst * BURST + n + 1) as u64;
            seal.frame(sequence, None, &mut packet).unwrap();
            extents.push(packet.extent());
        }
        counted(|| {
            for (buffer, (offset, len)) in buffers.iter_mut().zip(&extents) {
                let located = open.locate(&buffer[*offset..offset + len]).unwrap();
                let sequence = state.check_inbound(located.sequence_low, now).unwrap();
                let mut packet = SlicePacket::new(buffer, *offset, *len).unwrap();
                black_box(open.deframe(located, &mut packet).unwrap());
                state.accept_inbound(sequence).unwrap();
                black_box(state.count(sequence, LEN, now));
            }
        });
    }
}

fn replay(order: &dyn Fn(u32) -> u32) {
    let inbound = SaParams {
        replay_window: 1024,
        ..sa(Direction::Inbound, SUITE, 0)
    };
    let now = Instant::now();
    let mut state = SaState::new(&inbound, now);
    for burst in 0..BURSTS {
        let first = (burst * BURST + 1) as u32;
        let numbers: Vec<u32> = (first..first + BURST as u32).map(order).collect();
        counted(|| {
            for number in &numbers {
                let sequence = state.check_inbound(*number, now).unwrap();
                state.accept_inbound(sequence).unwrap();
            }
        });
    }
}
