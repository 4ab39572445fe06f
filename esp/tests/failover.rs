// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Failover under a device that is killed and revived at random moments: the sequence law and the
//! replay law hold over both engines.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::cache::{CacheReader, CacheWriter};
use offload_api::capability::Capabilities;
use offload_api::conformance::{inner_packet, tunnel};
use offload_api::device::{Accelerator, AcceleratorInfo, Counters, Health};
use offload_api::error::{DeviceError, InstallError, OpenQueueError, SaError};
use offload_api::event::{Engine, Event};
use offload_api::failover::{Failover, FailoverConfig, HoldOff, OffloadLevel};
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Arm, Done, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::*;

/// A "device" that can be killed: an engine of its own whose operations in flight die with it.
struct Mortal {
    alive: Arc<AtomicBool>,
    engine: Mutex<SoftwareEngine>,
    capabilities: Capabilities,
}

impl Mortal {
    fn new() -> Self {
        let engine = engine();
        let capabilities = engine.capabilities().clone();
        Self {
            alive: Arc::new(AtomicBool::new(true)),
            engine: Mutex::new(engine),
            capabilities,
        }
    }

    fn engine(&self) -> Result<SoftwareEngine, DeviceError> {
        check(&self.alive)?;
        Ok(self.engine.lock().unwrap().clone())
    }
}

fn engine() -> SoftwareEngine {
    SoftwareEngine::new(SoftwareConfig {
        threads: 1,
        ..Default::default()
    })
    .unwrap()
}

fn check(alive: &AtomicBool) -> Result<(), DeviceError> {
    if alive.load(Ordering::SeqCst) {
        Ok(())
    } else {
        Err(DeviceError::Gone {
            reason: "killed".into(),
        })
    }
}

impl Accelerator for Mortal {
    fn info(&self) -> AcceleratorInfo {
        self.engine.lock().unwrap().info()
    }
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn register_pool(&self, _: &FramePool) -> Result<(), DeviceError> {
        check(&self.alive)
    }
    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        let inner = self.engine()?.open_queue(config)?;
        Ok(Box::new(MortalQueue {
            alive: self.alive.clone(),
            inner,
            held: Vec::new(),
            lag: 0,
        }))
    }
    fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError> {
        self.engine()?.install(sa)
    }
    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError> {
        self.engine()?.amend(sa, change)
    }
    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        self.engine()?.retire(sa)
    }
    fn usage(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        self.engine()?.usage(sa)
    }
    fn poll_events(&self, out: &mut Vec<Event>) -> usize {
        self.engine().map_or(0, |engine| engine.poll_events(out))
    }
    fn counters(&self) -> Counters {
        Counters::default()
    }
    fn health(&self) -> Health {
        match check(&self.alive) {
            Ok(()) => Health::Ok,
            Err(error) => Health::Lost {
                reason: error.to_string(),
            },
        }
    }
    fn reset(&self) -> Result<(), DeviceError> {
        *self.engine.lock().unwrap() = engine();
        self.alive.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// Completions come a few bursts late, so that some are in flight when the device dies.
struct MortalQueue {
    alive: Arc<AtomicBool>,
    inner: Box<dyn QueuePair>,
    held: Vec<Done>,
    lag: usize,
}

impl QueuePair for MortalQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        check(&self.alive)?;
        self.inner.enqueue(ops)
    }
    fn kick(&mut self) -> Result<(), DeviceError> {
        check(&self.alive)?;
        self.inner.kick()
    }
    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        check(&self.alive)?;
        self.inner.dequeue(&mut self.held, usize::MAX)?;
        self.lag = (self.lag * 7 + 3) % 11;
        let count = self.held.len().saturating_sub(self.lag).min(limit);
        done.extend(self.held.drain(..count));
        Ok(count)
    }
    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        Ok(Arm::Ready)
    }
    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.held.len()
    }
    fn close(self: Box<Self>) -> Vec<Done> {
        let mut home = self.held;
        home.extend(self.inner.close());
        if check(&self.alive).is_err() {
            for done in &mut home {
                done.status = Status::Aborted;
                done.frame.clear();
            }
        }
        home
    }
}

fn params(direction: Direction) -> SaParams {
    tunnel(0x1000, direction)
}

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

