// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What all queue pairs and the control path of a failover share, above all whether there is a
//! device.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Instant;

use super::names::Names;
use super::sa::{self, Sa};
use super::table::SaTable;
use super::trust::Trust;
use super::{FailoverConfig, FailoverStatistics, lock, wait};
use crate::cache::{CacheEventKind, CacheWriter};
use crate::capability::{Capabilities, Features};
use crate::device::{Accelerator, Health};
use crate::error::{DeviceError, SaError};
use crate::event::{Engine, Event};
use crate::frame::FramePool;
use crate::sa::SaHandle;

/// SAs whose counters one tick records.
const RECORDED_PER_TICK: usize = 256;

pub(super) struct Shared {
    pub(super) primary: Option<Arc<dyn Accelerator>>,
    pub(super) software: Arc<dyn Accelerator>,
    pub(super) cache: Arc<CacheWriter>,
    pub(super) config: FailoverConfig,
    pub(super) capabilities: Capabilities,
    /// The device's life: odd while it carries SAs, even while it is lost or there is none. Handles
    /// and queue pairs belong to one life, since a reset device gives out the same handles again.
    life: AtomicU64,
    /// Held for reading by every command to the device and for writing by its reset, so that no
    /// command of one life reaches the next.
    commands: RwLock<()>,
    returning: Mutex<()>,
    /// Some SAs are not in the device that should be.
    pub(super) strays: AtomicBool,
    table: RwLock<SaTable>,
    pub(super) pools: Mutex<Vec<FramePool>>,
    pub(super) events: Mutex<Vec<Event>>,
    /// Engines' handles to ours, for events.
    pub(super) names: Mutex<Names>,
    /// Queue pairs for which frames may still come home from a lost device.
    pub(super) dying: AtomicUsize,
    /// SAs whose grant shall be topped up.
    thirsty: Mutex<Vec<SaHandle>>,
    /// Queue pairs that may sleep.
    wakers: Mutex<Vec<Weak<OwnedFd>>>,
    pub(super) trust: Mutex<Trust>,
    /// What was seen of a loss, for those who ask why.
    absence: Mutex<String>,
    /// Nothing has been done in software since the last loss.
    falling_back: AtomicBool,
    lost_at: Mutex<Option<Instant>>,
    pub(super) statistics: Mutex<FailoverStatistics>,
    /// Next slot whose counters are recorded.
    recorded: AtomicUsize,
    /// Next index of the device that is compared with the cache.
    pub(super) compared: AtomicU32,
    /// Next slot whose SA the device is asked for.
    pub(super) asked: AtomicUsize,
}

impl Shared {
    pub(super) fn new(
        primary: Option<Arc<dyn Accelerator>>,
        software: Arc<dyn Accelerator>,
        cache: Arc<CacheWriter>,
        config: FailoverConfig,
    ) -> Self {
        let up = primary
            .as_ref()
            .is_some_and(|primary| primary.health() == Health::Ok);
        let mut capabilities = software.capabilities().clone();
        // Whoever numbers packets itself keeps what a taker-over would need.
        capabilities.features -= Features::CRYPTO;
        if let Some(primary) = &primary {
            let device = primary.capabilities();
            capabilities.features |= device.features - Features::CRYPTO;
            capabilities.features -= Features::SOFTWARE;
            capabilities.max_queues = capabilities.max_queues.min(device.max_queues);
            capabilities.max_depth = capabilities.max_depth.min(device.max_depth);
            capabilities.max_packet = capabilities.max_packet.min(device.max_packet);
            capabilities.max_gather = capabilities.max_gather.min(device.max_gather);
        }
        Self {
            primary,
            software,
            cache,
            config: FailoverConfig {
                block: config.block.max(1),
                ..config
            },
            capabilities,
            life: AtomicU64::new(u64::from(up)),
            commands: RwLock::new(()),
            returning: Mutex::new(()),
            strays: AtomicBool::new(false),
            table: RwLock::new(SaTable::default()),
            pools: Mutex::default(),
            events: Mutex::default(),
            names: Mutex::default(),
            dying: AtomicUsize::new(0),
            thirsty: Mutex::default(),
            wakers: Mutex::default(),
            trust: Mutex::default(),
            absence: Mutex::default(),
            falling_back: AtomicBool::new(false),
            lost_at: Mutex::default(),
            statistics: Mutex::default(),
            recorded: AtomicUsize::new(0),
            compared: AtomicU32::new(0),
            asked: AtomicUsize::new(0),
        }
    }

    /// The device's present life; odd while it carries SAs.
    pub(super) fn life(&self) -> u64 {
        self.life.load(Ordering::Acquire)
    }

