// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes device and cache agree: after a restart, when the device may carry SAs of a process that has
//! died, and ever after.
//!
//! - An SA of the device that the cache knows is adopted, and goes on.
//! - One that the cache does not know is retired: nobody would ever rekey or remove it.
//! - So is one that software was in charge of when its process died: the device knows neither the numbers
//!   that software has used since nor the packets that it has delivered.
//! - One of the cache that no engine carries is removed: its keys went with the process before.
//! - Where the device was granted more than was recorded the record counts (the sequence law): the rest
//!   is taken back, or the SA retired where it has used such numbers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::sa::{GrantFound, Sa};
use super::{Failover, Shared, lock};
use crate::cache::{CacheEntry, CacheReader, CacheSlot, SaState};
use crate::carried::CarriedSa;
use crate::error::{DeviceError, SaError};
use crate::event::Engine;
use crate::sa::SaHandle;

/// SAs that one call asks the device for.
const AT_ONCE: usize = 256;

/// An SA that an earlier process had installed and that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Its handle from now on.
    pub sa: SaHandle,
    /// What the cache knows of it, its owner's name for it above all.
    pub entry: CacheEntry,
    /// It was being replaced already.
    pub dying: bool,
}

/// What a comparison of device and cache came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// SAs of the device that the cache knew, taken up.
    pub adopted: u64,
    /// SAs of the device that the cache did not know, or that had used numbers never recorded: retired.
    pub orphans: u64,
    /// SAs that were to be in the device and were not.
    pub gone: u64,
    /// Grants of the device beyond what was recorded, taken back.
    pub grants_taken_back: u64,
}

impl Reconciled {
    fn add(&mut self, other: Self) {
        self.adopted += other.adopted;
        self.orphans += other.orphans;
        self.gone += other.gone;
        self.grants_taken_back += other.grants_taken_back;
    }
}

/// The name that an SA has in the device: its slot in the cache. Never 0, the name of nobody.
pub(super) fn cookie(slot: CacheSlot) -> u64 {
    (u64::from(slot.index) + 1) << 32 | u64::from(slot.generation)
}

fn slot(cookie: u64) -> Option<CacheSlot> {
    let index = ((cookie >> 32) as u32).checked_sub(1)?;
    let generation = cookie as u32;
    Some(CacheSlot { index, generation })
}

impl Failover {
    /// Takes up what an earlier process has left: to be called once, before the first SA is installed,
    /// with a cache that was taken over, and with a device that was attached to or one that is new.
    /// `has_ledger` tells SAs that were installed with a [`NumberLedger`](super::NumberLedger), which went
    /// with the earlier process: they use up the numbers that were recorded, and get no more.
    ///
    /// # Errors
    /// The device fails on the way. It is lost then, and its SAs with it.
    pub fn adopt(
        &self,
        has_ledger: impl Fn(&CacheEntry) -> bool,
    ) -> Result<Vec<Adopted>, DeviceError> {
        let shared = &*self.shared;
        let mut known: HashMap<CacheSlot, CacheEntry> =
            shared.cache.recovery().live.iter().cloned().collect();
        let mut adopted = Vec::new();
        let mut count = Reconciled::default();
        let life = shared.life();
        let reader = shared.cache.read_only_fd().ok();
        let reader = reader.and_then(|fd| CacheReader::open(fd).ok());
        let carried = each_carried(shared, life, 0, usize::MAX, |carried| {
            let place = slot(carried.cookie).filter(|slot| known.contains_key(slot));
            let entry = place.and_then(|slot| Some((slot, known.get(&slot)?.clone())));
            let was = place.and_then(|slot| reader.as_ref()?.slot(slot.index).ok());
            // Where that can't be read, software may have gone on behind the device's back.
            let in_charge = was
                .as_ref()
                .is_some_and(|was| was.engine == Some(Engine::Device));
            match entry.filter(|_| in_charge).and_then(|(slot, entry)| {
                let (sa, found) = take_up(shared, life, carried, slot, &entry, has_ledger(&entry))?;
                Some((slot, entry, sa, found))
            }) {
                Some((slot, entry, sa, found)) => {
                    known.remove(&slot);
                    count.adopted += 1;
                    count.grants_taken_back += u64::from(found == GrantFound::TakenBack);
                    let sa = Arc::new(sa);
                    let handle = shared.write_table().insert(sa.clone());
                    sa.name(shared, handle);
                    let dying = was.is_some_and(|was| was.state != Some(SaState::Mature));
                    sa.note_state(shared, dying);
                    adopted.push(Adopted {
                        sa: handle,
                        entry,
                        dying,
                    });
                }
                None => {
                    count.orphans += 1;
                    retire(shared, life, carried)?;
                }
            }
            Ok(())
        });
        for (slot, entry) in known {
            tracing::info!(spi = %entry.spi, direction = ?entry.direction, "SA went with the process before");
            count.gone += 1;
            shared.cache.remove(slot);
        }
        lock(&shared.statistics).reconciled.add(count);
        tracing::info!(
            adopted = count.adopted,
            orphans = count.orphans,
            gone = count.gone,
            grants_taken_back = count.grants_taken_back,
            "device and cache compared"
        );
        carried.map(|_| adopted)
    }

