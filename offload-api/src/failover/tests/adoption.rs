// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process dies at each of its steps towards the device, and the next one goes on: device and cache
//! agree, and no number comes twice.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicI64;

use super::*;
use crate::cache::Cache;
use crate::carried::CarriedSa;

const BLOCK: u64 = 16;

/// A device whose host dies with the n-th step: before a command, or after it and before its answer is
/// known.
struct Fused {
    device: Arc<Fake>,
    left: AtomicI64,
    /// It tells each SA at this index, whatever it is asked.
    told_at: Option<u32>,
}

impl Fused {
    fn step(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::panic::panic_any("the process dies here");
        }
    }

    fn around<R>(&self, command: impl FnOnce(&Fake) -> R) -> R {
        self.step();
        let result = command(&self.device);
        self.step();
        result
    }
}

impl Accelerator for Fused {
    fn info(&self) -> AcceleratorInfo {
        self.device.info()
    }
    fn capabilities(&self) -> &Capabilities {
        self.device.capabilities()
    }
    fn register_pool(&self, pool: &FramePool) -> Result<(), DeviceError> {
        self.device.register_pool(pool)
    }
    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        self.device.open_queue(config)
    }
    fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError> {
        self.install_as(sa, 0)
    }
    fn install_as(&self, sa: &SaParams, cookie: u64) -> Result<SaHandle, InstallError> {
        self.around(|device| device.install_as(sa, cookie))
    }
    fn carried(&self, from: u32, most: usize) -> Result<Vec<CarriedSa>, DeviceError> {
        let Some(index) = self.told_at else {
            return self.around(|device| device.carried(from, most));
        };
        let mut told = self.device.carried(0, most)?;
        told.iter_mut().for_each(|told| told.sa.index = index);
        Ok(told)
    }
    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError> {
        self.around(|device| device.amend(sa, change))
    }
    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        self.around(|device| device.retire(sa))
    }
    fn usage(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        self.device.usage(sa)
    }
    fn poll_events(&self, out: &mut Vec<Event>) -> usize {
        self.device.poll_events(out)
    }
    fn counters(&self) -> Counters {
        self.device.counters()
    }
    fn health(&self) -> Health {
        self.device.health()
    }
    fn reset(&self) -> Result<(), DeviceError> {
        self.device.reset()
    }
}

/// What outlives processes.
struct World {
    ledger: Arc<Mutex<Ledger>>,
    device: Arc<Fake>,
    cache: OwnedFd,
    pool: FramePool,
}

/// A process.
struct Life {
    both: Failover,
    cache: Arc<CacheWriter>,
    adopted: Vec<Adopted>,
}

impl Life {
    /// An SA to send with.
    fn outbound(&self) -> SaHandle {
        self.both
            .install(&params(0x3001, Direction::Outbound))
            .unwrap()
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let cache = Cache::create("adoption-test", 64).unwrap();
        let reader = cache.reader().unwrap();
        ledger.lock().unwrap().cache = Some(reader);
        let pool = FramePoolConfig {
            slots: FRAMES,
            slot_size: 512,
            ..FramePoolConfig::default()
        };
        Self {
            device: Fake::device(&ledger, seed),
            cache: cache.as_fd().try_clone_to_owned().unwrap(),
            pool: FramePool::new(pool).unwrap(),
            ledger,
        }
    }

    /// A process that takes up what there is, and dies with its n-th step towards the device.
    fn live(&self, steps: i64) -> Life {
        self.live_where(steps, |_| false)
    }

    fn live_where(&self, steps: i64, has_ledger: impl Fn(&CacheEntry) -> bool) -> Life {
        let cache = CacheWriter::take_over(self.cache.try_clone().unwrap()).unwrap();
        let cache = Arc::new(cache);
        let device = Arc::new(Fused {
            device: self.device.clone(),
            left: AtomicI64::new(steps),
            told_at: None,
        });
        let software = Fake::software(&self.ledger, 1);
        let config = FailoverConfig {
            block: BLOCK,
            sample: 0,
            hold_off: HoldOff::NONE,
        };
        let both = Failover::new(Some(device), software, cache.clone(), config);
        let adopted = both.adopt(has_ledger).unwrap();
        both.register_pool(&self.pool).unwrap();
        Life {
            both,
            cache,
            adopted,
        }
    }

