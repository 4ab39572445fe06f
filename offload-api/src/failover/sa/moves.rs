// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An SA's way from one engine to the other.

use std::sync::TryLockError;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::entry::Entry;
use super::grants::grant_to;
use super::{Control, Sa, lifetimes_left, unpack};
use crate::event::{Engine, Event};
use crate::failover::route::{Place, Stay};
use crate::failover::{Shared, lock};
use crate::sa::{Amend, Lifetimes, SaHandle, SaUsage};

/// Where an operation shall go.
pub(in crate::failover) enum Target {
    /// The handle holds for this life of the device.
    Device {
        handle: SaHandle,
        life: u64,
        stay: Stay,
    },
    Software {
        handle: SaHandle,
        stay: Stay,
    },
    /// A named level of offload has lost its device.
    Nowhere,
    /// The SA is on its way between engines: try again soon.
    Wait,
}

/// Why an SA was not handed to the device.
enum HandOver {
    /// No number is left to start with; software still has those of its block.
    NoNumbers(String),
    /// The device failed, and software has stopped.
    Device(String),
}

impl Sa {
    /// Takes an operation on its way and tells whither. Moves the SA to software when its device is
    /// lost, and to the device when its turn has come.
    pub(in crate::failover) fn target(&self, shared: &Shared, handle: SaHandle) -> Target {
        loop {
            if self.moving.load(Ordering::Acquire) && !self.finish_move(shared, handle) {
                return Target::Wait;
            }
            let stay = match self.route.acquire() {
                Ok(stay) => stay,
                Err(Place::Nowhere) => return Target::Nowhere,
                Err(_) => return Target::Wait,
            };
            match (stay.place, self.software) {
                (Place::Software, Some(handle)) => return Target::Software { handle, stay },
                (Place::Device, _) => {}
                _ => {
                    self.route.release(stay.number);
                    return Target::Nowhere;
                }
            }
            let life = self.device_life.load(Ordering::Acquire);
            let device = unpack(self.device.load(Ordering::Acquire));
            // Both belong to this stay only if it lasts still.
            fence(Ordering::Acquire);
            if life == shared.life() && self.route.load().number == stay.number {
                return Target::Device {
                    handle: device,
                    life,
                    stay,
                };
            }
            self.route.release(stay.number);
            if !self.try_leave_device(shared, handle) {
                return Target::Wait;
            }
        }
    }

    /// An operation of a stay has come home.
    pub(in crate::failover) fn release(&self, shared: &Shared, handle: SaHandle, stay: u32) {
        if self.route.release(stay) == Some(0) && self.moving.load(Ordering::Acquire) {
            self.finish_move(shared, handle);
        }
    }

    /// Moves it to software if its device is lost; false while somebody else is at the SA.
    fn try_leave_device(&self, shared: &Shared, handle: SaHandle) -> bool {
        match self.control.try_lock() {
            Ok(mut control) => self.leave(shared, &mut control, handle),
            Err(TryLockError::Poisoned(control)) => {
                self.leave(shared, &mut control.into_inner(), handle);
            }
            Err(TryLockError::WouldBlock) => return false,
        }
        true
    }

    /// Moves it to software if its device is lost.
    pub(in crate::failover) fn leave_device(&self, shared: &Shared, handle: SaHandle) {
        self.leave(shared, &mut self.control(), handle);
    }

    pub(super) fn leave(&self, shared: &Shared, control: &mut Control, handle: SaHandle) {
        let life = self.device_life.load(Ordering::Acquire);
        if life == shared.life() {
            return;
        }
        self.moving.store(false, Ordering::Release);
        if self.route.load().place != Place::Device {
            return;
        }
        self.leave_from(shared, control, handle, Place::Device);
    }

    /// Leads an SA, which nothing more is given to the device of, to where it goes without one.
    pub(super) fn leave_from(
        &self,
        shared: &Shared,
        control: &mut Control,
        handle: SaHandle,
        from: Place,
    ) {
        let old = unpack(self.device.load(Ordering::Acquire));
        lock(&shared.names).remove(Engine::Device, old);
        control.reason = Some(shared.device_absence().into());
        // An SA of an earlier life of a device that is back: have it looked after.
        shared.strays.store(true, Ordering::Release);
        let Some(software) = self.software else {
            self.route.shift(from, false, Place::Nowhere);
            return;
        };
        self.ready_software(shared, control, software);
        self.route.shift(from, false, Place::Software);
        self.moved(shared, handle, Engine::Software);
    }

