// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One SA of a failover: in which engine it lives, and its way from one to the other.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::{OffloadLevel, Placement, Shared, lock, means_software, params_for};
use crate::cache::CacheSlot;
use crate::error::{InstallError, SaError};
use crate::event::{Engine, Event};
use crate::replay::{ReplayWindow, Verdict};
use crate::sa::{Amend, Direction, Grant, Limits, Numbering, SaHandle, SaParams, SaUsage};

/// An SA with everything needed to install it anew.
pub(super) struct Sa {
    level: OffloadLevel,
    slot: CacheSlot,
    route: Mutex<Route>,
    /// What was delivered, whoever opened it.
    shadow: Mutex<ReplayWindow>,
    outbound: bool,
    /// Engines draw from grants.
    granted: bool,
    /// Last number granted to the engine in charge.
    grant_end: AtomicU64,
    /// Upper bound of the numbers that the engine in charge has used, by what it was sent.
    issued: AtomicU64,
    topping_up: AtomicBool,
    created: Instant,
    packets: AtomicU64,
    bytes: AtomicU64,
    sequence: AtomicU64,
    errors: AtomicU64,
    bad_icv: AtomicU64,
    replayed: AtomicU64,
}

/// Changes only under its lock.
struct Route {
    params: SaParams,
    device: Option<SaHandle>,
    /// Missing for levels that may not fall back.
    software: Option<SaHandle>,
    engine: Engine,
    reason: Option<String>,
}

/// Where an operation shall go.
pub(super) enum Target {
    Device(SaHandle),
    Software(SaHandle),
    /// A named level of offload has lost its device.
    Nowhere,
}

impl Sa {
    pub(super) fn install(
        shared: &Shared,
        level: OffloadLevel,
        params: &SaParams,
        slot: CacheSlot,
    ) -> Result<Self, InstallError> {
        let outbound = params.direction == Direction::Outbound;
        let granted = outbound && params.numbering != Numbering::Explicit;
        let mut shadow = ReplayWindow::new(params.replay_window);
        if let Some(seen) = &params.replay_state {
            shadow.merge(seen);
        }
        let created = Instant::now();
        let sa = Self {
            level,
            slot,
            route: Mutex::new(Route {
                params: params.clone(),
                device: None,
                software: None,
                engine: Engine::Software,
                reason: None,
            }),
            shadow: Mutex::new(shadow),
            outbound,
            granted,
            grant_end: AtomicU64::new(0),
            issued: AtomicU64::new(0),
            topping_up: AtomicBool::new(false),
            created,
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bad_icv: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
        };
        let mut route = lock(&sa.route);
        if matches!(level, OffloadLevel::Auto | OffloadLevel::No) {
            // On standby: it has the keys and may not use a number yet.
            let standby = params_for(params, Numbering::Granted(None), &sa.usage(), created);
            route.software = Some(shared.software.install(&standby)?);
        }
        match sa.try_device(shared, &mut route) {
            Ok(()) => {}
            Err(error) if level == OffloadLevel::Auto && means_software(&error) => {
                route.reason = Some(error.to_string());
                sa.grant_software(shared, &route)?;
            }
            Err(_) if level == OffloadLevel::No => {
                route.reason = Some("hw_offload = no".to_owned());
                sa.grant_software(shared, &route)?;
            }
            Err(error) => {
                if let Some(handle) = route.software {
                    let _ = shared.software.retire(handle);
                }
                return Err(error);
            }
        }
        sa.record_engine(shared, route.engine);
        drop(route);
        Ok(sa)
    }

