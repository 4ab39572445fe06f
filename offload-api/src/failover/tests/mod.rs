// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Failover's promises, over schedules of deaths and returns that a seed repeats.

mod adoption;
mod fake;
mod ledger;
mod returning;

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::cache::CacheReader;
use crate::frame::FramePoolConfig;
use crate::queue::{Arm, Done, Op, Status};
use crate::sa::{Direction, Grant, KeyMaterial, Limits, Spi, Suite};
use fake::{Fake, Ledger, Mood, Random};

const FRAMES: u32 = 512;

struct Bench {
    device: Arc<Fake>,
    ledger: Arc<Mutex<Ledger>>,
    both: Failover,
    pool: FramePool,
    cache: Arc<CacheWriter>,
}

fn bench(seed: u64, block: u64) -> Bench {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let device = Fake::device(&ledger, seed);
    let software = Fake::software(&ledger, seed);
    let cache = Arc::new(CacheWriter::create("failover-test", 64).unwrap());
    let reader = CacheReader::open(cache.read_only_fd().unwrap()).unwrap();
    ledger.lock().unwrap().cache = Some(reader);
    let config = FailoverConfig {
        block,
        sample: 0,
        hold_off: HoldOff::NONE,
    };
    let both = Failover::new(Some(device.clone()), software, cache.clone(), config);
    let pool = FramePool::new(FramePoolConfig {
        slots: FRAMES,
        slot_size: 512,
        ..FramePoolConfig::default()
    })
    .unwrap();
    both.register_pool(&pool).unwrap();
    Bench {
        device,
        ledger,
        both,
        pool,
        cache,
    }
}

fn params(spi: u32, direction: Direction) -> SaParams {
    let suite = Suite::AES_128_GCM;
    SaParams {
        replay_window: if direction == Direction::Inbound {
            64
        } else {
            0
        },
        ..SaParams::tunnel(
            Spi::new(spi).unwrap(),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &[7; 20], &[]).unwrap(),
        )
    }
}

impl Bench {
    fn op(&self, sa: SaHandle, cookie: u64, packet: &[u8]) -> Option<Op> {
        let mut frame = self.pool.alloc()?;
        assert!(frame.fill(packet));
        Some(Op::new(sa, frame, cookie))
    }

    fn assert_lawful(&self, seed: u64) {
        let ledger = self.ledger.lock().unwrap();
        assert!(ledger.checked > 10, "seed {seed}");
        assert!(
            ledger.violations.is_empty(),
            "seed {seed}: {:?}",
            ledger.violations
        );
    }

    /// Brings the device back; its reset fails now and then.
    fn come_back(&self) {
        let back = (0..1000).any(|_| self.both.try_return().is_ok());
        assert!(back);
    }

    /// Sends `count` packets of one SA through a queue and waits for them.
    fn send(&self, queue: &mut dyn QueuePair, sa: SaHandle, count: u64) -> Vec<Done> {
        let mut ops: Vec<Op> = (0..count)
            .map(|n| self.op(sa, n, b"packet").unwrap())
            .collect();
        let mut done = Vec::new();
        for _ in 0..10_000 {
            queue.enqueue(&mut ops).unwrap();
            queue.kick().unwrap();
            queue.dequeue(&mut done, 64).unwrap();
            if done.len() as u64 == count {
                return done;
            }
        }
        panic!("{} of {count} came back", done.len());
    }
}

fn dequeue_all(queue: &mut dyn QueuePair) -> Vec<Done> {
    let mut done = Vec::new();
    for _ in 0..200 {
        let _ = queue.dequeue(&mut done, 64);
    }
    done
}

/// What one seed's schedule saw.
#[derive(Default)]
struct Seen {
    losses: u64,
    returns: u64,
    delivered: usize,
    by_engine: HashMap<&'static str, u64>,
}

