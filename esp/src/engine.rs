// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The software engine: the offload contract on this host's processors.
//!
//! A burst is done when its [`kick`](QueuePair::kick) returns. Sequence numbers and replay checks
//! are taken in order under each SA's lock; the cryptography between them runs on all cores when the
//! burst is large enough to pay for waking them.

mod helpers;
mod queue;
mod tally;
mod totals;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use esp_aead::select::{self, State};
use esp_aead::{Algorithm, Engine, cbc};
use esp_framing::table;

use offload_api::capability::{Capabilities, Features};
use offload_api::device::{Accelerator, AcceleratorInfo, Counters, Health};
use offload_api::error::{DeviceError, InstallError, OpenQueueError, SaError};
use offload_api::event::Event;
use offload_api::frame::FramePool;
use offload_api::queue::{QueueConfig, QueuePair};
use offload_api::replay::WINDOW_MAX;
use offload_api::sa::{Amend, SaHandle, SaParams, SaUsage, Suite};

use crate::sa_transform::SaTransform;
use helpers::Helpers;
use tally::Tallies;

/// Largest packet, as a frame holds it.
pub(crate) const MAX_PACKET: usize = 1 << 16;
/// Frames that a packet may lie in: as many as cards take.
pub(crate) const MAX_GATHER: usize = 16;

/// Software ESP and AH behind the offload contract. Cloning shares it.
#[derive(Clone)]
pub struct SoftwareEngine {
    shared: Arc<Shared>,
}

/// Where the engine's time comes from.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// How the engine is set up.
#[derive(Clone)]
pub struct SoftwareConfig {
    /// Threads for large bursts, the caller's among them; 0 is one for each core.
    pub threads: usize,
    /// How long each of them but the caller's stays awake for the next large burst, as long as such come so soon: one
    /// that sleeps comes tens of microseconds late. By default none does: it takes a processor all that time.
    pub busy_poll: Duration,
    /// SAs that it holds.
    pub max_sas: u32,
    /// For lifetimes.
    pub clock: Clock,
}

impl Default for SoftwareConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            busy_poll: Duration::ZERO,
            max_sas: 1 << 20,
            clock: Arc::new(Instant::now),
        }
    }
}

/// The engine's SAs.
type Table = table::Table<SaTransform>;

pub(crate) struct Shared {
    capabilities: Capabilities,
    /// A burst holds it for reading from start to end, so that a retired SA is in no burst. Each thread takes a lock of
    /// its own for that: one that all write to would cost two cores a fifth of what they do.
    table: ShardedLock<Table>,
    events: Mutex<Vec<Event>>,
    tallies: Tallies,
    /// Threads that help the caller's with large bursts.
    helpers: Option<Helpers>,
    clock: Clock,
}

/// A lock that goes on after a panic elsewhere: each holder leaves its data whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SoftwareEngine {
    /// An engine with its own threads.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn new(config: SoftwareConfig) -> Result<Self, DeviceError> {
        let threads = match config.threads {
            0 => available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let helpers = match threads - 1 {
            0 => None,
            count => Some(Helpers::start(count, config.busy_poll)?),
        };
        let capabilities = Capabilities {
            suites: Suite::all()
                .chain(Suite::all_ah())
                .chain(Suite::further())
                .collect(),
            features: Features::ESN
                | Features::TUNNEL
                | Features::TRANSPORT
                | Features::OUTER_HEADERS
                | Features::OUTER_IPV6
                | Features::UDP_ENCAPSULATION
                | Features::EXPLICIT_NUMBERING
                | Features::LIFETIMES
                | Features::CRYPTO
                | Features::TFC_PADDING
                | Features::SOFTWARE,
            replay_window_max: WINDOW_MAX,
            max_sas: config.max_sas,
            max_queues: u16::MAX,
            max_depth: 1 << 16,
            max_packet: MAX_PACKET as u32,
            max_gather: MAX_GATHER as u16,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                capabilities,
                table: ShardedLock::new(Table::new(config.max_sas)),
                events: Mutex::default(),
                tallies: Tallies::default(),
                helpers,
                clock: config.clock,
            }),
        })
    }
}

