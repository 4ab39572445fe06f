// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two accelerators as one: a device that may vanish at any instruction, and software that takes over
//! without losing or repeating a sequence number.
//!
//! Each SA lives in one engine at a time. An outbound SA's numbers come in blocks that the
//! [`SA cache`](crate::cache) records before an engine is granted them; whoever takes over gets a
//! new block, so that it needs no word from the engine before. Every inbound packet that either
//! engine opens passes the SA's *shadow window* here before it is delivered, so that nothing is
//! delivered twice, and a taker-over starts from that window.
//!
//! The device is trusted as far as it can be checked: a number that it was not granted, or used
//! twice, never leaves, and one in so many packets is done again in software. A device that was
//! caught is [quarantined](Failover::quarantine).

mod check;
mod inline;
mod ledger;
mod names;
mod queue;
mod reconcile;
mod route;
mod sa;
mod shared;
mod table;
mod trust;
mod wait;

#[cfg(test)]
mod tests;

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::cache::{CacheEntry, CacheWriter, InsertError, SaLabel};
use crate::capability::{Capabilities, Features};
use crate::device::{Accelerator, AcceleratorInfo, Counters, Health};
use crate::error::{DeviceError, InstallError, OpenQueueError, SaError, Unsupported};
use crate::event::{Engine, Event};
use crate::frame::FramePool;
use crate::inline::Inline;
use crate::queue::{QueueConfig, QueuePair};
use crate::sa::{Amend, Mode, Numbering, OuterHeaders, SaHandle, SaParams, SaUsage};

pub use ledger::NumberLedger;
pub use reconcile::{Adopted, Reconciled};

use sa::Sa;
use shared::Shared;
use trust::Trust;

/// Device and software as one accelerator. Cloning shares it.
#[derive(Clone)]
pub struct Failover {
    shared: Arc<Shared>,
}

/// How a failover is set up.
#[derive(Clone, Copy, Debug)]
pub struct FailoverConfig {
    /// Sequence numbers granted at once: the most that a crash can skip.
    pub block: u64,
    /// One in so many of the device's packets is done again in software and compared; 0 for none.
    pub sample: u32,
    /// How long a device that was lost is left alone.
    pub hold_off: HoldOff,
}

impl Default for FailoverConfig {
    fn default() -> Self {
        Self {
            block: 1 << 16,
            sample: 32,
            hold_off: HoldOff::default(),
        }
    }
}

/// How long a device that was lost is left alone before it is taken back: longer each time that it
/// is lost again soon, so that one that flaps does not take the traffic along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldOff {
    /// After a first loss.
    pub first: Duration,
    /// At most; each loss that comes too soon doubles what was before.
    pub longest: Duration,
    /// How long a device stays up to count as well again.
    pub well_after: Duration,
}

impl HoldOff {
    /// It is taken back as soon as it is there.
    pub const NONE: Self = Self {
        first: Duration::ZERO,
        longest: Duration::ZERO,
        well_after: Duration::ZERO,
    };
}

impl Default for HoldOff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            longest: Duration::from_secs(60),
            well_after: Duration::from_secs(10),
        }
    }
}

/// How far an SA may be offloaded, in strongSwan's words. Only [`Auto`](Self::Auto) falls back; the
/// named levels fail loudly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OffloadLevel {
    /// Software only.
    No,
    /// The device does the cryptography or more.
    Crypto,
    /// The device does all of ESP.
    Packet,
    /// The device where it can, software where it can't.
    #[default]
    Auto,
}

/// Where an SA lives, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The engine.
    pub engine: Engine,
    /// Why it is not in the device, if it is not.
    pub reason: Option<String>,
}