    /// Notes in the cache that an SA is being replaced, for whoever adopts it should this process die.
    ///
    /// # Errors
    /// [`SaError::Stale`].
    pub fn replace(&self, sa: SaHandle) -> Result<(), SaError> {
        self.shared.sa(sa)?.note_state(&self.shared, true);
        Ok(())
    }

    /// Compares a part of the device and of the cache, the next part with the next call; to be called
    /// about once a second. Costs some hundred commands to the device at most.
    ///
    /// # Errors
    /// The device fails on the way; it is lost then.
    pub fn reconcile(&self) -> Result<Reconciled, DeviceError> {
        let shared = &*self.shared;
        let mut count = Reconciled::default();
        let life = shared.life();
        if life.is_multiple_of(2) {
            return Ok(count);
        }
        // First the device, then the cache: an SA is entered in the cache before it is installed, and
        // removed there after it was retired.
        let from = shared.compared.load(Ordering::Relaxed);
        let last = each_carried(shared, life, from, AT_ONCE, |carried| {
            let known = slot(carried.cookie);
            let known = known.and_then(|slot| shared.cache.granted_end(slot));
            if known.is_none() {
                count.orphans += u64::from(retire(shared, life, carried)?);
            }
            Ok(())
        })?;
        let next = last.map_or(0, |last| last.saturating_add(1));
        shared.compared.store(next, Ordering::Relaxed);

        let first = shared.asked.load(Ordering::Relaxed);
        let slots = shared.read_table().slots();
        let first = if first < slots { first } else { 0 };
        for (handle, sa) in shared.read_table().range(first, AT_ONCE) {
            let Some(device) = sa.device_handle().filter(|(of, _)| *of == life) else {
                continue;
            };
            let asked = shared.with_device(life, |primary| primary.usage(device.1));
            if matches!(asked, Some(Err(SaError::Stale)))
                && sa.gone_from_device(shared, handle, device)
            {
                count.gone += 1;
                tracing::error!(?handle, "the device has lost an SA");
            }
        }
        shared.asked.store(first + AT_ONCE, Ordering::Relaxed);
        lock(&shared.statistics).reconciled.add(count);
        Ok(count)
    }
}

/// Shows `visit` SAs of the device from an index on, as many as that; the index of the last one where
/// there may be more.
fn each_carried(
    shared: &Shared,
    life: u64,
    from: u32,
    most: usize,
    mut visit: impl FnMut(&CarriedSa) -> Result<(), DeviceError>,
) -> Result<Option<u32>, DeviceError> {
    let primary = shared.primary.as_ref();
    let max_sas = primary.map_or(0, |primary| primary.capabilities().max_sas);
    let mut next = from;
    let mut seen = 0;
    while seen < most {
        let at_once = AT_ONCE.min(most - seen);
        let told = shared.with_device(life, |primary| primary.carried(next, at_once));
        let told = match told {
            None => return Ok(None),
            Some(Ok(told)) => told,
            Some(Err(error)) => {
                shared.lost(life, &error.to_string());
                return Err(error);
            }
        };
        if told.is_empty() {
            return Ok(None);
        }
        for carried in &told {
            let index = carried.sa.index;
            // One that goes back, or stays at its end, would keep us for ever.
            if !(next..max_sas).contains(&index) {
                let error = DeviceError::Protocol {
                    what: format!("an SA at index {index}, expected {next} to {max_sas}"),
                };
                shared.lost(life, &error.to_string());
                return Err(error);
            }
            next = index + 1;
            visit(carried)?;
        }
        seen += told.len();
    }
    Ok(next.checked_sub(1))
}

/// An SA of the device as ours, if it is the one that the cache knows under its name.
fn take_up(
    shared: &Shared,
    life: u64,
    carried: &CarriedSa,
    slot: CacheSlot,
    entry: &CacheEntry,
    frozen: bool,
) -> Option<(Sa, GrantFound)> {
    let same = entry.spi == carried.spi
        && entry.direction == carried.direction
        && entry.mode == carried.mode
        && entry.esn == carried.esn
        && Some(entry.suite) == carried.suite;
    if !same || carried.draining {
        return None;
    }
    match Sa::adopt(shared, life, carried, entry.suite, slot, frozen) {
        Ok(adopted) => Some(adopted),
        Err(error) => {
            tracing::error!(spi = %carried.spi, %error, "an SA can't be adopted");
            None
        }
    }
}

/// Retires an SA that nobody knows; false where it has gone meanwhile.
fn retire(shared: &Shared, life: u64, carried: &CarriedSa) -> Result<bool, DeviceError> {
    let spi = carried.spi;
    match shared.with_device(life, |primary| primary.retire(carried.sa)) {
        Some(Ok(_)) => {
            tracing::warn!(%spi, direction = ?carried.direction, "an SA of the device that nobody knows: retired");
            Ok(true)
        }
        Some(Err(SaError::Device(error))) => {
            shared.lost(life, &error.to_string());
            Err(error)
        }
        Some(Err(_)) | None => Ok(false),
    }
}
