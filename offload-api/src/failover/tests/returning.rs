// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A device that returns gets its SAs back with few commands, whatever happens to them meanwhile.

use super::*;
use crate::wrap::{Captured, Counted, Faulty, FaultyPlan, PacketSink, Seen, Traced};
use fake::Commands;

/// More than the device is given at once.
const SAS: u32 = 64;

#[test]
fn sas_that_rest_return_with_one_command_for_many() {
    let bench = bench(11, 1 << 16);
    let sas: Vec<_> = (0..SAS)
        .map(|n| {
            let direction = match n % 2 {
                0 => Direction::Outbound,
                _ => Direction::Inbound,
            };
            bench.both.install(&params(0x100 + n, direction)).unwrap()
        })
        .collect();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
    for mood in [Mood::Gone, Mood::Hung] {
        let before = bench.send(&mut *queue, sas[0], 20);
        bench.device.set_mood(mood);
        bench.both.tick();
        let between = bench.send(&mut *queue, sas[0], 20);
        let commands = bench.device.commands();
        bench.come_back();
        let after = bench.device.commands();
        let took = Commands {
            installs: after.installs - commands.installs,
            amends: after.amends - commands.amends,
        };
        let expected = Commands {
            installs: 1,
            amends: 0,
        };
        assert_eq!(took, expected);
        for (_, placement) in bench.both.placements() {
            assert_eq!(placement.engine, Engine::Device);
        }
        let after = bench.send(&mut *queue, sas[0], 20);
        let all = before.iter().chain(&between).chain(&after);
        assert!(all.clone().all(|done| done.status.is_ok()));
        assert!(all.is_sorted_by(|a, b| a.sequence < b.sequence));
    }
    bench.assert_lawful(11);
}

#[test]
fn an_sa_that_changes_on_its_way_into_the_device_enters_it_as_changed() {
    let bench = bench(12, 1 << 16);
    let sa = bench
        .both
        .install(&params(0x100, Direction::Outbound))
        .unwrap();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
    bench.device.set_mood(Mood::Gone);
    bench.send(&mut *queue, sa, 3);
    let both = bench.both.clone();
    bench.device.meanwhile(move || {
        let mut lifetimes = crate::sa::Lifetimes::default();
        lifetimes.hard.packets = Some(10);
        both.amend(sa, &Amend::Lifetimes(lifetimes)).unwrap();
    });
    bench.come_back();
    bench.both.tick();
    bench.both.tick();
    assert_eq!(bench.both.placement(sa).unwrap().engine, Engine::Device);
    assert_eq!(bench.device.carried(0, 64).unwrap().len(), 1);
    let done = bench.send(&mut *queue, sa, 20);
    assert_eq!(done.iter().filter(|done| done.status.is_ok()).count(), 7);
    bench.both.retire(sa).unwrap();
    assert!(bench.device.carried(0, 64).unwrap().is_empty());
}

#[test]
fn an_sa_that_is_retired_on_its_way_into_the_device_leaves_nothing_there() {
    let bench = bench(13, 1 << 16);
    let [gone, stays] = [0x100, 0x101].map(|spi| {
        let sa = params(spi, Direction::Outbound);
        bench.both.install(&sa).unwrap()
    });
    bench.device.set_mood(Mood::Gone);
    bench.both.tick();
    let both = bench.both.clone();
    bench
        .device
        .meanwhile(move || assert!(both.retire(gone).is_ok()));
    bench.come_back();
    let carried = bench.device.carried(0, 64).unwrap();
    assert_eq!(carried.len(), 1);
    assert_eq!(bench.both.placement(stays).unwrap().engine, Engine::Device);
    assert_eq!(bench.both.reconcile().unwrap(), Reconciled::default());
    assert!(bench.both.device_up());
}

#[test]
fn a_device_that_is_lost_on_the_way_gets_its_sas_the_next_time() {
    let bench = bench(14, 1 << 16);
    let sas: Vec<_> = (0..SAS)
        .map(|n| {
            let sa = params(0x100 + n, Direction::Outbound);
            bench.both.install(&sa).unwrap()
        })
        .collect();
    bench.device.set_mood(Mood::Gone);
    bench.both.tick();
    let device = bench.device.clone();
    let both = bench.both.clone();
    bench.device.meanwhile(move || {
        device.set_mood(Mood::Gone);
        both.tick();
    });
    bench.come_back();
    bench.both.tick();
    bench.come_back();
    for sa in sas {
        assert_eq!(bench.both.placement(sa).unwrap().engine, Engine::Device);
    }
    assert_eq!(bench.device.carried(0, 100).unwrap().len(), SAS as usize);
}