/// What has happened to the device so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailoverStatistics {
    /// Times the device was lost.
    pub losses: u64,
    /// Times SAs returned to it.
    pub returns: u64,
    /// Nanoseconds from noticing the last loss to the first packet sealed or opened in software.
    pub last_fallback_ns: u64,
    /// Operations that came back aborted from a lost device.
    pub aborted: u64,
    /// Inbound packets that an engine passed but that had been delivered before.
    pub shadow_replays: u64,
    /// Packets of the device that were done again in software.
    pub checked: u64,
    /// Those that came out otherwise.
    pub mismatches: u64,
    /// What comparing device and cache came to.
    pub reconciled: Reconciled,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Failover {
    /// Joins a device, if there is one, and software; numbers are recorded in `cache`.
    pub fn new(
        primary: Option<Arc<dyn Accelerator>>,
        software: Arc<dyn Accelerator>,
        cache: Arc<CacheWriter>,
        config: FailoverConfig,
    ) -> Self {
        Self {
            shared: Arc::new(Shared::new(primary, software, cache, config)),
        }
    }

    /// [`Accelerator::install`] at a level of offload; plain `install` is [`OffloadLevel::Auto`].
    /// `label` is recorded in the cache; a number alone is its owner's for it.
    ///
    /// # Errors
    /// As `install`; a named level fails where `Auto` would use software.
    pub fn install_at(
        &self,
        level: OffloadLevel,
        sa: &SaParams,
        label: impl Into<SaLabel>,
    ) -> Result<SaHandle, InstallError> {
        self.install_recorded(level, sa, label, None)
    }

    /// As [`install_at`](Self::install_at), and `ledger` records an outbound SA's numbers too.
    ///
    /// # Errors
    /// As there, and what the ledger has.
    pub fn install_recorded(
        &self,
        level: OffloadLevel,
        sa: &SaParams,
        label: impl Into<SaLabel>,
        ledger: Option<Arc<dyn NumberLedger>>,
    ) -> Result<SaHandle, InstallError> {
        sa.validate()?;
        let shared = &*self.shared;
        if sa.mode == Mode::Crypto {
            // There would be nothing that a taker-over could go on with.
            let feature = Features::CRYPTO;
            return Err(Unsupported::Feature { feature }.into());
        }
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let entry = CacheEntry::new(sa, &label.into(), since_1970.as_secs());
        // A caller that counted before (a restart) says so by its first grant.
        let used = match sa.numbering {
            Numbering::Granted(Some(grant)) => grant.first - 1,
            _ => 0,
        };
        let slot = shared
            .cache
            .insert(&entry, Engine::Software, used)
            .map_err(|InsertError::Full { capacity }| InstallError::TableFull { capacity })?;
        let installed = Sa::install(shared, level, sa, slot, ledger);
        let sa = match installed {
            Ok(sa) => sa,
            Err(error) => {
                shared.cache.remove(slot);
                return Err(error);
            }
        };
        let sa = Arc::new(sa);
        let handle = shared.write_table().insert(sa.clone());
        sa.name(shared, handle);
        Ok(handle)
    }

    /// Leaves out so many numbers of an outbound SA: what is sealed soon after has higher ones.
    ///
    /// # Errors
    /// [`SaError::Stale`], or [`SaError::NotApplicable`]: it is not granted numbers, or does not have so
    /// many left and is to be replaced.
    pub fn skip(&self, sa: SaHandle, count: NonZeroU64) -> Result<(), SaError> {
        let shared = &self.shared;
        shared.sa(sa)?.skip(shared, sa, count.get())
    }

    /// Records in the cache where an SA goes whose outer headers somebody else puts on.
    ///
    /// # Errors
    /// [`SaError::Stale`].
    pub fn note_path(&self, sa: SaHandle, path: &OuterHeaders) -> Result<(), SaError> {
        self.shared.sa(sa)?.note_path(&self.shared, path);
        Ok(())
    }

    /// Where an SA lives.
    ///
    /// # Errors
    /// [`SaError::Stale`].
    pub fn placement(&self, sa: SaHandle) -> Result<Placement, SaError> {
        let sa = self.shared.sa(sa)?;
        Ok(sa.placement(&self.shared))
    }

    /// Whether a device is there and carries SAs.
    pub fn device_up(&self) -> bool {
        self.shared.life() % 2 == 1
    }

    /// What has happened so far.
    pub fn statistics(&self) -> FailoverStatistics {
        *lock(&self.shared.statistics)
    }

    /// Why the device is quarantined, if it is.
    pub fn quarantine(&self) -> Option<String> {
        lock(&self.shared.trust).quarantine().map(str::to_owned)
    }

    /// Lets a quarantined or held-off device be taken back at once.
    pub fn release(&self) {
        *lock(&self.shared.trust) = Trust::default();
    }

    /// Where SAs and their numbers are recorded.
    pub fn cache(&self) -> &CacheWriter {
        &self.shared.cache
    }

    /// The device, for its own counters.
    pub fn primary(&self) -> Option<&Arc<dyn Accelerator>> {
        self.shared.primary.as_ref()
    }

    /// The software engine, for its own counters.
    pub fn software(&self) -> &Arc<dyn Accelerator> {
        &self.shared.software
    }

    /// Every SA and where it lives.
    pub fn placements(&self) -> Vec<(SaHandle, Placement)> {
        let sas = self.shared.read_table().all();
        sas.into_iter()
            .map(|(handle, sa)| (handle, sa.placement(&self.shared)))
            .collect()
    }

    /// To be called every few milliseconds: notices a lost device even without traffic, so that
    /// sleeping queues come back, and looks after SAs that carry none.
    pub fn tick(&self) {
        let shared = &*self.shared;
        shared.cache.beat();
        shared.check_health();
        shared.look_after();
    }

    /// Brings a lost device back, if it can be: resets it, installs every SA anew, and lets each
    /// move to it once nothing of it is on its way in software. May take milliseconds; traffic goes
    /// on in software meanwhile.
    ///
    /// # Errors
    /// The device does not come back, or is not to be taken back yet.
    pub fn try_return(&self) -> Result<(), DeviceError> {
        self.shared.try_return()
    }
}

