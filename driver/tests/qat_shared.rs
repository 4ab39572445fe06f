// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the ring pairs of a C62x function share: one interrupt, and a mailbox to a physical function that
//! may keep silent.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use driver::qat::QatCard;
use driver::{Card, DeviceAddress, open_card};
use offload_api::capability::Features;
use offload_api::device::Accelerator;
use offload_api::error::DeviceError;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Arm, Op, QueueConfig, Status};
use offload_api::sa::{Direction, Grant, KeyMaterial, Numbering, SaParams, Spi, Suite};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sim::RunningCard;
use sim::fault::FaultPlan;
use sim::qat::{Generation, QatConfig};

/// Longer than a machine under load takes to pass an interrupt on.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// A simulated function with a fault, and where its socket lies.
fn start(fault: &str) -> (RunningCard, tempfile::TempDir, DeviceAddress) {
    let dir = tempfile::tempdir().unwrap();
    let rules = fault.split_whitespace().map(|rule| rule.parse().unwrap());
    let config = QatConfig {
        generation: Generation::Gen2,
        faults: FaultPlan::new(rules.collect(), 1),
        ..QatConfig::new(dir.path().join("vf"))
    };
    let running = RunningCard::start_qat(&config).unwrap();
    (running, dir, DeviceAddress::User(config.socket))
}

fn open(address: &DeviceAddress) -> Result<Arc<QatCard>, DeviceError> {
    match open_card(address)? {
        Card::Qat(card) => Ok(card),
        Card::Ipa(_) => panic!("no QAT"),
    }
}

/// Each queue pair has a thread of its own that sleeps for each packet.
fn wake_each_queue(card: &QatCard, packets: u32) {
    assert_eq!(card.capabilities().max_queues, 2);
    assert!(card.capabilities().features.contains(Features::INTERRUPTS));
    let pool = FramePool::new(FramePoolConfig::default()).unwrap();
    card.register_pool(&pool).unwrap();
    std::thread::scope(|scope| {
        for spi in [0x1000, 0x2000] {
            let pool = &pool;
            scope.spawn(move || {
                let mut queue = card.open_queue(&QueueConfig { depth: 64 }).unwrap();
                let suite = Suite::AES_128_GCM;
                let sa = SaParams {
                    numbering: Numbering::Granted(Some(Grant {
                        first: 1,
                        last: 1 << 30,
                    })),
                    ..SaParams::tunnel(
                        Spi::new(spi).unwrap(),
                        Direction::Outbound,
                        suite,
                        KeyMaterial::from_keymat(suite, &[1; 20], &[]).unwrap(),
                    )
                };
                let sa = card.install(&sa).unwrap();
                let (mut waits, mut done) = (0, Vec::new());
                for _ in 0..packets {
                    let mut frame = pool.alloc().unwrap();
                    let mut packet = [0x5a; 60];
                    packet[..20].copy_from_slice(&[
                        0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
                    ]);
                    assert!(frame.fill(&packet));
                    let op = Op::new(sa, frame, 0);
                    assert_eq!(queue.enqueue(&mut vec![op]).unwrap(), 1);
                    queue.kick().unwrap();
                    while queue.dequeue(&mut done, 1).unwrap() == 0 {
                        let Arm::Wait(fd) = queue.arm().unwrap() else {
                            continue;
                        };
                        waits += 1;
                        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
                        let woken = poll(&mut fds, Some(&PATIENCE)).unwrap();
                        assert_eq!(woken, 1, "nothing woke the sleeper of {spi:#x}");
                    }
                }
                assert_eq!(done.len(), packets as usize);
                assert!(done.iter().all(|done| done.status == Status::Ok));
                assert!(waits > 0, "nobody slept");
            });
        }
    });
}

#[test]
fn each_of_two_queues_is_woken_by_the_interrupt_that_they_share() {
    let (_running, _dir, address) = start("");
    wake_each_queue(&open(&address).unwrap(), 500);
}

#[test]
fn a_physical_function_that_answers_is_told_of() {
    let (_running, _dir, address) = start("");
    let card = open(&address).unwrap();
    assert!(card.inspect().unwrap().functions[0].physical_function);
    // The mailbox is free again: who comes next is answered too.
    card.reset().unwrap();
    assert!(card.inspect().unwrap().functions[0].physical_function);
}

#[test]
fn one_that_keeps_silent_is_done_without() {
    let (_running, _dir, address) = start("drop-answer=1/1");
    let card = open(&address).unwrap();
    let report = card.inspect().unwrap();
    assert!(!report.functions[0].physical_function);
    assert!(report.functions[0].interrupts);
    wake_each_queue(&card, 500);
}

#[test]
fn one_that_answers_the_second_time_only_is_told_of_after_a_reset() {
    let (_running, _dir, address) = start("drop-answer=@1");
    let card = open(&address).unwrap();
    assert!(!card.inspect().unwrap().functions[0].physical_function);
    card.reset().unwrap();
    assert!(card.inspect().unwrap().functions[0].physical_function);
}

#[test]
fn one_that_calls_itself_incompatible_is_refused() {
    let (_running, _dir, address) = start("forge-answer-status=1/1");
    let error = open(&address).err().unwrap().to_string();
    assert!(error.contains("the physical function's version"), "{error}");
}