/// Two queue pairs, several SAs each way, a device that dies and returns, SAs that come and go.
fn schedule(seed: u64) -> Seen {
    let mut random = Random::new(seed);
    let bench = bench(seed, 1 << (3 + random.below(6)));
    let mut next_spi = 0x1000;
    let mut install = |direction| {
        next_spi += 1;
        let sa = bench.both.install(&params(next_spi, direction)).unwrap();
        (next_spi, sa)
    };
    // A direction each, with the wire between: what one SA seals the other opens.
    let mut outbound: Vec<_> = (0..3).map(|_| install(Direction::Outbound)).collect();
    let inbound: Vec<_> = (0..2).map(|_| install(Direction::Inbound)).collect();
    let inbound_queue = random.below(2) as usize;
    let mut queues: Vec<_> = (0..2)
        .map(|_| bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap())
        .collect();
    let mut retired = HashSet::new();
    let mut cookie = 0;
    // Per queue and SA: last number and cookie that came back sealed.
    let mut last: HashMap<(usize, SaHandle), (u64, u64)> = HashMap::new();
    let mut delivered = HashSet::new();
    let mut sent: HashMap<SaHandle, u64> = HashMap::new();
    let mut check =
        |at: usize, done: Vec<Done>, spis: &HashMap<SaHandle, u32>, retired: &HashSet<SaHandle>| {
            for done in done {
                let spi = spis[&done.sa];
                if !done.status.is_ok() {
                    let fine = match done.status {
                        Status::Aborted | Status::Replayed | Status::TooOld => true,
                        Status::SaStale => retired.contains(&done.sa),
                        _ => false,
                    };
                    assert!(fine, "seed {seed}: {spi:x} {:?}", done.status);
                    assert!(done.frame.is_empty(), "seed {seed}: not emptied");
                    continue;
                }
                if done.cookie & 1 << 63 == 0 {
                    // Sealed, with its own SA's key.
                    assert_eq!(done.frame[..4], spi.to_be_bytes(), "seed {seed}: wrong SA");
                    let before = last.insert((at, done.sa), (done.sequence, done.cookie));
                    assert!(
                        before.is_none_or(|(n, c)| n < done.sequence && c < done.cookie),
                        "seed {seed}: order of {spi:x}: {before:?} then {}",
                        done.sequence
                    );
                } else {
                    assert!(
                        delivered.insert((spi, done.sequence)),
                        "seed {seed}: {spi:x} {} delivered twice",
                        done.sequence
                    );
                }
            }
        };
    let mut spis: HashMap<SaHandle, u32> = outbound
        .iter()
        .chain(&inbound)
        .map(|(spi, sa)| (*sa, *spi))
        .collect();
    for _ in 0..150 {
        match random.below(40) {
            0 => bench.device.set_mood(Mood::Gone),
            1 => bench.device.set_mood(Mood::Hung),
            2 if bench.device.mood() == Mood::Well => bench.device.set_mood(Mood::Amnesiac),
            // Without a tick in between, and with queues that have not noticed.
            3..8 => drop(bench.both.try_return()),
            8..16 => bench.both.tick(),
            16 => {
                let at = random.below(outbound.len() as u64) as usize;
                let (spi, sa) = install(Direction::Outbound);
                spis.insert(sa, spi);
                let (_, old) = std::mem::replace(&mut outbound[at], (spi, sa));
                retired.insert(old);
                bench.both.retire(old).unwrap();
            }
            _ => {}
        }
        let at = random.below(2) as usize;
        let queue = &mut queues[at];
        let mut ops = Vec::new();
        for _ in 0..random.below(24) {
            cookie += 1;
            let op = if random.one_in(2) || at != inbound_queue {
                let (_, sa) = outbound[random.below(3) as usize];
                bench.op(sa, cookie, b"inner packet")
            } else {
                // New numbers, now and then an old one again.
                let (spi, sa) = inbound[random.below(2) as usize];
                let newest = sent.entry(sa).or_insert(0);
                let sequence = if random.one_in(3) {
                    newest.saturating_sub(random.below(80)).max(1)
                } else {
                    *newest += 1;
                    *newest
                };
                bench.op(sa, cookie | 1 << 63, &fake::wire_header(spi, sequence))
            };
            ops.extend(op);
        }
        queue.enqueue(&mut ops).unwrap();
        if !random.one_in(5) {
            queue.kick().unwrap();
        }
        if !random.one_in(3) {
            let mut done = Vec::new();
            queue
                .dequeue(&mut done, 1 + random.below(64) as usize)
                .unwrap();
            check(at, done, &spis, &retired);
        }
    }
    // When the device stays well and traffic flows, every SA comes to live there again.
    if bench.device.mood() != Mood::Well {
        bench.device.set_mood(Mood::Gone);
    }
    for _ in 0..100 {
        bench.both.tick();
        let _ = bench.both.try_return();
        for (at, queue) in queues.iter_mut().enumerate() {
            queue.kick().unwrap();
            let mut done = Vec::new();
            queue.dequeue(&mut done, 64).unwrap();
            check(at, done, &spis, &retired);
        }
    }
    for (handle, placement) in bench.both.placements() {
        let reason = placement.reason;
        assert_eq!(
            placement.engine,
            Engine::Device,
            "seed {seed}: {handle:?} {reason:?}"
        );
    }
    for (at, mut queue) in queues.into_iter().enumerate() {
        check(at, dequeue_all(&mut *queue), &spis, &retired);
        assert_eq!(queue.in_flight(), 0, "seed {seed}");
        assert!(queue.close().is_empty(), "seed {seed}");
    }
    let home = bench.pool.available() as u32 + bench.pool.quarantined();
    assert_eq!(home, FRAMES, "seed {seed}: frames leaked");
    bench.assert_lawful(seed);
    let statistics = bench.both.statistics();
    Seen {
        losses: statistics.losses,
        returns: statistics.returns,
        delivered: delivered.len(),
        by_engine: bench.ledger.lock().unwrap().by_engine.clone(),
    }
}

