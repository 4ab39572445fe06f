// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queue pairs: order, a full ring, sleeping consumers, and the way home of every frame.

use std::time::Instant;

use super::Report;
use super::rig::{DEADLINE, Rig, assert_home, check_order, collect, packet};
use crate::capability::Features;
use crate::error::OpenQueueError;
use crate::frame::{FramePool, FramePoolConfig};
use crate::queue::{Done, Explicit, Op, QueueConfig, QueuePair, Status};
use crate::sa::SaHandle;

const DEPTH: u32 = 8;

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    in_order(rig, report);
    full_ring(rig);
    nothing_before_the_kick(rig);
    asynchronous(rig);
    what_came_home_goes_again(rig, report);
    close_brings_all_home(rig, report);
    sizes_and_number(rig);
}

fn open(rig: &Rig) -> Box<dyn QueuePair> {
    let config = QueueConfig { depth: DEPTH };
    rig.engine.open_queue(&config).unwrap()
}

fn ops(rig: &Rig, sa: SaHandle, cookies: std::ops::Range<u64>) -> Vec<Op> {
    cookies
        .map(|cookie| {
            let frame = rig.frame(&packet(false, 17, 30 + cookie as usize));
            Op::new(sa, frame, cookie)
        })
        .collect()
}

/// Several SAs in one burst, with refusals between: numbers and completions of each go up.
fn in_order(rig: &mut Rig, report: &mut Report) {
    let mut sas = Vec::new();
    for _ in 0..3 {
        sas.push(rig.pair());
    }
    let mut rounds = Vec::new();
    for round in 0..60u64 {
        let (seal, _) = sas[round as usize % 3];
        // Big ones between small ones, so that an engine with several workers is tempted.
        let len = if round % 7 == 0 { 1400 } else { 20 };
        let plain = match round % 11 {
            10 => vec![0; 40],
            _ => packet(false, 17, len),
        };
        rounds.push((seal, plain));
    }
    let ops = rounds
        .iter()
        .map(|(sa, plain)| rig.op(*sa, plain))
        .collect();
    // `burst` checks the order of completions.
    let sealed = rig.burst(ops);
    for (seal, _) in &sas {
        let of_one = sealed.iter().filter(|outcome| outcome.sa == *seal);
        let passed = of_one.filter(|outcome| outcome.status.is_ok());
        let numbers: Vec<_> = passed.map(|outcome| outcome.sequence).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "numbers {numbers:?}");
        assert!(numbers.len() >= 16);
    }
    let refused = sealed.iter().filter(|outcome| !outcome.status.is_ok());
    report.refusals += refused.count() as u64;

    let opens = sas.iter().map(|(seal, open)| (*seal, *open));
    let opens: std::collections::HashMap<_, _> = opens.collect();
    let good = sealed.iter().filter(|outcome| outcome.status.is_ok());
    let ops: Vec<_> = good
        .clone()
        .map(|outcome| rig.op(opens[&outcome.sa], &outcome.octets))
        .collect();
    let expected = good.map(|outcome| outcome.sequence);
    for (outcome, sequence) in rig.burst(ops).iter().zip(expected) {
        assert_eq!((outcome.status, outcome.sequence), (Status::Ok, sequence));
    }
    for (seal, open) in sas {
        rig.engine.retire(seal).unwrap();
        rig.engine.retire(open).unwrap();
    }
}