#[test]
fn an_sa_without_numbers_left_is_given_to_the_device_once() {
    let bench = bench(15, 8);
    let mut ending = params(0x100, Direction::Outbound);
    ending.esn = false;
    let end = u64::from(u32::MAX);
    ending.numbering = Numbering::Granted(Some(Grant {
        first: end - 9,
        last: end,
    }));
    let sa = bench.both.install(&ending).unwrap();
    bench.device.set_mood(Mood::Gone);
    bench.both.tick();
    bench.come_back();
    for _ in 0..5 {
        bench.both.tick();
    }
    assert_eq!(bench.both.placement(sa).unwrap().engine, Engine::Software);
    assert_eq!(bench.device.carried(0, 64).unwrap().len(), 1);
}

struct Nobody;

impl PacketSink for Nobody {
    fn packet(&mut self, _: &Seen<'_>) {}
}

#[test]
fn wrappers_pass_on_the_names_of_sas_and_many_at_once() {
    let bench = bench(16, 1 << 16);
    let device: Arc<dyn Accelerator> = bench.device.clone();
    let around: [Arc<dyn Accelerator>; 4] = [
        Arc::new(Captured::new(device.clone(), Box::new(Nobody))),
        Arc::new(Counted::new(device.clone())),
        Arc::new(Traced::new(device.clone())),
        Arc::new(Faulty::new(device, FaultyPlan::default())),
    ];
    let sas = [0x100, 0x101].map(|spi| params(spi, Direction::Outbound));
    for (wrapper, first) in around.iter().zip([10, 20, 30, 40]) {
        let many = [(&sas[0], first), (&sas[1], first + 1)];
        let mut handles = wrapper.install_many(&many);
        handles.push(wrapper.install_as(&sas[0], first + 2));
        let carried = wrapper.carried(0, 64).unwrap();
        let names: Vec<u64> = carried.iter().map(|carried| carried.cookie).collect();
        assert_eq!(names, [first, first + 1, first + 2]);
        for handle in handles {
            wrapper.retire(handle.unwrap()).unwrap();
        }
    }
    // Two commands each, and three for the one that may fail for each SA.
    assert_eq!(bench.device.commands().installs, 9);
}

#[test]
fn a_pool_that_comes_while_the_device_returns_is_known_to_it() {
    let bench = bench(15, 1 << 16);
    bench.device.set_mood(Mood::Gone);
    bench.both.tick();
    let pool = FramePool::new(FramePoolConfig::default()).unwrap();
    let (both, new) = (bench.both.clone(), pool.clone());
    let (told, tells) = std::sync::mpsc::channel();
    bench.device.while_asked(move || {
        let brings = std::thread::spawn(move || both.register_pool(&new).unwrap());
        // It may have to wait until the device is back; where it need not, it has its time.
        let begun = std::time::Instant::now();
        while !brings.is_finished() && begun.elapsed() < Duration::from_millis(300) {
            std::thread::yield_now();
        }
        told.send(brings).unwrap();
    });
    bench.come_back();
    tells.recv().unwrap().join().unwrap();
    assert!(bench.device.knows(&pool));
}

#[test]
fn what_comes_late_of_an_sa_that_the_device_has_lost_costs_the_device_nothing() {
    let bench = bench(16, 1 << 16);
    let [lost, stays] = [0x100, 0x101].map(|spi| {
        let sa = params(spi, Direction::Outbound);
        bench.both.install(&sa).unwrap()
    });
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
    let mut ops: Vec<_> = (0..40)
        .map(|n| bench.op(lost, n, b"packet").unwrap())
        .collect();
    queue.enqueue(&mut ops).unwrap();
    queue.kick().unwrap();
    // Most of it is still on its way there.
    let carried = bench.device.carried(0, 64).unwrap();
    let there = carried.iter().find(|sa| sa.spi.value() == 0x100).unwrap();
    bench.device.retire(there.sa).unwrap();
    assert_eq!(bench.both.reconcile().unwrap().gone, 1);
    let done = dequeue_all(&mut *queue);
    let late = done.iter().filter(|done| done.status == Status::Aborted);
    assert!(late.count() > 20, "{done:?}");
    assert_eq!(bench.both.statistics().losses, 0);
    assert_eq!(bench.both.placement(stays).unwrap().engine, Engine::Device);
    bench.both.tick();
    let done = bench.send(&mut *queue, lost, 20);
    assert!(done.iter().all(|done| done.status.is_ok()), "{done:?}");
}