/// OpenSSL's version, and what runs each AEAD here, and bursts of CBC.
fn firmware() -> String {
    let [a, b, c] = [
        Algorithm::Aes128Gcm,
        Algorithm::Aes256Gcm,
        Algorithm::ChaCha20Poly1305,
    ]
    .map(select::chosen);
    let cbc = match cbc::state(cbc::Hash::Sha256) {
        State::Ready => Engine::IpsecMb,
        _ => Engine::Openssl,
    };
    let openssl = openssl::version::version();
    format!(
        "{openssl}; AES-128-GCM by {a}, AES-256-GCM by {b}, ChaCha20-Poly1305 by {c}, \
         AES-CBC with HMAC-SHA-256 by {cbc}"
    )
}

impl Accelerator for SoftwareEngine {
    fn info(&self) -> AcceleratorInfo {
        AcceleratorInfo {
            name: "software".to_owned(),
            product: "software ESP and AH".to_owned(),
            driver: "esp".to_owned(),
            firmware: firmware(),
        }
    }

    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    fn register_pool(&self, _: &FramePool) -> Result<(), DeviceError> {
        Ok(())
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        config.check(&self.shared.capabilities)?;
        let queue = queue::SoftwareQueue::new(self.shared.clone(), config.depth)?;
        Ok(Box::new(queue))
    }

    fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError> {
        sa.validate()?;
        self.shared.capabilities.check(sa)?;
        let now = (self.shared.clock)();
        let transform = SaTransform::new(sa).map_err(|error| DeviceError::Host {
            what: "setting up the cipher",
            error: error.to_string(),
        })?;
        let handle = self.shared.write_table().insert(transform, sa, now)?;
        self.shared.tallies.sas(|sas| *sas += 1);
        Ok(handle)
    }

    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError> {
        let now = (self.shared.clock)();
        match change {
            Amend::Outer(outer) => {
                let mut table = self.shared.write_table();
                table.entry_mut(sa)?.transform.set_outer(*outer);
            }
            _ => self.shared.read_table().entry(sa)?.amend(change, now)?,
        }
        Ok(())
    }

    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        let usage = self.shared.write_table().remove(sa)?;
        self.shared.tallies.sas(|sas| *sas -= 1);
        Ok(usage)
    }

    fn usage(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        Ok(self.shared.read_table().entry(sa)?.usage())
    }

    fn poll_events(&self, out: &mut Vec<Event>) -> usize {
        let now = (self.shared.clock)();
        let before = out.len();
        out.append(&mut lock(&self.shared.events));
        // Without that lock, which a burst takes while it has an SA's.
        self.shared.read_table().expire(now, out);
        out.len() - before
    }

    fn counters(&self) -> Counters {
        self.shared.tallies.sum()
    }

    fn health(&self) -> Health {
        Health::Ok
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.shared.write_table().clear();
        self.shared.tallies.sas(|sas| *sas = 0);
        Ok(())
    }
}

impl Shared {
    fn read_table(&self) -> ShardedLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_table(&self) -> ShardedLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_tells_what_runs_each_aead() {
        let engine = SoftwareEngine::new(SoftwareConfig::default()).unwrap();
        let firmware = engine.info().firmware;
        for (name, algorithm) in [
            ("AES-128-GCM", Algorithm::Aes128Gcm),
            ("AES-256-GCM", Algorithm::Aes256Gcm),
            ("ChaCha20-Poly1305", Algorithm::ChaCha20Poly1305),
        ] {
            let by = format!("{name} by {}", select::chosen(algorithm));
            assert!(firmware.contains(&by), "{firmware}");
        }
    }
}