/// A full ring takes what fits and leaves the rest with the caller, in order; nothing is lost.
fn full_ring(rig: &Rig) {
    let (seal, other) = rig.pair();
    let mut queue = open(rig);
    let mut waiting = ops(rig, seal, 0..20);
    let mut done: Vec<Done> = Vec::new();
    let mut enqueued = 0;
    let start = Instant::now();
    while done.len() < 20 {
        assert!(start.elapsed() < DEADLINE);
        let before = waiting.len();
        let took = queue.enqueue(&mut waiting).unwrap();
        assert_eq!(before - waiting.len(), took);
        enqueued += took;
        assert!(queue.in_flight() <= DEPTH as usize);
        assert_eq!(queue.in_flight(), enqueued - done.len());
        let rest = waiting.iter().map(|op| op.cookie);
        assert!(rest.eq(enqueued as u64..20), "the rest stays in order");
        if done.is_empty() && enqueued != 0 {
            assert!(enqueued < 20, "a ring of {DEPTH} took {enqueued}");
            let more = queue.enqueue(&mut waiting).unwrap();
            assert_eq!(more, 0, "the ring was full");
        }
        queue.kick().unwrap();
        let before = done.len();
        let came = queue.dequeue(&mut done, 3).unwrap();
        assert!(came <= 3, "a limit of 3 gave {came}");
        assert_eq!(done.len() - before, came);
    }
    assert!(done.iter().all(|done| done.status.is_ok()));
    check_order(&done);
    drop(done);
    assert!(queue.close().is_empty());
    rig.engine.retire(seal).unwrap();
    rig.engine.retire(other).unwrap();
    assert_home(&rig.pool);
}

/// The doorbell starts the work, not the ring.
fn nothing_before_the_kick(rig: &Rig) {
    let (seal, other) = rig.pair();
    let mut queue = open(rig);
    queue.kick().unwrap();
    assert_eq!(queue.enqueue(&mut ops(rig, seal, 0..2)).unwrap(), 2);
    let mut done = Vec::new();
    assert_eq!(queue.dequeue(&mut done, 8).unwrap(), 0);
    assert_eq!(rig.engine.usage(seal).unwrap().packets, 0);
    assert_eq!(queue.in_flight(), 2);
    queue.kick().unwrap();
    let done = collect(&mut *queue, 2, rig.has(Features::INTERRUPTS));
    assert_eq!(queue.in_flight(), 0);
    drop(done);
    queue.close();
    rig.engine.retire(seal).unwrap();
    rig.engine.retire(other).unwrap();
}

/// Bursts overlap, and a consumer that slept between them misses no completion.
fn asynchronous(rig: &Rig) {
    let (seal, other) = rig.pair();
    let mut queue = open(rig);
    let interrupts = rig.has(Features::INTERRUPTS);
    let (mut sent, mut came) = (0u64, 0u64);
    for round in 0..200u64 {
        let burst = 1 + round % 4;
        let mut burst = ops(rig, seal, sent..sent + burst);
        sent += queue.enqueue(&mut burst).unwrap() as u64;
        assert!(burst.is_empty(), "{} in flight", queue.in_flight());
        queue.kick().unwrap();
        let leave = if round % 2 == 0 { 3 } else { 0 };
        let wanted = (sent - came).saturating_sub(leave);
        for done in collect(&mut *queue, wanted as usize, interrupts) {
            assert_eq!((done.status, done.cookie), (Status::Ok, came));
            came += 1;
            assert_eq!(done.sequence, came);
        }
    }
    let rest = collect(&mut *queue, (sent - came) as usize, interrupts);
    drop(rest);
    assert!(queue.close().is_empty());
    rig.engine.retire(seal).unwrap();
    rig.engine.retire(other).unwrap();
    assert_home(&rig.pool);
}