impl Accelerator for Failover {
    fn info(&self) -> AcceleratorInfo {
        match &self.shared.primary {
            Some(primary) => primary.info(),
            None => self.shared.software.info(),
        }
    }

    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    fn register_pool(&self, pool: &FramePool) -> Result<(), DeviceError> {
        let shared = &*self.shared;
        shared.software.register_pool(pool)?;
        let mut pools = lock(&shared.pools);
        if !pools.iter().any(|known| known.id() == pool.id()) {
            pools.push(pool.clone());
        }
        drop(pools);
        let life = shared.life();
        let registered = shared.with_device(life, |primary| primary.register_pool(pool));
        if let Some(Err(error)) = registered {
            shared.lost(life, &error.to_string());
        }
        Ok(())
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        Ok(Box::new(queue::FailoverQueue::open(
            self.shared.clone(),
            *config,
        )?))
    }

    fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError> {
        self.install_at(OffloadLevel::Auto, sa, 0)
    }

    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError> {
        self.shared.sa(sa)?.amend(&self.shared, change)
    }

    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        let removed = self.shared.write_table().remove(sa).ok_or(SaError::Stale)?;
        Ok(removed.retire(&self.shared))
    }

    fn usage(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        Ok(self.shared.sa(sa)?.usage())
    }

    fn poll_events(&self, out: &mut Vec<Event>) -> usize {
        let before = out.len();
        self.shared.collect_events();
        out.append(&mut lock(&self.shared.events));
        out.len() - before
    }

    fn inline(&self) -> Option<&dyn Inline> {
        let device = self.shared.primary.as_ref()?;
        device.inline().map(|_| -> &dyn Inline { self })
    }

    fn counters(&self) -> Counters {
        let software = self.shared.software.counters();
        let device = self
            .shared
            .primary
            .as_ref()
            .map(|primary| primary.counters());
        let device = device.unwrap_or_default();
        Counters {
            sealed: software.sealed.saturating_add(device.sealed),
            sealed_bytes: software.sealed_bytes.saturating_add(device.sealed_bytes),
            opened: software.opened.saturating_add(device.opened),
            opened_bytes: software.opened_bytes.saturating_add(device.opened_bytes),
            errors: software.errors.saturating_add(device.errors),
            aborted: software.aborted.saturating_add(device.aborted),
            bogus_completions: software
                .bogus_completions
                .saturating_add(device.bogus_completions),
            sas: self.shared.read_table().len() as u64,
        }
    }

    fn health(&self) -> Health {
        Health::Ok
    }

    fn reset(&self) -> Result<(), DeviceError> {
        let handles: Vec<_> = self
            .shared
            .read_table()
            .all()
            .into_iter()
            .map(|(handle, _)| handle)
            .collect();
        for handle in handles {
            let _ = self.retire(handle);
        }
        Ok(())
    }
}
