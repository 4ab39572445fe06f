// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An SA's sequence numbers: blocks that are recorded before an engine may use them.

use std::sync::atomic::Ordering;

use super::{Sa, unpack};
use crate::device::Accelerator;
use crate::error::{DeviceError, InstallError, SaError};
use crate::failover::Shared;
use crate::failover::route::{Place, Stay};
use crate::sa::{Amend, Grant, SaHandle};

impl Sa {
    /// The next block, recorded before anybody may use it, for an engine that starts with it.
    pub(super) fn reserve(&self, shared: &Shared) -> Result<Grant, InstallError> {
        let grant = self.reserve_ahead(shared)?;
        self.has_grant(grant);
        Ok(grant)
    }

    /// The next block, recorded, for an engine that may be in charge later.
    pub(super) fn reserve_ahead(&self, shared: &Shared) -> Result<Grant, InstallError> {
        let grant = shared
            .cache
            .reserve(self.slot, shared.config.block)
            .map_err(|error| DeviceError::Host {
                what: "reserving sequence numbers",
                error: error.to_string(),
            })?;
        self.record(grant).map_err(|error| DeviceError::Host {
            what: "recording sequence numbers",
            error,
        })?;
        Ok(grant)
    }

    /// The engine in charge starts with this block.
    pub(super) fn has_grant(&self, grant: Grant) {
        self.grant_first.store(grant.first, Ordering::Release);
        self.grant_end.store(grant.last, Ordering::Release);
    }

    /// Has the SA's own ledger record a block, before anybody may use it.
    fn record(&self, grant: Grant) -> Result<(), String> {
        match &self.ledger {
            Some(ledger) => ledger.record(grant.last),
            None => Ok(()),
        }
    }

    /// Whether further blocks are granted to it.
    fn gets_grants(&self) -> bool {
        self.granted && !self.frozen
    }

    /// Sees to it that the grant is topped up long before it runs dry: by the next tick when less
    /// than half a block is left besides what is on its way, at once when less than a quarter.
    pub(in crate::failover) fn watch_grant(&self, shared: &Shared, handle: SaHandle, stay: Stay) {
        if !self.gets_grants() {
            return;
        }
        let block = shared.config.block;
        // A block smaller than a burst needs several.
        for _ in 0..8 {
            let used = self
                .sequence
                .load(Ordering::Acquire)
                .max(self.grant_first.load(Ordering::Acquire).saturating_sub(1))
                .saturating_add(u64::from(stay.count));
            let left = self.grant_end.load(Ordering::Acquire).saturating_sub(used);
            if left > block / 2 {
                return;
            }
            if left > block / 4 {
                if !self.thirsty.swap(true, Ordering::AcqRel) {
                    shared.is_thirsty(handle);
                }
                return;
            }
            if !self.top_up(shared) {
                return;
            }
        }
    }

    /// What [`watch_grant`](Self::watch_grant) asked for.
    pub(in crate::failover) fn top_up_by_tick(&self, shared: &Shared, handle: SaHandle) {
        self.thirsty.store(false, Ordering::Release);
        self.top_up_soon(shared, handle);
    }

    /// Grants the next block now, or by the next tick while somebody else is at the SA: for askers who
    /// ask only once.
    pub(in crate::failover) fn top_up_soon(&self, shared: &Shared, handle: SaHandle) {
        if self.top_up(shared) || !self.gets_grants() || self.retired.load(Ordering::Acquire) {
            return;
        }
        // Elsewhere nobody uses numbers, and whoever starts there brings a block.
        let at_work = matches!(self.route.load().place, Place::Device | Place::Software);
        if at_work && !self.thirsty.swap(true, Ordering::AcqRel) {
            shared.is_thirsty(handle);
        }
    }

    /// Gives up so many numbers for good: whatever is sealed from the engine's next grant on, which is soon,
    /// has one behind them.
    ///
    /// # Errors
    /// It has no grants, or there are not so many left: then there is none left at all.
    pub(in crate::failover) fn skip(
        &self,
        shared: &Shared,
        handle: SaHandle,
        count: u64,
    ) -> Result<(), SaError> {
        const NONE_LEFT: SaError = SaError::NotApplicable {
            what: "its sequence numbers don't last so far",
        };
        if !self.gets_grants() {
            return Err(SaError::NotApplicable {
                what: "it is granted no sequence numbers",
            });
        }
        let given_up = shared.cache.reserve(self.slot, count);
        let given_up = given_up.map_err(|_| NONE_LEFT)?;
        if self.record(given_up).is_err() || given_up.last - given_up.first < count - 1 {
            return Err(NONE_LEFT);
        }
        self.top_up_soon(shared, handle);
        Ok(())
    }

    /// Grants the engine in charge its next block; false when that is not possible now.
    pub(in crate::failover) fn top_up(&self, shared: &Shared) -> bool {
        if !self.gets_grants() || self.topping_up.swap(true, Ordering::AcqRel) {
            return false;
        }
        let topped_up = self.try_top_up(shared);
        self.topping_up.store(false, Ordering::Release);
        topped_up
    }

    fn try_top_up(&self, shared: &Shared) -> bool {
        let Ok(control) = self.control.try_lock() else {
            return false;
        };
        let place = self.route.load().place;
        let life = self.device_life.load(Ordering::Acquire);
        let device = unpack(self.device.load(Ordering::Acquire));
        if !matches!(place, Place::Device | Place::Software) {
            return false;
        }
        let Ok(grant) = shared.cache.reserve(self.slot, shared.config.block) else {
            return false;
        };
        if let Err(error) = self.record(grant) {
            tracing::error!(
                error,
                "sequence numbers are not granted: they can't be recorded"
            );
            return false;
        }
        self.grant_end.store(grant.last, Ordering::Release);
        if let (Place::Software, Some(software)) = (place, self.software) {
            let change = Amend::Grant(grant);
            return shared.software.amend(software, &change).is_ok();
        }
        // A device that hangs must not keep the SA from leaving it.
        drop(control);
        let change = Amend::Grant(grant);
        match shared.with_device(life, |primary| primary.amend(device, &change)) {
            Some(Ok(())) => true,
            // It has lost this one: whoever compares finds that out, and leads it away.
            Some(Err(SaError::Stale)) => {
                tracing::error!("the device does not know an SA that is to get numbers");
                false
            }
            Some(Err(error)) => {
                if !self.retired.load(Ordering::Acquire) {
                    shared.lost(life, &error.to_string());
                }
                false
            }
            None => false,
        }
    }
}

pub(super) fn grant_to(
    engine: &dyn Accelerator,
    sa: SaHandle,
    grant: Grant,
) -> Result<(), DeviceError> {
    engine
        .amend(sa, &Amend::Grant(grant))
        .map_err(|error| DeviceError::Host {
            what: "granting sequence numbers to software",
            error: error.to_string(),
        })
}
