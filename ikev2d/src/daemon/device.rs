// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The accelerator behind the failover, and the thread that brings it back.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use driver::{Card, DeviceAddress};
use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::cache::CacheWriter;
use offload_api::device::{Accelerator, Health};
use offload_api::error::DeviceError;
use offload_api::failover::{Adopted, Failover, FailoverConfig};

use crate::config::DeviceSetting;
use crate::kept::{self, Kept};
use crate::manual;
use crate::vici::message::Section;

/// Between looks at the device.
const WATCH: Duration = Duration::from_millis(5);
/// The same where there is no device to watch, only counters to record.
const REST: Duration = Duration::from_millis(20);
/// Between comparisons of the device and the SA cache.
const RECONCILE: Duration = Duration::from_secs(1);
/// How long a service manager may take to let go of a card.
const PARTING: Duration = Duration::from_secs(2);
/// Between attempts to bring a lost device back, growing.
const RETRY: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_millis(500);

/// The engines.
pub(crate) struct Devices {
    pub(crate) failover: Failover,
    /// The device itself, under its failover.
    card: Option<Card>,
    /// The life of the card whose connection the service manager holds; 0 for none.
    kept_life: u64,
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

impl Devices {
    /// Opens the configured device and the software engine, or goes on with what an earlier process has
    /// left of them: the SAs that the device still carries. `adopts` says whether they are of use.
    /// The software engine spreads large bursts over `threads`, which stay awake for them as `busy_poll` tells.
    pub(crate) fn open(
        setting: &DeviceSetting,
        (threads, busy_poll): (usize, Duration),
        config: FailoverConfig,
        capacity: u32,
        mut kept: Kept,
        adopts: bool,
    ) -> anyhow::Result<(Self, Vec<Adopted>)> {
        let software = SoftwareEngine::new(SoftwareConfig {
            threads,
            busy_poll,
            ..SoftwareConfig::default()
        })?;
        let inherited = kept.take(kept::CACHE).and_then(take_over);
        let cache = match inherited {
            Some(cache) => cache,
            None => {
                let cache = CacheWriter::create("esplanade-sa-cache", capacity)
                    .context("daemon.sa_cache.capacity")?;
                kept::keep(kept::CACHE, cache.fd());
                cache
            }
        };
        let mut kept_life = 0;
        let card = match setting {
            DeviceSetting::Software => {
                forget_card();
                None
            }
            DeviceSetting::Card(address) => {
                let (card, attached) = open_card(address, kept.rest()).with_context(|| {
                    format!("accelerator {address} (use device = \"software\" to go without)")
                })?;
                let info = card.accelerator().info();
                tracing::info!(
                    name = info.name,
                    product = info.product,
                    firmware = info.firmware,
                    "accelerator opened"
                );
                // What was attached to is held already.
                kept_life = match card.ipa() {
                    Some(card) if attached => card.lives(),
                    _ => 0,
                };
                Some(card)
            }
        };
        let primary = card.as_ref().map(Card::accelerator);
        let failover = Failover::new(primary, Arc::new(software), Arc::new(cache), config);
        let mut adopted = failover.adopt(manual::has_ledger).unwrap_or_else(|error| {
            tracing::error!(%error, "the accelerator failed while its SAs were taken up");
            Vec::new()
        });
        if !adopts {
            // Their packets would pass this process, which has no policy for them.
            for Adopted { sa, .. } in adopted.drain(..) {
                let _ = failover.retire(sa);
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (failover.clone(), stop.clone());
        let keeper = std::thread::Builder::new()
            .name("device-keeper".to_owned())
            .spawn(move || keep(&kept, &stopped))?;
        let mut devices = Self {
            failover,
            card,
            kept_life,
            stop,
            keeper: Some(keeper),
        };
        devices.keep();
        Ok((devices, adopted))
    }

    /// Has the service manager hold the card's connection, once for each life of the card.
    pub(crate) fn keep(&mut self) {
        // What a QAT has of an SA is its driver's: there is nothing to go on with.
        let Some(card) = self.card.as_ref().and_then(Card::ipa) else {
            return;
        };
        let life = card.lives();
        if life == self.kept_life {
            return;
        }
        // A card that is lost comes back with another life.
        if let Ok(connection) = card.kept() {
            for (name, fd) in connection {
                kept::keep(name, fd.as_fd());
            }
            self.kept_life = life;
        }
    }

    /// The next process begins anew: this one ends in good order.
    pub(crate) fn forget(&self) {
        forget_card();
        kept::forget(kept::CACHE);
    }

    /// Lets a quarantined or held-off accelerator be taken back.
    pub(crate) fn release(&self) -> Result<(), String> {
        if self.failover.primary().is_none() {
            return Err("there is no accelerator: the daemon runs in software only".to_owned());
        }
        self.failover.release();
        self.failover
            .try_return()
            .map_err(|error| error.to_string())
    }

    /// The card of this name.
    pub(crate) fn card(&self, name: Option<&str>) -> Result<Card, String> {
        let card = self
            .card
            .as_ref()
            .ok_or("there is no card, only software")?;
        let known = card.accelerator().info().name;
        match name {
            Some(name) if name != known => Err(format!("no card {name:?}; there is {known:?}")),
            _ => Ok(card.clone()),
        }
    }

    /// The answer to `devices`.
    pub(crate) fn section(&self) -> Section {
        let mut all = Section::default();
        let statistics = self.failover.statistics();
        let engines = self
            .failover
            .primary()
            .into_iter()
            .chain([self.failover.software()]);
        for (at, engine) in engines.enumerate() {
            let (info, counters) = (engine.info(), engine.counters());
            let is_device = at == 0 && self.failover.primary().is_some();
            let mut section = Section::default();
            section.put("product", &info.product);
            section.put("driver", &info.driver);
            section.put("firmware", &info.firmware);
            let health = match engine.health() {
                Health::Ok => "ok".to_owned(),
                Health::Resetting => "resetting".to_owned(),
                Health::Lost { reason } => format!("lost: {reason}"),
            };
            let quarantine = self.failover.quarantine().filter(|_| is_device);
            let health = quarantine.map_or(health, |reason| format!("quarantined: {reason}"));
            section.put("health", health);
            section.put("sas", counters.sas);
            section.put("sealed", counters.sealed);
            section.put("sealed-bytes", counters.sealed_bytes);
            section.put("opened", counters.opened);
            section.put("opened-bytes", counters.opened_bytes);
            section.put("errors", counters.errors);
            section.put("aborted", counters.aborted);
            section.put("bogus-completions", counters.bogus_completions);
            if is_device {
                section.put("lost-count", statistics.losses);
                section.put("returned-count", statistics.returns);
                section.put("last-fallback-us", statistics.last_fallback_ns / 1000);
                section.put("checked", statistics.checked);
                section.put("mismatches", statistics.mismatches);
                section.put("shadow-replays", statistics.shadow_replays);
                let reconciled = statistics.reconciled;
                section.put("adopted", reconciled.adopted);
                section.put("orphans-retired", reconciled.orphans);
                section.put("gone", reconciled.gone);
                section.put("grants-taken-back", reconciled.grants_taken_back);
            }
            all.put_section(&info.name, section);
        }
        all
    }
}

/// The SA cache of an earlier process.
fn take_over(fd: OwnedFd) -> Option<CacheWriter> {
    match CacheWriter::take_over(fd) {
        Ok(cache) => {
            let recovery = cache.recovery();
            tracing::info!(
                sas = recovery.live.len(),
                abandoned = recovery.abandoned,
                corrupt = recovery.corrupt,
                "SA cache of an earlier process taken over"
            );
            Some(cache)
        }
        Err(error) => {
            tracing::warn!(%error, "the SA cache of an earlier process is of no use");
            None
        }
    }
}

/// Goes on with the card, or opens it; which of both.
fn open_card(
    address: &DeviceAddress,
    kept: Vec<(String, OwnedFd)>,
) -> Result<(Card, bool), DeviceError> {
    if !kept.is_empty() {
        match driver::attach(address, kept) {
            Ok(card) => {
                tracing::info!(%address, "the accelerator was never let go of");
                return Ok((Card::Ipa(card), true));
            }
            Err(error) => {
                tracing::warn!(%error, "the accelerator is opened anew");
                // Whoever holds it keeps others out, until word of this has come there.
                forget_card();
                let begun = Instant::now();
                loop {
                    match driver::open_card(address) {
                        Ok(card) => return Ok((card, false)),
                        Err(_) if begun.elapsed() < PARTING => std::thread::sleep(WATCH),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
    Ok((driver::open_card(address)?, false))
}

/// Has the service manager let go of the card.
fn forget_card() {
    for name in driver::kept_names() {
        kept::forget(name);
    }
}

/// Notices a lost device without traffic, and brings it back.
fn keep(failover: &Failover, stop: &AtomicBool) {
    let mut wait = RETRY.start;
    let mut next = Instant::now();
    let mut compared = Instant::now();
    while !stop.load(Ordering::Acquire) {
        let is_watched = failover.primary().is_some();
        std::thread::sleep(if is_watched { WATCH } else { REST });
        failover.tick();
        if !is_watched {
            continue;
        }
        if compared.elapsed() >= RECONCILE {
            compared = Instant::now();
            // A device that fails at it is noticed anyway.
            let _ = failover.reconcile();
        }
        if failover.device_up() {
            wait = RETRY.start;
            next = Instant::now() + wait;
        } else if Instant::now() >= next {
            if let Err(error) = failover.try_return() {
                tracing::debug!(%error, "accelerator is not back yet");
                wait = (wait * 2).min(RETRY.end);
            }
            next = Instant::now() + wait;
        }
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}