    fn carried(&self) -> Vec<CarriedSa> {
        self.device.carried(0, 64).unwrap()
    }

    fn send(&self, life: &Life, sa: SaHandle, count: u64) -> Vec<Done> {
        let bench = Bench {
            device: self.device.clone(),
            ledger: self.ledger.clone(),
            both: life.both.clone(),
            pool: self.pool.clone(),
            cache: life.cache.clone(),
        };
        let mut queue = life.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
        let mut done = Vec::new();
        for _ in 0..count {
            done.extend(bench.send(&mut *queue, sa, 1));
            life.both.tick();
        }
        done
    }

    fn assert_lawful(&self) {
        let violations = &self.ledger.lock().unwrap().violations;
        assert!(violations.is_empty(), "{violations:?}");
    }

    /// Device, cache and process have the same SAs.
    fn assert_agreed(&self, life: &Life, what: &str) {
        let mut carried: Vec<_> = self.carried().iter().map(|sa| sa.spi.value()).collect();
        let mut placed: Vec<_> = life
            .adopted
            .iter()
            .map(|adopted| adopted.entry.spi.value())
            .collect();
        carried.sort_unstable();
        placed.sort_unstable();
        assert_eq!(carried, placed, "{what}");
        assert_eq!(life.cache.len() as usize, placed.len(), "{what}");
    }
}

/// What a process does: SAs come, are used beyond their first blocks, and go.
fn work(world: &World, life: &Life) {
    let out = life
        .both
        .install(&params(0x2001, Direction::Outbound))
        .unwrap();
    life.both
        .install(&params(0x2002, Direction::Inbound))
        .unwrap();
    for done in world.send(life, out, 3 * BLOCK) {
        assert!(done.status.is_ok());
    }
    let next = life
        .both
        .install(&params(0x2003, Direction::Outbound))
        .unwrap();
    life.both.retire(out).unwrap();
    world.send(life, next, BLOCK);
}

/// What another does: its device is lost, software goes on, and the device comes back.
fn work_through_a_loss(world: &World, life: &Life) {
    let outbound = [0x2001, 0x2002].map(|spi| {
        let sa = params(spi, Direction::Outbound);
        life.both.install(&sa).unwrap()
    });
    life.both
        .install(&params(0x2003, Direction::Inbound))
        .unwrap();
    world.send(life, outbound[0], BLOCK);
    world.device.set_mood(Mood::Gone);
    life.both.tick();
    world.send(life, outbound[0], 2 * BLOCK);
    while life.both.try_return().is_err() {}
    for sa in outbound {
        world.send(life, sa, 2 * BLOCK);
    }
}

#[test]
fn a_process_may_die_at_each_step_and_the_next_one_goes_on() {
    die_at_each_step(work);
}

#[test]
fn a_process_may_die_at_each_step_of_a_loss_and_a_return_and_the_next_one_goes_on() {
    die_at_each_step(work_through_a_loss);
}

fn die_at_each_step(work: impl Fn(&World, &Life)) {
    let mut deaths = 0;
    let mut adopted = 0;
    for steps in 1.. {
        let world = World::new(steps as u64);
        let lived = catch_unwind(AssertUnwindSafe(|| work(&world, &world.live(steps)))).is_ok();
        // A device that was not to be reached is there again, with all that it had.
        world.device.set_mood(Mood::Well);
        // The next one dies on its way, too, at the same distance from its start.
        let again = catch_unwind(AssertUnwindSafe(|| drop(world.live(steps)))).is_ok();
        let what = format!("after {steps} steps");
        let life = world.live(i64::MAX);
        world.assert_agreed(&life, &what);
        for Adopted { sa, entry, .. } in &life.adopted {
            let placed = life.both.placement(*sa).unwrap();
            assert_eq!(placed.engine, crate::event::Engine::Device, "{what}");
            assert!(placed.reason.unwrap().contains("adopted"), "{what}");
            if entry.direction == Direction::Outbound {
                let mut last = world.ledger.lock().unwrap().highest(entry.spi);
                for done in world.send(&life, *sa, 3 * BLOCK) {
                    assert!(done.status.is_ok(), "{what}: {:?}", done.status);
                    assert!(
                        done.sequence > last,
                        "{what}: {} after {last}",
                        done.sequence
                    );
                    last = done.sequence;
                }
            }
        }
        adopted += life.adopted.len();
        for Adopted { sa, .. } in &life.adopted {
            life.both.retire(*sa).unwrap();
        }
        assert!(
            world.carried().is_empty() && life.cache.is_empty(),
            "{what}"
        );
        world.assert_lawful();
        if lived && again {
            break;
        }
        deaths += u32::from(!lived);
    }
    assert!(
        deaths > 10 && adopted > 10,
        "{deaths} deaths, {adopted} adopted"
    );
}