    /// Why there is no device.
    pub(super) fn device_absence(&self) -> String {
        if self.primary.is_none() {
            return "no device".to_owned();
        }
        if let Some(reason) = lock(&self.trust).quarantine() {
            return format!("device is quarantined: {reason}");
        }
        format!("device is lost: {}", lock(&self.absence))
    }

    /// The device gave a wrong result in this life: nothing is sent to it any more.
    pub(super) fn quarantine(&self, life: u64, reason: &str) {
        if life.is_multiple_of(2) || life != self.life() {
            return;
        }
        tracing::error!(reason, "device gave a wrong result: quarantined");
        lock(&self.trust).distrust(reason);
        lock(&self.statistics).mismatches += 1;
        lock(&self.events).push(Event::DeviceQuarantined {
            reason: reason.to_owned(),
        });
        self.lost(life, reason);
    }

    /// Does something with the device, if it is in this life still and stays in it meanwhile.
    pub(super) fn with_device<R>(
        &self,
        life: u64,
        command: impl FnOnce(&Arc<dyn Accelerator>) -> R,
    ) -> Option<R> {
        let lives = || life % 2 == 1 && life == self.life();
        // A reset holds the lock, for seconds where the card hangs: who knows that it is lost waits for none.
        if !lives() {
            return None;
        }
        let _commands = self.commands.read().unwrap_or_else(PoisonError::into_inner);
        let primary = self.primary.as_ref()?;
        lives().then(|| command(primary))
    }

