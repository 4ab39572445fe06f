// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver on a simulated card, over a real socket.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use driver::DeviceAddress;
use offload_api::conformance::inner_packet;
use offload_api::device::{Accelerator, Health};
use offload_api::error::{InstallError, SaError};
use offload_api::event::Event;
use offload_api::frame::{Frame, FramePool, FramePoolConfig};
use offload_api::queue::{Arm, Done, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sim::fault::FaultPlan;
use sim::{CardConfig, RunningCard};

/// A card that is lost is given up by then; under a sanitizer the driver's deadlines are as many times longer.
const LONGEST: Duration = Duration::from_secs(if cfg!(sanitized) { 60 } else { 3 });

struct Rig {
    card: Arc<driver::ipa::IpaCard>,
    pool: FramePool,
    simulated: Option<RunningCard>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(faults: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = CardConfig::new(dir.path().join("card.sock"));
        let rates = faults.iter().map(|fault| fault.parse().unwrap()).collect();
        config.faults = FaultPlan::new(rates, 42);
        config.max_sas = 16;
        config.queues = 4;
        let simulated = Some(RunningCard::start(&config).unwrap());
        let card = driver::open(&DeviceAddress::User(config.socket)).unwrap();
        let pool = FramePool::new(FramePoolConfig {
            slots: 256,
            ..Default::default()
        })
        .unwrap();
        card.register_pool(&pool).unwrap();
        Self {
            card,
            pool,
            simulated,
            _dir: dir,
        }
    }

    fn frame(&self, octets: &[u8]) -> Frame {
        let mut frame = self.pool.alloc().unwrap();
        assert!(frame.fill(octets));
        frame
    }

    fn end_card(&mut self) {
        self.simulated.take().unwrap().stop().unwrap();
    }
}

fn params(direction: Direction) -> SaParams {
    SaParams {
        esn: false,
        replay_window: if direction == Direction::Inbound {
            128
        } else {
            0
        },
        numbering: Numbering::Granted((direction == Direction::Outbound).then_some(Grant {
            first: 1,
            last: 1000,
        })),
        ..SaParams::tunnel(
            Spi::new(0x1234_5678).unwrap(),
            direction,
            Suite::AES_256_GCM,
            KeyMaterial::from_keymat(Suite::AES_256_GCM, &[9; 36], &[]).unwrap(),
        )
    }
}

fn inner(len: usize) -> Vec<u8> {
    inner_packet(len, 0x5a)
}

/// Waits for so many completions, sleeping as a consumer does.
fn collect(queue: &mut dyn QueuePair, count: usize) -> Vec<Done> {
    let mut done = Vec::new();
    let start = Instant::now();
    while done.len() < count && start.elapsed() < Duration::from_secs(5) {
        if queue.dequeue(&mut done, count).unwrap() == 0
            && let Arm::Wait(fd) = queue.arm().unwrap()
        {
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            };
            let _ = poll(
                &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
                Some(&timeout),
            );
        }
    }
    done
}

fn run(queue: &mut dyn QueuePair, ops: Vec<Op>) -> Vec<Done> {
    let count = ops.len();
    let mut ops = ops;
    assert_eq!(queue.enqueue(&mut ops).unwrap(), count);
    queue.kick().unwrap();
    collect(queue, count)
}

#[test]
fn packets_are_sealed_and_opened_by_the_card() {
    let rig = Rig::new(&[]);
    let seal = rig.card.install(&params(Direction::Outbound)).unwrap();
    let open = rig.card.install(&params(Direction::Inbound)).unwrap();
    let mut queue = rig.card.open_queue(&QueueConfig { depth: 64 }).unwrap();
    let packets: Vec<Vec<u8>> = (0..50).map(|n| inner(n * 25)).collect();
    let op = |sa, octets: &[u8], cookie| Op::new(sa, rig.frame(octets), cookie);
    let ops = packets
        .iter()
        .zip(0..)
        .map(|(p, n)| op(seal, p, n))
        .collect();
    let sealed = run(&mut *queue, ops);
    assert_eq!(sealed.len(), 50);
    for (done, n) in sealed.iter().zip(0u64..) {
        assert_eq!(
            (done.status, done.cookie, done.sequence),
            (Status::Ok, n, n + 1)
        );
    }
    let wire: Vec<Vec<u8>> = sealed.into_iter().map(|done| done.frame.to_vec()).collect();
    let ops = wire.iter().zip(0..).map(|(p, n)| op(open, p, n)).collect();
    for (done, packet) in run(&mut *queue, ops).iter().zip(&packets) {
        assert_eq!(done.status, Status::Ok);
        assert_eq!(done.next_header, 4);
        assert_eq!(&done.frame[..], &packet[..]);
    }
    let replayed = run(&mut *queue, vec![op(open, &wire[49], 0)]);
    assert_eq!(replayed[0].status, Status::Replayed);
    assert!(replayed[0].frame.is_empty());
    let counters = rig.card.counters();
    assert_eq!(
        (
            counters.sealed,
            counters.opened,
            counters.errors,
            counters.sas
        ),
        (50, 50, 1, 2)
    );
    let usage = rig.card.usage(seal).unwrap();
    assert_eq!((usage.packets, usage.sequence), (50, 50));
    assert_eq!(rig.card.retire(open).unwrap().replayed, 1);
    let stale = run(&mut *queue, vec![op(open, &wire[0], 0)]);
    assert_eq!(stale[0].status, Status::SaStale);
    assert!(matches!(rig.card.usage(open), Err(SaError::Stale)));
    drop((replayed, stale));
    queue.close();
    assert_eq!(rig.pool.available(), 256);
}

