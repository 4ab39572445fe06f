// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whatever ends leaves nothing behind in the process: no descriptor, mapping, thread or frame. The
//! simulated card runs here, too, so its half is held to the same. One test, since it counts what the
//! whole process has.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use driver::DeviceAddress;
use driver::ipa::IpaCard;
use offload_api::device::{Accelerator, Health};
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Op, QueueConfig};
use offload_api::sa::{Direction, Grant, KeyMaterial, Numbering, SaParams, Spi, Suite};
use sim::{CardConfig, RunningCard};

/// Descriptors, mappings of shared memory, and threads of this process.
fn held() -> [usize; 3] {
    let entries = |path| std::fs::read_dir(path).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    [
        entries("/proc/self/fd"),
        maps.matches("/memfd:").count(),
        entries("/proc/self/task"),
    ]
}

/// What is held once nothing starts or ends any more.
fn at_rest() -> [usize; 3] {
    let (mut last, mut same) = (held(), 0);
    while same < 40 {
        std::thread::sleep(Duration::from_millis(5));
        let now = held();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// Waits until no more is held than this: the card's end notices a moment later.
fn settles(expected: [usize; 3], what: &str) {
    let start = Instant::now();
    while held() != expected {
        let found = held();
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{what}: expected {expected:?} descriptors, mappings, threads, found {found:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn params(direction: Direction) -> SaParams {
    let suite = Suite::AES_128_GCM;
    let outbound = direction == Direction::Outbound;
    SaParams {
        numbering: Numbering::Granted(outbound.then_some(Grant {
            first: 1,
            last: 1 << 30,
        })),
        ..SaParams::tunnel(
            Spi::new(0x1000).unwrap(),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &[1; 20], &[]).unwrap(),
        )
    }
}

/// Opens a card, has packets in flight on two queues, and leaves it in one way or another.
fn visit(socket: &Path, pool: &FramePool, leave: impl FnOnce(&IpaCard)) {
    let card = driver::open(&DeviceAddress::User(socket.to_owned())).unwrap();
    card.register_pool(pool).unwrap();
    let sa = card.install(&params(Direction::Outbound)).unwrap();
    card.install(&params(Direction::Inbound)).unwrap();
    let open = || card.open_queue(&QueueConfig { depth: 32 }).unwrap();
    let mut queues = [open(), open()];
    for queue in &mut queues {
        let mut ops = Vec::new();
        for cookie in 0..16 {
            let mut packet = [0x5a; 60];
            packet[..20].copy_from_slice(&[
                0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
            ]);
            let mut frame = pool.alloc().unwrap();
            // Some in two frames.
            let (front, back) = packet.split_at(if cookie % 4 == 0 { 30 } else { 60 });
            assert!(frame.fill(front));
            if !back.is_empty() {
                let mut second = pool.alloc().unwrap();
                assert!(second.fill(back));
                frame.append(second).unwrap();
            }
            ops.push(Op::new(sa, frame, cookie));
        }
        assert_eq!(queue.enqueue(&mut ops).unwrap(), 16);
        queue.kick().unwrap();
        let mut done = Vec::new();
        let _ = queue.dequeue(&mut done, 4);
    }
    leave(&card);
    let [first, second] = queues;
    drop(first.close());
    // One is just dropped.
    drop(second);
}

#[test]
fn what_ends_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let config = CardConfig::new(dir.path().join("card"));
    let pool = FramePool::new(FramePoolConfig {
        slots: 256,
        ..FramePoolConfig::default()
    })
    .unwrap();
    let without_card = at_rest();
    let start = || RunningCard::start(&config).unwrap();
    let frames_are_home = |what: &str| {
        assert_eq!((pool.available(), pool.quarantined()), (256, 0), "{what}");
    };

    let running = start();
    let idle = at_rest();
    for round in 0..100 {
        visit(&config.socket, &pool, |_| ());
        frames_are_home("closed");
        if round % 10 == 0 {
            settles(idle, "closed");
        }
    }
    settles(idle, "opened and closed a hundred times");

    for _ in 0..20 {
        visit(&config.socket, &pool, |card| {
            for _ in 0..3 {
                card.reset().unwrap();
                card.register_pool(&pool).unwrap();
                assert_eq!(card.health(), Health::Ok);
            }
        });
        frames_are_home("reset");
    }
    settles(idle, "reset sixty times");
    for _ in 0..20 {
        visit(&config.socket, &pool, |card| card.give_up("a test"));
        frames_are_home("given up");
    }
    settles(idle, "given up twenty times");
    running.stop().unwrap();
    settles(without_card, "the card stopped");

    for round in 0..20 {
        let running = start();
        visit(&config.socket, &pool, |card| {
            running.stop().unwrap();
            let dead = Instant::now();
            while card.health() == Health::Ok {
                assert!(dead.elapsed() < Duration::from_secs(5));
                std::thread::yield_now();
            }
            // It comes back in half of the rounds, to the same process.
            if round % 2 == 0 {
                let running = start();
                card.reset().unwrap();
                running.stop().unwrap();
            }
        });
        frames_are_home("died");
    }
    settles(without_card, "died twenty times");
}