#[test]
fn cryptography_alone_is_refused_where_numbers_must_be_kept() {
    let bench = bench(1, 64);
    assert!(
        !bench
            .both
            .capabilities()
            .features
            .contains(Features::CRYPTO)
    );
    let sa = SaParams {
        mode: Mode::Crypto,
        replay_window: 0,
        ..params(0x1000, Direction::Inbound)
    };
    let feature = Features::CRYPTO;
    let refused = Err(InstallError::Unsupported(Unsupported::Feature { feature }));
    assert_eq!(bench.both.install(&sa), refused);
}

#[test]
fn the_laws_hold_over_a_thousand_random_schedules_of_deaths_and_returns() {
    let mut total = Seen::default();
    for seed in 1..=1500 {
        let seen = schedule(seed);
        total.losses += seen.losses;
        total.returns += seen.returns;
        total.delivered += seen.delivered;
        for (engine, count) in seen.by_engine {
            *total.by_engine.entry(engine).or_default() += count;
        }
    }
    // That it saw something at all.
    assert!(total.losses > 3000, "{} losses", total.losses);
    assert!(total.returns > 3000, "{} returns", total.returns);
    assert!(total.delivered > 50_000, "{} delivered", total.delivered);
    assert!(
        total.by_engine.values().all(|count| *count > 50_000),
        "{:?}",
        total.by_engine
    );
}

#[test]
fn the_laws_hold_with_threads_while_the_device_dies_and_returns() {
    let bench = bench(7, 1 << 12);
    let sas: Vec<_> = (0..2)
        .map(|n| {
            let sa = params(0x2000 + n, Direction::Outbound);
            (0x2000 + n, bench.both.install(&sa).unwrap())
        })
        .collect();
    let stop = AtomicBool::new(false);
    let sealed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (bench, sas, stop, sealed) = (&bench, &sas, &stop, &sealed);
            scope.spawn(move || {
                let mut queue = bench.both.open_queue(&QueueConfig { depth: 32 }).unwrap();
                let mut last: HashMap<SaHandle, u64> = HashMap::new();
                let mut random = Random::new(thread + 100);
                let mut ops = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..random.below(8) {
                        let (_, sa) = sas[random.below(2) as usize];
                        ops.extend(bench.op(sa, 0, b"inner packet"));
                    }
                    queue.enqueue(&mut ops).unwrap();
                    queue.kick().unwrap();
                    let mut done = Vec::new();
                    queue.dequeue(&mut done, 32).unwrap();
                    for done in done {
                        if done.status.is_ok() {
                            let (spi, _) = sas.iter().find(|(_, sa)| *sa == done.sa).unwrap();
                            assert_eq!(done.frame[..4], spi.to_be_bytes());
                            let last = last.entry(done.sa).or_default();
                            assert!(*last < done.sequence);
                            *last = done.sequence;
                            sealed.fetch_add(1, Ordering::Relaxed);
                        } else {
                            // A grant is topped up by the other thread, which may come late.
                            let late = done.status == Status::SequenceExhausted;
                            assert!(late || done.status == Status::Aborted, "{:?}", done.status);
                        }
                    }
                }
            });
        }
        let mut random = Random::new(3);
        for _ in 0..600 {
            match random.below(6) {
                0 => bench.device.set_mood(Mood::Gone),
                1 => bench.device.set_mood(Mood::Hung),
                2..4 => drop(bench.both.try_return()),
                _ => {}
            }
            bench.both.tick();
            std::thread::sleep(Duration::from_micros(300));
        }
        stop.store(true, Ordering::Relaxed);
    });
    bench.assert_lawful(0);
    assert!(sealed.load(Ordering::Relaxed) > 5_000);
    assert!(bench.both.statistics().returns > 20);
    let home = bench.pool.available() as u32 + bench.pool.quarantined();
    assert_eq!(home, FRAMES);
}