    /// Installs it in the device with a new grant, and makes the device its engine.
    fn try_device(&self, shared: &Shared, route: &mut Route) -> Result<(), InstallError> {
        let unusable = |reason: &str| {
            InstallError::Device(crate::error::DeviceError::Gone {
                reason: reason.to_owned(),
            })
        };
        if self.level == OffloadLevel::No {
            return Err(unusable("hw_offload = no"));
        }
        let primary = shared
            .primary
            .as_ref()
            .ok_or_else(|| unusable("no device"))?;
        if !shared.up.load(Ordering::Acquire) {
            return Err(unusable("device is lost"));
        }
        primary.capabilities().check(&route.params)?;
        let numbering = if self.granted {
            let grant = self.reserve(shared)?;
            self.issued.store(grant.first - 1, Ordering::Release);
            Numbering::Granted(Some(grant))
        } else {
            route.params.numbering
        };
        let mut params = params_for(&route.params, numbering, &self.usage(), self.created);
        if !self.outbound && route.params.replay_window != 0 {
            params.replay_state = Some(lock(&self.shadow).snapshot());
        }
        match primary.install(&params) {
            Ok(handle) => {
                route.device = Some(handle);
                route.engine = Engine::Device;
                route.reason = None;
                Ok(())
            }
            Err(error) => {
                if let InstallError::Device(error) = &error {
                    shared.lost(&error.to_string());
                }
                Err(error)
            }
        }
    }

    /// The next block, recorded before anybody may use it.
    fn reserve(&self, shared: &Shared) -> Result<Grant, InstallError> {
        let grant = shared
            .cache
            .reserve(self.slot, shared.config.block)
            .map_err(super::cache_error)?;
        self.grant_end.store(grant.last, Ordering::Release);
        Ok(grant)
    }

    fn grant_software(&self, shared: &Shared, route: &Route) -> Result<(), InstallError> {
        if self.granted
            && let Some(handle) = route.software
        {
            let grant = self.reserve(shared)?;
            self.issued.store(grant.first - 1, Ordering::Release);
            if let Err(error) = shared.software.amend(handle, &Amend::Grant(grant)) {
                return Err(InstallError::Device(crate::error::DeviceError::Host {
                    what: "granting sequence numbers to software",
                    error: error.to_string(),
                }));
            }
        }
        Ok(())
    }

    /// Tells the events' names of its engines' handles.
    pub(super) fn name(&self, shared: &Shared, handle: SaHandle) {
        let route = lock(&self.route);
        let mut names = lock(&shared.names);
        if let Some(device) = route.device {
            names.insert((Engine::Device, device), handle);
        }
        if let Some(software) = route.software {
            names.insert((Engine::Software, software), handle);
        }
    }

    /// The engine for its next operations. Moves the SA to software when the device is lost.
    pub(super) fn target(&self, shared: &Shared, handle: SaHandle) -> Target {
        let mut route = lock(&self.route);
        if route.engine == Engine::Device && !shared.up.load(Ordering::Acquire) {
            self.to_software(shared, &mut route, handle);
        }
        match (route.engine, route.device, route.software) {
            (Engine::Device, Some(device), _) => Target::Device(device),
            (Engine::Software, _, Some(software)) => Target::Software(software),
            _ => Target::Nowhere,
        }
    }

    /// Moves it to software if its device is lost.
    pub(super) fn leave_device(&self, shared: &Shared, handle: SaHandle) {
        let _ = self.target(shared, handle);
    }

    fn to_software(&self, shared: &Shared, route: &mut Route, handle: SaHandle) {
        if let Some(device) = route.device.take() {
            lock(&shared.names).remove(&(Engine::Device, device));
        }
        route.engine = Engine::Software;
        route.reason = Some("device is lost".to_owned());
        let Some(software) = route.software else {
            return;
        };
        if self.outbound {
            if let Err(error) = self.grant_software(shared, route) {
                tracing::error!(%error, "outbound SA has no sequence numbers left");
            }
        } else {
            let seen = lock(&self.shadow).snapshot();
            let _ = shared.software.amend(software, &Amend::Replay(seen));
        }
        self.record_engine(shared, Engine::Software);
        lock(&shared.events).push(Event::Moved {
            sa: handle,
            engine: Engine::Software,
        });
    }