    /// The device is lost: from here on nothing is sent to it. Each SA moves with its next packet.
    /// Word from an earlier life changes nothing.
    pub(super) fn lost(&self, life: u64, reason: &str) {
        if life.is_multiple_of(2) {
            return;
        }
        let ended = self.life.compare_exchange(
            life,
            life.wrapping_add(1),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if ended.is_err() {
            return;
        }
        let now = Instant::now();
        reason.clone_into(&mut lock(&self.absence));
        lock(&self.trust).lost(&self.config.hold_off, now);
        tracing::warn!(
            reason,
            "device lost: security associations move to software"
        );
        *lock(&self.lost_at) = Some(now);
        self.falling_back.store(true, Ordering::Release);
        lock(&self.statistics).losses += 1;
        self.cache.note_event(CacheEventKind::DeviceLost, life);
        lock(&self.events).push(Event::DeviceLost {
            reason: reason.to_owned(),
        });
        self.strays.store(true, Ordering::Release);
        self.wake();
    }

    /// Notes the first packet that software has done since the loss.
    pub(super) fn fell_back(&self) {
        if self.falling_back.load(Ordering::Acquire)
            && self.falling_back.swap(false, Ordering::AcqRel)
            && let Some(at) = lock(&self.lost_at).take()
        {
            lock(&self.statistics).last_fallback_ns = at.elapsed().as_nanos() as u64;
        }
    }

    pub(super) fn add_waker(&self, waker: &Arc<OwnedFd>) {
        let mut wakers = lock(&self.wakers);
        wakers.retain(|waker| waker.strong_count() != 0);
        wakers.push(Arc::downgrade(waker));
    }

    /// Has the next tick top up an SA's grant.
    pub(super) fn is_thirsty(&self, sa: SaHandle) {
        lock(&self.thirsty).push(sa);
    }

    fn wake(&self) {
        for waker in lock(&self.wakers).iter().filter_map(Weak::upgrade) {
            wait::ring(&waker);
        }
    }

    pub(super) fn check_health(&self) {
        let life = self.life();
        if let Some(primary) = &self.primary
            && life % 2 == 1
        {
            match primary.health() {
                Health::Ok => {}
                Health::Resetting => self.lost(life, "device is resetting"),
                Health::Lost { reason } => self.lost(life, &reason),
            }
        }
    }

    /// Moves SAs that carry no traffic to where they belong (the others move with their next
    /// packet), and records counters of some.
    pub(super) fn look_after(&self) {
        let up = self.life() % 2 == 1;
        let thirsty = std::mem::take(&mut *lock(&self.thirsty));
        for handle in thirsty {
            if let Ok(sa) = self.sa(handle) {
                sa.top_up_by_tick(self, handle);
            }
        }
        if self.dying.load(Ordering::Acquire) != 0 {
            self.wake();
        }
        if self.strays.swap(false, Ordering::AcqRel) {
            let sas = self.read_table().all();
            for (handle, sa) in &sas {
                sa.leave_device(self, *handle);
            }
            // If it is lost again meanwhile, they stay where they are.
            let _ = up.then(|| sa::enter_device(self, &sas));
            for (handle, sa) in sas {
                if sa.is_moving() && !sa.finish_move(self, handle) {
                    self.strays.store(true, Ordering::Release);
                }
            }
            if !up {
                // Leaving set it again; coming back will look at every SA anyway.
                self.strays.store(false, Ordering::Release);
            }
        }
        let slots = self.read_table().slots();
        let first = self.recorded.load(Ordering::Relaxed);
        let first = if first < slots { first } else { 0 };
        for (_, sa) in self.read_table().range(first, RECORDED_PER_TICK) {
            sa.record_usage(self);
        }
        self.recorded
            .store(first + RECORDED_PER_TICK, Ordering::Relaxed);
    }

    pub(super) fn try_return(&self) -> Result<(), DeviceError> {
        let Some(primary) = &self.primary else {
            return Ok(());
        };
        let _returning = lock(&self.returning);
        let life = self.life();
        if life % 2 == 1 {
            return Ok(());
        }
        lock(&self.trust).check(Instant::now())?;
        for (handle, sa) in self.read_table().all() {
            sa.leave_device(self, handle);
        }
        {
            let _commands = self
                .commands
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            primary.reset()?;
        }
        // Held until the device counts as back: a pool that comes meanwhile is registered by whoever
        // brings it, after that.
        let pools = lock(&self.pools);
        for pool in pools.iter() {
            primary.register_pool(pool)?;
        }
        if primary.health() != Health::Ok {
            return Err(DeviceError::Gone {
                reason: "device is not well after its reset".to_owned(),
            });
        }
        lock(&self.trust).returned(Instant::now());
        self.life.store(life.wrapping_add(1), Ordering::Release);
        drop(pools);
        let sas = self.read_table().all();
        sa::enter_device(self, &sas)?;
        // SAs that could not move at once do so with their next packet or tick.
        self.strays.store(true, Ordering::Release);
        lock(&self.statistics).returns += 1;
        self.cache.note_event(CacheEventKind::DeviceReturned, life);
        lock(&self.events).push(Event::DeviceReturned);
        self.wake();
        Ok(())
    }

    /// Takes the engines' events in, under our handles.
    pub(super) fn collect_events(&self) {
        let mut raw = Vec::new();
        let engines = [
            (Engine::Device, self.primary.as_ref()),
            (Engine::Software, Some(&self.software)),
        ];
        for (engine, accelerator) in engines {
            let Some(accelerator) = accelerator else {
                continue;
            };
            accelerator.poll_events(&mut raw);
            for event in raw.drain(..) {
                if let Some(event) = self.translate(engine, event) {
                    lock(&self.events).push(event);
                }
            }
        }
    }

    fn translate(&self, engine: Engine, event: Event) -> Option<Event> {
        let name = |sa: SaHandle| {
            let ours = lock(&self.names).find(engine, sa)?;
            let is_it = engine == Engine::Device || self.sa(ours).ok()?.is_in_software_as(sa);
            is_it.then_some(ours)
        };
        match event {
            // Each engine says these by itself.
            Event::SoftExpired { sa, limit } => {
                let sa = name(sa)?;
                let first = self.sa(sa).ok()?.tell_soft(self);
                first.then_some(Event::SoftExpired { sa, limit })
            }
            Event::HardExpired { sa, limit } => {
                let sa = name(sa)?;
                let first = self.sa(sa).ok()?.tell_hard(self);
                first.then_some(Event::HardExpired { sa, limit })
            }
            Event::SequenceEnding { sa } => Some(Event::SequenceEnding { sa: name(sa)? }),
            Event::SequenceEnd { sa } => Some(Event::SequenceEnd { sa: name(sa)? }),
            Event::BadIcvBurst { sa, count } => Some(Event::BadIcvBurst {
                sa: name(sa)?,
                count,
            }),
            Event::ReplayBurst { sa, count } => Some(Event::ReplayBurst {
                sa: name(sa)?,
                count,
            }),
            Event::TableFull | Event::QueueFailed { .. } | Event::Zeroised => Some(event),
            Event::GrantLow { sa, .. } => {
                let handle = name(sa)?;
                self.sa(handle).ok()?.top_up_soon(self, handle);
                None
            }
            Event::DeviceLost { reason } => {
                self.lost(self.life(), &reason);
                None
            }
            // These are the failover's own to say.
            Event::DeviceReturned | Event::DeviceQuarantined { .. } | Event::Moved { .. } => None,
        }
    }

    pub(super) fn read_table(&self) -> RwLockReadGuard<'_, SaTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_table(&self) -> RwLockWriteGuard<'_, SaTable> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sa(&self, handle: SaHandle) -> Result<Arc<Sa>, SaError> {
        self.read_table()
            .find(handle)
            .cloned()
            .ok_or(SaError::Stale)
    }
}
