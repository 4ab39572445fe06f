// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Many threads on a card, many cards in a process, many processes on a card: each has its own, in
//! order, whatever becomes of the others.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use driver::DeviceAddress;
use driver::ipa::IpaCard;
use offload_api::device::{Accelerator, Health};
use offload_api::error::{InstallError, OpenQueueError, SaError};
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::{Direction, Grant, KeyMaterial, Numbering, SaHandle, SaParams, Spi, Suite};
use sim::{CardConfig, RunningCard};

const BURST: usize = 16;

fn params(spi: u32) -> SaParams {
    let suite = Suite::AES_128_GCM;
    let last = 1 << 40;
    SaParams {
        numbering: Numbering::Granted(Some(Grant { first: 1, last })),
        ..SaParams::tunnel(
            Spi::new(spi).unwrap(),
            Direction::Outbound,
            suite,
            KeyMaterial::from_keymat(suite, &[spi as u8; 20], &[]).unwrap(),
        )
    }
}

fn pool(slots: u32) -> FramePool {
    FramePool::new(FramePoolConfig {
        slots,
        ..FramePoolConfig::default()
    })
    .unwrap()
}

fn open(path: &Path) -> Arc<IpaCard> {
    driver::open(&DeviceAddress::User(path.to_owned())).unwrap()
}

/// A queue with an SA of its own, whose packets are checked as they come back.
struct Lane {
    queue: Box<dyn QueuePair>,
    pool: FramePool,
    sa: SaHandle,
    spi: u32,
    sent: u64,
    came: u64,
    done: Vec<Done>,
}

impl Lane {
    fn new(card: &IpaCard, pool: &FramePool, spi: u32) -> Self {
        Self {
            queue: card.open_queue(&QueueConfig { depth: 64 }).unwrap(),
            pool: pool.clone(),
            sa: card.install(&params(spi)).unwrap(),
            spi,
            sent: 0,
            came: 0,
            done: Vec::new(),
        }
    }

    /// Sends a burst and takes what has come; false when the card is gone.
    fn turn(&mut self) -> bool {
        self.submit((64 - self.queue.in_flight()).min(BURST))
    }

    /// Takes what is still on its way.
    fn drain(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.queue.in_flight() != 0 {
            assert!(self.submit(0) && Instant::now() < deadline);
        }
    }

    fn submit(&mut self, count: usize) -> bool {
        let mut ops: Vec<Op> = (0..count)
            .map_while(|n| {
                let mut frame = self.pool.alloc()?;
                let mut packet = [0x5a; 60];
                packet[..20].copy_from_slice(&[
                    0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
                ]);
                assert!(frame.fill(&packet));
                Some(Op::new(
                    self.sa,
                    frame,
                    u64::from(self.spi) << 32 | (self.sent + n as u64),
                ))
            })
            .collect();
        match self.queue.enqueue(&mut ops) {
            Ok(taken) => self.sent += taken as u64,
            Err(_) => return false,
        }
        if self.queue.kick().is_err() || self.queue.dequeue(&mut self.done, 64).is_err() {
            return false;
        }
        if self.done.is_empty() {
            std::thread::yield_now();
        }
        for done in self.done.drain(..) {
            if done.status == Status::Aborted {
                return false;
            }
            // In order, numbered without a gap, and nobody else's.
            let cookie = u64::from(self.spi) << 32 | self.came;
            assert_eq!((done.status, done.cookie), (Status::Ok, cookie));
            self.came += 1;
            assert_eq!(done.sequence, self.came);
            assert_eq!(done.frame[..4], self.spi.to_be_bytes());
        }
        true
    }

    fn run(&mut self, packets: u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.came < packets {
            assert!(self.turn(), "the card is gone");
            assert!(Instant::now() < deadline, "{} of {packets}", self.came);
        }
    }
}

#[test]
fn threads_with_a_queue_and_an_sa_each_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let config = CardConfig::new(dir.path().join("card"));
    let running = RunningCard::start(&config).unwrap();
    let card = open(&config.socket);
    let pool = pool(1024);
    card.register_pool(&pool).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (card, pool) = (&card, &pool);
            scope.spawn(move || {
                // Queues come and go beside the others' traffic.
                for round in 0..4 {
                    let mut lane = Lane::new(card, pool, 0x1000 + thread * 16 + round);
                    lane.run(500);
                    lane.drain();
                    assert!(lane.queue.close().is_empty());
                    assert_eq!(card.retire(lane.sa).unwrap().packets, lane.sent);
                }
            });
        }
    });
    assert_eq!((pool.available(), pool.quarantined()), (1024, 0));
    assert_eq!(card.counters().bogus_completions, 0);
    running.stop().unwrap();
}