#[test]
fn the_card_stops_at_its_grant_and_goes_on_with_the_next() {
    let rig = Rig::new(&[]);
    let mut sa = params(Direction::Outbound);
    sa.numbering = Numbering::Granted(Some(Grant { first: 1, last: 8 }));
    let seal = rig.card.install(&sa).unwrap();
    let mut queue = rig.card.open_queue(&QueueConfig { depth: 16 }).unwrap();
    let ops = || {
        (0..10)
            .map(|n| Op::new(seal, rig.frame(&inner(9)), n))
            .collect()
    };
    let statuses: Vec<Status> = run(&mut *queue, ops())
        .iter()
        .map(|done| done.status)
        .collect();
    assert_eq!(statuses[..8], [Status::Ok; 8]);
    assert_eq!(statuses[8..], [Status::SequenceExhausted; 2]);
    let mut events = Vec::new();
    rig.card.poll_events(&mut events);
    assert_eq!(
        events,
        [Event::GrantLow {
            sa: seal,
            remaining: 2
        }]
    );
    let behind = rig
        .card
        .amend(seal, &Amend::Grant(Grant { first: 8, last: 20 }));
    assert_eq!(
        behind,
        Err(SaError::GrantBehind {
            expected: 9,
            found: 8
        })
    );
    rig.card
        .amend(
            seal,
            &Amend::Grant(Grant {
                first: 9,
                last: 100,
            }),
        )
        .unwrap();
    let sequences: Vec<u64> = run(&mut *queue, ops())
        .iter()
        .map(|done| done.sequence)
        .collect();
    assert_eq!(sequences, (9..19).collect::<Vec<u64>>());
    rig.card.amend(seal, &Amend::Revoke).unwrap();
    assert!(
        run(&mut *queue, ops())
            .iter()
            .all(|done| done.status == Status::SequenceExhausted)
    );
}

#[test]
fn a_full_table_and_a_full_ring_are_told() {
    let rig = Rig::new(&[]);
    for _ in 0..16 {
        rig.card.install(&params(Direction::Inbound)).unwrap();
    }
    let refused = rig.card.install(&params(Direction::Inbound));
    assert_eq!(refused, Err(InstallError::TableFull { capacity: 16 }));
    let sa = SaHandle {
        index: 0,
        generation: 1 << 16 | 1,
    };
    let mut queue = rig.card.open_queue(&QueueConfig { depth: 4 }).unwrap();
    let mut ops: Vec<Op> = (0..6)
        .map(|n| Op::new(sa, rig.frame(&inner(1)), n))
        .collect();
    assert_eq!(queue.enqueue(&mut ops).unwrap(), 4);
    assert_eq!(ops.iter().map(|op| op.cookie).collect::<Vec<_>>(), [4, 5]);
    let queues: Vec<_> = (0..3)
        .map(|_| rig.card.open_queue(&QueueConfig { depth: 4 }).unwrap())
        .collect();
    assert!(rig.card.open_queue(&QueueConfig { depth: 4 }).is_err());
    drop(queues);
}