    /// Brings it back to a device that has returned.
    pub(super) fn enter_device(
        &self,
        shared: &Shared,
        handle: SaHandle,
    ) -> Result<(), crate::error::DeviceError> {
        if self.level == OffloadLevel::No {
            return Ok(());
        }
        let mut route = lock(&self.route);
        if self.granted
            && let Some(software) = route.software
        {
            // Software stops before the device starts: one owner of the sequence space at a time.
            let _ = shared.software.amend(software, &Amend::Revoke);
        }
        match self.try_device(shared, &mut route) {
            Ok(()) => {
                self.record_engine(shared, Engine::Device);
                if let Some(device) = route.device {
                    lock(&shared.names).insert((Engine::Device, device), handle);
                }
                lock(&shared.events).push(Event::Moved {
                    sa: handle,
                    engine: Engine::Device,
                });
                Ok(())
            }
            Err(error) => {
                route.engine = Engine::Software;
                route.reason = Some(error.to_string());
                if let Err(error) = self.grant_software(shared, &route) {
                    tracing::error!(%error, "outbound SA has no sequence numbers left");
                }
                match error {
                    InstallError::Device(error) => Err(error),
                    // This SA stays in software; others may fit.
                    _ => Ok(()),
                }
            }
        }
    }

    fn record_engine(&self, shared: &Shared, engine: Engine) {
        let _ = shared
            .cache
            .update(self.slot, |entry| entry.engine = engine);
    }

    /// Passes an inbound packet through the shadow window.
    pub(super) fn deliver(&self, sequence: u64) -> Verdict {
        let mut shadow = lock(&self.shadow);
        if shadow.size() == 0 {
            Verdict::Fresh
        } else {
            shadow.accept(sequence)
        }
    }

    pub(super) fn is_outbound(&self) -> bool {
        self.outbound
    }

    /// Counts a completion.
    pub(super) fn count(&self, sequence: u64, bytes: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.sequence.fetch_max(sequence, Ordering::Relaxed);
    }

    /// Notes an operation that is about to be sent to its engine, and tops the grant up long before
    /// it runs dry.
    pub(super) fn issue(&self, shared: &Shared) {
        if self.granted {
            let issued = self.issued.fetch_add(1, Ordering::AcqRel) + 1;
            let left = self
                .grant_end
                .load(Ordering::Acquire)
                .saturating_sub(issued);
            if left < shared.config.block / 2 {
                self.top_up(shared);
            }
        }
    }