#[test]
fn of_several_cards_in_a_process_one_dies_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let start = |n: usize| {
        let config = CardConfig::new(dir.path().join(format!("card{n}")));
        (RunningCard::start(&config).unwrap(), open(&config.socket))
    };
    let mut cards: Vec<_> = (0..3).map(start).collect();
    // One pool for all: each card maps it.
    let pool = pool(1024);
    for (_, card) in &cards {
        card.register_pool(&pool).unwrap();
    }
    let progress: [AtomicU64; 3] = Default::default();
    let victim = cards.remove(1);
    let drive = |number: usize, card: Arc<IpaCard>| {
        let (pool, progress) = (pool.clone(), &progress[number]);
        move || {
            let mut lane = Lane::new(&card, &pool, 0x2000 + number as u32);
            while lane.came < 20_000 || number == 1 {
                if !lane.turn() {
                    assert_eq!(number, 1, "only one card has died");
                    break;
                }
                progress.store(lane.came, Ordering::Relaxed);
            }
            drop(lane.queue.close());
        }
    };
    std::thread::scope(|scope| {
        let (dying, dead) = victim;
        for (number, card) in [(0, &cards[0].1), (1, &dead), (2, &cards[1].1)] {
            scope.spawn(drive(number, card.clone()));
        }
        while progress[1].load(Ordering::Relaxed) < 200 {
            std::thread::yield_now();
        }
        dying.stop().unwrap();
        let start = Instant::now();
        while dead.health() == Health::Ok {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
    });
    for (_, card) in &cards {
        assert_eq!(card.health(), Health::Ok);
        assert!(card.counters().sealed >= 20_000);
    }
    assert_eq!((pool.available(), pool.quarantined()), (1024, 0));
}

const CHILD: &str = "ESPLANADE_TEST_FUNCTION";

/// A process with traffic on the function at this socket, which tells how far it is.
struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    fn start(socket: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process_on_a_function", "--nocapture"])
            .env(CHILD, socket)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Packets that it has had sealed; waits for the next word of it.
    fn progress(&mut self) -> Option<u64> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() != 0 {
            if let Some(count) = line.trim().strip_prefix("sealed ") {
                return Some(count.parse().unwrap());
            }
            line.clear();
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does nothing unless another test runs it as a process.
#[test]
fn process_on_a_function() {
    let Ok(socket) = std::env::var(CHILD) else {
        return;
    };
    let card = open(socket.as_ref());
    let pool = pool(256);
    card.register_pool(&pool).unwrap();
    let mut lane = Lane::new(&card, &pool, 0x3000);
    loop {
        lane.run(lane.came + 200);
        println!("\nsealed {}", lane.came);
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn processes_share_a_card_and_one_killed_leaves_the_other_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = CardConfig::new(dir.path().join("card"));
    (config.functions, config.queues, config.max_sas) = (3, 6, 48);
    let running = RunningCard::start(&config).unwrap();
    let mut stays = Process::start(&config.function_socket(0));
    for round in 0..3 {
        let mut goes = Process::start(&config.function_socket(1));
        let before = stays.progress().unwrap();
        // Both at work at the same time.
        while goes.progress().unwrap() < 1000 {}
        while stays.progress().unwrap() < before + 1000 {}
        goes.child.kill().unwrap();
        goes.child.wait().unwrap();
        // Its lane asserts that every packet is well, in order and numbered without a gap.
        let from = stays.progress().unwrap();
        while stays.progress().unwrap() < from + 2000 {}
        assert!(stays.child.try_wait().unwrap().is_none(), "round {round}");

        // The dead one's function is as at power-on for the next: no SA is left, nor any key.
        let next = open(&config.function_socket(1));
        assert_eq!(next.counters().sas, 0, "round {round}");
    }

    // A third process's function knows neither the others' SAs nor their queues.
    let third = open(&config.function_socket(2));
    let inspection = third.inspect().unwrap();
    assert!(inspection.sas.is_empty());
    assert!(
        inspection
            .queues
            .iter()
            .all(|queue| queue.state == "absent")
    );
    let limits = third.capabilities();
    assert_eq!((limits.max_queues, limits.max_sas), (2, 16));
    let pool = pool(256);
    third.register_pool(&pool).unwrap();
    let mut lane = Lane::new(&third, &pool, 0x3000);
    let own = lane.sa;
    for index in 0..48 {
        // Whatever it calls an SA, it meets its own one or none.
        let sa = SaHandle { index, ..own };
        let usage = third.usage(sa);
        assert_eq!(usage.is_ok(), sa == own, "{index}: {usage:?}");
    }
    lane.run(100);
    let second = third.open_queue(&QueueConfig { depth: 64 }).unwrap();
    let more = third.open_queue(&QueueConfig { depth: 64 });
    assert!(matches!(
        more.err(),
        Some(OpenQueueError::NoneFree { max: 2 })
    ));
    for spi in 0x4001..0x4010 {
        third.install(&params(spi)).unwrap();
    }
    let full = third.install(&params(0x4010));
    assert_eq!(full, Err(InstallError::TableFull { capacity: 16 }));
    lane.drain();
    assert_eq!(third.retire(own).unwrap().packets, lane.sent);
    assert!(matches!(third.usage(own), Err(SaError::Stale)));
    drop(second);
    drop(lane.queue.close());
    let from = stays.progress().unwrap();
    while stays.progress().unwrap() < from + 1000 {}
    drop(stays);
    running.stop().unwrap();
}