#[test]
fn a_card_that_ends_is_noticed_by_a_sleeper_and_comes_back() {
    let mut rig = Rig::new(&[]);
    let seal = rig.card.install(&params(Direction::Outbound)).unwrap();
    let mut queue = rig.card.open_queue(&QueueConfig { depth: 16 }).unwrap();
    let op = |sa| Op::new(sa, rig.frame(&inner(9)), 1);
    assert_eq!(run(&mut *queue, vec![op(seal)])[0].status, Status::Ok);
    let Arm::Wait(fd) = queue.arm().unwrap() else {
        panic!("nothing is pending")
    };
    let fd = fd.try_clone_to_owned().unwrap();
    let op = op(seal);
    rig.end_card();
    let timeout = Timespec {
        tv_sec: 2,
        tv_nsec: 0,
    };
    assert_eq!(
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap(),
        1
    );
    assert!(matches!(rig.card.health(), Health::Lost { .. }));
    assert!(queue.enqueue(&mut vec![op]).is_err());
    assert!(rig.card.install(&params(Direction::Inbound)).is_err());
    assert!(rig.card.reset().is_err(), "nobody listens");

    let config = CardConfig::new(rig._dir.path().join("card.sock"));
    let mut config = CardConfig {
        max_sas: 16,
        queues: 4,
        ..config
    };
    config.faults = FaultPlan::default();
    rig.simulated = Some(RunningCard::start(&config).unwrap());
    rig.card.reset().unwrap();
    rig.card.register_pool(&rig.pool).unwrap();
    assert_eq!(rig.card.health(), Health::Ok);
    // The old life's handle is stale, even where the card uses the same slot again.
    let again = rig.card.install(&params(Direction::Outbound)).unwrap();
    assert_eq!(again.index, seal.index);
    assert!(matches!(rig.card.usage(seal), Err(SaError::Stale)));
    assert!(
        queue.enqueue(&mut Vec::new()).is_err(),
        "a queue dies with its life"
    );
    drop(queue.close());
    let mut queue = rig.card.open_queue(&QueueConfig { depth: 16 }).unwrap();
    let op = Op::new(again, rig.frame(&inner(9)), 1);
    assert_eq!(run(&mut *queue, vec![op])[0].status, Status::Ok);
}

#[test]
fn forged_and_lost_completions_harm_nobody() {
    for fault in [
        "forge-slot=1/3",
        "forge-length=1/3",
        "forge-status=1/3",
        "duplicate-completion=1/3",
        "lose-interrupt=1/2",
    ] {
        let rig = Rig::new(&[fault]);
        let seal = rig.card.install(&params(Direction::Outbound)).unwrap();
        let mut queue = rig.card.open_queue(&QueueConfig { depth: 64 }).unwrap();
        let (mut ok, mut home) = (0, 0);
        for _ in 0..8 {
            let ops = (0..4)
                .map(|n| Op::new(seal, rig.frame(&inner(40)), n))
                .collect();
            let mut ops: Vec<Op> = ops;
            if queue.enqueue(&mut ops).is_err() {
                break;
            }
            let _ = queue.kick();
            let start = Instant::now();
            let mut done = Vec::new();
            while done.len() < 4 && start.elapsed() < Duration::from_millis(400) {
                if queue.dequeue(&mut done, 64).is_err() {
                    break;
                }
            }
            for done in &done {
                assert!(
                    done.status.is_ok() || done.status == Status::Aborted,
                    "{fault}"
                );
                assert!(!done.status.is_ok() || done.frame.len() > 60);
            }
            ok += done.iter().filter(|done| done.status.is_ok()).count();
            home += done.len();
        }
        assert!(ok > 0 && home >= ok, "{fault}: {ok} of {home}");
        if !fault.starts_with("lose") {
            assert!(rig.card.counters().bogus_completions > 0, "{fault}");
        }
        queue.close();
        assert_eq!(
            rig.pool.available() + rig.pool.quarantined() as usize,
            256,
            "{fault}"
        );
        assert_eq!(
            rig.pool.quarantined(),
            0,
            "{fault}: the card confirmed that it let go"
        );
    }
}

#[test]
fn a_card_that_stalls_is_given_up_within_its_deadline() {
    is_given_up("stall=@2", Duration::ZERO);
}

#[test]
fn a_card_that_stalls_while_its_caller_sleeps_is_given_up_too() {
    // Longer than the watchdog stays awake for nothing.
    is_given_up("stall=@2", Duration::from_millis(1500));
}