    /// Gives software what it needs to go on: a new block of numbers, or what was delivered.
    pub(super) fn ready_software(&self, shared: &Shared, control: &Control, software: SaHandle) {
        if self.granted {
            let granted = self
                .reserve(shared)
                .and_then(|grant| Ok(grant_to(&*shared.software, software, grant)?));
            if let Err(error) = granted {
                tracing::error!(%error, "outbound SA gets no sequence numbers in software");
            }
        } else if self.guards_replays() {
            let seen = Amend::Replay(self.seen());
            let _ = shared.software.amend(software, &seen);
        }
        let kept = control.kept.as_ref();
        if let Some(lifetimes) = kept.map(|kept| &kept.params.lifetimes)
            && *lifetimes != Lifetimes::default()
        {
            let left = self.lifetimes_in_software(shared, software, lifetimes);
            let _ = shared.software.amend(software, &Amend::Lifetimes(left));
        }
    }

    /// Software has counted its own packets only; those of the device are spent.
    pub(super) fn lifetimes_in_software(
        &self,
        shared: &Shared,
        software: SaHandle,
        lifetimes: &Lifetimes,
    ) -> Lifetimes {
        let total = self.usage();
        let own = shared.software.usage(software).unwrap_or_default();
        let elsewhere = SaUsage {
            packets: total.packets.saturating_sub(own.packets),
            bytes: total.bytes.saturating_sub(own.bytes),
            ..SaUsage::default()
        };
        lifetimes_left(lifetimes, &elsewhere, Duration::ZERO)
    }

    /// Leads a moving SA to the device, if nothing of it is on its way in software. False while the
    /// caller has to wait for that.
    pub(in crate::failover) fn finish_move(&self, shared: &Shared, handle: SaHandle) -> bool {
        let mut control = match self.control.try_lock() {
            Ok(control) => control,
            Err(TryLockError::Poisoned(control)) => control.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if !self.moving.load(Ordering::Acquire) {
            return true;
        }
        let life = self.device_life.load(Ordering::Acquire);
        if life != shared.life() {
            self.moving.store(false, Ordering::Release);
            shared.strays.store(true, Ordering::Release);
            return true;
        }
        let from = self.route.load().place;
        if !matches!(from, Place::Software | Place::Nowhere)
            || !self.route.shift(from, true, Place::Gate)
        {
            return false;
        }
        self.moving.store(false, Ordering::Release);
        let error = match self.hand_to_device(shared, &mut control, life) {
            Ok(()) => {
                self.route.shift(Place::Gate, false, Place::Device);
                self.moved(shared, handle, Engine::Device);
                return true;
            }
            Err(HandOver::NoNumbers(error)) => error,
            Err(HandOver::Device(error)) => {
                shared.lost(life, &error);
                if let (Place::Software, Some(software)) = (from, self.software) {
                    self.ready_software(shared, &control, software);
                }
                error
            }
        };
        control.reason = Some(error.into());
        self.route.shift(Place::Gate, false, from);
        true
    }

    /// Software stops before the device starts: one owner of the sequence space at a time.
    fn hand_to_device(
        &self,
        shared: &Shared,
        control: &mut Control,
        life: u64,
    ) -> Result<(), HandOver> {
        let device = unpack(self.device.load(Ordering::Acquire));
        let given = control.take_entry();
        let change = if self.granted {
            let (grant, is_there) = match given {
                // Nobody has numbers beyond those that it was installed with.
                Entry::Numbers(grant)
                    if shared.cache.granted_end(self.slot) == Some(grant.last) =>
                {
                    self.has_grant(grant);
                    (grant, true)
                }
                _ => {
                    let grant = self
                        .reserve(shared)
                        .map_err(|error| HandOver::NoNumbers(error.to_string()))?;
                    (grant, false)
                }
            };
            if let Some(software) = self.software {
                let _ = shared.software.amend(software, &Amend::Revoke);
            }
            if is_there {
                return Ok(());
            }
            Amend::Grant(grant)
        } else if self.guards_replays() {
            let seen = self.seen();
            if given == Entry::Window(seen.clone()) {
                return Ok(());
            }
            Amend::Replay(seen)
        } else {
            return Ok(());
        };
        match shared.with_device(life, |primary| primary.amend(device, &change)) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(HandOver::Device(error.to_string())),
            None => Err(HandOver::Device(shared.device_absence())),
        }
    }

    pub(super) fn moved(&self, shared: &Shared, handle: SaHandle, engine: Engine) {
        self.record_engine(shared, engine);
        lock(&shared.events).push(Event::Moved { sa: handle, engine });
    }
}