/// Operations that came home are handed over again, whatever they came home with: sealed, refused, or with a number of
/// the caller's.
fn what_came_home_goes_again(rig: &Rig, report: &mut Report) {
    let (seal, other) = rig.pair();
    let mut queue = open(rig);
    let mut again = Vec::with_capacity(DEPTH as usize);
    again.extend(ops(rig, seal, 0..6));
    let mut done = Vec::with_capacity(DEPTH as usize);
    let (mut sealed, mut last) = (0, 0);
    for round in 0..4 {
        for op in &mut again {
            assert!(op.frame.fill(&packet(false, 17, 30)));
        }
        if round == 1 {
            assert!(again[1].frame.fill(&[0; 40]));
            let (sequence, iv) = (9, [7; 16]);
            again[4].set_explicit(Some(Explicit { sequence, iv }));
        }
        assert_eq!(queue.enqueue(&mut again).unwrap(), 6);
        queue.kick().unwrap();
        let start = Instant::now();
        while done.len() < 6 {
            assert!(start.elapsed() < DEADLINE);
            queue.dequeue(&mut done, DEPTH as usize).unwrap();
        }
        done.sort_by_key(|done: &Done| done.cookie);
        for (n, done) in done.iter().enumerate() {
            assert_eq!((done.cookie, done.explicit()), (n as u64, None));
            let refused = match (round, n) {
                (1, 1) => Some(Status::BadIpHeader),
                (1, 4) => Some(Status::WrongNumbering),
                _ => None,
            };
            assert_eq!(done.status, refused.unwrap_or(Status::Ok));
            assert_eq!(done.frame.is_empty(), refused.is_some());
            report.refusals += u64::from(refused.is_some());
            if refused.is_none() {
                // What is refused may have had a number.
                assert!(done.sequence > last);
                last = done.sequence;
                sealed += 1;
            }
        }
        assert!(again.is_empty());
        std::mem::swap(&mut again, &mut done);
    }
    assert_eq!(rig.engine.usage(seal).unwrap().packets, sealed);
    drop(again);
    assert!(queue.close().is_empty());
    rig.engine.retire(seal).unwrap();
    rig.engine.retire(other).unwrap();
    assert_home(&rig.pool);
}

/// Completed, started and never started: each comes home once, and what was not done is empty.
fn close_brings_all_home(rig: &mut Rig, report: &mut Report) {
    let (seal, other) = rig.pair();
    let mut queue = open(rig);
    let interrupts = rig.has(Features::INTERRUPTS);
    assert_eq!(queue.enqueue(&mut ops(rig, seal, 0..4)).unwrap(), 4);
    queue.kick().unwrap();
    let first = collect(&mut *queue, 1, interrupts);
    assert_eq!(queue.enqueue(&mut ops(rig, seal, 4..7)).unwrap(), 3);
    let home = queue.close();
    let mut cookies: Vec<_> = first.iter().chain(&home).map(|done| done.cookie).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, [0, 1, 2, 3, 4, 5, 6], "each once");
    for done in &home {
        let aborted = done.status == Status::Aborted;
        assert!(
            done.cookie < 4 || aborted,
            "{} was never started",
            done.cookie
        );
        assert!(done.status == Status::Ok || aborted);
        assert_eq!(done.frame.is_empty(), aborted);
        report.refusals += u64::from(aborted);
    }
    drop((first, home));
    assert_home(&rig.pool);

    // The SA is not the queue's: it goes on on another.
    assert_eq!(rig.status(seal, &packet(false, 17, 40)), Status::Ok);
    rig.engine.retire(seal).unwrap();
    rig.engine.retire(other).unwrap();
}

/// Depths that make no ring are refused; where queues are few, all of them can be opened, one more
/// is refused, and a closed one is free again.
fn sizes_and_number(rig: &Rig) {
    let max = rig.engine.capabilities().max_depth;
    for depth in [0, 3, 100, max.saturating_mul(2)] {
        let config = QueueConfig { depth };
        let refused = rig.engine.open_queue(&config).err();
        assert!(
            matches!(refused, Some(OpenQueueError::Depth { found, .. }) if found == depth),
            "depth {depth}: {refused:?}"
        );
    }
    let queues = rig.engine.capabilities().max_queues;
    if queues > 256 {
        return;
    }
    // One is the rig's own.
    let mut opened: Vec<_> = (1..queues).map(|_| open(rig)).collect();
    let config = QueueConfig { depth: DEPTH };
    assert!(matches!(
        rig.engine.open_queue(&config),
        Err(OpenQueueError::NoneFree { max }) if max == queues
    ));
    if let Some(queue) = opened.pop() {
        queue.close();
        opened.push(open(rig));
    }
    for queue in opened {
        queue.close();
    }
    // A pool that no queue has seen before can still be registered.
    let pool = FramePool::new(FramePoolConfig::default()).unwrap();
    rig.engine.register_pool(&pool).unwrap();
}