#[test]
fn software_goes_on_with_the_very_next_burst() {
    let bench = bench(1, 1 << 16);
    let sa = bench
        .both
        .install(&params(0x100, Direction::Outbound))
        .unwrap();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
    let before = bench.send(&mut *queue, sa, 10);
    assert!(before.iter().all(|done| done.status.is_ok()));
    bench.device.set_mood(Mood::Gone);
    let after = bench.send(&mut *queue, sa, 10);
    assert!(after.iter().all(|done| done.status.is_ok()));
    // A new block, never the rest of the device's.
    assert_eq!(after[0].sequence, (1 << 16) + 1);
    let statistics = bench.both.statistics();
    assert_eq!(statistics.losses, 1);
    assert!(statistics.last_fallback_ns > 0);
    // Far above what it takes (microseconds), far below what anybody notices.
    assert!(statistics.last_fallback_ns < 50_000_000);
    let mut events = Vec::new();
    bench.both.poll_events(&mut events);
    assert!(matches!(events[0], Event::DeviceLost { .. }));
    let engine = Engine::Software;
    assert!(events.contains(&Event::Moved { sa, engine }));
}

#[test]
fn a_device_that_opens_a_packet_as_a_number_it_does_not_carry_costs_neither_the_sa_nor_its_window()
{
    for (esn, lie) in [
        (false, u64::MAX),
        (false, 5),
        (false, 1 << 32 | 1),
        (true, u64::MAX),
        (true, 2 << 32 | 1),
        (true, 0),
    ] {
        let bench = bench(5, 1 << 16);
        let sa = SaParams {
            esn,
            ..params(0x100, Direction::Inbound)
        };
        let sa = bench.both.install(&sa).unwrap();
        let mut queue = bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
        let mut pass = |sequence| {
            let mut ops = vec![
                bench
                    .op(sa, 0, &fake::wire_header(0x100, sequence))
                    .unwrap(),
            ];
            queue.enqueue(&mut ops).unwrap();
            let mut done = Vec::new();
            while done.is_empty() {
                queue.kick().unwrap();
                queue.dequeue(&mut done, 1).unwrap();
            }
            done.remove(0).status
        };
        bench.device.opens_as(lie);
        assert_eq!(pass(1), Status::Aborted, "{lie}");
        assert!(bench.both.quarantine().is_some(), "{lie}");
        // Software goes on with the very numbers that come.
        assert_eq!(pass(2), Status::Ok, "{lie}");
        assert_eq!(bench.both.usage(sa).unwrap().sequence, 2);
    }
}

/// Law 1: a number whose use nobody remembers is not sent, and no proof of anything; one that was used is.
#[test]
fn an_old_number_never_leaves_again() {
    let bench = bench(8, 1 << 16);
    let sa = bench.both.install(&params(0x100, Direction::Outbound));
    let sa = sa.unwrap();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
    for _ in 0..100 {
        let done = bench.send(&mut *queue, sa, 50);
        assert!(done.iter().all(|done| done.status == Status::Ok));
    }
    bench.device.seals_as(1);
    assert_eq!(bench.send(&mut *queue, sa, 1)[0].status, Status::Aborted);
    assert!(bench.both.quarantine().is_none());
    bench.device.seals_as(4990);
    assert_eq!(bench.send(&mut *queue, sa, 1)[0].status, Status::Aborted);
    assert!(bench.both.quarantine().is_some());
}

