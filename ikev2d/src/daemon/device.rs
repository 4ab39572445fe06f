// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The accelerator behind the failover, and the thread that brings it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use driver::ipa::IpaCard;
use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::cache::CacheWriter;
use offload_api::device::{Accelerator, Health};
use offload_api::failover::{Failover, FailoverConfig};

use crate::config::DeviceSetting;
use crate::vici::message::Section;

/// SAs that the cache holds.
const CACHE: u32 = 1 << 16;
/// Between looks at the device.
const WATCH: Duration = Duration::from_millis(5);
/// Between attempts to bring a lost device back, growing.
const RETRY: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_millis(500);

/// The engines.
pub(crate) struct Devices {
    pub(crate) failover: Failover,
    /// The card itself, under its failover.
    card: Option<Arc<IpaCard>>,
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

impl Devices {
    /// Opens the configured device and the software engine.
    pub(crate) fn open(setting: &DeviceSetting, config: FailoverConfig) -> anyhow::Result<Self> {
        let software = SoftwareEngine::new(SoftwareConfig::default())?;
        let cache = CacheWriter::create("esplanade-sa-cache", CACHE)?;
        let card = match setting {
            DeviceSetting::Software => None,
            DeviceSetting::Card(address) => {
                let card = driver::open(address).with_context(|| {
                    format!("accelerator {address} (use device = \"software\" to go without)")
                })?;
                let info = card.info();
                tracing::info!(
                    name = info.name,
                    product = info.product,
                    firmware = info.firmware,
                    "accelerator opened"
                );
                Some(card)
            }
        };
        let primary = card.clone().map(|card| card as Arc<dyn Accelerator>);
        let failover = Failover::new(primary, Arc::new(software), Arc::new(cache), config);
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (failover.clone(), stop.clone());
        let keeper = std::thread::Builder::new()
            .name("device-keeper".to_owned())
            .spawn(move || keep(&kept, &stopped))?;
        Ok(Self {
            failover,
            card,
            stop,
            keeper: Some(keeper),
        })
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
    pub(crate) fn card(&self, name: Option<&str>) -> Result<Arc<IpaCard>, String> {
        let card = self
            .card
            .as_ref()
            .ok_or("there is no card, only software")?;
        match name {
            Some(name) if name != card.info().name => {
                Err(format!("no card {name:?}; there is {:?}", card.info().name))
            }
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
            }
            all.put_section(&info.name, section);
        }
        all
    }
}

/// Notices a lost device without traffic, and brings it back.
fn keep(failover: &Failover, stop: &AtomicBool) {
    let mut wait = RETRY.start;
    let mut next = Instant::now();
    while !stop.load(Ordering::Acquire) {
        std::thread::sleep(WATCH);
        failover.tick();
        if failover.primary().is_none() {
            continue;
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