#[test]
fn an_sa_that_the_cache_does_not_know_is_retired_at_the_start_and_later() {
    let world = World::new(1);
    world
        .device
        .install_as(&params(0x3001, Direction::Inbound), 7 << 32)
        .unwrap();
    world
        .device
        .install(&params(0x3002, Direction::Outbound))
        .unwrap();
    let life = world.live(i64::MAX);
    assert!(life.adopted.is_empty() && world.carried().is_empty());
    assert_eq!(life.both.statistics().reconciled.orphans, 2);

    let kept = life
        .both
        .install(&params(0x3003, Direction::Inbound))
        .unwrap();
    world
        .device
        .install(&params(0x3004, Direction::Inbound))
        .unwrap();
    assert_eq!(life.both.reconcile().unwrap().orphans, 1);
    assert_eq!(life.both.reconcile().unwrap(), Reconciled::default());
    assert!(life.both.usage(kept).is_ok());
    assert_eq!(world.carried().len(), 1);
}

#[test]
fn an_sa_of_another_name_or_kind_under_the_same_cookie_is_not_adopted() {
    let world = World::new(2);
    let before = world.live(i64::MAX);
    before.outbound();
    let carried = world.carried();
    drop(before);
    // The device comes back with something else in its place.
    world.device.retire(carried[0].sa).unwrap();
    world
        .device
        .install_as(&params(0x3009, Direction::Outbound), carried[0].cookie)
        .unwrap();
    let life = world.live(i64::MAX);
    assert!(life.adopted.is_empty() && world.carried().is_empty() && life.cache.is_empty());
    let count = life.both.statistics().reconciled;
    assert_eq!((count.orphans, count.gone), (1, 1));
}

#[test]
fn what_was_granted_beyond_the_record_is_taken_back_and_what_was_used_so_ends_the_sa() {
    for used in [false, true] {
        let world = World::new(3);
        let before = world.live(i64::MAX);
        let sa = before.outbound();
        world.send(&before, sa, 4);
        let carried = world.carried().remove(0);
        drop(before);
        // A grant that nobody recorded.
        let beyond = Grant {
            first: if used { 500 } else { carried.granted + 1 },
            last: 600,
        };
        world
            .device
            .amend(carried.sa, &Amend::Grant(beyond))
            .unwrap();
        let life = world.live(i64::MAX);
        let count = life.both.statistics().reconciled;
        if used {
            // Its next number lies beyond what was recorded.
            assert_eq!((count.adopted, count.orphans), (0, 1));
            assert!(world.carried().is_empty());
            continue;
        }
        assert_eq!((count.adopted, count.grants_taken_back), (1, 1));
        let now = world.carried().remove(0);
        assert_eq!((now.next, now.granted), (601, 600 + BLOCK));
        for done in world.send(&life, life.adopted[0].sa, 2 * BLOCK) {
            assert!(done.status.is_ok());
        }
        world.assert_lawful();
    }
}