/// A card that is lost and hangs in its reset keeps nobody waiting: SAs are installed in software meanwhile.
#[test]
fn sas_are_installed_while_a_lost_device_is_reset() {
    let bench = bench(9, 1 << 16);
    bench.device.set_mood(Mood::Gone);
    bench.both.tick();
    let (begun, wait) = std::sync::mpsc::channel();
    let (installed, until) = std::sync::mpsc::channel();
    let (told, in_time) = std::sync::mpsc::channel();
    bench.device.while_reset(move || {
        begun.send(()).unwrap();
        let in_time = until.recv_timeout(Duration::from_secs(20)).is_ok();
        told.send(in_time).unwrap();
    });
    let both = bench.both.clone();
    let returning = std::thread::spawn(move || both.try_return());
    wait.recv().unwrap();
    let sa = bench.both.install(&params(0x100, Direction::Outbound));
    sa.unwrap();
    installed.send(()).unwrap();
    let _ = returning.join().unwrap();
    assert!(in_time.recv().unwrap(), "it waited for the reset");
}

#[test]
fn a_queue_that_sleeps_is_woken_by_a_loss_and_its_frames_come_home() {
    let bench = bench(2, 1 << 16);
    let sa = bench
        .both
        .install(&params(0x100, Direction::Outbound))
        .unwrap();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
    bench.device.set_mood(Mood::Hung);
    let mut ops = vec![bench.op(sa, 5, b"stuck").unwrap()];
    queue.enqueue(&mut ops).unwrap();
    queue.kick().unwrap();
    let readable = |fd: BorrowedFd<'_>| {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).unwrap() == 1
    };
    match queue.arm().unwrap() {
        Arm::Ready => panic!("nothing is ready"),
        Arm::Wait(fd) => {
            assert!(!readable(fd.as_fd()));
            bench.both.tick();
            assert!(readable(fd.as_fd()), "the loss wakes it");
        }
    }
    // The frame stays away until the device can't write it any more, then it is home or written off.
    let mut done = Vec::new();
    queue.dequeue(&mut done, 8).unwrap();
    bench.come_back();
    queue.dequeue(&mut done, 8).unwrap();
    assert_eq!((done[0].status, done[0].cookie), (Status::Aborted, 5));
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn limits_hold_over_both_engines() {
    let bench = bench(3, 1 << 16);
    let mut limited = params(0x100, Direction::Outbound);
    limited.lifetimes.hard = Limits {
        packets: Some(100),
        ..Limits::default()
    };
    let sa = bench.both.install(&limited).unwrap();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
    let mut sealed = 0;
    for _ in 0..4 {
        for mood in [Mood::Gone, Mood::Well] {
            let done = bench.send(&mut *queue, sa, 30);
            sealed += done.iter().filter(|done| done.status.is_ok()).count();
            match mood {
                Mood::Gone => bench.device.set_mood(mood),
                _ => bench.come_back(),
            }
        }
    }
    assert_eq!(sealed, 100);
    assert_eq!(bench.both.usage(sa).unwrap().packets, 100);
}

#[test]
fn a_word_from_an_earlier_life_does_not_end_the_present_one() {
    let bench = bench(4, 1 << 16);
    let sa = bench
        .both
        .install(&params(0x100, Direction::Outbound))
        .unwrap();
    let mut idle = bench.both.open_queue(&QueueConfig { depth: 8 }).unwrap();
    bench.device.set_mood(Mood::Gone);
    bench.both.tick();
    bench.come_back();
    // Its device queue is of the life before, and dead.
    let mut done = Vec::new();
    idle.dequeue(&mut done, 8).unwrap();
    idle.kick().unwrap();
    assert!(bench.both.device_up());
    assert_eq!(bench.both.statistics().losses, 1);
    let sent = bench.send(&mut *idle, sa, 4);
    assert!(sent.iter().all(|done| done.status.is_ok()));
    assert_eq!(bench.both.placement(sa).unwrap().engine, Engine::Device);
}

#[test]
fn a_caller_that_counted_before_goes_on_from_there() {
    let bench = bench(5, 100);
    let mut again = params(0x100, Direction::Outbound);
    again.numbering = Numbering::Granted(Some(Grant {
        first: 5000,
        last: 6000,
    }));
    let sa = bench.both.install(&again).unwrap();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 8 }).unwrap();
    assert_eq!(bench.send(&mut *queue, sa, 1)[0].sequence, 5000);
    let refused = bench.both.amend(sa, &Amend::Revoke);
    assert!(matches!(refused, Err(SaError::NotApplicable { .. })));
}