#[test]
fn no_number_is_used_twice_and_nothing_is_delivered_twice_over_a_thousand_deaths() {
    let mut deaths = 0;
    for seed in 1..=60u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (device_out, device_in) = (Arc::new(Mortal::new()), Arc::new(Mortal::new()));
        let cache = Arc::new(CacheWriter::create("out", 8).unwrap());
        let config = FailoverConfig {
            block: 64,
            hold_off: HoldOff::NONE,
            ..FailoverConfig::default()
        };
        let out = Failover::new(
            Some(device_out.clone()),
            Arc::new(engine()),
            cache.clone(),
            config,
        );
        let cache_in = Arc::new(CacheWriter::create("in", 8).unwrap());
        let inn = Failover::new(
            Some(device_in.clone()),
            Arc::new(engine()),
            cache_in,
            config,
        );
        let pool = FramePool::new(FramePoolConfig {
            slots: 512,
            ..Default::default()
        })
        .unwrap();
        for side in [&out, &inn] {
            side.register_pool(&pool).unwrap();
        }
        let seal = out.install(&params(Direction::Outbound)).unwrap();
        let open = inn.install(&params(Direction::Inbound)).unwrap();
        let reader = CacheReader::open(cache.read_only_fd().unwrap()).unwrap();
        let mut sealing = out.open_queue(&QueueConfig { depth: 128 }).unwrap();
        let mut opening = inn.open_queue(&QueueConfig { depth: 128 }).unwrap();
        let (mut used, mut delivered) = (HashSet::new(), HashSet::new());
        let (mut in_device, mut in_software) = (0u64, 0u64);
        let mut last_sealed = 0;
        let mut wire: Vec<Vec<u8>> = Vec::new();
        for round in 0..300 {
            for (device, side) in [(&device_out, &out), (&device_in, &inn)] {
                match random.next(12) {
                    0 if check(&device.alive).is_ok() => {
                        device.alive.store(false, Ordering::SeqCst);
                        deaths += 1;
                    }
                    1 if !side.device_up() => side.try_return().unwrap(),
                    2 => side.tick(),
                    _ => {}
                }
            }
            match out.placement(seal).unwrap().engine {
                Engine::Device => in_device += 1,
                Engine::Software => in_software += 1,
            }
            let mut ops = Vec::new();
            for _ in 0..random.next(24) {
                let Some(mut frame) = pool.alloc() else { break };
                assert!(frame.fill(&inner_packet(random.next(300) as usize, 0)));
                ops.push(Op::new(seal, frame, round));
            }
            sealing.enqueue(&mut ops).unwrap();
            sealing.kick().unwrap();
            let mut done = Vec::new();
            sealing.dequeue(&mut done, 64).unwrap();
            for done in done {
                if done.status.is_ok() {
                    assert!(
                        used.insert(done.sequence),
                        "seed {seed}: {} twice",
                        done.sequence
                    );
                    assert!(done.sequence > last_sealed, "order per SA");
                    last_sealed = done.sequence;
                    let granted = reader.records().0[0].granted;
                    assert!(done.sequence <= granted, "beyond the recorded grant");
                    wire.push(done.frame.to_vec());
                    if random.next(4) == 0 {
                        // The network duplicates.
                        wire.push(done.frame.to_vec());
                    }
                } else {
                    assert_eq!(done.status, Status::Aborted, "seed {seed}");
                }
            }
            let mut ops = Vec::new();
            for packet in wire.drain(..) {
                let Some(mut frame) = pool.alloc() else { break };
                assert!(frame.fill(&packet));
                ops.push(Op::new(open, frame, 0));
            }
            opening.enqueue(&mut ops).unwrap();
            opening.kick().unwrap();
            let mut done = Vec::new();
            opening.dequeue(&mut done, 64).unwrap();
            for done in done {
                if done.status.is_ok() {
                    assert!(
                        delivered.insert(done.sequence),
                        "seed {seed}: delivered twice"
                    );
                } else {
                    let expected = [Status::Aborted, Status::Replayed, Status::TooOld];
                    assert!(expected.contains(&done.status), "{:?}", done.status);
                }
            }
        }
        drop((sealing.close(), opening.close()));
        assert_eq!(pool.available(), 512, "seed {seed}: frames leaked");
        assert!(
            delivered.len() > 300 && in_device > 20 && in_software > 20,
            "seed {seed}"
        );
    }
    assert!(deaths > 1000, "{deaths}");
}