/// A card completes some of what it was told; its caller looks for that after a while.
fn is_given_up(stall: &str, after: Duration) {
    let rig = Rig::new(&[stall]);
    let seal = rig.card.install(&params(Direction::Outbound)).unwrap();
    let mut queue = rig.card.open_queue(&QueueConfig { depth: 256 }).unwrap();
    let mut ops: Vec<Op> = (0..200)
        .map(|n| Op::new(seal, rig.frame(&inner(40)), n))
        .collect();
    queue.enqueue(&mut ops).unwrap();
    queue.kick().unwrap();
    std::thread::sleep(after);
    let start = Instant::now();
    let mut done = Vec::new();
    while done.len() < 200 && start.elapsed() < LONGEST {
        let _ = queue.dequeue(&mut done, 256);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(done.len(), 200);
    assert!(done.iter().any(|done| done.status == Status::Aborted));
    assert!(start.elapsed() < LONGEST / 3, "{:?}", start.elapsed());
    // A live card lets itself be opened again.
    rig.card.reset().unwrap();
    assert_eq!(rig.card.health(), Health::Ok);
}

#[test]
fn a_card_that_seals_nothing_is_refused_unless_it_is_asked_for() {
    // It polls, and so does the driver: where there is one processor for both each waits for the other.
    driver::patience::stretch(50);
    let dir = tempfile::tempdir().unwrap();
    let mut config = CardConfig::new(dir.path().join("card"));
    config.null_crypto = true;
    config.polls = true;
    let running = RunningCard::start(&config).unwrap();
    let address = DeviceAddress::User(config.socket.clone());
    let refused = driver::open(&address).err().unwrap().to_string();
    assert!(refused.contains("seals nothing"), "{refused}");
    let card = driver::open_null_crypto(&address).unwrap();
    let pool = FramePool::new(FramePoolConfig::default()).unwrap();
    card.register_pool(&pool).unwrap();
    let sa = card.install(&params(Direction::Outbound)).unwrap();
    let mut queue = card.open_queue(&QueueConfig { depth: 4 }).unwrap();
    let packet = inner(44);
    for number in 1..20 {
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(&packet));
        let op = Op::new(sa, frame, 0);
        let done = run(&mut *queue, vec![op]).pop().unwrap();
        assert_eq!((done.status, done.sequence), (Status::Ok, number));
        assert_eq!(done.frame[..], packet[..]);
    }
    running.stop().unwrap();
}

#[test]
fn a_card_whose_registers_vanish_takes_its_counters_with_it_as_they_were_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = CardConfig::new(dir.path().join("card"));
    config.faults = FaultPlan::new(vec!["vanish-registers=@2".parse().unwrap()], 1);
    let running = RunningCard::start(&config).unwrap();
    let card = driver::open(&DeviceAddress::User(config.socket.clone())).unwrap();
    let pool = FramePool::new(FramePoolConfig::default()).unwrap();
    card.register_pool(&pool).unwrap();
    let sa = card.install(&params(Direction::Outbound)).unwrap();
    let mut queue = card.open_queue(&QueueConfig { depth: 8 }).unwrap();
    let op = || {
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(&inner(44)));
        Op::new(sa, frame, 0)
    };
    run(&mut *queue, vec![op(), op()]);
    assert_eq!(card.counters().sealed, 2);
    queue.enqueue(&mut vec![op()]).unwrap();
    queue.kick().unwrap();
    // It is gone long before anybody notices.
    for _ in 0..100 {
        assert_eq!(card.counters().sealed, 2);
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(queue);
    card.reset().unwrap();
    assert_eq!(card.counters().sealed, 2);
    running.stop().unwrap();
}

#[test]
fn many_sas_are_installed_at_once_and_the_bad_ones_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = CardConfig::new(dir.path().join("card"));
    config.max_sas = 150;
    let running = RunningCard::start(&config).unwrap();
    let card = driver::open(&DeviceAddress::User(config.socket.clone())).unwrap();
    let good = params(Direction::Outbound);
    let mut bad = params(Direction::Outbound);
    bad.numbering = Numbering::Granted(Some(Grant { first: 5, last: 4 }));
    // More than one command takes, with bad ones between, and more than there is room for.
    let all: Vec<(&SaParams, u64)> = (0..180)
        .map(|n| (if n % 9 == 4 { &bad } else { &good }, n))
        .collect();
    let told = card.install_many(&all);
    assert_eq!(told.len(), 180);
    let mut indexes = std::collections::HashSet::new();
    for (n, told) in told.iter().enumerate() {
        match told {
            Ok(sa) => {
                assert!(n % 9 != 4);
                assert!(indexes.insert(sa.index), "an index twice");
                assert_eq!(card.usage(*sa).unwrap().packets, 0);
            }
            Err(InstallError::Invalid(_)) => assert_eq!(n % 9, 4),
            Err(InstallError::TableFull { capacity }) => {
                assert_eq!((*capacity, indexes.len()), (150, 150));
            }
            Err(error) => panic!("{n}: {error}"),
        }
    }
    assert_eq!((indexes.len(), card.counters().sas), (150, 150));
    assert!(card.install_many(&[]).is_empty());
    running.stop().unwrap();
    let lost = card.install_many(&[(&good, 0), (&bad, 1)]);
    assert!(matches!(lost[0], Err(InstallError::Device(_))));
    assert!(matches!(lost[1], Err(InstallError::Invalid(_))));
}