/// B17, RFC 6311 §6.4: whoever carries the SA, every number from then on is higher by as much at least, none
/// comes twice, and at the end there is none.
#[test]
fn numbers_that_are_left_out_are_never_used() {
    let bench = bench(6, 100);
    let mut sa = params(0x100, Direction::Outbound);
    sa.esn = false;
    let sa = bench.both.install(&sa).unwrap();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 8 }).unwrap();
    let mut last = 0;
    for round in 0..6 {
        let sent = bench.send(&mut *queue, sa, 1)[0].sequence;
        assert!(sent > last, "{round}");
        last = sent;
        let count = 1 << (4 * round + 8);
        bench.both.skip(sa, count.try_into().unwrap()).unwrap();
        bench.both.tick();
        let sent = bench.send(&mut *queue, sa, 1)[0].sequence;
        assert!(sent >= last + count, "{round}: {sent} after {last}");
        last = sent;
        match round % 2 {
            0 => bench.device.set_mood(Mood::Gone),
            _ => bench.come_back(),
        }
    }
    let most = u64::from(u32::MAX).try_into().unwrap();
    assert!(matches!(
        bench.both.skip(sa, most),
        Err(SaError::NotApplicable { .. })
    ));
    let inbound = bench
        .both
        .install(&params(0x200, Direction::Inbound))
        .unwrap();
    assert!(bench.both.skip(inbound, most).is_err());
    assert_eq!(
        bench.both.skip(
            SaHandle {
                index: 60,
                generation: 9
            },
            most
        ),
        Err(SaError::Stale)
    );
    bench.assert_lawful(6);
}

#[test]
fn an_sa_that_is_retired_on_its_way_back_does_the_device_no_harm() {
    let bench = bench(8, 1 << 16);
    let sa = bench
        .both
        .install(&params(0x100, Direction::Outbound))
        .unwrap();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 8 }).unwrap();
    bench.device.set_mood(Mood::Gone);
    // On its way in software, so that the SA can't move at once.
    let mut ops = vec![bench.op(sa, 1, b"packet").unwrap()];
    queue.enqueue(&mut ops).unwrap();
    queue.kick().unwrap();
    bench.come_back();
    assert_eq!(
        bench.both.placement(sa).unwrap().engine,
        Engine::Software,
        "it waits"
    );
    bench.both.retire(sa).unwrap();
    let done = dequeue_all(&mut *queue);
    assert!(done[0].status.is_ok());
    bench.both.tick();
    assert!(bench.both.device_up());
    assert_eq!(bench.both.statistics().losses, 1);
    assert!(bench.both.placements().is_empty());
}

#[test]
fn the_end_of_the_sequence_space_refuses_and_is_no_loss_of_the_device() {
    let bench = bench(9, 8);
    let mut ending = params(0x100, Direction::Outbound);
    ending.esn = false;
    let end = u64::from(u32::MAX);
    ending.numbering = Numbering::Granted(Some(Grant {
        first: end - 19,
        last: end,
    }));
    let sa = bench.both.install(&ending).unwrap();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
    assert!(bench.send(&mut *queue, sa, 1)[0].status.is_ok());
    bench.device.set_mood(Mood::Gone);
    let mut last = 0;
    let mut refused = 0;
    for _ in 0..6 {
        for done in bench.send(&mut *queue, sa, 5) {
            match done.status {
                Status::Ok => last = done.sequence,
                Status::SequenceExhausted => refused += 1,
                status => panic!("{status:?}"),
            }
        }
        bench.come_back();
        bench.both.tick();
    }
    assert!(last <= end && refused >= 10, "{last} {refused}");
    assert!(bench.both.device_up());
    assert_eq!(bench.both.statistics().losses, 1);
}

#[test]
fn a_full_cache_refuses_and_leaves_nothing_behind() {
    let bench = bench(6, 100);
    let mut handles = Vec::new();
    for spi in 0..64 {
        handles.push(
            bench
                .both
                .install(&params(0x100 + spi, Direction::Outbound))
                .unwrap(),
        );
    }
    let refused = bench.both.install(&params(0x999, Direction::Outbound));
    assert!(matches!(
        refused,
        Err(InstallError::TableFull { capacity: 64 })
    ));
    let usage = bench.both.retire(handles[3]).unwrap();
    assert_eq!(usage, SaUsage::default());
    assert_eq!(bench.both.retire(handles[3]), Err(SaError::Stale));
    bench
        .both
        .install(&params(0x999, Direction::Outbound))
        .unwrap();
    assert_eq!(bench.cache.capacity(), 64);
}