    pub(super) fn count_error(&self, status: crate::queue::Status) {
        use crate::queue::Status;
        let counter = match status {
            Status::BadIcv => &self.bad_icv,
            Status::Replayed | Status::TooOld => &self.replayed,
            _ => &self.errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Grants the engine in charge its next block.
    fn top_up(&self, shared: &Shared) {
        if self.topping_up.swap(true, Ordering::AcqRel) {
            return;
        }
        let route = lock(&self.route);
        let engine = match (route.engine, route.device, route.software) {
            (Engine::Device, Some(handle), _) => shared.primary.as_ref().map(|p| (p, handle)),
            (Engine::Software, _, Some(handle)) => Some((&shared.software, handle)),
            _ => None,
        };
        if let Some((accelerator, handle)) = engine
            && let Ok(grant) = self.reserve(shared)
            && let Err(SaError::Device(error)) = accelerator.amend(handle, &Amend::Grant(grant))
        {
            shared.lost(&error.to_string());
        }
        let usage = self.usage();
        shared
            .cache
            .count(self.slot, usage.packets, usage.bytes, usage.sequence);
        drop(route);
        self.topping_up.store(false, Ordering::Release);
    }

    pub(super) fn amend(&self, shared: &Shared, change: &Amend) -> Result<(), SaError> {
        if matches!(change, Amend::Grant(_) | Amend::Revoke) {
            return Err(SaError::NotApplicable {
                what: "grants are the failover's own",
            });
        }
        let mut route = lock(&self.route);
        match change {
            Amend::Lifetimes(lifetimes) => route.params.lifetimes = *lifetimes,
            Amend::Outer(outer) => route.params.outer = Some(*outer),
            Amend::Replay(seen) => lock(&self.shadow).merge(seen),
            Amend::Grant(_) | Amend::Revoke => {}
        }
        if let Some(handle) = route.software {
            shared.software.amend(handle, change)?;
        }
        if let (Some(handle), Some(primary)) = (route.device, &shared.primary)
            && let Err(error) = primary.amend(handle, change)
        {
            match error {
                SaError::Device(error) => shared.lost(&error.to_string()),
                error => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn retire(&self, shared: &Shared) -> SaUsage {
        let mut route = lock(&self.route);
        if let (Some(handle), Some(primary)) = (route.device.take(), &shared.primary) {
            lock(&shared.names).remove(&(Engine::Device, handle));
            if let Err(SaError::Device(error)) = primary.retire(handle) {
                shared.lost(&error.to_string());
            }
        }
        if let Some(handle) = route.software.take() {
            lock(&shared.names).remove(&(Engine::Software, handle));
            let _ = shared.software.retire(handle);
        }
        let _ = shared.cache.remove(self.slot);
        self.usage()
    }

    pub(super) fn usage(&self) -> SaUsage {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SaUsage {
            packets: load(&self.packets),
            bytes: load(&self.bytes),
            sequence: load(&self.sequence),
            bad_icv: load(&self.bad_icv),
            replayed: load(&self.replayed),
            errors: load(&self.errors),
        }
    }

    pub(super) fn placement(&self, shared: &Shared) -> Placement {
        let route = lock(&self.route);
        let lost = route.engine == Engine::Device && !shared.up.load(Ordering::Acquire);
        Placement {
            engine: if lost { Engine::Software } else { route.engine },
            reason: if lost {
                Some("device is lost".to_owned())
            } else {
                route.reason.clone()
            },
        }
    }
}

/// What is left of limits after so much use.
pub(super) fn left(limits: &Limits, used: &SaUsage, since: Instant) -> Limits {
    Limits {
        bytes: limits.bytes.map(|limit| limit.saturating_sub(used.bytes)),
        packets: limits
            .packets
            .map(|limit| limit.saturating_sub(used.packets)),
        time: limits
            .time
            .map(|limit| limit.saturating_sub(since.elapsed())),
    }
}

/// Our own handles.
#[derive(Default)]
pub(super) struct SaTable {
    slots: Vec<(u32, Option<Arc<Sa>>)>,
    free: Vec<u32>,
}

impl SaTable {
    pub(super) fn insert(&mut self, sa: Arc<Sa>) -> SaHandle {
        if let Some(index) = self.free.pop()
            && let Some((generation, slot)) = self.slots.get_mut(index as usize)
        {
            *slot = Some(sa);
            return SaHandle {
                index,
                generation: *generation,
            };
        }
        self.slots.push((0, Some(sa)));
        SaHandle {
            index: (self.slots.len() - 1) as u32,
            generation: 0,
        }
    }

    pub(super) fn find(&self, handle: SaHandle) -> Option<&Arc<Sa>> {
        let (generation, slot) = self.slots.get(handle.index as usize)?;
        slot.as_ref().filter(|_| *generation == handle.generation)
    }

    pub(super) fn remove(&mut self, handle: SaHandle) -> Option<Arc<Sa>> {
        let (generation, slot) = self.slots.get_mut(handle.index as usize)?;
        if *generation != handle.generation {
            return None;
        }
        let sa = slot.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(handle.index);
        Some(sa)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SaHandle, Arc<Sa>)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, (generation, slot))| {
                let handle = SaHandle {
                    index: index as u32,
                    generation: *generation,
                };
                slot.as_ref().map(|sa| (handle, sa.clone()))
            })
    }
}
