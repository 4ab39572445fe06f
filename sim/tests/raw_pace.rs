// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card at a pace, in virtual time: what it shows by when, to the nanosecond, whatever the
//! machine is doing.
#![allow(clippy::unwrap_used)]

mod raw;

use std::time::Duration;

use fpga_regs::admin::{CommandStatus, Opcode};
use fpga_regs::context::FLAG_OUTBOUND;
use fpga_regs::descriptor::{Completion, Submission};
use fpga_regs::registers::{Control, control, doorbell};
use offload_api::queue::Status;
use sim::fault::FaultPlan;
use sim::pace::{Pace, VirtualClock};
use zerocopy::IntoBytes;

use raw::*;

/// Octets of a packet here: at 1 Gbit/s one passes in 8 µs.
const PACKET: usize = 1000;
const EACH: Duration = Duration::from_micros(8);

fn rig(rate: Option<&str>, latency: Duration, faults: &[&str]) -> (Rig, VirtualClock) {
    let clock = VirtualClock::default();
    let rig = Rig::with(|config| {
        config.pace = Pace {
            rate: rate.map(|rate| rate.parse().unwrap()),
            latency,
        };
        config.clock = Some(clock.clone());
        let rules = faults.iter().map(|fault| fault.parse().unwrap()).collect();
        config.faults = FaultPlan::new(rules, 7);
    });
    (rig, clock)
}

/// A queue pair in a part of the memory that the admin queue does not use.
struct Queue {
    number: u32,
    tail: u32,
    taken: u32,
}

impl Queue {
    fn new(raw: &mut Raw, number: u32, priority: u32) -> Self {
        let at = Self::base(number);
        let mut create = command(Opcode::CreateQueue, number);
        create.arguments[0] = (IOVA + at).into();
        create.arguments[1] = (IOVA + at + 0x2000).into();
        create.arguments[2] = DEPTH.into();
        create.arguments[3] = u64::from(priority).into();
        assert_eq!(raw.command(create).status, CommandStatus::Ok as u8);
        Self {
            number,
            tail: 0,
            taken: 0,
        }
    }

    fn base(number: u32) -> u64 {
        SUBMISSIONS + 0x4_0000 * u64::from(number)
    }

    /// Keeps so many packets in flight.
    fn fill(&mut self, raw: &Raw, sa: (u32, u32), in_flight: u32) {
        while self.tail - self.taken < in_flight {
            let slot = u64::from(self.tail) % DEPTH;
            let buffer = Self::base(self.number) + 0x4000 + slot * u64::from(ROOM);
            raw.poke(buffer + 128, &inner(PACKET - 20));
            let work = submission(sa, buffer, 128, PACKET);
            let at = Self::base(self.number) + slot * size_of::<Submission>() as u64;
            raw.poke(at, work.as_bytes());
            self.tail += 1;
        }
        raw.ring(self.number.into(), doorbell::TAIL, self.tail);
    }

    /// Takes what has come; how many.
    fn take(&mut self, raw: &Raw) -> u32 {
        let mut taken = 0;
        while let Some(done) = self.next(raw) {
            assert_eq!(done.status, Status::Ok as u8);
            taken += 1;
        }
        taken
    }

    /// Takes the next completion, where it has come.
    fn next(&mut self, raw: &Raw) -> Option<Completion> {
        let slot = u64::from(self.taken) % DEPTH;
        let at = Self::base(self.number) + 0x2000 + slot * size_of::<Completion>() as u64;
        let done: Completion = raw.peek(at);
        let odd = (u64::from(self.taken) / DEPTH) % 2;
        let is_new = u64::from(done.phase) != odd && done.position.get() == self.taken as u16;
        self.taken += u32::from(is_new);
        is_new.then_some(done)
    }
}

#[test]
fn a_completion_is_seen_at_its_latency_and_not_a_nanosecond_before() {
    let latency = Duration::from_micros(2);
    let (rig, clock) = rig(None, latency, &[]);
    let mut raw = Raw::enabled(&rig);
    let sa = raw.add(&sa(FLAG_OUTBOUND, 1_000_000));
    let mut queue = Queue::new(&mut raw, 0, 0);
    for round in 0..100 {
        queue.fill(&raw, sa, 1 + round % 5);
        clock.advance(latency - Duration::from_nanos(1));
        assert_eq!(queue.take(&raw), 0, "round {round}");
        clock.advance(Duration::from_nanos(1));
        assert_eq!(queue.take(&raw), 1 + round % 5, "round {round}");
    }
    rig.end();
}

#[test]
fn a_rate_and_a_latency_add_up() {
    let latency = Duration::from_micros(50);
    let (rig, clock) = rig(Some("1G"), latency, &[]);
    let mut raw = Raw::enabled(&rig);
    let sa = raw.add(&sa(FLAG_OUTBOUND, 1_000_000));
    let mut queue = Queue::new(&mut raw, 0, 0);
    queue.fill(&raw, sa, 10);
    clock.advance(latency);
    for packet in 0..10 {
        clock.advance(EACH - Duration::from_nanos(1));
        assert_eq!(queue.take(&raw), 0, "{packet}");
        clock.advance(Duration::from_nanos(1));
        assert_eq!(queue.take(&raw), 1, "{packet}");
    }
    rig.end();
}

