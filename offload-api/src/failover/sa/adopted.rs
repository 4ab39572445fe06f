// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An SA that the device carries for a process that has died. Its keys are the device's alone, so it
//! has no standby in software and no one can do its packets again; it lasts as long as the device.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::{Control, Sa, pack, shadow};
use crate::cache::CacheSlot;
use crate::carried::CarriedSa;
use crate::error::SaError;
use crate::failover::route::{Place, Route};
use crate::failover::{OffloadLevel, Shared};
use crate::sa::{Amend, Direction, SaHandle, Suite};

/// Why it is where it is.
pub(super) const REASON: &str = "adopted from an earlier process: only the device has its keys";

/// What was done about an SA's grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::failover) enum GrantFound {
    /// The device keeps to what was recorded.
    Recorded,
    /// It was granted more than was recorded: that was taken back.
    TakenBack,
}

impl Sa {
    /// Takes up an SA of the device under the slot that it has in the cache. A frozen one gets no numbers
    /// beyond those that it has.
    ///
    /// # Errors
    /// It has used numbers that were never recorded, or the device refuses to be brought into line: it
    /// is to be retired.
    pub(in crate::failover) fn adopt(
        shared: &Shared,
        life: u64,
        carried: &CarriedSa,
        suite: Suite,
        slot: CacheSlot,
        frozen: bool,
    ) -> Result<(Self, GrantFound), SaError> {
        let params = carried.params(suite);
        let outbound = carried.direction == Direction::Outbound;
        let granted = outbound && !carried.explicit;
        let recorded = shared.cache.granted_end(slot).ok_or(SaError::Stale)?;
        let mut found = GrantFound::Recorded;
        if granted {
            // `next` is the first number that was not used.
            if carried.next > recorded.saturating_add(1) {
                return Err(SaError::GrantBehind {
                    expected: carried.next,
                    found: recorded,
                });
            }
            if carried.granted > recorded && carried.left() != 0 {
                found = GrantFound::TakenBack;
                let revoked =
                    shared.with_device(life, |device| device.amend(carried.sa, &Amend::Revoke));
                revoked.unwrap_or(Err(SaError::Stale))?;
                // What was taken back is given up for good, so the next block starts behind it.
                let over = carried.granted.saturating_sub(recorded);
                let _ = shared.cache.reserve(slot, over);
            }
        }
        let used = if outbound { carried.usage.sequence } else { 0 };
        let counter = AtomicU64::new;
        let now = Instant::now();
        let sa = Self {
            level: OffloadLevel::Packet,
            slot,
            ledger: None,
            route: Route::new(Place::Device),
            // What the device counts towards the limits began with its installation there.
            control: Mutex::new(Control::new(Some(params), Some(REASON))),
            keyless: true,
            software: None,
            verifier: None,
            device: AtomicU64::new(pack(carried.sa)),
            device_life: AtomicU64::new(life),
            moving: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            // The device's own window has gone on; what it passes was not passed before.
            shadow: shadow(&carried.params(suite), true),
            replay_window: carried.replay_window,
            outbound,
            esn: carried.esn,
            bare_esp: false,
            granted,
            frozen,
            grant_first: AtomicU64::new(carried.next),
            grant_end: AtomicU64::new(if found == GrantFound::TakenBack {
                carried.next.saturating_sub(1)
            } else {
                carried.granted
            }),
            topping_up: AtomicBool::new(false),
            thirsty: AtomicBool::new(false),
            soft_told: AtomicBool::new(false),
            hard_told: AtomicBool::new(false),
            created: now.checked_sub(carried.age).unwrap_or(now),
            packets: counter(carried.usage.packets),
            bytes: counter(carried.usage.bytes),
            sequence: counter(used),
            errors: counter(carried.usage.errors),
            bad_icv: counter(carried.usage.bad_icv),
            replayed: counter(carried.usage.replayed),
        };
        if sa.needs_numbers(shared) {
            sa.top_up(shared);
        }
        Ok((sa, found))
    }

    /// Notes where it is, and whether it is being replaced: a soft limit of its own, as it were.
    pub(in crate::failover) fn note_state(&self, shared: &Shared, dying: bool) {
        self.soft_told.fetch_or(dying, Ordering::AcqRel);
        self.record_engine(shared, self.engine());
    }

    /// Whether less than half a block is left to an SA that nobody watches packet by packet.
    fn needs_numbers(&self, shared: &Shared) -> bool {
        let end = self.grant_end.load(Ordering::Acquire);
        let first = self.grant_first.load(Ordering::Acquire);
        self.granted && end.saturating_add(1).saturating_sub(first) < shared.config.block / 2
    }

    /// The device does not know it any more, though it is well itself: it goes where its level lets it,
    /// and back from there if it has keys. Whether it was there still.
    pub(in crate::failover) fn gone_from_device(
        &self,
        shared: &Shared,
        handle: SaHandle,
        device: (u64, SaHandle),
    ) -> bool {
        let mut control = self.control();
        if self.retired.load(Ordering::Acquire) || self.device_handle() != Some(device) {
            return false;
        }
        // Before anything else: nothing more goes there, and what comes from there is of an earlier stay.
        let was_there = self.route.shift(Place::Device, false, Place::Gate);
        // A life that never was: handles of it lead nowhere.
        self.device_life.store(0, Ordering::Release);
        if was_there {
            self.moving.store(false, Ordering::Release);
            self.leave_from(shared, &mut control, handle, Place::Gate);
        } else {
            self.leave(shared, &mut control, handle);
        }
        control.reason = Some("the device has lost it".into());
        true
    }
}