#[test]
fn an_sa_whose_numbers_a_ledger_recorded_gets_no_more_of_them_from_a_process_without_it() {
    let world = World::new(3);
    let before = world.live(i64::MAX);
    let sa = before.outbound();
    world.send(&before, sa, 4);
    drop(before);
    let recorded = world.carried().remove(0).granted;
    let life = world.live_where(i64::MAX, |_| true);
    let done = world.send(&life, life.adopted[0].sa, 4 * BLOCK);
    let (used, refused): (Vec<_>, Vec<_>) = done.iter().partition(|done| done.status.is_ok());
    assert_eq!(used.last().unwrap().sequence, recorded);
    assert!(
        refused
            .iter()
            .all(|done| done.status == Status::SequenceExhausted)
    );
    assert_eq!(world.carried().remove(0).granted, recorded);
    world.assert_lawful();
}

#[test]
fn an_sa_that_the_device_has_lost_goes_to_software_and_back() {
    let world = World::new(4);
    let life = world.live(i64::MAX);
    let sa = life.outbound();
    world.send(&life, sa, 2);
    let carried = world.carried().remove(0);
    world.device.retire(carried.sa).unwrap();
    assert_eq!(life.both.reconcile().unwrap().gone, 1);
    for done in world.send(&life, sa, 3 * BLOCK) {
        assert!(done.status.is_ok(), "{:?}", done.status);
    }
    assert_eq!(
        life.both.placement(sa).unwrap().engine,
        crate::event::Engine::Device
    );
    assert_eq!(world.carried().len(), 1);
    world.assert_lawful();
}

#[test]
fn an_sa_that_was_being_replaced_is_adopted_as_such() {
    let world = World::new(6);
    let before = world.live(i64::MAX);
    let old = before
        .both
        .install(&params(0x3001, Direction::Inbound))
        .unwrap();
    before
        .both
        .install(&params(0x3002, Direction::Inbound))
        .unwrap();
    before.both.replace(old).unwrap();
    drop(before);
    for _ in 0..2 {
        let life = world.live(i64::MAX);
        let dying = life.adopted.iter().filter(|adopted| adopted.dying);
        let spis: Vec<_> = dying.map(|adopted| adopted.entry.spi.value()).collect();
        assert_eq!(spis, [0x3001]);
    }
}

#[test]
fn an_adopted_sa_ends_with_its_device() {
    let world = World::new(5);
    let before = world.live(i64::MAX);
    before.outbound();
    drop(before);
    let life = world.live(i64::MAX);
    let sa = life.adopted[0].sa;
    world.device.set_mood(Mood::Gone);
    life.both.tick();
    while life.both.try_return().is_err() {}
    life.both.tick();
    let placed = life.both.placement(sa).unwrap();
    assert_eq!(placed.engine, crate::event::Engine::Software);
    assert!(world.carried().is_empty(), "it came back without keys");
    life.both.retire(sa).unwrap();
    assert!(life.cache.is_empty());
}

#[test]
fn a_device_that_tells_an_sa_for_ever_is_given_up() {
    for index in [0, u32::MAX] {
        let world = World::new(9);
        let sa = params(0x3001, Direction::Inbound);
        world.device.install(&sa).unwrap();
        world.device.install(&sa).unwrap();
        let cache = CacheWriter::take_over(world.cache.try_clone().unwrap()).unwrap();
        let device = Arc::new(Fused {
            device: world.device.clone(),
            left: AtomicI64::new(i64::MAX),
            told_at: Some(index),
        });
        let config = FailoverConfig {
            block: BLOCK,
            sample: 0,
            hold_off: HoldOff::NONE,
        };
        let software = Fake::software(&world.ledger, 1);
        let both = Failover::new(Some(device), software, Arc::new(cache), config);
        assert!(
            matches!(both.adopt(|_| false), Err(DeviceError::Protocol { .. })),
            "{index}"
        );
        assert!(!both.device_up());
    }
}

/// Laws 1 and 2: an SA of which nobody can say who was in charge of it is not taken for the device's.
#[test]
fn an_sa_is_not_adopted_if_it_can_not_be_read_who_carried_it() {
    let world = World::new(4);
    let life = world.live(i64::MAX);
    let sa = life.outbound();
    world.send(&life, sa, 3);
    drop(life);
    let life = world.live(i64::MAX);
    assert_eq!(life.adopted.len(), 1);
    drop(life);
    crate::cache::spoil_placement(&world.cache, 0);
    let life = world.live(i64::MAX);
    assert_eq!((life.adopted.len(), world.carried().len()), (0, 0));
}
