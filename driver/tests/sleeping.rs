// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupts when there is little to do, none when there is much.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use driver::DeviceAddress;
use driver::ipa::IpaCard;
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Arm, Done, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::{Direction, Grant, KeyMaterial, Numbering, SaHandle, SaParams, Spi, Suite};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use sim::{CardConfig, RunningCard};

struct Rig {
    card: Arc<IpaCard>,
    pool: FramePool,
    queue: Box<dyn QueuePair>,
    sa: SaHandle,
    _running: RunningCard,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = CardConfig::new(dir.path().join("card"));
        let running = RunningCard::start(&config).unwrap();
        let card = driver::open(&DeviceAddress::User(config.socket)).unwrap();
        let pool = FramePool::new(FramePoolConfig::default()).unwrap();
        card.register_pool(&pool).unwrap();
        let suite = Suite::AES_128_GCM;
        let sa = SaParams {
            numbering: Numbering::Granted(Some(Grant {
                first: 1,
                last: 1 << 30,
            })),
            ..SaParams::tunnel(
                Spi::new(0x1000).unwrap(),
                Direction::Outbound,
                suite,
                KeyMaterial::from_keymat(suite, &[1; 20], &[]).unwrap(),
            )
        };
        Self {
            queue: card.open_queue(&QueueConfig { depth: 64 }).unwrap(),
            sa: card.install(&sa).unwrap(),
            card,
            pool,
            _running: running,
            _dir: dir,
        }
    }

    fn submit(&mut self, count: usize) {
        let mut ops: Vec<Op> = (0..count)
            .map(|_| {
                let mut packet = [0x5a; 60];
                packet[..20].copy_from_slice(&[
                    0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
                ]);
                let mut frame = self.pool.alloc().unwrap();
                assert!(frame.fill(&packet));
                Op::new(self.sa, frame, 0)
            })
            .collect();
        assert_eq!(self.queue.enqueue(&mut ops).unwrap(), count);
        self.queue.kick().unwrap();
    }

    /// Interrupts that the card has fired for the queue.
    fn interrupts(&self) -> u64 {
        let inspection = self.card.inspect().unwrap();
        inspection.queues.iter().map(|queue| queue.interrupts).sum()
    }
}

/// Processor time of this thread.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Processor time of the whole process, the card's threads and the driver's among them.
fn all_worked() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn sleep_on(queue: &mut dyn QueuePair, longest: Duration) -> bool {
    match queue.arm().unwrap() {
        Arm::Ready => true,
        Arm::Wait(fd) => {
            let time = Timespec::try_from(longest).unwrap();
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            poll(&mut fds, Some(&time)).unwrap() != 0
        }
    }
}

#[test]
fn an_idle_consumer_its_driver_and_its_card_sleep() {
    let mut rig = Rig::new();
    rig.submit(1);
    let mut done = Vec::new();
    while rig.queue.dequeue(&mut done, 1).unwrap() == 0 {
        std::thread::yield_now();
    }
    // The watchdog lies down a second after the last packet.
    assert!(!sleep_on(&mut *rig.queue, Duration::from_millis(1500)));
    let (before, all_before) = (worked(), all_worked());
    assert!(!sleep_on(&mut *rig.queue, Duration::from_secs(2)));
    let (mine, all) = (worked() - before, all_worked() - all_before);
    println!("idle for two seconds: {mine:?} of the consumer, {all:?} of the process");
    assert!(mine < Duration::from_millis(2), "{mine:?}");
    // The card looks after its SAs' limits twenty times a second.
    assert!(all < Duration::from_millis(40), "{all:?}");

    // And wakes for one packet, once.
    let interrupts = rig.interrupts();
    rig.submit(1);
    let start = Instant::now();
    let mut done: Vec<Done> = Vec::new();
    while done.is_empty() {
        assert!(sleep_on(&mut *rig.queue, Duration::from_secs(5)), "lost");
        rig.queue.dequeue(&mut done, 1).unwrap();
    }
    assert_eq!(done[0].status, Status::Ok);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(rig.interrupts() - interrupts <= 1);
}

#[test]
fn a_busy_consumer_takes_no_interrupts() {
    let mut rig = Rig::new();
    let before = rig.interrupts();
    let mut done = Vec::new();
    let mut came = 0;
    while came < 20_000 {
        let room = 64 - rig.queue.in_flight();
        rig.submit(room.min(16));
        came += rig.queue.dequeue(&mut done, 64).unwrap();
        done.clear();
    }
    while rig.queue.in_flight() != 0 {
        rig.queue.dequeue(&mut done, 64).unwrap();
    }
    done.clear();
    assert_eq!(rig.interrupts(), before, "nobody asked for one");

    // One that sleeps whenever there is nothing takes one for each sleep at most.
    let before = rig.interrupts();
    let mut slept = 0;
    for _ in 0..200 {
        rig.submit(16);
        let mut left = rig.queue.in_flight();
        while left != 0 {
            let count = rig.queue.dequeue(&mut done, 64).unwrap();
            left -= count;
            if count == 0 {
                slept += 1;
                assert!(sleep_on(&mut *rig.queue, Duration::from_secs(5)), "lost");
            }
        }
        done.clear();
    }
    let fired = rig.interrupts() - before;
    println!("{fired} interrupts, {slept} sleeps, 3200 packets");
    assert!(fired <= slept);
}