#[test]
fn queues_that_are_all_busy_share_a_rate_by_priority() {
    for (priorities, shares) in [([0, 0], [1, 1]), ([0, 1], [1, 2]), ([3, 0], [8, 1])] {
        let (rig, clock) = rig(Some("1G"), Duration::ZERO, &[]);
        let mut raw = Raw::enabled(&rig);
        let sa = raw.add(&sa(FLAG_OUTBOUND, 1_000_000));
        let mut number = 0;
        let mut queues = priorities.map(|priority| {
            number += 1;
            Queue::new(&mut raw, number - 1, priority)
        });
        let mut taken = [0; 2];
        for _ in 0..200 {
            for (queue, taken) in queues.iter_mut().zip(&mut taken) {
                queue.fill(&raw, sa, 48);
                *taken += queue.take(&raw);
            }
            clock.advance(EACH * 9);
        }
        for (queue, taken) in queues.iter_mut().zip(&mut taken) {
            *taken += queue.take(&raw);
        }
        let [first, second] = taken;
        // 200 times nine packets' time, to the packet.
        assert_eq!(first + second, 1800, "{priorities:?}");
        let off = (first * shares[1]).abs_diff(second * shares[0]);
        assert!(off <= 16, "{priorities:?}: {first} and {second}");
        rig.end();
    }
}

#[test]
fn a_queue_alone_has_the_whole_rate_whatever_its_priority() {
    let (rig, clock) = rig(Some("1G"), Duration::ZERO, &[]);
    let mut raw = Raw::enabled(&rig);
    let sa = raw.add(&sa(FLAG_OUTBOUND, 1_000_000));
    let _idle = Queue::new(&mut raw, 0, 3);
    let mut busy = Queue::new(&mut raw, 1, 0);
    let mut taken = 0;
    for _ in 0..100 {
        busy.fill(&raw, sa, 48);
        clock.advance(EACH * 9);
        taken += busy.take(&raw);
    }
    assert_eq!(taken, 900);
    rig.end();
}

#[test]
fn a_reset_forgets_what_was_held_and_a_deleted_queue_writes_no_more() {
    let latency = Duration::from_micros(10);
    let (rig, clock) = rig(None, latency, &[]);
    let mut raw = Raw::enabled(&rig);
    let context = sa(FLAG_OUTBOUND, 1_000_000);
    let sa = raw.add(&context);
    let mut queue = Queue::new(&mut raw, 0, 0);
    queue.fill(&raw, sa, 8);
    clock.settle();
    let delete = command(Opcode::DeleteQueue, 0);
    assert_eq!(raw.command(delete).status, CommandStatus::Ok as u8);
    clock.advance(latency);
    assert_eq!(queue.take(&raw), 0);
    let mut queue = Queue::new(&mut raw, 0, 0);
    queue.fill(&raw, sa, 8);
    clock.settle();
    raw.register(control::CONTROL, Control::RESET.bits());
    clock.advance(latency);
    assert_eq!(queue.take(&raw), 0);
    rig.end();
}

/// What each of some busy queues of different priorities gets from a card with these faults.
fn log(seed: u64) -> Vec<Vec<(u32, u8, u64)>> {
    let clock = VirtualClock::default();
    let rig = Rig::with(|config| {
        config.queues = 3;
        config.pace.rate = Some("1G".parse().unwrap());
        config.clock = Some(clock.clone());
        let rules = [
            "drop-completion=1/9",
            "forge-status=1/7",
            "forge-sequence=1/5",
        ];
        let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        config.faults = FaultPlan::new(rules, seed);
    });
    let mut raw = Raw::enabled(&rig);
    let sa = raw.add(&sa(FLAG_OUTBOUND, 1_000_000));
    let mut queues = [0, 2, 1].map(|priority| Queue::new(&mut raw, priority, priority));
    let mut logs = vec![Vec::new(); queues.len()];
    // What comes meanwhile waits for the one packet that is on the line: who comes first is settled.
    for _ in 0..20 {
        for (queue, log) in queues.iter_mut().zip(&mut logs) {
            while let Some(done) = queue.next(&raw) {
                log.push((queue.taken, done.status, done.sequence.get()));
            }
            queue.fill(&raw, sa, 48);
            clock.settle();
        }
        clock.advance(EACH * 9);
    }
    rig.end();
    logs
}

#[test]
fn the_same_seed_and_operations_meet_the_same_faults_in_several_queues() {
    let first = log(7);
    let forged = first
        .iter()
        .flatten()
        .filter(|(_, status, _)| *status == 0xee);
    assert!(forged.count() > 5);
    assert!(first.iter().all(|log| log.len() > 10));
    assert_eq!(first, log(7));
    assert_ne!(first, log(8), "another seed, other faults");
}

#[test]
fn faults_strike_a_card_at_a_pace_as_any_other() {
    let latency = Duration::from_micros(10);
    let (rig, clock) = rig(
        Some("1G"),
        latency,
        &["drop-completion=@3", "duplicate-completion=@5"],
    );
    let mut raw = Raw::enabled(&rig);
    let sa = raw.add(&sa(FLAG_OUTBOUND, 1_000_000));
    let mut queue = Queue::new(&mut raw, 0, 0);
    queue.fill(&raw, sa, 5);
    // The lost one has been through the engine all the same.
    clock.advance(latency + EACH * 5 - Duration::from_nanos(1));
    assert_eq!(queue.take(&raw), 3);
    clock.advance(Duration::from_nanos(1));
    // A lost completion was no chance of being doubled.
    assert_eq!(queue.take(&raw), 1);
    queue.fill(&raw, sa, 2);
    clock.advance(latency + EACH);
    assert_eq!(queue.take(&raw), 2, "one of them twice");
    rig.end();
}