#[test]
fn a_named_level_fails_loudly_and_never_falls_back() {
    let device = Arc::new(Mortal::new());
    let cache = Arc::new(CacheWriter::create("named", 8).unwrap());
    let both = Failover::new(
        Some(device.clone()),
        Arc::new(engine()),
        cache.clone(),
        Default::default(),
    );
    let sa = both
        .install_at(OffloadLevel::Packet, &params(Direction::Outbound), 1)
        .unwrap();
    let pool = FramePool::new(FramePoolConfig {
        slots: 4,
        ..Default::default()
    })
    .unwrap();
    both.register_pool(&pool).unwrap();
    let mut queue = both.open_queue(&QueueConfig { depth: 4 }).unwrap();
    device.alive.store(false, Ordering::SeqCst);
    both.tick();
    let mut frame = pool.alloc().unwrap();
    assert!(frame.fill(&inner_packet(10, 0)));
    queue.enqueue(&mut vec![Op::new(sa, frame, 9)]).unwrap();
    queue.kick().unwrap();
    let mut done = Vec::new();
    queue.dequeue(&mut done, 4).unwrap();
    assert_eq!((done[0].status, done[0].cookie), (Status::Aborted, 9));
    assert!(
        both.install_at(OffloadLevel::Packet, &params(Direction::Inbound), 2)
            .is_err()
    );
    let software = both
        .install_at(OffloadLevel::Auto, &params(Direction::Inbound), 2)
        .unwrap();
    let placement = both.placement(software).unwrap();
    assert_eq!(placement.engine, Engine::Software);
    assert!(placement.reason.unwrap().contains("lost"));
}

/// S47, B52: a device without AH says so, and software carries the SA; a named level fails loudly.
#[test]
fn ah_is_placed_in_software_where_the_device_has_none() {
    let mut device = Mortal::new();
    device.capabilities.suites = Suite::all().collect();
    let cache = Arc::new(CacheWriter::create("ah", 8).unwrap());
    let (device, config) = (Arc::new(device), FailoverConfig::default());
    let both = Failover::new(Some(device.clone()), Arc::new(engine()), cache, config);
    let suite = Suite::from_name("ah-sha256").unwrap();
    let outer = OuterHeaders {
        source: "192.0.2.1".parse().unwrap(),
        destination: "192.0.2.2".parse().unwrap(),
        udp: None,
    };
    let keys = KeyMaterial::from_keymat(suite, &[], &[3; 32]).unwrap();
    let ah = SaParams {
        outer: Some(outer),
        ..SaParams::tunnel(
            Spi::new(0x2000).unwrap(),
            Direction::Outbound,
            suite,
            keys.clone(),
        )
    };
    let seal = both.install(&ah).unwrap();
    let placement = both.placement(seal).unwrap();
    assert_eq!(placement.engine, Engine::Software);
    assert_eq!(placement.reason.as_deref(), Some("the device has no AH"));
    let esp = both.install(&params(Direction::Outbound)).unwrap();
    assert_eq!(both.placement(esp).unwrap().engine, Engine::Device);
    let refused = both.install_at(OffloadLevel::Packet, &ah, 0).unwrap_err();
    assert_eq!(refused.to_string(), "the device has no AH");

    // The cache tells the protocol, and the SA works.
    let reader = CacheReader::open(both.cache().read_only_fd().unwrap()).unwrap();
    let told = reader
        .records()
        .0
        .into_iter()
        .any(|sa| sa.entry.suite == suite && sa.entry.source == outer.source);
    assert!(told);
    let open = both
        .install(&SaParams {
            outer: Some(outer),
            ..SaParams::tunnel(Spi::new(0x2000).unwrap(), Direction::Inbound, suite, keys)
        })
        .unwrap();
    let pool = FramePool::new(FramePoolConfig::default()).unwrap();
    both.register_pool(&pool).unwrap();
    let mut queue = both.open_queue(&QueueConfig { depth: 8 }).unwrap();
    let mut packet = inner_packet(100, 0);
    for sa in [seal, open] {
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(&packet));
        let op = Op::new(sa, frame, 0);
        queue.enqueue(&mut vec![op]).unwrap();
        queue.kick().unwrap();
        let mut done = Vec::new();
        while queue.dequeue(&mut done, 1).unwrap() == 0 {}
        assert_eq!(done[0].status, Status::Ok);
        packet = done[0].frame.to_vec();
    }
    assert_eq!(packet, inner_packet(100, 0));
}
